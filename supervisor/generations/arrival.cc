// Binary upgrade seen from the new supervisor, until it is in charge (spec/processes.md 9.2). Until COMMIT its workers
// offer to the broker of the old one; where that is not possible ("apart") its own broker has to have tunnels first.
//
//   preparing --> readying --all READY--> waiting --START--> listening --> starting --STARTED--> (retiring, 1 s)
//      --> (moving) --> probation --> in charge.
// Before our workers start a failure is an exit; afterwards what is carried is finished.
#include <signal.h>

#include <algorithm>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

constexpr auto kAnswerTime = 30s;
constexpr auto kRetire = 1s;  // a SYN-ACK timeout (3.5)
constexpr auto kAskLive = 100ms;
constexpr auto kEndWithLink = 5s;       // a process that ends closes its links first
constexpr std::uint64_t kRoom = 16;     // numbers the old one may still use up: brokers that crash meanwhile
constexpr auto kStartPatience = 10min;  // the old one may be at the end of a reload; its own deadlines are shorter

}  // namespace

void Machine::begin_after(const Predecessor& predecessor, TimePoint now) {
  next_ping_ = now + 1s;
  arrival_.emplace();
  in_charge_ = false;
  arrival_->removes = predecessor.removes;
  apart_ = predecessor.apart;
  current_gen_ = last_gen_ = predecessor.gen + kRoom + 1;
  broker_gen_ = predecessor.gen + kRoom;
  portals_to_move_ = plan_.portals;
  generations_[current_gen_] = {GenerationState::starting, plan_.workers};
  Child old;
  old.key = next_key();
  old.role = ipc::Role::supervisor;
  old.pid = predecessor.pid;
  old.state = ChildState::active;
  predecessor_ = arrival_->predecessor = old.key;
  children_.emplace(old.key, old);
  if (apart_) return spawn_arrivals(now);
  predecessor_brokers_.insert(predecessor.brokers.begin(), predecessor.brokers.end());
  arrival_->deadline = now + kAnswerTime;
  emit(action::UpdateBroker{old.key, ipc::UpdatePhase::prepare, current_gen_});
}

void Machine::spawn_arrivals(TimePoint now) {
  arrival_->step = Arrival::Step::readying;
  arrival_->deadline.reset();  // each has its own from its start
  spawn_broker(now);
  for (std::uint32_t i = 0; i < plan_.workers; ++i) spawn_worker(current_gen_, i, now);
}

void Machine::advance_arrival(TimePoint now) {
  if (!arrival_ || phase_ != Phase::starting) return;
  const auto any = [&](auto what) {
    return std::ranges::any_of(children_, [&](const auto& c) { return !c.second.supervises() && what(c.second); });
  };
  switch (arrival_->step) {
    case Arrival::Step::readying:
      if (any([](const Child& one) { return one.state == ChildState::starting; })) return;
      arrival_->step = Arrival::Step::waiting;
      arrival_->deadline = now + kStartPatience;
      emit(action::TellReady{arrival_->predecessor});
      return;
    case Arrival::Step::starting:
      if (any([](const Child& one) { return one.awaited; })) return;
      if (arrival_->removes) {
        // The old ones still poll: who is half in comes in, and what is queued is accepted.
        arrival_->step = Arrival::Step::retiring;
        arrival_->deadline = now + kRetire;
        emit(action::RetireRemoved{current_gen_});
        return;
      }
      [[fallthrough]];
    case Arrival::Step::retiring:
      if (arrival_->step == Arrival::Step::retiring && now < *arrival_->deadline) return;
      arrival_->step = Arrival::Step::moving;
      arrival_->deadline = now + (apart_ ? plan_.broker_move : milliseconds(0));
      if (apart_) next_live_ = now + kAskLive;
      [[fallthrough]];
    case Arrival::Step::moving:
      if (apart_ && !portals_to_move_.empty() && now < *arrival_->deadline) return;
      if (apart_) grant_others();
      arrival_->step = Arrival::Step::probation;
      arrival_->deadline = now + plan_.probation;
      emit(action::Start{arrival_->predecessor, current_gen_});
      return;
    case Arrival::Step::preparing:
    case Arrival::Step::waiting:
    case Arrival::Step::listening:
    case Arrival::Step::probation: return;
  }
}

/// Apart, workers begin with the slots through which bridges come.
void Machine::grant_others() {
  each_worker(current_gen_, [&](Child& one) {
    emit(action::Grant{one.key, current_gen_, one.index, generations_[current_gen_].workers, action::Grants::others});
    emit(action::Start{one.key, one.gen});
  });
}

void Machine::predecessor_start(TimePoint now) {
  if (!arrival_ || arrival_->step != Arrival::Step::waiting) return;
  arrival_->step = Arrival::Step::listening;
  arrival_->deadline = now + kAnswerTime;
  emit(action::Listen{current_gen_, {}});
}

void Machine::start_arrivals(TimePoint now) {
  arrival_->step = Arrival::Step::starting;
  arrival_->deadline = now + kAnswerTime;
  listening_ = true;
  generations_[current_gen_].state = GenerationState::active;
  for (const ChildKey key : brokers()) {
    if (apart_) start(children_.at(key), now);
  }
  each_worker(current_gen_, [&](Child& one) {
    start(one, now);
    one.state = ChildState::probation;
    one.awaited = true;
  });
  advance_arrival(now);
}

