#include "common/reverse/portal_plan.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace ebb::reverse {
namespace {

constexpr std::size_t kMostSpare = 32;  // tunnels of one bridge beyond the wanted number: lagging consumers get no more

}  // namespace

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
