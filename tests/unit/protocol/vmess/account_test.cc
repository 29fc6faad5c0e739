#include "common/protocol/vmess/account.h"

#include <gtest/gtest.h>

#include "common/crypto/aes.h"
#include "tests/unit/protocol/vmess/vector_support.h"

namespace ebb::vmess {
namespace {

TEST(Account, IdsKeysAndLegacyAuths) {
  for (const auto& entry : test::load_vectors("vmess/ids.json")["users"]) {
    User user{user_id(entry), 4};
    EXPECT_EQ(to_hex(user.id.value), entry["bytes"].text());
    EXPECT_EQ(to_hex(command_key(user.id)), entry["cmd_key"].text());
    const auto ids = all_ids(user);
    ASSERT_EQ(ids.size(), 5u);
    EXPECT_EQ(ids[0], user.id);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(to_hex(ids[i + 1].value), entry["alter_ids"].at(i).text());
    for (const auto& legacy : entry["legacy_auth_main_id"]) {
      EXPECT_EQ(to_hex(legacy_auth(user.id, legacy["time"].number())), legacy["auth"].text());
      EXPECT_EQ(to_hex(legacy_header_iv(legacy["time"].number())), legacy["header_iv"].text());
    }
    for (const auto& legacy : entry["legacy_auth_alter_id"]) {
      const auto& id = ids[static_cast<std::size_t>(legacy["alter_index"].number()) + 1];
      EXPECT_EQ(to_hex(legacy_auth(id, legacy["time"].number())), legacy["auth"].text());
    }
  }
}

TEST(Account, AuthIds) {
  for (const auto& entry : test::load_vectors("vmess/authid.json")["vectors"]) {
    crypto::AesBlock aes(auth_id_key(array_of(entry["cmd_key"])), crypto::AesBlock::Use::encrypt);
    const Block16 plain = auth_id_plain(entry["time"].number(), array_of<4>(entry["rand4"]));
    EXPECT_EQ(to_hex(aes.apply(plain)), entry["auth_id"].text());
  }
}

TEST(Account, DrainLimitsAreStableAndInRange) {
  crypto::SeededRandom random(1);
  for (const auto& entry : test::load_vectors("vmess/drain.json")["vectors"]) {
    // The real servers' figures lie in the ranges that ours are drawn from.
    EXPECT_LE(entry["server_base"].number(), 3265);
    EXPECT_LE(entry["server_rand_max"].number(), 64);
    EXPECT_EQ(entry["server_drain_total_min"].number(), 54 + entry["server_base"].number());
    EXPECT_EQ(entry["client_drain_total_min"].number(), 18 + entry["client_base"].number());
    const User user{user_id(entry), 0};
    const auto limits = DrainLimits::server(std::span(&user, 1));
    const auto again = DrainLimits::server(std::span(&user, 1));
    EXPECT_EQ(limits.base, again.base);
    EXPECT_EQ(limits.spread, again.spread);
    EXPECT_NE(limits.base, DrainLimits::client(user.id).base);
  }
  std::uint16_t largest_base = 0;
  std::uint16_t largest_spread = 0;
  for (int i = 0; i < 500; ++i) {
    User user;
    random.fill(user.id.value);
    const auto limits = DrainLimits::server(std::span(&user, 1));
    ASSERT_LE(limits.base, 3265);
    ASSERT_GE(limits.spread, 1);
    ASSERT_LE(limits.spread, 64);
    largest_base = std::max(largest_base, limits.base);
    largest_spread = std::max(largest_spread, limits.spread);
    const std::size_t total = limits.server_total(random);
    ASSERT_GE(total, 54u + limits.base);
    ASSERT_LT(total, 54u + limits.base + limits.spread);
  }
  EXPECT_GT(largest_base, 3000);
  EXPECT_GT(largest_spread, 60);
}

}  // namespace
}  // namespace ebb::vmess
