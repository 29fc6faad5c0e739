// Relays between sockets: bytes, back-pressure, half-close, timers. In memory, time moved by hand.
#include "worker/relay/relay.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "worker/relay/shortage.h"
#include "worker/relay/socket_side.h"

namespace ebb::relay {
namespace {

using test::ManualLoop;
using test::MemoryFaults;
using test::MemoryStream;
using namespace std::chrono_literals;

Bytes random_bytes(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  Bytes out(n);
  for (auto& b : out) b = static_cast<std::uint8_t>(generator());
  return out;
}

/// visitor (test's end) <-> client side | relay | origin side <-> origin (test's end)
struct Fixture {
  explicit Fixture(MemoryFaults client_faults = {}, MemoryFaults origin_faults = {}, RelayTimes times = {}) {
    auto [visitor_end, client_end] = MemoryStream::pair(loop, {}, client_faults);
    auto [origin_test_end, origin_end] = MemoryStream::pair(loop, {}, origin_faults);
    visitor = std::move(visitor_end);
    origin = std::move(origin_test_end);
    auto client_side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    auto origin_side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    SocketSide& c = *client_side;
    SocketSide& o = *origin_side;
    relays.start(std::move(client_side), std::move(origin_side), times);
    c.attach(std::move(client_end));
    o.attach(std::move(origin_end));
    loop.settle();
  }
  ManualLoop loop;
  BlockPool blocks;
  std::unique_ptr<MemoryStream> visitor, origin;
  Relays relays{loop};
};

TEST(Relay, CarriesBytesBothWaysUnderFaults) {
  MemoryFaults rough;
  rough.capacity = 5000;
  rough.max_read = 777;
  rough.max_write = 333;
  rough.block_every = 3;
  Fixture f(rough, rough);
  const Bytes up = random_bytes(300'000, 1);
  const Bytes down = random_bytes(200'000, 2);
  f.visitor->put(up);
  f.origin->put(down);
  Bytes got_up, got_down;
  for (int i = 0; i < 2000 && (got_up.size() < up.size() || got_down.size() < down.size()); ++i) {
    f.loop.settle();
    for (auto [end, got] : {std::pair{f.origin.get(), &got_up}, {f.visitor.get(), &got_down}}) {
      const Bytes more = end->take();
      got->insert(got->end(), more.begin(), more.end());
    }
  }
  EXPECT_EQ(got_up, up);
  EXPECT_EQ(got_down, down);
}

TEST(Relay, StopsReadingWhenTheConsumerStands) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f({}, standing);
  const Bytes up = random_bytes(8 << 20, 3);
  f.visitor->put(up);
  f.loop.settle();
  EXPECT_LE(f.blocks.bytes_in_use(), Wire::kHigh + net::Loop::kReadBytes + 4 * BlockPool::kBlockBytes);
  Bytes got;
  while (got.size() < up.size()) {
    const Bytes more = f.origin->take();
    ASSERT_FALSE(more.empty()) << "stuck at " << got.size();
    got.insert(got.end(), more.begin(), more.end());
    f.loop.settle();
  }
  EXPECT_EQ(got, up);
}

/// A second visitor and his origin beside those of the fixture.
std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>> more(Fixture& f, MemoryFaults client_faults) {
  auto [visitor, client_end] = MemoryStream::pair(f.loop, {}, client_faults);
  auto [origin, origin_end] = MemoryStream::pair(f.loop);
  auto client = std::make_unique<SocketSide>(f.loop, f.blocks, layers::Stack());
  auto back = std::make_unique<SocketSide>(f.loop, f.blocks, layers::Stack());
  SocketSide& c = *client;
  SocketSide& o = *back;
  f.relays.start(std::move(client), std::move(back), {});
  c.attach(std::move(client_end));
  o.attach(std::move(origin_end));
  return {std::move(visitor), std::move(origin)};
}

TEST(Shortage, ResetsWhoTakesTooLittleAndNoMoreThanItTakes) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f(standing);
  Shortage shortage(f.loop, f.blocks);
  shortage.set_limits({64 << 10, 10s});
  auto [slow, slow_origin] = more(f, {});
  auto [second, second_origin] = more(f, standing);
  f.origin->put(Bytes(8 << 20, 1));
  second_origin->put(Bytes(200'000, 1));  // a shorter queue than the first one's
  f.loop.settle();
  f.blocks.set_limit(f.blocks.bytes_in_use() - 1);
  slow_origin->put(Bytes(64 << 20, 1));  // takes the block that is one too many
  for (int i = 0; i < 99; ++i) {
    f.loop.advance(100ms);
    slow->take();
    EXPECT_FALSE(f.visitor->was_reset()) << i;
  }
  f.loop.advance(1s);
  EXPECT_TRUE(f.visitor->was_reset());
  EXPECT_FALSE(slow->was_reset());
  EXPECT_FALSE(second->was_reset()) << "enough was free again";
  EXPECT_EQ(shortage.resets(), 1u);
}

/// He takes all that is there, which is little, and is sent more just before he is judged.
TEST(Shortage, SparesWhoTookAllThereWas) {
  MemoryFaults standing, small;
  standing.capacity = 1000;
  small.capacity = 1000;
  Fixture f(standing);
  Shortage shortage(f.loop, f.blocks);
  auto [quick, quick_origin] = more(f, small);
  quick_origin->put(Bytes(5000, 1));
  f.origin->put(Bytes(8 << 20, 1));
  f.loop.settle();
  f.blocks.set_limit(BlockPool::kBlockBytes / 2);  // whoever holds anything is too much
  auto [third, third_origin] = more(f, standing);
  third_origin->put(Bytes(5000, 1));
  f.loop.advance(1s);
  while (!quick->take().empty()) f.loop.settle();
  f.loop.advance(8s);
  quick_origin->put(Bytes(5000, 1));
  f.loop.advance(2s);
  EXPECT_TRUE(f.visitor->was_reset());
  EXPECT_TRUE(third->was_reset());
  EXPECT_FALSE(quick->was_reset());
}

TEST(Relay, AnswersAfterTheClientHalfClosed) {
  Fixture f;
  f.visitor->put("question");
  f.visitor->shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(f.origin->take()), "question");
  EXPECT_TRUE(f.origin->ended());
  f.loop.advance(900ms);
  f.origin->put("answer");
  f.loop.advance(900ms);
  f.origin->put("!");
  f.origin->shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(f.visitor->take()), "answer!");
  EXPECT_TRUE(f.visitor->ended());
  EXPECT_FALSE(f.visitor->was_reset());
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Relay, EndsAHalfClosedConnectionWithoutAnswer) {
  Fixture f;
  f.visitor->shutdown_write();
  f.loop.advance(1100ms);
  EXPECT_EQ(f.relays.size(), 0u);
  EXPECT_TRUE(f.visitor->ended());
}

TEST(Relay, EndsIdleConnectionsAfterTheirTime) {
  Fixture f;
  f.loop.advance(299s);
  f.visitor->put("x");
  f.loop.advance(299s);
  EXPECT_EQ(f.relays.size(), 1u);
  f.loop.advance(2s);
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Relay, ResetsTheOtherSideOfABrokenOne) {
  Fixture f;
  f.origin->put("half an ans");
  f.loop.settle();
  f.origin->reset();
  f.loop.settle();
  EXPECT_TRUE(f.visitor->was_reset());
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Relay, DeliversWhatIsQueuedBeforeTheEnd) {
  MemoryFaults slow;
  slow.capacity = 1000;
  Fixture f(slow, {});
  const Bytes down = random_bytes(500'000, 4);
  f.origin->put(down);
  f.origin->shutdown_write();
  Bytes got;
  for (int i = 0; i < 600; ++i) {
    f.loop.advance(10ms);
    const Bytes more = f.visitor->take();
    got.insert(got.end(), more.begin(), more.end());
  }
  EXPECT_EQ(got, down);
  EXPECT_TRUE(f.visitor->ended());
  EXPECT_FALSE(f.visitor->was_reset());
}

TEST(Relay, WaitsForAConsumerThatPausesBeforeTheEnd) {
  MemoryFaults slow;
  slow.capacity = 1000;
  Fixture f(slow, {});
  const Bytes down = random_bytes(500'000, 5);
  f.origin->put(down);
  f.origin->shutdown_write();
  Bytes got;
  while (got.size() < down.size()) {
    f.loop.advance(got.size() < 3000 ? 20s : 1ms);  // the policy's second is for silence, not for undelivered bytes
    const Bytes more = f.visitor->take();
    ASSERT_FALSE(more.empty()) << "cut at " << got.size();
    got.insert(got.end(), more.begin(), more.end());
  }
  f.loop.advance(1100ms);
  EXPECT_EQ(got, down);
  EXPECT_TRUE(f.visitor->ended());
  f.visitor->shutdown_write();
  f.loop.advance(3s);
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Relay, EndsAConsumerThatTakesNothingAfterTheIdleTime) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f(standing, {});
  f.origin->put(random_bytes(500'000, 6));
  f.origin->shutdown_write();
  f.loop.advance(290s);
  EXPECT_EQ(f.relays.size(), 1u);
  f.loop.advance(15s);
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Relay, DeliversToOneSideThoughTheOtherBreaksWhileWindingDown) {
  MemoryFaults slow;
  slow.capacity = 1000;
  Fixture f(slow, slow);
  const Bytes up = random_bytes(400'000, 7);
  const Bytes down = random_bytes(500'000, 8);
  f.visitor->put(up);
  f.visitor->shutdown_write();
  f.origin->put(down);
  f.origin->shutdown_write();
  f.loop.settle();
  f.origin->reset();
  Bytes got;
  for (int i = 0; i < 600; ++i) {
    f.loop.advance(1ms);
    const Bytes more = f.visitor->take();
    got.insert(got.end(), more.begin(), more.end());
  }
  EXPECT_EQ(got, down);
  EXPECT_TRUE(f.visitor->ended());
  EXPECT_FALSE(f.visitor->was_reset());
  EXPECT_EQ(f.relays.size(), 0u);
}

}  // namespace
}  // namespace ebb::relay
