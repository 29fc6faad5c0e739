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

/// Which addresses' slots a worker is granted.
enum class Grants : std::uint8_t {
  all,
  tunnels,  // of inbounds through which a bridge may register
  others,   // the rest
};

/// Start a process and send it HELLO, log files, shared memory, the snapshot of configuration `config` and its slots: a
/// worker those of this configuration's addresses with slot id mod `of` == `index`, the broker all (escrow).
struct Spawn {
  ChildKey child;
  ipc::Role role{};
  std::uint64_t gen = 0;     // worker generation, or broker generation
  std::uint64_t config = 0;  // a worker's is its generation's
  std::uint32_t index = 0;
  std::uint32_t of = 0;  // workers of this generation
  Grants grants = Grants::all;
};
/// Slots for a worker that is there.
struct Grant {
  ChildKey worker;
  std::uint64_t config = 0;
  std::uint32_t index = 0;
  std::uint32_t of = 0;
  Grants grants = Grants::all;
};
/// Make a handoff link and send LINK_ADD to both. `broker` may be the predecessor, who passes it on to its broker of
/// that generation. A child that is no longer there: nothing.
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
/// On every slot of this configuration's that does not listen yet, after giving each of `escrow` a copy of all of them.
/// Comes back as listening() or listen_failed().
struct Listen {
  std::uint64_t config = 0;
  std::vector<ChildKey> escrow;
};
struct Escrow {  // copies of every slot for a broker that gave them up
  ChildKey broker;
};
struct RetireSlots {};  // let no new connection in, keep the queues
struct CloseSlots {};   // the supervisor's copies
/// Every slot this child has copies of: a broker's escrow; of a worker those of `which`.
struct RevokeSlots {
  ChildKey child;
  Grants which = Grants::all;
};
struct Start {  // to the predecessor: our workers have started
  ChildKey child;
  std::uint64_t gen = 0;
};
/// To a child: from now on it outlives its supervisor (9.4). To the predecessor: we are in charge. To the successor:
/// the service manager knows.
struct Commit {
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
/// To the broker, or to the predecessor, who asks all of its brokers; comes back as updated().
struct UpdateBroker {
  ChildKey broker;
  ipc::UpdatePhase phase{};
  std::uint64_t config = 0;
};
struct RetireRemoved {  // let no new connection in at addresses which this configuration does not have
  std::uint64_t config = 0;
};
struct RestoreSlots {       // the opposite, for all
  bool successors = false;  // also what another supervisor did to them
};
/// Close every address which this configuration does not have, our copies and those of `escrow`.
struct CloseRemoved {
  std::uint64_t config = 0;
  std::vector<ChildKey> escrow;
};
struct Decide {  // this configuration is in force: log settings, status, what a respawned broker gets
  std::uint64_t config = 0;
};
struct Forget {  // nobody uses it any more, or its loading is of no interest any more
  std::uint64_t config = 0;
};
/// Answers those who asked for this reload, upgrade or broker replacement.
struct OperationDone {
  std::uint64_t ticket = 0;
  int exit = 0;  // 0: the new configuration decides, the new supervisor is in charge, the new broker serves
  std::string text;
};
struct ReopenLogs {};
/// Ask the newest broker which portals have tunnels; comes back as live().
struct AskLive {
  ChildKey broker;
};
/// To every broker that leaves, and to the supervisor whose brokers do: these portals have tunnels elsewhere, or never
/// will as far as we can learn. Theirs may end when empty.
struct TellMoved {
  std::vector<std::string> portals;
};

// ---- binary upgrade (9.2), the old supervisor
struct SpawnSuccessor {  // execute the configured path; send HELLO
  ChildKey child;
  std::uint64_t gen = 0;  // the highest number used so far
};
struct EquipSuccessor {  // send every slot, then the shared memory: the last of what it waits for
  ChildKey child;
};
struct AnswerSuccessor {  // the answer of all brokers to its CONFIG_UPDATE
  ChildKey child;
  ipc::ConfigUpdate result;
  std::string text;
};
struct HandOver {};  // the successor is in charge: MAINPID, the lock, the admin socket
// ---- the new one
struct TellReady {
  ChildKey predecessor;
};
struct TakeOver {};  // we are in charge: the lock, the admin socket, the registry
/// A supervisor before us is dead, its children are ours: by what it wrote down when it handed over or, with
/// `in_charge`, into the registry, for it had not. Ends with Machine::take_in().
struct AdoptOrphans {
  bool in_charge = false;
};
struct Reclaim {};         // the old one: a successor is dead, perhaps in the middle of taking over
struct LeavePredecessor {  // we are not: it need not wait
  ChildKey predecessor;
};
/// Every child is gone (or there never was one): leave with this status.
struct Exit {
  int code = 0;
  std::string failure;  // why, for a person at the terminal; empty: as asked
};

}  // namespace action

using Action =
    std::variant<action::Spawn, action::Grant, action::Connect, action::TellBrokerState, action::Listen, action::Escrow,
                 action::RetireSlots, action::CloseSlots, action::RevokeSlots, action::Start, action::Commit,
                 action::Pause, action::Drain, action::Ping, action::Kill, action::Note, action::Load,
                 action::UpdateBroker, action::RetireRemoved, action::RestoreSlots, action::CloseRemoved,
                 action::Decide, action::Forget, action::OperationDone, action::ReopenLogs, action::AskLive,
                 action::SpawnSuccessor, action::EquipSuccessor, action::AnswerSuccessor, action::HandOver,
                 action::TellMoved, action::TellReady, action::TakeOver, action::AdoptOrphans, action::Reclaim,
                 action::LeavePredecessor, action::Exit>;

}  // namespace ebb::supervisor
