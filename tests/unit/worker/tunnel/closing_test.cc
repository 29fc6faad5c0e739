// How streams of a tunnel end, by the kind of peer: who tells whom what, when, and what still arrives.
#include <gtest/gtest.h>

#include <array>

#include "common/reverse/portal_tunnel.h"
#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "tests/unit/protocol/mux/recorder.h"
#include "tests/unit/worker/tunnel/tunnel_fixture.h"
#include "worker/relay/socket_side.h"

namespace ebb::tunnel {
namespace {

// --- ours at both ends -----------------------------------------------------------------------------------------------

TEST(ClosingOurs, AVisitorsEndReachesTheOriginAtOnceAndALateAnswerArrivesWhole) {
  Fixture f;
  auto [id, visitor] = f.visit();
  visitor->put("question");
  visitor->shutdown_write();
  f.loop.settle();
  MemoryStream& origin = *f.origins[id.value];
  EXPECT_EQ(as_text(origin.take()), "question");
  EXPECT_TRUE(origin.ended()) << "at once: no time has passed";
  f.loop.advance(10s);
  origin.put("late answer");
  f.loop.advance(10s);
  origin.put(", in two pieces");
  origin.shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(visitor->take()), "late answer, in two pieces");
  EXPECT_TRUE(visitor->ended());
  EXPECT_FALSE(visitor->was_reset());
  EXPECT_EQ(f.relays.size(), 0u);
  EXPECT_EQ(f.portal->plan_.session().live_streams(), 1u) << "the control stream";
  EXPECT_EQ(f.bridge->plan_.session().live_streams(), 1u);
}

TEST(ClosingOurs, AnOriginsEndReachesTheVisitorWhoMaySendOn) {
  Fixture f;
  auto [id, visitor] = f.visit();
  MemoryStream& origin = *f.origins[id.value];
  origin.put("greeting");
  origin.shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(visitor->take()), "greeting");
  EXPECT_TRUE(visitor->ended());
  f.loop.advance(20s);
  visitor->put("an upload");
  f.loop.advance(20s);
  visitor->put(" that goes on");
  visitor->shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(origin.take()), "an upload that goes on");
  EXPECT_TRUE(origin.ended());
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(ClosingOurs, BothEndsAtOnceLeaveNothing) {
  Fixture f;
  auto [id, visitor] = f.visit();
  visitor->put("a");
  visitor->shutdown_write();
  f.origins[id.value]->put("b");
  f.origins[id.value]->shutdown_write();
  f.loop.settle();
  EXPECT_EQ(as_text(visitor->take()), "b");
  EXPECT_EQ(as_text(f.origins[id.value]->take()), "a");
  EXPECT_EQ(f.relays.size(), 0u);
  EXPECT_EQ(f.bridge->plan_.session().counters().unknown_data, 0u);
  EXPECT_EQ(f.portal->plan_.session().counters().unknown_data, 0u);
}

