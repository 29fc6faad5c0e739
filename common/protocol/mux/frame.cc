#include "common/protocol/mux/frame.h"

#include <algorithm>
#include <string>

namespace ebb::mux {
namespace {

constexpr std::uint8_t kTypeIpv4 = 1, kTypeName = 2, kTypeIpv6 = 3;

bool name_byte(std::uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' || c == '_';
}

WireError fault(WireFault what, std::size_t offset) { return WireError{what, static_cast<std::uint32_t>(offset)}; }

/// Every Go decoder tries a name that starts with a digit or a bracket as an IP literal first.
Decoded<Host> name_to_host(ConstSpan name) {
  if (name.empty()) return std::unexpected{fault(WireFault::bad_address, 0)};
  if (name[0] == '[' || (name[0] >= '0' && name[0] <= '9')) {
    auto text = as_text(name);
    if (text.size() > 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
    if (const auto ip = IpAddress::parse(text)) return *ip;
  }
  if (!std::ranges::all_of(name, name_byte)) return std::unexpected{fault(WireFault::bad_address, 0)};
  return std::string(as_text(name));
}

struct Parsed {
  Target target;
  std::size_t used;
};

/// network(1) port(2) type(1) address.
Decoded<Parsed> parse_target(ConstSpan in) {
  if (in.size() < 4) return std::unexpected{fault(WireFault::bad_length, in.size())};
  if (in[0] != 1 && in[0] != 2) return std::unexpected{fault(WireFault::bad_command, 0)};
  Parsed out{Target{Network{in[0]}, {}, load_be16(in.subspan(1))}, 4};
  const auto rest = in.subspan(4);
  const auto cut = std::unexpected{fault(WireFault::bad_address, in.size())};
  switch (in[3]) {
    case kTypeIpv4: {
      std::array<std::uint8_t, 4> octets{};
      if (rest.size() < octets.size()) return cut;
      std::copy_n(rest.begin(), octets.size(), octets.begin());
      out.target.host = IpAddress::from_v4(octets);
      out.used += octets.size();
      return out;
    }
    case kTypeIpv6: {
      std::array<std::uint8_t, 16> octets{};
      if (rest.size() < octets.size()) return cut;
      std::copy_n(rest.begin(), octets.size(), octets.begin());
      out.target.host = IpAddress::from_v6(octets);
      out.used += octets.size();
      return out;
    }
    case kTypeName: {
      if (rest.empty() || rest.size() < 1U + rest[0]) return cut;
      auto host = name_to_host(rest.subspan(1, rest[0]));
      if (!host) return std::unexpected{fault(WireFault::bad_address, 5)};
      out.target.host = std::move(*host);
      out.used += 1U + rest[0];
      return out;
    }
    default: return std::unexpected{fault(WireFault::bad_address, 3)};
  }
}

std::unexpected<WireError> shifted(WireError e, std::size_t by) {
  e.offset += static_cast<std::uint32_t>(by);
  return std::unexpected{e};
}

/// Bytes of the address with its type, 0 when it cannot be written.
std::size_t address_size(const Target& target) {
  if (const auto* ip = target.ip()) return ip->v6 ? 17 : 5;
  const auto& name = *target.name();
  if (name.empty() || name.size() > 255) return 0;
  return std::ranges::all_of(as_bytes(name), name_byte) ? 2 + name.size() : 0;
}

}  // namespace

Decoded<Step<Head>> decode_head(ConstSpan in) {
  const Step<Head> need_more;
  if (in.size() < 2) return need_more;
  const std::size_t meta = load_be16(in);
  if (meta < kMinMeta || meta > kMaxMeta) return std::unexpected{fault(WireFault::bad_length, 0)};
  if (in.size() < 2 + meta) return need_more;
  if (in[4] < 1 || in[4] > 4) return std::unexpected{fault(WireFault::bad_command, 4)};
  Head head{StreamId{load_be16(in.subspan(2))}, Status{in[4]}, in[5], in.subspan(6, meta - kMinMeta), 0};
  std::size_t used = 2 + meta;
  if (head.has_data()) {
    if (in.size() < used + 2) return need_more;
    head.data_bytes = load_be16(in.subspan(used));
    used += 2;
  }
  return Step<Head>{used, head};
}

Decoded<OpenMeta> decode_open(ConstSpan meta) {
  auto parsed = parse_target(meta);
  if (!parsed) return shifted(parsed.error(), 6);
  return OpenMeta{std::move(parsed->target), meta.subspan(parsed->used)};
}

std::optional<Target> packet_address(ConstSpan meta) {
  if (meta.empty() || meta[0] != static_cast<std::uint8_t>(Network::udp)) return std::nullopt;
  auto parsed = parse_target(meta);
  if (!parsed) return std::nullopt;
  return std::move(parsed->target);
}

bool has_hello_marker(ConstSpan trailing) {
  return trailing.size() >= sizeof kHelloMarker &&
         std::ranges::equal(trailing.first(sizeof kHelloMarker), kHelloMarker);
}

Decoded<SourceLocal> decode_source_local(ConstSpan trailing) {
  SourceLocal out;
  std::size_t at = 0;
  for (auto* part : {&out.source, &out.local}) {
    if (at == trailing.size() || trailing[at] == 0) return out;  // nothing, or padding
    auto parsed = parse_target(trailing.subspan(at));
    if (!parsed) return shifted(parsed.error(), at);
    at += parsed->used;
    *part = std::move(parsed->target);
  }
  return out;
}

std::size_t write_new(MutSpan out, StreamId stream, const Target& target, std::size_t data_bytes, ConstSpan trailing) {
  const auto address = address_size(target);
  const auto meta = kMinMeta + 3 + address + trailing.size();
  const auto total = 2 + meta + (data_bytes > 0 ? 2 : 0);
  if (address == 0 || meta > kMaxMeta || data_bytes > kMaxDataEver || out.size() < total) return 0;
  store_be16(out, static_cast<std::uint16_t>(meta));
  store_be16(out.subspan(2), stream.value);
  out[4] = static_cast<std::uint8_t>(Status::open);
  out[5] = data_bytes > 0 ? kOptionData : 0;
  out[6] = static_cast<std::uint8_t>(target.network);
  store_be16(out.subspan(7), target.port);
  auto at = out.begin() + 9;
  if (const auto* ip = target.ip()) {
    *at++ = ip->v6 ? kTypeIpv6 : kTypeIpv4;
    at = std::copy_n(ip->bytes.begin(), ip->v6 ? 16 : 4, at);
  } else {
    *at++ = kTypeName;
    *at++ = static_cast<std::uint8_t>(target.name()->size());
    at = std::ranges::copy(as_bytes(*target.name()), at).out;
  }
  at = std::ranges::copy(trailing, at).out;
  if (data_bytes > 0) store_be16(out.subspan(2 + meta), static_cast<std::uint16_t>(data_bytes));
  return total;
}

}  // namespace ebb::mux
