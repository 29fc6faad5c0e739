// Runs a real loop until something holds: no sleeping, and a limit that fails the test instead of hanging it.
#pragma once

#include <uv.h>

#include "common/net/uv_loop.h"

namespace ebb::test {

/// Asks `holds` after every turn, and every 8 ms when nothing happens on the loop. Not again once it was true.
template <class Predicate>
bool run_until(net::UvLoop& loop, Predicate holds, Duration limit = std::chrono::seconds(10)) {
  net::Timer tick([](void*) {}, nullptr);
  const TimePoint give_up = Clock::now() + limit;
  while (!holds()) {
    if (Clock::now() > give_up) return false;
    loop.woken();
    loop.arm(tick, std::chrono::milliseconds(8));
    uv_run(loop.raw(), UV_RUN_ONCE);
  }
  return true;
}

}  // namespace ebb::test
