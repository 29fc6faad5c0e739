#include "common/net/udp_socket.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

namespace ebb::net {
namespace {

constexpr std::size_t kRoom = 65536;  // bytes per datagram of a batch: none can be longer

/// A control message with our address for either family.
struct alignas(cmsghdr) Control {
  std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> bytes;
};

/// One read's buffers, for every socket of a thread: 2 MiB of addresses, of which small datagrams touch one page each.
struct Inbox {
  std::unique_ptr<std::uint8_t[]> bytes = std::make_unique_for_overwrite<std::uint8_t[]>(kRoom * UdpSocket::kBatch);
  std::array<mmsghdr, UdpSocket::kBatch> messages{};
  std::array<iovec, UdpSocket::kBatch> pieces{};
  std::array<sockaddr_storage, UdpSocket::kBatch> names{};
  std::array<Control, UdpSocket::kBatch> controls{};

  void prepare() {
    for (std::size_t i = 0; i < UdpSocket::kBatch; ++i) {
      pieces[i] = {bytes.get() + i * kRoom, kRoom};
      msghdr& header = messages[i].msg_hdr;
      header = {};
      header.msg_name = &names[i];
      header.msg_namelen = sizeof names[i];
      header.msg_iov = &pieces[i];
      header.msg_iovlen = 1;
      header.msg_control = controls[i].bytes.data();
      header.msg_controllen = controls[i].bytes.size();
    }
  }
};

Inbox& inbox() {
  thread_local Inbox box;
  return box;
}

std::optional<IpAddress> local_of(msghdr& header) {
  for (cmsghdr* each = CMSG_FIRSTHDR(&header); each != nullptr; each = CMSG_NXTHDR(&header, each)) {
    if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_PKTINFO) {
      in_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(each), sizeof info);
      std::array<std::uint8_t, 4> octets{};
      std::memcpy(octets.data(), &info.ipi_spec_dst, 4);
      return IpAddress::from_v4(octets);
    }
    if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(each), sizeof info);
      std::array<std::uint8_t, 16> octets{};
      std::memcpy(octets.data(), &info.ipi6_addr, 16);
      return IpAddress::from_v6(octets);
    }
  }
  return std::nullopt;
}

/// Fills a message to send; everything it points at must outlive the call that sends it.
void address(msghdr& header, sockaddr_storage& name, Control& control, iovec& piece, const Endpoint& to,
             const IpAddress* local) {
  header = {};
  header.msg_name = &name;
  header.msg_namelen = endpoint_to(to, name);
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  if (local == nullptr || local->v6 != to.ip.v6) return;
  header.msg_control = control.bytes.data();
  control.bytes.fill(0);
  auto* message = reinterpret_cast<cmsghdr*>(control.bytes.data());
  if (local->v6) {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, local->bytes.data(), 16);
    message->cmsg_level = IPPROTO_IPV6;
    message->cmsg_type = IPV6_PKTINFO;
    message->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(message), &info, sizeof info);
    header.msg_controllen = CMSG_SPACE(sizeof info);
  } else {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, local->bytes.data(), 4);
    message->cmsg_level = IPPROTO_IP;
    message->cmsg_type = IP_PKTINFO;
    message->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(message), &info, sizeof info);
    header.msg_controllen = CMSG_SPACE(sizeof info);
  }
}

}  // namespace

struct UdpSocket::Out {
  static constexpr std::size_t kBytes = 128 * 1024;  // one batch of full-size frames, or two of the largest datagrams

  std::array<std::uint8_t, kBytes> bytes;
  std::size_t used = 0;
  std::array<mmsghdr, kBatch> messages{};
  std::array<iovec, kBatch> pieces{};
  std::array<sockaddr_storage, kBatch> names{};
  std::array<Control, kBatch> controls{};
  unsigned count = 0;
};

Result<Fd> UdpSocket::bind(const Endpoint& address) {
  Fd fd(::socket(address.ip.v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!fd) return std::unexpected(Error{Errc::os, std::strerror(errno), "UDP socket"});
  sockaddr_storage storage{};
  const auto size = endpoint_to(address, storage);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&storage), size) != 0) {
    return std::unexpected(Error{Errc::os, std::strerror(errno), "UDP socket at " + address.text()});
  }
  return fd;
}

void UdpSocket::widen_buffers(int fd, int bytes) {
  // FORCE needs CAP_NET_ADMIN and passes net.core.rmem_max; without it the kernel gives what it may.
  for (const auto& [force, plain] : {std::pair{SO_RCVBUFFORCE, SO_RCVBUF}, {SO_SNDBUFFORCE, SO_SNDBUF}}) {
    if (::setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof bytes) == 0) continue;
    ::setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes);
  }
}

