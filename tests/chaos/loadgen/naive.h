// A server that restarts as most do: every generation opens its own SO_REUSEPORT sockets and closes them when the next
// one is up. What waits in a closed socket's queue is reset. A harness that sees no loss here proves nothing.
#pragma once

#include <cstdint>

namespace ebb::loadgen {

/// Serves `port` with `workers` processes per generation, a new generation every `generation_ms`, until stdin says
/// stop. Prints {"generations": n} at its end. The exit status.
int run_naive_server(std::uint16_t port, int workers, int generation_ms);

}  // namespace ebb::loadgen
