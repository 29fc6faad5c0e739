// Runs a real loop until something holds: no sleeping, and a limit that fails the test instead of hanging it.
#pragma once

#include <uv.h>

#include "common/net/uv_loop.h"

namespace ebb::test {

template <class Predicate>
bool run_until(net::UvLoop& loop, Predicate holds, Duration limit = std::chrono::seconds(10)) {
  bool late = false;
  net::Timer guard([](void* flag) { *static_cast<bool*>(flag) = true; }, &late);
  // The loop's time is that of its last wake-up, which may be long ago.
  loop.run_once();
  loop.arm(guard, limit);
  while (!holds() && !late) uv_run(loop.raw(), UV_RUN_ONCE);
  return holds();
}

}  // namespace ebb::test
