#include "common/reverse/pool.h"

#include <gtest/gtest.h>

#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

UserId user(std::uint8_t number) {
  UserId out;
  out.value.fill(number);
  return out;
}

Hello hello(std::uint8_t node) {
  Hello out;
  out.node_id.fill(node);
  return out;
}

TEST(BridgeIdentity, IsTheUserAndTheNodeOrTheAddress) {
  const Hello one = hello(1), other = hello(2);
  const auto id = [](const std::optional<UserId>& who, const char* address, const Hello* said) {
    return bridge_identity(who, address, said);
  };
  EXPECT_EQ(id(user(1), "192.0.2.1", nullptr), id(user(1), "192.0.2.1", nullptr));
  EXPECT_NE(id(user(1), "192.0.2.1", nullptr), id(user(1), "192.0.2.2", nullptr)) << "two stock bridges of one user";
  EXPECT_NE(id(user(1), "192.0.2.1", nullptr), id(user(2), "192.0.2.1", nullptr)) << "two users behind one NAT";
  EXPECT_EQ(id(user(1), "192.0.2.1", &one), id(user(1), "192.0.2.2", &one)) << "our own may move";
  EXPECT_NE(id(user(1), "192.0.2.1", &one), id(user(1), "192.0.2.1", &other));
  EXPECT_NE(id(std::nullopt, "192.0.2.1", nullptr), id(std::nullopt, "192.0.2.2", nullptr));
}

class PoolTest : public testing::Test {
 protected:
  struct Bridge {
    std::uint64_t id;
    std::uint32_t place = 0;
    std::uint32_t weight = 0;
    bool settled = true;
    bool up = true;
  };
  std::uint64_t visit(const std::vector<Bridge>& bridges, std::uint64_t visitor = 0) {
    pool.begin(kWeb, now);
    for (const auto& each : bridges) {
      pool.add({.id = TunnelId{each.id}, .usable = each.up, .bridge = each.id, .weight = each.weight}, each.place,
               each.settled);
    }
    const auto chosen = bridges[*pool.choose(visitor)].id;
    last = pool.opened(chosen, now);
    return chosen;
  }

  Pool pool{PickPolicy::order};
  TimePoint now = kStart;
  Health::Ticket last;
};

TEST_F(PoolTest, OrderIsThatOfTheUsersInTheFile) {
  const std::vector<Bridge> both{{.id = 1, .place = 5}, {.id = 2, .place = 3}};
  EXPECT_EQ(visit(both), 2u) << "whoever came first";
  EXPECT_EQ(visit({{.id = 1, .place = 5}, {.id = 2, .place = 3, .up = false}}), 1u);
  EXPECT_EQ(visit(both), 2u) << "it is back";
}

TEST_F(PoolTest, OfOneUserTheHeavierComesFirstThenTheOneKnownForLonger) {
  EXPECT_EQ(visit({{.id = 1}, {.id = 2, .weight = 2}}), 2u);
  EXPECT_EQ(visit({{.id = 3}}), 3u);
  EXPECT_EQ(visit({{.id = 4}, {.id = 3}}), 3u);
  EXPECT_EQ(visit({{.id = 4}}), 4u) << "3 has gone";
  EXPECT_EQ(visit({{.id = 4}, {.id = 3}}), 3u) << "and come back";
  EXPECT_EQ(visit({{.id = 9, .settled = false}, {.id = 4}}), 4u) << "who is it?";
}

TEST_F(PoolTest, AFailingPrimaryIsPassedOver) {
  const std::vector<Bridge> both{{.id = 1, .place = 0}, {.id = 2, .place = 1}};
  EXPECT_EQ(visit(both), 1u);
  pool.health().failed(last, now);
  EXPECT_EQ(visit(both), 2u);
  now += Health::kFirstPause;
  EXPECT_EQ(visit(both), 1u) << "its trial";
  EXPECT_EQ(visit(both), 2u);
  pool.health().reached(last);
}

TEST_F(PoolTest, CountsVisitorsAndKeepsHealthWhenThePolicyChanges) {
  pool.set_policy(PickPolicy::roundrobin);
  const std::vector<Bridge> both{{.id = 1, .weight = 3}, {.id = 2}};
  for (int i = 0; i < 40; ++i) {
    visit(both);
    pool.health().reached(last);
  }
  EXPECT_EQ(pool.visitors(1), 30u);
  EXPECT_EQ(pool.visitors(2), 10u);
  EXPECT_EQ(pool.visitors(3), 0u);
  pool.set_policy(PickPolicy::hash);
  EXPECT_EQ(pool.policy(), PickPolicy::hash);
  EXPECT_EQ(pool.health().summary(1).proven, 1u);
}

TEST_F(PoolTest, ForgetsBridgesThatAreGoneForLongest) {
  EXPECT_EQ(visit({{.id = 1}}), 1u);
  for (std::uint64_t id = 2; id < 2 * Pool::kMaxRemembered; ++id) {
    now += seconds(1);
    visit({{.id = id}});
  }
  EXPECT_EQ(pool.visitors(1), 0u);
  EXPECT_EQ(pool.visitors(2 * Pool::kMaxRemembered - 1), 1u);
}

}  // namespace
}  // namespace ebb::reverse
