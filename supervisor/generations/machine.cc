#include "supervisor/generations/machine.h"

#include <signal.h>

#include <algorithm>
#include <string>

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

constexpr auto kPingEvery = 1s;
constexpr unsigned kUnansweredPings = 5;
constexpr std::uint32_t kLagLimitUs = 5'000'000;
constexpr auto kForgiveFor = 5s;      // after a standstill: the PONGs that still tell of it
constexpr auto kAfterAbort = 1s;      // from ABRT (a core is written) to KILL
constexpr auto kAfterTerminate = 2s;  // from TERM to KILL
constexpr auto kAfterSpawnFailure = 1s;
constexpr auto kEndWithLink = 5s;  // from closing ctl to the exit that must follow
constexpr int kWrongConfiguration = 23;

}  // namespace

Plan plan_of(const config::Config& config, std::uint32_t cpus) {
  const auto& timers = config.settings.timers;
  Plan plan;
  const std::uint32_t wanted = config.settings.workers != 0 ? config.settings.workers : cpus;
  plan.workers = config.inbounds.empty() ? 0 : std::clamp(wanted, 1u, kMaxWorkers);
  plan.ready = timers.ready;
  plan.respawn_backoff = timers.respawn_backoff;
  plan.stop_grace = timers.stop_grace;
  plan.hard_stop_workers = timers.hard_stop_after.value_or(plan.hard_stop_workers);
  plan.hard_stop_broker = timers.hard_stop_after.value_or(plan.hard_stop_broker);
  plan.drain_spread = timers.drain_spread;
  plan.tunnel_wait = timers.tunnel_wait;
  plan.probation = timers.probation;
  plan.broker_move = timers.broker_move;
  plan.max_generations = std::max(config.settings.max_generations, 1u);
  for (const auto& portal : config.portals) plan.portals.push_back(portal.tag + " " + portal.domain);
  return plan;
}

std::string_view name_of(ChildState state) {
  switch (state) {
    case ChildState::starting: return "starting";
    case ChildState::ready: return "ready";
    case ChildState::probation: return "probation";
    case ChildState::active: return "active";
    case ChildState::paused: return "paused";
    case ChildState::draining: return "draining";
    case ChildState::killed: return "killed";
  }
  return "unknown";
}

std::string Child::name() const {
  if (supervises()) return "supervisor " + std::to_string(pid);
  if (role == ipc::Role::broker) return "broker b" + std::to_string(gen);
  return "worker g" + std::to_string(gen) + "/" + std::to_string(index);
}

Machine::Machine(const Plan& plan)
    : plan_(plan), worker_exits_(plan.respawn_backoff), broker_exits_(plan.respawn_backoff) {}

std::vector<Action> Machine::take() { return std::exchange(actions_, {}); }

const Child* Machine::find(ChildKey key) const {
  const auto found = children_.find(key);
  return found == children_.end() ? nullptr : &found->second;
}
Child* Machine::child(ChildKey key) { return const_cast<Child*>(find(key)); }

void Machine::note(log::Level level, std::string text, std::vector<std::pair<std::string, std::string>> fields) {
  emit(action::Note{level, std::move(text), std::move(fields)});
}

// ---- starting processes -----------------------------------------------------------------------

void Machine::begin(TimePoint now) {
  next_ping_ = now + kPingEvery;
  generations_[current_gen_] = {GenerationState::starting, plan_.workers};
  spawn_broker(now);
  for (std::uint32_t i = 0; i < plan_.workers; ++i) spawn_worker(current_gen_, i, now);
}

ChildKey Machine::next_key() {
  const auto taken = [&](const auto& c) { return ((c.first.value ^ last_key_) & 0xFFFF) == 0; };
  do ++last_key_;
  while ((last_key_ & 0xFFFF) == 0 || std::ranges::any_of(children_, taken));
  return ChildKey{last_key_};
}

ChildKey Machine::spawn(ipc::Role role, std::uint64_t gen, std::uint32_t index, TimePoint now) {
  Child one;
  one.key = next_key();
  one.role = role;
  one.gen = gen;
  one.index = index;
  one.link_id = static_cast<std::uint16_t>(one.key.value);
  one.spawned = now;
  const ChildKey key = one.key;
  children_.emplace(key, one);
  const bool worker = role == ipc::Role::worker;
  const bool only_tunnels = worker && apart_ && arrival_ && arrival_->step <= Arrival::Step::moving;
  emit(action::Spawn{key, role, gen, worker ? gen : current_gen_, index, worker ? generations_[gen].workers : 0,
                     only_tunnels ? action::Grants::tunnels : action::Grants::all});
  return key;
}

