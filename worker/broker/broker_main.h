// Entry of role broker.
#pragma once

#include "common/base/fd.h"

namespace ebb::broker {

/// Runs a broker on its ctl link until the supervisor ends it; returns the exit status.
int run_broker(Fd ctl);

}  // namespace ebb::broker
