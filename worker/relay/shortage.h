// What becomes of connections while a loop holds more than it may (BlockPool::set_limit). Consumers of peers without
// credit are looked after by their tunnel (tunnel/laggards.h); this is for all others: thousands who were each promised
// little, and take nothing. No polling: begins when the limit is passed.
//
//   * From there on everybody's progress is watched for a `stall` at a time, until the loop is below its limit again.
//   * Of those who hold something and were given less than `min_drain` a second of it, the longest queues are reset, no
//     more than it takes to be an eighth below the limit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "worker/relay/out_queue.h"
#include "worker/relay/relay.h"

namespace ebb::relay {

class Shortage final : private BlockPool::Watcher {
 public:
  struct Limits {
    std::uint64_t min_drain = std::uint64_t{64} << 10;  // bytes per second
    Duration stall = std::chrono::seconds(10);
  };

  /// Of the relays of one loop and its pool; both have to outlive it.
  Shortage(Relays& relays, BlockPool& blocks);
  Shortage(const Shortage&) = delete;
  Shortage& operator=(const Shortage&) = delete;
  ~Shortage();

  /// From the next look on.
  void set_limits(Limits limits) { limits_ = limits; }
  /// Connections reset so far.
  std::uint64_t resets() const { return resets_; }

 private:
  struct Delivered {
    std::uint64_t client;
    std::uint64_t origin;
  };

  void on_over_limit() override;
  void look();
  void mark_all();
  void reset_some();
  std::size_t stuck_bytes(const Relay& relay) const;

  Relays& relays_;
  BlockPool& blocks_;
  Limits limits_;
  net::Timer timer_;
  std::unordered_map<const Relay*, Delivered> marks_;  // of those that were there when the look began: Relay::marked_
  bool watching_ = false;
  std::uint64_t resets_ = 0;
};

}  // namespace ebb::relay
