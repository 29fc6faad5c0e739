// How long a process that was told to leave may go on, where `timers.hardStopAfter` is not set.
#pragma once

#include "common/config/config.h"

namespace ebb::config {

inline constexpr Millis kHardStopWorkers = std::chrono::hours(1);
inline constexpr Millis kHardStopBrokers = std::chrono::hours(24);  // they carry what bridges keep open for days

}  // namespace ebb::config
