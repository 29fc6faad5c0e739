#include "supervisor/process/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

namespace ebb::supervisor {
namespace {

constexpr std::size_t kMaxFds = 16;

Error os_error(const char* step, int code) { return Error{Errc::os, std::string(step) + ": " + ::strerror(code), {}}; }

struct Failure {  // from the forked branch, over a CLOEXEC pipe
  int step;
  int code;
};
constexpr const char* kSteps[] = {"descriptors", "parent check", "exec"};

void write_oom_score(int value) {  // async-signal-safe; the privilege to lower it may be missing
  char text[16];
  int n = 0;
  const unsigned magnitude = static_cast<unsigned>(value < 0 ? -value : value);
  if (value < 0) text[n++] = '-';
  if (magnitude >= 1000) return;
  if (magnitude >= 100) text[n++] = static_cast<char>('0' + magnitude / 100);
  if (magnitude >= 10) text[n++] = static_cast<char>('0' + magnitude / 10 % 10);
  text[n++] = static_cast<char>('0' + magnitude % 10);
  const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const auto written = ::write(fd, text, static_cast<std::size_t>(n));
  ::close(fd);
}

struct Plan {  // everything allocated before the fork
  int binary;  // -1: `path`
  const char* path;
  int report;
  pid_t parent;
  char* const* argv;
  char* const* environment;
  const SpawnOptions* options;
};

// Runs in the forked branch: only async-signal-safe calls.
[[noreturn]] void become_child(const Plan& plan) {
  int report = plan.report;
  const auto fail = [&](int step) {
    const Failure failure{step, errno};
    [[maybe_unused]] const auto n = ::write(report, &failure, sizeof failure);
    ::_exit(127);
  };
  for (int number = 1; number < NSIG; ++number) {
    if (number == SIGKILL || number == SIGSTOP) continue;
    ::signal(number, number == SIGPIPE ? SIG_IGN : SIG_DFL);  // a gap in the numbers answers EINVAL: nothing to reset
  }
  // Move everything out of the way first, so that no dup2 overwrites a descriptor still needed.
  const int first_free = kCtlFd + static_cast<int>(kMaxFds);
  int sources[kMaxFds] = {};
  const std::size_t count = plan.options->fds.size();
  for (std::size_t i = 0; i < count; ++i) {
    sources[i] = ::fcntl(plan.options->fds[i], F_DUPFD, first_free);
    if (sources[i] < 0) fail(0);
  }
  const int moved = ::fcntl(plan.report, F_DUPFD_CLOEXEC, first_free);
  const int binary = plan.binary < 0 ? -1 : ::fcntl(plan.binary, F_DUPFD_CLOEXEC, first_free);
  if (moved < 0 || (plan.binary >= 0 && binary < 0)) fail(0);
  report = moved;
  const int null = ::open("/dev/null", O_RDONLY);
  if (null < 0 || ::dup2(null, 0) < 0) fail(0);
  for (std::size_t i = 0; i < count; ++i) {
    if (::dup2(sources[i], kCtlFd + static_cast<int>(i)) < 0) fail(0);  // dup2 leaves CLOEXEC off
  }
  ::syscall(SYS_close_range, kCtlFd + static_cast<unsigned>(count), ~0U, CLOSE_RANGE_CLOEXEC);
  if (plan.options->max_open_files) {
    const rlimit limit{*plan.options->max_open_files, *plan.options->max_open_files};
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  write_oom_score(plan.options->oom_score_adj);
  if (plan.options->die_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    errno = ESRCH;
    if (::getppid() != plan.parent) fail(1);  // it ended before the prctl
  }
  if (binary < 0) {
    ::execve(plan.path, plan.argv, plan.environment);
  } else {
    ::syscall(SYS_execveat, binary, "", plan.argv, plan.environment, AT_EMPTY_PATH);
  }
  fail(2);
  ::_exit(127);  // not reached: tells the compiler so
}

}  // namespace

Result<Binary> Binary::open(const char* path) {
  Fd fd(::open(path, O_PATH | O_CLOEXEC));
  if (!fd) return std::unexpected(os_error(path, errno));
  return Binary(std::move(fd));
}

namespace {
Result<Process> spawn(int binary, const char* path, const SpawnOptions& options) {
  if (options.fds.size() > kMaxFds) return std::unexpected(Error{Errc::os, "too many descriptors for a child", {}});
  std::vector<char*> argv;
  argv.push_back(const_cast<char*>(options.title.c_str()));
  for (const auto& arg : options.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> environment;
  for (const auto& variable : options.environment) environment.push_back(const_cast<char*>(variable.c_str()));
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    environment.push_back(*variable);
  }
  environment.push_back(nullptr);

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::unexpected(os_error("pipe", errno));
  Fd heard(ends[0]);
  Fd report(ends[1]);
  const Plan plan{binary, path, report.get(), ::getpid(), argv.data(), environment.data(), &options};
  const pid_t pid = ::fork();
  if (pid < 0) return std::unexpected(os_error("fork", errno));
  if (pid == 0) become_child(plan);
  report.reset();

  Process process{pid, Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)))};
  const int pidfd_error = errno;
  Failure failure{};
  ssize_t n;
  do n = ::read(heard.get(), &failure, sizeof failure);
  while (n < 0 && errno == EINTR);
  if (n == sizeof failure || !process.pidfd) {
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (n == sizeof failure) return std::unexpected(os_error(kSteps[failure.step], failure.code));
    return std::unexpected(os_error("pidfd_open", pidfd_error));
  }
  return process;
}

}  // namespace

Result<Process> spawn(const Binary& binary, const SpawnOptions& options) {
  return spawn(binary.fd(), nullptr, options);
}

Result<Process> spawn(const std::string& path, const SpawnOptions& options) { return spawn(-1, path.c_str(), options); }

std::string ExitStatus::text() const {
  if (!signalled) return "exit code " + std::to_string(code);
  const char* name = ::sigdescr_np(code);
  return "signal " + std::to_string(code) + " (" + (name != nullptr ? name : "unknown") + ")";
}

std::optional<Ended> reap_one() {
  siginfo_t info{};
  int rc;
  do rc = ::waitid(P_ALL, 0, &info, WEXITED | WNOHANG);
  while (rc != 0 && errno == EINTR);
  if (rc != 0 || info.si_pid == 0) return std::nullopt;
  return Ended{info.si_pid, ExitStatus{info.si_code != CLD_EXITED, info.si_status}};
}

}  // namespace ebb::supervisor