void Machine::spawn_worker(std::uint64_t gen, std::uint32_t index, TimePoint now) {
  link_worker(spawn(ipc::Role::worker, gen, index, now));
}

void Machine::spawned(ChildKey key, pid_t pid) {
  Child* one = child(key);
  if (one == nullptr) return;
  one->pid = pid;
  note(log::Level::info, "process started", {{"name", one->name()}, {"pid", std::to_string(pid)}});
}

void Machine::spawn_failed(ChildKey key, std::string_view why, TimePoint now) {
  const Child* one = find(key);
  if (one == nullptr) return;
  const Child gone = *one;
  children_.erase(key);
  if (arrival_) return arrival_failed("cannot start " + gone.name() + ": " + std::string(why), now);
  if (phase_ == Phase::starting) {
    fail("cannot start " + gone.name() + ": " + std::string(why));
    return;
  }
  if (gone.role == ipc::Role::successor) {
    upgrade_failed("cannot start the new program: " + std::string(why), now);
    return leave_if_empty();
  }
  if (phase_ == Phase::running && new_in_reload(gone)) {
    reload_failed("cannot start " + gone.name() + ": " + std::string(why), now);
    return;
  }
  note(log::Level::error, "process could not be started", {{"name", gone.name()}, {"reason", std::string(why)}});
  if (renewal_ && renewal_->fresh == gone.key) {
    end_renewal(1, "cannot start " + gone.name() + ": " + std::string(why));
    if (broker() != nullptr) return;
  }
  // Out of memory or processes: trying again at once would fail at once, without end.
  if (phase_ == Phase::running) respawns_.push_back({now + kAfterSpawnFailure, gone.role, gone.gen, gone.index});
  leave_if_empty();
}

void Machine::listening(std::uint64_t config, TimePoint now) {
  if (arrival_) {
    if (arrival_->step == Arrival::Step::listening && config == current_gen_) start_arrivals(now);
  } else if (phase_ == Phase::starting) {
    if (config == current_gen_) begin_service(now);
  } else if (reload_ && reload_->step == ReloadStep::listening && reload_->gen == config) {
    serve_new(now);
  }
}

void Machine::listen_failed(std::uint64_t config, std::string_view why, TimePoint now) {
  if (arrival_) {
    if (arrival_->step == Arrival::Step::listening && config == current_gen_) arrival_failed(std::string(why), now);
  } else if (phase_ == Phase::starting) {
    if (config == current_gen_) fail(std::string(why));
  } else if (reload_ && reload_->step == ReloadStep::listening && reload_->gen == config) {
    reload_failed(std::string(why), now);
  }
}

void Machine::ready(ChildKey key, TimePoint now) {
  Child* one = child(key);
  if (one == nullptr || one->state != ChildState::starting) return;
  one->state = ChildState::ready;
  one->unanswered = 0;
  if (one->role == ipc::Role::successor) return successor_ready(now);
  if (arrival_) return advance_arrival(now);
  if (phase_ == Phase::starting) {
    start_if_complete();
  } else if (phase_ == Phase::running) {
    const bool worker = one->role == ipc::Role::worker;
    if (worker && state_of(one->gen) == GenerationState::paused) {
      one->state = ChildState::paused;
    } else if (new_in_reload(*one) && reload_->step == ReloadStep::readying) {
      advance_reload(now);
    } else {
      start(*one, now);
    }
  }
}

void Machine::start_if_complete() {
  for (const auto& [key, one] : children_) {
    if (one.state == ChildState::starting) return;
  }
  emit(action::Listen{current_gen_, {}});  // from here on clients may come
}

/// All are READY, and every address listens.
void Machine::begin_service(TimePoint now) {
  listening_ = true;
  phase_ = Phase::running;
  for (const ChildKey key : brokers()) start(children_.at(key), now);
  each_worker(current_gen_, [&](Child& one) { start(one, now); });
  generations_[current_gen_].state = GenerationState::active;
  note(log::Level::info, "started",
       {{"workers", std::to_string(plan_.workers)}, {"generation", std::to_string(current_gen_)}});
  next_operation(now);
}

void Machine::start(Child& one, TimePoint now) {
  one.state = ChildState::active;
  // In this order: one that serves outlives us. One that is only committed is told to serve by who adopts it.
  if (!arrival_) emit(action::Commit{one.key, one.gen});
  emit(action::Start{one.key, one.gen});
  if (one.role == ipc::Role::broker) succeed(one, now);
}

