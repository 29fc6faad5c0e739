#include "common/reverse/picker.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace ebb::reverse {
namespace {

constexpr std::size_t kBurst = std::size_t{64} << 10;  // less in flight than this makes no tunnel busier than another

double weight_of(const Candidate& tunnel) { return tunnel.weight == 0 ? 1.0 : tunnel.weight; }

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/// Weighted rendezvous hashing: the lowest wins, in proportion to the weights.
double hash_cost(const Candidate& tunnel, std::uint64_t key) {
  const auto draw = mix(mix(tunnel.id.value + 0x9e3779b97f4a7c15) ^ key);
  const double uniform = (static_cast<double>(draw >> 11) + 0.5) * 0x1p-53;
  return -std::log(uniform) / weight_of(tunnel);
}

auto load_of(const Candidate& tunnel) {
  const double weight = weight_of(tunnel);
  const auto bursts = tunnel.bytes_in_flight / kBurst;  // whole ones
  return std::tuple{static_cast<double>(bursts) / weight, static_cast<double>(tunnel.streams) / weight};
}

/// Index of the usable tunnel with the lowest cost; the oldest on a tie.
template <class Cost>
std::optional<std::size_t> cheapest(std::span<const Candidate> tunnels, Cost cost) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < tunnels.size(); ++i) {
    if (tunnels[i].usable && (!best || cost(tunnels[i]) < cost(tunnels[*best]))) best = i;
  }
  return best;
}

}  // namespace

std::optional<PickPolicy> policy_named(std::string_view text) {
  if (text == "least") return PickPolicy::least;
  if (text == "roundrobin") return PickPolicy::roundrobin;
  if (text == "hash") return PickPolicy::hash;
  if (text == "order") return PickPolicy::order;
  return std::nullopt;
}

std::optional<std::size_t> Picker::pick(std::span<const Candidate> tunnels, std::uint64_t visitor_key) {
  std::optional<std::size_t> chosen;
  switch (policy_) {
    case PickPolicy::least: chosen = cheapest(tunnels, load_of); break;
    case PickPolicy::hash:
      chosen = cheapest(tunnels, [visitor_key](const Candidate& t) { return hash_cost(t, visitor_key); });
      break;
    case PickPolicy::order: chosen = cheapest(tunnels, [](const Candidate&) { return 0; }); break;
    case PickPolicy::roundrobin: chosen = after_last(tunnels); break;
  }
  if (chosen) return chosen;
  for (std::size_t i = tunnels.size(); i-- > 0;) {
    if (tunnels[i].last_resort) return i;
  }
  return std::nullopt;
}

std::optional<std::size_t> Picker::after_last(std::span<const Candidate> tunnels) {
  const auto last = std::ranges::find(tunnels, last_, &Candidate::id);
  // When the last one has left, its place holds the one that was next.
  const auto start = last == tunnels.end() ? last_index_ : static_cast<std::size_t>(last - tunnels.begin()) + 1;
  for (std::size_t step = 0; step < tunnels.size(); ++step) {
    const auto i = (start + step) % tunnels.size();
    if (!tunnels[i].usable) continue;
    last_ = tunnels[i].id;
    last_index_ = i;
    return i;
  }
  return std::nullopt;
}

}  // namespace ebb::reverse
