// How many tunnels a bridge keeps, and when it dials. No IO: the owner reports what happened and asks what is due.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/base/time.h"

namespace ebb::reverse {

struct BridgePlanSettings {
  std::size_t min_tunnels = 1;           // kept up at least
  std::size_t max_tunnels = 0;           // active ones at most; 0 = no limit
  std::size_t sessions_per_tunnel = 16;  // more than this, control included: one more tunnel (V2Ray's number)
};

/// The bridge's tunnels at this moment.
struct BridgeLoad {
  std::size_t active = 0;    // up and not draining
  std::size_t draining = 0;  // still serving
  std::size_t dialling = 0;
  std::size_t sessions = 0;  // over the active ones, control sessions included
};

/// Rule: a tunnel when there is none active, or sessions / active > 16 (integer division, dials under way count as
/// active); back-off after failures: at once, 0.5, 1, 2, 2 ... s, each +-20 %. Source: PROTOCOL.md, bridge.
class BridgePlan {
 public:
  static constexpr auto kSettled = std::chrono::seconds(2);         // lost sooner, and unanswered: a failed dial
  static constexpr auto kSpacing = std::chrono::milliseconds(250);  // between dials to one that answers and hangs up
  static constexpr std::size_t kMaxLive = 256;                      // tunnels of one bridge in any state

  explicit BridgePlan(BridgePlanSettings settings = {}) : settings_(settings) {}
  /// Of a new configuration. Tunnels beyond a smaller maximum stay.
  void set_settings(BridgePlanSettings settings) { settings_ = settings; }

  /// Tunnels the load calls for, active plus dialling; never below min_tunnels.
  std::size_t wanted(const BridgeLoad& load) const;
  /// Dials to start now. Ask after every change of the load and at next_deadline().
  std::size_t dials_due(const BridgeLoad& load, TimePoint now) const;
  /// The back-off's end while one is running, else nullopt: nothing to wake up for.
  std::optional<TimePoint> next_deadline(TimePoint now) const;

  /// `random` is any uniform number, for the jitter.
  void dial_failed(TimePoint now, std::uint64_t random);
  /// `answered`: the portal had spoken on it, so it is there and the next dial is due at once, kSpacing after this
  /// one's. Several lost while a back-off runs are one failure.
  void tunnel_lost(Duration lived, bool answered, TimePoint now, std::uint64_t random);
  /// The portal spoke on a tunnel, or one has been up for kSettled: the next failure starts over at once.
  void tunnel_settled();
  std::size_t failures() const { return failures_; }

 private:
  BridgePlanSettings settings_;
  std::size_t failures_ = 0;
  TimePoint not_before_{};
};

}  // namespace ebb::reverse
