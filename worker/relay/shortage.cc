#include "worker/relay/shortage.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/log.h"

namespace ebb::relay {

Shortage::Shortage(Relays& relays, BlockPool& blocks)
    : relays_(relays), blocks_(blocks), timer_([](void* self) { static_cast<Shortage*>(self)->look(); }, this) {
  blocks_.watch(this);
}

Shortage::~Shortage() { blocks_.watch(nullptr); }

/// In the middle of somebody's write: the look itself is for later.
void Shortage::on_over_limit() {
  if (!timer_.armed()) relays_.loop().arm(timer_, Duration(0));
}

void Shortage::look() {
  if (!blocks_.over_limit()) {
    marks_.clear();
    watching_ = false;
    return;
  }
  if (std::exchange(watching_, true)) reset_some();
  mark_all();
  relays_.loop().arm(timer_, limits_.stall);
}

void Shortage::mark_all() {
  marks_.clear();
  for (Relay* relay = relays_.head_; relay != nullptr; relay = relay->next_) {
    relay->marked_ = relay->queued() > 0;
    if (relay->marked_) marks_[relay] = {relay->client_->delivered(), relay->origin_->delivered()};
  }
}

/// Queued for who was given too little. A tunnel's queue is not one stream's.
std::size_t Shortage::stuck_bytes(const Relay& relay) const {
  if (!relay.marked_) return 0;  // also one that came since, and lies where a marked one was
  const Delivered& then = marks_.at(&relay);
  const double wanted = static_cast<double>(limits_.min_drain) * std::chrono::duration<double>(limits_.stall).count();
  const auto stuck = [&](const Side& side, std::uint64_t delivered_then) -> std::size_t {
    if (!side.owns_queue() || static_cast<double>(side.delivered() - delivered_then) >= wanted) return 0;
    return side.queued();
  };
  return stuck(*relay.client_, then.client) + stuck(*relay.origin_, then.origin);
}

void Shortage::reset_some() {
  std::vector<std::pair<std::size_t, Relay*>> stuck;
  for (Relay* relay = relays_.head_; relay != nullptr; relay = relay->next_) {
    if (const std::size_t bytes = stuck_bytes(*relay); bytes > 0) stuck.emplace_back(bytes, relay);
  }
  std::ranges::sort(stuck, std::greater<>{}, &std::pair<std::size_t, Relay*>::first);
  std::size_t freed = 0, count = 0;
  for (const auto& [bytes, relay] : stuck) {
    if (blocks_.bytes_in_use() <= blocks_.limit() - blocks_.limit() / 8) break;
    if (relay->finished()) continue;  // another one's end was its own
    freed += bytes;
    ++count;
    relay->abort(Error{Errc::overload, "memory is short, and its consumer took too little for too long", {}});
  }
  resets_ += count;
  if (count > 0) {
    log_event(log::Level::warning, "relay", "memory is short: connections were reset whose consumers took too little",
              kv("connections", count), kv("queued_bytes", freed), kv("limit", blocks_.limit()));
  }
}

}  // namespace ebb::relay
