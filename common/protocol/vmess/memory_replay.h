// An exact replay guard in one process's memory: for tests, fuzzers, and servers of one process.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

#include "common/protocol/vmess/replay.h"

namespace ebb::vmess {

/// Holds at most `capacity` entries; when full of live ones it refuses to insert and never forgets early.
class MemoryReplayGuard final : public ReplayGuard {
 public:
  explicit MemoryReplayGuard(std::size_t capacity = 100'000) : capacity_(capacity) {}
  bool insert(Kind kind, ConstSpan bytes, UnixSeconds expires, UnixSeconds now) override;
  bool contains(Kind kind, ConstSpan bytes, UnixSeconds now) const override;
  std::size_t size() const { return expiry_.size(); }

 private:
  static std::string key(Kind kind, ConstSpan bytes);

  std::size_t capacity_;
  std::unordered_map<std::string, UnixSeconds> expiry_;
  std::multimap<UnixSeconds, std::string> by_expiry_;
};

}  // namespace ebb::vmess
