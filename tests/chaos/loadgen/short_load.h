// New connections at a fixed rate: each says its id to the origin, expects it back, and nothing else.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "tests/chaos/loadgen/poller.h"
#include "tests/chaos/loadgen/sockets.h"
#include "tests/chaos/loadgen/tally.h"
#include "tests/chaos/loadgen/wire.h"

namespace ebb::loadgen {

inline constexpr std::int64_t kTimeoutUs = 10'000'000;  // no answer for so long = lost

class ShortLoad {
 public:
  struct Settings {
    std::uint32_t run = 0;
    double rate = 0;            // connections per second; 0 = none
    std::int64_t until_us = 0;  // no more starts from then on
    std::size_t most_open = 0;  // starts wait while so many are open
    std::uint64_t first = 1;    // sequence number of the first
    bool close_first = false;   // all close as soon as they have their answer, and the origin waits for that
  };
  ShortLoad(Poller& poller, Settings settings, std::vector<Target> targets);
  ShortLoad(const ShortLoad&) = delete;
  ShortLoad& operator=(const ShortLoad&) = delete;
  ~ShortLoad();

  /// Starts what is due, ends what is overdue.
  void tick(std::int64_t now);
  void stop(std::int64_t now) { settings_.until_us = std::min(settings_.until_us, now); }
  bool finished(std::int64_t now) const { return now >= settings_.until_us && open_ == 0; }

  void set_rate(double rate, std::int64_t now);
  void add_target(Target target) { targets_.push_back(std::move(target)); }
  /// No new connections to it; those under way go on.
  void drop_target(std::string_view text);

  std::uint64_t started() const { return next_sequence_ - settings_.first; }
  std::size_t open() const { return open_; }
  /// Most connections at a time, and starts that had to wait because too many were open.
  std::size_t most_open() const { return peak_; }
  std::uint64_t held_back() const { return held_back_; }
  const Tally& tally() const { return tally_; }

 private:
  class Connection;

  void start(std::int64_t now);
  void release(Connection& connection);

  Poller& poller_;
  Settings settings_;
  std::vector<Target> targets_;
  std::vector<std::unique_ptr<Connection>> all_;  // grows to what was ever open at a time
  std::vector<Connection*> free_;
  Connection* oldest_ = nullptr;  // open ones in order of their start, so timeouts are at the front
  Connection* youngest_ = nullptr;
  std::size_t open_ = 0, peak_ = 0;
  std::uint64_t next_sequence_, held_back_ = 0;
  std::int64_t base_us_;  // the rate counts from here
  std::uint64_t started_since_base_ = 0;
  Tally tally_;
};

}  // namespace ebb::loadgen
