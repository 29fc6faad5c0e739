// What the commands do. Each returns the exit status (spec/config.md 2.3).
#pragma once

#include "supervisor/cli/cli.h"

namespace ebb::supervisor {

inline constexpr int kExitOk = 0;
inline constexpr int kExitStart = 1;  // it could not start, for a reason other than its configuration
inline constexpr int kExitUsage = 2;
inline constexpr int kExitConfig = 23;  // service managers do not restart on it

/// `argc`, `argv`: main's own, for the process title.
int run_service(const Command& command, int argc, char** argv);
int test_configuration(const Command& command);
/// Every finding, remarks too; 23 when one is an error, even one with which `run` starts (spec/config.md 18).
int analyse_configuration(const Command& command);
int dump_configuration(const Command& command);
int print_version();
int print_uuid();
int control(const Command& command);

}  // namespace ebb::supervisor
