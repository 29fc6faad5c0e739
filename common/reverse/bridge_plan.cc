#include "common/reverse/bridge_plan.h"

#include <algorithm>
#include <array>

namespace ebb::reverse {

std::size_t BridgePlan::wanted(const BridgeLoad& load) const {
  const auto now_up = load.active + load.dialling;
  auto want = now_up;
  if (now_up == 0 || load.sessions / now_up > settings_.sessions_per_tunnel) want = now_up + 1;
  want = std::max({want, settings_.min_tunnels, std::size_t{1}});
  if (settings_.max_tunnels > 0) want = std::min(want, settings_.max_tunnels);
  const auto others = std::min(load.draining, kMaxLive);
  return std::min(want, kMaxLive - others);
}

std::size_t BridgePlan::dials_due(const BridgeLoad& load, TimePoint now) const {
  const auto want = wanted(load);
  const auto up = load.active + load.dialling;
  if (want <= up) return 0;
  if (failures_ == 0) return want - up;
  return load.dialling == 0 && now >= not_before_ ? 1 : 0;  // one at a time while the portal does not answer
}

std::optional<TimePoint> BridgePlan::next_deadline(TimePoint now) const {
  if (failures_ == 0 || not_before_ <= now) return std::nullopt;
  return not_before_;
}

void BridgePlan::dial_failed(TimePoint now, std::uint64_t random) {
  using std::chrono::milliseconds;
  static constexpr std::array kWaits{milliseconds(500), milliseconds(1000), milliseconds(2000)};
  const auto wait = kWaits[std::min(failures_, kWaits.size() - 1)];
  ++failures_;
  const double factor = 0.8 + 0.4 * (static_cast<double>(random >> 11) * 0x1p-53);
  not_before_ = now + std::chrono::duration_cast<Duration>(wait * factor);
}

void BridgePlan::tunnel_lost(Duration lived, bool answered, TimePoint now, std::uint64_t random) {
  if (lived < kSettled && !answered) {
    if (now >= not_before_) dial_failed(now, random);
    return;
  }
  tunnel_settled();
  if (lived >= kSpacing) return;
  failures_ = 1;
  not_before_ = now + (kSpacing - lived);
}

void BridgePlan::tunnel_settled() {
  failures_ = 0;
  not_before_ = {};
}

}  // namespace ebb::reverse
