// The checker: a short-lived child that reads, parses and judges a configuration, so that whatever a file does to a
// parser happens where it costs nothing. spec/processes.md 2, 12 (F7, F8).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/config/invocation.h"
#include "ipc/channel.h"
#include "supervisor/process/spawn.h"

namespace ebb::supervisor {

struct CheckRequest {
  config::Invocation invocation;
  int input = 0;       // read when the invocation leads to standard input
  int interrupt = -1;  // take_signals(): TERM, INT and QUIT end the check; -1: nothing does
  std::chrono::milliseconds limit{30'000};
};

struct CheckVerdict {
  bool accepted = false;
  std::string snapshot;     // canonical JSON when accepted
  std::string diagnostics;  // lines for a person; ends with a newline unless empty
  std::string instance;     // runtime_dir.h: the instance's id, once files were found
  std::string chosen;       // which files, for the log
};

/// One checker at work. Watch fd(); it answers, or ends, or is killed at the limit.
class Checker {
 public:
  static Result<Checker> start(const Binary& binary, const CheckRequest& request);
  Checker(Checker&&) = default;
  Checker& operator=(Checker&&) = delete;
  ~Checker();

  int fd() const { return channel_->fd(); }
  pid_t pid() const { return process_.pid; }
  /// The process was collected by somebody else.
  void ended(const ExitStatus& status) { ended_ = status; }
  /// Reads what came; true once the child has said everything or is gone.
  bool on_readable();
  /// Ends the child if it still runs, collects it and says what it found. Errors: os or timeout, when it crashed or did
  /// not answer (`timed_out`): the configuration is not to be used.
  Result<CheckVerdict> finish(bool timed_out);

 private:
  Checker(Process process, Fd ctl);
  void on_message(ipc::Message& message);

  Process process_;
  std::unique_ptr<ipc::Channel> channel_;
  CheckVerdict verdict_;
  std::optional<Error> broken_;
  unsigned answers_ = 0;
  bool complete_ = false;
  std::optional<ExitStatus> ended_;  // collected
};

/// The whole thing, waiting: at start-up, for `test` and for `dump`. Errors: as finish(), and closed when interrupted.
Result<CheckVerdict> check_configuration(const Binary& binary, const CheckRequest& request);

/// The child: `--role=checker` and what checker_arguments() gave; ctl on fd 3, standard input on fd 4. Returns its exit
/// status.
int run_checker(Fd ctl, Fd input, const std::vector<std::string>& arguments);

/// An invocation as arguments, and back.
std::vector<std::string> checker_arguments(const config::Invocation& invocation);
config::Invocation invocation_from(const std::vector<std::string>& arguments);

/// The instance's id of a set of files: over their absolute names, and over the bytes of standard input among them.
std::string instance_of(const std::vector<config::SourceFile>& files);

}  // namespace ebb::supervisor
