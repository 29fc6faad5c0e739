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

/// Diagnostics are many lines; a log line and a status have room for one.
std::string first_line(const std::string& text) {
  const auto end = text.find('\n');
  return end == std::string::npos || end + 1 == text.size() ? text.substr(0, end) : text.substr(0, end) + " (and more)";
}

}  // namespace

std::string_view Machine::reload_step() const {
  if (!reload_) return "idle";
  switch (reload_->step) {
    case ReloadStep::loading: return "loading";
    case ReloadStep::preparing: return "preparing";
    case ReloadStep::readying: return "readying";
    case ReloadStep::starting: return "starting";
    case ReloadStep::retiring: return "retiring";
    case ReloadStep::pausing: return "pausing";
    case ReloadStep::committing: return "committing";
    case ReloadStep::probation: return "probation";
  }
  return "unknown";
}

std::optional<ChildKey> Machine::escrow() const {
  const Child* carrier = broker();
  return carrier == nullptr ? std::nullopt : std::optional(carrier->key);
}

Machine::GenerationState Machine::state_of(std::uint64_t gen) const {
  const auto found = generations_.find(gen);
  return found == generations_.end() ? GenerationState::draining : found->second.state;
}

// ---- asked ------------------------------------------------------------------------------------

std::uint64_t Machine::reload(TimePoint now) {
  const std::uint64_t ticket = next_ticket_;
  if (phase_ == Phase::starting || reload_) {
    again_ = true;  // one bit: the file is read after this reload, however often one asks
    return ticket;
  }
  if (phase_ == Phase::running) {
    begin_reload(std::nullopt, now);
  } else {
    emit(action::ReloadDone{next_ticket_++, 1, "the service is stopping"});
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
  next_reload(now);
}

void Machine::next_reload(TimePoint now) {
  if (phase_ != Phase::running || reload_) return;
  if (std::exchange(again_, false)) {
    begin_reload(std::nullopt, now);
    return;
  }
  const int by = std::exchange(resize_by_, 0);
  if (by == 0) return;
  const int wanted = std::clamp(static_cast<int>(plan_.workers) + by, 1, static_cast<int>(kMaxWorkers));
  if (wanted == static_cast<int>(plan_.workers)) {
    note(log::Level::warning, "the number of workers stays", {{"workers", std::to_string(wanted)}});
  } else {
    begin_reload(static_cast<std::uint32_t>(wanted), now);
  }
}

void Machine::begin_reload(std::optional<std::uint32_t> workers, TimePoint) {
  reload_.emplace();
  reload_->gen = ++last_gen_;
  reload_->ticket = next_ticket_++;
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
  if (const Child* carrier = broker()) prepare_broker(*carrier);  // none: see introduce_workers()
}

void Machine::prepare_broker(const Child& carrier) {
  reload_->prepared = false;
  emit(action::UpdateBroker{carrier.key, ipc::UpdatePhase::prepare, reload_->gen});
}

/// Links of a broker that has just been spawned. It knows the configuration that decides; others it has to know before
/// the links of their workers come, because ids in offers are those of the sender's configuration.
void Machine::introduce_workers(const Child& carrier) {
  const bool reloading = reload_ && reload_->step > ReloadStep::loading && reload_->step < ReloadStep::committing;
  const auto link = [&](std::uint64_t gen) {
    bool any = false;
    for (const auto& [key, one] : children_) {
      if (one.role != ipc::Role::worker || one.gen != gen) continue;
      if (!std::exchange(any, true) && gen != current_gen_ && !(reloading && gen == reload_->gen)) {
        emit(action::UpdateBroker{carrier.key, ipc::UpdatePhase::prepare, gen});
      }
      emit(action::Connect{key, carrier.key, carrier.gen});
    }
    return any;
  };
  for (const auto& [gen, generation] : generations_) {
    if (gen == current_gen_ || (reloading && gen == reload_->gen)) continue;
    if (link(gen)) emit(action::UpdateBroker{carrier.key, ipc::UpdatePhase::abort, gen});  // its links keep it
  }
  link(current_gen_);
  if (!reloading) return;
  prepare_broker(carrier);
  link(reload_->gen);
}

void Machine::updated(ChildKey key, const ipc::ConfigUpdate& result, std::string_view text, TimePoint now) {
  const Child* carrier = broker();
  const bool ours = reload_ && result.gen == reload_->gen && carrier != nullptr && carrier->key == key;
  const std::string problem =
      result.code == 0 ? "" : (text.empty() ? "code " + std::to_string(result.code) : std::string(text));
  if (ours && result.phase == ipc::UpdatePhase::prepare && reload_->step < ReloadStep::committing) {
    if (result.code == 0) {
      reload_->prepared = true;
      advance_reload(now);
    } else {
      reject(1, (result.code == 1 ? "this change needs a restart: " : "the broker refuses it: ") + problem, now);
    }
  } else if (ours && result.phase == ipc::UpdatePhase::commit && reload_->step == ReloadStep::committing) {
    committed(problem, now);
  } else if (!problem.empty()) {
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
      if (!reload_->prepared) return;
      reload_->step = ReloadStep::readying;
      reload_->deadline.reset();  // each has its own from its start
      for (std::uint32_t i = 0; i < reload_->plan.workers; ++i) spawn_worker(reload_->gen, i, now);
      return advance_reload(now);
    case ReloadStep::readying:
      if (none_is(ChildState::starting)) serve_new(now);
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
      if (!awaiting(current_gen_) && (carrier == nullptr || reload_->prepared)) commit(now);
      return;
    case ReloadStep::committing:
      if (carrier == nullptr || carrier->key != reload_->asked) committed("", now);  // its successor knows no other
      return;
    default: return;
  }
}

void Machine::serve_new(TimePoint now) {
  reload_->step = ReloadStep::starting;
  reload_->deadline = now + kAnswerTime;
  generations_[reload_->gen].state = GenerationState::active;
  emit(action::Listen{reload_->gen, escrow()});
  for (auto& [key, one] : children_) {
    if (!new_in_reload(one)) continue;
    start(one);
    one.state = ChildState::probation;
    one.awaited = true;
  }
  advance_reload(now);
}

void Machine::pause_old(TimePoint now) {
  reload_->step = ReloadStep::pausing;
  reload_->deadline = now + kAnswerTime;
  generations_[current_gen_].state = GenerationState::paused;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker || one.gen != current_gen_ || one.state != ChildState::active) continue;
    one.state = ChildState::paused;
    one.awaited = true;
    emit(action::Pause{key, one.gen});
  }
  advance_reload(now);
}