void Machine::started(ChildKey key, TimePoint now) {
  Child* one = child(key);
  if (one == nullptr) return;
  if (one->role == ipc::Role::successor) return successor_started(now);
  note(log::Level::debug, "process serves", {{"name", one->name()}});
  if (arrival_) {
    one->awaited = false;
    return advance_arrival(now);
  }
  if (!new_in_reload(*one) || reload_->step != ReloadStep::starting) return;
  one->awaited = false;
  advance_reload(now);
}

void Machine::paused(ChildKey key, TimePoint now) {
  Child* one = child(key);
  if (one == nullptr || one->state != ChildState::paused) return;
  one->awaited = false;
  advance_reload(now);
}

// ---- ends and replacements --------------------------------------------------------------------

void Machine::exited(ChildKey key, const std::optional<ExitStatus>& status, TimePoint now) {
  const Child* one = find(key);
  if (one == nullptr) return;
  const Child gone = *one;
  children_.erase(key);
  const std::string how = status ? status->text() : "unknown status: not a child of ours";
  if (gone.supervises()) {
    note(log::Level::info, "supervisor ended", {{"pid", std::to_string(gone.pid)}, {"status", how}});
    if (upgrade_ && upgrade_->successor == key) {
      const bool wrong = status && *status == ExitStatus{false, kWrongConfiguration};
      upgrade_failed("the new supervisor ended with " + how, now, wrong ? kWrongConfiguration : 1);
    }
    const bool arriving = arrival_.has_value();
    if (predecessor_ == key) predecessor_gone(now);
    if (phase_ == Phase::running || phase_ == Phase::retiring || phase_ == Phase::draining ||
        phase_ == Phase::stopping) {
      if (gone.role == ipc::Role::successor) {
        adopting_ = true;
        emit(action::Reclaim{});
      } else if (!arriving) {
        adopt(false);  // it may not have waited for its last process, but been killed
      }
    }
    return leave_if_empty();
  }
  if (phase_ == Phase::starting && !arrival_) return fail(gone.name() + " ended with " + how + " before it was ready");
  const bool worker = gone.role == ipc::Role::worker;
  const bool serving = worker ? state_of(gone.gen) != GenerationState::draining : gone.state != ChildState::draining;
  const bool expected = (phase_ != Phase::running && !arrival_) || gone.state == ChildState::draining || !serving;
  note(expected ? log::Level::info : log::Level::error, "process ended",
       {{"name", gone.name()}, {"pid", std::to_string(gone.pid)}, {"status", how}});
  if (arrival_ && !expected) return arrival_failed(gone.name() + " ended with " + how, now);
  if (drain_broker_ && (phase_ == Phase::draining || phase_ == Phase::retired)) {
    const bool workers_left =
        std::ranges::any_of(children_, [](const auto& c) { return c.second.role == ipc::Role::worker; });
    if (!workers_left) drain_broker(now);
  }
  if (phase_ == Phase::running && new_in_reload(gone)) {
    reload_failed(gone.name() + " ended with " + how, now);
  } else if (!worker) {
    broker_ended(gone, now);
  } else if (serving) {
    replace(gone, now);
  }
  if (worker) forget_if_empty(gone.gen);
  advance_reload(now);  // one answer less to wait for
  leave_if_empty();
}

/// One that stays.
bool Machine::has_worker(std::uint64_t gen, std::uint32_t index) const {
  return std::ranges::any_of(children_, [&](const auto& c) {
    const Child& one = c.second;
    return one.role == ipc::Role::worker && one.gen == gen && one.index == index && one.state != ChildState::draining;
  });
}

void Machine::replace(const Child& gone, TimePoint now) {
  if (phase_ != Phase::running) return;
  const bool worker = gone.role == ipc::Role::worker;
  // A paused generation is made whole again if it has to serve once more.
  if (worker && state_of(gone.gen) != GenerationState::active) return;
  if (worker && has_worker(gone.gen, gone.index)) return;  // it was replaced when it was told to leave
  auto& policy = worker ? worker_exits_ : broker_exits_;
  const TimePoint due = policy.exited(now);
  if (due > now) {
    const auto pause = std::chrono::duration_cast<milliseconds>(due - now).count();
    note(log::Level::warning, "process keeps ending, waiting before the next start",
         {{"name", gone.name()}, {"pause_ms", std::to_string(pause)}});
    respawns_.push_back({due, gone.role, gone.gen, gone.index});
  } else if (worker) {
    spawn_worker(gone.gen, gone.index, now);
  } else {
    spawn_broker(now);
  }
}

