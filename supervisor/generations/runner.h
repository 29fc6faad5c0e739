// Carries the machine's actions out on a loop: processes, ctl links, signals, figures of children.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/net/uv_loop.h"
#include "ipc/replay_table.h"
#include "supervisor/generations/link.h"
#include "supervisor/generations/machine.h"
#include "supervisor/slots/slots.h"

namespace ebb::supervisor {

/// What `main` has prepared: everything is open and bound, nothing listens, no child exists.
struct Service {
  Binary binary;
  std::string snapshot;  // canonical JSON
  SlotTable slots;
  ipc::ReplayTable replay;
  std::optional<Fd> error_log;  // absent: off
  std::optional<Fd> access_log;
  Fd signals;                // take_signals()
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

  Runner(net::UvLoop& loop, Plan plan, Service service);
  ~Runner();

  /// Starts everything and runs the loop until it is over; returns the exit status.
  int run();

  /// Asks every child that serves; `done` is called once, within kAnswerTime. False: too many questions are open.
  bool ask_children(std::string request, std::function<void(std::vector<ChildAnswer>)> done);

  /// After run(): why it could not start; empty when it ended as asked.
  const std::string& failure() const { return failure_; }
  const Machine& machine() const { return machine_; }
  const std::vector<Listener>& listeners() const { return service_.slots.listeners; }

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
  void perform(const action::Exit& action);

  ChildLink* link(ChildKey key);
  void provision(ChildLink& child, const action::Spawn& action);
  void grant_slots(ChildLink& child, const action::Spawn& action);
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
  std::size_t slots_bound_;  // stays when the supervisor's copies are closed
  Fd snapshot_;
  std::array<std::uint8_t, 32> snapshot_hash_{};
  std::map<ChildKey, std::unique_ptr<ChildLink>> links_;
  std::vector<std::unique_ptr<ChildLink>> ended_;  // destroyed once no callback of theirs runs
  std::unique_ptr<Watch> signal_watch_;
  std::map<std::uint64_t, std::unique_ptr<Gathering>> gatherings_;
  std::uint64_t last_gathering_ = 0;
  net::Timer tick_;
  net::Timer retry_;
  net::Deferred step_;
  int exit_code_ = 0;
  std::string failure_;
};

}  // namespace ebb::supervisor
