#include "ipc/state_blob.h"

#include <algorithm>
#include <cstring>

namespace ebb::ipc {
namespace {

struct TlvHead {
  std::uint16_t type = 0;
  std::uint16_t reserved = 0;
  std::uint32_t length = 0;
};
static_assert(sizeof(TlvHead) == 8);

// Fields of META: one byte id, one zero byte, two bytes of length, host byte order.
enum class Field : std::uint8_t { target = 1, user, sni, alpn, host, path, source };
constexpr std::size_t kFieldHead = 4;

void put_u16(Bytes& out, std::uint16_t value) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(&value);
  out.insert(out.end(), p, p + sizeof value);
}
std::uint16_t get_u16(ConstSpan in) {
  std::uint16_t value;
  std::memcpy(&value, in.data(), sizeof value);
  return value;
}

void put_field(Bytes& out, Field id, ConstSpan value) {
  out.push_back(static_cast<std::uint8_t>(id));
  out.push_back(0);
  put_u16(out, static_cast<std::uint16_t>(value.size()));
  out.insert(out.end(), value.begin(), value.end());
}
void put_text(Bytes& out, Field id, const std::string& text) {
  if (!text.empty()) put_field(out, id, as_bytes(text));
}

/// kind (4, 6, or 0 for a name), address.
Bytes pack_host(const Host& host) {
  const auto* ip = std::get_if<IpAddress>(&host);
  const ConstSpan address = ip ? ConstSpan(ip->bytes).first(ip->v6 ? 16 : 4) : as_bytes(std::get<std::string>(host));
  Bytes out(1 + address.size());
  out[0] = ip ? (ip->v6 ? 6 : 4) : 0;
  std::ranges::copy(address, out.begin() + 1);
  return out;
}

std::optional<Host> unpack_host(ConstSpan in) {
  if (in.empty()) return std::nullopt;
  const ConstSpan rest = in.subspan(1);
  if (in[0] == 0) return Host(std::string(as_text(rest)));
  if (in[0] == 4 && rest.size() == 4) return Host(IpAddress::from_v4({rest[0], rest[1], rest[2], rest[3]}));
  if (in[0] == 6 && rest.size() == 16) {
    std::array<std::uint8_t, 16> octets;
    std::memcpy(octets.data(), rest.data(), octets.size());
    return Host(IpAddress::from_v6(octets));
  }
  return std::nullopt;
}

std::unexpected<WireError> fail(WireFault fault, std::size_t at) {
  return std::unexpected(WireError{fault, static_cast<std::uint32_t>(at)});
}

}  // namespace

std::size_t max_tlv_bytes(Tlv type) {
  constexpr std::array<std::size_t, 5> kLayerBytes{512, 128, 16, 24, 120};  // of types 3 to 7
  if (is_layer(type)) return kLayerBytes[static_cast<std::size_t>(type) - static_cast<std::size_t>(Tlv::first_layer)];
  if (type == Tlv::unread_cipher) return 17 * 1024;
  if (type == Tlv::unread_plain) return 16 * 1024;
  return type == Tlv::meta ? 1024 : 0;
}

bool BlobWriter::add(Tlv type, ConstSpan value) {
  const std::uint32_t mask = 1u << static_cast<unsigned>(type);
  if (max_tlv_bytes(type) == 0 || value.size() > max_tlv_bytes(type) || seen_ & mask) return false;
  if (bytes_.size() + sizeof(TlvHead) + value.size() > kMaxBlob) return false;
  seen_ |= mask;
  const TlvHead head{static_cast<std::uint16_t>(type), 0, static_cast<std::uint32_t>(value.size())};
  const auto* p = reinterpret_cast<const std::uint8_t*>(&head);
  bytes_.insert(bytes_.end(), p, p + sizeof head);
  bytes_.insert(bytes_.end(), value.begin(), value.end());
  return true;
}

