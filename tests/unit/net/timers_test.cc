#include "common/net/timers.h"

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace ebb::net {
namespace {

using namespace std::chrono_literals;

constexpr Duration kGrain = 8ms;

struct Alarm {
  explicit Alarm(std::function<void()> does) : work(std::move(does)) {}
  std::function<void()> work;
  int fired = 0;
  Timer timer{[](void* self) {
                auto& alarm = *static_cast<Alarm*>(self);
                ++alarm.fired;
                if (alarm.work) alarm.work();
              },
              this};
};

class TimersTest : public testing::Test {
 protected:
  TimePoint now = TimePoint(123'456'789ns);
  Timers timers{now};
  /// Moves on as a loop does: to next_due() when that is earlier.
  void advance(Duration by) {
    const TimePoint until = now + by;
    while (timers.next_due() && *timers.next_due() < until) {
      now = std::max(now, *timers.next_due());
      timers.run(now);
    }
    now = until;
    timers.run(now);
  }
};

TEST_F(TimersTest, FiresAtEveryHorizonNeverEarlyAndAtMostOneGrainLate) {
  for (const Duration after :
       std::initializer_list<Duration>{0ms, 1ms, 8ms, 9ms, 2039ms, 2040ms, 2047ms, 2048ms, 2049ms, 10s, 60s, 300s, 524s,
                                       525s, 1048s, 1049s, 3600s, 7200s}) {
    TimePoint fired_at{};
    Alarm alarm([&] { fired_at = now; });
    timers.arm(alarm.timer, now, after);
    const TimePoint due = now + after;
    ASSERT_TRUE(timers.next_due());
    ASSERT_LE(*timers.next_due(), due + kGrain);
    advance(after + kGrain);
    ASSERT_EQ(alarm.fired, 1) << after.count();
    EXPECT_GE(fired_at, due) << after.count();
    EXPECT_LE(fired_at, due + kGrain) << after.count();
    EXPECT_FALSE(alarm.timer.armed());
    advance(3ms);  // another phase next time
  }
}

TEST_F(TimersTest, FiresOnceAfterALongSleepOfTheLoop) {
  Alarm soon({});
  Alarm late({});
  timers.arm(soon.timer, now, 10ms);
  timers.arm(late.timer, now, 1h);
  now += 50min;
  timers.run(now);
  EXPECT_EQ(soon.fired, 1);
  EXPECT_EQ(late.fired, 0);
  now += 50min;
  timers.run(now);
  EXPECT_EQ(late.fired, 1);
  EXPECT_FALSE(timers.next_due());
}

TEST_F(TimersTest, RearmMovesAndDisarmForgets) {
  Alarm moved({});
  Alarm forgotten({});
  timers.arm(moved.timer, now, 20ms);
  timers.arm(forgotten.timer, now, 20ms);
  timers.arm(moved.timer, now, 5s);
  forgotten.timer.disarm();
  advance(4s);
  EXPECT_EQ(moved.fired + forgotten.fired, 0);
  EXPECT_TRUE(moved.timer.armed());
  advance(1s + kGrain);
  EXPECT_EQ(moved.fired, 1);
  EXPECT_EQ(forgotten.fired, 0);
}

TEST_F(TimersTest, CallbacksMayDisarmDestroyAndRearmOthersDueInTheSameTick) {
  auto destroyed = std::make_unique<Alarm>(nullptr);
  Alarm disarmed({});
  Alarm postponed({});
  Alarm first([&] {
    destroyed.reset();
    disarmed.timer.disarm();
    timers.arm(postponed.timer, now, 1s);
  });
  timers.arm(first.timer, now, 10ms);
  timers.arm(destroyed->timer, now, 10ms);
  timers.arm(disarmed.timer, now, 10ms);
  timers.arm(postponed.timer, now, 10ms);
  advance(500ms);
  EXPECT_EQ(first.fired, 1);
  EXPECT_EQ(disarmed.fired + postponed.fired, 0);
  advance(600ms);
  EXPECT_EQ(postponed.fired, 1);
}

TEST_F(TimersTest, ACallbackMayArmItselfForOneTurnOfTheWheel) {
  // 256 ticks on is the slot that is being fired right now.
  std::vector<TimePoint> at;
  Alarm alarm({});
  alarm.work = [&] {
    at.push_back(now);
    if (at.size() < 3) timers.arm(alarm.timer, now, 2048ms);
  };
  timers.arm(alarm.timer, now, 2048ms);
  advance(10s);
  ASSERT_EQ(at.size(), 3u);
  EXPECT_GE(at[1] - at[0], 2048ms);
  EXPECT_GE(at[2] - at[1], 2048ms);
}

TEST_F(TimersTest, ACallbackMayDestroyItsOwnTimer) {
  auto alarm = std::make_unique<Alarm>(nullptr);
  int fired = 0;
  alarm->work = [&] {
    ++fired;
    auto gone = std::move(alarm);
  };
  timers.arm(alarm->timer, now, 30ms);
  advance(1s);
  EXPECT_EQ(fired, 1);
  EXPECT_FALSE(alarm);
}

TEST_F(TimersTest, TimersOutliveTheWheel) {
  Alarm alarm({});
  {
    Timers short_lived(now);
    short_lived.arm(alarm.timer, now, 1h);
  }
  EXPECT_FALSE(alarm.timer.armed());
}

TEST_F(TimersTest, AgreesWithAReferenceOnManyRandomTimers) {
  std::mt19937 random(7);
  struct One {
    std::unique_ptr<Alarm> alarm;
    std::optional<TimePoint> due;
  };
  std::vector<One> all(400);
  int wrong = 0;
  int fired = 0;
  for (auto& one : all) {
    one.alarm = std::make_unique<Alarm>([&] {
      ++fired;
      if (!one.due || now < *one.due || now > *one.due + kGrain) ++wrong;
      one.due.reset();
    });
  }
  const auto random_delay = [&]() -> Duration {
    const std::uint64_t widest = std::uint64_t{1} << (random() % 43);  // up to 2.4 h in ns
    return Duration(random() * std::uint64_t{4294967296} % widest + random() % 4096);
  };
  for (int step = 0; step < 20'000; ++step) {
    One& one = all[random() % all.size()];
    if (random() % 8 == 0) {
      one.alarm->timer.disarm();
      one.due.reset();
    } else {
      const Duration after = random_delay();
      timers.arm(one.alarm->timer, now, after);
      one.due = now + after;
    }
    if (random() % 4 == 0) advance(Duration(random_delay() / 64));
    for (const auto& each : all) ASSERT_EQ(each.due.has_value(), each.alarm->timer.armed());
  }
  advance(3h);
  for (const auto& each : all) EXPECT_FALSE(each.due);
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(fired, 1000);
}

}  // namespace
}  // namespace ebb::net
