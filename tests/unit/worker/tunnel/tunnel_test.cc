// Many streams in one tunnel: what arrives, what is held for slow consumers, how tunnels end. closing_test.cc has the
// ends of streams.
#include "worker/tunnel/tunnel.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>

#include "tests/unit/worker/tunnel/tunnel_fixture.h"
#include "worker/relay/shortage.h"

namespace ebb::tunnel {
namespace {

Bytes random_bytes(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  Bytes out(n);
  for (auto& b : out) b = static_cast<std::uint8_t>(generator());
  return out;
}

/// Neither end knows the other for one of ours: streams have no credit.
FixtureOptions stock(TunnelLimits limits) {
  FixtureOptions out;
  out.limits = limits;
  out.hello = false;
  return out;
}

void append(Bytes& to, const Bytes& more) { to.insert(to.end(), more.begin(), more.end()); }

void carry_many_streams(bool plain) {
  FixtureOptions options;
  options.faults.capacity = 60'000;
  options.faults.max_read = 7777;
  options.faults.max_write = 9999;
  options.faults.block_every = 5;
  options.plain = plain;
  Fixture f(options);
  struct Pair {
    std::unique_ptr<MemoryStream> visitor;
    Bytes up, down, got_up, got_down;
  };
  std::map<std::uint16_t, Pair> pairs;
  for (unsigned i = 0; i < 20; ++i) {
    auto [id, visitor] = f.visit();
    Pair pair{
        std::move(visitor), random_bytes(1000 + i * 20'000, i), random_bytes(500'000 - i * 20'000, i + 100), {}, {}};
    pair.visitor->put(pair.up);
    pairs.emplace(id.value, std::move(pair));
  }
  for (int turn = 0; turn < 5000; ++turn) {
    f.loop.settle();
    bool all = true;
    for (auto& [id, pair] : pairs) {
      const auto origin = f.origins.find(id);
      if (origin == f.origins.end()) {
        all = false;
        continue;
      }
      if (pair.got_up.empty() && origin->second->bytes_written == 0) origin->second->put(pair.down);
      append(pair.got_up, origin->second->take());
      append(pair.got_down, pair.visitor->take());
      all = all && pair.got_up.size() == pair.up.size() && pair.got_down.size() == pair.down.size();
    }
    if (all) break;
  }
  for (auto& [id, pair] : pairs) {
    EXPECT_EQ(pair.got_up, pair.up) << id;
    EXPECT_EQ(pair.got_down, pair.down) << id;
  }
}

TEST(Tunnel, CarriesManyStreamsBothWaysUnderFaults) { carry_many_streams(false); }

TEST(Tunnel, CarriesManyStreamsWithoutAnyProtocolBelow) { carry_many_streams(true); }

TEST(Tunnel, AgreesWithOurOwnPeerInOneRoundTrip) {
  Fixture f;
  EXPECT_TRUE(f.portal->plan_.peer_hello());
  EXPECT_TRUE(f.bridge->plan_.peer_hello());
  EXPECT_GT(f.portal->plan_.send_limits().max_data, mux::kMaxData);
}

TEST(Tunnel, ResetsTheVisitorWhenTheOriginIsReset) {
  Fixture f;
  auto [id, visitor] = f.visit();
  f.origins[id.value]->put("half");
  f.loop.settle();
  f.origins[id.value]->reset();
  f.loop.settle();
  EXPECT_TRUE(visitor->was_reset());
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Tunnel, CutsTheOriginWhenTheVisitorIsReset) {
  Fixture f;
  auto [id, visitor] = f.visit();
  visitor->reset();
  f.loop.settle();
  EXPECT_TRUE(f.origins[id.value]->was_reset());
}

TEST(Tunnel, ResetsADeadConsumerAloneAndNeverASlowOne) {
  TunnelLimits limits;
  limits.stream_buffer = 256 * 1024;
  MemoryFaults small;
  small.capacity = 1000;
  Fixture f(stock(limits));
  auto [dead_id, dead] = f.visit(small);
  MemoryFaults steady;
  steady.capacity = 10'000;  // ten times a second: more than min_drain
  auto [slow_id, slow] = f.visit(steady);
  auto [fast_id, fast] = f.visit();
  f.origins[dead_id.value]->put(random_bytes(4 << 20, 1));
  f.origins[slow_id.value]->put(random_bytes(3 << 20, 2));
  f.loop.settle();
  Bytes got_slow;
  for (int i = 0; i < 110; ++i) {  // 11 s: the slow one takes something ten times a second
    append(got_slow, slow->take());
    f.loop.advance(100ms);
  }
  EXPECT_TRUE(dead->was_reset());
  EXPECT_FALSE(slow->was_reset());
  f.origins[fast_id.value]->put("hello");
  for (int i = 0; i < 100'000 && got_slow.size() < (3u << 20); ++i) {
    append(got_slow, slow->take());
    f.loop.advance(1ms);
  }
  EXPECT_EQ(got_slow, random_bytes(3 << 20, 2));
  f.loop.settle();
  EXPECT_EQ(as_text(fast->take()), "hello");
}

TEST(Tunnel, ResetsEveryVisitorWhenItDies) {
  Fixture f;
  auto [a_id, a] = f.visit();
  auto [b_id, b] = f.visit();
  f.bridge.reset();
  f.loop.settle();
  EXPECT_TRUE(a->was_reset());
  EXPECT_TRUE(b->was_reset());
  EXPECT_TRUE(f.portal->over);
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(Tunnel, StaysUpWithoutTrafficForHours) {
  Fixture f;
  f.loop.advance(2h);
  EXPECT_FALSE(f.portal->dead());
  EXPECT_FALSE(f.bridge->dead());
  auto [id, visitor] = f.visit();
  visitor->put("x");
  f.loop.settle();
  EXPECT_EQ(as_text(f.origins[id.value]->take()), "x");
}

TEST(Tunnel, DrainsAndKeepsItsTimer) {
  FixtureOptions options;
  options.drain_after = 2;
  options.hello = false;
  Fixture f(options);
  for (int i = 0; i < 2; ++i) {
    const auto [id, visitor] = f.visit();
    f.origins[id.value]->put("an answer makes the portal look at its deadline, which is now");
    f.loop.settle();
  }
  f.loop.advance(12s);  // the probe without an answer ends after 10 s, and the control stream is there
  EXPECT_EQ(f.portal->plan_.state(), reverse::PortalTunnel::State::draining);
  EXPECT_EQ(f.bridge->plan_.state(), reverse::BridgeTunnel::State::draining) << "the beat did not go out";
  f.loop.advance(60s);  // the relays' idle time is longer: two streams are open
  EXPECT_FALSE(f.portal->dead());
  EXPECT_FALSE(f.bridge->dead());
}

TEST(Tunnel, HoldsNoMoreForAConsumerThanItsLimit) {
  TunnelLimits limits;
  limits.stream_buffer = 2 << 20;
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f(stock(limits));
  auto [id, visitor] = f.visit(standing);
  f.origins[id.value]->put(random_bytes(16 << 20, 1));
  f.loop.settle();  // no time passes: whoever asks by the clock comes too late
  EXPECT_LE(f.blocks.bytes_in_use(), limits.stream_buffer + limits.stream_buffer / 8 + Wire::kHigh + (1 << 20));
}

TEST(Tunnel, CountsEveryConsumerTowardsItsOwnLimit) {
  TunnelLimits limits;
  limits.tunnel_buffer = 8 << 20;
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f(stock(limits));
  std::vector<std::unique_ptr<MemoryStream>> visitors;
  for (int i = 0; i < 64; ++i) {
    auto [id, visitor] = f.visit(standing);
    visitors.push_back(std::move(visitor));
    f.origins[id.value]->put(Bytes(900'000, 1));  // below what stops a single producer
    f.loop.settle();
  }
  EXPECT_LE(f.blocks.bytes_in_use(), limits.tunnel_buffer + limits.tunnel_buffer / 8 + 2 * Wire::kHigh +
                                         visitors.size() * BlockPool::kBlockBytes);
  for (int i = 0; i < 100'000; ++i) {
    std::size_t left = 0;
    for (auto& visitor : visitors) {
      visitor->take();
      left += 900'000 - visitor->bytes_read;
    }
    if (left == 0) break;
    i % 64 == 0 ? f.loop.advance(250ms) : f.loop.settle();
  }
  for (auto& visitor : visitors) EXPECT_EQ(visitor->bytes_read, 900'000u);
}

TEST(Tunnel, StopsWhereTheProcessHoldsItsLimit) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f(stock({}));
  f.blocks.set_limit(3 << 20);
  auto [id, visitor] = f.visit(standing);
  f.origins[id.value]->put(Bytes(16 << 20, 1));
  f.loop.settle();
  EXPECT_LE(f.blocks.bytes_in_use(), (3u << 20) + Wire::kHigh + (3u << 20));  // one step of the check, and the sender's
  f.loop.advance(12s);
  EXPECT_TRUE(visitor->was_reset());
  EXPECT_EQ(f.blocks.bytes_in_use(), 0u);
  EXPECT_FALSE(f.portal->dead());
}

TEST(Tunnel, ReadsOnAsSoonAsTheProcessHasMemoryAgain) {
  MemoryFaults slow;
  slow.capacity = 64 << 10;
  Fixture f(stock({}));
  f.blocks.set_limit(3 << 20);
  auto [id, visitor] = f.visit(slow);
  f.origins[id.value]->put(Bytes(16 << 20, 1));
  f.loop.settle();
  const auto has_come = [&] { return f.portal->tunnel().bytes_in(); };
  const std::uint64_t pressed_at = has_come();
  f.loop.advance(100ms);
  EXPECT_EQ(has_come(), pressed_at);
  f.blocks.set_limit(64 << 20);  // others have given back what they held
  f.loop.advance(100ms);
  EXPECT_GT(has_come(), pressed_at) << "though nobody here has taken anything";
}

/// Others hold the memory, and give it back.
TEST(Tunnel, IsToldWhenOthersGiveMemoryBack) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f(stock({}));
  auto [id, visitor] = f.visit(standing);
  auto [other_id, other] = f.visit();
  f.origins[id.value]->put(Bytes(100'000, 1));
  f.loop.settle();
  relay::OutQueue elsewhere(f.blocks);
  f.blocks.set_limit(f.blocks.bytes_in_use() + BlockPool::kBlockBytes);
  elsewhere.append(Bytes(4 << 20, 1));
  f.origins[id.value]->put(Bytes(1000, 1));
  f.loop.settle();
  f.origins[other_id.value]->put(Bytes(1000, 1));
  f.loop.settle();
  EXPECT_EQ(other->take().size(), 0u) << "nothing is read for want of memory";
  elsewhere.clear();
  f.loop.settle();
  EXPECT_EQ(other->take().size(), 1000u);
  f.loop.advance(11s);
  EXPECT_FALSE(visitor->was_reset()) << "he holds little, and nobody needs it";
}

/// Only one client's own tunnel is given up: here its owner says that it carries many.
TEST(Tunnel, IsSparedWhenMemoryIsShort) {
  MemoryFaults standing;
  standing.capacity = 1000;
  ManualLoop loop;
  BlockPool blocks;
  Relays relays(loop);
  RawPortal portal(loop, blocks, standing);
  relay::Shortage shortage(loop, blocks);
  blocks.set_limit(100'000);
  auto [id, visitor] = portal.visit(loop, blocks, relays);
  visitor->put(Bytes(1 << 20, 1));
  loop.settle();
  EXPECT_GT(blocks.bytes_in_use(), 100'000u);
  loop.advance(10s);
  loop.advance(4s);
  EXPECT_EQ(shortage.resets(), 0u);
}

/// Ours at both ends: each was promised little, and together they hold too much.
TEST(Tunnel, ThousandsWhoTakeNothingStayWithinTheProcessLimit) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f;
  relay::Shortage shortage(f.loop, f.blocks);
  f.blocks.set_limit(8 << 20);
  std::vector<std::unique_ptr<MemoryStream>> stuck;
  for (int i = 0; i < 200; ++i) {
    auto [id, visitor] = f.visit(standing);
    f.origins[id.value]->put(Bytes(1 << 20, 1));
    stuck.push_back(std::move(visitor));
  }
  auto [id, reader] = f.visit();
  f.origins[id.value]->put(Bytes(32 << 20, 1));
  for (int i = 0; i < 500; ++i) {
    f.loop.advance(100ms);
    reader->take();
  }
  EXPECT_LE(f.blocks.bytes_in_use(), 8u << 20);
  EXPECT_GT(shortage.resets(), 0u);
  EXPECT_EQ(static_cast<std::size_t>(std::ranges::count_if(stuck, [](auto& each) { return each->was_reset(); })),
            shortage.resets())
      << "nobody but those who took nothing";
  EXPECT_EQ(reader->bytes_read, 32u << 20);
}

TEST(Tunnel, QueuesNoMoreWhileTheProcessHoldsItsLimit) {
  ManualLoop loop;
  BlockPool blocks;
  Relays relays(loop);
  MemoryFaults standing;
  standing.capacity = 1000;
  RawPortal portal(loop, blocks, standing);
  constexpr std::size_t kLimit = 256 << 10;
  blocks.set_limit(kLimit);
  auto [id, visitor] = portal.visit(loop, blocks, relays);
  const std::size_t bytes = 4 << 20;
  visitor->put(Bytes(bytes, 1));
  loop.settle();
  EXPECT_GT(blocks.bytes_in_use(), kLimit);
  EXPECT_LE(blocks.bytes_in_use(), kLimit + 3 * BlockPool::kBlockBytes);  // one turn, and the relay's
  std::size_t got = 0;
  static_cast<MemoryStream*>(portal.link->tunnel().transport())->faults.capacity = 100'000;
  for (int i = 0; i < 2000 && got < bytes; ++i) {
    got += portal.far->take().size();
    loop.advance(50ms);
  }
  EXPECT_GE(got, bytes) << "who takes what he is sent is served on";
}

TEST(Tunnel, PassesBackPressureOnToAnotherTunnel) {
  TunnelLimits limits;
  limits.stream_buffer = 2 << 20;
  Fixture f(stock(limits));
  MemoryFaults standing;
  standing.capacity = 1000;
  RawPortal next(f.loop, f.blocks, standing);
  f.open_origin = [&] { return next.open().second; };
  auto [id, visitor] = f.visit();
  const std::size_t bytes = 24 << 20;
  visitor->put(Bytes(bytes, 1));
  f.loop.settle();
  EXPECT_LE(f.blocks.bytes_in_use(), 2 * limits.stream_buffer + 2 * Wire::kHigh + (1 << 20));
  std::size_t got = 0;
  static_cast<MemoryStream*>(next.link->tunnel().transport())->faults.capacity = 1 << 20;
  for (int i = 0; i < 2000 && got < bytes; ++i) {
    got += next.far->take().size();
    f.loop.advance(50ms);
  }
  EXPECT_GE(got, bytes);
  EXPECT_FALSE(visitor->was_reset());
}

TEST(Tunnel, ResetsAStreamWhoseNextTunnelIsDead) {
  TunnelLimits limits;
  limits.stream_buffer = 2 << 20;
  Fixture f(stock(limits));
  MemoryFaults standing;
  standing.capacity = 1000;
  RawPortal next(f.loop, f.blocks, standing);
  f.open_origin = [&] { return next.open().second; };
  auto [id, visitor] = f.visit();
  visitor->put(Bytes(24 << 20, 1));
  f.loop.advance(12s);
  EXPECT_TRUE(visitor->was_reset());
  EXPECT_FALSE(f.bridge->dead());
}

TEST(Tunnel, EndsWhenThePeerProvokesAnswersAndReadsNone) {
  ManualLoop loop;
  BlockPool blocks;
  TunnelLimits limits;
  limits.tunnel_buffer = 0;
  MemoryFaults standing;
  standing.capacity = 1000;
  RawPortal portal(loop, blocks, standing, limits);
  Bytes flood(256 * 1024);
  for (std::size_t i = 0; i < flood.size() / 8; ++i) {
    mux::write_keep_head(MutSpan(flood).subspan(8 * i), StreamId{static_cast<std::uint16_t>(30'000 + i % 2)}, 0);
  }
  for (int i = 0; i < 400 && !portal.link->dead(); ++i) {
    portal.far->put(flood);
    loop.settle();
    ASSERT_LE(blocks.bytes_in_use(), 10u << 20);
  }
  EXPECT_TRUE(portal.link->dead());
}

TEST(Tunnel, DeliversItsLastBytesWhenItHasDrained) {
  ManualLoop loop;
  BlockPool blocks;
  Relays relays(loop);
  MemoryFaults small;
  small.capacity = 1000;
  RawPortal portal(loop, blocks, small);
  auto [id, visitor] = portal.visit(loop, blocks, relays);
  visitor->put(Bytes(500'000, 1));
  loop.settle();
  std::array<std::uint8_t, mux::kEndFrame> over;
  mux::write_end(over, id, false);
  portal.far->put(over);
  visitor.reset();
  loop.settle();
  portal.link->plan_.drain(loop.now());
  portal.link->plan_.set_replaced(true);
  portal.link->poke();
  std::size_t got = 0;
  for (int i = 0; i < 3000 && !portal.far->ended(); ++i) {
    loop.advance(10ms);
    got += portal.far->take().size();
  }
  EXPECT_GT(got, 500'000u);
  EXPECT_TRUE(portal.far->ended());
  EXPECT_FALSE(portal.far->was_reset());
  loop.advance(3s);
  EXPECT_TRUE(portal.link->over);
}

TEST(Tunnel, GivesUpItsLastBytesWhenThePeerStands) {
  ManualLoop loop;
  BlockPool blocks;
  MemoryFaults small;
  small.capacity = 10;
  RawPortal portal(loop, blocks, small);
  portal.link->plan_.drain(loop.now());
  portal.link->plan_.set_replaced(true);
  portal.link->poke();
  loop.advance(1min);
  EXPECT_TRUE(portal.link->over);
}

}  // namespace
}  // namespace ebb::tunnel