void Machine::commit(TimePoint now) {
  reload_->step = ReloadStep::committing;
  reload_->deadline = now + kAnswerTime;
  reload_->previous = std::exchange(current_gen_, reload_->gen);
  reload_->previous_plan = std::exchange(plan_, reload_->plan);
  worker_exits_.first(plan_.respawn_backoff);
  broker_exits_.first(plan_.respawn_backoff);
  emit(action::Decide{current_gen_});
  reload_->asked = escrow();
  if (reload_->asked) emit(action::UpdateBroker{*reload_->asked, ipc::UpdatePhase::commit, current_gen_});
  advance_reload(now);
}

void Machine::committed(std::string_view problem, TimePoint now) {
  reload_->step = ReloadStep::probation;
  reload_->deadline = now + plan_.probation;
  if (problem.empty()) {
    last_reload_ = "ok";
    note(log::Level::info, "configuration in force",
         {{"generation", std::to_string(current_gen_)}, {"workers", std::to_string(plan_.workers)}});
    emit(action::ReloadDone{reload_->ticket, 0, ""});
  } else {  // it said OK before: what is new is served, only what is gone may live on
    last_reload_ = "the broker could not follow: " + std::string(problem);
    note(log::Level::error, "the broker could not follow", {{"reason", std::string(problem)}});
    emit(action::ReloadDone{reload_->ticket, 1, last_reload_});
  }
  if (plan_.workers == 0) pass_probation(now);  // nobody to watch
}