void Machine::link_lost(ChildKey key, std::string_view why, TimePoint now) {
  Child* one = child(key);
  if (one == nullptr || one->state == ChildState::killed) return;
  if (one->supervises()) {
    const bool successor = upgrade_ && upgrade_->successor == key;
    if (successor && why.empty() && upgrade_->step == Upgrade::Step::readying) {  // nothing of ours has paused yet
      if (!one->kill) one->kill = now + kEndWithLink;
      return;
    }
    const std::string reason = why.empty() ? "closed the link" : "broke the protocol: " + std::string(why);
    if (successor) upgrade_failed("the new supervisor " + reason, now);
    if (phase_ == Phase::retired && one->role == ipc::Role::successor) emit(action::TellMoved{plan_.portals});
    if (predecessor_ == key) predecessor_hung_up(now);
    return;
  }
  if (why.empty()) {  // a child that ends closes its end first: its exit follows and says how
    if (!one->kill) one->kill = now + kEndWithLink;
    return;
  }
  note(log::Level::error, "process broke the protocol", {{"name", one->name()}, {"reason", std::string(why)}});
  kill(*one, SIGKILL);
}

void Machine::fail(std::string text) {
  if (phase_ == Phase::failing) return;
  note(log::Level::error, text);
  failure_ = std::move(text);
  phase_ = Phase::failing;
  exit_code_ = 1;
  respawns_.clear();
  emit(action::CloseSlots{});
  kill_all();
  leave_if_empty();
}

void Machine::kill(Child& one, int signal) {
  // KILL would orphan the children of the predecessor: a second TERM makes it kill them.
  if (one.role == ipc::Role::supervisor) signal = SIGTERM;
  if (signal != SIGABRT && signal != SIGTERM) one.state = ChildState::killed;
  emit(action::Kill{one.key, signal});
}

void Machine::kill_all() {
  for (auto& [key, one] : children_) kill(one, SIGKILL);
}

void Machine::leave_if_empty() {
  // A successor in charge goes on without us.
  const bool waiting = std::ranges::any_of(
      children_, [&](const auto& c) { return phase_ != Phase::retired || c.second.role != ipc::Role::successor; });
  if (waiting || adopting_ || phase_ == Phase::running || phase_ == Phase::starting || phase_ == Phase::done) return;
  phase_ = Phase::done;
  note(log::Level::info, "stopped");
  emit(action::Exit{exit_code_, failure_});
}

void Machine::drained(ChildKey key, const ipc::Drained& left) {
  const Child* one = find(key);
  if (one == nullptr) return;
  note(left.left_conns + left.left_unacked > 0 ? log::Level::warning : log::Level::info, "process drained",
       {{"name", one->name()},
        {"cut_connections", std::to_string(left.left_conns)},
        {"cut_offers", std::to_string(left.left_unacked)}});
}

// ---- time -------------------------------------------------------------------------------------

void Machine::pong(ChildKey key, const ipc::Pong& pong, TimePoint now) {
  Child* one = child(key);
  if (one == nullptr) return;
  one->unanswered = 0;
  one->connections = pong.conns;
  one->fds_free = pong.fds_free;
  const auto lag = std::chrono::microseconds(pong.loop_lag_us) - standstill(now);
  if (lag <= std::chrono::microseconds(kLagLimitUs) || one->kill) return;
  note(log::Level::error, "process hangs",
       {{"name", one->name()}, {"lag_ms", std::to_string(pong.loop_lag_us / 1000)}});
  kill(*one, SIGABRT);
  one->kill = now + kAfterAbort;
  if (arrival_) return arrival_failed(one->name() + " hangs", now);
  if (new_in_reload(*one)) reload_failed(one->name() + " hangs", now);
}

/// By how much we ourselves are late, or were a moment ago: a machine that was paused stands still as a whole, and what
/// its processes then report as lag is no fault of theirs.
Duration Machine::standstill(TimePoint now) const {
  const Duration late = now - next_ping_;
  return std::max(now < forgiven_until_ ? forgiven_ : Duration(0), late);
}

void Machine::watch(Child& one, TimePoint now) {
  if (one.supervises() || one.state == ChildState::starting || one.state == ChildState::killed) return;
  if (one.unanswered >= kUnansweredPings && !one.kill) {
    note(log::Level::error, "process hangs",
         {{"name", one.name()}, {"unanswered_pings", std::to_string(one.unanswered)}});
    kill(one, SIGABRT);
    one.kill = now + kAfterAbort;
    if (arrival_) return arrival_failed(one.name() + " hangs", now);
    if (new_in_reload(one)) reload_failed(one.name() + " hangs", now);
    return;
  }
  ++one.unanswered;
  emit(action::Ping{one.key});
}

