// The service behind the bridge: echoes, and remembers which ids came how often (at most once is right).
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/base/json_writer.h"
#include "tests/chaos/loadgen/poller.h"
#include "tests/chaos/loadgen/wire.h"

namespace ebb::loadgen {

class Origin final : public Watcher {
 public:
  /// Listens on `port` of 127.0.0.1. `reuse_port`: for the naive server, whose generations share it.
  Origin(Poller& poller, std::uint16_t port, bool reuse_port = false);
  Origin(const Origin&) = delete;
  Origin& operator=(const Origin&) = delete;
  ~Origin();

  void on_event(std::uint32_t events) override;
  /// No more connections. What waits in the queue is reset by the kernel, as for every closed socket.
  void close_listener() { listener_.reset(); }

  std::size_t open() const { return open_; }
  std::size_t listeners() const { return listener_ ? 1 : 0; }
  /// How often a short connection of that sequence number came (at most 3 are counted), over all runs.
  int times_seen(std::uint64_t sequence) const;
  /// "accepted", "open", "ids", "long", "duplicates", "duplicate_sequences", "no_id", "bytes"; goes into an open
  /// object.
  void write(JsonWriter& json) const;

 private:
  class Connection;

  void note(const Id& id);
  void release(Connection& connection);

  Poller& poller_;
  Fd listener_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Connection>> ended_;  // kept until the next accept, off their own stack
  std::vector<std::uint8_t> seen_;                  // by sequence number
  std::vector<std::uint64_t> duplicates_;           // the first 20
  std::uint64_t accepted_ = 0, ids_ = 0, long_ = 0, duplicate_count_ = 0, no_id_ = 0, cut_ = 0, bytes_ = 0;
  std::size_t open_ = 0;
};

}  // namespace ebb::loadgen