/// A broker of the old one that came after the links were made.
void Machine::predecessor_broker(std::uint64_t gen, ipc::BrokerPhase state, TimePoint) {
  if (!predecessor_ || apart_) return;
  if (state == ipc::BrokerPhase::dead) {
    predecessor_brokers_.erase(gen);
    return;
  }
  if (!predecessor_brokers_.insert(gen).second) return;
  for (const auto& [key, one] : children_) {
    if (one.role == ipc::Role::worker) emit(action::Connect{key, *predecessor_, gen});
  }
}

void Machine::take_over(TimePoint now) {
  const Arrival was = *std::exchange(arrival_, std::nullopt);
  in_charge_ = true;
  phase_ = Phase::running;
  note(log::Level::info, "this supervisor is in charge", {{"generation", std::to_string(current_gen_)}});
  emit(action::TakeOver{});
  if (apart_ && was.step < Arrival::Step::probation) grant_others();  // nobody else serves them any more
  for (auto& [key, one] : children_) {
    if (one.supervises()) continue;
    emit(action::Commit{key, one.gen});
    if (one.state == ChildState::probation) one.state = ChildState::active;
  }
  if (!apart_) {
    for (const ChildKey key : brokers()) {
      Child& fresh = children_.at(key);
      if (fresh.state == ChildState::draining) continue;  // adopted: not one of ours
      each_worker(current_gen_, [&](const Child& one) { emit(action::Connect{one.key, key, fresh.gen}); });
      start(fresh, now);
    }
    emit(action::UpdateBroker{was.predecessor, ipc::UpdatePhase::commit, current_gen_});
  }
  // Only now: from here on the brokers of the old one let their tunnels move, to where the workers offer them.
  emit(action::Commit{was.predecessor, current_gen_});
  emit(action::CloseRemoved{current_gen_, escrow()});
  if (Child* old = child(was.predecessor)) old->state = ChildState::draining;
  next_live_ = now + kAskLive;
  adopt(false);                                // of those who died while nobody was sure to notice
  if (broker() == nullptr) spawn_broker(now);  // one may have ended with the old supervisor
  complete(current_gen_, now);
  next_operation(now);
}

/// Either it has ended, which its pidfd will tell, or it has found fault with us and serves on: then there must not be
/// two in charge.
void Machine::predecessor_hung_up(TimePoint now) {
  if (!arrival_ || arrival_->step < Arrival::Step::starting) return predecessor_gone(now);
  arrival_->hung_up = now + kEndWithLink;
}

/// It is dead. Before COMMIT that makes us the only one: its children have no supervisor.
void Machine::predecessor_gone(TimePoint now) {
  const ChildKey key = *std::exchange(predecessor_, std::nullopt);
  predecessor_brokers_.clear();
  if (!arrival_) {
    if (reload_) reload_->asked.erase(key);
    return advance_reload(now);
  }
  if (arrival_->step < Arrival::Step::starting) {
    children_.erase(key);
    return fail("the supervisor that started this one has ended");
  }
  note(log::Level::warning, "the old supervisor has ended in the middle of the upgrade");
  children_.erase(key);
  adopt(true);  // and then take over: see take_in()
}

void Machine::arrival_failed(const std::string& why, TimePoint now) {
  if (!arrival_) return;
  const auto step = arrival_->step;
  if (!predecessor_ && step >= Arrival::Step::starting) return;  // nobody else is left: see take_in()
  leave_predecessor();
  if (step <= Arrival::Step::listening) return fail(why);
  note(log::Level::error, "this supervisor gives up, the old one serves on", {{"reason", why}});
  failure_ = why;
  exit_code_ = 1;
  respawns_.clear();
  emit(action::RestoreSlots{});
  drain_workers(now);
}

/// It need not wait for us, and is none of our business any more.
void Machine::leave_predecessor() {
  if (!arrival_) return;
  const ChildKey key = std::exchange(arrival_, std::nullopt)->predecessor;
  predecessor_.reset();
  if (children_.erase(key) > 0) emit(action::LeavePredecessor{key});
}

void Machine::on_arrival_tick(TimePoint now) {
  if (!arrival_ || phase_ != Phase::starting) return;
  if (arrival_->hung_up) {
    if (now >= *arrival_->hung_up) arrival_failed("the running supervisor has closed the link", now);
    return;
  }
  if (!arrival_->deadline || now < *arrival_->deadline) return;
  switch (arrival_->step) {
    case Arrival::Step::preparing: return arrival_failed("the running brokers did not answer in time", now);
    case Arrival::Step::readying: return;
    case Arrival::Step::waiting: return arrival_failed("the running supervisor did not say START in time", now);
    case Arrival::Step::listening: return arrival_failed("the new addresses did not listen in time", now);
    case Arrival::Step::starting: return arrival_failed("a worker did not answer in time", now);
    case Arrival::Step::retiring: return advance_arrival(now);
    case Arrival::Step::moving:
      for (const auto& portal : portals_to_move_) {
        note(log::Level::warning, "no tunnel has come within brokerMove; the upgrade goes on without",
             {{"portal", portal}});
      }
      return advance_arrival(now);
    case Arrival::Step::probation: return take_over(now);
  }
}

}  // namespace ebb::supervisor
