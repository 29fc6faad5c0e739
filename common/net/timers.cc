#include "common/net/timers.h"

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
  timer.home_ = this;
  // Rounded up: never early.
  std::int64_t tick = tick_of(timer.due_ + kTick - Duration(1));
  if (tick <= done_) tick = done_ + 1;
  constexpr std::int64_t kRow = kSlots;
  if (tick - done_ < kRow) {
    link(near_[static_cast<std::size_t>(tick % kRow)], timer);
  } else if (tick / kRow - done_ / kRow < kRow) {
    link(far_[static_cast<std::size_t>(tick / kRow % kRow)], timer);
  } else {
    link(beyond_, timer);
  }
}

void Timers::run(TimePoint now) {
  constexpr std::int64_t kRow = kSlots;
  const std::int64_t target = tick_of(now);
  const auto move_all = [this](List& list) {
    List moved;
    while (!list.empty()) {
      Timer& timer = *list.head.next_;
      timer.disarm();
      link(moved, timer);
    }
    while (!moved.empty()) {
      Timer& timer = *moved.head.next_;
      timer.home_ = this;
      timer.disarm();
      place(timer);
    }
  };
  while (done_ < target) {
    ++done_;
    if (done_ % kRow == 0) {
      // place() works relative to done_: step back so that this very tick stays reachable.
      --done_;
      if (((done_ + 1) / kRow) % kRow == 0) move_all(beyond_);
      move_all(far_[static_cast<std::size_t>((done_ + 1) / kRow % kRow)]);
      ++done_;
    }
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
    due.head.prev_ = due.head.next_ = nullptr;
  }
}

std::optional<TimePoint> Timers::next_due() const {
  constexpr std::int64_t kRow = kSlots;
  for (std::int64_t tick = done_ + 1; tick < done_ + kRow; ++tick) {
    if (!near_[static_cast<std::size_t>(tick % kRow)].empty()) return start_ + tick * kTick;
  }
  for (std::int64_t row = done_ / kRow + 1; row < done_ / kRow + kRow; ++row) {
    if (!far_[static_cast<std::size_t>(row % kRow)].empty()) return start_ + row * kRow * kTick;
  }
  if (!beyond_.empty()) return start_ + (done_ / kRow / kRow + 1) * kRow * kRow * kTick;
  return std::nullopt;
}

}  // namespace ebb::net
