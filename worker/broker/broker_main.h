// Entry of role broker.
#pragma once

#include "common/base/fd.h"

namespace ebb::broker {

/// Runs a broker on its ctl link until the supervisor ends it; returns the exit status. `adoption`: a listening
/// socket for the next supervisor, when this one dies (ipc/child.h).
int run_broker(Fd ctl, Fd adoption = {});

}  // namespace ebb::broker
