#include "common/reverse/picker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

namespace ebb::reverse {
namespace {

using Counts = std::vector<std::size_t>;

/// Bridges 1, 2, 3 with one tunnel each.
std::vector<Candidate> three() {
  return {{.id = TunnelId{10}, .bridge = 1}, {.id = TunnelId{20}, .bridge = 2}, {.id = TunnelId{30}, .bridge = 3}};
}

/// How many of `visitors` each candidate gets when nobody stays.
Counts share(Picker& picker, const std::vector<Candidate>& tunnels, std::size_t visitors) {
  Counts out(tunnels.size());
  for (std::size_t i = 0; i < visitors; ++i) ++out[*picker.pick(tunnels, i)];
  return out;
}

/// As far as whole turns go.
bool even(const Counts& counts) {
  const auto [least, most] = std::ranges::minmax(counts);
  return most - least <= 2;
}

/// The same when everybody stays.
Counts fill(Picker& picker, std::vector<Candidate> tunnels, std::size_t visitors) {
  for (std::size_t i = 0; i < visitors; ++i) ++tunnels[*picker.pick(tunnels, i)].streams;
  Counts out;
  for (const auto& each : tunnels) out.push_back(each.streams);
  return out;
}

TEST(Picker, TakesTheLeastLoaded) {
  Picker picker;
  auto tunnels = three();
  tunnels[0].streams = 2, tunnels[1].streams = 1, tunnels[2].streams = 2;
  EXPECT_EQ(picker.pick(tunnels), 1U);
  tunnels[1].bytes_in_flight = 1 << 20, tunnels[0].streams = 3;
  EXPECT_EQ(picker.pick(tunnels), 2U);
  tunnels[2].bytes_in_flight = 100;  // a few bytes are no load
  EXPECT_EQ(picker.pick(tunnels), 2U);
  tunnels[2].streams = 10, tunnels[2].weight = 10, tunnels[0].streams = 2;
  EXPECT_EQ(picker.pick(tunnels), 2U) << "ten times the weight, five times the streams";
}

TEST(Picker, SharesTiesEvenly) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin, PickPolicy::order}) {
    Picker picker(policy);
    EXPECT_EQ(share(picker, three(), 99), (Counts{33, 33, 33}));
    EXPECT_EQ(fill(picker, three(), 99), (Counts{33, 33, 33}));
  }
}

TEST(Picker, SharesByWeight) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin}) {
    Picker picker(policy);
    auto tunnels = three();
    tunnels[0].weight = 3, tunnels[2].weight = 2;
    EXPECT_EQ(share(picker, tunnels, 600), (Counts{300, 100, 200}));
    const auto held = fill(picker, tunnels, 600);
    EXPECT_NEAR(static_cast<double>(held[0]), 300, 2);
    EXPECT_NEAR(static_cast<double>(held[1]), 100, 2);
  }
}

TEST(Picker, SharesAmongBridgesNotTunnels) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin}) {
    Picker picker(policy);
    const std::vector<Candidate> tunnels{{.id = TunnelId{1}, .bridge = 1},
                                         {.id = TunnelId{2}, .bridge = 1},
                                         {.id = TunnelId{3}, .bridge = 2},
                                         {.id = TunnelId{4}, .bridge = 1}};
    EXPECT_EQ(share(picker, tunnels, 60), (Counts{10, 10, 30, 10}));
  }
}

TEST(Picker, OneThatWasAwayOrBusyDoesNotMakeUpForIt) {
  Picker picker;
  auto tunnels = three();
  tunnels[0].streams = 1;  // a visitor who stays
  EXPECT_EQ(share(picker, tunnels, 1000), (Counts{0, 500, 500}));
  tunnels[0].streams = 0;
  EXPECT_TRUE(even(share(picker, tunnels, 30)));
  tunnels[1].usable = false;
  share(picker, tunnels, 1000);
  tunnels[1].usable = true;
  EXPECT_TRUE(even(share(picker, tunnels, 30)));
}

TEST(Picker, GoesRound) {
  Picker picker(PickPolicy::roundrobin);
  auto tunnels = three();
  tunnels[1].streams = 1000;
  Counts seen;
  for (int i = 0; i < 6; ++i) seen.push_back(*picker.pick(tunnels));
  EXPECT_EQ(seen, (Counts{0, 1, 2, 0, 1, 2}));
  tunnels[1].usable = false;
  EXPECT_EQ(share(picker, tunnels, 10), (Counts{5, 0, 5}));
}

TEST(Picker, TakesTheLowestRankAndComesBackToIt) {
  Picker picker(PickPolicy::order);
  auto tunnels = three();
  tunnels[0].rank = 2, tunnels[1].rank = 1, tunnels[2].rank = 3;
  tunnels[1].streams = 1000;
  EXPECT_EQ(share(picker, tunnels, 10), (Counts{0, 10, 0}));
  tunnels[1].usable = false;
  EXPECT_EQ(share(picker, tunnels, 10), (Counts{10, 0, 0}));
  tunnels[0].usable = false;
  EXPECT_EQ(picker.pick(tunnels), 2U);
  tunnels[1].usable = true;
  EXPECT_EQ(share(picker, tunnels, 10), (Counts{0, 10, 0}));
}

