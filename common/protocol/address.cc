#include "common/protocol/address.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <string>

namespace ebb {
namespace {

constexpr std::size_t kMaxName = 255;

bool name_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '.' || c == '_';
}

bool digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::optional<Host> host_from_wire(std::string_view name) {
  if (name.empty() || name.size() > kMaxName) return std::nullopt;
  if (digit(name.front()) || name.front() == '[') {
    std::string_view bare = name;
    if (bare.size() > 2 && bare.front() == '[' && bare.back() == ']') bare = bare.substr(1, bare.size() - 2);
    if (const auto ip = IpAddress::parse(bare)) return Host(*ip);
  }
  if (!std::ranges::all_of(name, name_character)) return std::nullopt;
  return Host(std::string(name));
}

std::size_t address_bytes(ConstSpan in, AddressStyle style) {
  const std::size_t type_at = style.port_first ? 2 : 0;
  if (in.size() <= type_at) return 0;
  const std::uint8_t type = in[type_at];
  std::size_t body = 0;
  if (type == style.v4) {
    body = 4;
  } else if (type == style.v6) {
    body = 16;
  } else if (type == style.name) {
    if (in.size() <= type_at + 1) return 0;
    body = 1 + std::size_t{in[type_at + 1]};
  }
  return 1 + body + 2;
}

Decoded<Step<WireAddress>> decode_address(ConstSpan in, AddressStyle style) {
  const std::size_t type_at = style.port_first ? 2 : 0;
  const auto bad = std::unexpected(WireError{WireFault::bad_address, static_cast<std::uint32_t>(type_at)});
  if (in.size() <= type_at) return Step<WireAddress>{};
  const std::uint8_t type = in[type_at];
  if (type != style.v4 && type != style.v6 && type != style.name) return bad;
  const std::size_t size = address_bytes(in, style);
  if (size == 0 || in.size() < size) return Step<WireAddress>{};
  WireAddress address;
  address.port = load_be16(style.port_first ? in : in.subspan(size - 2));
  const ConstSpan body = in.subspan(type_at + 1, size - 3);
  if (type == style.v4) {
    std::array<std::uint8_t, 4> octets;
    std::ranges::copy(body, octets.begin());
    address.host = IpAddress::from_v4(octets);
  } else if (type == style.v6) {
    std::array<std::uint8_t, 16> octets;
    std::ranges::copy(body, octets.begin());
    address.host = IpAddress::from_v6(octets);
  } else {
    auto host = host_from_wire(as_text(body.subspan(1)));
    if (!host) return bad;
    address.host = *std::move(host);
  }
  return Step<WireAddress>{size, std::move(address)};
}

std::size_t encode_address(const Host& host, std::uint16_t port, AddressStyle style, MutSpan out) {
  std::size_t at = 0;
  if (style.port_first) {
    store_be16(out, port);
    at = 2;
  }
  if (const auto* ip = std::get_if<IpAddress>(&host)) {
    const std::size_t bytes = ip->v6 ? 16 : 4;
    assert(out.size() >= 3 + bytes);
    out[at++] = ip->v6 ? style.v6 : style.v4;
    std::copy_n(ip->bytes.begin(), bytes, out.begin() + static_cast<std::ptrdiff_t>(at));
    at += bytes;
  } else {
    const auto& name = std::get<std::string>(host);
    if (name.empty() || name.size() > kMaxName) return 0;
    assert(out.size() >= 4 + name.size());
    out[at++] = style.name;
    out[at++] = static_cast<std::uint8_t>(name.size());
    std::ranges::copy(name, out.begin() + static_cast<std::ptrdiff_t>(at));
    at += name.size();
  }
  if (!style.port_first) {
    store_be16(out.subspan(at), port);
    at += 2;
  }
  return at;
}

}  // namespace ebb
