// Reload and resize: the steps of spec/processes.md 9.1, one at a time, each with a way back until DRAIN.
#include <signal.h>

#include <algorithm>
#include <set>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

constexpr auto kAnswerTime = 30s;  // the broker's RESULT, a worker's STARTED and PAUSED; a hang is noticed much earlier
constexpr auto kRetire = 1s;       // a SYN-ACK timeout (3.5)
constexpr auto kKillSlack = 500ms;

}  // namespace

std::string first_line(const std::string& text) {
  const auto end = text.find('\n');
  return end == std::string::npos || end + 1 == text.size() ? text.substr(0, end) : text.substr(0, end) + " (and more)";
}

std::string_view Machine::operation() const {
  if (arrival_) return "arrival";
  if (upgrade_) return upgrade_->step == Upgrade::Step::probation ? "upgrade in probation" : "upgrade";
  if (!reload_) return renewal_ ? "broker" : "idle";
  switch (reload_->step) {
    case ReloadStep::loading: return "loading";
    case ReloadStep::preparing: return "preparing";
    case ReloadStep::readying: return "readying";
    case ReloadStep::listening: return "listening";
    case ReloadStep::starting: return "starting";
    case ReloadStep::retiring: return "retiring";
    case ReloadStep::pausing: return "pausing";
    case ReloadStep::committing: return "committing";
    case ReloadStep::probation: return "probation";
  }
  return "unknown";
}

/// Brokers that keep copies of the slots: two, while the newest is not ready yet.
std::vector<ChildKey> Machine::escrow() const {
  auto all = brokers();
  std::erase_if(all, [&](ChildKey key) { return find(key)->state == ChildState::draining; });
  return all;
}

Machine::GenerationState Machine::state_of(std::uint64_t gen) const {
  const auto found = generations_.find(gen);
  return found == generations_.end() ? GenerationState::draining : found->second.state;
}

// ---- asked ------------------------------------------------------------------------------------

std::uint64_t Machine::reload(TimePoint now) {
  if (upgrade_ || arrival_ || phase_ == Phase::retired) {
    note(log::Level::warning, "reload refused: the binary is being replaced");
    finish(next_ticket_, 1, "the binary is being replaced; try again afterwards");
    return next_ticket_++;
  }
  if (reload_ && reload_->step == ReloadStep::probation && phase_ == Phase::running) {
    if (!again_) again_ = next_ticket_++;
    const std::uint64_t ticket = *again_;
    note(log::Level::info, "probation ends: another reload is wanted");
    pass_probation(now);
    return ticket;
  }
  if (phase_ == Phase::starting || reload_) {
    if (!again_) again_ = next_ticket_++;  // one bit: the file is read after this reload, however often one asks
    return *again_;
  }
  const std::uint64_t ticket = next_ticket_++;
  if (phase_ == Phase::running) {
    begin_reload(std::nullopt, ticket, now);
  } else {
    finish(ticket, 1, "the service is stopping");
  }
  return ticket;
}

void Machine::resize(int by, TimePoint now) {
  if (phase_ != Phase::starting && phase_ != Phase::running) return;
  if (plan_.workers == 0) {
    note(log::Level::warning, "no inbound: there are no workers to change the number of");
    return;
  }
  const int limit = static_cast<int>(kMaxWorkers);
  resize_by_ = std::clamp(resize_by_ + by, -limit, limit);
  next_operation(now);
}

void Machine::next_operation(TimePoint now) {
  if (phase_ != Phase::running || busy()) return;
  // The reload first: what it takes away would outlive the probation of a new supervisor.
  if (const auto ticket = std::exchange(again_, std::nullopt)) return begin_reload(std::nullopt, *ticket, now);
  if (upgrade_again_ && settled(now)) return begin_upgrade(*std::exchange(upgrade_again_, std::nullopt), now);
  const int by = std::exchange(resize_by_, 0);
  const int wanted = std::clamp(static_cast<int>(plan_.workers) + by, 1, static_cast<int>(kMaxWorkers));
  if (by == 0) return begin_renewal(now);
  if (wanted != static_cast<int>(plan_.workers)) {
    return begin_reload(static_cast<std::uint32_t>(wanted), next_ticket_++, now);
  }
  note(log::Level::warning, "the number of workers stays", {{"workers", std::to_string(wanted)}});
  begin_renewal(now);
}

