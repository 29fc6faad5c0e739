// The life of all children as one state machine without IO: events in, actions out, time as an argument.
// Start-up, respawn, watchdog, stop (machine.cc), reload and resize (reload.cc), brokers and their succession
// (brokers.cc), binary upgrade seen from the old supervisor (upgrade.cc) and from the new one (arrival.cc), orphans of
// a supervisor that died (adoption.cc). spec/processes.md 9, 10, 12.
//
//   starting --all READY: Listen; then START--> running --QUIT--> retiring --1 s--> draining --no child left--> Exit(0)
//      | a child ends or is late              |  TERM (from everywhere)                      |
//      v                                      v                                              v
//   failing: KILL all, Exit(1)            stopping: DRAIN with stopGrace, KILL ----------> Exit(0)
//
// A reload is one more state beside phase `running`; the first generation needs no probation, nothing older could take
// over. A configuration has the number of the worker generation it came with.
//
//   loading -> preparing -> readying -> listening -> starting -> (retiring, 1 s) -> pausing -> committing -> probation
//      |  a step fails: kill the new, ABORT, START the paused  |           | the new decides; a new worker ends: roll
//      +--> refused <------------------------------------------+           +-> back: START the old, drain the new,
//                                                                              PREPARE + COMMIT the old
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/time.h"
#include "common/config/hard_stop.h"
#include "supervisor/generations/actions.h"
#include "supervisor/generations/respawn.h"
#include "supervisor/process/spawn.h"

