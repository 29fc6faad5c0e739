// Processes that outlived their supervisor: they are taken over as they are, and an ordinary reload replaces the
// workers (spec/processes.md 9.4).
#include <signal.h>

#include <algorithm>

#include "supervisor/generations/machine.h"

namespace ebb::supervisor {

using namespace std::chrono_literals;

void Machine::begin_over(const std::vector<Orphan>& orphans, std::uint64_t current, const Numbers& used,
                         TimePoint now) {
  next_ping_ = now + 1s;
  phase_ = Phase::running;
  listening_ = true;
  current_gen_ = current;
  last_key_ = used.key;
  last_gen_ = std::max(used.gen, current);
  broker_gen_ = used.broker;
  generations_[current] = {GenerationState::active, plan_.workers};
  for (const Orphan& orphan : orphans) {
    add_orphan(orphan, now);
    last_key_ = std::max(last_key_, orphan.key.value);
  }
  const auto serves = [&](const Child& one) {
    return std::ranges::any_of(orphans, [&](const Orphan& o) { return o.key == one.key && o.serves; });
  };
  // Those of other generations were on their way out, or are now: only the one that decided may serve again.
  for (auto& [key, one] : children_) {
    if (one.role == ipc::Role::worker && one.gen != current) {
      drain(one, plan_.hard_stop_workers, plan_.drain_spread, now);
    }
  }
  // It may have died while its workers paused; who has not told them to go on is not there any more.
  each_worker(current, [&](const Child& one) {
    if (serves(one)) emit(action::Start{one.key, one.gen});
  });
  const auto all = brokers();
  // Without the slots the newest one, too, was told to leave: in a stop, or for one that has not come.
  const bool told = !all.empty() && std::ranges::any_of(orphans, [&](const Orphan& one) {
    return one.key == all.back() && one.retired;
  });
  const bool usable = !all.empty() && !told && (serves(children_.at(all.back())) || plan_.workers == 0);
  for (const ChildKey key : all) {
    if (key != all.back() || !usable) replace_by(children_.at(key), now);
  }
  if (!usable) spawn_broker(now);
  reload(now);
  adopt(false);  // of a retired supervisor that has died since we looked
}

/// As one of ours, under the key it has. Its numbers are never used again: ids of its offers carry them.
Child& Machine::add_orphan(const Orphan& orphan, TimePoint now) {
  Child one;
  one.key = orphan.key;
  one.role = orphan.role;
  one.gen = orphan.gen;
  one.index = orphan.index;
  one.pid = orphan.pid;
  one.link_id = orphan.link_id;
  one.connections = orphan.connections;
  one.state = orphan.role == ipc::Role::supervisor ? ChildState::draining : ChildState::active;
  one.spawned = now;
  if (orphan.role == ipc::Role::worker) {
    last_gen_ = std::max(last_gen_, orphan.gen);
    auto& generation = generations_.try_emplace(orphan.gen, Generation{GenerationState::draining}).first->second;
    generation.workers = std::max(generation.workers, orphan.index + 1);  // TTIN may have made them more
  } else if (orphan.role == ipc::Role::broker) {
    broker_gen_ = std::max(broker_gen_, orphan.gen);
  }
  note(log::Level::info, "process adopted", {{"name", one.name()}, {"pid", std::to_string(one.pid)}});
  return children_.emplace(one.key, one).first->second;
}

void Machine::adopt(bool in_charge) {
  adopting_ = true;
  emit(action::AdoptOrphans{in_charge});
}

void Machine::take_in(std::vector<Orphan>& orphans, bool more, TimePoint now) {
  adopting_ = more;
  for (Orphan& orphan : orphans) {
    orphan.key = next_key();  // theirs may be numbers of ours: two supervisors have counted
    Child& child = add_orphan(orphan, now);
    const bool broker = orphan.role == ipc::Role::broker;
    const bool stopping = phase_ == Phase::stopping || phase_ == Phase::failing;
    const bool late = phase_ == Phase::draining && !drain_broker_;  // our brokers were drained by now
    if (broker && (stopping || late)) emit(action::RevokeSlots{child.key});
    if (stopping) {
      stop_child(child, now);
    } else if (orphan.role == ipc::Role::worker) {
      drain(child, plan_.hard_stop_workers, plan_.drain_spread, now);
    } else if (broker && late) {
      drain(child, plan_.hard_stop_broker, plan_.drain_spread, now);
    } else if (broker) {
      replace_by(child, now);
      bring_up_to_date(child);
    } else if (late) {
      emit(action::Kill{child.key, SIGQUIT});
    }
  }
  if (arrival_ && !predecessor_) take_over(now);
  leave_if_empty();
}

/// It may know the configuration in force, or not: a commit may not have come through. And then one that the others
/// have been told of already.
void Machine::bring_up_to_date(const Child& broker) {
  emit(action::UpdateBroker{broker.key, ipc::UpdatePhase::prepare, current_gen_});
  emit(action::UpdateBroker{broker.key, ipc::UpdatePhase::commit, current_gen_});
  if (reload_ && reload_->step > ReloadStep::loading && reload_->step < ReloadStep::committing) prepare({broker.key});
  if (upgrade_ && upgrade_->config != 0 && !upgrade_->apart) {
    emit(action::UpdateBroker{broker.key, ipc::UpdatePhase::prepare, upgrade_->config});
  }
}

void Machine::know(std::vector<Orphan>& supervisors, TimePoint now) {
  for (Orphan& one : supervisors) {
    one.key = next_key();
    Child& child = add_orphan(one, now);
    if (phase_ == Phase::stopping) stop_child(child, now);  // a stop may have begun in the same turn
    if (phase_ == Phase::draining && !drain_broker_) emit(action::Kill{child.key, SIGQUIT});
  }
}

}  // namespace ebb::supervisor
