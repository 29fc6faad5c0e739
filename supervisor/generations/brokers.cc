// Brokers: who is linked to which, and one taking over from another on purpose (spec/processes.md 9.3). The old one is
// told that it is replaced: it asks its tunnels to move and ends by itself when it is empty. Nobody compares counts of
// tunnels here: workers choose the newest broker that has one, portal by portal (7.4).
#include <algorithm>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

constexpr auto kAskLive = 250ms;        // bridges dial again within 2 s
constexpr std::size_t kMaxBrokers = 8;  // more replacements wait until one has left
constexpr unsigned kMaxLinkFaults = 3;  // of one worker; then it is replaced

}  // namespace

/// Oldest first.
std::vector<ChildKey> Machine::brokers() const {
  std::vector<const Child*> found;
  for (const auto& [key, one] : children_) {
    if (one.role == ipc::Role::broker && one.state != ChildState::killed) found.push_back(&one);
  }
  std::ranges::sort(found, {}, &Child::gen);
  std::vector<ChildKey> keys;
  keys.reserve(found.size());
  for (const Child* one : found) keys.push_back(one->key);
  return keys;
}

const Child* Machine::broker() const {
  const auto all = brokers();
  // One that was taken in from a successor that died is newer by number, and leaves.
  const auto stays = std::ranges::find_if(all.rbegin(), all.rend(),
                                          [&](ChildKey key) { return find(key)->state != ChildState::draining; });
  if (stays != all.rend()) return find(*stays);
  return all.empty() ? nullptr : find(all.back());
}

std::vector<ChildKey> Machine::carriers() const {
  auto all = brokers();
  if (predecessor_ && !apart_ && !predecessor_brokers_.empty()) all.push_back(*predecessor_);
  return all;
}

// ---- links ------------------------------------------------------------------------------------

/// To every broker, newest last: visitors may still need a tunnel that only an old one has.
void Machine::link_worker(ChildKey worker) {
  if (predecessor_ && !apart_) {
    for (const auto gen : predecessor_brokers_) emit(action::Connect{worker, *predecessor_, gen});
    if (arrival_) return;  // our own broker is not announced before COMMIT: tunnels would come to it (9.2)
  }
  const Child* carrier = broker();
  for (const ChildKey key : brokers()) {
    const Child& one = children_.at(key);
    // Adopted from a successor that died: newer by number, so tunnels and visitors would go there.
    if (leaving(one) && carrier != nullptr && one.gen > carrier->gen) continue;
    emit(action::Connect{worker, key, one.gen});
  }
  if (carrier != nullptr && carrier->state == ChildState::active) {
    emit(action::TellBrokerState{worker, carrier->gen, ipc::BrokerPhase::active});
  }
}

ChildKey Machine::spawn_broker(TimePoint now) {
  const ChildKey key = spawn(ipc::Role::broker, ++broker_gen_, 0, now);
  if (!arrival_ || apart_) introduce_workers(children_.at(key));
  if (renewal_ && !renewal_->fresh) renewal_->fresh = key;  // whatever the reason: it is a new process
  return key;
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
  prepare({carrier.key});
  link(reload_->gen);
}

void Machine::link_faulted(ChildKey key, std::uint32_t broker_gen, TimePoint now) {
  Child* worker = child(key);
  if (worker == nullptr || worker->role != ipc::Role::worker || worker->state == ChildState::killed) return;
  note(log::Level::error, "a link was closed because its protocol was broken",
       {{"name", worker->name()}, {"broker", std::to_string(broker_gen)}});
  for (const ChildKey broker : brokers()) {  // also for one that is to leave: it has offers to make
    const Child& one = children_.at(broker);
    if (static_cast<std::uint32_t>(one.gen) != broker_gen) continue;
    emit(action::Connect{key, broker, one.gen});
    if (one.state == ChildState::active) emit(action::TellBrokerState{key, one.gen, ipc::BrokerPhase::active});
  }
  for (const auto gen : predecessor_brokers_) {
    if (!apart_ && static_cast<std::uint32_t>(gen) == broker_gen) emit(action::Connect{key, *predecessor_, gen});
  }
  if (++worker->link_faults <= kMaxLinkFaults || worker->state != ChildState::active) return;
  drain(*worker, plan_.hard_stop_workers, plan_.drain_spread, now);
  const Child leaves = *worker;
  replace(leaves, now);
}

// ---- succession -------------------------------------------------------------------------------

void Machine::tell_workers(const Child& serving) {
  for (const auto& [key, worker] : children_) {
    if (worker.role == ipc::Role::worker) {
      emit(action::TellBrokerState{key, serving.gen, ipc::BrokerPhase::active});
    }
  }
}

