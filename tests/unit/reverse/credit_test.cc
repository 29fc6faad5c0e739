#include "common/reverse/credit.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace ebb::reverse {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

TEST(SendCredit, StartsWithWhatWasAnnouncedAndNeverWithLessThanTheMinimum) {
  EXPECT_EQ(SendCredit(256 * kKiB).left(), 256 * kKiB);
  EXPECT_EQ(SendCredit(100).left(), kMinWindow);
  EXPECT_EQ(SendCredit(0).left(), kMinWindow);
}

TEST(SendCredit, SaysWhenAStreamMayComeBack) {
  SendCredit credit(kMinWindow);
  EXPECT_FALSE(credit.add(10));
  credit.spend(kMinWindow + 10);
  EXPECT_EQ(credit.left(), 0u);
  EXPECT_FALSE(credit.add(0));
  EXPECT_TRUE(credit.add(1));
  EXPECT_FALSE(credit.add(1));
  EXPECT_EQ(credit.left(), 2u);
}

TEST(SendCredit, DoesNotOverflow) {
  constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
  SendCredit credit(kMinWindow);
  credit.add(kMax);
  EXPECT_EQ(credit.left(), kMax);
  credit.add(kMax);
  credit.spend(kMax);
  EXPECT_EQ(credit.left(), 0u);
}

TEST(SendCredit, OfAnEarlyStreamCountsFromItsFirstByte) {
  SendCredit limited = SendCredit::early(true);
  EXPECT_EQ(limited.left(), kMinWindow);
  limited.spend(1000);
  limited.begin(64 * kKiB);
  EXPECT_EQ(limited.left(), 64 * kKiB - 1000);

  SendCredit below = SendCredit::early(false);
  EXPECT_EQ(below.left(), SendCredit::kUnlimited);
  below.spend(1000);
  below.begin(64 * kKiB);
  EXPECT_EQ(below.left(), 64 * kKiB - 1000);
}

TEST(SendCredit, WhatAnEarlyStreamSentBeyondItComesOffWhatFollows) {
  SendCredit credit = SendCredit::early(false);
  credit.spend(100 * kKiB);
  credit.begin(64 * kKiB);
  EXPECT_EQ(credit.left(), 0u);
  EXPECT_FALSE(credit.add(36 * kKiB));
  EXPECT_EQ(credit.left(), 0u);
  EXPECT_TRUE(credit.add(1));
  EXPECT_EQ(credit.left(), 1u);
}

TEST(WindowBudget, AnnouncesLessWhenItIsSmall) {
  EXPECT_EQ(WindowBudget().announced(), 64 * kKiB);
  EXPECT_EQ(WindowBudget(1024 * kMiB).announced(), 64 * kKiB);
  EXPECT_EQ(WindowBudget(16 * kMiB).announced(), 32 * kKiB);
  EXPECT_EQ(WindowBudget(64 * kKiB).announced(), kMinWindow);
}

TEST(ReceiveWindow, CostsWhatWasAnnouncedAndGrowsOnceAQuarterOfItIsTaken) {
  WindowBudget budget;
  ReceiveWindow window(budget);
  EXPECT_EQ(window.outstanding(), budget.announced());
  EXPECT_EQ(budget.charged(), budget.announced());
  const std::uint64_t quarter = budget.announced() / 4;
  ASSERT_TRUE(window.received(quarter));
  EXPECT_EQ(window.consumed(quarter - 1, TimePoint(1s)), 0u) << "a short answer is not worth a message";
  EXPECT_EQ(window.consumed(1, TimePoint(1s)), kInitialWindow - budget.announced() + quarter);
  EXPECT_EQ(window.outstanding(), kInitialWindow);
}

TEST(ReceiveWindow, MayGrowBeforeAnythingCame) {
  WindowBudget budget;
  ReceiveWindow window(budget);
  EXPECT_EQ(window.opening(), kInitialWindow - budget.announced());
  EXPECT_EQ(window.opening(), 0u);
}

TEST(ReceiveWindow, RefusesWhatExceedsItsCredit) {
  WindowBudget budget;
  ReceiveWindow window(budget);
  EXPECT_FALSE(window.received(budget.announced() + 1));
  EXPECT_FALSE(window.received(std::numeric_limits<std::uint64_t>::max()));
  EXPECT_TRUE(window.received(budget.announced()));
  EXPECT_TRUE(window.received(0));
  EXPECT_FALSE(window.received(1));
  EXPECT_EQ(window.queued(), budget.announced());
}

TEST(ReceiveWindow, TakesWhatAnEarlyStreamSendsBeyondItAndGivesThatMuchLessLater) {
  WindowBudget budget;
  ReceiveWindow window(budget, false);
  EXPECT_TRUE(window.received(kMiB));
  EXPECT_EQ(window.queued(), kMiB);
  EXPECT_EQ(window.consumed(kMiB / 2, TimePoint(1s)), 0u) << "the peer does not know of credit yet";
  // In all one window beyond what was consumed, which the peer has used up and more.
  EXPECT_EQ(window.enforce(), kMiB / 2 + kInitialWindow - budget.announced());
  EXPECT_TRUE(window.enforced());
  EXPECT_EQ(window.outstanding(), 0u);
  EXPECT_FALSE(window.received(1));
  EXPECT_EQ(window.consumed(kMiB / 2, TimePoint(1s + 1ms)), kMiB / 2);
  EXPECT_EQ(window.outstanding(), kInitialWindow);
  EXPECT_TRUE(window.received(kInitialWindow));
  EXPECT_FALSE(window.received(1));
}

