#include "worker/relay/shortage.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "common/base/log.h"

namespace ebb::relay {

Shortage::Shortage(net::Loop& loop, BlockPool& blocks)
    : loop_(loop), blocks_(blocks), timer_([](void* self) { static_cast<Shortage*>(self)->look(); }, this) {
  blocks_.watch(this);
}

Shortage::~Shortage() { blocks_.watch(nullptr); }

/// In the middle of somebody's write: the look itself is for later.
void Shortage::on_over_limit() {
  if (!timer_.armed()) loop_.arm(timer_, Duration(0));
}

void Shortage::look() {
  const bool over = watching_ ? blocks_.bytes_in_use() > enough() : blocks_.over_limit();
  if (!over) {
    marks_.clear();
    watching_ = false;
    return;
  }
  if (std::exchange(watching_, true)) give_some_up();
  mark_all();
  loop_.arm(timer_, limits_.stall);
}

void Shortage::mark_all() {
  marks_.clear();
  for (Wire* wire = blocks_.wires_; wire != nullptr; wire = wire->next_) {
    wire->marked_ = wire->queued() > 0;
    if (wire->marked_) marks_[wire] = {wire->queued(), wire->taken()};
  }
}

/// Who took all that was there for him is not, however little it was.
bool Shortage::stuck(const Wire& wire) const {
  // A wire that came since may lie where a marked one was.
  if (!wire.marked_ || wire.queued() == 0 || wire.observer_ == nullptr || !wire.observer_->expendable()) return false;
  const Mark& then = marks_.at(&wire);
  const double wanted = static_cast<double>(limits_.min_drain) * std::chrono::duration<double>(limits_.stall).count();
  return static_cast<double>(wire.taken() - then.taken) < std::min(wanted, static_cast<double>(then.queued));
}

void Shortage::give_some_up() {
  std::vector<std::pair<std::size_t, Wire*>> found;
  for (Wire* wire = blocks_.wires_; wire != nullptr; wire = wire->next_) {
    if (stuck(*wire)) found.emplace_back(wire->queued(), wire);
  }
  std::ranges::sort(found, std::greater<>{}, &std::pair<std::size_t, Wire*>::first);
  std::size_t freed = 0, count = 0;
  for (const auto& [bytes, wire] : found) {
    if (blocks_.bytes_in_use() <= enough()) break;
    if (wire->failed_) continue;  // another one's end was its own
    freed += bytes;
    ++count;
    // Not `overload`, which a portal takes for a fault of the bridge.
    wire->give_up(Error{Errc::closed, "memory is short, and its peer took too little for too long", {}});
  }
  resets_ += count;
  if (count > 0) {
    log_event(log::Level::warning, "relay", "memory is short: connections were reset whose peers took too little",
              kv("connections", count), kv("queued_bytes", freed), kv("limit", blocks_.limit()));
  }
}

}  // namespace ebb::relay
