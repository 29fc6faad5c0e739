// What a process of ours arranges about itself: title, limits, signals. spec/processes.md 10, 11, 14.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace ebb::supervisor {

/// Rewrites what `ps` shows for this process (argument area, and with it the environment's: that is copied away first)
/// and sets the kernel's short name `comm` (at most 15 bytes). Call once, early, with main's own argv.
void set_title(int argc, char** argv, std::string_view title, const char* comm);

/// Raises RLIMIT_NOFILE to its hard limit; returns what is in force.
unsigned long raise_open_files();

/// Best effort; lowering needs a privilege.
void set_oom_score(int adjustment);

/// The signals the supervisor takes by signalfd: TERM INT QUIT HUP USR1 USR2 WINCH CHLD TTIN TTOU. Also ignores PIPE.
/// Blocks them (children inherit that: no default action can hit them around exec) and returns the signalfd
/// (non-blocking, CLOEXEC). Errors: os.
Result<Fd> take_signals();
/// The next signal waiting in `fd`, 0 when there is none.
int next_signal(int fd);

}  // namespace ebb::supervisor
