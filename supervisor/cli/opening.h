// From an invocation to a configuration that may be used: checked, its log files open.
#pragma once

#include <optional>
#include <string>

#include "common/config/config.h"
#include "supervisor/process/checker.h"
#include "supervisor/process/log_files.h"

namespace ebb::supervisor {

struct Opened {
  std::optional<config::Config> config;  // absent: do not go on, everything is said; leave with `exit`
  int exit = 0;
  std::string problem;  // what was said
  CheckVerdict verdict;
  LogFiles logs;
};

/// Runs the checker, prints its diagnostics to standard error and opens the log files (as V2Ray does even for -test).
/// `interrupt`: take_signals(), or -1.
Opened open_configuration(const Binary& binary, const config::Invocation& invocation, int interrupt = -1);

}  // namespace ebb::supervisor
