// host:port as each family of protocols writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"

namespace ebb {

/// How one family of protocols lays an address out. Types are the bytes that announce IPv4, a name, IPv6.
struct AddressStyle {
  bool port_first;
  std::uint8_t v4, name, v6;
};
inline constexpr AddressStyle kPortFirstAddress{true, 1, 2, 3};  // Mux.cool and its family: port, type, address
inline constexpr AddressStyle kSocksAddress{false, 1, 3, 4};     // SOCKS5, Trojan, Shadowsocks: type, address, port

struct WireAddress {
  Host host;
  std::uint16_t port = 0;
  friend bool operator==(const WireAddress&, const WireAddress&) = default;
};

inline constexpr std::size_t kMaxAddressBytes = 2 + 1 + 1 + 255;

/// A name as it stood on the wire. One that begins with a digit or '[' and is an IP literal becomes that address.
/// nullopt when it is empty, above 255 bytes or has a character other than 0-9 A-Z a-z - . _ . What
/// every server of that family checks.
std::optional<Host> host_from_wire(std::string_view name);

/// Bytes of port, type and address at the front of `in`, as far as can be told: 0 while more bytes are needed.
/// An unknown type counts as having no address bytes: some protocols go on to what follows before they refuse.
std::size_t address_bytes(ConstSpan in, AddressStyle style);

/// Takes port, type and address from the front of `in`. Errors: bad_address.
Decoded<Step<WireAddress>> decode_address(ConstSpan in, AddressStyle style);

/// Writes them to the front of `out` (kMaxAddressBytes always suffice); returns the bytes written, 0 when the name is
/// empty or above 255 bytes.
std::size_t encode_address(const Host& host, std::uint16_t port, AddressStyle style, MutSpan out);

}  // namespace ebb
