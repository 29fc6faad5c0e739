// Time points. Code below common/protocol and common/reverse takes "now" as an argument and never asks a clock.
#pragma once

#include <chrono>
#include <cstdint>

namespace ebb {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC: timers and deadlines
using TimePoint = Clock::time_point;
using Duration = Clock::duration;
using UnixSeconds = std::int64_t;  // real time, for VMess windows only; re-read on every use

}  // namespace ebb
