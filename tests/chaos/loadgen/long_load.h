// Connections that stay: an exchange every 50 ms, or a stream of bytes as fast as it goes; every byte is checked.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tests/chaos/loadgen/poller.h"
#include "tests/chaos/loadgen/sockets.h"
#include "tests/chaos/loadgen/tally.h"

namespace ebb::loadgen {

class LongLoad {
 public:
  struct Settings {
    std::uint32_t run = 0;
    std::size_t streams = 0;
    bool reopen = false;           // a lost one is opened anew a second later, so that the load stays
    std::int64_t gap_us = 50'000;  // between exchanges
    std::uint64_t bulk_bytes = 0;  // per stream, instead of exchanges: out and back again
  };
  LongLoad(Poller& poller, Settings settings, std::vector<Target> targets);
  LongLoad(const LongLoad&) = delete;
  LongLoad& operator=(const LongLoad&) = delete;
  ~LongLoad();

  void tick(std::int64_t now);
  /// Streams end after the exchange they are in. Bulk goes on to its end.
  void stop() { stopping_ = true; }
  /// All have ended. Bulk ends by itself.
  bool finished() const;
  /// "streams", "open", "opened", "exchanges", "bytes", "lost", then the tally; goes into an open object.
  void write(JsonWriter& json) const;
  std::size_t open() const;
  std::uint64_t lost() const { return tally_.failed(); }

 private:
  class Stream;

  Poller& poller_;
  Settings settings_;
  std::vector<Target> targets_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::uint64_t next_sequence_;
  std::uint64_t opened_ = 0, exchanges_ = 0, bytes_ = 0;
  bool stopping_ = false;
  Tally tally_;  // ok: an exchange, or a bulk stream that came back whole
};

}  // namespace ebb::loadgen
