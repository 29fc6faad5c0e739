// Streams with credit in a whole tunnel: nobody stalls his neighbour, memory stays small, and all bytes arrive.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/unit/worker/tunnel/tunnel_fixture.h"

namespace ebb::tunnel {
namespace {

constexpr std::size_t kMiB = 1 << 20;

TEST(TunnelCredit, ConsumersThatNeverReadDoNotHoldUpTheOthers) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f;
  struct Visit {
    StreamId id;
    std::unique_ptr<MemoryStream> visitor;
  };
  std::vector<Visit> dead, alive;
  for (int i = 0; i < 50; ++i) {
    auto [id, visitor] = f.visit(standing);
    dead.push_back({id, std::move(visitor)});
  }
  for (int i = 0; i < 10; ++i) {
    auto [id, visitor] = f.visit();
    alive.push_back({id, std::move(visitor)});
  }
  for (auto& each : dead) f.origins[each.id.value]->put(Bytes(4 * kMiB, 1));
  for (auto& each : alive) f.origins[each.id.value]->put(Bytes(2 * kMiB, 2));
  std::vector<std::size_t> got(alive.size());
  for (int turn = 0; turn < 5000; ++turn) {
    f.loop.settle();
    for (std::size_t i = 0; i < alive.size(); ++i) got[i] += alive[i].visitor->take().size();
    if (std::ranges::all_of(got, [](std::size_t n) { return n == 2 * kMiB; })) break;
  }
  for (const std::size_t n : got) EXPECT_EQ(n, 2 * kMiB);
  EXPECT_FALSE(f.portal->tunnel().congested());
  EXPECT_LE(f.blocks.bytes_in_use(), 50 * 2 * kMiB);
  f.loop.advance(60s);
  for (auto& each : dead) EXPECT_FALSE(each.visitor->was_reset()) << "he costs nobody anything";
}

TEST(TunnelCredit, AStalledAnswerCostsLittle) {
  MemoryFaults standing;
  standing.capacity = 1000;
  Fixture f;
  auto [id, visitor] = f.visit(standing);
  f.origins[id.value]->put(Bytes(64 * kMiB, 1));
  f.loop.settle();
  EXPECT_LE(f.blocks.bytes_in_use(), 2 * kMiB);
  EXPECT_GE(f.origins[id.value]->undelivered(), 62 * kMiB) << "what waits stays in the socket";
}

TEST(TunnelCredit, ASlowConsumerGetsEverythingInOrder) {
  MemoryFaults slow;
  slow.capacity = 5000;
  Fixture f;
  auto [id, visitor] = f.visit(slow);
  Bytes sent(3 * kMiB);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<std::uint8_t>(i * 31 + (i >> 8));
  f.origins[id.value]->put(sent);
  f.origins[id.value]->shutdown_write();
  Bytes got;
  for (int i = 0; i < 20'000 && !visitor->ended(); ++i) {
    const Bytes some = visitor->take();
    got.insert(got.end(), some.begin(), some.end());
    f.loop.advance(1ms);
  }
  const Bytes rest = visitor->take();
  got.insert(got.end(), rest.begin(), rest.end());
  EXPECT_TRUE(got == sent);
  EXPECT_FALSE(visitor->was_reset());
}

/// What was read before anybody could ask for credit is kept, and its end waits for it.
TEST(TunnelCredit, AnUploadLargerThanTheWindowIsSentAsCreditComes) {
  MemoryFaults small;
  small.capacity = 3000;
  Fixture f;
  f.origin_faults = small;
  auto [id, visitor] = f.visit();
  Bytes sent(kMiB);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<std::uint8_t>(i * 7 + (i >> 9));
  visitor->put(sent);
  visitor->shutdown_write();
  Bytes got;
  MemoryStream& origin = *f.origins[id.value];
  for (int i = 0; i < 20'000 && !origin.ended(); ++i) {
    const Bytes some = origin.take();
    got.insert(got.end(), some.begin(), some.end());
    f.loop.advance(1ms);
  }
  const Bytes rest = origin.take();
  got.insert(got.end(), rest.begin(), rest.end());
  EXPECT_TRUE(got == sent);
  origin.put("thanks");
  origin.shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(visitor->take()), "thanks");
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(TunnelCredit, APeerThatOverrunsItsCreditLosesThatStreamAlone) {
  ManualLoop loop;
  BlockPool blocks;
  Relays relays(loop);
  reverse::PortalTunnelSettings settings;
  settings.domain = "raw.reverse";
  TestPortal portal(loop, blocks, layers::Stack(), {}, settings);
  auto [ours, far] = MemoryStream::pair(loop, MemoryFaults{.capacity = 64 * kMiB});
  portal.tunnel().attach(std::move(ours));
  loop.settle();
  far->take();
  reverse::Control hello;
  hello.hello = reverse::Hello{.initial_window = 1 << 20};
  const auto say = [&](const reverse::Control& message) {
    const Bytes bytes = reverse::encode_control(message);
    std::array<std::uint8_t, mux::kKeepHead> head;
    mux::write_keep_head(head, StreamId{1}, bytes.size());
    far->put(head);
    far->put(bytes);
    loop.settle();
  };
  say(hello);
  ASSERT_TRUE(portal.plan().peer_hello());
  const auto visit = [&] {
    std::array<std::uint8_t, mux::kMaxHead> head;
    const auto opened = portal.plan().open(kTarget, nullptr, head);
    portal.tunnel().send_frames(ConstSpan(head).first(opened->head_bytes));
    auto [visitor, end] = MemoryStream::pair(loop, {}, MemoryFaults{.capacity = 1000});
    auto side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    SocketSide& socket = *side;
    relays.start(std::move(side), portal.tunnel().make_side(opened->stream), {});
    socket.attach(std::move(end));
    loop.settle();
    return std::pair{opened->stream, std::move(visitor)};
  };
  auto [bad, bad_visitor] = visit();
  auto [good, good_visitor] = visit();
  for (int i = 0; i < 64; ++i) {
    std::array<std::uint8_t, mux::kKeepHead> head;
    mux::write_keep_head(head, bad, 60'000);
    far->put(head);
    far->put(Bytes(60'000, 1));
    loop.settle();
  }
  EXPECT_TRUE(bad_visitor->was_reset());
  EXPECT_EQ(portal.plan().violations().credit_overruns, 1u);
  EXPECT_FALSE(portal.dead());
  std::array<std::uint8_t, mux::kKeepHead> head;
  mux::write_keep_head(head, good, 5);
  far->put(head);
  far->put("fine!");
  loop.settle();
  EXPECT_EQ(as_text(good_visitor->take()), "fine!");
  EXPECT_LE(blocks.bytes_in_use(), 2 * kMiB);
}

}  // namespace
}  // namespace ebb::tunnel
