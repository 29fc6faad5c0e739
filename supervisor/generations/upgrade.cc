// Binary upgrade seen from the old supervisor, and maintenance (spec/processes.md 9.2, 10). The new supervisor is a
// child like others until it says COMMIT; up to then everything of ours only pauses, so there is a way back.
//
//   readying --READY: START--> starting --STARTED: our workers pause--> probation --COMMIT--> retired
//      |  it ends, closes its link, or is late                              |
//      +--> back: our workers serve, its configuration is dropped <---------+
#include <signal.h>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

constexpr auto kAnswerTime = 30s;
constexpr auto kLongestProbation = 1h;  // the new one decides; it may have another configuration than we

}  // namespace

std::uint64_t Machine::upgrade(TimePoint now) {
  const std::uint64_t ticket = next_ticket_++;
  if (phase_ == Phase::running && (upgrade_ || arrival_)) {
    note(log::Level::warning, "upgrade refused: one is under way");
    finish(ticket, 1, "an upgrade is under way");
  } else if (phase_ != Phase::running && phase_ != Phase::starting) {
    finish(ticket, 1, "the service is stopping");
  } else if (reload_ || phase_ == Phase::starting || !settled(now)) {
    if (upgrade_again_) {
      finish(ticket, 1, "an upgrade is waiting already");
    } else {
      note(log::Level::info,
           reload_ ? "the upgrade begins after the reload" : "the upgrade begins when tunnels are there");
      upgrade_again_ = ticket;
    }
  } else {
    begin_upgrade(ticket, now);
  }
  return ticket;
}

void Machine::begin_upgrade(std::uint64_t ticket, TimePoint now) {
  upgrade_.emplace();
  upgrade_->ticket = ticket;
  upgrade_->deadline = now + 2 * plan_.ready;
  Child one;
  one.key = next_key();
  one.role = ipc::Role::successor;
  one.spawned = now;
  upgrade_->successor = one.key;
  children_.emplace(one.key, one);
  note(log::Level::info, "replacing the binary");
  emit(action::SpawnSuccessor{one.key, std::max(last_gen_, broker_gen_)});
}

void Machine::successor_greets(ChildKey key, bool same_protocol) {
  if (!upgrade_ || upgrade_->successor != key) return;
  upgrade_->apart = !same_protocol;
  for (const ChildKey broker : brokers()) {
    const Child& one = children_.at(broker);
    if (!same_protocol || one.state == ChildState::starting) continue;
    emit(action::TellBrokerState{key, one.gen, leaving(one) ? ipc::BrokerPhase::draining : ipc::BrokerPhase::active});
  }
  emit(action::EquipSuccessor{key});
}

/// Its workers will offer to our brokers too: they have to know its configuration.
void Machine::successor_update(ChildKey key, const ipc::ConfigUpdate& update, TimePoint) {
  if (!upgrade_ || upgrade_->successor != key) {
    if (!heir(key)) return;  // it was given up
    // Reloads of the new one, as long as a broker of ours serves.
    for (const ChildKey broker : brokers()) emit(action::UpdateBroker{broker, update.phase, update.gen});
    emit(action::AnswerSuccessor{key, {update.gen, update.phase, 0}, ""});
    return;
  }
  upgrade_->config = update.gen;
  upgrade_->answer = {update.gen, update.phase, 0};
  upgrade_->text.clear();
  upgrade_->asked.clear();
  for (const ChildKey broker : brokers()) {
    upgrade_->asked.insert(broker);
    emit(action::UpdateBroker{broker, update.phase, update.gen});
  }
  answer_successor();
}

void Machine::answer_successor() {
  if (!upgrade_ || !upgrade_->asked.empty()) return;
  if (upgrade_->answer.phase == ipc::UpdatePhase::prepare && upgrade_->answer.code > 1) upgrade_->apart = true;
  emit(action::AnswerSuccessor{upgrade_->successor, upgrade_->answer, upgrade_->text});
}

void Machine::successor_ready(TimePoint now) {
  if (!upgrade_ || upgrade_->step != Upgrade::Step::readying) return;
  upgrade_->step = Upgrade::Step::starting;
  upgrade_->deadline = now + plan_.broker_move + kAnswerTime;
  emit(action::Start{upgrade_->successor, current_gen_});
  if (!upgrade_->apart) return;
  // Bridges have to come to its broker, which ours can hand nothing: new tunnels are for the new one alone.
  each_worker(current_gen_, [&](Child& one) {
    if (one.state == ChildState::active) emit(action::RevokeSlots{one.key, action::Grants::tunnels});
  });
  for (const ChildKey key : brokers()) {
    emit(action::TellBrokerState{key, children_.at(key).gen, ipc::BrokerPhase::draining});
  }
}

