#include "common/net/loop.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/net/lag.h"
#include "common/net/stream.h"
#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"

namespace ebb::net {
namespace {

using namespace std::chrono_literals;
using test::ManualLoop;
using test::MemoryFaults;
using test::MemoryStream;

struct Ears final : StreamObserver {
  std::function<void()> readable;
  std::function<void()> writable;
  void on_readable() override { readable ? readable() : void(); }
  void on_writable() override { writable ? writable() : void(); }
};

IoResult write_text(Stream& stream, std::string_view text) {
  const iovec piece{const_cast<char*>(text.data()), text.size()};
  return stream.write(std::span(&piece, 1));
}

TEST(Loop, ReportsReadinessOnlyWhileItIsWatchedAndKeepsItMeanwhile) {
  ManualLoop loop;
  auto [near, far] = MemoryStream::pair(loop);
  Ears ears;
  int told = 0;
  ears.readable = [&] { ++told; };
  near->observe(&ears);
  far->put("x");
  loop.turn();
  EXPECT_EQ(told, 0);
  near->watch(true, false);
  loop.turn();
  loop.turn();
  EXPECT_EQ(told, 2) << "unread bytes are reported on every turn";
  near->watch(false, false);
  loop.turn();
  EXPECT_EQ(told, 2);
}

TEST(Loop, CallsEveryReadyStreamOncePerTurn) {
  ManualLoop loop;
  std::string order;
  Ears first_ears, second_ears;
  auto first = MemoryStream::pair(loop);
  auto second = MemoryStream::pair(loop);
  first_ears.readable = [&] { order += 'a'; };
  second_ears.readable = [&] {
    order += 'b';
    std::uint8_t byte;
    second.first->read({&byte, 1});
  };
  first.first->observe(&first_ears);
  second.first->observe(&second_ears);
  first.first->watch(true, false);
  second.first->watch(true, false);
  first.second->put("xx");
  second.second->put("xx");
  loop.turn();
  EXPECT_EQ(order, "ab");
  loop.turn();
  EXPECT_EQ(order, "abab");
  loop.turn();  // the second finds would_block, and is quiet from then on
  loop.turn();
  EXPECT_EQ(order,
            "ababab"
            "a");
}

TEST(Loop, ACallbackMayDestroyItsOwnStreamAndOthersThatAreReady) {
  ManualLoop loop;
  Ears ears;
  int told = 0;
  auto a = MemoryStream::pair(loop);
  auto b = MemoryStream::pair(loop);
  ears.readable = [&] {
    ++told;
    a.first.reset();
    b.first.reset();
  };
  ears.writable = ears.readable;  // whichever comes first ends both
  for (auto* pair : {&a, &b}) {
    pair->first->observe(&ears);
    pair->first->watch(true, true);
    pair->second->put("x");
  }
  loop.settle();
  EXPECT_EQ(told, 1);
}

TEST(Loop, ACallbackMayStopObservingBeforeItsSecondHalf) {
  ManualLoop loop;
  auto [near, far] = MemoryStream::pair(loop);
  Ears ears;
  int told = 0;
  ears.writable = [&] {
    ++told;
    near->observe(nullptr);
  };
  ears.readable = [&] { ++told; };
  near->observe(&ears);
  near->watch(true, true);
  far->put("x");
  loop.turn();
  EXPECT_EQ(told, 1);
}

TEST(Loop, DeferredWorkRunsOnceAfterTheStreamsAndMayScheduleMore) {
  ManualLoop loop;
  struct Work {
    ManualLoop& loop;
    std::string log;
    Deferred second{[](void* self) { static_cast<Work*>(self)->log += "2"; }, this};
    Deferred never{[](void* self) { static_cast<Work*>(self)->log += "!"; }, this};
    Deferred first{[](void* self) {
                     auto& work = *static_cast<Work*>(self);
                     work.log += "1";
                     work.never.cancel();
                     work.loop.defer(work.second);
                   },
                   this};
  } work{loop, {}};
  loop.defer(work.first);
  loop.defer(work.first);
  loop.defer(work.never);
  loop.settle();
  EXPECT_EQ(work.log, "12");
}

TEST(Loop, TimersFireAsTimePasses) {
  ManualLoop loop;
  int fired = 0;
  Timer timer([](void* n) { ++*static_cast<int*>(n); }, &fired);
  loop.arm(timer, 100ms);
  loop.advance(99ms);
  EXPECT_EQ(fired, 0);
  loop.advance(9ms);
  EXPECT_EQ(fired, 1);
}

TEST(MemoryStream, LimitsReadsWritesAndCapacity) {
  ManualLoop loop;
  MemoryFaults narrow;
  narrow.capacity = 10;
  narrow.max_write = 4;
  MemoryFaults slow;
  slow.max_read = 3;
  auto [near, far] = MemoryStream::pair(loop, narrow, slow);
  EXPECT_EQ(write_text(*near, "abcdefgh").bytes, 4u);
  EXPECT_EQ(write_text(*near, "efgh").bytes, 4u);
  EXPECT_EQ(write_text(*near, "ijkl").bytes, 2u);
  EXPECT_EQ(write_text(*near, "kl").kind, IoResult::Kind::would_block);
  Bytes into(100);
  EXPECT_EQ(far->read(into).bytes, 3u);
  EXPECT_EQ(write_text(*near, "kl").bytes, 2u);
  EXPECT_EQ(as_text(far->take()), "defghijkl");
}

TEST(MemoryStream, BlocksEveryNthCallAndRecovers) {
  ManualLoop loop;
  MemoryFaults faults;
  faults.block_every = 2;
  auto [near, far] = MemoryStream::pair(loop, faults);
  Ears ears;
  std::string got;
  ears.readable = [&] {
    std::uint8_t byte;
    if (near->read({&byte, 1}).kind == IoResult::Kind::ok) got += static_cast<char>(byte);
  };
  near->observe(&ears);
  near->watch(true, false);
  far->put("hello");
  loop.settle();
  EXPECT_EQ(got, "hello");
}

TEST(MemoryStream, EndsAndResetsAtTheChosenByte) {
  ManualLoop loop;
  Bytes into(100);
  {
    MemoryFaults faults;
    faults.end_after = 3;
    auto [near, far] = MemoryStream::pair(loop, faults);
    far->put("abcdef");
    EXPECT_EQ(near->read(into).bytes, 3u);
    EXPECT_EQ(near->read(into).kind, IoResult::Kind::end);
  }
  {
    MemoryFaults faults;
    faults.reset_after = 2;
    auto [near, far] = MemoryStream::pair(loop, faults);
    far->put("abcdef");
    EXPECT_EQ(near->read(into).bytes, 2u);
    EXPECT_EQ(near->read(into).error, ECONNRESET);
    EXPECT_EQ(far->read(into).error, ECONNRESET);
  }
}

TEST(MemoryStream, ClosingTellsThePeer) {
  ManualLoop loop;
  Bytes into(100);
  auto [near, far] = MemoryStream::pair(loop);
  near->put("last words");
  near.reset();
  EXPECT_EQ(far->read(into).bytes, 10u);
  EXPECT_EQ(far->read(into).kind, IoResult::Kind::end);
  EXPECT_EQ(write_text(*far, "x").error, EPIPE);

  auto [unread, peer] = MemoryStream::pair(loop);
  peer->put("never read");
  unread.reset();
  EXPECT_EQ(peer->read(into).error, ECONNRESET);
}

struct SlowLoop : test::ManualLoop {
  void stand_still(Duration time) { set_now(now() + time); }
};

TEST(LagMeter, TellsTheLongestStandstillSinceTheLastQuestion) {
  SlowLoop loop;
  LagMeter lag(loop);
  loop.advance(std::chrono::seconds(2));
  EXPECT_LE(lag.take(), std::chrono::milliseconds(8));
  loop.stand_still(std::chrono::seconds(6));
  loop.advance(Duration(0));
  loop.advance(std::chrono::seconds(2));
  EXPECT_GE(lag.take(), std::chrono::seconds(6) - LagMeter::kTick);
  EXPECT_EQ(lag.take(), Duration(0));
}

}  // namespace
}  // namespace ebb::net
