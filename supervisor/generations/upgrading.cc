// The runner's part of an upgrade, on both sides, and of adoption: links between supervisors, the registry, who speaks
// for the service. spec/processes.md 9.2, 9.4.
#include <signal.h>
#include <simdjson.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "supervisor/generations/runner.h"

namespace ebb::supervisor {

void Runner::upgrade(std::function<void(int, std::string)> done) {
  waiting_.emplace(machine_.upgrade(loop_.now()), std::move(done));
  loop_.defer(step_);
}

void Runner::renew_broker(std::function<void(int, std::string)> done) {
  waiting_.emplace(machine_.renew_broker("asked for", loop_.now()), std::move(done));
  loop_.defer(step_);
}

void Runner::perform(const action::Grant& action) {
  ChildLink* child = link(action.worker);
  const auto found = configurations_.find(action.config);
  if (child == nullptr || found == configurations_.end()) return;
  grant_worker(*child, found->second, action.index, action.of, action.grants);
}

void Runner::perform(const action::Commit& action) {
  if (ChildLink* child = link(action.child)) child->channel.send_body(ipc::Type::commit, ipc::Gen{action.gen});
}

// ---- which portals have moved -----------------------------------------------------------------

void Runner::perform(const action::AskLive& action) {
  const ChildKey key = action.broker;
  ask_children(
      R"({"query":"live"})",
      [this, key](const std::vector<ChildAnswer>& answers) {
        for (const auto& answer : answers) {
          if (answer.json) on_live(key, *answer.json);
        }
      },
      [key](const Child& child) { return child.key == key; });
}

void Runner::on_live(ChildKey broker, const std::string& json) {
  simdjson::dom::parser parser;
  simdjson::dom::array live;
  if (parser.parse(json).at_key("live").get_array().get(live) != simdjson::SUCCESS) return;
  std::vector<std::string> portals;
  for (const simdjson::dom::element one : live) {
    std::string_view name;
    if (one.get_string().get(name) == simdjson::SUCCESS) portals.emplace_back(name);
  }
  machine_.live(broker, portals, loop_.now());
  loop_.defer(step_);
}

void Runner::perform(const action::TellMoved& action) {
  JsonWriter query;
  query.object().key("query").text("moved").key("portals").array();
  for (const auto& portal : action.portals) query.text(portal);
  query.end().end();
  tell_moved(query.str());
}

void Runner::tell_moved(const std::string& query) {
  for (const auto& [key, child] : machine_.children()) {
    const bool predecessor = &child == machine_.linked_predecessor() && machine_.in_charge();
    if (!predecessor && !(child.role == ipc::Role::broker && Machine::leaving(child))) continue;
    ChildLink* to = link(key);
    if (to == nullptr) continue;
    if (to->channel.send_long_text(ipc::Type::query, query) > ipc::Sent::queued || predecessor) continue;
    to->asked.push_back(0);  // its answer belongs to no gathering
  }
}

// ---- the old supervisor -----------------------------------------------------------------------

void Runner::perform(const action::SpawnSuccessor& action) {
  if (service_.typed) return machine_.spawn_failed(action.child, kTyped, loop_.now());
  foreign_snapshots_.clear();
  auto ends = ipc::pair();
  if (!ends || service_.directory == nullptr) {
    return machine_.spawn_failed(action.child, ends ? "this service has no directory" : ends.error().what, loop_.now());
  }
  const int fds[] = {ends->second.get(), service_.directory->lock.get()};
  SpawnOptions options;
  const auto& arguments = service_.origin.arguments;
  options.title = arguments.empty() ? service_.origin.path : arguments.front();
  options.args.assign(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  options.fds = fds;
  options.oom_score_adj = -900;
  options.environment = service_.manager.environment();
  options.environment.push_back(std::string(kUpgradeFd) + "=" + std::to_string(kCtlFd));
  options.environment.push_back(std::string(kUpgradeLock) + "=" + std::to_string(kCtlFd + 1));
  options.environment.push_back(std::string(kUpgradeDirectory) + "=" + service_.directory->path);
  auto process = spawn(service_.origin.path, options);
  if (!process) {
    return machine_.spawn_failed(action.child, service_.origin.path + ": " + process.error().what, loop_.now());
  }
  const pid_t pid = process->pid;
  ipc::Channel::Options room;
  room.max_queued_fds = 4096;
  ChildLink& one = add_link(
      action.child, std::move(*process),
      ipc::Channel(std::move(ends->first), ipc::Link::upgrade, ipc::Role::supervisor, ipc::Role::successor, room),
      true);
  machine_.spawned(action.child, pid);
  ipc::Hello hello;
  hello.role = ipc::Role::supervisor;
  hello.gen = action.gen;
  hello.pid = static_cast<std::uint32_t>(::getpid());
  one.channel.send_body(ipc::Type::hello, hello);
}

void Runner::perform(const action::EquipSuccessor& action) {
  ChildLink* successor = link(action.child);
  if (successor == nullptr) return;
  grant(*successor, all_listeners(decided_.snapshot->listeners), [](const Slot&) { return true; });
  struct stat size{};
  ::fstat(service_.replay.fd(), &size);
  const int replay[] = {service_.replay.fd()};
  successor->channel.send_body(ipc::Type::shm,
                               ipc::Shm{static_cast<std::uint64_t>(size.st_size), ipc::ShmKind::replay, 0}, replay);
}

void Runner::perform(const action::AnswerSuccessor& action) {
  ChildLink* successor = link(action.child);
  if (successor == nullptr) return;
  const std::string_view text(action.text);
  successor->channel.send_body(ipc::Type::config_update_result, action.result, {}, text.substr(0, ipc::kMaxUpdateText));
}

void Runner::perform(const action::HandOver&) {
  handed_over_ = true;
  watchdog_.disarm();
  for (const auto& [key, child] : machine_.children()) {
    if (child.role == ipc::Role::successor && child.state == ChildState::active) {
      service_.manager.tell("MAINPID=" + std::to_string(child.pid));
    }
  }
  registry_changed_ = true;
  write_registry();  // from now on our own, by which ours are found should we die
  // The new one holds it too: should it die, nobody must find it locked by one who only waits for his last process.
  service_.directory->lock.reset();
  if (service_.hand_over) service_.hand_over();
}

void Runner::on_successor(ChildLink& successor, ipc::Message& message) {
  const TimePoint now = loop_.now();
  switch (message.type()) {
    case ipc::Type::hello:
      return machine_.successor_greets(successor.key, message.as<ipc::Hello>().protocol == ipc::kProtocol);
    case ipc::Type::config_update: {
      const auto update = message.as<ipc::ConfigUpdate>();
      if (update.phase == ipc::UpdatePhase::prepare) foreign_snapshots_[update.gen] = std::move(message.fds[0]);
      return machine_.successor_update(successor.key, update, now);
    }
    case ipc::Type::link_add: {
      const auto add = message.as<ipc::LinkAdd>();
      for (const auto& [key, child] : machine_.children()) {
        ChildLink* broker = child.role == ipc::Role::broker && child.gen == add.broker_gen ? link(key) : nullptr;
        const int end[] = {message.fds[0].get()};
        if (broker != nullptr) broker->channel.send_body(ipc::Type::link_add, add, end);
      }
      return;  // no such broker: the end closes, and its worker sees that
    }
    case ipc::Type::ready: return machine_.ready(successor.key, now);
    case ipc::Type::started: return machine_.started(successor.key, now);
    case ipc::Type::commit: return machine_.successor_committed(successor.key, now);
    case ipc::Type::query:
      if (successor.answer.size() + message.body.size() <= kMaxAnswer) successor.answer += as_text(message.body);
      if (message.more()) return;
      if (machine_.heir(successor.key)) return tell_moved(std::exchange(successor.answer, {}));
      return machine_.successor_complains(successor.key, std::exchange(successor.answer, {}));
    default: return;
  }
}

// ---- the new one ------------------------------------------------------------------------------

void Runner::meet() {
  MetPredecessor met = std::move(*service_.predecessor);
  service_.predecessor.reset();
  met.who.removes = slots_.has_more_than(decided_.snapshot->listeners);
  machine_.begin_after(met.who, Clock::now());
  configurations_.clear();
  configurations_[machine_.generation()] = decided_;
  for (const auto& [key, child] : machine_.children()) {
    if (child.role == ipc::Role::supervisor) {
      add_link(key, std::move(met.process), std::move(met.channel), false);
      break;
    }
  }
}

void Runner::perform(const action::TellReady& action) {
  if (ChildLink* old = link(action.predecessor)) {
    old->channel.send_body(ipc::Type::ready, ipc::Ready{machine_.generation(), 0});
  }
}

void Runner::perform(const action::TakeOver&) {
  manager_knows_ = false;
  take_charge();
}

/// The lock, the registry and the admin socket are ours from now on, whoever's they were.
void Runner::take_charge() {
  const pid_t before = service_.directory->signer().value_or(0);
  std::vector<Adopted> earlier;
  for (const auto& [key, child] : links_) {
    // What it waits for must be written down somewhere at any time; it goes on from there, or whoever adopts.
    const Child* one = machine_.find(key);
    if (one == nullptr || one->role != ipc::Role::supervisor || one->pid != before) continue;
    const std::string theirs = retired_registry(service_.directory->path, before, child->started);
    keep_registry_as(theirs);
    earlier = living_supervisors(theirs, [this](pid_t pid) { return this->ours(pid); });
  }
  const auto signed_now = service_.directory->sign();
  if (!signed_now) log_event(log::Level::error, "supervisor", "the lock", kv("reason", signed_now.error().what));
  registry_changed_ = true;
  write_registry();
  ::unlink(own_retired_registry_.c_str());  // the next one had come as far as that before it died
  std::vector<Orphan> supervisors;
  supervisors.reserve(earlier.size());
  for (const auto& one : earlier) supervisors.push_back(one.orphan);
  machine_.know(supervisors, loop_.now());
  link_adopted(std::move(earlier), supervisors);
  if (!service_.take_over) return;
  const auto taken = service_.take_over();
  if (!taken) log_event(log::Level::error, "supervisor", "the admin socket", kv("reason", taken.error().what));
}

void Runner::perform(const action::Reclaim&) {
  if (service_.directory == nullptr || service_.directory->signer() == ::getpid()) {  // it had not begun
    std::vector<Orphan> nobody;
    return machine_.take_in(nobody, false, loop_.now());
  }
  log_event(log::Level::warning, "supervisor", "the new supervisor ended while it took over");
  perform(action::AdoptOrphans{true});  // those of its children that it had told to outlive it
  take_charge();
}

void Runner::perform(const action::LeavePredecessor& action) {
  const auto found = links_.find(action.predecessor);
  if (found == links_.end()) return;
  found->second->ctl_watch->stop();
  found->second->exit_watch->stop();
  found->second->channel.close();
  ended_.push_back(std::move(found->second));
  links_.erase(found);
}

void Runner::on_predecessor(ChildLink& predecessor, ipc::Message& message) {
  const TimePoint now = loop_.now();
  switch (message.type()) {
    case ipc::Type::start: return machine_.predecessor_start(now);
    case ipc::Type::config_update_result:
      return machine_.updated(predecessor.key, message.as<ipc::ConfigUpdate>(), message.text(sizeof(ipc::ConfigUpdate)),
                              now);
    case ipc::Type::broker_state: {
      const auto state = message.as<ipc::BrokerState>();
      return machine_.predecessor_broker(state.broker_gen, state.state, now);
    }
    case ipc::Type::commit:
      manager_knows_ = true;
      registry_changed_ = true;  // should it have written into ours at the last moment
      return;
    default: return;
  }
}

// ---- adoption ---------------------------------------------------------------------------------

void Runner::adopt() {
  Adoption adoption = std::move(*service_.adoption);
  service_.adoption.reset();
  configurations_.clear();
  for (const auto& [gen, snapshot] : adoption.snapshots) {
    configurations_[gen] = Configuration{snapshot, plan_of(snapshot->config, service_.cpus), decided_.logs};
  }
  configurations_.try_emplace(adoption.current, decided_);
  decided_ = configurations_.at(adoption.current);
  std::vector<Orphan> orphans;
  orphans.reserve(adoption.processes.size());
  for (auto& one : adoption.processes) orphans.push_back(one.orphan);
  slots_.restore(true);
  machine_.begin_over(orphans, adoption.current, adoption.used, Clock::now());
  link_adopted(std::move(adoption.processes), orphans);
  forget(adoption.left);
}

/// Registries whose processes are ours now, once that is written down.
void Runner::forget(const std::vector<std::string>& registries) {
  registry_changed_ = true;
  if (!write_registry()) return;  // they are to be found there once more
  for (const auto& path : registries) ::unlink(path.c_str());
}

void Runner::link_adopted(std::vector<Adopted> processes, const std::vector<Orphan>& orphans) {
  for (std::size_t i = 0; i < processes.size(); ++i) {
    auto& one = processes[i];
    auto channel = one.channel ? std::move(*one.channel)
                               : ipc::Channel(Fd(), ipc::Link::upgrade, ipc::Role::successor, ipc::Role::supervisor);
    add_link(orphans[i].key, std::move(one.process), std::move(channel), false).adoption = one.socket;
  }
}

void Runner::perform(const action::AdoptOrphans& action) {
  adoption_tries_ = 0;
  if (service_.directory != nullptr && action.in_charge) {
    // As if it had handed over; who it was does not matter, only that nobody alive has this name.
    keep_registry_as(retired_registry(service_.directory->path, service_.directory->signer().value_or(0), 0));
  }
  try_adoption();
}

/// The children of dead supervisors, as far as they answer at once: others depend on us, too.
void Runner::try_adoption() {
  std::vector<Orphan> orphans;
  std::optional<Adoption> adoption;
  if (service_.directory != nullptr && !superseded()) {
    AdoptOptions options;
    options.in_charge = false;
    options.patient = ++adoption_tries_ < kAdoptionTries;
    options.limit = options.patient ? kAdoptionTry : kLastAdoptionTry;
    options.leave_alone = [this](pid_t pid) { return this->ours(pid); };  // they have us, and would not answer
    adoption = adopt_orphans(service_.directory->path, service_.directory->instance, options);
  }
  if (!adoption) return machine_.take_in(orphans, false, loop_.now());
  for (const auto& [gen, snapshot] : adoption->snapshots) {  // a later broker has to be told what their ids mean
    configurations_.try_emplace(gen, Configuration{snapshot, plan_of(snapshot->config, service_.cpus), decided_.logs});
  }
  orphans.reserve(adoption->processes.size());
  for (auto& one : adoption->processes) orphans.push_back(one.orphan);
  machine_.take_in(orphans, adoption->more, loop_.now());
  link_adopted(std::move(adoption->processes), orphans);
  forget(adoption->left);
  if (adoption->more) loop_.arm(adoption_retry_, kAdoptionRetry);
}

/// Somebody else has taken over, and what is written down in the registry is his.
bool Runner::superseded() const {
  if (handed_over_) return true;
  const pid_t who = service_.directory->signer().value_or(0);
  return who != 0 && who != ::getpid() && process_start(who).has_value();
}

/// A second name for it, so that it is there under one of them at any time.
void Runner::keep_registry_as(const std::string& name) {
  ::unlink(name.c_str());
  if (::link(service_.directory->file("registry").c_str(), name.c_str()) != 0) {
    log_event(log::Level::error, "supervisor", "the registry could not be kept", kv("reason", std::strerror(errno)));
  }
}

/// Whether it says how it is. Written only when it changes: a worker may be killed every few milliseconds.
bool Runner::write_registry() {
  if (service_.directory == nullptr || !machine_.in_charge() || machine_.phase() == Machine::Phase::done) {
    return false;
  }
  const Numbers used = machine_.used();
  std::ostringstream shape;
  shape << used.gen << ' ' << used.broker << ' ' << machine_.generation();
  if (shape.str() == written_registry_ && !registry_changed_) return true;
  Registry registry{used.key, used.gen, used.broker, machine_.generation(), {}};
  for (const auto& [key, child] : links_) {
    const Child* one = machine_.find(key);
    const bool retired = one != nullptr && one->role == ipc::Role::supervisor;
    if (one == nullptr || one->role == ipc::Role::successor || (child->adoption.empty() && !retired)) continue;
    const char* role = retired ? "supervisor" : one->role == ipc::Role::broker ? "broker" : "worker";
    registry.entries.push_back({key.value, role, one->gen, one->index, child->process.pid, child->started,
                                retired ? "-" : child->adoption, one->link_id});
  }
  const bool another = superseded();  // between its taking over and our hearing of that, too
  const std::string path = another ? own_retired_registry_ : service_.directory->file("registry");
  const auto written = supervisor::write_registry(path, registry);
  if (!written) {  // the next change is another chance
    log_event(log::Level::error, "supervisor", "the registry could not be written", kv("reason", written.error().what));
  }
  written_registry_ = shape.str();
  registry_changed_ = false;
  return written.has_value();
}

}  // namespace ebb::supervisor
