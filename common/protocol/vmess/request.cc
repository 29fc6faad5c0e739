#include "common/protocol/vmess/request.h"

#include <algorithm>
#include <cassert>
#include <string>

#include "common/crypto/cfb.h"
#include "common/protocol/address.h"
#include "common/protocol/vmess/kdf.h"

namespace ebb::vmess {
namespace {

using crypto::Aead;
using crypto::AeadAlgorithm;

constexpr std::size_t kChecksumBytes = 4;

auto fault(WireFault what, std::size_t at) { return std::unexpected(WireError{what, static_cast<std::uint32_t>(at)}); }

bool carries_address(std::uint8_t command) { return command == 1 || command == 2; }

Block16 block_at(ConstSpan bytes, std::size_t at) {
  Block16 out;
  std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), out.size(), out.begin());
  return out;
}

struct HeaderKeys {
  HeaderKeys(const Block16& cmd_key, std::string_view key_salt, std::string_view nonce_salt, ConstSpan auth_id,
             ConstSpan connection_nonce)
      : key(kdf16(cmd_key, {as_bytes(key_salt), auth_id, connection_nonce})),
        nonce(kdf12(cmd_key, {as_bytes(nonce_salt), auth_id, connection_nonce})) {}
  Block16 key;
  crypto::Nonce nonce;
};

HeaderKeys length_keys(const Block16& cmd_key, ConstSpan auth_id, ConstSpan nonce) {
  return {cmd_key, "VMess Header AEAD Key_Length", "VMess Header AEAD Nonce_Length", auth_id, nonce};
}

HeaderKeys payload_keys(const Block16& cmd_key, ConstSpan auth_id, ConstSpan nonce) {
  return {cmd_key, "VMess Header AEAD Key", "VMess Header AEAD Nonce", auth_id, nonce};
}

}  // namespace

Decoded<std::size_t> encode_request(const RequestHeader& header, ConstSpan padding, MutSpan out) {
  assert(out.size() >= kMaxRequestPlain && padding.size() <= 15);
  const SessionKeys& keys = header.keys;
  out[0] = 1;
  std::ranges::copy(keys.request_iv, out.begin() + 1);
  std::ranges::copy(keys.request_key, out.begin() + 17);
  out[33] = keys.response_auth;
  out[34] = keys.options;
  out[35] = static_cast<std::uint8_t>(padding.size() << 4 | static_cast<std::uint8_t>(keys.security));
  out[36] = 0;
  out[37] = static_cast<std::uint8_t>(keys.command);
  std::size_t at = kFixedRequestBytes;
  if (keys.command != Command::mux) {
    const std::size_t n = encode_address(header.target.host, header.target.port, kPortFirstAddress, out.subspan(at));
    if (n == 0) return fault(WireFault::bad_address, at);
    at += n;
  }
  std::ranges::copy(padding, out.begin() + static_cast<std::ptrdiff_t>(at));
  at += padding.size();
  store_be32(out.subspan(at), crypto::fnv1a(out.first(at)));
  return at + kChecksumBytes;
}

std::size_t request_bytes_needed(ConstSpan so_far) {
  if (so_far.size() < kFixedRequestBytes) return kFixedRequestBytes;
  const std::size_t tail = std::size_t{so_far[35]} / 16 + kChecksumBytes;
  if (!carries_address(so_far[37])) return kFixedRequestBytes + tail;
  const std::size_t address = address_bytes(so_far.subspan(kFixedRequestBytes), kPortFirstAddress);
  if (address != 0) return kFixedRequestBytes + address + tail;
  return so_far.size() < kFixedRequestBytes + 3 ? kFixedRequestBytes + 3 : kFixedRequestBytes + 4;
}

