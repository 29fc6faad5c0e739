// Visitors who said who they are: a configuration without them ends what they have, and so does whoever kicks them.
#pragma once

#include "worker/broker/generation_tables.h"
#include "worker/relay/roster.h"

namespace ebb::broker {

using Visitors = relay::Roster<Person>;
/// The client side of such a visitor's relay.
using Visitor = relay::Listed<Person>;

}  // namespace ebb::broker
