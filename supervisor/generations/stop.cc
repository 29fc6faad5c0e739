// What signals ask for, and the ways in which a service ends (spec/processes.md 10).
#include <signal.h>

#include <algorithm>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

constexpr auto kRetire = 1s;           // a SYN-ACK timeout: half-open handshakes come through (spec/processes.md 3.5)
constexpr auto kKillSlack = 500ms;     // a child obeys its deadline itself before it is killed
constexpr auto kOtherSupervisor = 2s;  // beyond its own stopGrace: what its children need to be collected

}  // namespace

void Machine::signal(int number, TimePoint now) {
  switch (number) {
    case SIGHUP: reload(now); return;
    case SIGUSR1: emit(action::ReopenLogs{}); return;
    case SIGTTIN: resize(1, now); return;
    case SIGTTOU: resize(-1, now); return;
    case SIGUSR2: upgrade(now); return;
    case SIGWINCH: maintain(now); return;
    default: break;
  }
  if (number == SIGTERM || number == SIGINT) {
    if (phase_ == Phase::stopping || phase_ == Phase::failing) {
      note(log::Level::warning, "stopping now");
      kill_all();
    } else if (phase_ != Phase::done) {
      stop_fast(now);
    }
  } else if (number == SIGQUIT) {
    if (phase_ == Phase::starting || arrival_) {
      stop_fast(now);  // nothing is served yet
    } else if (phase_ == Phase::running) {
      stop_gracefully(now);
    } else if (phase_ == Phase::retired) {
      drain_broker(now);  // there is no newer one any more to which tunnels could move
    }
  }
}

void Machine::drain(Child& one, milliseconds deadline, milliseconds jitter, TimePoint now) {
  if (one.state == ChildState::killed) return;
  const bool again = one.state == ChildState::draining;
  one.state = ChildState::draining;
  one.leave_by.reset();
  emit(action::Drain{one.key, deadline, jitter});
  const TimePoint terminate = now + deadline + plan_.stop_grace;
  one.terminate = again && one.terminate ? std::min(*one.terminate, terminate) : terminate;
}

void Machine::stop_fast(TimePoint now) {
  note(log::Level::info, "stopping", {{"grace_ms", std::to_string(plan_.stop_grace.count())}});
  const bool retired = phase_ == Phase::retired;
  leave_predecessor();
  cancel_operations();
  phase_ = Phase::stopping;
  respawns_.clear();
  emit(action::CloseSlots{});
  // The successor goes on, and stops those before us, too: a second TERM would tell them to be quick.
  if (retired) std::erase_if(children_, [](const auto& c) { return c.second.supervises(); });
  for (auto& [key, one] : children_) stop_child(one, now);
  leave_if_empty();
}

void Machine::stop_child(Child& one, TimePoint now) {
  if (one.supervises()) return stop_supervisor(one, now);
  drain(one, std::max(plan_.stop_grace, milliseconds(1)), milliseconds(0), now);
  one.terminate.reset();
  one.kill = now + plan_.stop_grace + kKillSlack;
}

/// It ends its own children as we do ours.
void Machine::stop_supervisor(Child& other, TimePoint now) {
  other.state = ChildState::draining;
  emit(action::Kill{other.key, SIGTERM});
  other.kill = now + plan_.stop_grace + kOtherSupervisor;
}

/// It has not gone in time. A second TERM, and it kills its children; KILL only orphans them, and is for one that hears
/// nothing.
void Machine::insist(Child& other, TimePoint now) {
  const bool deaf = other.state == ChildState::killed;
  if (!deaf) other.kill = now + kOtherSupervisor;
  other.state = ChildState::killed;
  emit(action::Kill{other.key, deaf ? SIGKILL : SIGTERM});
}

void Machine::stop_gracefully(TimePoint now) {
  note(log::Level::info, "stopping gracefully: connections may finish");
  phase_ = Phase::retiring;                        // nothing else begins
  upgrade_failed("the service is stopping", now);  // our workers serve what is in the queues
  respawns_.clear();
  cancel_operations();
  for (auto& [key, one] : children_) {
    if (one.role == ipc::Role::successor) stop_supervisor(one, now);
  }
  if (plan_.workers == 0 || !listening_) {
    drain_workers(now);
    return;
  }
  emit(action::RetireSlots{});
  retired_ = now + kRetire;
}

void Machine::drain_workers(TimePoint now) {
  phase_ = Phase::draining;
  retired_.reset();
  bool any = false;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker) continue;
    any = true;
    drain(one, plan_.hard_stop_workers, plan_.drain_spread, now);
  }
  emit(action::CloseSlots{});
  for (const ChildKey key : brokers()) emit(action::RevokeSlots{key});  // or they would keep them listening
  for (auto& [gen, generation] : generations_) generation.state = GenerationState::draining;
  // The broker still has to answer offers under way: TAKE or REFUSE comes within tunnelWait.
  drain_broker_ = now + plan_.tunnel_wait + 1s;
  if (!any) drain_broker(now);
  leave_if_empty();
}

void Machine::drain_broker(TimePoint now) {
  drain_broker_.reset();
  for (const ChildKey key : brokers()) drain(children_.at(key), plan_.hard_stop_broker, plan_.drain_spread, now);
  for (const auto& [key, one] : children_) {
    // They do the same with their own.
    if (one.role == ipc::Role::supervisor && phase_ != Phase::retired) emit(action::Kill{key, SIGQUIT});
  }
}

}  // namespace ebb::supervisor