void Machine::begin_reload(std::optional<std::uint32_t> workers, std::uint64_t ticket, TimePoint) {
  reload_.emplace();
  reload_->gen = ++last_gen_;
  reload_->ticket = ticket;
  note(log::Level::info, workers ? "changing the number of workers" : "reloading",
       {{"generation", std::to_string(reload_->gen)}});
  emit(action::Load{reload_->gen, workers});
}

// ---- forward ----------------------------------------------------------------------------------

void Machine::loaded(std::uint64_t config, const Plan& plan, bool removes, TimePoint now) {
  if (!reload_ || reload_->gen != config || reload_->step != ReloadStep::loading) {
    emit(action::Forget{config});
    return;
  }
  reload_->plan = plan;
  reload_->removes = removes;
  reload_->step = ReloadStep::preparing;
  reload_->deadline = now + kAnswerTime;
  generations_[config] = {GenerationState::starting, plan.workers};
  prepare(carriers());  // a broker that comes later: see introduce_workers()
}

void Machine::prepare(const std::vector<ChildKey>& who) {
  for (const ChildKey key : who) {
    reload_->asked.insert(key);
    emit(action::UpdateBroker{key, ipc::UpdatePhase::prepare, reload_->gen});
  }
}

void Machine::updated(ChildKey key, const ipc::ConfigUpdate& result, std::string_view text, TimePoint now) {
  const std::string problem =
      result.code == 0 ? "" : (text.empty() ? "code " + std::to_string(result.code) : std::string(text));
  if (upgrade_ && result.gen == upgrade_->config && upgrade_->asked.erase(key) > 0) {
    if (result.code > upgrade_->answer.code) {
      upgrade_->answer.code = result.code;
      upgrade_->text = problem;
    }
    return answer_successor();
  }
  if (arrival_ && predecessor_ == key && arrival_->step == Arrival::Step::preparing) {
    apart_ = result.code > 1;
    if (apart_)
      note(log::Level::warning, "the running broker cannot use the new configuration: no links to it",
           {{"reason", problem}});
    return spawn_arrivals(now);
  }
  const bool ours = reload_ && result.gen == reload_->gen && reload_->asked.contains(key);
  const bool newest = broker() != nullptr && broker()->key == key;
  if (ours && result.phase == ipc::UpdatePhase::prepare && reload_->step < ReloadStep::committing) {
    reload_->asked.erase(key);
    if (result.code > 1 && newest) return reject(1, "the broker refuses it: " + problem, now);
    if (result.code == 1 && newest) reload_->renew = problem;
    if (result.code > 1) {
      note(log::Level::error, "a replaced broker could not follow", {{"reason", problem}});
    }
    advance_reload(now);
  } else if (ours && result.phase == ipc::UpdatePhase::commit && reload_->step == ReloadStep::committing) {
    reload_->asked.erase(key);
    if (newest) reload_->problem = problem;
    advance_reload(now);
  } else if (result.code > 1) {
    note(log::Level::error, "the broker could not follow",
         {{"configuration", std::to_string(result.gen)}, {"reason", problem}});
  }
}

bool Machine::awaiting(std::uint64_t gen) const {
  return std::ranges::any_of(children_, [&](const auto& c) {
    return c.second.role == ipc::Role::worker && c.second.gen == gen && c.second.awaited;
  });
}

