// What a user's id turns into: command key, alter ids, authentication values, drain limits.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/strong_id.h"
#include "common/base/time.h"
#include "common/crypto/hash.h"
#include "common/crypto/random.h"
#include "common/protocol/vmess/session_keys.h"

namespace ebb::vmess {

struct User {
  UserId id;
  std::uint16_t alter_id = 0;  // how many alter ids exist; above 0 the server also takes legacy headers from this user
};

/// MD5(id || constant). Always of the main id. spec/vmess.md 1.2.
Block16 command_key(const UserId& id);
/// The next id in the chain of alter ids. spec/vmess.md 1.3.
UserId next_alter_id(const UserId& id);
/// The main id, then `user.alter_id` alter ids.
std::vector<UserId> all_ids(const User& user);

/// The key of AuthIDs of this user. spec/vmess.md 4.2.
Block16 auth_id_key(const Block16& cmd_key);
/// The 16 bytes before encryption: time, random, CRC-32.
Block16 auth_id_plain(UnixSeconds time, const std::array<std::uint8_t, 4>& random);

/// A legacy header's first 16 bytes, for any of a user's ids, and the IV of its encryption. spec/vmess.md 5.1.
Block16 legacy_auth(const UserId& id, UnixSeconds time);
Block16 legacy_header_iv(UnixSeconds time);

/// How many bytes a connection that fails authentication is read for before it is closed: fixed + base + 0..spread-1.
/// Base (0..3265) and spread (1..64) depend on the ids only, so they are the same after a restart and in every worker.
/// spec/vmess.md 6.3.
struct DrainLimits {
  std::uint16_t base = 0;
  std::uint16_t spread = 1;
  static DrainLimits server(std::span<const User> users);
  static DrainLimits client(const UserId& id);
  std::size_t server_total(crypto::RandomSource& random) const { return 54u + base + random.below(spread); }
  std::size_t client_total(crypto::RandomSource& random) const { return 18u + base + random.below(spread); }
};

}  // namespace ebb::vmess
