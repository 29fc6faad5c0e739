// What peers did that none may do, in the log: what is kept quiet is counted once.
#include "worker/tunnel/violations.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/log_lines.h"

namespace ebb::tunnel {
namespace {

using namespace std::chrono_literals;

/// The lines are a thread's: on one of its own, no other test has just said any.
template <class Body>
void alone(Body body) {
  std::thread(body).join();
}

reverse::Violations after_fin(std::uint64_t times) {
  reverse::Violations out;
  out.after_fin = times;
  return out;
}

TEST(ViolationLog, CountsEachEventThatItKeptQuietOnce) {
  test::LogLines log;
  alone([&] {
    const TimePoint begin = Clock::now();
    ViolationLog a, b;
    b.look(after_fin(1), TunnelId{2}, "b", begin);
    for (int chunk = 0; chunk < 5000; ++chunk) a.look(after_fin(1), TunnelId{1}, "a", begin);
    EXPECT_EQ(log.count("tunnel=1"), 0u) << "in the same second";
    a.look(after_fin(2), TunnelId{1}, "a", begin + 1s);
    EXPECT_EQ(log.count("tunnel=1 peer=a times=2 others=1\n"), 1u);
  });
}

TEST(ViolationLog, CountsEventsAndNotTheChunksTheyCameIn) {
  test::LogLines log;
  alone([&] {
    const TimePoint begin = Clock::now();
    ViolationLog b;
    b.look(after_fin(1), TunnelId{2}, "b", begin);
    {
      ViolationLog a;
      a.look(after_fin(7), TunnelId{1}, "a", begin);
    }
    b.look(after_fin(2), TunnelId{2}, "b", begin + 1s);
    EXPECT_EQ(log.count("tunnel=2 peer=b times=2 others=7\n"), 1u) << "also of one that has ended";
    b.look(after_fin(5), TunnelId{2}, "b", begin + 2s);
    EXPECT_EQ(log.count("tunnel=2 peer=b times=5\n"), 1u) << "what has been said is not said again";
  });
}

}  // namespace
}  // namespace ebb::tunnel
