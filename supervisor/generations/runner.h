// Carries the machine's actions out on a loop: processes, ctl links, signals, figures of children.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/net/uv_loop.h"
#include "ipc/replay_table.h"
#include "supervisor/generations/configuration.h"
#include "supervisor/generations/link.h"
#include "supervisor/generations/machine.h"
#include "supervisor/generations/orphans.h"
#include "supervisor/generations/predecessor.h"
#include "supervisor/process/notify.h"
#include "supervisor/process/runtime_dir.h"
#include "supervisor/slots/book.h"

namespace ebb::supervisor {

/// How we were started, to start a successor in the same way.
struct Origin {
  std::string path;                    // the configured one: what it names by then is executed
  std::vector<std::string> arguments;  // argv
};

/// What `main` has prepared: everything is open and bound; nothing listens and no child exists, unless another
/// supervisor made them.
struct Service {
  Binary binary;
  Configuration configuration;
  SlotBook slots;
  ipc::ReplayTable replay;
  Fd signals;                     // take_signals()
  config::Invocation invocation;  // read again by a reload
  ServiceManager manager;
  std::uint32_t cpus = 1;
  unsigned long open_files = 65536;
  bool typed = false;               // (partly) configured from standard input, which cannot be read again
  RuntimeDir* directory = nullptr;  // null: no registry, no adoption, no upgrade
  Origin origin;
  std::optional<MetPredecessor> predecessor;  // we are the new supervisor of an upgrade
  std::optional<Adoption> adoption;           // processes of a supervisor that died
  std::function<Result<>()> take_over;        // we are in charge now: the admin socket
  std::function<void()> hand_over;            // another supervisor is
};

/// A child's answer to a question; `json` is absent when it did not answer in time.
struct ChildAnswer {
  Child child;
  std::optional<std::string> json;
};

class Runner {
 public:
  static constexpr std::chrono::seconds kAnswerTime{2};
  // While others wait for us: the next try finds who was busy. Together as long as at a start (kAdoptionLimit).
  static constexpr std::chrono::milliseconds kAdoptionTry{200};
  static constexpr std::chrono::milliseconds kLastAdoptionTry{2000};  // who does not answer then is killed
  static constexpr std::chrono::milliseconds kAdoptionRetry{300};
  static constexpr unsigned kAdoptionTries = 10;
  static constexpr std::size_t kMaxClosedSlots = 16384;
  static constexpr std::size_t kMaxAnswer = 4 * 1024 * 1024;
  static constexpr std::size_t kMaxGatherings = 64;

  Runner(net::UvLoop& loop, Service service);
  ~Runner();

  /// Starts everything and runs the loop until it is over; returns the exit status.
  int run();

  /// Asks every child that serves; `done` is called once, within kAnswerTime. False: too many questions are open.
  bool ask_children(const std::string& request, std::function<void(std::vector<ChildAnswer>)> done,
                    const std::function<bool(const Child&)>& whom = {});

  /// As HUP. `done` gets the exit status for who asked: 0 once the new configuration decides, else the reason.
  void reload(std::function<void(int exit, std::string text)> done);
  /// As USR1. Errors: the log that stays as it was.
  Result<> reopen_logs();
  /// As TERM (`now`) or QUIT. `gone` is called when every child has ended.
  void stop(bool now, std::function<void()> gone);
  /// As USR2. `done`: 0 when the new supervisor is in charge.
  void upgrade(std::function<void(int exit, std::string text)> done);
  /// Another broker in place of the newest one. `done`: 0 when it serves.
  void renew_broker(std::function<void(int exit, std::string text)> done);

  /// After run(): why it could not start; empty when it ended as asked.
  const std::string& failure() const { return failure_; }
  const Machine& machine() const { return machine_; }
  /// What the workers' common memory of handshakes has seen.
  ipc::ReplayTable::Counts replays() const { return service_.replay.counts(); }
  /// The configuration that decides.
  const Configuration& configuration() const { return decided_; }

 private:
  struct Gathering;

