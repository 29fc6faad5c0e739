#include "common/net/timers.h"

#include <algorithm>

namespace ebb::net {

void Timer::disarm() {
  if (next_ == nullptr || home_ == nullptr) return;
  prev_->next_ = next_;
  next_->prev_ = prev_;
  prev_ = next_ = nullptr;
  home_ = nullptr;
}

Timers::Timers(TimePoint start) : start_(start) {}

Timers::~Timers() {
  const auto clear = [](List& list) {
    while (!list.empty()) list.head.next_->disarm();
    list.head.prev_ = list.head.next_ = nullptr;
  };
  for (auto& list : near_) clear(list);
  for (auto& list : far_) clear(list);
  clear(beyond_);
}

void Timers::link(List& list, Timer& timer) {
  timer.prev_ = list.head.prev_;
  timer.next_ = &list.head;
  timer.prev_->next_ = &timer;
  list.head.prev_ = &timer;
}

void Timers::arm(Timer& timer, TimePoint now, Duration after) {
  timer.disarm();
  timer.due_ = now + after;
  place(timer);
}

void Timers::place(Timer& timer) {
  constexpr std::int64_t kRow = kSlots;
  timer.home_ = this;
  // Rounded up: never early.
  std::int64_t tick = tick_of(timer.due_ + kTick - Duration(1));
  if (tick <= done_) tick = done_ + 1;
  const std::int64_t row = tick / kRow;
  if (tick - done_ <= kRow) {
    link(near_[static_cast<std::size_t>(tick % kRow)], timer);
    next_ = std::min(next_, tick);
  } else if (row - done_ / kRow <= kRow) {
    link(far_[static_cast<std::size_t>(row % kRow)], timer);
    next_ = std::min(next_, row * kRow);
  } else {
    link(beyond_, timer);
    next_ = std::min(next_, (done_ / kRow / kRow + 1) * kRow * kRow);
  }
}

/// At the last tick before a row: its timers, and those beyond when far_ wraps, are placed again, nearer.
void Timers::cascade() {
  constexpr std::int64_t kRow = kSlots;
  const std::int64_t row = (done_ + 1) / kRow;
  const auto place_again = [this](List& list) {
    List moved;
    while (!list.empty()) {
      Timer& timer = *list.head.next_;
      timer.disarm();
      link(moved, timer);
      timer.home_ = this;
    }
    while (!moved.empty()) {
      Timer& timer = *moved.head.next_;
      timer.disarm();
      place(timer);
    }
  };
  if (row % kRow == 0) place_again(beyond_);
  place_again(far_[static_cast<std::size_t>(row % kRow)]);
}

void Timers::run(TimePoint now) {
  constexpr std::int64_t kRow = kSlots;
  const std::int64_t target = tick_of(now);
  while (next_ <= target) {
    done_ = next_ - 1;  // nothing to do before, however long that is
    if (next_ % kRow == 0) cascade();
    ++done_;
    // Callbacks may arm into this very slot, for done_ + kSlots: what is due now waits in a list of its own.
    List due;
    List& slot = near_[static_cast<std::size_t>(done_ % kRow)];
    while (!slot.empty()) {
      Timer& timer = *slot.head.next_;
      timer.disarm();
      link(due, timer);
      timer.home_ = this;
    }
    while (!due.empty()) {
      Timer& timer = *due.head.next_;
      timer.disarm();
      timer.fire_(timer.owner_);
    }
    next_ = first_used();
  }
  done_ = std::max(done_, target);
}

/// The earliest tick at which a list has to be looked at, or kNever.
std::int64_t Timers::first_used() const {
  constexpr std::int64_t kRow = kSlots;
  std::int64_t first = kNever;
  if (!beyond_.empty()) first = (done_ / kRow / kRow + 1) * kRow * kRow;
  for (std::int64_t row = done_ / kRow + 1; row <= done_ / kRow + kRow && row * kRow < first; ++row) {
    if (!far_[static_cast<std::size_t>(row % kRow)].empty()) first = row * kRow;
  }
  for (std::int64_t tick = done_ + 1; tick <= done_ + kRow && tick < first; ++tick) {
    if (!near_[static_cast<std::size_t>(tick % kRow)].empty()) first = tick;
  }
  return first;
}

std::optional<TimePoint> Timers::next_due() const {
  if (next_ == kNever) return std::nullopt;
  return start_ + next_ * kTick;
}

}  // namespace ebb::net