void Machine::tick(TimePoint now) {
  if (phase_ == Phase::done) return;
  for (auto& [key, one] : children_) {
    if (one.terminate && now >= *one.terminate) {
      one.terminate.reset();
      note(log::Level::warning, "process outstays its hard stop",
           {{"name", one.name()}, {"cut_connections", std::to_string(one.connections)}});
      kill(one, SIGTERM);
      if (!one.kill) one.kill = now + kAfterTerminate;
    }
    if (one.leave_by && now >= *one.leave_by) {
      note(log::Level::warning, "replaced broker has its hard stop now",
           {{"name", one.name()}, {"connections", std::to_string(one.connections)}});
      drain(one, std::max(plan_.stop_grace, milliseconds(1)), milliseconds(0), now);
    }
    if (one.kill && now >= *one.kill) {
      one.kill.reset();
      if (one.role == ipc::Role::supervisor) {
        insist(one, now);
        continue;
      }
      kill(one, SIGKILL);
    }
  }
  for (auto& [key, one] : children_) {
    const Plan& plan = new_in_reload(one) ? reload_->plan : plan_;
    if (one.supervises() || one.state != ChildState::starting || now - one.spawned < plan.ready) continue;
    if (arrival_) {
      arrival_failed(one.name() + " was not ready within " + std::to_string(plan_.ready.count()) + " ms", now);
      break;
    }
    if (phase_ == Phase::starting) {
      fail(one.name() + " was not ready within " + std::to_string(plan_.ready.count()) + " ms");
      return;
    }
    if (new_in_reload(one)) {
      reload_failed(one.name() + " was not ready within " + std::to_string(reload_->plan.ready.count()) + " ms", now);
      break;
    }
    note(log::Level::error, "process was not ready in time", {{"name", one.name()}});
    kill(one, SIGKILL);
  }
  if (now >= next_ping_) {
    if (const Duration late = now - next_ping_; late >= kPingEvery) {
      note(log::Level::warning, "everything stood still",
           {{"ms", std::to_string(std::chrono::duration_cast<milliseconds>(late).count())}});
      forgiven_ = standstill(now);  // two in a row may be told of at once
      forgiven_until_ = now + kForgiveFor;
    }
    next_ping_ = now + kPingEvery;
    for (auto& [key, one] : children_) watch(one, now);
  }
  ask_live(now);
  if (upgrade_again_ && now >= settled_by_) next_operation(now);
  on_arrival_tick(now);
  on_upgrade_tick(now);
  on_reload_tick(now);
  if (retired_ && now >= *retired_) drain_workers(now);
  if (drain_broker_ && now >= *drain_broker_) drain_broker(now);
  std::vector<Respawn> due;
  std::erase_if(respawns_, [&](const Respawn& one) {
    if (one.due > now) return false;
    due.push_back(one);
    return true;
  });
  for (const auto& one : due) {
    if (one.role == ipc::Role::broker) {
      spawn_broker(now);
    } else if (state_of(one.gen) == GenerationState::active && !has_worker(one.gen, one.index)) {
      spawn_worker(one.gen, one.index, now);
    }
  }
}

std::optional<TimePoint> Machine::next_tick() const {
  if (phase_ == Phase::done) return std::nullopt;
  TimePoint next = next_ping_;
  const auto earlier = [&](const std::optional<TimePoint>& at) {
    if (at) next = std::min(next, *at);
  };
  earlier(retired_);
  earlier(drain_broker_);
  earlier(next_live_);
  if (upgrade_again_ && phase_ == Phase::running && !busy()) earlier(settled_by_);
  if (upgrade_) earlier(upgrade_->deadline);
  if (arrival_) earlier(arrival_->hung_up ? arrival_->hung_up : arrival_->deadline);
  if (reload_) earlier(reload_->deadline);
  for (const auto& one : respawns_) earlier(one.due);
  for (const auto& [key, one] : children_) {
    earlier(one.terminate);
    earlier(one.kill);
    earlier(one.leave_by);
    if (one.state == ChildState::starting && !one.supervises()) {
      earlier(one.spawned + (new_in_reload(one) ? reload_->plan.ready : plan_.ready));
    }
  }
  return next;
}

}  // namespace ebb::supervisor
