// epoll, the clock and stdin's commands: all that the load generator's modes share about waiting.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/fd.h"

namespace ebb::loadgen {

/// CLOCK_MONOTONIC in microseconds: the clock of Python's time.monotonic(), so times can be compared with actions'.
std::int64_t now_us();

/// Something with a descriptor. It may close itself in on_event(), nobody else's.
class Watcher {
 public:
  virtual void on_event(std::uint32_t events) = 0;

 protected:
  ~Watcher() = default;
};

class Poller {
 public:
  Poller();
  /// False for what cannot be waited for, such as /dev/null.
  bool add(int fd, std::uint32_t events, Watcher& watcher) { return change(EPOLL_CTL_ADD, fd, events, watcher); }
  void modify(int fd, std::uint32_t events, Watcher& watcher) { change(EPOLL_CTL_MOD, fd, events, watcher); }
  void remove(int fd);
  /// Waits at most `timeout_ms` and tells every watcher that has something.
  void wait(int timeout_ms);

 private:
  bool change(int how, int fd, std::uint32_t events, Watcher& watcher);

  Fd epoll_;
};

/// Lines from stdin, at most 64 KiB each. Its end counts as the line "stop": who started us has gone.
class Commands final : public Watcher {
 public:
  Commands(Poller& poller, std::function<void(std::string_view)> run);
  void on_event(std::uint32_t events) override;

 private:
  Poller& poller_;
  std::function<void(std::string_view)> run_;
  std::string line_;
};

/// One line on stdout, at once.
void print_line(std::string_view line);

/// Raises the limit of open files to what is allowed; returns it.
std::uint64_t raise_open_files();

}  // namespace ebb::loadgen
