// The runner's part of a reload: loading, binding, what the broker is told, log files, words to the service manager.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "common/base/log.h"
#include "supervisor/generations/runner.h"

namespace ebb::supervisor {
namespace {

void log_lines(log::Level level, std::string_view text) {
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    if (end > 0) log_event(level, "config", text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace

void Runner::reload(std::function<void(int, std::string)> done) {
  waiting_.emplace(machine_.reload(loop_.now()), std::move(done));  // answered in step() at the earliest
  loop_.defer(step_);
}

void Runner::stop(bool now, std::function<void()> gone) {
  until_gone_.push_back(std::move(gone));
  machine_.signal(now ? SIGTERM : SIGQUIT, loop_.now());
  loop_.defer(step_);
}

bool Runner::ours(pid_t pid) const {
  return pid == ::getpid() ||
         std::ranges::any_of(links_, [&](const auto& one) { return one.second->process.pid == pid; });
}

// ---- loading ----------------------------------------------------------------------------------

void Runner::perform(const action::Load& action) {
  if (action.workers) {
    Configuration fresh = decided_;
    fresh.plan.workers = *action.workers;
    bind_and_report(action.config, std::move(fresh));
    return;
  }
  if (service_.typed) return machine_.refused(action.config, 1, kTyped, loop_.now());
  loading_ = action.config;
  loader_.start([this, gen = action.config](auto loaded) { on_loaded(gen, std::move(loaded)); });
}

void Runner::on_loaded(std::uint64_t gen, std::expected<Loader::Loaded, Loader::Refusal> loaded) {
  loading_.reset();
  loop_.defer(step_);
  if (!loaded) {
    log_lines(log::Level::error, loaded.error().text);
    return machine_.refused(gen, loaded.error().exit, loaded.error().text, loop_.now());
  }
  log_lines(log::Level::warning, loaded->diagnostics);
  Configuration fresh;
  fresh.snapshot = std::move(loaded->snapshot);
  const config::Config& config = fresh.snapshot->config;
  const config::Settings& now = decided_.snapshot->config.settings;
  if (config.settings.runtime_dir != now.runtime_dir || config.settings.admin_socket != now.admin_socket) {
    log_event(log::Level::warning, "supervisor", "another runtimeDir or admin.socket takes effect at the next restart");
  }
  fresh.plan = plan_of(config, service_.cpus);
  fresh.logs = decided_.logs;
  if (!same_files(config.log, decided_.snapshot->config.log)) {
    auto logs = open_logs(config.log);
    if (!logs) return machine_.refused(gen, 23, logs.error().where + ": " + logs.error().what, loop_.now());
    fresh.logs = std::make_shared<LogFiles>(std::move(*logs));
  }
  bind_and_report(gen, std::move(fresh));
}

void Runner::bind_and_report(std::uint64_t gen, Configuration fresh) {
  const auto& listeners = fresh.snapshot->listeners;
  const unsigned per_address = slots_per_address(fresh.plan.workers, listeners.size(), service_.open_files);
  const auto problems = slots_.add(listeners, per_address, [this](int pid) { return ours(pid); });
  if (!problems.empty()) {
    std::string text;
    for (const auto& problem : problems) text += (text.empty() ? "" : "\n") + problem;
    return machine_.refused(gen, 1, text, loop_.now());
  }
  const Plan plan = fresh.plan;
  const bool removes = slots_.has_more_than(listeners);
  configurations_[gen] = std::move(fresh);
  machine_.loaded(gen, plan, removes, loop_.now());
}

void Runner::perform(const action::Forget& action) {
  if (loading_ == action.config) {
    loading_.reset();
    loader_.cancel();
  }
  configurations_.erase(action.config);
}

// ---- moving over ------------------------------------------------------------------------------

void Runner::perform(const action::UpdateBroker& action) {
  ChildLink* broker = link(action.broker);
  if (broker == nullptr) return;
  const ipc::ConfigUpdate update{action.config, action.phase, 0};
  if (action.phase != ipc::UpdatePhase::prepare) {
    broker->channel.send_body(ipc::Type::config_update, update);
    return;
  }
  const auto own = configurations_.find(action.config);
  const auto foreign = foreign_snapshots_.find(action.config);
  if (own == configurations_.end() && foreign == foreign_snapshots_.end()) return;
  const int memfd[] = {own != configurations_.end() ? own->second.snapshot->memfd.get() : foreign->second.get()};
  broker->channel.send_body(ipc::Type::config_update, update, memfd);
}

void Runner::perform(const action::RetireRemoved& action) {
  slots_.retire_all_but(configurations_.at(action.config).snapshot->listeners);
}

void Runner::perform(const action::RestoreSlots& action) { slots_.restore(action.successors); }

void Runner::perform(const action::CloseRemoved& action) {
  const auto closed = slots_.close_all_but(configurations_.at(action.config).snapshot->listeners);
  for (const ChildKey key : action.escrow) revoke(key, closed);
  closed_slots_.insert(closed.begin(), closed.end());
  while (closed_slots_.size() > kMaxClosedSlots) closed_slots_.erase(closed_slots_.begin());  // the oldest
  registry_changed_ = true;
}

void Runner::perform(const action::Decide& action) {
  const Configuration old = std::exchange(decided_, configurations_.at(action.config));
  apply_logs(old);
  registry_changed_ = true;
}

void Runner::perform(const action::OperationDone& action) {
  const auto [first, last] = waiting_.equal_range(action.ticket);
  for (auto one = first; one != last; ++one) one->second(action.exit, action.text);
  waiting_.erase(first, last);
}

// ---- logs -------------------------------------------------------------------------------------

void Runner::apply_logs(const Configuration& old) {
  const auto& wanted = decided_.snapshot->config.log;
  log::Logger* logger = log::current();
  if (logger != nullptr) {
    logger->set_level(static_cast<log::Level>(wanted.level));
    logger->set_format(wanted.json ? log::Format::json : log::Format::v2ray);
  }
  if (old.logs == decided_.logs) return;
  if (logger != nullptr) {
    logger->swap(log::Stream::error, copy(decided_.logs->error).value_or(Fd()));
    logger->swap(log::Stream::access, copy(decided_.logs->access).value_or(Fd()));
  }
  for (auto& [key, child] : links_) {  // workers have had theirs from their start
    const Child* one = machine_.find(key);
    if (one != nullptr && one->role == ipc::Role::broker && !child->ctl_ended) send_logs(*child, *decided_.logs);
  }
}

Result<> Runner::reopen_logs() {
  std::vector<LogFiles*> done;
  Result<> result;
  configurations_[machine_.generation()] = decided_;
  for (auto& [gen, configuration] : configurations_) {
    if (std::ranges::find(done, configuration.logs.get()) != done.end()) continue;
    done.push_back(configuration.logs.get());
    auto opened = open_logs(configuration.snapshot->config.log);
    if (opened) {
      *configuration.logs = std::move(*opened);
    } else {
      log_event(log::Level::error, "supervisor", "log not reopened", kv("reason", opened.error().what));
      result = std::unexpected(std::move(opened.error()));
    }
  }
  if (log::Logger* logger = log::current()) {
    if (auto error = copy(decided_.logs->error)) logger->swap(log::Stream::error, std::move(*error));
    if (auto access = copy(decided_.logs->access)) logger->swap(log::Stream::access, std::move(*access));
  }
  for (auto& [key, child] : links_) {
    const Child* one = machine_.find(key);
    if (one != nullptr && one->role == ipc::Role::supervisor && machine_.in_charge()) {
      // A retired one has processes that write into the same files.
      ::syscall(SYS_pidfd_send_signal, child->process.pidfd.get(), SIGUSR1, nullptr, 0);
    }
    if (one == nullptr || one->supervises() || child->ctl_ended) continue;
    const auto own = configurations_.find(one->gen);
    const bool broker = one->role == ipc::Role::broker || own == configurations_.end();
    send_logs(*child, broker ? *decided_.logs : *own->second.logs);
  }
  if (result) log_event(log::Level::info, "supervisor", "logs reopened");
  return result;
}

void Runner::perform(const action::ReopenLogs&) { [[maybe_unused]] const auto done = reopen_logs(); }

// ---- service manager --------------------------------------------------------------------------

void Runner::tell_manager() {
  if (handed_over_ || !manager_knows_ || !machine_.in_charge()) return;  // another one speaks for the service
  std::string words;
  switch (machine_.phase()) {
    case Machine::Phase::starting: return;
    case Machine::Phase::running:
      if (machine_.reloading()) {
        if (told_ != "RELOADING") service_.manager.tell_reloading();
        told_ = "RELOADING";
        return;
      }
      words = "READY=1\nSTATUS=generation " + std::to_string(machine_.generation()) + ", " +
              std::to_string(decided_.plan.workers) + " workers";
      if (const auto& last = machine_.last_reload(); !last.empty() && last != "ok") {
        words += ", last reload failed: " + last;
      }
      break;
    default: words = "STOPPING=1\nSTATUS=stopping"; break;
  }
  if (told_ == words) return;
  service_.manager.tell(words);
  told_ = std::move(words);
}

}  // namespace ebb::supervisor
