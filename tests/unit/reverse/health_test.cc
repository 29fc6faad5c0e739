#include "common/reverse/health.h"

#include <gtest/gtest.h>

#include "common/reverse/picker.h"
#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

constexpr std::uint64_t kBridge = 7, kTarget = 80;

TEST(Health, AnUntriedBridgeFailsOnceAndAProvenOneTwiceInARow) {
  Health health;
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::untried);
  health.failed(health.opened(kBridge, kTarget, kStart), kStart);
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::failing);
  EXPECT_EQ(health.standing(kBridge, 443, kStart), Standing::untried) << "another target";
  EXPECT_EQ(health.standing(8, kTarget, kStart), Standing::untried) << "another bridge";

  Health other;
  other.reached(other.opened(kBridge, kTarget, kStart));
  EXPECT_EQ(other.standing(kBridge, kTarget, kStart), Standing::proven);
  other.failed(other.opened(kBridge, kTarget, kStart), kStart);
  EXPECT_EQ(other.standing(kBridge, kTarget, kStart), Standing::proven) << "some visitors only look in";
  other.reached(other.opened(kBridge, kTarget, kStart));
  other.failed(other.opened(kBridge, kTarget, kStart), kStart);
  EXPECT_EQ(other.standing(kBridge, kTarget, kStart), Standing::proven) << "not in a row";
  other.failed(other.opened(kBridge, kTarget, kStart), kStart);
  EXPECT_EQ(other.standing(kBridge, kTarget, kStart), Standing::failing);
}

TEST(Health, TriesAgainOneByOneAtGrowingIntervals) {
  Health health;
  auto now = kStart;
  health.failed(health.opened(kBridge, kTarget, now), now);
  for (const auto pause : {10, 20, 40, 80, 80}) {
    now += seconds(pause) - milliseconds(1);
    EXPECT_EQ(health.standing(kBridge, kTarget, now), Standing::failing) << pause;
    now += milliseconds(1);
    EXPECT_EQ(health.standing(kBridge, kTarget, now), Standing::untried) << pause;
    const auto trial = health.opened(kBridge, kTarget, now);
    EXPECT_EQ(health.standing(kBridge, kTarget, now), Standing::failing) << "one at a time";
    health.failed(trial, now);
  }
  now += seconds(80);
  health.reached(health.opened(kBridge, kTarget, now));
  EXPECT_EQ(health.standing(kBridge, kTarget, now), Standing::proven);
}

TEST(Health, StreamsOfTheSameBurstCountOnce) {
  Health health;
  std::vector<Health::Ticket> burst;
  for (int i = 0; i < 10; ++i) burst.push_back(health.opened(kBridge, kTarget, kStart));
  const auto late = kStart + seconds(1);
  for (const auto& each : burst) health.failed(each, late);
  EXPECT_EQ(health.standing(kBridge, kTarget, late + Health::kFirstPause), Standing::untried);
  // So do visitors who are sent there because everybody fails.
  for (int i = 0; i < 10; ++i) health.failed(health.opened(kBridge, kTarget, late), late + seconds(1));
  EXPECT_EQ(health.standing(kBridge, kTarget, late + Health::kFirstPause), Standing::untried);
}

TEST(Health, FindsOutWithAFewStreamsButNotForLong) {
  Health health;
  const auto first = health.opened(kBridge, kTarget, kStart);
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::untried);
  const auto second = health.opened(kBridge, kTarget, kStart);
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::crowded);
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart + Health::kAtOnce), Standing::untried) << "a silent protocol";
  health.dropped(first);
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::untried);
  health.reached(second);
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::proven);
}

TEST(Health, ATrialThatWasDroppedIsNoTrial) {
  Health health;
  health.failed(health.opened(kBridge, kTarget, kStart), kStart);
  const auto later = kStart + Health::kFirstPause;
  health.dropped(health.opened(kBridge, kTarget, later));
  EXPECT_EQ(health.standing(kBridge, kTarget, later), Standing::untried);
}

TEST(Health, JudgesAnEndByWhoSaysItAndWhen) {
  using Ending = Health::Ending;
  const auto after = [](Ending how, bool always_says, Duration when) {
    Health health;
    health.ended(health.opened(kBridge, kTarget, kStart), how, always_says, kStart + when);
    return health.standing(kBridge, kTarget, kStart + when);
  };
  EXPECT_EQ(after(Ending::aborted, true, seconds(1)), Standing::failing);
  EXPECT_EQ(after(Ending::aborted, false, seconds(1)), Standing::failing);
  EXPECT_EQ(after(Ending::complete, false, milliseconds(5)), Standing::failing) << "a stock bridge does not tell";
  EXPECT_EQ(after(Ending::complete, true, milliseconds(5)), Standing::untried) << "there was an origin, and it closed";
  EXPECT_EQ(after(Ending::complete, false, seconds(6)), Standing::untried) << "it was there, and waited";
  EXPECT_EQ(after(Ending::aborted, false, seconds(12)), Standing::failing) << "a black hole takes long to notice";
}

