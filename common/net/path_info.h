// What the kernel knows of the path of a TCP connection: TCP_INFO, in plain numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/base/time.h"

namespace ebb::net {

struct PathInfo {
  Duration min_rtt{};               // the smallest of the last minutes; zero: not measured yet
  Duration rtt{};                   // smoothed
  std::uint64_t delivery_rate = 0;  // bytes per second at which the peer acknowledged lately; 0: not measured yet
  bool app_limited = false;         // and it could have been more, had we given more
  std::size_t unacked_bytes = 0;    // sent, not acknowledged
  std::size_t notsent_bytes = 0;    // written, not sent
};

/// nullopt: no TCP socket, or a kernel older than 4.9.
std::optional<PathInfo> path_info(int fd);

}  // namespace ebb::net
