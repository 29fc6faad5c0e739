// What the state machine wants done. The runner (runner.h) does it, tests look at it. spec/processes.md 9, 10.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/log.h"
#include "common/base/strong_id.h"
#include "common/base/time.h"
#include "ipc/message.h"

namespace ebb::supervisor {

using std::chrono::milliseconds;

/// One spawned process, never used again for another. The low 16 bits are never 0: a worker's id in LINK_ADD.
using ChildKey = Strong<std::uint32_t, struct ChildKeyKind>;

namespace action {

/// Start a process and send it HELLO, log files, shared memory, the snapshot of `gen` and its slots: a worker those
/// with slot id mod `of` == `index`, the broker all of them (escrow).
struct Spawn {
  ChildKey child;
  ipc::Role role{};
  std::uint64_t gen = 0;  // worker generation, or broker generation
  std::uint32_t index = 0;
  std::uint32_t of = 0;  // workers of this generation
};
/// Make a handoff link and send LINK_ADD to both. A child that is no longer there: nothing.
struct Connect {
  ChildKey worker;
  ChildKey broker;
  std::uint64_t broker_gen = 0;
};
struct TellBrokerState {
  ChildKey to;
  std::uint64_t broker_gen = 0;
  ipc::BrokerPhase state{};
};
struct Listen {};       // on every slot; a failure comes back as start_failed()
struct RetireSlots {};  // let no new connection in, keep the queues
struct CloseSlots {};   // the supervisor's copies
struct RevokeSlots {    // every slot of this child: the broker's escrow
  ChildKey child;
};
struct Start {
  ChildKey child;
  std::uint64_t gen = 0;
};
struct Drain {
  ChildKey child;
  milliseconds deadline{0};
  milliseconds jitter{0};
};
struct Ping {
  ChildKey child;
};
struct Kill {
  ChildKey child;
  int signal = 0;
};
struct Note {  // a log line
  log::Level level{};
  std::string text;
  std::vector<std::pair<std::string, std::string>> fields;
};
/// Every child is gone (or there never was one): leave with this status.
struct Exit {
  int code = 0;
  std::string failure;  // why, for a person at the terminal; empty: as asked
};

}  // namespace action

using Action = std::variant<action::Spawn, action::Connect, action::TellBrokerState, action::Listen,
                            action::RetireSlots, action::CloseSlots, action::RevokeSlots, action::Start, action::Drain,
                            action::Ping, action::Kill, action::Note, action::Exit>;

}  // namespace ebb::supervisor
