// A Loop moved by hand: time passes when a test says so, and nothing happens in between.
#pragma once

#include <cassert>

#include "common/net/loop.h"

namespace ebb::test {

class ManualLoop : public net::Loop {
 public:
  explicit ManualLoop(TimePoint start = TimePoint(std::chrono::hours(1))) : Loop(start) {}

  /// Calls streams that are ready and deferred work until everything is quiet. Time stands still.
  void settle() {
    for (int turns = 0;; ++turns) {
      dispatch();
      if (!ready_pending()) return;
      assert(turns < 1'000'000 && "a stream is watched, ready and never used");
    }
  }
  /// One turn only: every stream that is ready is called once.
  void turn() { dispatch(); }
  /// Lets `duration` pass in steps of at most 8 ms around deadlines: timers fire in order, everything settles after
  /// each.
  void advance(Duration duration) {
    settle();
    const TimePoint until = now() + duration;
    for (auto due = timers().next_due(); due && *due <= until; due = timers().next_due()) {
      set_now(std::max(*due, now()));
      timers().run(now());
      settle();
    }
    set_now(until);
    timers().run(until);
    settle();
  }
};

}  // namespace ebb::test
