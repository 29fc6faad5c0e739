#include "common/net/tcp_stream.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

namespace ebb::net {

TcpStream::TcpStream(UvLoop& loop, Fd socket) : Stream(loop), uv_(loop), socket_(std::move(socket)) {
  watched_ = socket_ && uv_.add(socket_.get(), *this);
  // Readiness is learnt from the first edge, which epoll reports at once for whatever holds already.
  if (!watched_) set_ready(kRead | kWrite);
}

TcpStream::~TcpStream() { forget(); }

void TcpStream::forget() {
  if (watched_) uv_.remove(socket_.get(), *this);
  watched_ = false;
}

void TcpStream::on_events(std::uint32_t events) {
  std::uint8_t bits = 0;
  if ((events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) bits |= kRead;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) bits |= kWrite;
  if ((events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
    ending_ = true;  // recv() also stops at urgent data
  set_ready(bits);
}

IoResult TcpStream::read(MutSpan into) {
  if (!socket_) return {IoResult::Kind::error, 0, EBADF};
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), into.data(), into.size(), 0);
    if (n > 0) {
      // A short read emptied the socket and whatever comes later is a new edge, unless the end is there already.
      if (static_cast<std::size_t>(n) < into.size() && !ending_) clear_ready(kRead);
      return {IoResult::Kind::ok, static_cast<std::size_t>(n), 0};
    }
    if (n == 0) return {IoResult::Kind::end, 0, 0};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      clear_ready(kRead);
      return {IoResult::Kind::would_block, 0, 0};
    }
    return {IoResult::Kind::error, 0, errno};
  }
}

IoResult TcpStream::write(std::span<const iovec> pieces) {
  if (!socket_) return {IoResult::Kind::error, 0, EBADF};
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  for (;;) {
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (n >= 0) return {IoResult::Kind::ok, static_cast<std::size_t>(n), 0};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      clear_ready(kWrite);
      return {IoResult::Kind::would_block, 0, 0};
    }
    return {IoResult::Kind::error, 0, errno};
  }
}

void TcpStream::shutdown_write() {
  if (socket_) ::shutdown(socket_.get(), SHUT_WR);
}

void TcpStream::reset() {
  if (!socket_) return;
  forget();
  const linger now{1, 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  socket_.reset();
  set_ready(kRead | kWrite);
}

std::optional<Endpoint> TcpStream::peer() const {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  if (::getpeername(socket_.get(), address, &length) != 0) return std::nullopt;
  return endpoint_from(address);
}

std::size_t TcpStream::undelivered() const {
  int bytes = 0;
  return socket_ && ::ioctl(socket_.get(), SIOCOUTQ, &bytes) == 0 ? static_cast<std::size_t>(bytes) : 0;
}

std::optional<PathInfo> TcpStream::path() const { return socket_ ? path_info(socket_.get()) : std::nullopt; }

Fd TcpStream::release() {
  forget();
  return std::move(socket_);
}

void tune_socket(int fd, std::chrono::milliseconds dead_after) {
  const int on = 1;
  const int idle_s = 60;
  const int interval_s = 15;
  const auto timeout_ms = static_cast<unsigned>(dead_after.count());
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

}  // namespace ebb::net