TEST(ReceiveWindow, OfAnEarlyStreamThatKeptBelowIsAsAnyOther) {
  WindowBudget budget;
  ReceiveWindow window(budget, false);
  EXPECT_TRUE(window.received(1000));
  EXPECT_EQ(window.enforce(), 0u);
  EXPECT_EQ(window.holds(), budget.announced());
}

TEST(ReceiveWindow, GivesCreditBackBeforeHalfOfItIsGone) {
  WindowBudget budget;
  ReceiveWindow window(budget);
  window.opening();
  std::uint64_t unreturned = 0;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(window.received(1000));
    unreturned += 1000;
    if (window.consumed(1000, TimePoint(1s)) > 0) unreturned = 0;
    EXPECT_LE(unreturned, kInitialWindow / 2);
  }
}

TEST(ReceiveWindow, FreesWhatItsPeerWillNotUse) {
  WindowBudget budget;
  {
    ReceiveWindow window(budget);
    window.opening();
    ASSERT_TRUE(window.received(100 * kKiB));
    EXPECT_EQ(budget.charged(), kInitialWindow);
    window.finish();
    EXPECT_EQ(budget.charged(), 100 * kKiB);
    EXPECT_EQ(window.consumed(90 * kKiB, TimePoint(1s)), 0u);
    EXPECT_EQ(budget.charged(), budget.announced());
    EXPECT_FALSE(window.received(1));
  }
  EXPECT_EQ(budget.charged(), 0u);
  EXPECT_EQ(budget.streams(), 0u);
}

TEST(ReceiveWindow, CanMove) {
  WindowBudget budget;
  std::vector<ReceiveWindow> windows;
  for (int i = 0; i < 20; ++i) windows.emplace_back(budget);
  EXPECT_EQ(budget.streams(), 20u);
  EXPECT_EQ(budget.charged(), 20 * budget.announced());
  windows.clear();
  EXPECT_EQ(budget.charged(), 0u);
}

TEST(WindowBudget, LeavesRoomForStreamsBesideAGreedyOne) {
  WindowBudget budget;
  ReceiveWindow greedy(budget);
  budget.set_rtt(1s);
  TimePoint now(1s);
  for (int i = 0; i < 2000; ++i) {  // takes whatever it may at once: 16 windows a second
    const auto bytes = greedy.outstanding();
    ASSERT_TRUE(greedy.received(bytes));
    greedy.consumed(bytes, now += 60ms);
  }
  EXPECT_GT(greedy.holds(), 26 * kMiB);
  EXPECT_FALSE(budget.crowded());
  std::vector<ReceiveWindow> others;
  while (others.size() + 2 < budget.room()) others.emplace_back(budget);
  EXPECT_FALSE(budget.crowded());
  others.emplace_back(budget);
  EXPECT_TRUE(budget.crowded());
  EXPECT_LE(budget.charged(), 32 * kMiB);
  others.emplace_back(budget);
  EXPECT_LE(budget.charged(), budget.promise());
  EXPECT_EQ(others.back().outstanding(), budget.announced());
}

TEST(WindowBudget, LowersWindowsToTheMinimumWhenOvercommitted) {
  WindowBudget budget(1 * kMiB);
  std::vector<ReceiveWindow> all;
  for (int i = 0; i < 500; ++i) all.emplace_back(budget);
  EXPECT_LE(budget.charged(), budget.promise());
  for (int round = 0; round < 40; ++round) {
    for (ReceiveWindow& window : all) {
      ASSERT_GT(window.outstanding(), 0u);
      ASSERT_TRUE(window.received(1000));
      window.consumed(1000, TimePoint(1s));
    }
  }
  for (const ReceiveWindow& window : all) EXPECT_LE(window.holds(), kMinWindow);
}

TEST(WindowBudget, GivesNothingAboveTheMinimumWhileMemoryIsShort) {
  WindowBudget budget;
  ReceiveWindow window(budget);
  budget.set_pressed(true);
  EXPECT_EQ(window.opening(), 0u);
  ASSERT_TRUE(window.received(60 * kKiB));
  EXPECT_EQ(window.consumed(60 * kKiB, TimePoint(1s)), 12 * kKiB);
  budget.set_pressed(false);
  EXPECT_EQ(window.opening(), kInitialWindow - 16 * kKiB);
}

TEST(WindowBudget, ShrinksWithoutTakingBack) {
  WindowBudget budget;
  ReceiveWindow window(budget);
  window.opening();
  budget.resize(128 * kKiB);
  ASSERT_TRUE(window.received(200 * kKiB));
  EXPECT_EQ(window.consumed(100 * kKiB, TimePoint(1s)), 0u);
  EXPECT_GT(budget.charged(), budget.promise());              // it holds 156 KiB
  EXPECT_GT(window.consumed(100 * kKiB, TimePoint(1s)), 0u);  // it held 56
  EXPECT_LE(budget.charged(), budget.promise());
}

}  // namespace
}  // namespace ebb::reverse