TEST(Picker, KeepsAVisitorsBridgeWhenAnotherLeaves) {
  Picker picker(PickPolicy::hash);
  const auto all = three();
  const std::vector<Candidate> fewer{all[0], all[2]};
  std::array<int, 3> share{};
  for (std::uint64_t key = 0; key < 3000; ++key) {
    const auto before = *picker.pick(all, key);
    ++share[before];
    const auto after = fewer[*picker.pick(fewer, key)].bridge;
    EXPECT_TRUE(before == 1 || after == all[before].bridge) << "only the visitors of the lost bridge move";
    EXPECT_EQ(picker.pick(all, key), before);
  }
  for (const auto count : share) EXPECT_NEAR(count, 1000, 120);
  auto heavy = three();
  heavy[2].weight = 8;
  int to_heavy = 0;
  for (std::uint64_t key = 0; key < 3000; ++key) to_heavy += picker.pick(heavy, key) == 2U ? 1 : 0;
  EXPECT_NEAR(to_heavy, 2400, 120);
}

TEST(Picker, KeepsAVisitorsBridgeWhateverItsTunnels) {
  Picker picker(PickPolicy::hash);
  const std::vector<Candidate> before{{.id = TunnelId{1}, .bridge = 7}, {.id = TunnelId{2}, .bridge = 8}};
  const std::vector<Candidate> after{
      {.id = TunnelId{2}, .bridge = 8}, {.id = TunnelId{3}, .bridge = 7}, {.id = TunnelId{4}, .bridge = 7}};
  for (std::uint64_t key = 0; key < 300; ++key) {
    EXPECT_EQ(before[*picker.pick(before, key)].bridge, after[*picker.pick(after, key)].bridge);
  }
}

TEST(Picker, FallsBackToTheYoungestDrainingOne) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin, PickPolicy::hash, PickPolicy::order}) {
    Picker picker(policy);
    auto tunnels = three();
    for (auto& t : tunnels) t.usable = false;
    EXPECT_EQ(picker.pick(tunnels), std::nullopt);
    tunnels[0].last_resort = tunnels[1].last_resort = true;
    EXPECT_EQ(picker.pick(tunnels), 1U);
    tunnels[1].standing = Standing::failing;
    EXPECT_EQ(picker.pick(tunnels), 0U);
    tunnels[0].standing = Standing::failing;
    EXPECT_EQ(picker.pick(tunnels), 1U);
    tunnels[2].usable = true;
    EXPECT_EQ(picker.pick(tunnels), 2U);
    EXPECT_EQ(picker.pick({}), std::nullopt);
  }
}

TEST(Picker, HeldUpOnesAreTheVeryLast) {
  Picker picker;
  auto tunnels = three();
  for (auto& t : tunnels) {
    t.usable = false;
    t.last_resort = t.congested = true;
  }
  tunnels[0].streams = 9;
  tunnels[1].streams = 2;
  tunnels[2].streams = 3;
  EXPECT_EQ(picker.pick(tunnels), 1U) << "they share who comes";
  tunnels[0].congested = false;
  EXPECT_EQ(picker.pick(tunnels), 0U) << "it drains, but is fast";
}

TEST(Picker, AvoidsAFailingBridgeWhileThereIsAnother) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin, PickPolicy::hash, PickPolicy::order}) {
    Picker picker(policy);
    auto tunnels = three();
    tunnels[0].standing = Standing::failing;
    EXPECT_EQ(share(picker, tunnels, 60)[0], 0u);
    tunnels[1].standing = tunnels[2].standing = Standing::failing;
    const auto all = share(picker, tunnels, 60);
    EXPECT_GT(all[0], 0u) << "where all fail nobody is avoided";
    if (policy != PickPolicy::hash) {
      EXPECT_TRUE(even(all));
    }
  }
}

TEST(Picker, FindsOutWithAFewVisitorsWhenOthersAreProven) {
  for (const auto policy : {PickPolicy::least, PickPolicy::roundrobin}) {
    Picker picker(policy);
    auto tunnels = three();
    tunnels[0].standing = Standing::crowded;
    EXPECT_GT(share(picker, tunnels, 60)[0], 0u) << "the others are not known either";
    tunnels[1].standing = Standing::proven;
    EXPECT_EQ(share(picker, tunnels, 60), (Counts{0, 30, 30}));
  }
  for (const auto policy : {PickPolicy::hash, PickPolicy::order}) {
    Picker picker(policy);
    auto tunnels = three();
    tunnels[0].rank = 0, tunnels[1].rank = tunnels[2].rank = 1;
    const auto before = share(picker, tunnels, 60);
    tunnels[0].standing = Standing::crowded;
    tunnels[1].standing = Standing::proven;
    EXPECT_EQ(share(picker, tunnels, 60), before) << "visitors belong to a bridge";
  }
}

TEST(Picker, StaysSmallWhenBridgesComeAndGo) {
  Picker picker;
  for (std::uint64_t i = 1; i < 10000; ++i) {
    const std::vector<Candidate> tunnels{{.id = TunnelId{i}, .bridge = i}, {.id = TunnelId{i + 1}, .bridge = i + 1}};
    ASSERT_TRUE(picker.pick(tunnels));
  }
  EXPECT_LE(picker.remembered(), 70u);
}

}  // namespace
}  // namespace ebb::reverse
