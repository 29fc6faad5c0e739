#include "supervisor/process/checker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/config/canonical.h"
#include "common/config/load.h"
#include "common/crypto/hash.h"
#include "ipc/memfd.h"
#include "supervisor/process/environment.h"
#include "supervisor/process/runtime_dir.h"

namespace ebb::supervisor {
namespace {

constexpr std::size_t kMaxInput = 64u << 20;       // bytes
constexpr std::size_t kMaxDiagnostics = 1u << 20;  // bytes of text: an ANSWER holds 3 MiB
const std::string kInputName = "stdin:";           // what gather() calls standard input
constexpr unsigned long kCheckerOpenFiles = 1024;
constexpr int kCheckerOom = 500;

Result<std::string> read_input(int fd) {
  if (::isatty(fd) != 0) {
    return std::unexpected(Error{Errc::config, "it is a terminal; name a file with -c FILE", {}});
  }
  std::string text;
  char chunk[64 * 1024];
  while (text.size() <= kMaxInput) {
    const auto n = ::read(fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::unexpected(Error{Errc::os, ::strerror(errno), {}});
    if (n == 0) return text;
    text.append(chunk, static_cast<std::size_t>(n));
  }
  return std::unexpected(Error{Errc::config, "it is larger than 64 MiB", {}});
}

}  // namespace

std::vector<std::string> checker_arguments(const config::Invocation& invocation) {
  std::vector<std::string> arguments;
  for (const auto& name : invocation.configs) {
    arguments.push_back("-c");
    arguments.push_back(name);
  }
  if (invocation.confdir) {
    arguments.push_back("-d");
    arguments.push_back(*invocation.confdir);
  }
  if (invocation.recurse) arguments.push_back("-r");
  return arguments;
}

config::Invocation invocation_from(const std::vector<std::string>& arguments) {
  config::Invocation invocation;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "-r") invocation.recurse = true;
    if (i + 1 == arguments.size()) break;
    if (arguments[i] == "-c")
      invocation.configs.push_back(arguments[++i]);
    else if (arguments[i] == "-d")
      invocation.confdir = arguments[++i];
  }
  return invocation;
}

std::string instance_of(const std::vector<config::SourceFile>& files) {
  if (files.size() == 1 && files[0].name == kInputName) return instance_id_of_input(files[0].text);
  std::vector<std::string> names;
  for (const auto& file : files) {
    std::error_code error;
    const auto absolute = std::filesystem::absolute(file.name, error).lexically_normal().string();
    names.push_back(file.name == kInputName ? kInputName + instance_id_of_input(file.text) : absolute);
  }
  return instance_id(names);
}

namespace {

/// Whether one of the waiting signals asks us to stop. The others mean nothing yet: the checker's own end is one of
/// them.
bool ends_now(int signals) {
  bool stop = false;
  while (const int number = next_signal(signals))
    stop = stop || number == SIGTERM || number == SIGINT || number == SIGQUIT;
  return stop;
}

}  // namespace

// ---- the parent's side ------------------------------------------------------------------------

Checker::Checker(Process process, Fd ctl)
    : process_(std::move(process)),
      channel_(
          std::make_unique<ipc::Channel>(std::move(ctl), ipc::Link::ctl, ipc::Role::supervisor, ipc::Role::checker)) {}

Checker::~Checker() {
  if (process_.pidfd && !ended_) [[maybe_unused]]
    const auto verdict = finish(true);
}

Result<Checker> Checker::start(const Binary& binary, const CheckRequest& request) {
  auto ends = ipc::pair();
  if (!ends) return std::unexpected(std::move(ends.error()));
  const int fds[] = {ends->second.get(), request.input};
  SpawnOptions options;
  options.title = "ebbgate: checker";
  options.args = {"--role=checker"};
  for (auto& argument : checker_arguments(request.invocation)) options.args.push_back(std::move(argument));
  options.fds = fds;
  options.oom_score_adj = kCheckerOom;
  options.max_open_files = kCheckerOpenFiles;
  options.die_with_parent = true;
  auto process = spawn(binary, options);
  if (!process) return std::unexpected(std::move(process.error()).in("checker"));
  return Checker(std::move(*process), std::move(ends->first));
}

void Checker::on_message(ipc::Message& message) {
  switch (message.type()) {
    case ipc::Type::answer:  // first "ID\nfiles", then the diagnostics
      if (answers_ == 0) {
        verdict_.instance += as_text(message.body);
      } else {
        verdict_.diagnostics += as_text(message.body);
      }
      if (!message.more()) ++answers_;
      break;
    case ipc::Type::config: {
      const auto config = message.as<ipc::Config>();
      auto text = ipc::read_sealed(message.fds[0].get(), config.len);
      if (!text) {
        broken_ = std::move(text.error());
      } else {
        verdict_.snapshot = std::move(*text);
      }
      break;
    }
    case ipc::Type::ready: complete_ = true; break;
    default: break;
  }
}

