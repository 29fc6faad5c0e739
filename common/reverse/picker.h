// Which tunnel a visitor gets: first a bridge, by the portal's policy, then one of its tunnels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/base/strong_id.h"
#include "common/reverse/health.h"

namespace ebb::reverse {

/// How bridges share the visitors. Whatever is equal under a policy takes turns, in proportion to the weights.
enum class PickPolicy : std::uint8_t {
  least,       // fewest bytes in flight, then fewest streams, both per weight
  roundrobin,  // one after the other
  hash,        // the same visitor key goes to the same bridge while that is up; others do not move when one leaves
  order,       // the lowest rank that is up
};

/// One live tunnel, and what is the same for all tunnels of its bridge.
struct Candidate {
  TunnelId id;
  bool usable = true;        // PortalTunnel::pickable(), and the transport is not stalled
  bool last_resort = false;  // PortalTunnel::pickable_as_last(): draining but alive, or
  bool congested = false;    // held up and without help
  std::size_t streams = 0;
  std::size_t bytes_in_flight = 0;
  // Of its bridge:
  std::uint64_t bridge = 0;  // any stable number
  std::uint32_t weight = 0;  // 0 counts as 1
  std::uint64_t rank = 0;
  Standing standing = Standing::untried;  // with the visitor's target
};

/// One per portal; keeps whose turn it is.
class Picker {
 public:
  explicit Picker(PickPolicy policy = PickPolicy::least) : policy_(policy) {}
  PickPolicy policy() const { return policy_; }
  /// Index into `tunnels`. `visitor_key` is any stable hash of the visitor (hash policy only). Among the usable whose
  /// bridge is not avoided; if none, among all usable; if none, a last resort whose bridge is not avoided, of those one
  /// that is not congested, the youngest (`tunnels` are in order of arrival), or else the congested one with the fewest
  /// streams; if none, nullopt: wait or refuse.
  std::optional<std::size_t> pick(std::span<const Candidate> tunnels, std::uint64_t visitor_key = 0);
  /// Bridges it remembers: for tests.
  std::size_t remembered() const { return bridges_.size(); }

 private:
  /// A bridge among those to choose from in the pick under way, and what is kept between picks.
  struct Bridge {
    std::uint64_t seen_in = 0;  // number of the pick its next four are of
    std::size_t bursts = 0;     // in flight on its emptiest usable tunnel, and
    std::size_t streams = 0;    // on all usable ones
    std::uint32_t weight = 1;
    std::uint64_t rank = 0;
    double turn = 0;       // where its next turn begins
    TunnelId last_turn{};  // the tunnel that had the last one
  };

  void gather(std::span<const Candidate> tunnels);
  void forget_gone();
  double cost(std::uint64_t id, const Bridge& bridge, std::uint64_t visitor_key) const;
  bool cheaper(const Bridge& a, const Bridge& b) const;
  std::optional<std::uint64_t> choose_bridge(std::uint64_t visitor_key);
  std::size_t choose_tunnel(std::span<const Candidate> tunnels, std::uint64_t bridge);
  bool may_serve(const Candidate& tunnel) const;

  PickPolicy policy_;
  std::unordered_map<std::uint64_t, Bridge> bridges_;
  std::vector<std::uint64_t> here_;  // of this pick
  std::uint64_t picks_ = 0;
  double clock_ = 0;                 // where the last turn given began
  std::uint8_t least_standing_ = 0;  // of this pick: who stands worse is left out
};

}  // namespace ebb::reverse
