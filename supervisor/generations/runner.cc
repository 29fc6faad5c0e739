#include "supervisor/generations/runner.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "common/base/log.h"
#include "supervisor/process/environment.h"

namespace ebb::supervisor {
namespace {

constexpr auto kRetry =
    std::chrono::milliseconds(5);  // too many descriptors under way to one uid (spec/processes.md 5)
constexpr int kBrokerOom = -500;

std::uint64_t monotonic_ns(TimePoint now) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count());
}

}  // namespace

struct Runner::Gathering {
  Gathering(Runner& owner, std::uint64_t number) : runner(owner), id(number), timer(&Gathering::expired, this) {}
  static void expired(void* self) {
    auto& one = *static_cast<Gathering*>(self);
    one.runner.finish(one.id);
  }
  Runner& runner;
  std::uint64_t id;
  std::size_t missing = 0;
  std::vector<ChildAnswer> answers;
  std::function<void(std::vector<ChildAnswer>)> done;
  net::Timer timer;
};

Runner::Runner(net::UvLoop& loop, Service service)
    : loop_(loop),
      machine_(service.configuration.plan),
      service_(std::move(service)),
      slots_(std::move(service_.slots)),
      loader_(loop, service_.binary, service_.invocation),
      decided_(service_.configuration),
      tick_(
          [](void* self) {
            auto& my = *static_cast<Runner*>(self);
            my.machine_.tick(my.loop_.now());
            my.loop_.defer(my.step_);
          },
          this),
      retry_([](void* self) { static_cast<Runner*>(self)->retry_blocked(); }, this),
      adoption_retry_(
          [](void* self) {
            auto& my = *static_cast<Runner*>(self);
            my.try_adoption();
            my.loop_.defer(my.step_);
          },
          this),
      watchdog_(
          [](void* self) {
            auto& my = *static_cast<Runner*>(self);
            if (my.manager_knows_ && my.machine_.in_charge()) my.service_.manager.tell("WATCHDOG=1");
            my.loop_.arm(my.watchdog_, *my.service_.manager.watchdog() / 2);
          },
          this),
      step_([](void* self) { static_cast<Runner*>(self)->step(); }, this) {
  configurations_[machine_.generation()] = decided_;
}

Runner::~Runner() = default;

int Runner::run() {
  signal_watch_ = std::make_unique<Watch>(loop_, service_.signals.get(), [this] { on_signal(); });
  if (service_.manager.watchdog()) loop_.arm(watchdog_, Duration::zero());
  if (service_.directory != nullptr) {
    const auto started = process_start(::getpid()).value_or(0);
    own_retired_registry_ = retired_registry(service_.directory->path, ::getpid(), started);
  }
  if (service_.predecessor) {
    meet();
  } else if (service_.adoption) {
    adopt();
  } else {
    machine_.begin(Clock::now());
  }
  loop_.defer(step_);
  loop_.run();
  gatherings_.clear();
  return exit_code_;
}

void Runner::step() {
  for (auto actions = machine_.take(); !actions.empty(); actions = machine_.take()) {
    for (const auto& action : actions) {
      std::visit([this](const auto& one) { perform(one); }, action);
    }
  }
  ended_.clear();
  if (handed_over_) foreign_snapshots_.clear();  // the brokers have them, and none begins any more
  write_registry();
  tell_manager();
  if (const auto next = machine_.next_tick()) {
    loop_.arm(tick_, std::max<Duration>(*next - loop_.now(), Duration::zero()));
  } else {
    tick_.disarm();
  }
  const bool blocked = std::ranges::any_of(links_, [](const auto& l) { return l.second->channel.wants_retry(); });
  if (blocked && !retry_.armed()) loop_.arm(retry_, kRetry);
}

void Runner::retry_blocked() {
  for (auto& [key, child] : links_) {
    if (child->channel.wants_retry()) child->channel.on_writable();
  }
  loop_.defer(step_);
}

ChildLink* Runner::link(ChildKey key) {
  const auto found = links_.find(key);
  return found == links_.end() || found->second->ctl_ended ? nullptr : found->second.get();
}

// ---- actions ----------------------------------------------------------------------------------