bool Checker::on_readable() {
  for (;;) {
    const auto end = channel_->on_readable([this](ipc::Message& message) { on_message(message); });
    if (end == ipc::ReadEnd::busy) continue;
    if (end == ipc::ReadEnd::fault) broken_ = Error{Errc::protocol, std::string(name_of(channel_->fault())), "checker"};
    return complete_ || end != ipc::ReadEnd::drained;
  }
}

Result<CheckVerdict> Checker::finish(bool timed_out) {
  if (!ended_) {
    if (!complete_ || timed_out) ::kill(process_.pid, SIGKILL);  // not reaped yet: the pid is still its own
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(process_.pid), &info, WEXITED) != 0 && errno == EINTR) {
    }
    ended_ = ExitStatus{info.si_code != CLD_EXITED, info.si_status};
  }
  if (timed_out)
    return std::unexpected(Error{Errc::timeout, "no verdict within the time limit", "configuration checker"});
  if (broken_) return std::unexpected(*broken_);
  if (!complete_) {
    return std::unexpected(
        Error{Errc::os, "the checker crashed (" + ended_->text() + "); the configuration is not used", {}});
  }
  verdict_.accepted = !verdict_.snapshot.empty();
  if (const auto line = verdict_.instance.find('\n'); line != std::string::npos) {
    verdict_.chosen = verdict_.instance.substr(line + 1);
    verdict_.instance.resize(line);
  }
  return std::move(verdict_);
}

Result<CheckVerdict> check_configuration(const Binary& binary, const CheckRequest& request) {
  auto checker = Checker::start(binary, request);
  if (!checker) return std::unexpected(std::move(checker.error()));
  const auto deadline = std::chrono::steady_clock::now() + request.limit;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return checker->finish(true);
    pollfd waiting[] = {{checker->fd(), POLLIN, 0}, {request.interrupt, POLLIN, 0}};
    if (::poll(waiting, 2, static_cast<int>(left)) <= 0) continue;
    if (waiting[1].revents != 0 && ends_now(request.interrupt)) {
      return std::unexpected(Error{Errc::closed, "interrupted", {}});
    }
    if (waiting[0].revents != 0 && checker->on_readable()) return checker->finish(false);
  }
}

// ---- the child --------------------------------------------------------------------------------

int run_checker(Fd ctl, Fd input, const std::vector<std::string>& arguments) {
  ipc::Channel channel(std::move(ctl), ipc::Link::ctl, ipc::Role::checker, ipc::Role::supervisor);
  ipc::Hello hello;
  hello.role = ipc::Role::checker;
  hello.pid = static_cast<std::uint32_t>(::getpid());
  channel.send_body(ipc::Type::hello, hello);

  config::Machine machine = config::this_machine();
  machine.standard_input = [&] { return read_input(input.get()); };
  config::Gathered gathered = config::gather(invocation_from(arguments), machine);
  channel.send_long_text(ipc::Type::answer, instance_of(gathered.files) + "\n" + gathered.chosen);
  std::vector<config::Diagnostic> found = std::move(gathered.diagnostics);
  config::Loaded loaded;
  if (found.empty()) {
    loaded = config::load(std::move(gathered.files), machine.surroundings);
    found = std::move(loaded.diagnostics);
  }
  std::string text;
  for (const auto& one : found) {
    if (one.severity == config::Severity::info) continue;  // `check` tells those
    if (text.size() > kMaxDiagnostics) {
      text += "(more follow)\n";
      break;
    }
    text += one.text() + "\n";
  }
  // Nobody reads along while we send (the kernel's buffer holds some hundred KiB): wait for room where it is needed.
  const auto flush = [&] {
    while (channel.queued() > 0 && !channel.peer_dead()) {
      pollfd waiting{channel.fd(), POLLOUT, 0};
      ::poll(&waiting, 1, 5'000);
      channel.on_writable();
    }
  };
  if (!text.empty()) channel.send_long_text(ipc::Type::answer, text);
  flush();
  if (loaded.config) {
    const std::string snapshot = config::canonical_json(*loaded.config, config::Secrets::keep);
    const auto sealed = ipc::make_sealed("ebbgate-configuration", as_bytes(snapshot));
    if (!sealed) return 1;
    ipc::Config message;
    message.len = snapshot.size();
    message.sha256 = crypto::sha256({as_bytes(snapshot)});
    const int fds[] = {sealed->get()};
    channel.send_body(ipc::Type::config, message, fds);
  }
  channel.send_body(ipc::Type::ready, ipc::Ready{});
  flush();
  return 0;
}

}  // namespace ebb::supervisor
