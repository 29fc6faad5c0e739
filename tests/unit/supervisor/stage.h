// A machine with everything around it played: the runner, the children, the clock.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {

using namespace std::chrono_literals;

/// Plays the runner and the children: obeys Spawn, keeps the clock, writes actions down as words.
struct Stage {
  explicit Stage(const Plan& plan) : machine(plan) { machine.begin(now); }
  /// As the new supervisor of an upgrade.
  Stage(const Plan& plan, const Predecessor& predecessor) : machine(plan) { machine.begin_after(predecessor, now); }
  Stage(const Plan& plan, const std::vector<Orphan>& orphans, std::uint64_t current, const Numbers& used)
      : machine(plan) {
    for (const auto& one : orphans) {
      names[one.key] = (one.role == ipc::Role::broker ? "b" : "w") + std::to_string(one.key.value);
    }
    machine.begin_over(orphans, current, used, now);
  }

  /// Actions since the last call. Notes are kept apart.
  std::vector<std::string> actions() {
    perform();
    return std::exchange(done, {});
  }
  /// As the runner: what is wanted is done, until nothing more is.
  void perform() {
    for (bool more = true; more;) {
      const auto batch = machine.take();
      more = !batch.empty();
      for (const auto& one : batch) std::visit([&](const auto& a) { say(done, a); }, one);
    }
  }
  void say(std::vector<std::string>& out, const action::Spawn& a) {
    names[a.child] = (a.role == ipc::Role::broker ? "b" : "w") + std::to_string(a.child.value);
    out.push_back("spawn " + names[a.child] + (a.grants == action::Grants::tunnels ? " with tunnel slots" : ""));
    if (!broken_spawn) machine.spawned(a.child, static_cast<pid_t>(1000 + a.child.value));
    if (broken_spawn) machine.spawn_failed(a.child, "no memory", now);
  }
  void say(std::vector<std::string>& out, const action::Connect& a) {
    out.push_back("link " + names[a.worker] + " " + name(a.broker));
  }
  void say(std::vector<std::string>& out, const action::TellBrokerState& a) {
    const char* phases[] = {"", " warming", "", " draining", " dead"};  // active goes without saying
    out.push_back("tell " + name(a.to) + " gen" + std::to_string(a.broker_gen) + phases[static_cast<int>(a.state)]);
  }
  void say(std::vector<std::string>& out, const action::Grant& a) {
    out.push_back("grant " + name(a.worker) + (a.grants == action::Grants::tunnels ? " tunnels" : " others"));
  }
  void say(std::vector<std::string>&, const action::Commit& a) { committed.push_back(name(a.child)); }
  void say(std::vector<std::string>& out, const action::AskLive& a) { out.push_back("live " + name(a.broker)); }
  void say(std::vector<std::string>& out, const action::SpawnSuccessor& a) {
    names[a.child] = "s" + std::to_string(a.child.value);
    out.push_back("upgrade " + names[a.child] + " from " + std::to_string(a.gen));
    if (!broken_spawn) machine.spawned(a.child, static_cast<pid_t>(1000 + a.child.value));
    if (broken_spawn) machine.spawn_failed(a.child, "no such file", now);
  }
  void say(std::vector<std::string>& out, const action::EquipSuccessor&) { out.push_back("equip"); }
  void say(std::vector<std::string>& out, const action::AnswerSuccessor& a) {
    out.push_back("answer " + std::to_string(a.result.gen) + " code " + std::to_string(a.result.code));
  }
  void say(std::vector<std::string>& out, const action::HandOver&) { out.push_back("hand-over"); }
  void say(std::vector<std::string>& out, const action::TellMoved& a) {
    out.push_back("moved");
    for (const auto& portal : a.portals) out.back() += " " + portal;
  }
  void say(std::vector<std::string>& out, const action::TellReady&) { out.push_back("tell-ready"); }
  void say(std::vector<std::string>& out, const action::TakeOver&) { out.push_back("take-over"); }
  void say(std::vector<std::string>& out, const action::AdoptOrphans& a) {
    out.push_back(a.in_charge ? "adopt all" : "adopt");
    if (!adopts) return;
    machine.take_in(left_behind, false, now);
    for (const auto& one : left_behind) {
      names[one.key] = (one.role == ipc::Role::broker ? "orphan-b" : "orphan-w") + std::to_string(one.gen);
    }
    left_behind.clear();
  }
  void say(std::vector<std::string>& out, const action::Reclaim&) { out.push_back("reclaim"); }
  void say(std::vector<std::string>& out, const action::LeavePredecessor&) { out.push_back("leave-predecessor"); }
  void say(std::vector<std::string>& out, const action::Listen& a) {
    out.push_back("listen");
    escrow = a.escrow;
    if (listens) machine.listening(a.config, now);
  }
  void say(std::vector<std::string>& out, const action::Escrow& a) { out.push_back("escrow " + names[a.broker]); }
  void say(std::vector<std::string>& out, const action::RetireSlots&) { out.push_back("retire"); }
  void say(std::vector<std::string>& out, const action::CloseSlots&) { out.push_back("close"); }
  void say(std::vector<std::string>& out, const action::RevokeSlots& a) {
    out.push_back("revoke " + names[a.child] + (a.which == action::Grants::tunnels ? " tunnels" : ""));
  }
  void say(std::vector<std::string>& out, const action::Start& a) { out.push_back("start " + name(a.child)); }
  void say(std::vector<std::string>& out, const action::Drain& a) {
    out.push_back("drain " + names[a.child] + " " + std::to_string(a.deadline.count()));
  }
  void say(std::vector<std::string>& out, const action::Pause& a) { out.push_back("pause " + names[a.child]); }
  void say(std::vector<std::string>& out, const action::Load& a) {
    out.push_back("load " + std::to_string(a.config) + (a.workers ? " workers " + std::to_string(*a.workers) : ""));
  }
  void say(std::vector<std::string>& out, const action::UpdateBroker& a) {
    const char* phases[] = {"", "prepare ", "commit ", "abort "};
    out.push_back(phases[static_cast<int>(a.phase)] + name(a.broker) + " " + std::to_string(a.config));
  }
  void say(std::vector<std::string>& out, const action::RetireRemoved& a) {
    out.push_back("retire-removed " + std::to_string(a.config));
  }
  void say(std::vector<std::string>& out, const action::RestoreSlots&) { out.push_back("restore"); }
  void say(std::vector<std::string>& out, const action::CloseRemoved& a) {
    out.push_back("close-removed " + std::to_string(a.config));
  }
  void say(std::vector<std::string>& out, const action::Decide& a) {
    out.push_back("decide " + std::to_string(a.config));
  }
  void say(std::vector<std::string>& out, const action::Forget& a) {
    out.push_back("forget " + std::to_string(a.config));
  }
  void say(std::vector<std::string>& out, const action::OperationDone& a) {
    out.push_back("done " + std::to_string(a.ticket) + " exit " + std::to_string(a.exit));
  }
  void say(std::vector<std::string>& out, const action::ReopenLogs&) { out.push_back("reopen"); }
  void say(std::vector<std::string>& out, const action::Ping& a) { out.push_back("ping " + names[a.child]); }
  void say(std::vector<std::string>& out, const action::Kill& a) {
    out.push_back("kill " + names[a.child] + " " + std::to_string(a.signal));
  }
  void say(std::vector<std::string>&, const action::Note& a) { notes.push_back(a.text); }
  void say(std::vector<std::string>& out, const action::Exit& a) { out.push_back("exit " + std::to_string(a.code)); }