  void step();
  void perform(const action::Spawn& action);
  void perform(const action::Connect& action);
  void perform(const action::TellBrokerState& action);
  void perform(const action::Listen&);
  void perform(const action::Escrow& action);
  void perform(const action::RetireSlots&);
  void perform(const action::CloseSlots&);
  void perform(const action::RevokeSlots& action);
  void perform(const action::Start& action);
  void perform(const action::Drain& action);
  void perform(const action::Ping& action);
  void perform(const action::Kill& action);
  void perform(const action::Note& action);
  void perform(const action::Pause& action);
  void perform(const action::Load& action);
  void perform(const action::UpdateBroker& action);
  void perform(const action::RetireRemoved& action);
  void perform(const action::RestoreSlots&);
  void perform(const action::CloseRemoved& action);
  void perform(const action::Decide& action);
  void perform(const action::Forget& action);
  void perform(const action::OperationDone& action);
  void perform(const action::ReopenLogs&);
  void perform(const action::Exit& action);
  void perform(const action::Grant& action);
  void perform(const action::Commit& action);
  void perform(const action::AskLive& action);
  void perform(const action::SpawnSuccessor& action);
  void perform(const action::EquipSuccessor& action);
  void perform(const action::AnswerSuccessor& action);
  void perform(const action::HandOver&);
  void perform(const action::TellMoved& action);
  void perform(const action::TellReady& action);
  void perform(const action::TakeOver&);
  void perform(const action::AdoptOrphans&);
  void perform(const action::Reclaim&);
  void take_charge();
  void perform(const action::LeavePredecessor& action);

  ChildLink* link(ChildKey key);
  ChildLink& add_link(ChildKey key, Process process, ipc::Channel channel, bool ours);
  void provision(ChildLink& child, const action::Spawn& action);
  void adopt();
  /// `orphans`: the same, in the same order, with the keys that the machine gave them.
  void link_adopted(std::vector<Adopted> processes, const std::vector<Orphan>& orphans);
  void meet();
  void grant_worker(ChildLink& child, const Configuration& configuration, std::uint32_t index, std::uint32_t of,
                    action::Grants which);
  std::vector<Listener> all_listeners(const std::vector<Listener>& known) const;
  void grant(ChildLink& child, const std::vector<Listener>& listeners, const std::function<bool(const Slot&)>& wanted);
  void revoke(ChildKey child, const std::vector<std::uint32_t>& slots);
  void send_logs(ChildLink& child, const LogFiles& logs);
  void on_loaded(std::uint64_t gen, std::expected<Loader::Loaded, Loader::Refusal> loaded);
  void bind_and_report(std::uint64_t gen, Configuration fresh);
  void apply_logs(const Configuration& old);
  bool ours(pid_t pid) const;
  void tell_manager();
  void on_ctl(ChildKey key);
  void on_message(ChildLink& child, ipc::Message& message);
  void on_successor(ChildLink& successor, ipc::Message& message);
  void on_predecessor(ChildLink& predecessor, ipc::Message& message);
  void on_live(ChildKey broker, const std::string& json);
  void tell_moved(const std::string& query);
  void on_answer(ChildLink& child, std::string json);
  void gone(ChildKey key, const std::optional<ExitStatus>& status);
  bool write_registry();
  void forget(const std::vector<std::string>& registries);
  void try_adoption();
  bool superseded() const;
  void keep_registry_as(const std::string& name);
  void reap();
  void on_signal();
  void answer_missing(ChildLink& child);
  void finish(std::uint64_t id);
  void retry_blocked();

  net::UvLoop& loop_;
  Machine machine_;
  Service service_;
  SlotBook slots_;
  Loader loader_;
  Configuration decided_;
  std::map<std::uint64_t, Configuration> configurations_;  // those with a child, and the one being loaded
  std::multimap<std::uint64_t, std::function<void(int, std::string)>> waiting_;  // by reload ticket
  std::optional<std::uint64_t> loading_;
  std::set<std::uint32_t> closed_slots_;           // a broker that comes late may still have them
  std::map<std::uint64_t, Fd> foreign_snapshots_;  // of the successor's configurations, for brokers of ours
  std::string written_registry_;
  bool registry_changed_ = false;
  std::string own_retired_registry_;  // where ours are found once another one is in charge
  bool handed_over_ = false;
  unsigned adoption_tries_ = 0;
  bool manager_knows_ = true;  // who we are: false from TakeOver until the old one has told
  std::vector<std::function<void()>> until_gone_;
  std::map<ChildKey, std::unique_ptr<ChildLink>> links_;
  std::vector<std::unique_ptr<ChildLink>> ended_;  // destroyed once no callback of theirs runs
  std::unique_ptr<Watch> signal_watch_;
  std::map<std::uint64_t, std::unique_ptr<Gathering>> gatherings_;
  std::uint64_t last_gathering_ = 0;
  net::Timer tick_;
  net::Timer retry_;
  net::Timer adoption_retry_;
  net::Timer watchdog_;
  std::string told_;  // to the service manager
  net::Deferred step_;
  int exit_code_ = 0;
  std::string failure_;
};

}  // namespace ebb::supervisor
