#include <gtest/gtest.h>

#include "common/reverse/bridge_plan.h"
#include "common/reverse/portal_plan.h"
#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

using Ids = std::vector<TunnelId>;

TEST(BridgePlan, KeepsV2raysNumbers) {
  BridgePlan plan;
  EXPECT_EQ(plan.wanted({}), 1U);
  EXPECT_EQ(plan.wanted({.active = 1, .sessions = 16}), 1U);
  EXPECT_EQ(plan.wanted({.active = 1, .sessions = 17}), 2U);
  EXPECT_EQ(plan.wanted({.active = 1, .dialling = 1, .sessions = 17}), 2U) << "one more is under way";
  EXPECT_EQ(plan.wanted({.active = 2, .sessions = 33}), 2U);
  EXPECT_EQ(plan.wanted({.active = 2, .sessions = 34}), 3U);
  EXPECT_EQ(plan.wanted({.active = 3, .sessions = 1}), 3U) << "never fewer because there are too many";
  EXPECT_EQ(plan.dials_due({.draining = 1}, kStart), 1U) << "DRAIN is replaced at once";
}

TEST(BridgePlan, ObeysMinimumAndMaximum) {
  BridgePlan plan({.min_tunnels = 3, .max_tunnels = 4});
  EXPECT_EQ(plan.dials_due({}, kStart), 3U);
  EXPECT_EQ(plan.dials_due({.active = 2, .dialling = 1}, kStart), 0U);
  EXPECT_EQ(plan.wanted({.active = 4, .sessions = 1000}), 4U);
  EXPECT_EQ(plan.dials_due({.active = 0, .draining = 4}, kStart), 3U) << "draining ones do not count";
  EXPECT_EQ(BridgePlan().dials_due({.draining = BridgePlan::kMaxLive}, kStart), 0U) << "but are not unbounded";
}

TEST(BridgePlan, BacksOffWithJitter) {
  BridgePlan plan;
  auto now = kStart;
  const auto half = std::uint64_t{1} << 63;
  for (const auto expected : {500, 1000, 2000, 2000, 2000}) {
    EXPECT_EQ(plan.dials_due({}, now), 1U);
    plan.dial_failed(now, half);
    EXPECT_EQ(plan.dials_due({}, now), 0U);
    EXPECT_EQ(plan.next_deadline(now), now + milliseconds(expected));
    now += milliseconds(expected);
    EXPECT_EQ(plan.next_deadline(now), std::nullopt);
    EXPECT_EQ(plan.dials_due({.dialling = 1}, now), 0U);
  }
  plan.dial_failed(now, 0);
  EXPECT_EQ(plan.next_deadline(now), now + milliseconds(1600));
  plan.dial_failed(now, ~std::uint64_t{0});
  EXPECT_GT(*plan.next_deadline(now), now + milliseconds(2399));
  EXPECT_LE(*plan.next_deadline(now), now + milliseconds(2400));
}

TEST(BridgePlan, DialsOneAtATimeWhileThePortalIsAway) {
  BridgePlan plan({.min_tunnels = 4});
  plan.dial_failed(kStart, 0);
  EXPECT_EQ(plan.dials_due({}, kStart + seconds(3)), 1U);
  plan.tunnel_settled();
  EXPECT_EQ(plan.dials_due({.active = 1}, kStart + seconds(3)), 3U);
}

TEST(BridgePlan, ReconnectsAtOnceAfterALossButNotInAHotLoop) {
  BridgePlan plan;
  plan.tunnel_lost(seconds(100), false, kStart, 0);
  EXPECT_EQ(plan.dials_due({}, kStart), 1U);
  plan.tunnel_lost(milliseconds(5), false, kStart, 0);  // accepted and closed
  EXPECT_EQ(plan.dials_due({}, kStart), 0U);
  plan.tunnel_lost(milliseconds(5), false, kStart, 0);  // another one of the same moment
  EXPECT_EQ(plan.next_deadline(kStart), kStart + milliseconds(400));
  const auto later = kStart + milliseconds(400);
  plan.tunnel_lost(milliseconds(5), false, later, 0);
  EXPECT_EQ(plan.next_deadline(later), later + milliseconds(800));
}