  std::string name(ChildKey key) {
    const Child* one = machine.find(key);
    if (one != nullptr && one->role == ipc::Role::supervisor) names[key] = "old";
    return names[key];
  }
  ChildKey key(const std::string& wanted) const {
    for (const auto& [k, n] : names) {
      if (n == wanted) return k;
    }
    ADD_FAILURE() << "no " << wanted;
    return {};
  }
  void ready(const std::string& name) {
    machine.ready(key(name), now);
    perform();  // the answer to Listen comes before anything else happens
  }
  void dies(const std::string& name, ExitStatus status = {true, SIGKILL}) { machine.exited(key(name), status, now); }
  /// Moves the clock; children answer every PING unless `silent`.
  std::vector<std::string> pass(Duration time, const std::string& silent = "") {
    std::vector<std::string> all;
    const TimePoint end = now + time;
    for (;;) {
      const auto next = machine.next_tick();
      if (!next || *next > end) break;
      now = std::max(now, *next);
      machine.tick(now);
      for (auto& word : actions()) {
        if (!word.starts_with("ping ")) {
          all.push_back(word);
        } else if (word != "ping " + silent) {
          machine.pong(key(word.substr(5)), {}, now);
        }
      }
    }
    now = end;
    return all;
  }
  /// Start-up of two workers, done.
  static Stage running(const Plan& plan = two_workers()) {
    Stage stage(plan);
    stage.actions();
    for (const auto* name : {"w2", "b1", "w3"}) {
      if (plan.workers > 0 || *name == 'b') stage.ready(name);
    }
    stage.actions();
    return stage;
  }
  /// A reload up to the step in which new workers are to be READY.
  void reload_to_readying(const Plan& plan = two_workers(), bool removes = false) {
    machine.signal(SIGHUP, now);
    const auto words = actions();
    ASSERT_EQ(words.size(), 1u);
    ASSERT_TRUE(words[0].starts_with("load "));
    config = std::stoull(words[0].substr(5));
    machine.loaded(config, plan, removes, now);
    actions();
    answer(ipc::UpdatePhase::prepare);
  }
  /// The broker there is answers.
  void answer(ipc::UpdatePhase phase, std::uint32_t code = 0, const std::string& text = "") {
    for (const auto& [k, one] : machine.children()) {
      if (one.role == ipc::Role::broker) return machine.updated(k, {config, phase, code}, text, now);
    }
  }
  void started(const std::string& name) { machine.started(key(name), now); }
  void paused(const std::string& name) { machine.paused(key(name), now); }
  ChildState state(const std::string& name) const {
    const Child* one = machine.find(key(name));
    return one == nullptr ? ChildState::killed : one->state;
  }
  static Plan two_workers() {
    Plan plan;
    plan.workers = 2;
    return plan;
  }

  TimePoint now{1h};
  Machine machine;
  std::map<ChildKey, std::string> names;
  std::vector<std::string> done;  // what actions() has not returned yet
  std::vector<ChildKey> escrow;   // who got copies of the last addresses
  std::vector<std::string> notes;
  std::vector<std::string> committed;  // children that were told to outlive us, supervisors that were told of it
  std::uint64_t config = 0;            // of the last reload
  bool broken_spawn = false;
  bool listens = true;              // Listen is answered at once
  bool adopts = true;               // AdoptOrphans is answered at once
  std::vector<Orphan> left_behind;  // what it finds
};
using Words = std::vector<std::string>;

inline bool has(const Words& words, const std::string& word) { return std::ranges::find(words, word) != words.end(); }
inline Plan with_portal() {
  Plan plan = Stage::two_workers();
  plan.portals = {"portal private"};
  return plan;
}
inline Orphan orphan(std::uint32_t key, ipc::Role role, std::uint64_t gen, std::uint32_t index = 0,
                     bool serves = true) {
  return {ChildKey{key}, role, gen, index, static_cast<pid_t>(1000 + key), 1, serves};
}

}  // namespace ebb::supervisor
