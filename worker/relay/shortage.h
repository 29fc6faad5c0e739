// What becomes of connections while a loop holds more than it may (BlockPool::set_limit): thousands who take nothing,
// each within his own bounds. No polling: it begins when the limit is passed, and ends an eighth below it.
//
//   * Meanwhile every wire's progress is watched for a `stall` at a time.
//   * Wires that held something all that time, and whose peers took less than `min_drain` a second of it, are given up,
//     the longest queues first, no more than it takes to be an eighth below the limit. Tunnels of many are spared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "worker/relay/wire.h"

namespace ebb::relay {

class Shortage final : private BlockPool::Watcher {
 public:
  struct Limits {
    std::uint64_t min_drain = std::uint64_t{64} << 10;  // bytes per second
    Duration stall = std::chrono::seconds(10);
  };

  /// Of the wires of one loop that share `blocks`; both have to outlive it.
  Shortage(net::Loop& loop, BlockPool& blocks);
  Shortage(const Shortage&) = delete;
  Shortage& operator=(const Shortage&) = delete;
  ~Shortage();

  /// From the next look on.
  void set_limits(Limits limits) { limits_ = limits; }
  /// Connections given up so far.
  std::uint64_t resets() const { return resets_; }

 private:
  struct Mark {
    std::size_t queued;
    std::uint64_t taken;
  };

  void on_over_limit() override;
  void look();
  void mark_all();
  void give_some_up();
  bool stuck(const Wire& wire) const;
  std::size_t enough() const { return blocks_.limit() - blocks_.limit() / 8; }

  net::Loop& loop_;
  BlockPool& blocks_;
  Limits limits_;
  net::Timer timer_;
  std::unordered_map<const Wire*, Mark> marks_;  // of those that held something when the look began: Wire::marked_
  bool watching_ = false;
  std::uint64_t resets_ = 0;
};

}  // namespace ebb::relay
