// Carries the machine's actions out on a loop: processes, ctl links, signals, figures of children.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/net/uv_loop.h"
#include "ipc/replay_table.h"
#include "supervisor/generations/configuration.h"
#include "supervisor/generations/link.h"
#include "supervisor/generations/machine.h"
#include "supervisor/process/notify.h"
#include "supervisor/slots/book.h"

namespace ebb::supervisor {

/// What `main` has prepared: everything is open and bound, nothing listens, no child exists.
struct Service {
  Binary binary;
  Configuration configuration;
  SlotTable slots;
  ipc::ReplayTable replay;
  Fd signals;                     // take_signals()
  config::Invocation invocation;  // read again by a reload
  ServiceManager manager;
  std::uint32_t cpus = 1;
  unsigned long open_files = 65536;
  bool on_terminal = false;  // INT means TERM
};

/// A child's answer to a question; `json` is absent when it did not answer in time.
struct ChildAnswer {
  Child child;
  std::optional<std::string> json;
};

class Runner {
 public:
  static constexpr std::chrono::seconds kAnswerTime{2};
  static constexpr std::size_t kMaxAnswer = 4 * 1024 * 1024;
  static constexpr std::size_t kMaxGatherings = 64;

  Runner(net::UvLoop& loop, Service service);
  ~Runner();

  /// Starts everything and runs the loop until it is over; returns the exit status.
  int run();

  /// Asks every child that serves; `done` is called once, within kAnswerTime. False: too many questions are open.
  bool ask_children(std::string request, std::function<void(std::vector<ChildAnswer>)> done);

  /// As HUP. `done` gets the exit status for who asked: 0 once the new configuration decides, else the reason.
  void reload(std::function<void(int exit, std::string text)> done);
  /// As USR1. Errors: the log that stays as it was.
  Result<> reopen_logs();
  /// As TERM (`now`) or QUIT. `gone` is called when every child has ended.
  void stop(bool now, std::function<void()> gone);

  /// After run(): why it could not start; empty when it ended as asked.
  const std::string& failure() const { return failure_; }
  const Machine& machine() const { return machine_; }
  /// The configuration that decides.
  const Configuration& configuration() const { return decided_; }

 private:
  struct Gathering;

  void step();
  void perform(const action::Spawn& action);
  void perform(const action::Connect& action);
  void perform(const action::TellBrokerState& action);
  void perform(const action::Listen&);
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
  void perform(const action::ReloadDone& action);
  void perform(const action::ReopenLogs&);
  void perform(const action::Exit& action);

  ChildLink* link(ChildKey key);
  void provision(ChildLink& child, const action::Spawn& action);
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
  void on_answer(ChildLink& child, std::string json);
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
  std::vector<std::uint32_t> closed_slots_;
  std::vector<std::function<void()>> until_gone_;
  std::map<ChildKey, std::unique_ptr<ChildLink>> links_;
  std::vector<std::unique_ptr<ChildLink>> ended_;  // destroyed once no callback of theirs runs
  std::unique_ptr<Watch> signal_watch_;
  std::map<std::uint64_t, std::unique_ptr<Gathering>> gatherings_;
  std::uint64_t last_gathering_ = 0;
  net::Timer tick_;
  net::Timer retry_;
  net::Timer watchdog_;
  std::string told_;  // to the service manager
  net::Deferred step_;
  int exit_code_ = 0;
  std::string failure_;
};

}  // namespace ebb::supervisor
