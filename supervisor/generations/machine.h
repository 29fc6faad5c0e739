// The life of all children as one state machine without IO: events in, actions out, time as an argument.
// Start-up, respawn, broker replacement after a crash, watchdog, stop. spec/processes.md 9, 10, 12.
//
//   starting --all READY: Listen, START--> running --QUIT--> retiring --1 s--> draining --no child left--> Exit(0)
//      | a child ends or is late              |  TERM (from everywhere)                      |
//      v                                      v                                              v
//   failing: KILL all, Exit(1)            stopping: DRAIN with stopGrace, KILL ----------> Exit(0)
//
// Worker generations are entries of a table although start-up makes only one: reload adds the next (9.1: STARTING,
// READY, PROBATION, ACTIVE, DRAINING), and its first generation passes probation at once because nothing older could
// take over.
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
};
/// `cpus`: how many this process may run on, for "auto".
Plan plan_of(const config::Config& config, std::uint32_t cpus);

enum class ChildState : std::uint8_t { starting, ready, active, draining, killed };
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
  std::optional<TimePoint> terminate;  // TERM then: a drained child that outstays its hard stop
  std::optional<TimePoint> kill;       // KILL then
};

class Machine {
 public:
  enum class Phase : std::uint8_t { starting, running, retiring, draining, stopping, failing, done };

  explicit Machine(Plan plan);

  /// First event. Broker first, then the workers, each linked to it.
  void begin(TimePoint now);
  void spawned(ChildKey child, pid_t pid);
  void spawn_failed(ChildKey child, std::string_view why, TimePoint now);
  /// Listen failed.
  void start_failed(std::string_view why, TimePoint now);
  void ready(ChildKey child, TimePoint now);
  void started(ChildKey child, TimePoint now);
  void pong(ChildKey child, const ipc::Pong& pong, TimePoint now);
  void drained(ChildKey child, const ipc::Drained& left);
  /// The ctl link ended (`why` empty) or carried a bad message while the process lives: it is ended.
  void link_lost(ChildKey child, std::string_view why, TimePoint now);
  void exited(ChildKey child, const ExitStatus& status, TimePoint now);
  /// A signal of section 10; `on_terminal` decides what INT means.
  void signal(int number, bool on_terminal, TimePoint now);
  void tick(TimePoint now);
  /// When tick() is wanted next.
  std::optional<TimePoint> next_tick() const;

  std::vector<Action> take();

  Phase phase() const { return phase_; }
  const Child* find(ChildKey child) const;
  const std::map<ChildKey, Child>& children() const { return children_; }
  std::uint64_t generation() const { return current_gen_; }

 private:
  enum class GenerationState : std::uint8_t { starting, active, draining };
  struct Generation {
    GenerationState state = GenerationState::starting;
    std::uint32_t workers = 0;
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
