#include "worker/tunnel/laggards.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace ebb::tunnel {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// A consumer with its queue; told to the tunnel's laggards after every change.
struct Visitor {
  Visitor(Laggards& where, SourceLedger::Key source = 0) : laggards(where), consumer(source) {}
  void gets(std::size_t bytes, TimePoint now) {
    queued += bytes;
    laggards.update(consumer, queued, delivered, now);
  }
  void takes(std::size_t bytes, TimePoint now) {
    bytes = std::min(bytes, queued);
    queued -= bytes;
    delivered += bytes;
    laggards.update(consumer, queued, delivered, now);
  }
  void reset() {
    queued = 0;
    laggards.leave(consumer);
  }
  Laggards& laggards;
  Consumer consumer;
  std::size_t queued = 0;
  std::uint64_t delivered = 0;
};

constexpr TimePoint kStart{1h};

TEST(Laggards, ReadsOnWhileQueuesAreWithinTheirLimits) {
  Laggards laggards({});
  Visitor one(laggards);
  one.gets(8 * kMiB, kStart);
  EXPECT_TRUE(laggards.may_read());
  EXPECT_FALSE(laggards.congested());
  EXPECT_EQ(laggards.next_deadline(), TimePoint::max());
  EXPECT_FALSE(laggards.overdue(kStart + 1h));
  one.takes(8 * kMiB, kStart);
  EXPECT_EQ(laggards.queued(), 0u);
}

TEST(Laggards, StopsReadingAboveTheLimitAndStaysCongestedUntilAnEighth) {
  Laggards laggards({});
  Visitor one(laggards);
  one.gets(8 * kMiB + 1, kStart);
  EXPECT_FALSE(laggards.may_read());
  EXPECT_TRUE(laggards.congested());
  one.takes(1, kStart);
  EXPECT_TRUE(laggards.may_read());
  EXPECT_TRUE(laggards.congested());
  one.takes(7 * kMiB, kStart);
  EXPECT_TRUE(laggards.congested());
  one.takes(1, kStart);
  EXPECT_FALSE(laggards.congested());
}

TEST(Laggards, IsFreeAtOnceWhenTheLaggardLeaves) {
  Laggards laggards({});
  {
    Visitor one(laggards);
    one.gets(9 * kMiB, kStart);
    EXPECT_TRUE(laggards.congested());
    one.reset();
    EXPECT_TRUE(!laggards.congested() && laggards.may_read());
    one.gets(9 * kMiB, kStart);
  }  // its destructor
  EXPECT_TRUE(!laggards.congested() && laggards.may_read());
  EXPECT_EQ(laggards.queued(), 0u);
}

TEST(Laggards, ResetsADeadOneAloneAfterStall) {
  Laggards laggards({});
  Visitor dead(laggards), well(laggards);
  well.gets(7 * kMiB, kStart);
  dead.gets(8 * kMiB + 1, kStart + 1s);
  EXPECT_EQ(laggards.next_deadline(), kStart + 11s);
  EXPECT_FALSE(laggards.overdue(kStart + 10s));
  EXPECT_EQ(laggards.overdue(kStart + 11s), &dead.consumer);
  EXPECT_FALSE(laggards.overdue(kStart + 11s));
  dead.reset();
  EXPECT_TRUE(laggards.may_read());
  EXPECT_EQ(laggards.next_deadline(), TimePoint::max());
}

/// Refilled to over its limit whenever the tunnel may be read, drained at `rate`; how long until it is to be reset.
std::optional<Duration> survives(Laggards& laggards, Visitor& visitor, std::size_t rate, Duration most) {
  for (TimePoint now = kStart; now < kStart + most; now += 100ms) {
    visitor.takes(rate / 10, now);
    if (laggards.may_read()) visitor.gets(256 * 1024, now);
    if (laggards.next_deadline() <= now && laggards.overdue(now) == &visitor.consumer) return now - kStart;
  }
  return std::nullopt;
}

