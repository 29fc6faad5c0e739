// Hosts, targets and socket addresses as values: what configuration, routing and every protocol share.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

struct sockaddr;
struct sockaddr_storage;

namespace ebb {

/// An IP address. IPv4-mapped IPv6 never exists here: constructors fold it into IPv4, as every peer does.
struct IpAddress {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes{};  // IPv4 in the first four

  static IpAddress from_v4(std::array<std::uint8_t, 4> octets);
  static IpAddress from_v6(const std::array<std::uint8_t, 16>& octets);
  /// "127.0.0.1", "::1"; brackets are not accepted. nullopt when it is not an IP literal.
  static std::optional<IpAddress> parse(std::string_view text);
  std::string text() const;  // no brackets
  bool loopback() const;
  /// As IPv6 writes it: an IPv4 address mapped, ::ffff:a.b.c.d.
  std::array<std::uint8_t, 16> as_v6() const;
  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;
};

/// An IP address or a name (unchecked text, as the peer or the user wrote it).
using Host = std::variant<IpAddress, std::string>;

/// Text to Host by the rule of spec/config.md 4.2: brackets removed, IP literals recognised, else a name.
Host parse_host(std::string_view text);
std::string host_text(const Host& host);  // IPv6 without brackets

enum class Network : std::uint8_t { tcp = 1, udp = 2 };

/// Where a connection wants to go.
struct Target {
  Network network = Network::tcp;
  Host host;
  std::uint16_t port = 0;  // 0 is legal: a bridge's own connection has it

  /// The name when the host is one, else nullptr.
  const std::string* name() const { return std::get_if<std::string>(&host); }
  const IpAddress* ip() const { return std::get_if<IpAddress>(&host); }
  std::string text() const;  // "tcp:host:port", IPv6 in brackets: the access log's form
  friend bool operator==(const Target&, const Target&) = default;
};

/// A peer or local socket address.
struct Endpoint {
  IpAddress ip;
  std::uint16_t port = 0;
  std::string text() const;  // "1.2.3.4:80", "[::1]:80"
  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

/// Who visits, and where he arrived: the two ends of the connection that the first of us (or a proxy in front of him)
/// accepted. An end that nobody told is nullopt.
struct VisitorAddress {
  std::optional<Endpoint> source;
  std::optional<Endpoint> local;
  friend bool operator==(const VisitorAddress&, const VisitorAddress&) = default;
};

/// From and to the kernel's form. nullopt for a family that is not IP.
std::optional<Endpoint> endpoint_from(const sockaddr* address);
unsigned endpoint_to(const Endpoint& endpoint, sockaddr_storage& out);  // returns the length in bytes

}  // namespace ebb
