#include "common/protocol/proxy_protocol/header.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <string>
#include <string_view>

namespace ebb::proxy_protocol {
namespace {

constexpr std::string_view kLineStart = "PROXY ";
constexpr std::array<std::uint8_t, 12> kSignature{0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
                                                  0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
constexpr std::size_t kFixed = 16;  // version 2: signature, command, family, length

constexpr std::uint8_t kLocal = 0x20;
constexpr std::uint8_t kProxy = 0x21;
constexpr std::uint8_t kUnspec = 0x00;
constexpr std::uint8_t kInet = 0x10;
constexpr std::uint8_t kInet6 = 0x20;
constexpr std::uint8_t kUnix = 0x30;
constexpr std::uint8_t kStream = 0x01;
constexpr std::uint8_t kDatagram = 0x02;
constexpr std::size_t kInetBytes = 12;
constexpr std::size_t kInet6Bytes = 36;
constexpr std::size_t kUnixBytes = 216;

std::unexpected<WireError> fault(WireFault what, std::size_t at) {
  return std::unexpected{WireError{what, static_cast<std::uint32_t>(at)}};
}

/// Where `in` stops being a prefix of `start`, or `start` of it; nullopt: nowhere.
std::optional<std::size_t> mismatch(ConstSpan in, ConstSpan start) {
  const std::size_t size = std::min(in.size(), start.size());
  const auto at = std::mismatch(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(size), start.begin()).first;
  const auto index = static_cast<std::size_t>(at - in.begin());
  return index < size ? std::optional(index) : std::nullopt;
}

// --- version 1 -------------------------------------------------------------------------------------------------------

/// Up to the next space, which is taken too. Empty: there is none, or two in a row.
std::string_view next_word(std::string_view& rest) {
  const auto space = rest.find(' ');
  const auto word = rest.substr(0, space);
  rest = space == rest.npos ? std::string_view{} : rest.substr(space + 1);
  return word;
}

std::optional<IpAddress> parse_ip(std::string_view text, bool v6) {
  const bool colons = text.find(':') != text.npos;  // a mapped address is IPv6 by its text and IPv4 by value
  return colons == v6 ? IpAddress::parse(text) : std::nullopt;
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  if (text.size() > 1 && text.front() == '0') return std::nullopt;
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return port;
}

/// What follows "PROXY ", without CR LF.
Decoded<Header> parse_line(std::string_view text) {
  std::string_view rest = text;
  const auto at = [&](std::string_view word) {
    return kLineStart.size() + static_cast<std::size_t>(word.data() - text.data());
  };
  const auto family = next_word(rest);
  if (family == "UNKNOWN") return Header{};  // the rest of the line is to be ignored
  if (family != "TCP4" && family != "TCP6") return fault(WireFault::bad_command, kLineStart.size());
  const bool v6 = family == "TCP6";
  Endpoint source;
  Endpoint local;
  for (Endpoint* side : {&source, &local}) {
    const auto word = next_word(rest);
    const auto ip = parse_ip(word, v6);
    if (!ip) return fault(WireFault::bad_address, word.empty() ? kLineStart.size() : at(word));
    side->ip = *ip;
  }
  const auto source_port = parse_port(next_word(rest));
  const auto local_port = parse_port(rest);  // the last word: whatever follows it is no port
  if (!source_port || !local_port) return fault(WireFault::bad_address, kLineStart.size() + text.size());
  source.port = *source_port;
  local.port = *local_port;
  return Header{{source, local}, Network::tcp};
}

Decoded<Step<Header>> decode_line(ConstSpan in) {
  if (const auto wrong = mismatch(in, as_bytes(kLineStart))) return fault(WireFault::bad_command, *wrong);
  const auto text = as_text(in.first(std::min(in.size(), kMaxLine)));
  const auto end = text.find('\n');
  if (end == text.npos) {
    if (in.size() >= kMaxLine) return fault(WireFault::bad_length, kMaxLine);
    return Step<Header>{};
  }
  if (text[end - 1] != '\r') return fault(WireFault::bad_length, end);  // kLineStart is in front of it
  auto header = parse_line(text.substr(kLineStart.size(), end - 1 - kLineStart.size()));
  if (!header) return std::unexpected(header.error());
  return Step<Header>{end + 1, *header};
}

std::string ip_text(const IpAddress& ip, bool v6) { return (v6 && !ip.v6 ? "::ffff:" : "") + ip.text(); }

// --- version 2 -------------------------------------------------------------------------------------------------------

IpAddress load_ip(ConstSpan in, bool v6) {
  if (v6) {
    std::array<std::uint8_t, 16> bytes;
    std::copy_n(in.begin(), bytes.size(), bytes.begin());
    return IpAddress::from_v6(bytes);
  }
  return IpAddress::from_v4({in[0], in[1], in[2], in[3]});
}

/// Source address, destination address, source port, destination port.
VisitorAddress load_addresses(ConstSpan in, bool v6) {
  const std::size_t size = v6 ? 16 : 4;
  const Endpoint source{load_ip(in, v6), load_be16(in.subspan(2 * size))};
  const Endpoint local{load_ip(in.subspan(size), v6), load_be16(in.subspan(2 * size + 2))};
  return {source, local};
}

/// Bytes of addresses that a family needs; nullopt: no such family.
std::optional<std::size_t> address_bytes(std::uint8_t family) {
  const std::uint8_t transport = family & 0x0f;
  if (family == kUnspec) return 0;
  if (transport != kStream && transport != kDatagram) return std::nullopt;
  switch (family & 0xf0) {
    case kInet: return kInetBytes;
    case kInet6: return kInet6Bytes;
    case kUnix: return kUnixBytes;
    default: return std::nullopt;
  }
}

Decoded<Step<Header>> decode_binary(ConstSpan in) {
  if (const auto wrong = mismatch(in, kSignature)) return fault(WireFault::bad_command, *wrong);
  if (in.size() > 12 && in[12] != kLocal && in[12] != kProxy) return fault(WireFault::bad_command, 12);
  const bool local = in.size() > 12 && in[12] == kLocal;  // its family and addresses mean nothing
  const auto needed = in.size() > 13 && !local ? address_bytes(in[13]) : std::optional<std::size_t>(0);
  if (!needed) return fault(WireFault::bad_command, 13);
  if (in.size() < kFixed) return Step<Header>{};
  const std::size_t length = load_be16(in.subspan(14));
  if (length < *needed || kFixed + length > kMaxHeader) return fault(WireFault::bad_length, 14);
  if (in.size() < kFixed + length) return Step<Header>{};
  Header header;
  const std::uint8_t family = in[13] & 0xf0;
  if (!local && (in[13] & 0x0f) == kDatagram) header.network = Network::udp;
  if (!local && (family == kInet || family == kInet6)) {
    header.visitor = load_addresses(in.subspan(kFixed), family == kInet6);
  }
  return Step<Header>{kFixed + length, header};
}

std::size_t store_ip(const IpAddress& ip, bool v6, MutSpan out) {
  if (!v6) {
    std::copy_n(ip.bytes.begin(), 4, out.begin());
    return 4;
  }
  const auto bytes = ip.as_v6();
  std::ranges::copy(bytes, out.begin());
  return bytes.size();
}

}  // namespace

Decoded<Step<Header>> decode(ConstSpan in) {
  if (in.empty()) return Step<Header>{};
  if (in[0] == kSignature[0]) return decode_binary(in);
  return decode_line(in);
}

std::size_t encode(Version version, Network network, const VisitorAddress& visitor, MutSpan out) {
  if (version == Version::none || (version == Version::v1 && network == Network::udp)) return 0;
  const bool known = visitor.source.has_value();
  const Endpoint source = visitor.source.value_or(Endpoint{});
  // Nothing known of where the visitor arrived: the zero address of his family.
  IpAddress zero;
  zero.v6 = source.ip.v6;
  const Endpoint local = visitor.local.value_or(Endpoint{zero, 0});
  const bool v6 = source.ip.v6 || local.ip.v6;
  if (version == Version::v1) {
    std::string line = "PROXY UNKNOWN\r\n";
    if (known) {
      line = std::string("PROXY ") + (v6 ? "TCP6 " : "TCP4 ") + ip_text(source.ip, v6) + ' ' + ip_text(local.ip, v6) +
             ' ' + std::to_string(source.port) + ' ' + std::to_string(local.port) + "\r\n";
    }
    assert(line.size() <= kMaxLine && line.size() <= out.size());
    std::ranges::copy(as_bytes(line), out.begin());
    return line.size();
  }
  const std::size_t length = !known ? 0 : v6 ? kInet6Bytes : kInetBytes;
  assert(kFixed + length <= out.size());
  std::ranges::copy(kSignature, out.begin());
  out[12] = known ? kProxy : kLocal;
  const std::uint8_t transport = network == Network::udp ? kDatagram : kStream;
  out[13] = known ? static_cast<std::uint8_t>((v6 ? kInet6 : kInet) | transport) : kUnspec;
  store_be16(out.subspan(14), static_cast<std::uint16_t>(length));
  if (!known) return kFixed;
  std::size_t at = kFixed;
  at += store_ip(source.ip, v6, out.subspan(at));
  at += store_ip(local.ip, v6, out.subspan(at));
  store_be16(out.subspan(at), source.port);
  store_be16(out.subspan(at + 2), local.port);
  return kFixed + length;
}

Bytes encoded(Version version, Network network, const VisitorAddress& visitor) {
  std::array<std::uint8_t, kMaxWritten> out;
  const std::size_t size = encode(version, network, visitor, out);
  return {out.begin(), out.begin() + size};
}

}  // namespace ebb::proxy_protocol
