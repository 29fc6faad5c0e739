// A portal's pool: how to get the wanted number of tunnels from a bridge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/strong_id.h"

namespace ebb::reverse {

/// One live tunnel as the pool sees it.
struct PoolMember {
  TunnelId id;
  std::uint64_t bridge = 0;  // whose tunnel: any number that is equal for tunnels of one bridge
  bool draining = false;     // really draining: leaves, does not count
  bool asked = false;        // PortalTunnel::asked_for_another()
  bool congested = false;    // takes no new streams for now, does not count
};

/// Tunnels to call ask_for_another() on, so that each bridge comes to `wanted` tunnels (0 and 1 = what the bridge
/// gives; a congested tunnel always calls for another). A bridge dials when none of its tunnels is unasked, so all of
/// them are asked until the number is there; the newest stays unasked. `members` in order of arrival.
/// Source: PROTOCOL.md, DRAIN.
std::vector<TunnelId> tunnels_to_ask(std::span<const PoolMember> members, std::size_t wanted);

/// Draining tunnels whose bridge has another one that does not drain, in the order of `members`: set_replaced(true) on
/// these, false on all others.
std::vector<TunnelId> tunnels_replaced(std::span<const PoolMember> members);

}  // namespace ebb::reverse
