#include "common/reverse/picker.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace ebb::reverse {
namespace {

constexpr std::size_t kBurst = std::size_t{64} << 10;  // less in flight than this makes no tunnel busier than another
constexpr std::size_t kMostGone = 64;                  // bridges remembered beyond those that are up

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

bool Picker::may_serve(const Candidate& tunnel) const {
  return tunnel.usable && static_cast<std::uint8_t>(tunnel.standing) >= least_standing_;
}

/// Who takes part: `here_`, with the figures of `bridges_`.
void Picker::gather(std::span<const Candidate> tunnels) {
  auto best = Standing::failing;
  for (const auto& tunnel : tunnels) {
    if (tunnel.usable) best = std::max(best, tunnel.standing);
  }
  // Untried ones share the load of proven ones, as far as they are not crowded. Where visitors belong to a bridge only
  // its failure sends them elsewhere.
  const bool belongs = policy_ == PickPolicy::hash || policy_ == PickPolicy::order;
  const auto least = best == Standing::proven && !belongs ? Standing::untried : std::min(best, Standing::crowded);
  least_standing_ = static_cast<std::uint8_t>(least);
  ++picks_;
  here_.clear();
  for (const auto& tunnel : tunnels) {
    if (!may_serve(tunnel)) continue;
    Bridge& bridge = bridges_[tunnel.bridge];
    const std::size_t bursts = tunnel.bytes_in_flight / kBurst;  // whole ones
    if (bridge.seen_in != picks_) {
      bridge.seen_in = picks_;
      bridge.bursts = bursts;
      bridge.streams = 0;
      bridge.rank = tunnel.rank;
      bridge.weight = 1;
      here_.push_back(tunnel.bridge);
    }
    bridge.bursts = std::min(bridge.bursts, bursts);
    bridge.streams += tunnel.streams;
    bridge.weight = std::max(bridge.weight, tunnel.weight);
  }
}

void Picker::forget_gone() {
  if (bridges_.size() <= here_.size() + kMostGone) return;
  std::erase_if(bridges_, [this](const auto& each) { return each.second.seen_in != picks_; });
}

/// Weighted rendezvous hashing: the lowest wins, in proportion to the weights.
double Picker::cost(std::uint64_t id, const Bridge& bridge, std::uint64_t visitor_key) const {
  const auto draw = mix(mix(id + 0x9e3779b97f4a7c15) ^ visitor_key);
  const double uniform = (static_cast<double>(draw >> 11) + 0.5) * 0x1p-53;
  return -std::log(uniform) / bridge.weight;
}

bool Picker::cheaper(const Bridge& a, const Bridge& b) const {
  // a / weight(a) < b / weight(b), without the division.
  switch (policy_) {
    case PickPolicy::least: {
      const auto ours = a.bursts * b.weight, theirs = b.bursts * a.weight;
      return ours != theirs ? ours < theirs : a.streams * b.weight < b.streams * a.weight;
    }
    case PickPolicy::order: return a.rank < b.rank;
    case PickPolicy::roundrobin:
    case PickPolicy::hash: return false;
  }
  return false;
}

/// Among equals turns are given by start-time fair queueing: each turn takes 1/weight, and who was not among the equals
/// for a while does not make up for it.
std::optional<std::uint64_t> Picker::choose_bridge(std::uint64_t visitor_key) {
  if (here_.empty()) return std::nullopt;
  if (policy_ == PickPolicy::hash) {
    return *std::ranges::min_element(here_, {}, [&](std::uint64_t id) { return cost(id, bridges_[id], visitor_key); });
  }
  std::uint64_t best = here_.front();
  const auto turn = [this](const Bridge& bridge) { return std::max(bridge.turn, clock_); };
  for (const std::uint64_t id : here_) {
    const Bridge& a = bridges_[id];
    const Bridge& b = bridges_[best];
    if (cheaper(a, b) || (!cheaper(b, a) && turn(a) < turn(b))) best = id;
  }
  Bridge& chosen = bridges_[best];
  clock_ = turn(chosen);
  chosen.turn = clock_ + 1.0 / chosen.weight;
  return best;
}

std::size_t Picker::choose_tunnel(std::span<const Candidate> tunnels, std::uint64_t bridge) {
  const TunnelId last = bridges_[bridge].last_turn;
  std::optional<std::size_t> best;
  // The next one after `last` of those that are equal; ids grow.
  const auto before = [&](const Candidate& a, const Candidate& b) {
    if (policy_ != PickPolicy::roundrobin) {
      if (a.bytes_in_flight / kBurst != b.bytes_in_flight / kBurst) return a.bytes_in_flight < b.bytes_in_flight;
      if (a.streams != b.streams) return a.streams < b.streams;
    }
    const bool a_next = a.id > last, b_next = b.id > last;
    return a_next != b_next ? a_next : a.id < b.id;
  };
  for (std::size_t i = 0; i < tunnels.size(); ++i) {
    if (tunnels[i].bridge != bridge || !may_serve(tunnels[i])) continue;
    if (!best || before(tunnels[i], tunnels[*best])) best = i;
  }
  bridges_[bridge].last_turn = tunnels[*best].id;
  return *best;
}

std::optional<std::size_t> Picker::pick(std::span<const Candidate> tunnels, std::uint64_t visitor_key) {
  gather(tunnels);
  forget_gone();
  if (const auto bridge = choose_bridge(visitor_key)) return choose_tunnel(tunnels, *bridge);
  std::optional<std::size_t> last;
  // Lower is better; of equals the youngest.
  const auto cost = [](const Candidate& tunnel) {
    return std::tuple(tunnel.standing == Standing::failing, tunnel.congested, tunnel.congested ? tunnel.streams : 0);
  };
  for (std::size_t i = 0; i < tunnels.size(); ++i) {
    if (tunnels[i].last_resort && (!last || cost(tunnels[i]) <= cost(tunnels[*last]))) last = i;
  }
  return last;
}

}  // namespace ebb::reverse
