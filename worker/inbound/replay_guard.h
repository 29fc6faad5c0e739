// The replay table of all workers as a handshake sees it.
#pragma once

#include "common/protocol/vmess/replay.h"
#include "ipc/replay_table.h"

namespace ebb::inbound {

/// The handshake counts in real time, the table in CLOCK_BOOTTIME: only the difference travels, so that a clock that is
/// set back forgets nothing.
class SharedReplayGuard final : public vmess::ReplayGuard {
 public:
  explicit SharedReplayGuard(ipc::ReplayTable& table) : table_(table) {}
  bool insert(Kind kind, ConstSpan bytes, UnixSeconds expires, UnixSeconds now) override;
  bool contains(Kind kind, ConstSpan bytes, UnixSeconds now) const override;

 private:
  ipc::ReplayTable& table_;
};

}  // namespace ebb::inbound