TEST(BridgePlan, APortalThatAnsweredIsDialledAtOnceAgainHoweverOftenItDies) {
  BridgePlan plan({.min_tunnels = 2});
  auto now = kStart;
  for (int i = 0; i < 5; ++i) {
    for (int tunnel = 0; tunnel < 4; ++tunnel) plan.tunnel_lost(milliseconds(480), true, now, 0);
    EXPECT_EQ(plan.dials_due({}, now), 2U);
    now += milliseconds(480);
  }
  plan.tunnel_lost(milliseconds(10), true, now, 0);  // it hangs up at once: not in a hot loop
  EXPECT_EQ(plan.dials_due({}, now), 0U);
  EXPECT_EQ(plan.next_deadline(now), now + milliseconds(240));
  plan.dial_failed(now + milliseconds(240), 0);
  EXPECT_EQ(plan.next_deadline(now + milliseconds(240)), now + milliseconds(240 + 800));
  plan.tunnel_settled();
  EXPECT_EQ(plan.dials_due({}, now + milliseconds(241)), 2U);
}

TEST(PortalPlan, AsksUntilTheNumberIsThere) {
  std::vector<PoolMember> pool{{.id = TunnelId{1}}};
  EXPECT_EQ(tunnels_to_ask(pool, 0), Ids());
  EXPECT_EQ(tunnels_to_ask(pool, 3), (Ids{TunnelId{1}}));
  pool[0].asked = true;
  EXPECT_EQ(tunnels_to_ask(pool, 3), Ids()) << "once is enough";
  pool.push_back({.id = TunnelId{2}});
  EXPECT_EQ(tunnels_to_ask(pool, 3), (Ids{TunnelId{2}}));
  pool[1].asked = true;
  pool.push_back({.id = TunnelId{3}});
  EXPECT_EQ(tunnels_to_ask(pool, 3), Ids()) << "the newest stays unasked";
  pool.erase(pool.begin());
  EXPECT_EQ(tunnels_to_ask(pool, 3), (Ids{TunnelId{3}}));
}

TEST(PortalPlan, CountsEachBridgeAndNoTunnelThatLeaves) {
  std::vector<PoolMember> pool{{.id = TunnelId{1}, .bridge = 7},
                               {.id = TunnelId{2}, .bridge = 8},
                               {.id = TunnelId{3}, .bridge = 8},
                               {.id = TunnelId{4}, .bridge = 7, .draining = true}};
  EXPECT_EQ(tunnels_to_ask(pool, 2), (Ids{TunnelId{1}}));
  EXPECT_EQ(tunnels_replaced(pool), (Ids{TunnelId{4}}));
  pool[0].draining = true;
  EXPECT_EQ(tunnels_replaced(pool), Ids()) << "both of bridge 7 leave: there is no replacement";
  pool[1].draining = true;
  EXPECT_EQ(tunnels_replaced(pool), (Ids{TunnelId{2}}));
  pool[2].congested = true;
  EXPECT_EQ(tunnels_replaced(pool), Ids()) << "one that takes no streams replaces nothing";
}

TEST(PortalPlan, CallsForAnotherTunnelWhenAllAreCongestedWithinBounds) {
  std::vector<PoolMember> pool{{.id = TunnelId{1}, .congested = true}, {.id = TunnelId{2}}};
  EXPECT_EQ(tunnels_to_ask(pool, 0), Ids()) << "the other one serves";
  pool[1].congested = true;
  EXPECT_EQ(tunnels_to_ask(pool, 0), (Ids{TunnelId{1}, TunnelId{2}}));
  for (std::uint64_t id = 3; id <= 33; ++id) pool.push_back({.id = TunnelId{id}, .congested = true});
  EXPECT_EQ(tunnels_to_ask(pool, 0), Ids()) << "33 tunnels full of lagging consumers get no 34th";
}

}  // namespace
}  // namespace ebb::reverse
