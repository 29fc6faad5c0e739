#include "worker/tunnel/pipe.h"

#include <algorithm>
#include <utility>

#include "worker/tunnel/scheduler.h"

namespace ebb::tunnel {
namespace {

using namespace std::chrono_literals;

constexpr double kGain = 1.15;
constexpr double kGrowingGain = 3;
constexpr int kFlatRounds = 3;
constexpr Duration kShortestPeriod = 100ms;  // half of what the largest rate is taken of
constexpr Duration kShortestRound = 1ms;
constexpr Duration kNearRtt = 1ms;
constexpr Duration kBusyTime = 10ms;

double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

bool Pipe::wants_sample(TimePoint now) const {
  if (in_kernel_ == 0) return false;
  return now - sampled_at_ >= std::clamp<Duration>(min_rtt_ / 8, 500us, kSlack);
}

void Pipe::sample(const net::PathInfo& info, TimePoint now) {
  sampled_at_ = now;
  in_kernel_ = info.unacked_bytes + info.notsent_bytes;
  if (info.min_rtt > Duration{}) min_rtt_ = info.min_rtt;
  if (info.delivery_rate > 0) {
    measure(believable(info.delivery_rate, now), info.app_limited, now);
    judge_growth(info.app_limited, now);
  }
  const double product = static_cast<double>(rate_) * seconds(min_rtt_ + kSlack);
  const double wanted = std::min(product * (growing_ ? kGrowingGain : kGain), static_cast<double>(kMost));
  const bool is_near = min_rtt_ > Duration{} && min_rtt_ < kNearRtt;
  const std::size_t floor = !growing_ ? kFloor : is_near ? kNear : kUnknown;
  allowance_ = std::max(floor, static_cast<std::size_t>(wanted));
}

std::uint64_t Pipe::believable(std::uint64_t delivery_rate, TimePoint now) {
  const std::uint64_t acked = written_ - std::min<std::uint64_t>(written_, in_kernel_);
  const bool idle = in_kernel_ == 0;
  const Duration elapsed = now - busy_since_;
  if (idle || elapsed >= kBusyTime) {
    busy_rate_ = idle ? 0 : static_cast<std::uint64_t>(static_cast<double>(acked - acked_then_) / seconds(elapsed));
    acked_then_ = acked;
    busy_since_ = now;
  }
  if (min_rtt_ >= kBusyTime || busy_rate_ == 0) return delivery_rate;
  return std::min(delivery_rate, busy_rate_ + busy_rate_ / 4);
}

void Pipe::measure(std::uint64_t rate, bool app_limited, TimePoint now) {
  if (now - period_since_ >= std::max<Duration>(5 * min_rtt_, kShortestPeriod)) {
    // A period in which we never gave enough has not shown that the link became slower.
    if (period_full_) best_before_ = std::exchange(best_now_, 0);
    period_full_ = false;
    period_since_ = now;
  }
  if (!app_limited) period_full_ = true;
  if (!app_limited || rate > rate_) best_now_ = std::max(best_now_, rate);
  rate_ = std::max(best_now_, best_before_);
}

void Pipe::judge_growth(bool app_limited, TimePoint now) {
  if (static_cast<double>(rate_) >= 1.25 * static_cast<double>(grown_to_)) {
    grown_to_ = rate_;
    flat_rounds_ = 0;
    growing_ = true;
    round_since_ = now;
  }
  // Twice what the rate needs is there: then it is not for want of bytes that it does not grow.
  const bool wanting =
      app_limited && static_cast<double>(in_kernel_) < 2 * static_cast<double>(rate_) * seconds(min_rtt_);
  if (wanting || now - round_since_ < std::max<Duration>(min_rtt_, kShortestRound)) return;
  round_since_ = now;
  if (++flat_rounds_ < kFlatRounds) return;
  growing_ = false;
  grown_to_ = rate_;  // a link that became slower may grow again
}

Duration Pipe::retry_in() const {
  if (rate_ == 0) return 2ms;
  const std::size_t wanted = allowance_ - allowance_ / 8;
  const std::size_t excess = in_kernel_ > wanted ? in_kernel_ - wanted : 0;
  const std::chrono::duration<double> wait(static_cast<double>(excess) / static_cast<double>(rate_));
  return std::clamp<Duration>(std::chrono::duration_cast<Duration>(std::min<decltype(wait)>(wait, 1s)), 500us, 50ms);
}

std::size_t Pipe::quantum() const {
  if (rate_ == 0) return Scheduler::kFirstQuantum;
  return static_cast<std::size_t>(
      std::clamp<std::uint64_t>(rate_ / 500, Scheduler::kMinQuantum, Scheduler::kMaxQuantum));
}

}  // namespace ebb::tunnel
