#include "worker/tunnel/pipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

namespace ebb::tunnel {
namespace {

using namespace std::chrono_literals;

/// A kernel and a link, in steps of 100 us: a congestion window that doubles per round trip and never shrinks (as with
/// a queue too deep for losses), a queue before the link, acknowledgements after a round trip.
class Link {
 public:
  Link(double bytes_per_second, Duration rtt, double start_window = 14600)
      : rate(bytes_per_second), rtt_(rtt), window_(start_window) {}

  static constexpr Duration kStep = 100us;
  double rate;
  std::uint64_t acked = 0;
  Duration longest_queue{};  // what a fresh byte would wait for those in front of it
  TimePoint now{1s};

  void write(std::size_t bytes) { notsent_ += static_cast<double>(bytes); }
  double in_kernel() const { return notsent_ + queue_ + on_way_; }

  void step() {
    now += kStep;
    const double flight = queue_ + on_way_;
    const double sent = std::clamp(window_ - flight, 0.0, notsent_);
    app_limited_ = notsent_ - sent <= 0 && flight + sent < window_ && queue_ <= 0;
    notsent_ -= sent;
    queue_ += sent;
    const double passes = std::min(queue_, rate * 1e-4);
    queue_ -= passes;
    on_way_ += passes;
    if (passes > 0) travelling_.push_back({now + rtt_, passes});
    double arrived = 0;
    for (; !travelling_.empty() && travelling_.front().at <= now; travelling_.pop_front())
      arrived += travelling_.front().bytes;
    on_way_ -= arrived;
    window_ = std::min(window_ + arrived, 1e9);
    total_ += arrived;
    acked = static_cast<std::uint64_t>(total_);
    history_.push_back({now, total_});
    while (history_.size() > 2 && history_[1].at <= now - std::max<Duration>(rtt_, 1ms)) history_.pop_front();
    const double over = std::chrono::duration<double>(now - history_.front().at).count();
    if (arrived > 0 && over > 0) delivery_rate_ = (total_ - history_.front().bytes) / over;
    longest_queue = std::max(longest_queue, queue_time());
  }
  /// In the link's queue, and in the kernel's beyond what the window lets go.
  Duration queue_time() const {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>((queue_ + notsent_) / rate));
  }
  net::PathInfo info() const {
    net::PathInfo out;
    out.min_rtt = rtt_;
    out.rtt = rtt_ + queue_time();
    out.delivery_rate = static_cast<std::uint64_t>(delivery_rate_);
    out.app_limited = app_limited_;
    out.unacked_bytes = static_cast<std::size_t>(queue_ + on_way_);
    out.notsent_bytes = static_cast<std::size_t>(notsent_);
    return out;
  }

 private:
  struct Mark {
    TimePoint at;
    double bytes;
  };
  Duration rtt_;
  double window_;
  double notsent_ = 0, queue_ = 0, on_way_ = 0, total_ = 0, delivery_rate_ = 0;
  bool app_limited_ = false;
  std::deque<Mark> travelling_, history_;
};

/// A tunnel that always has something to write. It looks when the pipe says so.
struct Bulk {
  explicit Bulk(Link& over) : link(over) {}
  Link& link;
  Pipe pipe;
  TimePoint look_at{};