void Runner::perform(const action::Spawn& action) {
  const Child* child = machine_.find(action.child);
  if (child == nullptr) return;
  auto ends = ipc::pair();
  if (!ends) return machine_.spawn_failed(action.child, ends.error().what, loop_.now());
  const bool worker = action.role == ipc::Role::worker;
  std::string socket;
  Fd adoption;
  if (service_.directory != nullptr) {
    socket =
        std::string(kSocketPrefix) + std::to_string(::getpid()) + "-" + std::to_string(action.child.value) + ".sock";
    auto made = make_adoption_socket(service_.directory->file(socket));
    if (made) {
      adoption = std::move(*made);
    } else {
      log_event(log::Level::warning, "supervisor", "a process cannot be adopted should we die",
                kv("reason", made.error().what));
      socket.clear();
    }
  }
  std::vector<int> fds = {ends->second.get()};
  if (adoption) fds.push_back(adoption.get());
  SpawnOptions options;
  options.title = "ebbgate: " + child->name();
  options.args = {worker ? "--role=worker" : "--role=broker"};
  options.fds = fds;
  options.oom_score_adj = worker ? 0 : kBrokerOom;
  // Who we are to portals and bridges of our own: the same after every restart.
  if (!worker && service_.directory != nullptr) options.environment = {"EBB_INSTANCE=" + service_.directory->instance};
  auto process = spawn(service_.binary, options);
  if (!process) return machine_.spawn_failed(action.child, process.error().what, loop_.now());
  const pid_t pid = process->pid;

  ipc::Channel::Options room;
  room.max_queued_fds = 4096;  // a broker gets every slot at once
  ChildLink& one =
      add_link(action.child, std::move(*process),
               ipc::Channel(std::move(ends->first), ipc::Link::ctl, ipc::Role::supervisor, action.role, room), true);
  one.adoption = socket;
  machine_.spawned(action.child, pid);
  provision(one, action);
}

ChildLink& Runner::add_link(ChildKey key, Process process, ipc::Channel channel, bool ours) {
  auto fresh = std::make_unique<ChildLink>(key, std::move(process), std::move(channel));
  ChildLink& one = *fresh;
  one.ours = ours;
  one.started = process_start(one.process.pid).value_or(0);
  links_[key] = std::move(fresh);
  registry_changed_ = true;
  one.ctl_ended = !one.channel.open();
  if (!one.ctl_ended) one.ctl_watch = std::make_unique<Watch>(loop_, one.channel.fd(), [this, key] { on_ctl(key); });
  one.exit_watch = std::make_unique<Watch>(loop_, one.process.pidfd.get(), [this, key, ours] {
    if (ours) return reap();
    gone(key, std::nullopt);
    loop_.defer(step_);
  });
  return one;
}

void Runner::provision(ChildLink& child, const action::Spawn& action) {
  ipc::Hello hello;
  hello.role = ipc::Role::supervisor;
  hello.gen = action.gen;
  hello.pid = static_cast<std::uint32_t>(::getpid());
  child.channel.send_body(ipc::Type::hello, hello);
  const Configuration& configuration = configurations_.at(action.config);
  send_logs(child, *configuration.logs);
  struct stat size{};
  ::fstat(service_.replay.fd(), &size);
  const int replay[] = {service_.replay.fd()};
  child.channel.send_body(ipc::Type::shm, ipc::Shm{static_cast<std::uint64_t>(size.st_size), ipc::ShmKind::replay, 0},
                          replay);
  const Snapshot& snapshot = *configuration.snapshot;
  ipc::Config config;
  config.gen = action.config;
  config.len = snapshot.bytes;
  config.sha256 = snapshot.sha256;
  const int memfd[] = {snapshot.memfd.get()};
  child.channel.send_body(ipc::Type::config, config, memfd);
  if (action.role == ipc::Role::worker) {
    grant_worker(child, configuration, action.index, action.of, action.grants);
  } else {
    grant(child, all_listeners(snapshot.listeners), [](const Slot&) { return true; });
  }
}

/// Every address there is, those too that are about to come or to go: what a broker keeps, and a successor gets.
std::vector<Listener> Runner::all_listeners(const std::vector<Listener>& known) const {
  std::vector<Listener> all;
  for (const auto& [place, entry] : slots_.addresses()) {
    const auto found = std::ranges::find_if(known, [&](const Listener& l) { return place_of(l) == place; });
    const auto inbound = found == known.end() ? std::uint16_t{0} : found->inbound;
    all.push_back({place.address, inbound, "", place.network});
  }
  return all;
}