Decoded<RequestHeader> parse_request(ConstSpan plain, bool legacy) {
  const std::size_t size = request_bytes_needed(plain);
  if (plain.size() < size) return fault(WireFault::truncated, plain.size());
  const std::size_t checksum_at = size - kChecksumBytes;
  if (crypto::fnv1a(plain.first(checksum_at)) != load_be32(plain.subspan(checksum_at))) {
    return fault(WireFault::bad_tag, checksum_at);
  }
  const std::uint8_t command = plain[37];
  RequestHeader header;
  SessionKeys& keys = header.keys;
  if (carries_address(command)) {
    auto step = decode_address(plain.subspan(kFixedRequestBytes), kPortFirstAddress);
    auto address = step ? std::move(step->message) : std::nullopt;
    if (!address) return fault(WireFault::bad_address, kFixedRequestBytes + 2);
    header.target.host = std::move(address->host);
    header.target.port = address->port;
    header.target.network = command == 2 ? Network::udp : Network::tcp;
  } else if (command == 3) {
    header.target.host = std::string(kMuxHost);
  } else {
    return fault(WireFault::bad_command, 37);
  }
  keys.command = Command{command};
  keys.options = plain[34];
  const auto security = security_from_wire(plain[35] & 0x0F);
  if (!security) return std::unexpected(security.error());
  keys.security = *security;
  if (keys.has(option::padding) && !keys.has(option::mask)) return fault(WireFault::bad_option, 34);
  keys.request_iv = block_at(plain, 1);
  keys.request_key = block_at(plain, 17);
  keys.response_auth = plain[33];
  keys.legacy = legacy;
  derive_response_keys(keys);
  return header;
}

std::size_t seal_request(const Block16& cmd_key, const Block16& auth_id, const std::array<std::uint8_t, 8>& nonce,
                         ConstSpan plain, MutSpan out) {
  std::ranges::copy(auth_id, out.begin());
  std::array<std::uint8_t, 2> length;
  store_be16(length, static_cast<std::uint16_t>(plain.size()));
  const HeaderKeys for_length = length_keys(cmd_key, auth_id, nonce);
  Aead(AeadAlgorithm::aes_128_gcm, for_length.key, Aead::Use::seal)
      .seal(for_length.nonce, auth_id, ConstSpan(length), out.subspan(16));
  std::ranges::copy(nonce, out.begin() + 34);
  const HeaderKeys for_payload = payload_keys(cmd_key, auth_id, nonce);
  return kAeadHeadBytes + Aead(AeadAlgorithm::aes_128_gcm, for_payload.key, Aead::Use::seal)
                              .seal(for_payload.nonce, auth_id, plain, out.subspan(kAeadHeadBytes));
}

Decoded<std::uint16_t> open_request_length(const Block16& cmd_key, ConstSpan head) {
  assert(head.size() >= kAeadHeadBytes);
  const ConstSpan auth_id = head.first(16);
  const HeaderKeys keys = length_keys(cmd_key, auth_id, head.subspan(34, 8));
  std::array<std::uint8_t, 18> length;
  std::ranges::copy(head.subspan(16, length.size()), length.begin());
  if (!Aead(AeadAlgorithm::aes_128_gcm, keys.key, Aead::Use::open).open(keys.nonce, auth_id, length)) {
    return fault(WireFault::bad_tag, 16);
  }
  return load_be16(length);
}

Decoded<MutSpan> open_request(const Block16& cmd_key, ConstSpan head, MutSpan sealed) {
  assert(head.size() >= kAeadHeadBytes);
  const ConstSpan auth_id = head.first(16);
  const HeaderKeys keys = payload_keys(cmd_key, auth_id, head.subspan(34, 8));
  if (!Aead(AeadAlgorithm::aes_128_gcm, keys.key, Aead::Use::open).open(keys.nonce, auth_id, sealed)) {
    return fault(WireFault::bad_tag, kAeadHeadBytes);
  }
  return sealed.first(sealed.size() - crypto::kTagBytes);
}

std::size_t seal_legacy_request(const Block16& cmd_key, const UserId& with_id, UnixSeconds time, ConstSpan plain,
                                MutSpan out) {
  std::ranges::copy(legacy_auth(with_id, time), out.begin());
  crypto::CfbStream cfb(cmd_key, {legacy_header_iv(time), 0}, crypto::CfbStream::Use::encrypt);
  cfb.apply(plain, out.subspan(16));
  return 16 + plain.size();
}

}  // namespace ebb::vmess