  void run(Duration how_long) {
    const std::uint64_t before = link.acked;
    link.longest_queue = {};
    for (const auto until = link.now + how_long; link.now < until; link.step()) {
      if (link.now < look_at) continue;
      if (pipe.wants_sample(link.now)) pipe.sample(link.info(), link.now);
      while (pipe.room() > 0) {
        const std::size_t n = std::min<std::size_t>(pipe.room(), 64 * 1024);
        link.write(n);
        pipe.written(n);
      }
      look_at = link.now + pipe.retry_in();
    }
    bytes = static_cast<double>(link.acked - before);
  }
  double bytes = 0;
};

TEST(Pipe, KnowsNothingAtFirst) {
  Pipe pipe;
  EXPECT_EQ(pipe.room(), Pipe::kUnknown);
  EXPECT_FALSE(pipe.wants_sample(TimePoint(1s)));
  pipe.written(Pipe::kUnknown + 1);
  EXPECT_EQ(pipe.room(), 0u);
  EXPECT_TRUE(pipe.wants_sample(TimePoint(1s)));
  EXPECT_GE(pipe.retry_in(), 500us);
  EXPECT_EQ(pipe.quantum(), 64u * 1024);
  pipe.sample({.unacked_bytes = 10, .notsent_bytes = 20}, TimePoint(1s));
  EXPECT_EQ(pipe.room(), Pipe::kUnknown - 30);
}

TEST(Pipe, LooksAFewTimesARoundTrip) {
  Pipe pipe;
  TimePoint now(1s);
  pipe.written(1);
  pipe.sample({.min_rtt = 40ms, .delivery_rate = 1000, .unacked_bytes = 1}, now);
  EXPECT_FALSE(pipe.wants_sample(now + 4ms));
  EXPECT_TRUE(pipe.wants_sample(now + 5ms));
  pipe.sample({.min_rtt = 100us, .delivery_rate = 1000, .unacked_bytes = 1}, now);
  EXPECT_FALSE(pipe.wants_sample(now + 499us));
  EXPECT_TRUE(pipe.wants_sample(now + 500us));
}

TEST(Pipe, AppLimitedSamplesOnlyRaise) {
  Pipe pipe;
  TimePoint now(1s);
  pipe.sample({.min_rtt = 10ms, .delivery_rate = 50'000'000}, now);
  for (int i = 0; i < 1000; ++i) {
    pipe.sample({.min_rtt = 10ms, .delivery_rate = 1000, .app_limited = true}, now += 10ms);
  }
  EXPECT_EQ(pipe.rate(), 50'000'000u);
  pipe.sample({.min_rtt = 10ms, .delivery_rate = 60'000'000, .app_limited = true}, now);
  EXPECT_EQ(pipe.rate(), 60'000'000u);
  for (int i = 0; i < 100; ++i) pipe.sample({.min_rtt = 10ms, .delivery_rate = 1'000'000}, now += 10ms);
  EXPECT_EQ(pipe.rate(), 1'000'000u);
  EXPECT_EQ(pipe.allowance(), Pipe::kFloor);
  EXPECT_EQ(pipe.quantum(), 8u * 1024);
}

TEST(Pipe, KeepsWithinItsBounds) {
  Pipe pipe;
  TimePoint now(1s);
  for (int i = 0; i < 100; ++i) pipe.sample({.min_rtt = 10s, .delivery_rate = ~std::uint64_t{0} / 2}, now += 1s);
  EXPECT_EQ(pipe.allowance(), Pipe::kMost);
  pipe.written(1u << 30);
  EXPECT_EQ(pipe.room(), 0u);
  EXPECT_LE(pipe.retry_in(), 50ms);
}

TEST(Pipe, DoesNotBelieveBurstsOnShortPaths) {
  Pipe pipe;
  TimePoint now(1s);
  std::size_t in_kernel = 0;
  for (int i = 0; i < 2000; ++i, now += 1ms) {  // 25 MB/s are taken, 128 KiB at a time
    const std::size_t room = pipe.room();
    pipe.written(room);
    in_kernel += room;
    if (i % 5 == 0) in_kernel -= std::min<std::size_t>(in_kernel, 125'000);
    pipe.sample(
        {.min_rtt = 30us, .delivery_rate = i % 5 == 0 ? 1'000'000'000u : 25'000'000u, .unacked_bytes = in_kernel}, now);
  }
  EXPECT_LE(pipe.rate(), 40'000'000u);
  EXPECT_LE(pipe.allowance(), 400'000u);
}

TEST(PipeOnALink, KeepsItFullWithAShortQueue) {
  Link link(25e6, 40ms);
  Bulk bulk(link);
  bulk.run(2s);
  bulk.run(10s);
  EXPECT_GE(bulk.bytes, 0.95 * 25e6 * 10);
  EXPECT_LE(link.longest_queue, 20ms);
}

TEST(PipeOnALink, DoesNotStandInTheWayOfASlowStart) {
  Link limited(125e6, 200ms), free(125e6, 200ms);
  Bulk bulk(limited);
  bulk.run(4s);
  free.write(std::size_t{4} << 30);
  for (const auto until = free.now + 4s; free.now < until;) free.step();
  EXPECT_GE(bulk.bytes, 0.8 * static_cast<double>(free.acked));
  bulk.run(4s);
  EXPECT_GE(bulk.bytes, 0.95 * 125e6 * 4);
}

TEST(PipeOnALink, FollowsARateThatFallsAndRises) {
  Link link(25e6, 40ms);
  Bulk bulk(link);
  bulk.run(3s);
  link.rate = 5e6;
  bulk.run(2s);
  bulk.run(3s);
  EXPECT_GE(bulk.bytes, 0.95 * 5e6 * 3);
  EXPECT_LE(link.longest_queue, 25ms);
  link.rate = 50e6;
  bulk.run(2s);
  bulk.run(3s);
  EXPECT_GE(bulk.bytes, 0.95 * 50e6 * 3);
  EXPECT_LE(link.longest_queue, 20ms);
}

TEST(PipeOnALink, StaysShortOnASlowOne) {
  Link link(1e6, 40ms);
  Bulk bulk(link);
  bulk.run(3s);
  bulk.run(5s);
  EXPECT_GE(bulk.bytes, 0.95 * 1e6 * 5);
  EXPECT_LE(link.longest_queue, 64ms);  // the floor
}

TEST(PipeOnALink, HoldsNothingBackOnLoopback) {
  Link link(2e9, 50us, 1e7);
  Bulk bulk(link);
  bulk.run(20ms);
  EXPECT_GE(bulk.pipe.allowance(), Pipe::kNear);
  bulk.run(1s);
  EXPECT_GE(bulk.bytes, 0.95 * 2e9);
  EXPECT_GE(bulk.pipe.allowance(), Pipe::kNear);
}

/// A wide congestion window (BBR's) with all of the allowance in flight: the kernel has nothing unsent and says that we
/// gave too little, for ever.
TEST(Pipe, StopsGrowingWhenMoreThanEnoughIsUnderWayWhateverTheKernelSays) {
  Pipe pipe;
  TimePoint now{1s};
  net::PathInfo info;
  info.min_rtt = 40ms;
  info.delivery_rate = 25'000'000;
  info.app_limited = true;
  for (int i = 0; i < 100; ++i, now += 10ms) {
    pipe.written(pipe.room());
    info.unacked_bytes = pipe.allowance();
    pipe.sample(info, now);
  }
  EXPECT_LT(pipe.allowance(), 1'500'000u);
  EXPECT_GT(pipe.allowance(), 1'200'000u);
}

}  // namespace
}  // namespace ebb::tunnel