/// Goes on when nothing more is to be waited for.
void Machine::advance_reload(TimePoint now) {
  if (!reload_ || phase_ != Phase::running) return;
  const auto none_is = [&](ChildState state) {
    return std::ranges::none_of(children_, [&](const auto& c) {
      return c.second.role == ipc::Role::worker && c.second.gen == reload_->gen && c.second.state == state;
    });
  };
  const Child* carrier = broker();
  switch (reload_->step) {
    case ReloadStep::preparing:
      if (carrier == nullptr || !reload_->asked.empty()) return;
      reload_->step = ReloadStep::readying;
      reload_->deadline.reset();  // each has its own from its start
      for (std::uint32_t i = 0; i < reload_->plan.workers; ++i) spawn_worker(reload_->gen, i, now);
      return advance_reload(now);
    case ReloadStep::readying:
      if (none_is(ChildState::starting)) listen_for_new(now);
      return;
    case ReloadStep::starting:
      if (awaiting(reload_->gen)) return;
      if (!reload_->removes) return pause_old(now);
      // The old ones still poll: who is half in comes in, and what is queued is accepted.
      reload_->step = ReloadStep::retiring;
      reload_->deadline = now + kRetire;
      emit(action::RetireRemoved{reload_->gen});
      return;
    case ReloadStep::pausing:
      if (!awaiting(current_gen_) && reload_->asked.empty()) commit(now);
      return;
    case ReloadStep::committing:
      if (reload_->asked.empty()) committed(now);  // the successor of one that ended knows no other configuration
      return;
    default: return;
  }
}

void Machine::listen_for_new(TimePoint now) {
  reload_->step = ReloadStep::listening;
  reload_->deadline = now + kAnswerTime;
  emit(action::Listen{reload_->gen, escrow()});
}

void Machine::serve_new(TimePoint now) {
  reload_->step = ReloadStep::starting;
  reload_->deadline = now + kAnswerTime;
  generations_[reload_->gen].state = GenerationState::active;
  for (auto& [key, one] : children_) {
    if (!new_in_reload(one)) continue;
    start(one, now);
    one.state = ChildState::probation;
    one.awaited = true;
  }
  advance_reload(now);
}

void Machine::pause_old(TimePoint now) {
  reload_->step = ReloadStep::pausing;
  reload_->deadline = now + kAnswerTime;
  pause(current_gen_);
  advance_reload(now);
}

void Machine::pause(std::uint64_t gen) {
  auto& state = generations_[gen].state;
  if (state == GenerationState::draining) return;  // maintenance
  state = GenerationState::paused;
  each_worker(gen, [&](Child& one) {
    if (one.state != ChildState::active) return;
    one.state = ChildState::paused;
    one.awaited = true;
    emit(action::Pause{one.key, one.gen});
  });
}

void Machine::commit(TimePoint now) {
  reload_->step = ReloadStep::committing;
  reload_->deadline = now + kAnswerTime;
  reload_->previous = std::exchange(current_gen_, reload_->gen);
  reload_->previous_plan = std::exchange(plan_, reload_->plan);
  worker_exits_.first(plan_.respawn_backoff);
  broker_exits_.first(plan_.respawn_backoff);
  emit(action::Decide{current_gen_});
  for (const ChildKey key : carriers()) {
    reload_->asked.insert(key);
    emit(action::UpdateBroker{key, ipc::UpdatePhase::commit, current_gen_});
  }
  advance_reload(now);
}

void Machine::committed(TimePoint now) {
  const std::string problem = reload_->problem;
  reload_->step = ReloadStep::probation;
  reload_->deadline = now + plan_.probation;
  if (problem.empty()) {
    last_reload_ = "ok";
    note(log::Level::info, "configuration in force",
         {{"generation", std::to_string(current_gen_)}, {"workers", std::to_string(plan_.workers)}});
    emit(action::OperationDone{reload_->ticket, 0, ""});
  } else {  // it said OK before: what is new is served, only what is gone may live on
    last_reload_ = "the broker could not follow: " + problem;
    note(log::Level::error, "the broker could not follow", {{"reason", problem}});
    emit(action::OperationDone{reload_->ticket, 1, last_reload_});
  }
  if (plan_.workers == 0) pass_probation(now);  // nobody to watch
}

