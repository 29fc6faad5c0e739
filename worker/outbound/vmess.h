// Through a VMess server.
#pragma once

#include "worker/outbound/way.h"

namespace ebb::outbound {

/// `outbound.protocol` is VMess: its servers are used in turn, a user of one at random. Errors: protocol, for a target
/// that a request cannot name.
Result<Way> vmess_way(const config::Outbound& outbound, const Target& target, const WayKit& kit);

}  // namespace ebb::outbound
