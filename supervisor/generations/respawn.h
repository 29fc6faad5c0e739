// When a role that keeps ending may be started again. spec/processes.md 10.
#pragma once

#include <chrono>
#include <deque>

#include "common/base/time.h"

namespace ebb::supervisor {

/// More than 5 exits of a role within 10 s: pauses of first, 2 x first, 4 x first … at most 30 s before each further
/// start. 10 s without an exit after a pause end it.
class RespawnPolicy {
 public:
  explicit RespawnPolicy(std::chrono::milliseconds first) : first_(first) {}
  /// The first pause from now on.
  void first(std::chrono::milliseconds pause) { first_ = pause; }

  /// Counts an exit; returns when the replacement may start (`now`: at once).
  TimePoint exited(TimePoint now) {
    while (!exits_.empty() && now - exits_.front() > kWindow) exits_.pop_front();
    if (exits_.size() > kFreeExits) exits_.pop_front();  // no more are needed to decide
    if (pause_ > pause_.zero() && now > allowed_ + kWindow) pause_ = pause_.zero();
    exits_.push_back(now);
    const bool looping = exits_.size() > kFreeExits || pause_ > pause_.zero();
    if (!looping || first_ <= first_.zero()) return now;
    if (allowed_ > now) return allowed_;  // several ended together: one pause for all
    pause_ = pause_ == pause_.zero() ? first_ : std::min(pause_ * 2, kLongest);
    allowed_ = now + pause_;
    return allowed_;
  }

 private:
  static constexpr std::size_t kFreeExits = 5;
  static constexpr std::chrono::seconds kWindow{10};
  static constexpr std::chrono::milliseconds kLongest{30'000};
  std::chrono::milliseconds first_;
  std::chrono::milliseconds pause_{0};
  TimePoint allowed_{};
  std::deque<TimePoint> exits_;
};

}  // namespace ebb::supervisor
