#include "tests/chaos/loadgen/poller.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstdio>

namespace ebb::loadgen {

std::int64_t now_us() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000;
}

Poller::Poller() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) { assert(epoll_); }

bool Poller::change(int how, int fd, std::uint32_t events, Watcher& watcher) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &watcher;
  if (::epoll_ctl(epoll_.get(), how, fd, &event) == 0) return true;
  assert(errno == EPERM);
  return false;
}

void Poller::remove(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void Poller::wait(int timeout_ms) {
  std::array<epoll_event, 512> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  for (int i = 0; i < count; ++i) static_cast<Watcher*>(events[i].data.ptr)->on_event(events[i].events);
}

Commands::Commands(Poller& poller, std::function<void(std::string_view)> run) : poller_(poller), run_(std::move(run)) {
  ::fcntl(0, F_SETFL, ::fcntl(0, F_GETFL) | O_NONBLOCK);
  poller_.add(0, EPOLLIN, *this);
}

void Commands::on_event(std::uint32_t) {
  constexpr std::size_t kLongest = 65'536;
  std::array<char, 4096> part;
  const ssize_t got = ::read(0, part.data(), part.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0 || line_.size() > kLongest) {
    poller_.remove(0);
    return run_("stop");
  }
  line_.append(part.data(), static_cast<std::size_t>(got));
  for (std::size_t end; (end = line_.find('\n')) != std::string::npos;) {
    const std::string line = line_.substr(0, end);
    line_.erase(0, end + 1);
    run_(line);
  }
}

void print_line(std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

std::uint64_t raise_open_files() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

}  // namespace ebb::loadgen
