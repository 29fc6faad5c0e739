#include "tests/chaos/loadgen/sockets.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ebb::loadgen {

namespace {

constexpr int kOn = 1;
constexpr int kBacklog = 4096;

}  // namespace

std::optional<Target> parse_target(std::string_view text) {
  Target target{.text = std::string(text)};
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::uint16_t port = 0;
  const std::string_view digits = text.substr(colon + 1);
  if (std::from_chars(digits.data(), digits.data() + digits.size(), port).ec != std::errc{} || port == 0) {
    return std::nullopt;
  }
  std::string host(text.substr(0, colon));
  if (host.starts_with('[') && host.ends_with(']')) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&target.address);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    target.length = sizeof *v6;
    if (::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6->sin6_addr) == 1) return target;
    return std::nullopt;
  }
  auto* v4 = reinterpret_cast<sockaddr_in*>(&target.address);
  v4->sin_family = AF_INET;
  v4->sin_port = htons(port);
  target.length = sizeof *v4;
  if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) return target;
  return std::nullopt;
}

Fd dial(const Target& target, std::uint64_t number) {
  const int family = target.address.ss_family;
  Fd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fd;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &kOn, sizeof kOn);
  if (family == AF_INET) {  // 127.1.0.1 ... 127.250.249.250: the port is chosen when the other end is known
    ::setsockopt(fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &kOn, sizeof kOn);
    sockaddr_in from{};
    from.sin_family = AF_INET;
    const auto a = 1 + number % 250;
    const auto b = number / 250 % 250;
    const auto c = 1 + number / 62'500 % 250;
    from.sin_addr.s_addr = htonl(static_cast<std::uint32_t>(127u << 24 | a << 16 | b << 8 | c));
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&from), sizeof from) != 0) return {};
  }
  const auto* to = reinterpret_cast<const sockaddr*>(&target.address);
  if (::connect(fd.get(), to, target.length) != 0 && errno != EINPROGRESS) return {};
  return fd;
}

Fd listen_on(std::uint16_t port, bool v6, bool reuse_port) {
  Fd fd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd && v6) return fd;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &kOn, sizeof kOn);
  if (reuse_port) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &kOn, sizeof kOn);
  if (v6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &kOn, sizeof kOn);
  const auto at = parse_target((v6 ? "[::1]:" : "127.0.0.1:") + std::to_string(port));
  if (!at || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at->address), at->length) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    if (v6 && errno == EADDRNOTAVAIL) return {};  // no IPv6 here
    std::fprintf(stderr, "ebb_loadgen: port %u: %s\n", port, std::strerror(errno));
    std::exit(1);
  }
  return fd;
}

std::string local_name(int fd) {
  sockaddr_storage name{};
  socklen_t length = sizeof name;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) != 0) return "";
  char text[INET6_ADDRSTRLEN] = "";
  if (name.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<sockaddr_in&>(name);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<sockaddr_in6&>(name);
  ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6.sin6_port));
}

void reset(Fd& fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  fd.reset();
}

}  // namespace ebb::loadgen
