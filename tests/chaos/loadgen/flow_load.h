// UDP flows: clients that each send from an address of their own and count what comes back, and the origin that echoes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/chaos/loadgen/sockets.h"

namespace ebb::loadgen {

struct FlowOptions {
  std::size_t flows = 100;
  double rate = 1000;  // datagrams a second, of all flows together; each is answered
  double seconds = 10;
  std::size_t bytes = 200;  // of a datagram, at least 24
};

/// Sends, one flow after the other, then waits for the last answers. Prints a result: sent, answered, disordered (an
/// answer behind a later one of its flow), doubled, foreign (somebody else's answer), most_silent_us. 0, or 1 when
/// sockets cannot be had.
int run_flow_load(const FlowOptions& options, const Target& target);

/// Echoes every datagram until standard input ends. Prints a result: received, peers.
int run_udp_origin(std::uint16_t port);

}  // namespace ebb::loadgen
