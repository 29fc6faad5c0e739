#include "common/base/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <cstring>

namespace ebb {
namespace {

constexpr std::array<std::uint8_t, 12> kMappedPrefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

IpAddress IpAddress::from_v4(std::array<std::uint8_t, 4> octets) {
  IpAddress out;
  std::copy(octets.begin(), octets.end(), out.bytes.begin());
  return out;
}

IpAddress IpAddress::from_v6(const std::array<std::uint8_t, 16>& octets) {
  if (std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), octets.begin())) {
    return from_v4({octets[12], octets[13], octets[14], octets[15]});
  }
  IpAddress out;
  out.v6 = true;
  out.bytes = octets;
  return out;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  if (text.empty() || text.size() > 45 || text.find('\0') != text.npos)
    return std::nullopt;  // a peer's name may hold zeros
  char zero_terminated[46]{};
  std::copy(text.begin(), text.end(), zero_terminated);
  std::array<std::uint8_t, 4> v4{};
  if (inet_pton(AF_INET, zero_terminated, v4.data()) == 1) return from_v4(v4);
  std::array<std::uint8_t, 16> v6{};
  if (inet_pton(AF_INET6, zero_terminated, v6.data()) == 1) return from_v6(v6);
  return std::nullopt;
}

std::string IpAddress::text() const {
  char out[INET6_ADDRSTRLEN]{};
  inet_ntop(v6 ? AF_INET6 : AF_INET, bytes.data(), out, sizeof out);
  return out;
}

std::array<std::uint8_t, 16> IpAddress::as_v6() const {
  if (v6) return bytes;
  std::array<std::uint8_t, 16> out{};
  std::copy(kMappedPrefix.begin(), kMappedPrefix.end(), out.begin());
  std::copy_n(bytes.begin(), 4, out.begin() + 12);
  return out;
}

bool IpAddress::loopback() const {
  if (!v6) return bytes[0] == 127;
  return std::all_of(bytes.begin(), bytes.end() - 1, [](auto b) { return b == 0; }) && bytes[15] == 1;
}

Host parse_host(std::string_view text) {
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
    if (const auto ip = IpAddress::parse(text.substr(1, text.size() - 2)); ip && ip->v6) return *ip;
  }
  const auto alphanumeric = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  if (!text.empty() && (!alphanumeric(text.front()) || !alphanumeric(text.back()))) {
    const auto blank = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
    while (!text.empty() && blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  }
  if (const auto ip = IpAddress::parse(text)) return *ip;
  return std::string(text);
}

std::string host_text(const Host& host) {
  if (const auto* ip = std::get_if<IpAddress>(&host)) return ip->text();
  return std::get<std::string>(host);
}

std::string Target::text() const {
  const auto* address = ip();
  std::string out = network == Network::tcp ? "tcp:" : "udp:";
  out += address != nullptr && address->v6 ? "[" + address->text() + "]" : host_text(host);
  return out + ":" + std::to_string(port);
}

std::string Endpoint::text() const { return (ip.v6 ? "[" + ip.text() + "]" : ip.text()) + ":" + std::to_string(port); }

std::optional<Endpoint> endpoint_from(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, address, sizeof in);
    std::array<std::uint8_t, 4> octets{};
    std::memcpy(octets.data(), &in.sin_addr, octets.size());
    return Endpoint{IpAddress::from_v4(octets), ntohs(in.sin_port)};
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 in{};
    std::memcpy(&in, address, sizeof in);
    std::array<std::uint8_t, 16> octets{};
    std::memcpy(octets.data(), &in.sin6_addr, octets.size());
    return Endpoint{IpAddress::from_v6(octets), ntohs(in.sin6_port)};
  }
  return std::nullopt;
}

unsigned endpoint_to(const Endpoint& endpoint, sockaddr_storage& out) {
  out = {};
  if (!endpoint.ip.v6) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(endpoint.port);
    std::memcpy(&in.sin_addr, endpoint.ip.bytes.data(), 4);
    std::memcpy(&out, &in, sizeof in);
    return sizeof in;
  }
  sockaddr_in6 in{};
  in.sin6_family = AF_INET6;
  in.sin6_port = htons(endpoint.port);
  std::memcpy(&in.sin6_addr, endpoint.ip.bytes.data(), 16);
  std::memcpy(&out, &in, sizeof in);
  return sizeof in;
}

}  // namespace ebb