void Machine::pass_probation(TimePoint now) {
  for (auto& [key, one] : children_) {
    if (new_in_reload(one) && one.state == ChildState::probation) one.state = ChildState::active;
  }
  const std::uint64_t previous = reload_->previous;
  const std::string renew = reload_->renew;
  reload_.reset();
  note(log::Level::info, "probation passed", {{"generation", std::to_string(current_gen_)}});
  leave_generation(previous, now);
  emit(action::CloseRemoved{current_gen_, escrow()});
  limit_generations(now);
  forget_if_empty(previous);
  if (!renew.empty() && !renewal_) renewal_ = Renewal{renew, {}, std::nullopt};
  next_operation(now);
}

// ---- back -------------------------------------------------------------------------------------

void Machine::reload_failed(std::string why, TimePoint now) {
  if (!reload_) return;
  if (reload_->step < ReloadStep::committing) {
    reject(1, std::move(why), now);
  } else {
    roll_back(std::move(why), now);
  }
}

void Machine::refused(std::uint64_t config, int exit, std::string_view why, TimePoint now) {
  if (reload_ && reload_->gen == config && reload_->step == ReloadStep::loading) reject(exit, std::string(why), now);
}

/// Before COMMIT: no trace is left.
void Machine::reject(int exit, std::string why, TimePoint now) {
  const Reload was = *reload_;
  reload_.reset();
  last_reload_ = first_line(why);
  note(log::Level::error, "reload refused, the configuration stays as it was", {{"reason", last_reload_}});
  emit(action::OperationDone{was.ticket, exit, std::move(why)});
  complete(current_gen_, now);  // after adoption some may be missing that this reload would have replaced
  if (was.step > ReloadStep::loading) {
    if (was.step >= ReloadStep::retiring) emit(action::RestoreSlots{});
    resume(current_gen_, now);
    stop_generation(was.gen, now);
    for (const ChildKey key : carriers()) emit(action::UpdateBroker{key, ipc::UpdatePhase::abort, was.gen});
    emit(action::CloseRemoved{current_gen_, escrow()});
  }
  forget_if_empty(was.gen);
  next_operation(now);
}

void Machine::roll_back(std::string why, TimePoint now) {
  const Reload was = *reload_;
  reload_.reset();
  last_reload_ = "rolled back: " + why;
  note(log::Level::error, "reload rolled back, the previous configuration serves",
       {{"generation", std::to_string(was.previous)}, {"reason", why}});
  if (was.step == ReloadStep::committing) emit(action::OperationDone{was.ticket, 1, last_reload_});
  current_gen_ = was.previous;
  plan_ = was.previous_plan;
  emit(action::Decide{current_gen_});
  emit(action::RestoreSlots{});
  resume(current_gen_, now);
  for (const ChildKey key : carriers()) {
    emit(action::UpdateBroker{key, ipc::UpdatePhase::prepare, current_gen_});
    emit(action::UpdateBroker{key, ipc::UpdatePhase::commit, current_gen_});
  }
  stop_generation(was.gen, now);
  emit(action::CloseRemoved{current_gen_, escrow()});
  forget_if_empty(was.gen);
  next_operation(now);
}

/// A paused generation serves again, whole.
void Machine::resume(std::uint64_t gen, TimePoint now) {
  auto& generation = generations_[gen];
  if (generation.state != GenerationState::paused) return;
  generation.state = GenerationState::active;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker || one.gen != gen) continue;
    one.awaited = false;
    if (one.state == ChildState::paused) start(one, now);
  }
  std::erase_if(respawns_, [&](const Respawn& r) { return r.role == ipc::Role::worker && r.gen == gen; });
  complete(gen, now);
}

/// Every index has its worker, or will have one.
void Machine::complete(std::uint64_t gen, TimePoint now) {
  const Generation& generation = generations_[gen];
  if (generation.state != GenerationState::active) return;
  for (std::uint32_t i = 0; i < generation.workers; ++i) {
    const bool due = std::ranges::any_of(
        respawns_, [&](const Respawn& r) { return r.role == ipc::Role::worker && r.gen == gen && r.index == i; });
    if (!due && !has_worker(gen, i)) spawn_worker(gen, i, now);
  }
}