void Runner::grant_worker(ChildLink& child, const Configuration& configuration, std::uint32_t index, std::uint32_t of,
                          action::Grants which) {
  std::vector<Listener> listeners = configuration.snapshot->listeners;
  // UDP is the broker's: it outlives reloads, so flows do, too (spec/processes.md 3.6).
  std::erase_if(listeners, [](const Listener& one) { return one.network == Network::udp; });
  if (which != action::Grants::all) {
    std::erase_if(listeners, [&](const Listener& one) {
      const bool tunnels = may_carry_tunnels(configuration.snapshot->config, one.inbound);
      return tunnels != (which == action::Grants::tunnels);
    });
  }
  grant(child, listeners, [&](const Slot& slot) { return slot.id % of == index; });
}

void Runner::send_logs(ChildLink& child, const LogFiles& logs) {
  const auto send = [&](ipc::LogKind which, const std::optional<Fd>& file) {
    if (!file) return;
    const int fds[] = {file->get()};
    child.channel.send_body(ipc::Type::logfd, ipc::LogFd{which, 0}, fds);
  };
  send(ipc::LogKind::error, logs.error);
  send(ipc::LogKind::access, logs.access);
}

void Runner::grant(ChildLink& child, const std::vector<Listener>& listeners,
                   const std::function<bool(const Slot&)>& wanted) {
  std::vector<ipc::SlotGrant> grants;
  std::vector<int> fds;
  const auto flush = [&] {
    if (!grants.empty()) child.channel.send_records<ipc::SlotGrant>(ipc::Type::slot_grant, grants, fds);
    grants.clear();
    fds.clear();
  };
  for (const auto& listener : listeners) {
    const auto* address = slots_.find(place_of(listener));
    if (address == nullptr) continue;
    for (const auto& slot : address->slots) {
      if (!wanted(slot)) continue;
      grants.push_back({slot.cookie, slot.id, address->number, listener.inbound, kBacklog, 0});
      fds.push_back(slot.fd.get());
      if (grants.size() == ipc::kMaxSlots) flush();
    }
  }
  flush();
}

void Runner::revoke(ChildKey key, const std::vector<std::uint32_t>& slots) {
  ChildLink* child = link(key);
  if (child == nullptr) return;
  std::vector<ipc::SlotId> ids;
  for (const auto slot : slots) {
    ids.push_back({slot, 0});
    if (ids.size() < ipc::kMaxSlots && slot != slots.back()) continue;
    child->channel.send_records<ipc::SlotId>(ipc::Type::slot_revoke, ids);
    ids.clear();
  }
}

void Runner::perform(const action::Connect& action) {
  ChildLink* worker = link(action.worker);
  ChildLink* broker = link(action.broker);
  if (worker == nullptr || broker == nullptr || machine_.find(action.worker) == nullptr) return;
  auto ends = ipc::pair();
  if (!ends) {
    log_event(log::Level::error, "supervisor", "could not make a link", kv("reason", ends.error()));
    return;
  }
  const ipc::LinkAdd add{action.broker_gen, machine_.find(action.worker)->link_id, ipc::kDefaultCredits};
  const int to_worker[] = {ends->first.get()};
  const int to_broker[] = {ends->second.get()};
  broker->channel.send_body(ipc::Type::link_add, add, to_broker);
  worker->channel.send_body(ipc::Type::link_add, add, to_worker);
}

void Runner::perform(const action::TellBrokerState& action) {
  if (ChildLink* child = link(action.to)) {
    child->channel.send_body(ipc::Type::broker_state, ipc::BrokerState{action.broker_gen, action.state, 0});
  }
}

void Runner::perform(const action::Listen& action) {
  const Configuration& configuration = configurations_.at(action.config);
  const auto& listeners = configuration.snapshot->listeners;
  std::vector<Listener> fresh;
  std::size_t fewest = configuration.plan.workers;
  for (const auto& listener : listeners) {
    const auto* address = slots_.find(place_of(listener));
    if (address == nullptr) continue;
    fewest = std::min(fewest, address->slots.size());
    if (!address->listening) fresh.push_back(listener);
  }
  if (fewest < configuration.plan.workers) {
    log_event(log::Level::warning, "supervisor",
              "an address has fewer slots than there are workers: some do not serve it", kv("slots", fewest),
              kv("workers", configuration.plan.workers));
  }
  for (const ChildKey key : action.escrow) {
    if (ChildLink* escrow = link(key)) grant(*escrow, fresh, [](const Slot&) { return true; });
  }
  const auto listening = slots_.listen(listeners);
  if (!listening) return machine_.listen_failed(action.config, listening.error().what, loop_.now());
  machine_.listening(action.config, loop_.now());
}

