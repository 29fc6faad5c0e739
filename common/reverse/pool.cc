#include "common/reverse/pool.h"

#include <algorithm>

namespace ebb::reverse {

std::uint64_t bridge_identity(const std::optional<UserId>& user, std::string_view address, const Hello* hello) {
  std::string name;
  if (user) name.append(as_text(user->value));
  name += '/';
  name += hello != nullptr ? as_text(hello->node_id) : address;
  return std::hash<std::string>{}(name);
}

/// Of every visitor: no text is made for it.
std::uint64_t target_key(const Target& target) {
  const std::string_view host = target.name() != nullptr ? *target.name() : as_text(target.ip()->bytes);
  const std::uint64_t rest = std::uint64_t{target.port} << 8 | static_cast<std::uint8_t>(target.network);
  return std::hash<std::string_view>{}(host) ^ rest * 0x9e3779b97f4a7c15u;
}

Pool::Seat& Pool::seat(std::uint64_t bridge) {
  const auto [at, added] = seats_.try_emplace(bridge);
  at->second.used = now_;
  if (!added) return at->second;
  at->second.number = ++last_seat_;
  if (seats_.size() > kMaxRemembered) {
    const auto oldest = std::ranges::min_element(seats_, {}, [](const auto& each) { return each.second.used; });
    if (oldest != at) seats_.erase(oldest);
  }
  return at->second;
}

void Pool::begin(const Target& target, TimePoint now) {
  candidates_.clear();
  target_ = target_key(target);
  now_ = now;
}

std::uint64_t Pool::rank(std::uint64_t bridge, std::uint32_t weight, std::uint32_t place, bool settled) {
  constexpr std::uint32_t kHeaviest = 0xffff, kLast = 0xffffff;
  const std::uint64_t lightness = kHeaviest - std::min(std::max(weight, 1u), kHeaviest);
  const std::uint64_t number = settled ? std::min(seat(bridge).number, kLast - 1) : kLast;
  return std::uint64_t{std::min(place, kLast)} << 40 | lightness << 24 | number;
}

void Pool::add(const Candidate& tunnel, std::uint32_t place, bool settled) {
  Candidate& added = candidates_.emplace_back(tunnel);
  added.rank = rank(tunnel.bridge, tunnel.weight, place, settled);
  added.standing = health_.standing(tunnel.bridge, target_, now_);
}

Health::Ticket Pool::opened(std::uint64_t bridge, TimePoint now) {
  now_ = now;
  ++seat(bridge).visitors;
  return health_.opened(bridge, target_, now);
}

std::uint64_t Pool::visitors(std::uint64_t bridge) const {
  const auto at = seats_.find(bridge);
  return at != seats_.end() ? at->second.visitors : 0;
}

}  // namespace ebb::reverse
