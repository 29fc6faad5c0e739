#include "common/protocol/vmess/memory_replay.h"

namespace ebb::vmess {

std::string MemoryReplayGuard::key(Kind kind, ConstSpan bytes) {
  return std::string(1, static_cast<char>(kind)) + std::string(as_text(bytes));
}

bool MemoryReplayGuard::insert(Kind kind, ConstSpan bytes, UnixSeconds expires, UnixSeconds now) {
  while (!by_expiry_.empty() && by_expiry_.begin()->first <= now) {
    expiry_.erase(by_expiry_.begin()->second);
    by_expiry_.erase(by_expiry_.begin());
  }
  std::string name = key(kind, bytes);
  if (expiry_.size() >= capacity_ || !expiry_.try_emplace(name, expires).second) return false;
  by_expiry_.emplace(expires, std::move(name));
  return true;
}

bool MemoryReplayGuard::contains(Kind kind, ConstSpan bytes, UnixSeconds now) const {
  const auto found = expiry_.find(key(kind, bytes));
  return found != expiry_.end() && found->second > now;
}

}  // namespace ebb::vmess
