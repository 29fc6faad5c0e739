// A portal's pool: visitors who wait for a tunnel, and how to get the wanted number of tunnels from a bridge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/base/strong_id.h"
#include "common/base/time.h"

namespace ebb::reverse {

/// Visitors without a tunnel, first come first served, bounded in number and time (spec/reverse.md 8.5).
class WaitingRoom {
 public:
  static constexpr std::size_t kMaxWaiting = 1024;
  using Key = std::uint64_t;  // the owner's number of the visitor

  explicit WaitingRoom(Duration wait = std::chrono::seconds(5), std::size_t limit = kMaxWaiting)
      : wait_(wait), limit_(limit) {}
  /// False: full, waiting is off, or the key waits already; refuse the visitor.
  bool add(Key visitor, TimePoint now);
  /// The visitor went away. False when he was not waiting.
  bool remove(Key visitor);
  /// The visitor to serve next; he no longer waits.
  std::optional<Key> next();
  /// Those whose time is over; they no longer wait: refuse them.
  std::vector<Key> expire(TimePoint now);
  std::optional<TimePoint> next_deadline() const;
  std::size_t size() const { return queue_.size(); }

 private:
  struct Visitor {
    Key key;
    TimePoint until;
  };
  Duration wait_;
  std::size_t limit_;
  std::list<Visitor> queue_;
  std::unordered_map<Key, std::list<Visitor>::iterator> index_;
};

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
/// Source: spec/reverse.md 8.3.
std::vector<TunnelId> tunnels_to_ask(std::span<const PoolMember> members, std::size_t wanted);

/// Draining tunnels whose bridge has another one that does not drain, in the order of `members`: set_replaced(true) on
/// these, false on all others.
std::vector<TunnelId> tunnels_replaced(std::span<const PoolMember> members);

}  // namespace ebb::reverse
