#include "ipc/channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace ebb::ipc {
namespace {

constexpr std::size_t kBufferBytes = sizeof(Header) + kMaxBody;
constexpr int kSendBufferBytes = 1 << 20;  // a sleeping reader then holds up nobody for over 1,000 offers (spec 5)

/// Owns every fd in a received control message; over-long or foreign ones are closed with the vector.
std::vector<Fd> take_fds(msghdr& message) {
  std::vector<Fd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    fds.reserve(fds.size() + count);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Channel::Channel(Fd fd, Link link, Role self, Role peer, Options options)
    : fd_(std::move(fd)),
      options_(std::move(options)),
      in_(link, peer),
      out_(link, self),
      buffer_(std::make_unique<std::uint64_t[]>(kBufferBytes / sizeof(std::uint64_t))) {}

void Channel::close() {
  fd_.reset();
  forget_queue();
}

void Channel::forget_queue() {
  queue_.clear();
  queued_bytes_ = queued_fds_ = 0;
  blocked_ = Blocked::no;
}

Header Channel::make_header(Type type, ConstSpan body, std::size_t nfds, std::uint8_t nrec, std::uint8_t extra) const {
  Header header;
  header.flags = static_cast<std::uint8_t>(flags::critical | extra);
  header.type = static_cast<std::uint16_t>(type);
  header.nfds = static_cast<std::uint8_t>(nfds);
  header.nrec = nrec;
  header.seq = out_.next_seq();
  header.body_len = static_cast<std::uint32_t>(body.size());
  return header;
}

/// One sendmsg. `full` sets blocked_.
Sent Channel::push(const Header& header, ConstSpan body, std::span<const int> fds) {
  std::array<iovec, 2> parts{
      {{const_cast<Header*>(&header), sizeof header}, {const_cast<std::uint8_t*>(body.data()), body.size()}}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = body.empty() ? 1 : 2;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    std::memset(control.data(), 0, message.msg_controllen);
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  for (;;) {
    if (::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return Sent::sent;
    switch (errno) {
      case EINTR: continue;
      case ETOOMANYREFS: blocked_ = Blocked::refs; return Sent::full;
      case EAGAIN:
      case ENOBUFS:
      case ENOMEM: blocked_ = Blocked::buffer; return Sent::full;
      case EBADF: return Sent::illegal;  // an fd of the caller's; our own was checked
      default:                           // EPIPE, ECONNRESET, ENOTCONN: nobody will ever read this
        send_dead_ = true;
        queue_.clear();
        queued_bytes_ = queued_fds_ = 0;
        return Sent::dead;
    }
  }
}

bool Channel::enqueue(const Header& header, ConstSpan body, std::span<const int> fds) {
  if (queue_.size() + 1 > options_.max_queued_messages || queued_bytes_ + body.size() > options_.max_queued_bytes ||
      queued_fds_ + fds.size() > options_.max_queued_fds) {
    return false;
  }
  Queued item{header, Bytes(body.begin(), body.end()), {}};
  item.fds.reserve(fds.size());
  for (int fd : fds) {
    item.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!item.fds.back()) return false;
  }
  queued_bytes_ += body.size();
  queued_fds_ += fds.size();
  queue_.push_back(std::move(item));
  return true;
}

Sent Channel::try_send(Type type, ConstSpan body, std::span<const int> fds, std::uint8_t nrec) {
  if (!open() || send_dead_) return Sent::dead;
  if (fds.size() > kMaxFds) return Sent::illegal;
  const Header header = make_header(type, body, fds.size(), nrec, 0);
  if (out_.check(header, body) != FaultCode::none) return Sent::illegal;
  if (!queue_.empty()) return Sent::full;
  const Sent sent = push(header, body, fds);
  if (sent == Sent::sent) {
    blocked_ = Blocked::no;
    out_.accept(header, body);
  }
  return sent;
}

Sent Channel::send(Type type, ConstSpan body, std::span<const int> fds, std::uint8_t nrec, std::uint8_t extra_flags) {
  if (!open() || send_dead_) return Sent::dead;
  if (fds.size() > kMaxFds) return Sent::illegal;
  const Header header = make_header(type, body, fds.size(), nrec, extra_flags);
  if (out_.check(header, body) != FaultCode::none) return Sent::illegal;
  Sent sent = queue_.empty() ? push(header, body, fds) : Sent::full;
  if (sent == Sent::sent) blocked_ = Blocked::no;
  if (sent == Sent::full && enqueue(header, body, fds)) sent = Sent::queued;
  if (sent == Sent::sent || sent == Sent::queued) out_.accept(header, body);
  return sent;
}

Sent Channel::send_long_text(Type type, std::string_view text) {
  const std::size_t parts = std::max<std::size_t>(1, (text.size() + kMaxBody - 1) / kMaxBody);
  if (parts > kMaxParts) return Sent::illegal;
  // All or nothing: a half-sent chain would block every later message of this direction.
  if (queue_.size() + parts > options_.max_queued_messages || queued_bytes_ + text.size() > options_.max_queued_bytes) {
    return Sent::full;
  }
  Sent sent = Sent::sent;
  for (std::size_t i = 0; i < parts; ++i) {
    const bool last = i + 1 == parts;
    sent = send(type, as_bytes(text.substr(i * kMaxBody, kMaxBody)), {}, 0, last ? 0 : flags::more);
    if (sent == Sent::dead || sent == Sent::illegal) return sent;
  }
  return sent;
}

void Channel::send_fault(FaultCode code, std::string_view text) {
  if (!open()) return;
  forget_queue();  // nothing we still had to say matters to a peer we hang up on; the sequence gap tells it so too
  send_body(Type::fault, Fault{code, 0}, {}, text.substr(0, kMaxFaultText));
  forget_queue();
  fault_ = code;
  ::shutdown(fd_.get(), SHUT_RDWR);
}

void Channel::on_writable() {
  if (!open() || send_dead_) return;
  blocked_ = Blocked::no;
  std::vector<int> raw;
  while (!queue_.empty()) {
    Queued& item = queue_.front();
    raw.clear();
    for (const Fd& fd : item.fds) raw.push_back(fd.get());
    if (push(item.header, item.body, raw) != Sent::sent) return;
    queued_bytes_ -= item.body.size();
    queued_fds_ -= item.fds.size();
    queue_.pop_front();
  }
}

std::optional<Message> Channel::fail(ReadEnd& end, FaultCode code) {
  send_fault(code, name_of(code));
  end = ReadEnd::fault;
  return std::nullopt;
}

std::optional<Message> Channel::next(ReadEnd& end) {
  if (!open()) {
    end = fault_ == FaultCode::none ? ReadEnd::eof : ReadEnd::fault;
    return std::nullopt;
  }
  auto* bytes = reinterpret_cast<std::uint8_t*>(buffer_.get());
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
  // Every round that does not return has consumed a message or one pending socket error: a bound for both.
  for (std::size_t rounds = 0; rounds < options_.messages_per_read; ++rounds) {
    if (options_.fds_to_spare && !options_.fds_to_spare()) {
      end = ReadEnd::starved;
      return std::nullopt;
    }
    iovec part{bytes, kBufferBytes};
    msghdr raw{};
    raw.msg_iov = &part;
    raw.msg_iovlen = 1;
    raw.msg_control = control.data();
    raw.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(fd_.get(), &raw, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == ECONNRESET) {  // the peer is dead, and its messages come after this error (13.3)
        send_dead_ = true;
        continue;
      }
      // Out of kernel memory is no end either: a false end would let an offer be made twice (7.1).
      end = errno == EAGAIN || errno == ENOMEM || errno == ENOBUFS ? ReadEnd::drained : ReadEnd::eof;
      return std::nullopt;
    }
    if (got == 0) {
      send_dead_ = true;
      end = ReadEnd::eof;
      return std::nullopt;
    }
    Message message;
    message.fds = take_fds(raw);
    const auto size = static_cast<std::size_t>(got);
    if (raw.msg_flags & MSG_TRUNC || size < sizeof(Header)) return fail(end, FaultCode::bad_length);
    std::memcpy(&message.header, bytes, sizeof(Header));
    message.body = ConstSpan(bytes + sizeof(Header), size - sizeof(Header));
    bool known = false;
    if (const FaultCode code = in_.accept(message.header, message.body, &known); code != FaultCode::none) {
      return fail(end, code);
    }
    if (!known) continue;
    if (raw.msg_flags & MSG_CTRUNC || message.fds.size() != message.header.nfds) {
      message.fds.clear();
      message.fds_lost = true;
      if (message.type() != Type::offer) return fail(end, FaultCode::bad_fds);
    }
    return message;
  }
  end = ReadEnd::busy;
  return std::nullopt;
}

Result<std::pair<Fd, Fd>> pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return std::unexpected(Error{Errc::os, "socketpair: " + std::generic_category().message(errno), {}});
  }
  std::pair<Fd, Fd> both{Fd(ends[0]), Fd(ends[1])};
  widen_send_buffer(ends[0]);
  widen_send_buffer(ends[1]);
  return both;
}

void widen_send_buffer(int fd) {
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSendBufferBytes, sizeof kSendBufferBytes) != 0) {
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
  }
}

std::optional<unsigned> peer_uid(int fd) {
  ucred who{};
  socklen_t size = sizeof who;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || size != sizeof who) return std::nullopt;
  if (who.uid == static_cast<uid_t>(-1)) return std::nullopt;  // not connected
  return who.uid;
}

}  // namespace ebb::ipc
