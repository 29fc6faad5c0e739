#include "common/protocol/vmess/account.h"

#include <algorithm>

#include "common/protocol/vmess/kdf.h"

namespace ebb::vmess {
namespace {

constexpr std::string_view kCommandKeySalt = "c48619fe-8f02-49e0-b9e9-edf763e17e21";
constexpr std::string_view kAlterIdSalt = "16167dc8-16b6-4e6d-b8bb-65dd68113a81";
constexpr std::string_view kAlterIdAgain = "533eff8a-4113-4b10-b5ce-0f5d76b98cd2";

/// Not the generator of the stock servers, which is Go's: only range and stability can be seen from outside.
DrainLimits expand(ConstSpan seed) {
  DrainLimits limits;
  limits.base = static_cast<std::uint16_t>(load_be32(seed) % 3266);
  limits.spread = static_cast<std::uint16_t>(1 + load_be32(seed.subspan(4)) % 64);
  return limits;
}

}  // namespace

Block16 command_key(const UserId& id) { return crypto::md5({id.value, as_bytes(kCommandKeySalt)}); }

UserId next_alter_id(const UserId& id) {
  UserId next{crypto::md5({id.value, as_bytes(kAlterIdSalt)})};
  if (next == id) next.value = crypto::md5({id.value, as_bytes(kAlterIdSalt), as_bytes(kAlterIdAgain)});
  return next;
}

std::vector<UserId> all_ids(const User& user) {
  std::vector<UserId> ids;
  ids.reserve(user.alter_id + 1u);
  ids.push_back(user.id);
  for (unsigned i = 0; i < user.alter_id; ++i) ids.push_back(next_alter_id(ids.back()));
  return ids;
}

Block16 auth_id_key(const Block16& cmd_key) { return kdf16(cmd_key, {as_bytes("AES Auth ID Encryption")}); }

Block16 auth_id_plain(UnixSeconds time, const std::array<std::uint8_t, 4>& random) {
  Block16 plain;
  const MutSpan out(plain);
  store_be64(out, static_cast<std::uint64_t>(time));
  std::ranges::copy(random, plain.begin() + 8);
  store_be32(out.subspan(12), crypto::crc32(out.first(12)));
  return plain;
}

Block16 legacy_auth(const UserId& id, UnixSeconds time) {
  std::array<std::uint8_t, 8> wire;
  store_be64(wire, static_cast<std::uint64_t>(time));
  return crypto::hmac_md5(id.value, {wire});
}

Block16 legacy_header_iv(UnixSeconds time) {
  std::array<std::uint8_t, 8> wire;
  store_be64(wire, static_cast<std::uint64_t>(time));
  return crypto::md5({wire, wire, wire, wire});
}

DrainLimits DrainLimits::server(std::span<const User> users) {
  crypto::Digest32 seed{};
  for (const User& user : users) {
    seed = crypto::sha256({seed, crypto::hmac_sha256(as_bytes("VMESSBSKDF"), {user.id.value})});
  }
  return expand(seed);
}

DrainLimits DrainLimits::client(const UserId& id) {
  return expand(crypto::hmac_sha256(as_bytes("VMessBF"), {id.value}));
}

}  // namespace ebb::vmess