TEST(ClosingOurs, AHalfClosedOriginWithoutAVisitorIsNotKeptForEver) {
  Fixture f;
  auto [id, visitor] = f.visit();
  f.origins[id.value]->shutdown_write();
  f.loop.advance(40s);
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(ClosingOurs, ACancelledVisitorResetsTheOriginThoughHeHadEnded) {
  Fixture f;
  auto [id, visitor] = f.visit();
  visitor->shutdown_write();
  f.loop.settle();
  visitor->reset();
  f.origins[id.value]->put("more");
  f.loop.settle();
  EXPECT_TRUE(f.origins[id.value]->was_reset());
  EXPECT_EQ(f.relays.size(), 0u);
}

TEST(ClosingOurs, TooManyWhoWaitForAnswersLoseTheOldest) {
  Fixture f;
  auto [first_id, first] = f.visit();
  first->shutdown_write();
  f.loop.settle();
  auto [second_id, second] = f.visit();
  second->shutdown_write();
  f.loop.settle();
  f.relays.set_half_closed_bound(4);  // two visitors, each a relay at either end
  auto [third_id, third] = f.visit();
  f.loop.settle();
  EXPECT_TRUE(first->was_reset());
  EXPECT_FALSE(third->was_reset());
}

// --- a stock bridge: the test plays it
// ---------------------------------------------------------------------------------

struct StockBridge {
  explicit StockBridge(reverse::Dialect dialect) : portal(loop, blocks, {}, {}, dialect) {
    loop.settle();
    portal.far->take();
  }
  struct Visit {
    StreamId id;
    std::unique_ptr<MemoryStream> visitor;
  };
  Visit visit() {
    auto [id, side] = portal.open();
    auto [visitor, end] = MemoryStream::pair(loop);
    auto client = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    SocketSide& socket = *client;
    relays.start(std::move(client), std::move(side), {});
    socket.attach(std::move(end));
    loop.settle();
    portal.far->take();
    return {id, std::move(visitor)};
  }
  void answer(StreamId id, std::string_view text) {
    std::array<std::uint8_t, mux::kKeepHead> head;
    mux::write_keep_head(head, id, text.size());
    portal.far->put(head);
    portal.far->put(text);
    loop.settle();
  }
  void end(StreamId id, bool error = false) {
    std::array<std::uint8_t, mux::kEndFrame> frame;
    mux::write_end(frame, id, error);
    portal.far->put(frame);
    loop.settle();
  }
  /// Frames for `id` since the last call, heartbeats left out: "keep", "end", "end!".
  std::vector<std::string> told(StreamId id) {
    std::vector<std::string> out;
    const Bytes bytes = portal.far->take();
    for (ConstSpan rest = bytes; !rest.empty();) {
      const auto step = mux::decode_head(rest);
      if (!step || !step->message) break;
      const auto& head = *step->message;
      if (head.stream == id) {
        out.push_back(head.status == mux::Status::end ? (head.error() ? "end!" : "end") : "keep");
      }
      rest = rest.subspan(step->used + head.data_bytes);
    }
    return out;
  }
  using Told = std::vector<std::string>;

  ManualLoop loop;
  BlockPool blocks;
  Relays relays{loop};
  RawPortal portal;
};

TEST(ClosingV2ray, EndGoesOutAtOnceAndTheAnswerIsStillTaken) {
  for (const auto dialect : {reverse::Dialect::v2ray, reverse::Dialect::v2fly}) {
    StockBridge bridge(dialect);
    auto [id, visitor] = bridge.visit();
    visitor->shutdown_write();
    bridge.loop.settle();
    EXPECT_EQ(bridge.told(id), StockBridge::Told{"end"});
    EXPECT_EQ(bridge.portal.link->plan_.user_streams(), 0u) << "no load";
    for (int i = 0; i < 5; ++i) {
      bridge.loop.advance(700ms);
      bridge.answer(id, "piece ");
    }
    EXPECT_EQ(as_text(visitor->take()), "piece piece piece piece piece ");
    bridge.end(id);
    EXPECT_TRUE(visitor->ended());
    EXPECT_FALSE(visitor->was_reset());
    EXPECT_EQ(bridge.told(id), StockBridge::Told{}) << "one End is enough";
    EXPECT_EQ(bridge.relays.size(), 0u);
  }
}

TEST(ClosingV2ray, AVisitorWhoLeavesInMidAnswerEndsTheDownload) {
  StockBridge bridge(reverse::Dialect::v2ray);
  auto [id, visitor] = bridge.visit();
  bridge.answer(id, "begin");
  visitor->take();
  visitor->shutdown_write();  // close(): the end comes first, the reset answers the next bytes
  bridge.loop.settle();
  EXPECT_EQ(bridge.told(id), StockBridge::Told{}) << "an End now would let the whole download run on";
  visitor->reset();
  bridge.answer(id, "more");
  EXPECT_EQ(bridge.told(id), StockBridge::Told{"end!"});
  EXPECT_EQ(bridge.relays.size(), 0u);
}

TEST(ClosingV2ray, AVisitorWhoStaysInMidAnswerIsOnlyHalfClosed) {
  StockBridge bridge(reverse::Dialect::v2ray);
  auto [id, visitor] = bridge.visit();
  bridge.answer(id, "begin");
  visitor->shutdown_write();
  bridge.loop.advance(310ms);
  EXPECT_EQ(bridge.told(id), StockBridge::Told{"end"});
  bridge.answer(id, " and end");
  bridge.end(id);
  EXPECT_EQ(as_text(visitor->take()), "begin and end");
  EXPECT_FALSE(visitor->was_reset());
}

TEST(ClosingV2ray, AnAnswerThatNeverEndsIsNotWaitedForForEver) {
  StockBridge bridge(reverse::Dialect::v2ray);
  auto [id, visitor] = bridge.visit();
  visitor->shutdown_write();
  bridge.loop.advance(35s);
  EXPECT_EQ(bridge.relays.size(), 0u);
  EXPECT_EQ(bridge.told(id), StockBridge::Told{"end"});
}

TEST(ClosingXray, EndWaitsUntilTheAnswerHasBeenQuietForASecond) {
  StockBridge bridge(reverse::Dialect::xray);
  auto [id, visitor] = bridge.visit();
  visitor->shutdown_write();
  for (int i = 0; i < 4; ++i) {
    bridge.loop.advance(700ms);
    bridge.answer(id, "piece ");
  }
  EXPECT_EQ(bridge.told(id), StockBridge::Told{});
  EXPECT_EQ(bridge.portal.link->plan_.user_streams(), 0u) << "no load";
  EXPECT_EQ(as_text(visitor->take()), "piece piece piece piece ");
  bridge.loop.advance(1100ms);
  EXPECT_EQ(bridge.told(id), StockBridge::Told{"end"});
  EXPECT_EQ(bridge.relays.size(), 0u);
}

TEST(ClosingXray, WithoutAHoldEndGoesOutAtOnce) {
  StockBridge bridge(reverse::Dialect::xray);
  bridge.portal.link->quiet = Duration(0);
  auto [id, visitor] = bridge.visit();
  visitor->shutdown_write();
  bridge.loop.settle();
  EXPECT_EQ(bridge.told(id), StockBridge::Told{"end"});
  bridge.loop.advance(3s);
  EXPECT_EQ(bridge.relays.size(), 0u);
}

// --- as bridge of a stock portal
// ---------------------------------------------------------------------------------------

TEST(ClosingAsBridge, ATargetThatGoesOnSendingAfterEndIsNotReadToItsEnd) {
  ManualLoop loop;
  BlockPool blocks;
  Relays relays(loop);
  auto [target, end] = MemoryStream::pair(loop);
  auto origin = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
  origin->set_parting({1s, std::size_t{256} << 10});
  SocketSide& socket = *origin;
  auto [portal, other] = MemoryStream::pair(loop);
  auto client = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
  SocketSide& gone = *client;
  Relay& relay = relays.start(std::move(client), std::move(origin), {});
  socket.attach(std::move(end));
  gone.attach(std::move(other));
  loop.settle();
  relay.on_end(gone, true);  // what a tunnel's End does
  target->put(Bytes(4 << 20, 1));
  loop.settle();
  EXPECT_LE(target->bytes_written - target->undelivered(), std::size_t{512} << 10);
  EXPECT_EQ(relays.size(), 0u);
  EXPECT_TRUE(target->was_reset());
}

}  // namespace
}  // namespace ebb::tunnel
