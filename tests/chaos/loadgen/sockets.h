// Sockets of the load generator: non-blocking, with a source address of their own.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/fd.h"

namespace ebb::loadgen {

struct Target {
  std::string text;  // as given: "127.0.0.1:8080", "[::1]:8080"
  sockaddr_storage address{};
  socklen_t length = 0;
};

/// IPv4 or bracketed IPv6 literal and a port; nothing when it is neither.
std::optional<Target> parse_target(std::string_view text);

/// A connection under way. Source: IPv4 an address of 127.0.0.0/8 derived from `number`, IPv6 whatever the kernel
/// takes. On failure the descriptor is empty and errno says why.
Fd dial(const Target& target, std::uint64_t number);

/// Listens on 127.0.0.1 and, where there is IPv6, ::1 (`v6`). Ends the program with a message when the port is taken.
Fd listen_on(std::uint16_t port, bool v6, bool reuse_port);

/// "127.3.2.1:40000": to be found again in logs and captures. "" when the socket has no name.
std::string local_name(int fd);

/// Closes with RST, so that nothing stays in TIME_WAIT.
void reset(Fd& fd);

}  // namespace ebb::loadgen
