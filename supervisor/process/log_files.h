// The two log files of a configuration: opened here, children get descriptors. spec/processes.md 11, spec/config.md 6.
#pragma once

#include <optional>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/config/config.h"

namespace ebb::supervisor {

struct LogFiles {
  std::optional<Fd> error;  // absent: off
  std::optional<Fd> access;
};

/// Errors: os; `where` is the key of the configuration, "$.log.error".
Result<LogFiles> open_logs(const config::Log& log);
/// Whether both lead to the same files.
bool same_files(const config::Log& a, const config::Log& b);

/// The descriptor again, close-on-exec.
std::optional<Fd> copy(const std::optional<Fd>& file);

}  // namespace ebb::supervisor
