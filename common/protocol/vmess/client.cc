#include "common/protocol/vmess/client.h"

#include <algorithm>

namespace ebb::vmess {
namespace {

constexpr UnixSeconds kJitter = 30;  // a legacy time is now - 30 .. now + 29

/// One of the alter ids at random, the main id when there are none.
UserId pick_legacy_id(const User& user, crypto::RandomSource& random) {
  if (user.alter_id == 0) return user.id;
  UserId id = user.id;
  for (std::uint32_t steps = 1 + random.below(user.alter_id); steps > 0; --steps) id = next_alter_id(id);
  return id;
}

}  // namespace

Decoded<ClientHandshake> ClientHandshake::make(const ClientOptions& options, const Target& target, UnixSeconds now,
                                               crypto::RandomSource& random) {
  ClientHandshake self;
  RequestHeader header;
  SessionKeys& keys = header.keys;
  keys.options = options.options;
  keys.security = options.security;
  keys.legacy = options.legacy;
  if (keys.has(option::padding) && !keys.has(option::mask)) {
    return std::unexpected(WireError{WireFault::bad_option, 34});
  }
  const std::string* name = target.name();
  keys.command = name && *name == kMuxHost        ? Command::mux
                 : target.network == Network::udp ? Command::udp
                                                  : Command::tcp;
  header.target = target;
  random.fill(keys.request_iv);
  random.fill(keys.request_key);
  std::array<std::uint8_t, 1> response_auth;
  random.fill(response_auth);
  keys.response_auth = response_auth[0];
  std::array<std::uint8_t, 15> padding;
  const std::size_t padding_bytes = random.below(16);
  random.fill(MutSpan(padding).first(padding_bytes));
  derive_response_keys(keys);

  std::array<std::uint8_t, kMaxRequestPlain> plain;
  const auto size = encode_request(header, ConstSpan(padding).first(padding_bytes), plain);
  if (!size) return std::unexpected(size.error());
  const ConstSpan text = ConstSpan(plain).first(*size);
  const Block16 cmd_key = command_key(options.user.id);
  if (options.legacy) {
    const UnixSeconds time = now - kJitter + random.below(2 * kJitter);
    self.request_size_ = seal_legacy_request(cmd_key, pick_legacy_id(options.user, random), time, text, self.request_);
  } else {
    std::array<std::uint8_t, 4> salt;
    std::array<std::uint8_t, 8> nonce;
    random.fill(salt);
    random.fill(nonce);
    crypto::AesBlock aes(auth_id_key(cmd_key), crypto::AesBlock::Use::encrypt);
    self.request_size_ = seal_request(cmd_key, aes.apply(auth_id_plain(now, salt)), nonce, text, self.request_);
  }
  self.keys_ = keys;
  self.id_ = options.user.id;
  return self;
}

std::size_t ClientHandshake::drain_total(WireError error, crypto::RandomSource& random) const {
  if (keys_.legacy || error.fault != WireFault::bad_tag) return 0;
  return DrainLimits::client(id_).client_total(random);
}

}  // namespace ebb::vmess
