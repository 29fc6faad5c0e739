#include "supervisor/slots/slots.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <fstream>
#include <utility>

namespace ebb::supervisor {
namespace {

std::string why_not(const Listener& listener, int code) {
  const std::string text = listener.name() + ": ";
  switch (code) {
    case EADDRINUSE: {
      const auto owner = find_port_owner(listener.address, listener.network);
      if (!owner) return text + "the port is in use by another process";
      return text + "the port is in use by process " + std::to_string(owner->pid) + " (" + owner->command + ")";
    }
    case EACCES: {
      unsigned first = 1024;
      std::ifstream("/proc/sys/net/ipv4/ip_unprivileged_port_start") >> first;
      return text + "permission denied: ports below " + std::to_string(first) +
             " need root or CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE; by hand: setcap "
             "cap_net_bind_service=+ep on the binary)";
    }
    case EADDRNOTAVAIL: return text + "this machine has no such address; write one it has, or 0.0.0.0 for all";
    case EAFNOSUPPORT: return text + "IPv6 is not available here";
    default: return text + ::strerror(code);
  }
}

/// A socket bound to `address`; `shared` puts it into the SO_REUSEPORT group. On failure the Fd is empty, errno says
/// why.
Fd bound_socket(const Endpoint& address, Network network, bool shared) {
  const bool udp = network == Network::udp;
  Fd fd(::socket(address.ip.v6 ? AF_INET6 : AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC,
                 udp ? IPPROTO_UDP : IPPROTO_TCP));
  if (!fd) return fd;
  const int on = 1;
  // UDP knows no TIME_WAIT, and two sockets with SO_REUSEADDR would share a port whoever made them.
  if (!udp) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (shared) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (address.ip.v6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  sockaddr_storage storage{};
  const auto size = endpoint_to(address, storage);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&storage), size) != 0) {
    const int code = errno;
    fd.reset();
    errno = code;
  }
  return fd;
}

/// 0 when its address can be ours alone, else why not.
int probe(const Listener& listener) {
  const Fd fd = bound_socket(listener.address, listener.network, false);
  return fd ? 0 : errno;
}

bool overlap(const Endpoint& a, const Endpoint& b) {
  if (a.port != b.port || a.ip.v6 != b.ip.v6) return false;
  const IpAddress any{a.ip.v6, {}};
  return a.ip == b.ip || a.ip == any || b.ip == any;
}

}  // namespace

std::vector<std::string> overlaps(const std::vector<Listener>& listeners) {
  std::vector<const Listener*> order;  // by port, then as written
  for (const auto& listener : listeners) order.push_back(&listener);
  std::ranges::sort(order, {}, [](const Listener* l) { return std::pair(l->address.port, l); });
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < order.size(); ++i) {
    for (std::size_t k = i; k > 0 && order[k - 1]->address.port == order[i]->address.port; --k) {
      if (order[i]->network != order[k - 1]->network || !overlap(order[i]->address, order[k - 1]->address)) continue;
      problems.push_back(order[i]->name() + ": also wanted by " + order[k - 1]->name() +
                         "; give each its own port or address");
      break;
    }
  }
  return problems;
}

unsigned slots_per_address(unsigned workers, std::size_t addresses, unsigned long open_files) {
  const unsigned wanted = std::min(64u, std::max(8u, 4 * std::min(workers, 64u)));
  if (addresses == 0) return wanted;
  return static_cast<unsigned>(std::clamp<unsigned long>(open_files / 4 / addresses, 1, wanted));
}

std::optional<std::string> bind_address(const Listener& listener, std::uint32_t number, unsigned slots,
                                        std::uint32_t& next_slot,
                                        const std::function<bool(const PortOwner&)>& may_share,
                                        std::vector<Slot>& into) {
  if (const int code = probe(listener); code != 0) {
    const auto owner =
        code == EADDRINUSE && may_share ? find_port_owner(listener.address, listener.network) : std::nullopt;
    if (!owner || !may_share(*owner)) return why_not(listener, code);
  }
  for (unsigned k = 0; k < slots; ++k) {
    Slot slot;
    slot.fd = bound_socket(listener.address, listener.network, true);
    if (!slot.fd) return why_not(listener, errno);
    socklen_t size = sizeof slot.cookie;
    ::getsockopt(slot.fd.get(), SOL_SOCKET, SO_COOKIE, &slot.cookie, &size);
    slot.id = next_slot++;
    slot.listener = number;
    into.push_back(std::move(slot));
  }
  return std::nullopt;
}

Result<> listen_on(const Slot& slot, const Listener& listener) {
  if (listener.network == Network::udp) return {};  // bound is open
  if (::listen(slot.fd.get(), kBacklog) == 0) return {};
  return std::unexpected(Error{Errc::os, why_not(listener, errno), {}});
}

std::optional<Place> listening_place(const Slot& slot) {
  const auto option = [&](int name, auto& value) {
    socklen_t size = sizeof value;
    return ::getsockopt(slot.fd.get(), SOL_SOCKET, name, &value, &size) == 0;
  };
  int listening = 0;
  std::uint64_t cookie = 0;
  int type = 0;
  if (!option(SO_TYPE, type)) return std::nullopt;
  const Network network = type == SOCK_DGRAM ? Network::udp : Network::tcp;
  if (network == Network::tcp && (!option(SO_ACCEPTCONN, listening) || listening == 0)) return std::nullopt;
  if (!option(SO_COOKIE, cookie) || cookie != slot.cookie) return std::nullopt;
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(slot.fd.get(), reinterpret_cast<sockaddr*>(&storage), &size) != 0) return std::nullopt;
  const auto address = endpoint_from(reinterpret_cast<const sockaddr*>(&storage));
  if (!address || (network == Network::udp && address->port == 0)) return std::nullopt;  // it is bound nowhere
  return Place{*address, network};
}

bool is_datagram(const Slot& slot) {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(slot.fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM;
}

void retire(const Slot& slot) {
  if (is_datagram(slot)) return;  // no client waits in it; the broker reads it as long as its inbound is there
  // tcp[13] & 0x12 == 0x02: a SYN without ACK is dropped, everything else passes.
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),          BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, 0xFFFFFFFF),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  ::setsockopt(slot.fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

void restore(const Slot& slot) {
  if (is_datagram(slot)) return;
  const int unused = 0;
  ::setsockopt(slot.fd.get(), SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused);
}

}  // namespace ebb::supervisor
