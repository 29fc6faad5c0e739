#include "common/reverse/portal_plan.h"

#include <algorithm>
#include <unordered_set>

namespace ebb::reverse {
namespace {

constexpr std::size_t kMostSpare = 8;  // tunnels of one bridge beyond the wanted number: lagging consumers get no more

}  // namespace

bool WaitingRoom::add(Key visitor, TimePoint now) {
  if (wait_ <= Duration::zero() || queue_.size() >= limit_ || index_.contains(visitor)) return false;
  queue_.push_back({visitor, now + wait_});
  index_[visitor] = std::prev(queue_.end());
  return true;
}

bool WaitingRoom::remove(Key visitor) {
  const auto found = index_.find(visitor);
  if (found == index_.end()) return false;
  queue_.erase(found->second);
  index_.erase(found);
  return true;
}

std::optional<WaitingRoom::Key> WaitingRoom::next() {
  if (queue_.empty()) return std::nullopt;
  const auto visitor = queue_.front().key;
  remove(visitor);
  return visitor;
}

std::vector<WaitingRoom::Key> WaitingRoom::expire(TimePoint now) {
  std::vector<Key> out;
  while (!queue_.empty() && queue_.front().until <= now) out.push_back(*next());
  return out;
}

std::optional<TimePoint> WaitingRoom::next_deadline() const {
  if (queue_.empty()) return std::nullopt;
  return queue_.front().until;
}

std::vector<TunnelId> tunnels_to_ask(std::span<const PoolMember> members, std::size_t wanted) {
  const auto need = std::max<std::size_t>(wanted, 1);
  std::unordered_map<std::uint64_t, std::size_t> serving, all;
  for (const auto& m : members) {
    if (m.draining) continue;
    ++all[m.bridge];
    if (!m.congested) ++serving[m.bridge];
  }
  std::vector<TunnelId> out;
  for (const auto& m : members) {
    if (!m.draining && !m.asked && serving[m.bridge] < need && all[m.bridge] < need + kMostSpare) out.push_back(m.id);
  }
  return out;
}

std::vector<TunnelId> tunnels_replaced(std::span<const PoolMember> members) {
  std::unordered_set<std::uint64_t> serving;  // a whole pool drains at once: look at each pair and it takes seconds
  for (const auto& m : members) {
    if (!m.draining && !m.congested) serving.insert(m.bridge);
  }
  std::vector<TunnelId> out;
  for (const auto& m : members) {
    if (m.draining && serving.contains(m.bridge)) out.push_back(m.id);
  }
  return out;
}

}  // namespace ebb::reverse
