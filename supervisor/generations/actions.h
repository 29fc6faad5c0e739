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

/// Start a process and send it HELLO, log files, shared memory, the snapshot of configuration `config` and its slots: a
/// worker those of this configuration's addresses with slot id mod `of` == `index`, the broker all (escrow).
struct Spawn {
  ChildKey child;
  ipc::Role role{};
  std::uint64_t gen = 0;     // worker generation, or broker generation
  std::uint64_t config = 0;  // a worker's is its generation's
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
/// On every slot of this configuration's that does not listen yet, after giving `escrow` a copy of each of them. A
/// failure comes back as listen_failed().
struct Listen {
  std::uint64_t config = 0;
  std::optional<ChildKey> escrow;
};
struct RetireSlots {};  // let no new connection in, keep the queues
struct CloseSlots {};   // the supervisor's copies
struct RevokeSlots {    // every slot of this child: the broker's escrow
  ChildKey child;
};
struct Start {
  ChildKey child;
  std::uint64_t gen = 0;
};
struct Pause {
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
/// Obtain configuration `config`: from its files, or, with `workers`, the one that decides with another number of them.
/// Its new addresses are bound. Comes back as loaded() or refused().
struct Load {
  std::uint64_t config = 0;
  std::optional<std::uint32_t> workers;
};
/// To the broker; comes back as updated().
struct UpdateBroker {
  ChildKey broker;
  ipc::UpdatePhase phase{};
  std::uint64_t config = 0;
};
struct RetireRemoved {  // let no new connection in at addresses which this configuration does not have
  std::uint64_t config = 0;
};
struct RestoreSlots {};  // the opposite, for all
/// Close every address which this configuration does not have, our copies and those of `escrow`.
struct CloseRemoved {
  std::uint64_t config = 0;
  std::optional<ChildKey> escrow;
};
struct Decide {  // this configuration is in force: log settings, status, what a respawned broker gets
  std::uint64_t config = 0;
};
struct Forget {  // nobody uses it any more, or its loading is of no interest any more
  std::uint64_t config = 0;
};
/// Answers those who asked for this reload.
struct ReloadDone {
  std::uint64_t ticket = 0;
  int exit = 0;  // 0: the new configuration decides
  std::string text;
};
struct ReopenLogs {};
/// Every child is gone (or there never was one): leave with this status.
struct Exit {
  int code = 0;
  std::string failure;  // why, for a person at the terminal; empty: as asked
};

}  // namespace action

using Action = std::variant<action::Spawn, action::Connect, action::TellBrokerState, action::Listen,
                            action::RetireSlots, action::CloseSlots, action::RevokeSlots, action::Start, action::Pause,
                            action::Drain, action::Ping, action::Kill, action::Note, action::Load, action::UpdateBroker,
                            action::RetireRemoved, action::RestoreSlots, action::CloseRemoved, action::Decide,
                            action::Forget, action::ReloadDone, action::ReopenLogs, action::Exit>;

}  // namespace ebb::supervisor