namespace ebb::supervisor {

inline constexpr std::uint32_t kMaxWorkers = 1024;

/// What the machine has to know of a configuration.
struct Plan {
  std::uint32_t workers = 0;  // 0: no inbound
  milliseconds ready{30'000};
  milliseconds respawn_backoff{1'000};
  milliseconds stop_grace{5'000};
  milliseconds hard_stop_workers = config::kHardStopWorkers;
  milliseconds hard_stop_broker = config::kHardStopBrokers;
  milliseconds drain_spread{10'000};
  milliseconds tunnel_wait{5'000};
  milliseconds probation{10'000};
  milliseconds broker_move{60'000};
  std::uint32_t max_generations = 4;  // of workers, the current one included
  std::vector<std::string> portals;   // as brokers name them: "TAG DOMAIN"
};
/// `cpus`: how many this process may run on, for "auto".
Plan plan_of(const config::Config& config, std::uint32_t cpus);

/// `probation` is active in a generation that may yet be taken back, `paused` waits for that.
enum class ChildState : std::uint8_t { starting, ready, probation, active, paused, draining, killed };
std::string_view name_of(ChildState state);

/// Diagnostics are many lines; a log line and a status have room for one.
std::string first_line(const std::string& text);

struct Child {
  ChildKey key;
  ipc::Role role{};
  std::uint64_t gen = 0;
  std::uint32_t index = 0;
  pid_t pid = 0;  // 0 until spawned
  ChildState state = ChildState::starting;
  std::uint16_t link_id = 0;      // a worker's, on its links: the one it was started with, whatever its key is by now
  std::uint32_t connections = 0;  // from the last PONG
  std::uint32_t fds_free = 0;

  /// "worker g1/0", "broker b1", "supervisor 4711": in `ps`, logs and status.
  std::string name() const;
  /// Another supervisor: of an upgrade that is under way or was done.
  bool supervises() const { return role == ipc::Role::supervisor || role == ipc::Role::successor; }

 private:
  friend class Machine;
  TimePoint spawned{};
  unsigned unanswered = 0;             // PINGs
  unsigned link_faults = 0;            // links closed because an end broke the protocol
  bool awaited = false;                // STARTED or PAUSED is due
  std::optional<TimePoint> leave_by;   // a replaced broker: its hard stop
  std::optional<TimePoint> terminate;  // TERM then: a drained child that outstays its hard stop
  std::optional<TimePoint> kill;       // KILL then
};

/// A reload under way (spec/processes.md 9.1).
enum class ReloadStep : std::uint8_t {
  loading,
  preparing,   // the broker's answer to PREPARE is due
  readying,    // READY of all new workers
  listening,   // new addresses
  starting,    // STARTED
  retiring,    // removed addresses let nobody in; who is half in comes in
  pausing,     // PAUSED of all old workers
  committing,  // the broker's answer to COMMIT
  probation,
};
struct Reload {
  std::uint64_t gen = 0;
  std::uint64_t ticket = 0;
  ReloadStep step = ReloadStep::loading;
  Plan plan;
  bool removes = false;
  std::optional<TimePoint> deadline;
  std::set<ChildKey> asked;    // whose answer to PREPARE or COMMIT is due
  std::string renew;           // what needs another broker process, which is to be had afterwards
  std::string problem;         // what the newest broker said to COMMIT
  std::uint64_t previous = 0;  // from committing on
  Plan previous_plan;
};

/// A broker that is to be replaced on purpose (spec/processes.md 9.3).
struct Renewal {
  std::string why;
  std::vector<std::uint64_t> tickets;
  std::optional<ChildKey> fresh;  // absent: not started yet
};

/// An upgrade seen from the old supervisor (spec/processes.md 9.2).
struct Upgrade {
  enum class Step : std::uint8_t {
    readying,   // READY is due
    starting,   // STARTED
    probation,  // COMMIT
  };
  ChildKey successor;
  std::uint64_t ticket = 0;
  Step step = Step::readying;
  TimePoint deadline{};
  bool apart = false;          // no links across: another protocol, or a configuration our brokers cannot read
  std::uint64_t config = 0;    // of its CONFIG_UPDATE
  std::set<ChildKey> asked;    // brokers whose answer to that is due
  ipc::ConfigUpdate answer{};  // to it, so far
  std::string text;
  std::string complaint;  // why it is about to end
};

/// The same seen from the new one, until it is in charge.
struct Arrival {
  enum class Step : std::uint8_t {
    preparing,  // the old brokers' answer to PREPARE
    readying,   // READY of our children
    waiting,    // START
    listening,  // on what the old one did not have
    starting,   // STARTED of our workers
    retiring,   // addresses that are not wanted any more let nobody in
    moving,     // apart: until our broker has tunnels
    probation,
  };
  ChildKey predecessor;
  Step step = Step::preparing;
  std::optional<TimePoint> deadline;
  std::optional<TimePoint> hung_up;  // its link has ended: it is dead by then, or it has dismissed us
  bool removes = false;
};

/// What the new supervisor knows of the old one from the start.
struct Predecessor {
  pid_t pid = 0;
  std::uint64_t gen = 0;               // the highest number it has used for anything
  bool apart = false;                  // another protocol number
  std::vector<std::uint64_t> brokers;  // generations that serve
  bool removes = false;                // it listens on an address that the configuration does not have
};

/// Numbers that were used: never again, since ids of offers carry them.
struct Numbers {
  std::uint32_t key = 0;
  std::uint64_t gen = 0;
  std::uint64_t broker = 0;
};

/// A process that outlived its supervisor and has answered ADOPT.
struct Orphan {
  ChildKey key;
  ipc::Role role{};
  std::uint64_t gen = 0;
  std::uint32_t index = 0;
  pid_t pid = 0;
  std::uint32_t connections = 0;
  bool serves = false;        // it has slots: it was not told to leave
  bool retired = false;       // of a supervisor that had handed over: it was told
  std::uint16_t link_id = 0;  // as Child::link_id
};

class Machine {
 public:
  enum class Phase : std::uint8_t { starting, running, retiring, draining, stopping, failing, retired, done };

  explicit Machine(const Plan& plan);

  // ---- the first event: one of these
  /// Broker first, then the workers, each linked to it.
  void begin(TimePoint now);
  /// As the new supervisor of an upgrade.
  void begin_after(const Predecessor& predecessor, TimePoint now);
  /// Over processes that lost their supervisor; then an ordinary reload replaces them (9.4). `current`: the generation
  /// that decided; `plan` (of the constructor) is its plan.
  void begin_over(const std::vector<Orphan>& orphans, std::uint64_t current, const Numbers& used, TimePoint now);
  /// The answer to AdoptOrphans, also when there is nobody: children of a supervisor that died before COMMIT, or as it
  /// waited for them. They leave, as they would have. Gives each a key of ours. `more`: others have not answered yet.
  void take_in(std::vector<Orphan>& orphans, bool more, TimePoint now);
  /// Supervisors of earlier upgrades, which the one before us knew: from now on they are ours to stop. Gives keys.
  void know(std::vector<Orphan>& supervisors, TimePoint now);

  void spawned(ChildKey child, pid_t pid);
  void spawn_failed(ChildKey child, std::string_view why, TimePoint now);
  /// The answers to Listen: nobody is told to serve before.
  void listening(std::uint64_t config, TimePoint now);
  void listen_failed(std::uint64_t config, std::string_view why, TimePoint now);
  void ready(ChildKey child, TimePoint now);
  void started(ChildKey child, TimePoint now);
  void paused(ChildKey child, TimePoint now);
  void pong(ChildKey child, const ipc::Pong& pong, TimePoint now);
  void drained(ChildKey child, const ipc::Drained& left);
  /// The ctl link ended (`why` empty) or carried a bad message while the process lives: it is ended.
  void link_lost(ChildKey child, std::string_view why, TimePoint now);
  /// `status` absent: it was not our child, nobody knows how it ended.
  void exited(ChildKey child, const std::optional<ExitStatus>& status, TimePoint now);
  /// A signal of section 10.
  void signal(int number, TimePoint now);

  /// Reads the configuration afresh and moves to it; while another reload runs: after that. One that is in probation
  /// has proved itself by this: whoever takes a user or an address away does not wait for the last change.
  /// Returns the ticket that action::OperationDone will carry.
  std::uint64_t reload(TimePoint now);
  /// The configuration was accepted; `removes`: some address of the one in force is not in it.
  void loaded(std::uint64_t config, const Plan& plan, bool removes, TimePoint now);
  /// It was not; `exit` is what the command that asked ends with.
  void refused(std::uint64_t config, int exit, std::string_view why, TimePoint now);
  /// The broker's CONFIG_UPDATE_RESULT, or the predecessor's.
  void updated(ChildKey broker, const ipc::ConfigUpdate& result, std::string_view text, TimePoint now);

  // ---- brokers
  /// Another broker takes the place of the one there is; nothing is lost. Returns a ticket.
  std::uint64_t renew_broker(std::string why, TimePoint now);
  /// A worker's link was closed because one end broke the protocol: it gets another one.
  void link_faulted(ChildKey worker, std::uint32_t broker_gen, TimePoint now);
  /// Portals ("TAG DOMAIN") for which this broker has a tunnel: the answer to AskLive. Of one that has been replaced
  /// since it was asked it counts no more.
  void live(ChildKey broker, const std::vector<std::string>& portals, TimePoint now);

  // ---- upgrade, the old one: what the successor says
  /// Starts it; after a reload that is under way. Returns a ticket.
  std::uint64_t upgrade(TimePoint now);
  /// Its HELLO. With another protocol there will be no links across.
  void successor_greets(ChildKey successor, bool same_protocol);
  void successor_update(ChildKey successor, const ipc::ConfigUpdate& update, TimePoint now);
  void successor_committed(ChildKey successor, TimePoint now);
  /// Why it is about to end, for who asked.
  void successor_complains(ChildKey successor, std::string_view why);
  // ---- upgrade, the new one: what the predecessor says
  void predecessor_start(TimePoint now);
  /// One of its brokers came or went (`state` dead).
  void predecessor_broker(std::uint64_t broker_gen, ipc::BrokerPhase state, TimePoint now);

  void tick(TimePoint now);
  /// When tick() is wanted next.
  std::optional<TimePoint> next_tick() const;

  std::vector<Action> take();

  Phase phase() const { return phase_; }
  const Child* find(ChildKey child) const;
  const std::map<ChildKey, Child>& children() const { return children_; }
  /// Of the configuration that decides.
  std::uint64_t generation() const { return current_gen_; }
  Numbers used() const { return {last_key_, last_gen_, broker_gen_}; }
  /// The newest broker that is not being killed, and does not leave if one is there that stays. Null: none.
  const Child* broker() const;
  /// A replaced broker that serves until it is empty.
  static bool leaving(const Child& child) { return child.leave_by.has_value(); }
  /// What is going on: "idle", "loading", … "probation", "upgrade", "arrival".
  std::string_view operation() const;
  /// From the first step to the answer: probation is not counted.
  bool reloading() const { return (reload_ && reload_->step < ReloadStep::probation) || upgrade_; }
  /// How the last reload went: "" before the first, "ok", or why not.
  const std::string& last_reload() const { return last_reload_; }
  /// The old supervisor, whose brokers our workers may still use. Null: none, or another protocol parts us.
  const Child* linked_predecessor() const { return predecessor_ && !apart_ ? find(*predecessor_) : nullptr; }
  /// Whether this one is the supervisor that is in charge since we have handed over.
  bool heir(ChildKey child) const;
  /// Until COMMIT another supervisor is in charge; of one that gave up before, it stays.
  bool in_charge() const { return in_charge_; }

 private:
  /// `starting` until its workers are told to serve, then `active` (also in probation); `paused`: the one a reload is
  /// about to replace.
  enum class GenerationState : std::uint8_t { starting, active, paused, draining };
  struct Generation {
    GenerationState state = GenerationState::starting;
    std::uint32_t workers = 0;
    bool cut = false;  // had its hard stop for maxGenerations
  };
  struct Respawn {
    TimePoint due;
    ipc::Role role;
    std::uint64_t gen;
    std::uint32_t index;
  };

  Child* child(ChildKey key);
  void emit(Action action) { actions_.push_back(std::move(action)); }
  void note(log::Level level, std::string text, std::vector<std::pair<std::string, std::string>> fields = {});
  ChildKey next_key();
  void spawn_worker(std::uint64_t gen, std::uint32_t index, TimePoint now);
  ChildKey spawn(ipc::Role role, std::uint64_t gen, std::uint32_t index, TimePoint now);
  void start(Child& one, TimePoint now);
  void start_if_complete();
  void begin_service(TimePoint now);
  bool new_in_reload(const Child& one) const {
    return reload_ && one.role == ipc::Role::worker && one.gen == reload_->gen;
  }
  template <class Do>
  void each_worker(std::uint64_t gen, Do what) {
    for (auto& [key, one] : children_) {
      if (one.role == ipc::Role::worker && one.gen == gen) what(one);
    }
  }
  /// Reload, upgrade and the rest happen one at a time.
  void next_operation(TimePoint now);
  bool busy() const { return reload_ || upgrade_ || arrival_; }
  bool settled(TimePoint now) const { return portals_to_move_.empty() || now >= settled_by_; }
  void finish(std::uint64_t ticket, int exit, std::string text = {}) {
    emit(action::OperationDone{ticket, exit, std::move(text)});
  }
  // brokers.cc
  ChildKey spawn_broker(TimePoint now);
  void tell_workers(const Child& serving);
  std::vector<ChildKey> brokers() const;
  /// Who has to know the configurations of our workers: our brokers, and the old supervisor for its own.
  std::vector<ChildKey> carriers() const;
  void link_worker(ChildKey worker);
  void introduce_workers(const Child& carrier);
  void succeed(Child& fresh, TimePoint now);
  void replace_by(Child& old, TimePoint now);
  void broker_ended(const Child& gone, TimePoint now);
  void begin_renewal(TimePoint now);
  void end_renewal(int exit, const std::string& text);
  void ask_live(TimePoint now);
  // reload.cc
  GenerationState state_of(std::uint64_t gen) const;
  void begin_reload(std::optional<std::uint32_t> workers, std::uint64_t ticket, TimePoint now);
  void resize(int by, TimePoint now);
  void prepare(const std::vector<ChildKey>& who);
  void listen_for_new(TimePoint now);
  void serve_new(TimePoint now);
  bool awaiting(std::uint64_t gen) const;
  void advance_reload(TimePoint now);
  void pause_old(TimePoint now);
  void pause(std::uint64_t gen);
  void commit(TimePoint now);
  void committed(TimePoint now);
  void pass_probation(TimePoint now);
  void reload_failed(std::string why, TimePoint now);
  void reject(int exit, std::string why, TimePoint now);
  void roll_back(std::string why, TimePoint now);
  void resume(std::uint64_t gen, TimePoint now);
  void complete(std::uint64_t gen, TimePoint now);
  void leave_generation(std::uint64_t gen, TimePoint now);
  void stop_generation(std::uint64_t gen, TimePoint now);
  void limit_generations(TimePoint now);
  void forget_if_empty(std::uint64_t gen);
  void cancel_operations();
  void on_reload_tick(TimePoint now);
  std::vector<ChildKey> escrow() const;
  // upgrade.cc
  void begin_upgrade(std::uint64_t ticket, TimePoint now);
  void successor_ready(TimePoint now);
  void successor_started(TimePoint now);
  void answer_successor();
  void upgrade_failed(std::string why, TimePoint now, int exit = 1);
  void hand_over(TimePoint now);
  void on_upgrade_tick(TimePoint now);
  void maintain(TimePoint now);
  // adoption.cc
  Child& add_orphan(const Orphan& orphan, TimePoint now);
  void adopt(bool in_charge);
  void bring_up_to_date(const Child& broker);
  // arrival.cc
  void advance_arrival(TimePoint now);
  void spawn_arrivals(TimePoint now);
  void start_arrivals(TimePoint now);
  void arrival_failed(const std::string& why, TimePoint now);
  void grant_others();
  void take_over(TimePoint now);
  void predecessor_gone(TimePoint now);
  void predecessor_hung_up(TimePoint now);
  void leave_predecessor();
  void on_arrival_tick(TimePoint now);

  bool has_worker(std::uint64_t gen, std::uint32_t index) const;
  void replace(const Child& gone, TimePoint now);
  void fail(std::string text);
  void kill(Child& one, int signal);
  void stop_fast(TimePoint now);
  void stop_gracefully(TimePoint now);
  void drain_workers(TimePoint now);
  void drain_broker(TimePoint now);
  void drain(Child& one, milliseconds deadline, milliseconds jitter, TimePoint now);
  void stop_supervisor(Child& other, TimePoint now);
  void stop_child(Child& one, TimePoint now);
  void insist(Child& other, TimePoint now);
  void kill_all();
  void leave_if_empty();
  void watch(Child& one, TimePoint now);
  Duration standstill(TimePoint now) const;

  Plan plan_;
  Phase phase_ = Phase::starting;
  int exit_code_ = 0;
  std::string failure_;
  bool listening_ = false;
  std::uint64_t current_gen_ = 1;
  std::uint64_t last_gen_ = 1;  // never used twice: it is part of every hid
  std::optional<Reload> reload_;
  std::optional<Renewal> renewal_;
  std::optional<Upgrade> upgrade_;
  std::optional<Arrival> arrival_;
  std::optional<ChildKey> predecessor_;          // it lives
  std::set<std::uint64_t> predecessor_brokers_;  // to which our workers are linked
  std::vector<std::string> portals_to_move_;     // which the newest broker has no tunnel for yet
  TimePoint settled_by_{};                       // then nobody waits any more at a broker where none will come
  bool apart_ = false;
  bool in_charge_ = true;
  std::uint64_t next_ticket_ = 1;
  std::optional<std::uint64_t> again_;  // its ticket
  std::optional<std::uint64_t> upgrade_again_;
  int resize_by_ = 0;  // TTIN and TTOU that came during a reload
  std::string last_reload_;
  std::uint64_t broker_gen_ = 0;
  std::uint32_t last_key_ = 0;
  std::map<std::uint64_t, Generation> generations_;
  std::map<ChildKey, Child> children_;
  std::vector<Respawn> respawns_;
  RespawnPolicy worker_exits_;
  RespawnPolicy broker_exits_;
  TimePoint next_ping_{};
  Duration forgiven_{};  // how long everything stood still, lately
  TimePoint forgiven_until_{};
  std::optional<TimePoint> next_live_;     // an older broker leaves: ask the newest one then
  std::optional<TimePoint> retired_;       // phase retiring: DRAIN the workers then
  bool adopting_ = false;                  // AdoptOrphans is not answered: who will come must not be left behind
  std::optional<TimePoint> drain_broker_;  // phase draining: DRAIN the broker then, or when the workers are gone
  std::vector<Action> actions_;
};

}  // namespace ebb::supervisor
