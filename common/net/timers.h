// Deadlines for everything on one loop: a two-level timer wheel, no allocation, O(1) to arm and disarm.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>

#include "common/base/time.h"

namespace ebb::net {

class Timers;

/// A deadline, a member of whatever waits. Fires once per arm(); disarms itself when destroyed.
class Timer {
 public:
  using Fire = void (*)(void* owner);
  Timer(Fire fire, void* owner) : fire_(fire), owner_(owner) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { disarm(); }

  bool armed() const { return next_ != nullptr; }
  TimePoint due() const { return due_; }
  void disarm();

 private:
  friend class Timers;
  Timer* prev_ = nullptr;
  Timer* next_ = nullptr;
  Timers* home_ = nullptr;
  TimePoint due_{};
  Fire fire_;
  void* owner_;
};

/// Resolution 8 ms: a timer fires at its due time or up to 8 ms after it, never before.
class Timers {
 public:
  explicit Timers(TimePoint start);
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;
  ~Timers();

  /// Fires `timer` once `after` has passed since `now`; an armed timer is moved.
  void arm(Timer& timer, TimePoint now, Duration after);
  /// Fires everything due at `now`. Callbacks may arm, disarm and destroy any timer.
  void run(TimePoint now);
  /// When run() has to be called next; nullopt when nothing is armed. May be early, never late.
  std::optional<TimePoint> next_due() const;

 private:
  friend class Timer;
  static constexpr std::size_t kSlots = 256;
  static constexpr Duration kTick = std::chrono::milliseconds(8);
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

  struct List {  // circular, the head is a dummy
    Timer head{nullptr, nullptr};
    List() { head.prev_ = head.next_ = &head; }
    bool empty() const { return head.next_ == &head; }
  };
  std::int64_t tick_of(TimePoint at) const { return (at - start_) / kTick; }
  void place(Timer& timer);
  void cascade();
  std::int64_t first_used() const;
  static void link(List& list, Timer& timer);

  TimePoint start_;
  std::int64_t done_ = 0;          // every tick up to and including this one has fired
  std::int64_t next_ = kNever;     // no list has to be looked at before this tick
  std::array<List, kSlots> near_;  // one tick each: done_ + 1 ... done_ + kSlots
  std::array<List, kSlots> far_;   // a row of kSlots ticks each, the kSlots rows after that of done_
  List beyond_;                    // later rows: looked at when far_ wraps
};

}  // namespace ebb::net