void Runner::perform(const action::Escrow& action) {
  ChildLink* broker = link(action.broker);
  if (broker != nullptr) grant(*broker, all_listeners(decided_.snapshot->listeners), [](const Slot&) { return true; });
}

void Runner::perform(const action::RetireSlots&) { slots_.retire_all_but({}); }

void Runner::perform(const action::CloseSlots&) {
  const auto closed = slots_.close_all_but({});
  closed_slots_.insert(closed.begin(), closed.end());
}

void Runner::perform(const action::RevokeSlots& action) {
  std::vector<std::uint32_t> slots;
  if (action.which == action::Grants::all) slots.assign(closed_slots_.begin(), closed_slots_.end());
  const auto& config = decided_.snapshot->config;
  for (const auto& listener : all_listeners(decided_.snapshot->listeners)) {
    if (action.which == action::Grants::tunnels && !may_carry_tunnels(config, listener.inbound)) continue;
    for (const auto& slot : slots_.find(place_of(listener))->slots) slots.push_back(slot.id);
  }
  revoke(action.child, slots);
}

void Runner::perform(const action::Pause& action) {
  if (ChildLink* child = link(action.child)) child->channel.send_body(ipc::Type::pause, ipc::Gen{action.gen});
}

void Runner::perform(const action::Start& action) {
  if (ChildLink* child = link(action.child)) child->channel.send_body(ipc::Type::start, ipc::Gen{action.gen});
}

void Runner::perform(const action::Drain& action) {
  if (ChildLink* child = link(action.child)) {
    child->channel.send_body(ipc::Type::drain, ipc::Drain{static_cast<std::uint64_t>(action.deadline.count()),
                                                          static_cast<std::uint32_t>(action.jitter.count()), 0});
  }
}

void Runner::perform(const action::Ping& action) {
  if (ChildLink* child = link(action.child)) {
    child->channel.send_body(ipc::Type::ping, ipc::Ping{monotonic_ns(loop_.now())});
  }
}

void Runner::perform(const action::Kill& action) {
  const auto found = links_.find(action.child);
  if (found == links_.end()) return;
  ::syscall(SYS_pidfd_send_signal, found->second->process.pidfd.get(), action.signal, nullptr, 0);
}

void Runner::perform(const action::Note& action) {
  std::vector<log::RenderedField> fields;
  fields.reserve(action.fields.size());
  for (const auto& [key, value] : action.fields) fields.push_back({key, std::string_view(value)});
  if (log_enabled(action.level)) log::current()->event(action.level, "supervisor", action.text, fields);
}

void Runner::perform(const action::Exit& action) {
  exit_code_ = action.code;
  failure_ = action.failure;
  if (handed_over_ && service_.directory != nullptr) ::unlink(own_retired_registry_.c_str());
  for (auto& gone : std::exchange(until_gone_, {})) gone();
  loop_.stop();
}

// ---- events -----------------------------------------------------------------------------------

void Runner::on_signal() {
  while (const int number = next_signal(service_.signals.get())) {
    if (number == SIGCHLD) {
      reap();
    } else {
      machine_.signal(number, loop_.now());
    }
  }
  loop_.defer(step_);
}

void Runner::on_ctl(ChildKey key) {
  ChildLink* child = link(key);
  if (child == nullptr) return;
  child->channel.on_writable();
  for (;;) {
    const auto end = child->channel.on_readable([&](ipc::Message& message) { on_message(*child, message); });
    if (end == ipc::ReadEnd::busy) continue;
    if (end == ipc::ReadEnd::eof || end == ipc::ReadEnd::fault) {
      child->ctl_ended = true;
      child->ctl_watch->stop();
      const auto fault = child->channel.fault();
      machine_.link_lost(key, end == ipc::ReadEnd::fault ? name_of(fault) : "", loop_.now());
      answer_missing(*child);
    }
    break;
  }
  loop_.defer(step_);
}