void UdpSocket::tell_local_address(int fd, bool v6) {
  const int on = 1;
  v6 ? ::setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on)
     : ::setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
}

std::unique_ptr<UdpSocket> UdpSocket::make(UvLoop& loop, Fd socket, UdpObserver& observer) {
  std::unique_ptr<UdpSocket> made(new UdpSocket(loop, std::move(socket), observer));
  made->poll_ = Poll::make(loop, made->socket_.get(), [self = made.get()](bool, bool) { self->read_some(); });
  if (made->poll_ == nullptr) return nullptr;
  return made;
}

UdpSocket::UdpSocket(UvLoop& loop, Fd socket, UdpObserver& observer)
    : loop_(loop),
      socket_(std::move(socket)),
      observer_(observer),
      flush_later_([](void* self) { static_cast<UdpSocket*>(self)->flush(); }, this) {}

UdpSocket::~UdpSocket() { close(); }

void UdpSocket::close() {
  if (std::exchange(closed_, true)) return;
  flush_later_.cancel();
  poll_.reset();  // before its descriptor
  socket_.reset();
  out_.reset();
}

void UdpSocket::watch(bool reading) {
  if (!closed_) poll_->watch(reading, false);
}

void UdpSocket::read_some() {
  Inbox& box = inbox();
  for (unsigned turn = 0; turn < kBatchesPerTurn && !closed_; ++turn) {
    box.prepare();
    const int got = ::recvmmsg(socket_.get(), box.messages.data(), kBatch, 0, nullptr);
    // An error of an earlier send (ICMP) is told once here; datagrams may wait behind it.
    if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK) continue;
    if (got <= 0) break;
    for (std::size_t i = 0; i < static_cast<std::size_t>(got) && !closed_; ++i) {
      msghdr& header = box.messages[i].msg_hdr;
      const auto from = endpoint_from(static_cast<const sockaddr*>(header.msg_name));
      if (!from) continue;
      ++counters_.received;
      const auto local = local_of(header);
      observer_.on_datagram({static_cast<std::uint8_t*>(box.pieces[i].iov_base), box.messages[i].msg_len}, *from,
                            local ? &*local : nullptr);
    }
    if (got < static_cast<int>(kBatch)) break;
  }
  if (!closed_) observer_.on_datagrams_end();
}

bool UdpSocket::send(ConstSpan datagram, const Endpoint& to, const IpAddress* local) {
  if (closed_) return false;
  iovec piece{const_cast<std::uint8_t*>(datagram.data()), datagram.size()};
  sockaddr_storage name{};
  Control control{};
  msghdr header{};
  address(header, name, control, piece, to, local);
  // A queued ICMP error of an earlier datagram fails one call without sending: this datagram is not to blame.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL) >= 0) {
      ++counters_.sent;
      return true;
    }
    if (errno != ECONNREFUSED && errno != EHOSTUNREACH && errno != ENETUNREACH) break;
  }
  ++counters_.dropped;
  return false;
}

void UdpSocket::send_later(ConstSpan datagram, const Endpoint& to, const IpAddress* local) {
  if (closed_) return;
  if (datagram.size() > kMaxDatagram) {
    ++counters_.dropped;
    return;
  }
  if (!out_) out_ = std::make_unique<Out>();
  Out& out = *out_;
  if (out.count == kBatch || out.used + datagram.size() > Out::kBytes) flush();
  // Copied: the bytes are their reader's and gone after this call. It costs 20 to 100 ns, a system call of its own 700.
  std::uint8_t* at = out.bytes.data() + out.used;
  if (!datagram.empty()) std::memcpy(at, datagram.data(), datagram.size());
  out.used += datagram.size();
  const std::size_t i = out.count++;
  out.pieces[i] = {at, datagram.size()};
  address(out.messages[i].msg_hdr, out.names[i], out.controls[i], out.pieces[i], to, local);
  loop_.defer(flush_later_);
}

void UdpSocket::flush() {
  flush_later_.cancel();
  if (closed_ || !out_) return;
  Out& out = *out_;
  for (unsigned done = 0; done < out.count;) {
    const int sent = ::sendmmsg(socket_.get(), &out.messages[done], out.count - done, MSG_NOSIGNAL);
    if (sent > 0) {
      done += static_cast<unsigned>(sent);
      counters_.sent += static_cast<unsigned>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      counters_.dropped += out.count - done;  // the kernel is full: so it would be for the rest
      break;
    } else {
      ++counters_.dropped;  // this one alone: an address that cannot be reached
      ++done;
    }
  }
  out.count = 0;
  out.used = 0;
}

}  // namespace ebb::net
