#include "worker/edge/record.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>

namespace ebb::edge {
namespace {

std::optional<Endpoint> local_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return std::nullopt;
  return endpoint_from(reinterpret_cast<sockaddr*>(&storage));
}

}  // namespace

ipc::OfferRecord record_of(const Request& request, int fd) {
  ipc::OfferRecord out;
  out.accepted_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(request.accepted.time_since_epoch()).count());
  socklen_t length = sizeof out.cookie;
  ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &out.cookie, &length);
  out.inbound = static_cast<std::uint16_t>(request.inbound->index);
  if (request.user) out.user = static_cast<std::uint32_t>(*request.user);
  out.family = static_cast<std::uint8_t>(request.source.ip.v6 ? AF_INET6 : AF_INET);
  out.peer = request.source.ip.as_v6();
  out.peer_port = request.source.port;
  const auto local = request.local ? request.local : local_of(fd);
  if (local) {
    out.local = local->ip.as_v6();
    out.local_port = local->port;
  }
  return out;
}

}  // namespace ebb::edge
