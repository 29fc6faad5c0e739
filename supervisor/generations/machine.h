// The life of all children as one state machine without IO: events in, actions out, time as an argument.
// Start-up, respawn, broker replacement after a crash, watchdog, stop (machine.cc), reload and resize (reload.cc).
// spec/processes.md 9, 10, 12.
//
//   starting --all READY: Listen, START--> running --QUIT--> retiring --1 s--> draining --no child left--> Exit(0)
//      | a child ends or is late              |  TERM (from everywhere)                      |
//      v                                      v                                              v
//   failing: KILL all, Exit(1)            stopping: DRAIN with stopGrace, KILL ----------> Exit(0)
//
// A reload is one more state beside phase `running`; the first generation needs no probation, nothing older could take
// over. A configuration has the number of the worker generation it came with.
//
//   loading -> preparing -> readying -> starting -> (retiring, 1 s) -> pausing -> committing -> probation -> done
//      |  a step fails: kill the new, ABORT, START the paused  |           | the new decides; a new worker ends: roll
//      +--> refused <------------------------------------------+           +-> back: START the old, drain the new,
//                                                                              PREPARE + COMMIT the old
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/time.h"
#include "common/config/config.h"
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
  milliseconds hard_stop_workers{3'600'000};
  milliseconds hard_stop_broker{24 * 3'600'000};
  milliseconds drain_spread{10'000};
  milliseconds tunnel_wait{5'000};
  milliseconds probation{10'000};
  std::uint32_t max_generations = 4;  // of workers, the current one included
};
/// `cpus`: how many this process may run on, for "auto".
Plan plan_of(const config::Config& config, std::uint32_t cpus);

/// `probation` is active in a generation that may yet be taken back, `paused` waits for that.
enum class ChildState : std::uint8_t { starting, ready, probation, active, paused, draining, killed };
std::string_view name_of(ChildState state);

struct Child {
  ChildKey key;
  ipc::Role role{};
  std::uint64_t gen = 0;
  std::uint32_t index = 0;
  pid_t pid = 0;  // 0 until spawned
  ChildState state = ChildState::starting;
  std::uint32_t connections = 0;  // from the last PONG
  std::uint32_t fds_free = 0;

  /// "worker g1/0", "broker b1": in `ps`, logs and status.
  std::string name() const;

 private:
  friend class Machine;
  TimePoint spawned{};
  unsigned unanswered = 0;             // PINGs
  bool awaited = false;                // STARTED or PAUSED is due
  std::optional<TimePoint> terminate;  // TERM then: a drained child that outstays its hard stop
  std::optional<TimePoint> kill;       // KILL then
};

/// A reload under way (spec/processes.md 9.1).
enum class ReloadStep : std::uint8_t {
  loading,
  preparing,   // the broker's answer to PREPARE is due
  readying,    // READY of all new workers
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
  bool prepared = false;  // the broker there is has said OK
  std::optional<TimePoint> deadline;
  std::optional<ChildKey> asked;  // the broker that got COMMIT
  std::uint64_t previous = 0;     // from committing on
  Plan previous_plan;
};

class Machine {
 public:
  enum class Phase : std::uint8_t { starting, running, retiring, draining, stopping, failing, done };

  explicit Machine(Plan plan);

  /// First event. Broker first, then the workers, each linked to it.
  void begin(TimePoint now);
  void spawned(ChildKey child, pid_t pid);
  void spawn_failed(ChildKey child, std::string_view why, TimePoint now);
  void listen_failed(std::string_view why, TimePoint now);
  void ready(ChildKey child, TimePoint now);
  void started(ChildKey child, TimePoint now);
  void paused(ChildKey child, TimePoint now);
  void pong(ChildKey child, const ipc::Pong& pong, TimePoint now);
  void drained(ChildKey child, const ipc::Drained& left);
  /// The ctl link ended (`why` empty) or carried a bad message while the process lives: it is ended.
  void link_lost(ChildKey child, std::string_view why, TimePoint now);
  void exited(ChildKey child, const ExitStatus& status, TimePoint now);
  /// A signal of section 10; `on_terminal` decides what INT means.
  void signal(int number, bool on_terminal, TimePoint now);

  /// Reads the configuration afresh and moves to it; while another reload runs (probation included): after that.
  /// Returns the ticket that action::ReloadDone will carry.
  std::uint64_t reload(TimePoint now);
  /// The configuration was accepted; `removes`: some address of the one in force is not in it.
  void loaded(std::uint64_t config, const Plan& plan, bool removes, TimePoint now);
  /// It was not; `exit` is what the command that asked ends with.
  void refused(std::uint64_t config, int exit, std::string_view why, TimePoint now);
  /// The broker's CONFIG_UPDATE_RESULT.
  void updated(ChildKey broker, const ipc::ConfigUpdate& result, std::string_view text, TimePoint now);

  void tick(TimePoint now);
  /// When tick() is wanted next.
  std::optional<TimePoint> next_tick() const;

  std::vector<Action> take();

  Phase phase() const { return phase_; }
  const Child* find(ChildKey child) const;
  const std::map<ChildKey, Child>& children() const { return children_; }
  /// Of the configuration that decides.
  std::uint64_t generation() const { return current_gen_; }
  /// What a reload is doing: "idle", "loading", … "probation".
  std::string_view reload_step() const;
  /// From the first step to the answer: probation is not counted.
  bool reloading() const { return reload_ && reload_->step < ReloadStep::probation; }
  /// How the last reload went: "" before the first, "ok", or why not.
  const std::string& last_reload() const { return last_reload_; }

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
  void spawn_worker(std::uint64_t gen, std::uint32_t index, TimePoint now);
  void spawn_broker(TimePoint now);
  ChildKey spawn(ipc::Role role, std::uint64_t gen, std::uint32_t index, TimePoint now);
  const Child* broker() const;
  void start(Child& one);
  void start_if_complete(TimePoint now);
  bool new_in_reload(const Child& one) const {
    return reload_ && one.role == ipc::Role::worker && one.gen == reload_->gen;
  }
  // reload.cc
  GenerationState state_of(std::uint64_t gen) const;
  void begin_reload(std::optional<std::uint32_t> workers, TimePoint now);
  void resize(int by, TimePoint now);
  void next_reload(TimePoint now);
  void prepare_broker(const Child& carrier);
  void introduce_workers(const Child& carrier);
  void serve_new(TimePoint now);
  bool awaiting(std::uint64_t gen) const;
  void advance_reload(TimePoint now);
  void pause_old(TimePoint now);
  void commit(TimePoint now);
  void committed(std::string_view problem, TimePoint now);
  void pass_probation(TimePoint now);
  void reload_failed(std::string why, TimePoint now);
  void reject(int exit, std::string why, TimePoint now);
  void roll_back(std::string why, TimePoint now);
  void resume(std::uint64_t gen, TimePoint now);
  void leave_generation(std::uint64_t gen, TimePoint now);
  void stop_generation(std::uint64_t gen, TimePoint now);
  void limit_generations(TimePoint now);
  void forget_if_empty(std::uint64_t gen);
  void cancel_reload();
  void on_reload_tick(TimePoint now);
  std::optional<ChildKey> escrow() const;
  void replace(const Child& gone, TimePoint now);
  void fail(std::string text);
  void kill(Child& one, int signal);
  void stop_fast(TimePoint now);
  void stop_gracefully(TimePoint now);
  void drain_workers(TimePoint now);
  void drain_broker(TimePoint now);
  void drain(Child& one, milliseconds deadline, milliseconds jitter, TimePoint now);
  void kill_all();
  void leave_if_empty();
  void watch(Child& one, TimePoint now);

  Plan plan_;
  Phase phase_ = Phase::starting;
  int exit_code_ = 0;
  std::string failure_;
  bool listening_ = false;
  std::uint64_t current_gen_ = 1;
  std::uint64_t last_gen_ = 1;  // never used twice: it is part of every hid
  std::optional<Reload> reload_;
  std::uint64_t next_ticket_ = 1;
  bool again_ = false;
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
  std::optional<TimePoint> retired_;       // phase retiring: DRAIN the workers then
  std::optional<TimePoint> drain_broker_;  // phase draining: DRAIN the broker then, or when the workers are gone
  std::vector<Action> actions_;
};

}  // namespace ebb::supervisor