void Machine::pass_probation(TimePoint now) {
  for (auto& [key, one] : children_) {
    if (new_in_reload(one) && one.state == ChildState::probation) one.state = ChildState::active;
  }
  const std::uint64_t previous = reload_->previous;
  reload_.reset();
  note(log::Level::info, "probation passed", {{"generation", std::to_string(current_gen_)}});
  leave_generation(previous, now);
  emit(action::CloseRemoved{current_gen_, escrow()});
  limit_generations(now);
  forget_if_empty(previous);
  next_reload(now);
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
  emit(action::ReloadDone{was.ticket, exit, std::move(why)});
  if (was.step > ReloadStep::loading) {
    if (was.step >= ReloadStep::retiring) emit(action::RestoreSlots{});
    resume(current_gen_, now);
    stop_generation(was.gen, now);
    if (const auto carrier = escrow()) emit(action::UpdateBroker{*carrier, ipc::UpdatePhase::abort, was.gen});
    emit(action::CloseRemoved{current_gen_, escrow()});
  }
  forget_if_empty(was.gen);
  next_reload(now);
}

void Machine::roll_back(std::string why, TimePoint now) {
  const Reload was = *reload_;
  reload_.reset();
  last_reload_ = "rolled back: " + why;
  note(log::Level::error, "reload rolled back, the previous configuration serves",
       {{"generation", std::to_string(was.previous)}, {"reason", why}});
  if (was.step == ReloadStep::committing) emit(action::ReloadDone{was.ticket, 1, last_reload_});
  current_gen_ = was.previous;
  plan_ = was.previous_plan;
  emit(action::Decide{current_gen_});
  emit(action::RestoreSlots{});
  resume(current_gen_, now);
  if (const auto carrier = escrow()) {
    emit(action::UpdateBroker{*carrier, ipc::UpdatePhase::prepare, current_gen_});
    emit(action::UpdateBroker{*carrier, ipc::UpdatePhase::commit, current_gen_});
  }
  stop_generation(was.gen, now);
  emit(action::CloseRemoved{current_gen_, escrow()});
  forget_if_empty(was.gen);
  next_reload(now);
}

/// A paused generation serves again, whole.
void Machine::resume(std::uint64_t gen, TimePoint now) {
  auto& generation = generations_[gen];
  if (std::exchange(generation.state, GenerationState::active) != GenerationState::paused) return;
  std::set<std::uint32_t> there;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker || one.gen != gen) continue;
    there.insert(one.index);
    one.awaited = false;
    if (one.state == ChildState::paused) start(one);
  }
  std::erase_if(respawns_, [&](const Respawn& r) { return r.role == ipc::Role::worker && r.gen == gen; });
  for (std::uint32_t i = 0; i < generation.workers; ++i) {
    if (!there.contains(i)) spawn_worker(gen, i, now);
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

void Machine::cancel_reload() {
  if (reload_) {
    if (reload_->step < ReloadStep::probation) {
      emit(action::ReloadDone{reload_->ticket, 1, "the service is stopping"});
    }
    const std::uint64_t gen = reload_->gen;
    const bool loading = reload_->step == ReloadStep::loading;
    reload_.reset();
    if (loading) emit(action::Forget{gen});
  }
  if (std::exchange(again_, false)) emit(action::ReloadDone{next_ticket_++, 1, "the service is stopping"});
  resize_by_ = 0;
}

void Machine::on_reload_tick(TimePoint now) {
  if (!reload_ || !reload_->deadline || now < *reload_->deadline || phase_ != Phase::running) return;
  switch (reload_->step) {
    case ReloadStep::probation: return pass_probation(now);
    case ReloadStep::retiring: return pause_old(now);
    case ReloadStep::preparing: return reject(1, "the broker did not answer in time", now);
    case ReloadStep::committing: return committed("it did not answer in time", now);
    default: return reject(1, "a worker did not answer in time", now);
  }
}

}  // namespace ebb::supervisor
