// How much of a tunnel may lie in the kernel in front of a fresh frame: what keeps the link full, and little more. The
// kernel's own answer, its send buffer, is seconds of a slow link.
//
//   allowance = delivery rate x (smallest round trip time + 8 ms) x 1.15
//
// The rate is the largest of the last ten round trips; samples taken while we gave too little can only raise it. While
// it still grows by a quarter within three round trips the allowance is three times the product, so that it never
// stands in the way of a slow start, which doubles every round trip.
//
// On paths shorter than 10 ms the kernel's rate is that of a burst (a shaper's, or of a peer that reads in heaps: 65 to
// 1,100 MB/s were measured on a link of 25 MB/s). There no more is believed than what was acknowledged in 10 ms, and a
// quarter, if there was something to acknowledge all the time.
//
// TCP_NOTSENT_LOWAT is not needed: it bounds only what is not sent yet, by a constant, and this bounds all of it.
//
//   if (pipe.wants_sample(now)) if (auto info = stream.path()) pipe.sample(*info, now);
//   write at most pipe.room(), then pipe.written(n); no room: look again after pipe.retry_in()
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/time.h"
#include "common/net/path_info.h"

namespace ebb::tunnel {

class Pipe {
 public:
  static constexpr std::size_t kFloor = 64 * 1024;     // below, a link would run dry between two looks at it
  static constexpr std::size_t kUnknown = 256 * 1024;  // while the rate is not known or still grows
  static constexpr std::size_t kNear = 1024 * 1024;    // the same, with a peer nearer than 1 ms
  static constexpr std::size_t kMost = 64 * 1024 * 1024;
  static constexpr Duration kSlack = std::chrono::milliseconds(8);  // acknowledgements come late and in heaps

  /// Bytes the kernel took since the last sample.
  void written(std::size_t bytes) {
    in_kernel_ += bytes;
    written_ += bytes;
  }
  /// How much may be written now.
  std::size_t room() const { return allowance_ > in_kernel_ ? allowance_ - in_kernel_ : 0; }
  /// Something was written that may have been acknowledged, and the last look is long enough ago: eight times a
  /// round trip, every 0.5 to 8 ms.
  bool wants_sample(TimePoint now) const;
  void sample(const net::PathInfo& info, TimePoint now);
  /// When there may be room for an eighth of the allowance: 0.5 to 50 ms.
  Duration retry_in() const;

  std::size_t allowance() const { return allowance_; }
  std::size_t in_kernel() const { return in_kernel_; }  // at most; acknowledgements since the last sample are not known
  /// Bytes per second; 0: not known.
  std::uint64_t rate() const { return rate_; }
  Duration min_rtt() const { return min_rtt_; }
  /// One turn of a stream (Scheduler::set_quantum): about 2 ms of the link.
  std::size_t quantum() const;

 private:
  std::uint64_t believable(std::uint64_t delivery_rate, TimePoint now);
  void measure(std::uint64_t rate, bool app_limited, TimePoint now);
  void judge_growth(bool app_limited, TimePoint now);

  std::size_t allowance_ = kUnknown;
  std::size_t in_kernel_ = 0;
  Duration min_rtt_{};
  std::uint64_t rate_ = 0;
  std::uint64_t written_ = 0;      // ever
  std::uint64_t acked_then_ = 0;   // at busy_since_
  std::uint64_t busy_rate_ = 0;    // of the last 10 ms without a moment in which all was acknowledged; 0: there was one
  std::uint64_t best_now_ = 0;     // since period_since_
  std::uint64_t best_before_ = 0;  // in the period before
  std::uint64_t grown_to_ = 0;     // the rate when it last grew by a quarter
  TimePoint sampled_at_{};
  TimePoint busy_since_{};
  TimePoint period_since_{};
  TimePoint round_since_{};
  int flat_rounds_ = 0;       // without such growth
  bool period_full_ = false;  // a sample of this period was not limited by us
  bool growing_ = true;
};

}  // namespace ebb::tunnel