TEST(Laggards, NeverResetsOneThatKeepsUpWithMinDrain) {
  Laggards laggards({});
  Visitor slow(laggards);
  EXPECT_FALSE(survives(laggards, slow, 66'000, 10min));
  EXPECT_TRUE(laggards.congested());
}

TEST(Laggards, ResetsOneThatDrainsLessThoughItsQueueGoesUpAndDown) {
  Laggards laggards({});
  Visitor slow(laggards);
  slow.gets(8 * kMiB, kStart);
  const auto time = survives(laggards, slow, 60'000, 10min);
  ASSERT_TRUE(time);
  EXPECT_LE(*time, 25s);
}

TEST(Laggards, LeavesAloneWhoIsSlowButNoLongerOver) {
  Laggards laggards({});
  Visitor slow(laggards);
  slow.gets(8 * kMiB + 1, kStart);
  slow.takes(kMiB, kStart + 5s);
  EXPECT_FALSE(laggards.overdue(kStart + 10s));  // 100 KiB a second
  EXPECT_FALSE(laggards.overdue(kStart + 20s));  // nothing since, but nothing waits behind it
  EXPECT_TRUE(laggards.congested());
}

TEST(Laggards, ResetsNoMoreThanItTakes) {
  Laggards laggards({});
  std::deque<Visitor> dead;
  for (std::size_t i = 0; i < 10; ++i) dead.emplace_back(laggards).gets(2 * kMiB + i, kStart);
  Visitor slow(laggards), late(laggards);
  slow.gets(7 * kMiB, kStart);
  late.gets(6 * kMiB, kStart + 1s);
  EXPECT_FALSE(laggards.may_read());  // 33 MiB
  EXPECT_TRUE(laggards.congested());
  slow.takes(kMiB + 100, kStart + 5s);
  EXPECT_TRUE(laggards.may_read());  // 32
  EXPECT_EQ(laggards.next_deadline(), kStart + 11s);
  std::vector<Consumer*> reset;
  while (Consumer* consumer = laggards.overdue(kStart + 11s)) {
    reset.push_back(consumer);
    if (consumer == &late.consumer) late.reset();
    for (Visitor& v : dead)
      if (&v.consumer == consumer) v.reset();
  }
  EXPECT_EQ(reset, std::vector{&late.consumer}) << "the longest queue of those that took nothing; 26 MiB are left";
  EXPECT_FALSE(laggards.congested());
}

/// Eight that never read fill the tunnel again and again as one after the other is reset: the first costs the others a
/// stall, the rest none.
TEST(Laggards, TheNextShortageIsOverAtOnceForThoseWhoseTimeIsUp) {
  Laggards laggards({});
  std::deque<Visitor> dead;
  for (std::size_t i = 0; i < 8; ++i) dead.emplace_back(laggards).gets(4 * kMiB + 1 + i, kStart);
  ASSERT_FALSE(laggards.may_read());
  TimePoint now = kStart + 10s;
  EXPECT_EQ(laggards.next_deadline(), now);
  const auto reset_one = [&] {
    Consumer* consumer = laggards.overdue(now);
    for (Visitor& v : dead)
      if (consumer != nullptr && &v.consumer == consumer) v.reset();
    return consumer != nullptr;
  };
  ASSERT_TRUE(reset_one());
  while (reset_one()) {
  }
  ASSERT_TRUE(laggards.may_read());
  Visitor fresh(laggards);
  now += 100ms;
  fresh.gets(7 * kMiB, now);
  for (Visitor& v : dead)
    if (v.consumer.queued() > 0 && laggards.may_read()) v.gets(7 * kMiB, now);
  ASSERT_FALSE(laggards.may_read());
  EXPECT_LE(laggards.next_deadline(), now);
  ASSERT_TRUE(reset_one());
  EXPECT_GT(fresh.consumer.queued(), 0u) << "he has come just now";
  while (reset_one()) {
  }
  EXPECT_TRUE(laggards.may_read());
}

TEST(Laggards, WhoStoodBesideOneThatWasResetHasHadHisTime) {
  Laggards laggards({});
  Visitor first(laggards), second(laggards), slow(laggards), late(laggards);
  first.gets(9 * kMiB, kStart);
  second.gets(7 * kMiB, kStart);
  slow.gets(7 * kMiB, kStart);
  slow.takes(kMiB, kStart + 5s);
  late.gets(kMiB, kStart + 9s);
  const TimePoint now = kStart + 10s;
  ASSERT_EQ(laggards.overdue(now), &first.consumer);
  first.reset();
  EXPECT_EQ(laggards.overdue(now), nullptr);
  ASSERT_TRUE(laggards.may_read());
  late.gets(8 * kMiB, now);
  EXPECT_EQ(laggards.overdue(now), nullptr) << "he has only just come";
  slow.gets(2 * kMiB + 1, now);
  EXPECT_EQ(laggards.overdue(now), nullptr) << "he took enough";
  second.gets(2 * kMiB, now);
  EXPECT_LE(laggards.next_deadline(), now);
  EXPECT_EQ(laggards.overdue(now), &second.consumer);
  second.reset();
  EXPECT_EQ(laggards.overdue(now), nullptr);
}

TEST(Laggards, StopsAndResetsOneAtATimeWhileMemoryIsShort) {
  Laggards laggards({});
  Visitor small(laggards), large(laggards);
  laggards.set_pressed(true, kStart);
  EXPECT_TRUE(laggards.may_read());  // holds nothing: stopping it frees nothing
  small.gets(1000, kStart);
  large.gets(kMiB, kStart);
  EXPECT_FALSE(laggards.may_read());
  EXPECT_EQ(laggards.overdue(kStart + 10s), &large.consumer);
  large.reset();
  EXPECT_FALSE(laggards.overdue(kStart + 10s));
  EXPECT_EQ(laggards.overdue(kStart + 20s), &small.consumer);
  laggards.set_pressed(false, kStart + 20s);
  EXPECT_TRUE(laggards.may_read() && !laggards.congested());
}

TEST(Laggards, CapsWhatASourceHoldsOverAllTunnels) {
  SourceLedger ledger;
  Laggards first({}, &ledger), second({}, &ledger);
  Visitor a(first, 7), b(first, 7), c(second, 7), other(second, 8);
  a.gets(8 * kMiB, kStart);
  b.gets(8 * kMiB, kStart);
  other.gets(8 * kMiB, kStart);
  EXPECT_TRUE(first.may_read() && second.may_read());
  c.gets(kMiB, kStart);
  EXPECT_TRUE(first.over_its_share(7) && !first.over_its_share(8));
  EXPECT_TRUE(second.may_read());  // no more than its part
  c.gets(1, kStart);
  EXPECT_FALSE(second.may_read());
  a.takes(2 * kMiB, kStart);
  c.takes(1, kStart);
  EXPECT_TRUE(first.may_read() && second.may_read());
  b.gets(3 * kMiB, kStart);
  EXPECT_FALSE(first.may_read());
  a.reset();
  b.takes(11 * kMiB, kStart);
  c.reset();
  EXPECT_EQ(ledger.bytes(7), 0u);
  EXPECT_EQ(ledger.sources(), 1u);
}

TEST(Laggards, WarnsOnceAMinute) {
  Laggards laggards({});
  Visitor one(laggards);
  EXPECT_FALSE(laggards.take_warning(kStart));
  one.gets(9 * kMiB, kStart);
  EXPECT_TRUE(laggards.take_warning(kStart));
  EXPECT_FALSE(laggards.take_warning(kStart + 59s));
  EXPECT_TRUE(laggards.take_warning(kStart + 60s));
}

TEST(Laggards, KeepsItsBooksOnRandomWalks) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    std::minstd_rand random(seed);
    SourceLedger ledger;
    const LaggardLimits limits{.stream_buffer = kMiB, .tunnel_buffer = 4 * kMiB, .source_buffer = 2 * kMiB};
    Laggards laggards(limits, &ledger);
    std::vector<std::unique_ptr<Visitor>> visitors;
    TimePoint now = kStart;
    bool pressed = false;
    for (int i = 0; i < 5000; ++i) {
      const auto pick = [&]() -> Visitor& { return *visitors[random() % visitors.size()]; };
      switch (visitors.empty() ? 0 : random() % 8) {
        case 0:
          if (visitors.size() < 20) visitors.push_back(std::make_unique<Visitor>(laggards, random() % 4));
          break;
        case 1:
        case 2:
          if (laggards.may_read()) pick().gets(random() % (512 * 1024), now);
          break;
        case 3: pick().takes(random() % (1024 * 1024), now); break;
        case 4: now += std::chrono::milliseconds(random() % 3000); break;
        case 5: visitors.erase(visitors.begin() + static_cast<std::ptrdiff_t>(random() % visitors.size())); break;
        case 6: laggards.set_pressed(pressed = random() % 8 == 0, now); break;
        default:
          while (Consumer* dead = laggards.overdue(now)) {
            std::erase_if(visitors, [dead](const auto& v) { return &v->consumer == dead; });
            laggards.set_pressed(pressed, now);
          }
          ASSERT_GT(laggards.next_deadline(), now);
      }
      std::size_t total = 0, most = 0;
      for (const auto& v : visitors) {
        total += v->queued;
        most = std::max(most, v->queued);
        ASSERT_EQ(v->consumer.queued(), v->queued);
      }
      ASSERT_EQ(laggards.queued(), total);
      ASSERT_LE(total, limits.tunnel_buffer + 512 * 1024);
      ASSERT_LE(most, limits.stream_buffer + 512 * 1024);
      if (most > limits.stream_buffer || total > limits.tunnel_buffer || (pressed && total > 0)) {
        ASSERT_FALSE(laggards.may_read());
        ASSERT_TRUE(laggards.congested());
      }
      // Whatever stops the reading ends: by progress, or by somebody being overdue.
      ASSERT_TRUE(laggards.may_read() || laggards.next_deadline() <= now + limits.stall);
    }
    // Nobody takes anything any more: all who stand in the way go, in the end.
    for (int i = 0; i < 100 && !laggards.may_read(); ++i) {
      now += limits.stall;
      while (Consumer* dead = laggards.overdue(now)) {
        for (auto& v : visitors)
          if (&v->consumer == dead) v->reset();
      }
    }
    EXPECT_TRUE(laggards.may_read());
    visitors.clear();
    EXPECT_EQ(ledger.sources(), 0u);
    EXPECT_FALSE(laggards.congested() && !pressed);
  }
}

}  // namespace
}  // namespace ebb::tunnel