Decoded<StateBlob> decode_blob(ConstSpan blob) {
  StateBlob out;
  if (blob.size() > kMaxBlob) return fail(WireFault::bad_length, 0);
  for (std::size_t at = 0; at < blob.size();) {
    TlvHead head;
    if (blob.size() - at < sizeof head) return fail(WireFault::truncated, at);
    std::memcpy(&head, blob.data() + at, sizeof head);
    if (head.type == 0 || head.type > kTlvTypes) return fail(WireFault::bad_command, at);
    if (head.reserved != 0) return fail(WireFault::bad_option, at + 2);
    if (head.length > max_tlv_bytes(Tlv{head.type})) return fail(WireFault::bad_length, at + 4);
    auto& value = out.values[head.type - 1u];
    if (value) return fail(WireFault::bad_option, at);
    at += sizeof head;
    if (blob.size() - at < head.length) return fail(WireFault::truncated, at);
    value = blob.subspan(at, head.length);
    if (is_layer(Tlv{head.type})) out.layer_order[out.layer_count++] = Tlv{head.type};
    at += head.length;
  }
  return out;
}

std::optional<Bytes> encode_meta(const Meta& meta) {
  Bytes out;
  for (const std::string* text : {&meta.user, &meta.sni, &meta.alpn, &meta.host, &meta.path}) {
    if (text->size() > max_tlv_bytes(Tlv::meta)) return std::nullopt;  // before the 16-bit length could wrap
  }
  if (meta.target) {
    if (const auto* name = meta.target->name(); name && name->size() > max_tlv_bytes(Tlv::meta)) return std::nullopt;
    Bytes value{static_cast<std::uint8_t>(meta.target->network), 0};
    put_u16(value, meta.target->port);
    const Bytes host = pack_host(meta.target->host);
    value.insert(value.end(), host.begin(), host.end());
    put_field(out, Field::target, value);
  }
  put_text(out, Field::user, meta.user);
  put_text(out, Field::sni, meta.sni);
  put_text(out, Field::alpn, meta.alpn);
  put_text(out, Field::host, meta.host);
  put_text(out, Field::path, meta.path);
  if (meta.source) {
    Bytes value;
    put_u16(value, meta.source->port);
    const Bytes host = pack_host(meta.source->ip);
    value.insert(value.end(), host.begin(), host.end());
    put_field(out, Field::source, value);
  }
  if (out.size() > max_tlv_bytes(Tlv::meta)) return std::nullopt;
  return out;
}

Decoded<Meta> decode_meta(ConstSpan in) {
  Meta meta;
  std::uint32_t seen = 0;
  if (in.size() > max_tlv_bytes(Tlv::meta)) return fail(WireFault::bad_length, 0);
  for (std::size_t at = 0; at < in.size();) {
    if (in.size() - at < kFieldHead) return fail(WireFault::truncated, at);
    const std::uint8_t id = in[at];
    if (id < 1 || id > static_cast<std::uint8_t>(Field::source)) return fail(WireFault::bad_command, at);
    if (in[at + 1] != 0 || seen & (1u << id)) return fail(WireFault::bad_option, at);
    seen |= 1u << id;
    const std::size_t length = get_u16(in.subspan(at + 2));
    at += kFieldHead;
    if (in.size() - at < length) return fail(WireFault::truncated, at);
    const ConstSpan value = in.subspan(at, length);
    const std::string text(as_text(value));
    switch (Field{id}) {
      case Field::target: {
        if (length < 5) return fail(WireFault::bad_length, at);
        if (value[0] < 1 || value[0] > 2) return fail(WireFault::bad_command, at);
        if (value[1] != 0) return fail(WireFault::bad_option, at + 1);
        auto host = unpack_host(value.subspan(4));
        if (!host) return fail(WireFault::bad_address, at + 4);
        meta.target = Target{Network{value[0]}, std::move(*host), get_u16(value.subspan(2))};
        break;
      }
      case Field::user: meta.user = text; break;
      case Field::sni: meta.sni = text; break;
      case Field::alpn: meta.alpn = text; break;
      case Field::host: meta.host = text; break;
      case Field::path: meta.path = text; break;
      case Field::source: {
        if (length < 3) return fail(WireFault::bad_length, at);
        const auto host = unpack_host(value.subspan(2));
        if (!host || !std::holds_alternative<IpAddress>(*host)) return fail(WireFault::bad_address, at + 2);
        meta.source = Endpoint{std::get<IpAddress>(*host), get_u16(value)};
        break;
      }
    }
    at += length;
  }
  return meta;
}

}  // namespace ebb::ipc
