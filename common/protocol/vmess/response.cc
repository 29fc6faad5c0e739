#include "common/protocol/vmess/response.h"

#include <algorithm>
#include <cassert>

#include "common/protocol/vmess/kdf.h"

namespace ebb::vmess {
namespace {

using crypto::Aead;
using crypto::AeadAlgorithm;

constexpr std::size_t kSealedLength = 2 + crypto::kTagBytes;

struct Keys {
  Block16 key;
  crypto::Nonce nonce;
};

Keys length_keys(const SessionKeys& keys) {
  return {kdf16(keys.response_key, {as_bytes("AEAD Resp Header Len Key")}),
          kdf12(keys.response_iv, {as_bytes("AEAD Resp Header Len IV")})};
}
Keys payload_keys(const SessionKeys& keys) {
  return {kdf16(keys.response_key, {as_bytes("AEAD Resp Header Key")}),
          kdf12(keys.response_iv, {as_bytes("AEAD Resp Header IV")})};
}

/// What follows command id and length. nullopt when it is damaged: it is skipped then, never an error.
std::optional<SwitchAccount> parse_switch_account(ConstSpan data) {
  if (data.size() <= 4 || crypto::fnv1a(data.subspan(4)) != load_be32(data)) return std::nullopt;
  const std::size_t host = data[4];
  if (data.size() < 5 + host + 22) return std::nullopt;
  SwitchAccount command;
  command.host = std::string(as_text(data.subspan(5, host)));
  data = data.subspan(5 + host);
  command.port = load_be16(data);
  std::copy_n(data.begin() + 2, 16, command.id.value.begin());
  command.alter_id = load_be16(data.subspan(18));
  command.level = data[20];
  command.valid_minutes = data[21];
  return command;
}

/// Bytes of the plaintext: 4, and the command's data if there is a command.
std::size_t plain_bytes(ConstSpan first4) { return first4[2] == 0 ? 4 : 4 + std::size_t{first4[3]}; }

std::optional<SwitchAccount> command_in(ConstSpan plain) {
  return plain[2] == 1 ? parse_switch_account(plain.subspan(4, plain[3])) : std::nullopt;
}

std::unexpected<WireError> fault(WireFault what, std::uint32_t at) { return std::unexpected(WireError{what, at}); }

Decoded<Step<ResponseHeader>> decode_aead(const SessionKeys& keys, ConstSpan in) {
  if (in.size() < kSealedLength) return Step<ResponseHeader>{};
  std::array<std::uint8_t, kSealedLength> length;
  std::copy_n(in.begin(), length.size(), length.begin());
  const Keys for_length = length_keys(keys);
  if (!Aead(AeadAlgorithm::aes_128_gcm, for_length.key, Aead::Use::open).open(for_length.nonce, {}, length)) {
    return fault(WireFault::bad_tag, 0);
  }
  const std::size_t size = load_be16(length);
  if (size < 4) return fault(WireFault::bad_length, 0);
  const std::size_t total = kSealedLength + size + crypto::kTagBytes;
  if (in.size() < total) return Step<ResponseHeader>{};
  Bytes sealed(in.begin() + kSealedLength, in.begin() + static_cast<std::ptrdiff_t>(total));
  const Keys for_payload = payload_keys(keys);
  if (!Aead(AeadAlgorithm::aes_128_gcm, for_payload.key, Aead::Use::open).open(for_payload.nonce, {}, sealed)) {
    return fault(WireFault::bad_tag, kSealedLength);
  }
  const ConstSpan plain = ConstSpan(sealed).first(size);
  if (plain[0] != keys.response_auth) return fault(WireFault::bad_command, kSealedLength);
  if (plain_bytes(plain) > size) return fault(WireFault::truncated, kSealedLength + 3);
  return Step<ResponseHeader>{total, ResponseHeader{command_in(plain), response_body(keys)}};
}

Decoded<Step<ResponseHeader>> decode_legacy(const SessionKeys& keys, ConstSpan in) {
  if (in.size() < 4) return Step<ResponseHeader>{};
  std::array<std::uint8_t, 4 + 255> plain;
  crypto::CfbStream cfb(keys.response_key, {keys.response_iv, 0}, crypto::CfbStream::Use::decrypt);
  cfb.apply(in.first(4), plain);
  if (plain[0] != keys.response_auth) return fault(WireFault::bad_command, 0);
  const std::size_t size = plain_bytes(plain);
  if (in.size() < size) return Step<ResponseHeader>{};
  cfb.apply(in.subspan(4, size - 4), MutSpan(plain).subspan(4));
  ResponseHeader header{command_in(ConstSpan(plain).first(size)), response_body(keys)};
  if (keys.security == Security::cfb) header.body.cfb = cfb.position();
  return Step<ResponseHeader>{size, std::move(header)};
}

}  // namespace

std::size_t encode_response(const SessionKeys& keys, MutSpan out) {
  const std::array<std::uint8_t, 4> plain{keys.response_auth, 0, 0, 0};
  if (keys.legacy) {
    crypto::CfbStream cfb(keys.response_key, {keys.response_iv, 0}, crypto::CfbStream::Use::encrypt);
    cfb.apply(plain, out);
    return plain.size();
  }
  assert(out.size() >= kMaxResponseBytes);
  std::array<std::uint8_t, 2> length;
  store_be16(length, plain.size());
  const Keys for_length = length_keys(keys);
  const Keys for_payload = payload_keys(keys);
  Aead(AeadAlgorithm::aes_128_gcm, for_length.key, Aead::Use::seal).seal(for_length.nonce, {}, ConstSpan(length), out);
  Aead(AeadAlgorithm::aes_128_gcm, for_payload.key, Aead::Use::seal)
      .seal(for_payload.nonce, {}, ConstSpan(plain), out.subspan(kSealedLength));
  return kMaxResponseBytes;
}

Decoded<Step<ResponseHeader>> decode_response(const SessionKeys& keys, ConstSpan in) {
  return keys.legacy ? decode_legacy(keys, in) : decode_aead(keys, in);
}

}  // namespace ebb::vmess