void Machine::successor_started(TimePoint now) {
  if (!upgrade_ || upgrade_->step != Upgrade::Step::starting) return;
  upgrade_->step = Upgrade::Step::probation;
  upgrade_->deadline = now + kLongestProbation;
  pause(current_gen_);
}

void Machine::successor_committed(ChildKey key, TimePoint now) {
  if (!upgrade_ || upgrade_->successor != key || upgrade_->step != Upgrade::Step::probation) return;
  hand_over(now);
}

bool Machine::heir(ChildKey key) const {
  const Child* one = find(key);
  return phase_ == Phase::retired && one != nullptr && one->role == ipc::Role::successor &&
         one->state == ChildState::active;
}

void Machine::successor_complains(ChildKey key, std::string_view why) {
  if (upgrade_ && upgrade_->successor == key) upgrade_->complaint = why;
}

void Machine::hand_over(TimePoint now) {
  const Upgrade done = *std::exchange(upgrade_, std::nullopt);
  note(log::Level::info, "the new supervisor is in charge; this one leaves with its last process",
       {{"pid", std::to_string(children_.at(done.successor).pid)}});
  children_.at(done.successor).state = ChildState::active;
  phase_ = Phase::retired;
  respawns_.clear();
  cancel_operations();
  emit(action::HandOver{});
  if (done.apart) emit(action::TellMoved{plan_.portals});
  emit(action::Commit{done.successor, current_gen_});
  finish(done.ticket, 0);
  for (auto& [gen, generation] : generations_) generation.state = GenerationState::draining;
  for (auto& [key, one] : children_) {
    if (one.role != ipc::Role::worker || one.state == ChildState::draining) continue;
    if (one.state == ChildState::starting) {
      kill(one, SIGKILL);
    } else {
      drain(one, plan_.hard_stop_workers, plan_.drain_spread, now);
    }
  }
  for (const ChildKey key : brokers()) {
    Child& broker = children_.at(key);
    if (broker.state == ChildState::starting) {
      kill(broker, SIGKILL);
    } else {
      replace_by(broker, now);
    }
  }
  next_live_.reset();  // the new one asks its own, and tells us
  emit(action::CloseSlots{});
  leave_if_empty();
}

void Machine::upgrade_failed(std::string why, TimePoint now, int exit) {
  if (!upgrade_) return;
  const Upgrade was = *std::exchange(upgrade_, std::nullopt);
  if (!was.complaint.empty()) why += ": " + was.complaint;
  note(log::Level::error, "upgrade failed, this supervisor and its processes serve on", {{"reason", first_line(why)}});
  finish(was.ticket, exit, "upgrade failed: " + why);
  if (Child* successor = child(was.successor)) successor->state = ChildState::draining;
  emit(action::RestoreSlots{true});
  if (was.apart && was.step != Upgrade::Step::readying) {
    each_worker(current_gen_, [&](Child& one) {
      if (one.state != ChildState::active && one.state != ChildState::paused) return;
      emit(
          action::Grant{one.key, current_gen_, one.index, generations_[current_gen_].workers, action::Grants::tunnels});
      if (one.state == ChildState::active) emit(action::Start{one.key, one.gen});
    });
    for (const ChildKey key : brokers()) {
      const Child& broker = children_.at(key);
      if (!leaving(broker)) emit(action::TellBrokerState{key, broker.gen, ipc::BrokerPhase::active});
    }
  }
  resume(current_gen_, now);
  if (was.config != 0) {
    for (const ChildKey key : brokers()) emit(action::UpdateBroker{key, ipc::UpdatePhase::abort, was.config});
  }
  next_operation(now);
}

void Machine::on_upgrade_tick(TimePoint now) {
  if (!upgrade_ || now < upgrade_->deadline) return;
  const ChildKey key = upgrade_->successor;
  upgrade_failed("the new supervisor did not answer in time", now);
  if (Child* one = child(key)) kill(*one, SIGKILL);  // its children are not committed: they leave with it
}

/// WINCH: the workers leave, the queues stay, until a reload starts new ones.
void Machine::maintain(TimePoint now) {
  if (phase_ != Phase::running || busy() || plan_.workers == 0) {
    note(log::Level::warning, "WINCH refused: the service starts, stops, reloads, or has no workers");
    return;
  }
  note(log::Level::info, "maintenance: workers leave, clients wait in the queues; HUP ends it");
  respawns_.erase(std::remove_if(respawns_.begin(), respawns_.end(),
                                 [](const Respawn& one) { return one.role == ipc::Role::worker; }),
                  respawns_.end());
  leave_generation(current_gen_, now);
}

}  // namespace ebb::supervisor
