// How late a loop is: what a watchdog wants to know of a process.
#pragma once

#include <algorithm>
#include <utility>

#include "common/net/loop.h"

namespace ebb::net {

class LagMeter {
 public:
  /// Between two looks. A loop that stood still for longer is told with at most this much less; a timer is up to 8 ms
  /// late by design.
  static constexpr Duration kTick = std::chrono::milliseconds(500);

  explicit LagMeter(Loop& loop) : loop_(loop), timer_([](void* self) { static_cast<LagMeter*>(self)->look(); }, this) {
    loop_.arm(timer_, kTick);
  }
  /// The longest that a look was late since the last call.
  Duration take() { return std::exchange(worst_, Duration(0)); }

 private:
  void look() {
    worst_ = std::max(worst_, loop_.now() - timer_.due());
    loop_.arm(timer_, kTick);
  }

  Loop& loop_;
  Timer timer_;
  Duration worst_{};
};

}  // namespace ebb::net