TEST(Health, TakesABridgesWordForIt) {
  using Ending = Health::Ending;
  Health health;
  health.reached(health.opened(kBridge, kTarget, kStart));
  for (int i = 0; i < 10; ++i) {
    health.ended(health.opened(kBridge, kTarget, kStart), Ending::elsewhere, true, kStart + seconds(1));
  }
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::proven) << "a visitor's reset, an overrun";
  health.ended(health.opened(kBridge, kTarget, kStart), Ending::unreached, true, kStart + seconds(30));
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart + seconds(30)), Standing::failing) << "once, however late";

  Health other;
  other.ended(other.opened(kBridge, kTarget, kStart), Ending::elsewhere, true, kStart);
  EXPECT_EQ(other.standing(kBridge, kTarget, kStart), Standing::untried);
}

TEST(Health, IsBounded) {
  Health health;
  const auto first = health.opened(kBridge, kTarget, kStart);
  for (std::uint64_t target = 1000; target < 1000 + 2 * Health::kMaxEntries; ++target) {
    health.failed(health.opened(1, target, kStart), kStart);
    if (target % 100 == 0) health.reached(health.opened(kBridge, 1, kStart));
  }
  EXPECT_EQ(health.size(), Health::kMaxEntries);
  EXPECT_EQ(health.standing(kBridge, 1, kStart), Standing::proven) << "the one in use stays";
  health.failed(first, kStart);  // of one that was forgotten
  EXPECT_EQ(health.standing(kBridge, kTarget, kStart), Standing::untried);
  EXPECT_EQ(health.summary(kBridge).proven, 1u);
  EXPECT_GT(health.summary(1).failing, 1000u);
  EXPECT_EQ(health.summary(1).next_trial, kStart + Health::kFirstPause);
}

/// Visitors one after the other; an origin that is not there is noticed after a second.
struct Pool {
  Health health;
  Picker picker;
  TimePoint now = kStart;
  std::vector<Candidate> tunnels{{.id = TunnelId{1}, .bridge = 1}, {.id = TunnelId{2}, .bridge = 2}};

  /// Whether the visitor is served. `alive`: by bridge, from 0.
  bool visit(const std::array<bool, 2>& alive) {
    for (auto& each : tunnels) each.standing = health.standing(each.bridge, kTarget, now);
    const auto chosen = *picker.pick(tunnels, 0);
    const auto ticket = health.opened(tunnels[chosen].bridge, kTarget, now);
    if (alive[chosen]) {
      health.reached(ticket);
    } else {
      now += seconds(1);
      health.ended(ticket, Health::Ending::aborted, false, now);
    }
    return alive[chosen];
  }
};

TEST(Health, OneDeadServiceOfTwoCostsTwoOfTwentyVisitors) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin, PickPolicy::order}) {
    for (const bool proven : {false, true}) {
      Pool pool;
      pool.picker = Picker(policy);
      if (proven) {
        for (int i = 0; i < 10; ++i) pool.visit({true, true});
      }
      int failed = 0;
      for (int i = 0; i < 20; ++i) failed += pool.visit({false, true}) ? 0 : 1;
      EXPECT_LE(failed, 2);
      pool.now += Health::kLongestPause;
      for (int i = 0; i < 4; ++i) pool.visit({true, true});
      EXPECT_EQ(pool.health.standing(1, kTarget, pool.now), Standing::proven) << "it is taken back";
    }
  }
}

TEST(Health, AnOriginThatClosesWithoutAnAnswerDoesNotStarveAPool) {
  Pool pool;
  std::array<int, 2> got{};
  for (int i = 0; i < 1000; ++i) {
    for (auto& each : pool.tunnels) each.standing = pool.health.standing(each.bridge, kTarget, pool.now);
    const auto chosen = *pool.picker.pick(pool.tunnels);
    ++got[chosen];
    pool.now += milliseconds(10);
    const auto ticket = pool.health.opened(pool.tunnels[chosen].bridge, kTarget, pool.now);
    // Every second visitor is one of the kind that gets no answer, as with a stock bridge.
    i % 4 < 2 ? pool.health.reached(ticket) : pool.health.ended(ticket, Health::Ending::complete, false, pool.now);
  }
  EXPECT_NEAR(got[0], got[1], 300);
}

}  // namespace
}  // namespace ebb::reverse
