// fork + exec of our own binary (or another), with nothing inherited but what is named. spec/processes.md 2, 11.
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace ebb::supervisor {

/// The first descriptor handed to a child: its ctl link.
inline constexpr int kCtlFd = 3;

/// An executable held open, so that a file replaced on disk half-way is never run.
class Binary {
 public:
  /// The running program itself.
  static Result<Binary> self() { return open("/proc/self/exe"); }
  static Result<Binary> open(const char* path);
  int fd() const { return fd_.get(); }

 private:
  explicit Binary(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

struct SpawnOptions {
  std::string title;              // argv[0]: what `ps` shows
  std::vector<std::string> args;  // argv[1…]
  std::span<const int> fds;       // become 3, 4, … in the child; at most 16
  int oom_score_adj = 0;          // best effort
  std::optional<unsigned long> max_open_files;
  std::vector<std::string> environment;  // "NAME=value", before ours of the same name
  bool die_with_parent = false;          // PR_SET_PDEATHSIG KILL: for helpers, never for those that outlive a crash
};

struct Process {
  pid_t pid = -1;
  Fd pidfd;  // readable once the process has ended
};

/// Starts `binary`. The child gets standard input from /dev/null, our output and error, `fds`, and nothing else; signal
/// dispositions are reset, PIPE stays ignored, the signal mask is inherited as it is (blocked until the child reads
/// it). Call from a process without threads. Errors: os, with the step that failed, also when exec itself fails.
Result<Process> spawn(const Binary& binary, const SpawnOptions& options);
/// The same with whatever `path` names now, a script too: for a new binary.
Result<Process> spawn(const std::string& path, const SpawnOptions& options);

/// How a process ended.
struct ExitStatus {
  bool signalled = false;
  int code = 0;              // exit code, or the signal's number
  std::string text() const;  // "exit code 1", "signal 9 (Killed)"
  friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};

struct Ended {
  pid_t pid = -1;
  ExitStatus status;
};
/// Collects one ended child, if there is any. Call until it says nullopt.
std::optional<Ended> reap_one();

}  // namespace ebb::supervisor
