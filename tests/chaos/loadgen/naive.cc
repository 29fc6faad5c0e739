#include "tests/chaos/loadgen/naive.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include <cstdlib>
#include <vector>

#include "tests/chaos/loadgen/origin.h"

namespace ebb::loadgen {

namespace {

constexpr long kTidyingNs = 5'000'000;  // what a server does between TERM and close(); the kernel queues meanwhile

volatile sig_atomic_t leave = 0;

struct Worker {
  pid_t pid = -1;
  Fd up;  // readable (a byte) when it listens
};

/// Accepts until TERM, finishes what it has accepted, for at most 10 s.
[[noreturn]] void serve(std::uint16_t port, int up) {
  struct sigaction action{};
  action.sa_handler = [](int) { leave = 1; };
  ::sigaction(SIGTERM, &action, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  Poller poller;
  Origin origin(poller, port, true);
  if (::write(up, "u", 1) != 1) std::_Exit(1);
  std::int64_t until = INT64_MAX;
  while (now_us() < until && (leave == 0 || origin.open() > 0)) {
    poller.wait(20);
    if (leave != 0 && origin.listeners() > 0) {
      const timespec tidying{.tv_nsec = kTidyingNs};
      ::nanosleep(&tidying, nullptr);
      origin.close_listener();
      until = now_us() + 10'000'000;
    }
  }
  std::_Exit(0);
}

std::vector<Worker> start_generation(std::uint16_t port, int workers) {
  std::vector<Worker> made;
  for (int i = 0; i < workers; ++i) {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::close(ends[0]);
      serve(port, ends[1]);
    }
    ::close(ends[1]);
    made.push_back({pid, Fd(ends[0])});
  }
  for (Worker& worker : made) {
    char byte = 0;
    if (::read(worker.up.get(), &byte, 1) != 1) std::exit(1);
    worker.up.reset();
  }
  return made;
}

void end_generation(std::vector<Worker>& workers) {
  for (const Worker& worker : workers) ::kill(worker.pid, SIGTERM);
  workers.clear();
}

}  // namespace

int run_naive_server(std::uint16_t port, int workers, int generation_ms) {
  const std::int64_t generation_us = std::int64_t{generation_ms} * 1000;
  Poller poller;
  bool stop = false;
  Commands commands(poller, [&](std::string_view line) { stop = stop || line == "stop"; });
  int generations = 1;
  auto current = start_generation(port, workers);
  print_line("{\"ready\":true}");
  std::int64_t next = now_us() + generation_us;
  while (!stop) {
    poller.wait(static_cast<int>(std::max<std::int64_t>(0, (next - now_us()) / 1000)));
    if (now_us() < next) continue;
    auto fresh = start_generation(port, workers);
    end_generation(current);
    current = std::move(fresh);
    ++generations;
    next = now_us() + generation_us;
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
  end_generation(current);
  while (::waitpid(-1, nullptr, 0) > 0) {
  }
  JsonWriter json;
  json.object().key("generations").number(generations).end();
  print_line(json.str());
  return 0;
}

}  // namespace ebb::loadgen