// ---- old generations --------------------------------------------------------------------------

/// They finish what they have.
void Machine::leave_generation(std::uint64_t gen, TimePoint now) {
  generations_[gen].state = GenerationState::draining;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker || one.gen != gen) continue;
    one.awaited = false;
    if (one.state == ChildState::starting) {
      kill(one, SIGKILL);
    } else {
      drain(one, plan_.hard_stop_workers, plan_.drain_spread, now);
    }
  }
}

/// They failed: what they carry has `stopGrace`.
void Machine::stop_generation(std::uint64_t gen, TimePoint now) {
  if (!generations_.contains(gen)) return;
  generations_[gen].state = GenerationState::draining;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker || one.gen != gen || one.state == ChildState::killed) continue;
    one.awaited = false;
    if (one.state == ChildState::starting || one.state == ChildState::ready) {
      kill(one, SIGKILL);
      continue;
    }
    drain(one, std::max(plan_.stop_grace, milliseconds(1)), milliseconds(0), now);
    one.terminate.reset();
    const TimePoint end = now + plan_.stop_grace + kKillSlack;
    one.kill = one.kill ? std::min(*one.kill, end) : end;
  }
}

void Machine::limit_generations(TimePoint now) {
  std::map<std::uint64_t, std::uint64_t> connections;  // by generation
  for (const auto& [key, one] : children_) {
    if (one.role == ipc::Role::worker && !generations_[one.gen].cut) connections[one.gen] += one.connections;
  }
  while (connections.size() > plan_.max_generations) {
    const auto [oldest, carried] = *connections.begin();
    connections.erase(connections.begin());
    generations_[oldest].cut = true;
    note(log::Level::warning, "more than maxGenerations: the oldest has its hard stop now",
         {{"generation", std::to_string(oldest)}, {"connections", std::to_string(carried)}});
    for (auto& [key, one] : children_) {
      if (one.role != ipc::Role::worker || one.gen != oldest) continue;
      drain(one, std::max(plan_.stop_grace, milliseconds(1)), milliseconds(0), now);
      if (one.terminate) one.terminate = std::min(*one.terminate, now + plan_.stop_grace + kKillSlack);
    }
  }
}

void Machine::forget_if_empty(std::uint64_t gen) {
  if (reload_ && (gen == reload_->gen || gen == reload_->previous)) return;
  if (gen == current_gen_) return;
  const bool used = std::ranges::any_of(
      children_, [&](const auto& c) { return c.second.role == ipc::Role::worker && c.second.gen == gen; });
  if (used) return;
  generations_.erase(gen);
  emit(action::Forget{gen});
}

void Machine::cancel_operations() {
  const std::string why = "the service is stopping";
  if (reload_) {
    if (reload_->step < ReloadStep::probation) finish(reload_->ticket, 1, why);
    const std::uint64_t gen = reload_->gen;
    const bool loading = reload_->step == ReloadStep::loading;
    reload_.reset();
    if (loading) emit(action::Forget{gen});
  }
  if (upgrade_) finish(upgrade_->ticket, 1, why);
  upgrade_.reset();
  for (auto* waiting : {&again_, &upgrade_again_}) {
    if (const auto ticket = std::exchange(*waiting, std::nullopt)) finish(*ticket, 1, why);
  }
  end_renewal(1, why);
  resize_by_ = 0;
}

void Machine::on_reload_tick(TimePoint now) {
  if (!reload_ || !reload_->deadline || now < *reload_->deadline || phase_ != Phase::running) return;
  switch (reload_->step) {
    case ReloadStep::probation: return pass_probation(now);
    case ReloadStep::retiring: return pause_old(now);
    case ReloadStep::preparing: return reject(1, "the broker did not answer in time", now);
    case ReloadStep::listening: return reject(1, "the new addresses did not listen in time", now);
    case ReloadStep::committing:
      if (reload_->problem.empty()) reload_->problem = "it did not answer in time";
      return committed(now);
    default: return reject(1, "a worker did not answer in time", now);
  }
}

}  // namespace ebb::supervisor
