// One wire over a stream in memory: what it holds, what it says at the end, when it tells of room.
#include "worker/relay/wire.h"

#include <gtest/gtest.h>

#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "worker/layers/vmess/vmess.h"

namespace ebb::relay {
namespace {

using test::ManualLoop;
using test::MemoryFaults;
using test::MemoryStream;

struct Watcher final : WireObserver {
  void on_plain(MutSpan bytes) override { plain.insert(plain.end(), bytes.begin(), bytes.end()); }
  void on_batch_end() override {}
  void on_wire_end() override { ended = true; }
  void on_wire_failed(Error) override { failed = true; }
  void on_wire_room() override { ++room; }
  Bytes plain;
  bool ended = false;
  bool failed = false;
  int room = 0;
};

vmess::ClientHandshake handshake(crypto::RandomSource& random) {
  vmess::ClientOptions options;
  options.user.id.value[0] = 7;
  return *vmess::ClientHandshake::make(options, Target{Network::tcp, std::string("o.test"), 80}, 1'600'000'000, random);
}

struct WireFixture : testing::Test {
  ManualLoop loop;
  BlockPool blocks;
  crypto::SeededRandom random{1};
  Watcher watcher;
};
using WireTest = WireFixture;

TEST_F(WireTest, HoldsNoBufferBeforeItHasBytes) {
  const auto client = handshake(random);
  auto [ours, theirs] = MemoryStream::pair(loop);
  Wire wire(loop, blocks, layers::Stack(std::make_unique<layers::VmessServerLayer>(client.keys(), random)));
  wire.observe(&watcher);
  wire.attach(std::move(ours));
  loop.settle();
  EXPECT_EQ(blocks.bytes_in_use(), 0u);
}

TEST_F(WireTest, SaysTheEndThatCameBeforeTheConnection) {
  const auto client = handshake(random);
  auto [ours, theirs] = MemoryStream::pair(loop);
  Wire wire(loop, blocks, layers::Stack(std::make_unique<layers::VmessClientLayer>(client, random)));
  wire.observe(&watcher);
  wire.send_end();  // nothing was sent, and the dial is still under way
  loop.settle();
  wire.attach(std::move(ours));
  loop.settle();
  const Bytes sent = theirs->take();
  EXPECT_GT(sent.size(), client.request().size()) << "the end chunk is missing behind the header";
}

TEST_F(WireTest, TellsOfRoomOnATurnOfItsOwn) {
  MemoryFaults small;
  small.capacity = 1000;
  auto [ours, theirs] = MemoryStream::pair(loop, small);
  Wire wire(loop, blocks, {});
  wire.observe(&watcher);
  wire.attach(std::move(ours));
  const Bytes much(Wire::kHigh + 1000, 1);
  wire.send(much);
  wire.flush();
  loop.settle();
  EXPECT_FALSE(wire.has_room());
  static_cast<MemoryStream*>(wire.stream())->faults.capacity = 1 << 30;
  theirs->take();
  wire.flush();  // as in the middle of somebody's batch: he still owns the loop's read buffer
  EXPECT_LE(wire.queued(), Wire::kLow);
  EXPECT_EQ(watcher.room, 0);
  loop.settle();
  EXPECT_EQ(watcher.room, 1);
}

TEST_F(WireTest, GrowsNoQueueWhileTheProcessHoldsItsLimit) {
  MemoryFaults small;
  small.capacity = 1000;
  auto [ours, theirs] = MemoryStream::pair(loop, small);
  blocks.set_limit(1);
  Wire wire(loop, blocks, {});
  wire.observe(&watcher);
  wire.attach(std::move(ours));
  EXPECT_TRUE(wire.has_room()) << "it holds nothing";
  const Bytes piece(1500, 1);  // a plain wire takes it at flush()
  wire.send(piece);
  wire.flush();
  EXPECT_FALSE(wire.has_room());
  loop.settle();
  EXPECT_EQ(watcher.room, 0);
  theirs->take();
  loop.settle();
  EXPECT_EQ(watcher.room, 1);
  EXPECT_TRUE(wire.has_room());
}

}  // namespace
}  // namespace ebb::relay
