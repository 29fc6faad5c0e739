// `run`: everything that has to be had before a process is started, in the order in which it may fail.
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <expected>
#include <filesystem>

#include "common/base/log.h"
#include "common/config/canonical.h"
#include "supervisor/admin/server.h"
#include "supervisor/cli/commands.h"
#include "supervisor/cli/opening.h"
#include "supervisor/cli/requests.h"
#include "supervisor/generations/runner.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/environment.h"
#include "supervisor/process/runtime_dir.h"

namespace ebb::supervisor {
namespace {

constexpr int kSupervisorOom = -900;
constexpr unsigned long kFewOpenFiles = 65536;

/// Says why there will be no service: at the terminal, in the log file where there is one (standard output would say it
/// twice), and to the supervisor that started us for an upgrade, who tells whoever asked for it.
struct Refuser {
  std::optional<MetPredecessor>& asker;
  const config::Config* config = nullptr;

  int operator()(const std::string& text) const {
    std::fprintf(stderr, "ebbgate: %s\n", text.c_str());
    if (config != nullptr && !config->log.error.empty()) log_event(log::Level::error, "supervisor", text);
    answer(text);
    return kExitStart;
  }
  void answer(std::string_view text) const {
    while (text.ends_with('\n')) text.remove_suffix(1);
    if (asker) asker->channel.send_long_text(ipc::Type::query, text.substr(0, kMaxAnswer));
  }
  static constexpr std::size_t kMaxAnswer = 64 * 1024;  // the socket's buffer takes it at once
};

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

/// The path that an upgrade executes: as it was typed, so that a link or a new file in its place counts.
Origin origin_of(int argc, char** argv) {
  Origin origin;
  origin.arguments.assign(argv, argv + argc);
  const std::string typed = argc > 0 ? argv[0] : "";
  std::error_code error;
  if (typed.find('/') != std::string::npos) {
    origin.path = std::filesystem::absolute(typed, error).string();
  } else {
    origin.path = std::filesystem::read_symlink("/proc/self/exe", error).string();
    constexpr std::string_view kDeleted = " (deleted)";
    if (origin.path.ends_with(kDeleted)) origin.path.resize(origin.path.size() - kDeleted.size());
  }
  return origin;
}

/// Listening sockets of another supervisor; those that are not what they were said to be are left out.
void take_slots(SlotBook& book, std::vector<Slot> slots) {
  for (auto& slot : slots) {
    if (!book.adopt(std::move(slot))) log_event(log::Level::error, "supervisor", "a slot was not what it should be");
  }
}

/// What must be there beside a valid configuration; on failure the exit status, everything said.
struct Possessions {
  SlotBook slots;
  std::optional<ipc::ReplayTable> replay;
};
std::expected<Possessions, int> gather_possessions(const config::Config& config, const Plan& plan,
                                                   unsigned long open_files, std::vector<Slot> inherited, Fd replay,
                                                   const SlotBook::Ours& ours, bool complete, const Refuser& refuse) {
  Possessions own;
  take_slots(own.slots, std::move(inherited));
  const auto listeners = listeners_of(config);
  // Orphans serve as they did: what their successors need beyond that comes with the first reload.
  const auto problems =
      complete ? own.slots.add(listeners, slots_per_address(plan.workers, listeners.size(), open_files), ours)
               : std::vector<std::string>();
  std::string all;
  for (const auto& problem : problems) all += (all.empty() ? "" : "\n") + problem;
  if (!problems.empty()) return std::unexpected(refuse(all));
  auto table = replay ? ipc::ReplayTable::attach(std::move(replay)) : ipc::ReplayTable::create();
  if (!table) return std::unexpected(refuse(table.error().what));
  own.replay = std::move(*table);
  return own;
}

}  // namespace

int run_service(const Command& command, int argc, char** argv) {
  const unsigned long open_files = raise_open_files();
  std::optional<MetPredecessor> predecessor;
  Refuser refuse{predecessor};
  set_oom_score(kSupervisorOom);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // what a failed successor leaves behind comes back to us
  auto binary = Binary::self();
  if (!binary) return refuse(binary.error().what);
  auto signals = take_signals();  // before the first fork: children inherit the mask
  if (!signals) return refuse(signals.error().what);
  Origin origin = origin_of(argc, argv);
  auto call = upgrade_call();
  if (call) {
    auto met = meet_predecessor(std::move(call->link));
    if (!met) return refuse("upgrade: " + met.error().what);
    predecessor = std::move(*met);
  }

  Opened opened = open_configuration(*binary, command.invocation, signals->get());
  if (!opened.config) {
    refuse.answer(opened.problem);
    return opened.exit;
  }
  const config::Config& config = *opened.config;
  refuse.config = &config;
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

  const std::string place =
      plain_path(runtime_path(config.settings.runtime_dir, opened.verdict.instance, process_runtime_places()));
  auto directory = call ? inherit_runtime_dir(call->directory, std::move(call->lock)) : claim_runtime_dir(place);
  if (!directory) return refuse(directory.error().what);
  if (place != directory->path) {
    log_event(log::Level::warning, "supervisor", "another runtimeDir takes effect at the next restart",
              kv("until_then", directory->path));
  }
  std::optional<Adoption> adoption;
  if (!predecessor) {
    adoption = adopt_orphans(directory->path, directory->instance);
    sweep_adoption_sockets(directory->path, adoption);
  }

  const Plan plan = plan_of(config, cpus());
  std::vector<Slot> inherited =
      predecessor ? std::move(predecessor->slots) : (adoption ? std::move(adoption->slots) : std::vector<Slot>());
  Fd replay = predecessor ? std::move(predecessor->replay) : (adoption ? std::move(adoption->replay) : Fd());
  const auto ours = [&](int pid) {  // an address that the old configuration has, too
    return predecessor && ::getpgid(pid) == ::getpgid(0);
  };
  auto own =
      gather_possessions(config, plan, open_files, std::move(inherited), std::move(replay), ours, !adoption, refuse);
  if (!own) return own.error();
  set_title(argc, argv, "ebbgate: supervisor " + opened.verdict.chosen, "ebbgate");

  auto snapshot = make_snapshot(opened.verdict.snapshot, config);
  if (!snapshot) return refuse(snapshot.error().where + ": " + snapshot.error().what);
  Configuration configuration{std::move(*snapshot), plan, std::make_shared<LogFiles>(std::move(opened.logs))};
  if (adoption && adoption->snapshots.contains(adoption->current)) {
    configuration.snapshot = adoption->snapshots.at(adoption->current);
    configuration.plan = plan_of(configuration.snapshot->config, cpus());
  }

  net::UvLoop loop;
  std::unique_ptr<admin::Server> server;
  Service service{std::move(*binary),
                  std::move(configuration),
                  std::move(own->slots),
                  std::move(*own->replay),
                  std::move(*signals),
                  command.invocation,
                  ServiceManager::from_environment(),
                  cpus(),
                  open_files,
                  opened.verdict.chosen.contains("stdin:"),
                  &*directory,
                  std::move(origin),
                  std::move(predecessor),
                  std::move(adoption),
                  {},
                  {}};
  const bool arrives = service.predecessor.has_value();
  predecessor = std::nullopt;
  Runner* runner_to_ask = nullptr;
  const std::string socket = config.settings.admin_socket.value_or(directory->file("ctl.sock"));
  service.take_over = [&]() -> Result<> {
    if (socket.empty()) return {};
    auto made = admin::Server::listen(loop, socket, admin_handler(*runner_to_ask));
    if (!made) return std::unexpected(std::move(made.error()));
    server = std::move(*made);
    return {};
  };
  service.hand_over = [&] {
    if (server) server->release();
  };
  const auto open_admin = service.take_over;
  Runner runner(loop, std::move(service));
  runner_to_ask = &runner;
  if (!arrives) {
    const auto made = open_admin();
    if (!made) return refuse("cannot make the " + made.error().where + " " + made.error().what);
  }
  const int status = runner.run();
  if (!runner.failure().empty()) std::fprintf(stderr, "ebbgate: %s\n", runner.failure().c_str());
  return status;
}

}  // namespace ebb::supervisor
