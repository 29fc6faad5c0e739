#include "supervisor/admin/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "common/base/fd.h"

namespace ebb::supervisor::admin {

constexpr std::size_t kMaxReply = 64u << 20;

Result<std::string> ask(const std::string& socket_path, std::string_view line, std::chrono::milliseconds limit) {
  const auto fail = [&](Errc code, const std::string& what) { return std::unexpected(Error{code, what, socket_path}); };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) return fail(Errc::os, std::strerror(ENAMETOOLONG));
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const bool nobody = errno == ENOENT || errno == ECONNREFUSED;
    return fail(nobody ? Errc::refused : Errc::os, nobody ? "no ebbgate is running there" : std::strerror(errno));
  }
  const std::string request = std::string(line) + "\n";
  for (std::size_t sent = 0; sent < request.size();) {
    const auto n = ::send(socket.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(Errc::os, std::strerror(errno));
    sent += static_cast<std::size_t>(n);
  }
  std::string reply;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd waiting{socket.get(), POLLIN, 0};
    if (left <= 0 || ::poll(&waiting, 1, static_cast<int>(left)) == 0) return fail(Errc::timeout, "no answer in time");
    char chunk[16 * 1024];
    const auto n = ::recv(socket.get(), chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return fail(Errc::os, std::strerror(errno));
    if (n == 0) break;
    reply.append(chunk, static_cast<std::size_t>(n));
    if (reply.size() > kMaxReply) return fail(Errc::protocol, "the answer is too long");
  }
  if (reply.empty()) return fail(Errc::closed, "the connection ended without an answer");
  return reply;
}

}  // namespace ebb::supervisor::admin
