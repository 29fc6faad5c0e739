// Entry of role worker.
#pragma once

#include "common/base/fd.h"

namespace ebb::edge {

/// Runs a worker on its ctl link until the supervisor ends it; returns the exit status: 0 after a drain, 1 when it
/// cannot go on. `adoption`: a listening socket for the next supervisor, when this one dies (ipc/child.h).
int run_worker(Fd ctl, Fd adoption = {});

}  // namespace ebb::edge