/// It serves from now on: workers are told, and older ones let their tunnels move.
void Machine::succeed(Child& fresh, TimePoint now) {
  if (broker() == nullptr || broker()->key != fresh.key) return;
  tell_workers(fresh);
  if (listening_) {
    // Visitors who wait at a broker of ours cannot go to one of a new supervisor: none may be started before the
    // tunnels are here, or those visitors have been answered.
    portals_to_move_ = plan_.portals;
    settled_by_ = now + plan_.tunnel_wait;
    next_live_ = now + kAskLive;
  }
  if (upgrade_ && !upgrade_->apart) {  // its workers offer to our brokers
    if (upgrade_->config != 0) emit(action::UpdateBroker{fresh.key, ipc::UpdatePhase::prepare, upgrade_->config});
    emit(action::TellBrokerState{upgrade_->successor, fresh.gen, ipc::BrokerPhase::active});
  }
  for (const ChildKey key : brokers()) {
    if (key != fresh.key) replace_by(children_.at(key), now);
  }
  if (renewal_ && renewal_->fresh == fresh.key) end_renewal(0, "");
}

void Machine::replace_by(Child& old, TimePoint now) {
  if (old.state == ChildState::draining) return;
  note(log::Level::info, "broker is replaced, its tunnels move",
       {{"name", old.name()}, {"connections", std::to_string(old.connections)}});
  old.state = ChildState::draining;
  old.leave_by = now + plan_.hard_stop_broker;
  emit(action::RevokeSlots{old.key});  // the newest one keeps them
  emit(action::TellBrokerState{old.key, old.gen, ipc::BrokerPhase::draining});
  next_live_ = now + kAskLive;
}

void Machine::broker_ended(const Child& gone, TimePoint now) {
  if (reload_) reload_->asked.erase(gone.key);
  if (upgrade_ && upgrade_->asked.erase(gone.key) > 0) answer_successor();
  const Child* left = nullptr;  // one that stays, else the last before this one
  for (const ChildKey key : brokers()) {
    const Child& one = children_.at(key);
    if (one.state != ChildState::draining || one.gen < gone.gen) left = &one;
  }
  const bool renewing = renewal_ && renewal_->fresh == gone.key;
  if (renewing) end_renewal(1, gone.name() + " ended before it served");
  if (phase_ != Phase::running) return;
  if (left != nullptr && left->gen > gone.gen) return begin_renewal(now);  // a newer one serves, or is about to
  if (left != nullptr && (left->state == ChildState::active || leaving(*left))) {
    Child& back = children_.at(left->key);
    if (!leaving(back)) return;
    note(log::Level::error, "the new broker ended, the one before it serves on", {{"name", back.name()}});
    back.state = ChildState::active;
    back.leave_by.reset();
    emit(action::Escrow{back.key});
    emit(action::TellBrokerState{back.key, back.gen, ipc::BrokerPhase::active});
    tell_workers(back);
    return;
  }
  replace(gone, now);
}

// ---- on purpose -------------------------------------------------------------------------------

std::uint64_t Machine::renew_broker(std::string why, TimePoint now) {
  const std::uint64_t ticket = next_ticket_++;
  if (phase_ != Phase::running) {
    finish(ticket, 1, "the service is starting or stopping");
    return ticket;
  }
  if (!renewal_) renewal_ = Renewal{std::move(why), {}, std::nullopt};
  renewal_->tickets.push_back(ticket);
  begin_renewal(now);
  return ticket;
}

void Machine::begin_renewal(TimePoint now) {
  if (!renewal_ || renewal_->fresh || phase_ != Phase::running || busy()) return;
  const Child* old = broker();
  if (old == nullptr || old->state != ChildState::active) return;  // its successor is a new process anyway
  if (brokers().size() >= kMaxBrokers) return;
  note(log::Level::info, "replacing the broker", {{"reason", renewal_->why}, {"name", old->name()}});
  spawn_broker(now);
}

void Machine::end_renewal(int exit, const std::string& text) {
  if (!renewal_) return;
  if (exit != 0) note(log::Level::error, "the broker was not replaced", {{"reason", text}});
  for (const auto ticket : renewal_->tickets) finish(ticket, exit, text);
  renewal_.reset();
}

// ---- who has moved ----------------------------------------------------------------------------

void Machine::ask_live(TimePoint now) {
  if (!next_live_ || now < *next_live_) return;
  next_live_.reset();
  const Child* newest = broker();
  const bool anybody = std::ranges::any_of(children_, [](const auto& c) { return leaving(c.second); }) ||
                       (arrival_ && apart_) || (predecessor_ && !arrival_) || !settled(now);
  if (newest == nullptr || !anybody || phase_ == Phase::stopping || phase_ == Phase::failing) return;
  if (newest->state == ChildState::active) emit(action::AskLive{newest->key});
  next_live_ = now + kAskLive;
}

void Machine::live(ChildKey key, const std::vector<std::string>& portals, TimePoint now) {
  const Child* newest = broker();
  if (newest == nullptr || newest->key != key) return;
  emit(action::TellMoved{portals});
  std::erase_if(portals_to_move_,
                [&](const std::string& one) { return std::ranges::find(portals, one) != portals.end(); });
  if (arrival_) return advance_arrival(now);
  next_operation(now);
}

}  // namespace ebb::supervisor