void Runner::on_message(ChildLink& child, ipc::Message& message) {
  const TimePoint now = loop_.now();
  const Child* known = machine_.find(child.key);
  if (known != nullptr && known->role == ipc::Role::successor) return on_successor(child, message);
  if (known != nullptr && known->role == ipc::Role::supervisor) return on_predecessor(child, message);
  switch (message.type()) {
    case ipc::Type::ready: machine_.ready(child.key, now); break;
    case ipc::Type::started: machine_.started(child.key, now); break;
    case ipc::Type::paused: machine_.paused(child.key, now); break;
    case ipc::Type::config_update_result:
      machine_.updated(child.key, message.as<ipc::ConfigUpdate>(), message.text(sizeof(ipc::ConfigUpdate)), now);
      break;
    case ipc::Type::pong: machine_.pong(child.key, message.as<ipc::Pong>(), now); break;
    case ipc::Type::drained: machine_.drained(child.key, message.as<ipc::Drained>()); break;
    case ipc::Type::answer:
      if (child.answer.size() + message.body.size() <= kMaxAnswer) child.answer += as_text(message.body);
      if (!message.more()) on_answer(child, std::exchange(child.answer, {}));
      break;
    case ipc::Type::stats:
      for (const auto& stat : message.records<ipc::Stat>()) {
        if (stat.counter == ipc::kLinkFaults) machine_.link_faulted(child.key, stat.label, now);
      }
      break;
    default: break;  // HELLO, SLOT_REVOKED: nothing to decide
  }
}

void Runner::reap() {
  while (const auto ended = reap_one()) {
    const auto found = std::ranges::find_if(links_, [&](const auto& l) { return l.second->process.pid == ended->pid; });
    if (found == links_.end()) {
      loader_.ended(ended->pid, ended->status);  // or a process that was left to us
      continue;
    }
    gone(found->first, ended->status);
  }
  loop_.defer(step_);
}

void Runner::gone(ChildKey key, const std::optional<ExitStatus>& status) {
  on_ctl(key);  // what it said last: DRAINED
  const auto found = links_.find(key);
  if (found == links_.end()) return;
  ChildLink& child = *found->second;
  if (child.ctl_watch) child.ctl_watch->stop();
  child.exit_watch->stop();
  answer_missing(child);
  if (!child.adoption.empty()) ::unlink(service_.directory->file(child.adoption).c_str());
  registry_changed_ = true;
  machine_.exited(key, status, loop_.now());
  ended_.push_back(std::move(found->second));
  links_.erase(found);
}

// ---- figures ----------------------------------------------------------------------------------

bool Runner::ask_children(const std::string& request, std::function<void(std::vector<ChildAnswer>)> done,
                          const std::function<bool(const Child&)>& whom) {
  if (gatherings_.size() >= kMaxGatherings) return false;
  const std::uint64_t id = ++last_gathering_;
  auto& gathering = *(gatherings_[id] = std::make_unique<Gathering>(*this, id));
  gathering.done = std::move(done);
  for (const auto& [key, child] : machine_.children()) {
    if (whom && !whom(child)) continue;
    gathering.answers.push_back({child, std::nullopt});
    ChildLink* to = link(key);
    if (to == nullptr || child.supervises() || child.state == ChildState::starting || child.state == ChildState::killed)
      continue;
    if (to->asked.size() >= kMaxGatherings || to->channel.send_long_text(ipc::Type::query, request) > ipc::Sent::queued)
      continue;
    to->asked.push_back(id);
    ++gathering.missing;
  }
  loop_.arm(gathering.timer, gathering.missing == 0 ? Duration::zero() : Duration(kAnswerTime));
  return true;
}

void Runner::on_answer(ChildLink& child, std::string json) {
  if (child.asked.empty()) return;  // an answer to nothing
  const std::uint64_t id = child.asked.front();
  child.asked.pop_front();
  const auto found = gatherings_.find(id);
  if (found == gatherings_.end()) return;  // too late
  auto& answers = found->second->answers;
  const auto of_child = std::ranges::find(answers, child.key, [](const ChildAnswer& one) { return one.child.key; });
  if (of_child != answers.end()) of_child->json = std::move(json);
  if (--found->second->missing == 0) finish(id);
}

void Runner::answer_missing(ChildLink& child) {
  for (const auto id : std::exchange(child.asked, {})) {
    const auto found = gatherings_.find(id);
    if (found != gatherings_.end() && --found->second->missing == 0) finish(id);
  }
}

void Runner::finish(std::uint64_t id) {
  const auto found = gatherings_.find(id);
  if (found == gatherings_.end()) return;
  const auto gathering = std::move(found->second);
  gatherings_.erase(found);
  gathering->done(std::move(gathering->answers));
}

}  // namespace ebb::supervisor
