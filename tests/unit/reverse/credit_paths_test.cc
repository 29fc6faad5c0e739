// Windows on paths of a given rate and round trip time, and random walks through the model.
#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "common/reverse/credit.h"
#include "tests/unit/reverse/credit_model.h"

namespace ebb::reverse {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST(CreditModel, HoldsOnRandomWalks) {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    std::minstd_rand random(seed + 1);
    Bytes steps(4 * 3000);
    for (auto& byte : steps) byte = static_cast<std::uint8_t>(random() >> 8);
    test::CreditModel(std::uint64_t{64 << 10} << seed % 12, 1 + seed).run(steps);
  }
}

/// A sender that always has something, a wire of so many bytes a second, and a consumer that takes `consumer_rate`.
/// Both directions take half the round trip. Moves in steps of 100 us.
class Path {
 public:
  Path(WindowBudget& budget, Duration rtt, double wire_rate, double takes)
      : consumer_rate(takes), rtt_(rtt), wire_rate_(wire_rate), credit_(budget.announced()), window_(budget) {}

  void run(Duration how_long) {
    taken = 0;
    for (const auto until = now_ + how_long; now_ < until; now_ += kStep) step();
  }
  const ReceiveWindow& window() const { return window_; }

  double consumer_rate;
  std::uint64_t taken = 0;

 private:
  static constexpr Duration kStep = 100us;
  struct Travelling {
    TimePoint at;
    std::uint64_t bytes;
  };

  static std::uint64_t allowance(double& saved, double rate) {
    saved = std::min(saved + rate * 1e-4, std::max(rate * 1e-4, 65536.0));
    return static_cast<std::uint64_t>(saved);
  }

  void step() {
    for (; !grants_.empty() && grants_.front().at <= now_; grants_.pop_front()) credit_.add(grants_.front().bytes);
    const auto sent = std::min(credit_.left(), allowance(wire_saved_, wire_rate_));
    if (sent > 0) {
      credit_.spend(sent);
      wire_saved_ -= static_cast<double>(sent);
      data_.push_back({now_ + rtt_ / 2, sent});
    }
    for (; !data_.empty() && data_.front().at <= now_; data_.pop_front()) {
      ASSERT_TRUE(window_.received(data_.front().bytes));
    }
    const auto takes = std::min(window_.queued(), allowance(consumer_saved_, consumer_rate));
    if (takes == 0) return;
    consumer_saved_ -= static_cast<double>(takes);
    taken += takes;
    if (const auto add = window_.consumed(takes, now_); add > 0) grants_.push_back({now_ + rtt_ / 2, add});
  }

  Duration rtt_;
  double wire_rate_;
  SendCredit credit_;
  ReceiveWindow window_;
  std::deque<Travelling> data_, grants_;
  double wire_saved_ = 0, consumer_saved_ = 0;
  TimePoint now_{1s};
};

TEST(CreditPath, FillsALongFatPipeWithinSeconds) {
  WindowBudget budget;
  budget.set_rtt(200ms);
  Path path(budget, 200ms, 125e6, 1e9);
  path.run(2200ms);  // plain TCP doubles 11 times from 10 segments
  path.run(2s);
  EXPECT_GT(path.taken, 0.95 * 2 * 125e6);
}

TEST(CreditPath, FillsTheEmulatedLinkFromTheFirstSecond) {
  WindowBudget budget;
  budget.set_rtt(40ms);
  Path path(budget, 40ms, 25e6, 1e9);
  path.run(1s);
  EXPECT_GT(path.taken, 0.85 * 25e6);
  path.run(1s);
  EXPECT_GT(path.taken, 0.99 * 25e6);
  EXPECT_LT(path.window().wants(), 3 * kMiB);  // twice what is in the pipe, and a little
}

TEST(CreditPath, GrowsThoughQueuesMakeTheRoundTripLonger) {
  WindowBudget budget;
  budget.set_rtt(40ms);
  Path path(budget, 90ms, 25e6, 1e9);
  path.run(2s);
  path.run(1s);
  EXPECT_GT(path.taken, 0.8 * 25e6);
}

TEST(CreditPath, NeedsLittleOnLoopback) {
  WindowBudget budget;
  budget.set_rtt(200us);
  Path path(budget, 200us, 1e9, 1e9);
  path.run(500ms);
  EXPECT_GT(path.taken, 0.99 * 0.5e9);
  EXPECT_LE(path.window().wants(), kEasyWindow);
}

TEST(CreditPath, AStalledConsumerHoldsAtMostTwoMiB) {
  for (const auto& [rtt, rate] : {std::pair<Duration, double>{200us, 1e9}, {2ms, 125e6}, {20ms, 25e6}}) {
    WindowBudget budget;
    budget.set_rtt(rtt);
    Path path(budget, rtt, rate, 1e9);
    path.run(20ms);  // its kernel takes some MiB at full speed
    path.consumer_rate = 0;
    path.run(2s);
    EXPECT_LE(path.window().holds(), 2 * kMiB);
    EXPECT_EQ(path.window().holds(), path.window().queued()) << "the sender goes on as far as he may";
  }
}

TEST(CreditPath, AConsumerThatSlowsDownGivesBackWhatItHeld) {
  WindowBudget budget;
  budget.set_rtt(200ms);
  Path path(budget, 200ms, 125e6, 1e9);
  path.run(3s);
  EXPECT_GT(path.window().wants(), 20 * kMiB);
  path.consumer_rate = 3e6;
  path.run(12s);
  EXPECT_LE(path.window().holds(), 2 * kMiB);
  path.run(1s);
  EXPECT_GT(path.taken, 0.99 * 3e6);
}

TEST(CreditPath, TwoGreedyStreamsShareTheBudget) {
  WindowBudget budget(8 * kMiB);
  budget.set_rtt(200ms);
  Path first(budget, 200ms, 1e9, 1e9), second(budget, 200ms, 1e9, 1e9);
  first.run(5s);
  EXPECT_GT(first.window().holds(), 6 * kMiB);
  for (int i = 0; i < 20000; ++i) {
    first.run(1ms);
    second.run(1ms);
    ASSERT_LE(budget.charged(), budget.promise());
  }
  EXPECT_LT(first.window().holds(), 5 * kMiB);
  EXPECT_GT(second.window().holds(), 2 * kMiB);
}

TEST(CreditPath, StalledNeighboursTakeNothingFromAFastStream) {
  WindowBudget budget;
  budget.set_rtt(40ms);
  std::deque<Path> stalled;
  for (int i = 0; i < 50; ++i) {
    stalled.emplace_back(budget, 40ms, 25e6, 1e9).run(300ms);
    stalled.back().consumer_rate = 0;
    stalled.back().run(200ms);
  }
  Path fast(budget, 40ms, 25e6, 1e9);
  fast.run(2s);
  fast.run(1s);
  EXPECT_LE(budget.charged(), 32 * kMiB);
  EXPECT_GT(fast.taken, 0.5e6);
}

}  // namespace
}  // namespace ebb::reverse
