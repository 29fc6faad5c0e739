#include "supervisor/process/environment.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ebb::supervisor {

void set_title(int argc, char** argv, std::string_view title, const char* comm) {
  ::prctl(PR_SET_NAME, comm, 0, 0, 0);
  if (argc < 1) return;
  char* const begin = argv[0];
  char* end = begin + std::strlen(begin) + 1;
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == end) end += std::strlen(argv[i]) + 1;
  }
  // The strings of the environment follow those of argv. They are copied (once, for the life of the process), and the
  // kernel shows a title that runs on into their place when the argument area no longer ends in a zero.
  char* const arguments_end = end;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    if (*variable == end) end += std::strlen(*variable) + 1;
  }
  const std::string text(title);
  const bool fits = text.size() < static_cast<std::size_t>(arguments_end - begin);
  if (!fits) {
    for (char** variable = environ; *variable != nullptr; ++variable) {
      if (*variable >= begin && *variable < end) *variable = ::strdup(*variable);
    }
  }
  char* const limit = fits ? arguments_end : end;
  std::memset(begin, 0, static_cast<std::size_t>(limit - begin));
  std::copy_n(text.data(), std::min(text.size(), static_cast<std::size_t>(limit - begin) - 1), begin);
}

unsigned long raise_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  if (limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) return raised.rlim_cur;
  }
  return limit.rlim_cur;
}

void set_oom_score(int adjustment) {
  const Fd fd(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(adjustment);
  if (fd) [[maybe_unused]]
    const auto n = ::write(fd.get(), text.data(), text.size());
}

Result<Fd> take_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGTTIN, SIGTTOU}) {
    sigaddset(&set, number);
  }
  ::signal(SIGPIPE, SIG_IGN);
  const auto error = [](const char* step) {
    return std::unexpected(Error{Errc::os, std::string(step) + ": " + std::strerror(errno), {}});
  };
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return error("sigprocmask");
  Fd fd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd) return error("signalfd");
  return fd;
}

int next_signal(int fd) {
  signalfd_siginfo info{};
  const auto n = ::read(fd, &info, sizeof info);
  return n == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace ebb::supervisor
