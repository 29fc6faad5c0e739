#include "common/protocol/mux/frame.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "common/protocol/address.h"

namespace ebb::mux {
namespace {

constexpr std::size_t kMinOpenMeta = 8;  // every decoder refuses a shorter New before it looks at the address

struct Parsed {
  Target target;
  std::size_t used;
};

/// network(1), then port(2) type(1) address in the layout with the port first.
Decoded<Parsed> parse_target(ConstSpan in) {
  const auto fault = [](WireFault what, std::size_t at) {
    return std::unexpected{WireError{what, static_cast<std::uint32_t>(at)}};
  };
  if (in.size() < 4) return fault(WireFault::bad_length, in.size());
  if (in[0] != 1 && in[0] != 2) return fault(WireFault::bad_command, 0);
  auto address = decode_address(in.subspan(1), kPortFirstAddress);
  if (!address || !address->message) return fault(WireFault::bad_address, 3);  // metadata is whole: cut is broken
  auto& [host, port] = *address->message;
  return Parsed{Target{Network{in[0]}, std::move(host), port}, 1 + address->used};
}

std::unexpected<WireError> shifted(WireError e, std::size_t by) {
  e.offset += static_cast<std::uint32_t>(by);
  return std::unexpected{e};
}

}  // namespace

Decoded<Step<Head>> decode_head(ConstSpan in) {
  const Step<Head> need_more;
  if (in.size() < 2) return need_more;
  const std::size_t meta = load_be16(in);
  const auto fault = [](WireFault what, std::uint32_t at) { return std::unexpected{WireError{what, at}}; };
  if (meta < kMinMeta || meta > kMaxMeta) return fault(WireFault::bad_length, 0);
  if (in.size() < 2 + meta) return need_more;
  if (in[4] < 1 || in[4] > 4) return fault(WireFault::bad_command, 4);
  if (Status{in[4]} == Status::open && meta < kMinOpenMeta) return fault(WireFault::bad_length, 0);
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

VisitorAddress visitor_of(const SourceLocal& told) {
  const auto endpoint = [](const std::optional<Target>& part) -> std::optional<Endpoint> {
    if (!part || part->ip() == nullptr) return std::nullopt;
    return Endpoint{*part->ip(), part->port};
  };
  return {endpoint(told.source), endpoint(told.local)};
}

std::size_t encode_source_local(MutSpan out, Network network, const VisitorAddress& visitor) {
  if (!visitor.source) return 0;
  std::size_t at = 0;
  for (const auto& end : {visitor.source, visitor.local}) {
    if (!end) break;
    out[at++] = static_cast<std::uint8_t>(network);
    at += encode_address(end->ip, end->port, kPortFirstAddress, out.subspan(at));
  }
  return at;
}

std::size_t write_new(MutSpan out, StreamId stream, const Target& target, std::size_t data_bytes, ConstSpan trailing) {
  if (const auto* name = target.name(); name != nullptr && !host_from_wire(*name)) return 0;  // no peer takes it
  std::array<std::uint8_t, kMaxAddressBytes> address;
  const auto address_size = encode_address(target.host, target.port, kPortFirstAddress, address);
  const auto meta = kMinMeta + 1 + address_size + trailing.size();
  const auto total = 2 + meta + (data_bytes > 0 ? 2 : 0);
  if (address_size == 0 || meta > kMaxMeta || data_bytes > kMaxDataEver || out.size() < total) return 0;
  store_be16(out, static_cast<std::uint16_t>(meta));
  store_be16(out.subspan(2), stream.value);
  out[4] = static_cast<std::uint8_t>(Status::open);
  out[5] = data_bytes > 0 ? kOptionData : 0;
  out[6] = static_cast<std::uint8_t>(target.network);
  auto at = std::copy_n(address.begin(), address_size, out.begin() + 7);
  at = std::ranges::copy(trailing, at).out;
  if (data_bytes > 0) store_be16(out.subspan(2 + meta), static_cast<std::uint16_t>(data_bytes));
  return total;
}

std::size_t write_keep_head(MutSpan out, StreamId stream, const Target& address, std::size_t data_bytes) {
  if (address.network != Network::udp || data_bytes > kMaxDataEver) return 0;
  if (const auto* name = address.name(); name != nullptr && !host_from_wire(*name)) return 0;
  std::array<std::uint8_t, kMaxAddressBytes> encoded;
  const auto size = encode_address(address.host, address.port, kPortFirstAddress, encoded);
  const auto meta = kMinMeta + 1 + size;
  if (size == 0 || out.size() < 2 + meta + 2) return 0;
  store_be16(out, static_cast<std::uint16_t>(meta));
  store_be16(out.subspan(2), stream.value);
  out[4] = static_cast<std::uint8_t>(Status::keep);
  out[5] = kOptionData;
  out[6] = static_cast<std::uint8_t>(Network::udp);
  std::copy_n(encoded.begin(), size, out.begin() + 7);
  store_be16(out.subspan(2 + meta), static_cast<std::uint16_t>(data_bytes));
  return 2 + meta + 2;
}

}  // namespace ebb::mux
