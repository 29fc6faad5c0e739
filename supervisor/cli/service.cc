// `run`: everything that has to be had before a process is started, in the order in which it may fail.
#include <sched.h>
#include <unistd.h>

#include <cstdio>

#include "common/base/log.h"
#include "common/config/canonical.h"
#include "supervisor/admin/protocol.h"
#include "supervisor/admin/server.h"
#include "supervisor/admin/status.h"
#include "supervisor/cli/commands.h"
#include "supervisor/cli/opening.h"
#include "supervisor/generations/runner.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/environment.h"
#include "supervisor/process/runtime_dir.h"

namespace ebb::supervisor {
namespace {

constexpr int kSupervisorOom = -900;
constexpr unsigned long kFewOpenFiles = 65536;

/// To the terminal, and to a log file where there is one (standard output would say it twice).
int refuse(const std::string& text, const config::Config* config = nullptr) {
  std::fprintf(stderr, "ebbgate: %s\n", text.c_str());
  if (config != nullptr && !config->log.error.empty()) log_event(log::Level::error, "supervisor", text);
  return kExitStart;
}

std::uint32_t cpus() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<std::uint32_t>(CPU_COUNT(&set)) : 1;
}

void start_logs(const config::Config& config, const LogFiles& files) {
  log::Settings settings;
  settings.level = static_cast<log::Level>(config.log.level);
  settings.format = config.log.json ? log::Format::json : log::Format::v2ray;
  if (auto error = copy(files.error)) settings.error = std::move(*error);
  if (auto access = copy(files.access)) settings.access = std::move(*access);
  log::init(std::move(settings));
}

std::string phase_name(Machine::Phase phase) {
  switch (phase) {
    case Machine::Phase::starting: return "starting";
    case Machine::Phase::running: return "active";
    case Machine::Phase::retiring:
    case Machine::Phase::draining: return "draining";
    default: return "stopping";
  }
}

using Reply = std::function<void(std::string)>;

void answer_status(Runner& runner, const Reply& reply) {
  const bool asked = runner.ask_children(R"({"query":"status"})", [&runner, reply](std::vector<ChildAnswer> answers) {
    const Machine& machine = runner.machine();
    const Snapshot& snapshot = *runner.configuration().snapshot;
    admin::StatusInput input;
    input.generation = machine.generation();
    input.pid = ::getpid();
    const std::string phase = phase_name(machine.phase());
    input.phase = phase;
    input.reload_step = machine.reload_step();
    input.last_reload = machine.last_reload();
    input.children = std::move(answers);
    input.listeners = &snapshot.listeners;
    input.config = &snapshot.config;
    reply(admin::reply_ok(admin::status_json(input)));
  });
  if (!asked) reply(admin::reply_error(kExitStart, "too many questions at once"));
}

void answer_reload(Runner& runner, bool wait, const Reply& reply) {
  runner.reload([&runner, wait, reply](int exit, const std::string& text) {
    if (!wait) return;
    if (exit != 0) return reply(admin::reply_error(exit, text));
    const auto& plan = runner.configuration().plan;
    reply(admin::reply_ok("{\"generation\":" + std::to_string(runner.machine().generation()) +
                          ",\"workers\":" + std::to_string(plan.workers) + "}"));
  });
  if (!wait) reply(admin::reply_ok("{}"));
}

admin::Server::Handler admin_handler(Runner& runner) {
  return [&runner](const std::string& line, const Reply& reply) {
    const auto request = admin::parse_request(line);
    if (!request) return reply(admin::reply_error(kExitUsage, request.error().what));
    if (request->command == "status") return answer_status(runner, reply);
    if (request->command == "reload") return answer_reload(runner, request->wait, reply);
    if (request->command == "reopen") {
      const auto done = runner.reopen_logs();
      return reply(done ? admin::reply_ok("{}")
                        : admin::reply_error(kExitStart, done.error().where + ": " + done.error().what));
    }
    if (request->command == "stop") {
      runner.stop(request->now, [reply] { reply(admin::reply_ok("{}")); });
      return;
    }
    reply(admin::reply_error(kExitUsage,
                             "unknown command \"" + request->command + "\"; there are: status, reload, reopen, stop"));
  };
}

}  // namespace

int run_service(const Command& command, int argc, char** argv) {
  const unsigned long open_files = raise_open_files();
  set_oom_score(kSupervisorOom);
  auto binary = Binary::self();
  if (!binary) return refuse(binary.error().what);
  auto signals = take_signals();  // before the first fork: children inherit the mask
  if (!signals) return refuse(signals.error().what);

  Opened opened = open_configuration(*binary, command.invocation, signals->get());
  if (!opened.config) return opened.exit;
  const config::Config& config = *opened.config;
  start_logs(config, opened.logs);
  log_event(log::Level::info, "supervisor", "configuration read", kv("files", opened.verdict.chosen));
  for (std::string_view left = opened.verdict.diagnostics; !left.empty() && !config.log.error.empty();) {
    const auto end = std::min(left.find('\n'), left.size() - 1);
    log_event(log::Level::warning, "config", left.substr(0, end));
    left.remove_prefix(end + 1);
  }
  if (open_files < kFewOpenFiles) {
    log_event(log::Level::warning, "supervisor", "few open files allowed: raise LimitNOFILE or ulimit -Hn",
              kv("limit", open_files));
  }

  auto directory =
      claim_runtime_dir(runtime_path(config.settings.runtime_dir, opened.verdict.instance, process_runtime_places()));
  if (!directory) return refuse(directory.error().what, &config);

  const Plan plan = plan_of(config, cpus());
  auto listeners = listeners_of(config);
  const unsigned per_address = slots_per_address(plan.workers, listeners.size(), open_files);
  Bound bound = bind_slots(std::move(listeners), per_address);
  for (const auto& problem : bound.problems) refuse(problem, &config);
  if (!bound.problems.empty()) return kExitStart;

  auto replay = ipc::ReplayTable::create();
  if (!replay) return refuse(replay.error().what, &config);
  set_title(argc, argv, "ebbgate: supervisor " + opened.verdict.chosen, "ebbgate");

  auto snapshot = make_snapshot(opened.verdict.snapshot, config);
  if (!snapshot) return refuse(snapshot.error().where + ": " + snapshot.error().what, &config);

  net::UvLoop loop;
  Runner runner(loop, Service{std::move(*binary),
                              {std::move(*snapshot), plan, std::make_shared<LogFiles>(std::move(opened.logs))},
                              std::move(bound.table),
                              std::move(*replay),
                              std::move(*signals),
                              command.invocation,
                              ServiceManager::from_environment(),
                              cpus(),
                              open_files,
                              ::isatty(STDIN_FILENO) != 0});
  std::unique_ptr<admin::Server> server;
  const std::string socket = config.settings.admin_socket.value_or(directory->file("ctl.sock"));
  if (!socket.empty()) {
    auto made = admin::Server::listen(loop, socket, admin_handler(runner));
    if (!made) return refuse("cannot make the " + made.error().where + " " + made.error().what, &config);
    server = std::move(*made);
  }
  const int status = runner.run();
  if (!runner.failure().empty()) std::fprintf(stderr, "ebbgate: %s\n", runner.failure().c_str());
  return status;
}

}  // namespace ebb::supervisor
