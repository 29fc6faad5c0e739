// A flow with an end in a tunnel: what goes onto the wire, and what comes from it.
#include "worker/flow/mux_end.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "tests/unit/protocol/mux/recorder.h"
#include "worker/tunnel/tunnel.h"

namespace ebb::flow {
namespace {

using Lines = std::vector<std::string>;

/// The opener's end of a tunnel without any plan.
class TestEngine final : public reverse::Engine {
 public:
  Decoded<> feed(ConstSpan plain, TimePoint, mux::SessionEvents& events) override {
    return session.feed(plain, events);
  }
  void tick(TimePoint) override {}
  TimePoint next_deadline() const override { return TimePoint::max(); }
  Bytes take_output() override { return session.take_output(); }
  bool has_output() const override { return session.has_output(); }
  bool dead() const override { return false; }
  reverse::TunnelEnd end() const override { return reverse::TunnelEnd::none; }
  reverse::Violations violations() const override { return {}; }
  void set_user(StreamId stream, void* user) override { session.set_user(stream, user); }
  void* user(StreamId stream) const override { return session.user(stream); }
  void close(StreamId stream, TimePoint) override { session.close(stream); }
  void abort_streams(mux::SessionEvents& events) override {
    for (const auto id : session.ids()) {
      void* const user = session.user(id);
      session.close(id);
      events.on_end(id, user, true);
    }
  }
  reverse::SendLimits send_limits() const override { return limits; }
  bool packet_addresses() const override { return addresses; }

  mux::Session session{mux::Role::opener};
  bool addresses = false;
  reverse::SendLimits limits;
};

struct TestOwner final : tunnel::TunnelOwner {
  void on_stream_opened(StreamId, const Target&, ConstSpan) override {}
  void on_tunnel_over(const Error&) override {}
};

struct Seen {
  Lines datagrams;
  bool closed = false;
};
class ClientEnd final : public DatagramEnd {
 public:
  explicit ClientEnd(Seen& seen) : seen_(seen) {}
  bool send(ConstSpan datagram, const Target* address) override {
    seen_.datagrams.push_back((address != nullptr ? address->text() + " " : "") + std::string(as_text(datagram)));
    return true;
  }
  void close() override { seen_.closed = true; }
  void say(ConstSpan datagram, const Target* address = nullptr) { flow_->on_datagram(*this, datagram, address); }

 private:
  Seen& seen_;
};

struct MuxEndTest : ::testing::Test {
  MuxEndTest() {
    auto [ours, theirs] = test::MemoryStream::pair(loop);
    peer = std::move(theirs);
    tunnel.attach(std::move(ours), {});
    std::array<std::uint8_t, mux::kMaxHead> head;
    const auto opened = engine->session.open(target, nullptr, head);
    tunnel.send_frames(ConstSpan(head).first(opened->head_bytes));
    auto end = std::make_unique<ClientEnd>(seen);
    client = end.get();
    auto made = std::make_unique<MuxEnd>(tunnel, opened->stream);
    mux_end = made.get();
    flows.start(std::move(end), std::move(made));
  }
  std::unique_ptr<reverse::Engine> make_engine() {
    auto made = std::make_unique<TestEngine>();
    engine = made.get();
    return made;
  }
  /// What the peer's acceptor sees since the last call.
  Lines arrived() {
    loop.settle();
    const Bytes bytes = peer->take();
    EXPECT_TRUE(acceptor.feed(bytes, log).has_value());
    return std::exchange(log.lines, {});
  }
  void answer(ConstSpan head, std::string_view data) {
    peer->put(head);
    peer->put(data);
    loop.settle();
  }

  const Target target{Network::udp, IpAddress::from_v4({127, 0, 0, 1}), 53};
  const Target other{Network::udp, IpAddress::from_v4({203, 0, 113, 9}), 5353};
  test::ManualLoop loop;
  relay::BlockPool blocks;
  Flows flows{loop};
  TestOwner owner;
  TestEngine* engine = nullptr;
  tunnel::Tunnel tunnel{loop, blocks, layers::Stack{}, {}, "peer", make_engine(), owner};
  std::unique_ptr<test::MemoryStream> peer;
  mux::Session acceptor{mux::Role::acceptor};
  test::Recorder log;
  Seen seen;
  ClientEnd* client = nullptr;
  MuxEnd* mux_end = nullptr;
};

TEST_F(MuxEndTest, OneDatagramIsOneFrame) {
  client->say(as_bytes("a"));
  client->say(as_bytes("bc"));
  EXPECT_EQ(arrived(), (Lines{"open 1 udp:127.0.0.1:53", "gram 1 61", "gram 1 6263"}));
}

TEST_F(MuxEndTest, NothingThePeerWouldEndTheTunnelFor) {
  client->say(Bytes(mux::kMaxDatagram + 1));
  client->say({});
  EXPECT_EQ(flows.counters().dropped, 2u);
  client->say(Bytes(mux::kMaxDatagram, 'x'));
  EXPECT_EQ(arrived().size(), 2u);
  engine->limits.max_datagram = mux::kMaxDataEver;
  client->say(Bytes(65507, 'x'));
  EXPECT_EQ(arrived().size(), 1u);
  EXPECT_EQ(flows.counters().dropped, 2u);
}

TEST_F(MuxEndTest, AHeaderLeadsTheFirstDatagramThatGoesOut) {
  mux_end->lead_with(as_bytes("<who"));
  mux_end->lead_with(as_bytes(">"));
  client->say(Bytes(mux::kMaxDatagram - 4));  // too large with it, and not without
  EXPECT_EQ(flows.counters().dropped, 1u);
  client->say(as_bytes("a"));
  client->say(as_bytes("b"));
  client->say(Bytes(mux::kMaxDatagram - 4));
  auto lines = arrived();
  ASSERT_EQ(lines.size(), 4u);
  lines.pop_back();
  EXPECT_EQ(lines, (Lines{"open 1 udp:127.0.0.1:53", "gram 1 3c77686f3e61", "gram 1 62"}));
  std::array<std::uint8_t, mux::kKeepHead> head;
  mux::write_keep_head(head, StreamId{1}, 2);
  answer(head, "hi");
  EXPECT_EQ(seen.datagrams, Lines{"hi"});
  EXPECT_EQ(flows.counters().dropped, 1u);
}

TEST_F(MuxEndTest, AHeaderAloneIsAnEmptyDatagramOfAFlow) {
  mux_end->lead_with(as_bytes("<who>"));
  client->say({});
  client->say({});
  EXPECT_EQ(arrived(), (Lines{"open 1 udp:127.0.0.1:53", "gram 1 3c77686f3e"}));
}

TEST_F(MuxEndTest, APacketsAddressIsWrittenToWhoReadsIt) {
  client->say(as_bytes("a"), &other);
  EXPECT_EQ(arrived(), (Lines{"open 1 udp:127.0.0.1:53", "gram 1 61"}));
  engine->addresses = true;
  client->say(as_bytes("b"), &other);
  client->say(as_bytes("c"));
  EXPECT_EQ(arrived(), (Lines{"gram 1 udp:203.0.113.9:5353 62", "gram 1 63"}));
}

TEST_F(MuxEndTest, WhoWritesAddressesReadsThem) {
  std::array<std::uint8_t, mux::kMaxHead> head;
  const auto bytes = mux::write_keep_head(head, StreamId{1}, other, 2);
  answer(ConstSpan(head).first(bytes), "hi");
  EXPECT_EQ(seen.datagrams, Lines{"udp:203.0.113.9:5353 hi"});
  client->say(as_bytes("b"), &other);
  EXPECT_EQ(arrived(), (Lines{"open 1 udp:127.0.0.1:53", "gram 1 udp:203.0.113.9:5353 62"}));
}

TEST_F(MuxEndTest, ItsEndIsAnEndFrameAndTheIdIsForgotten) {
  flows.end_all();
  EXPECT_EQ(arrived(), (Lines{"open 1 udp:127.0.0.1:53", "end 1"}));
  EXPECT_EQ(engine->session.live_streams(), 0u);
}

TEST_F(MuxEndTest, ThePeersEndEndsTheFlow) {
  std::array<std::uint8_t, mux::kEndFrame> end;
  mux::write_end(end, StreamId{1}, false);
  answer(end, "");
  EXPECT_TRUE(seen.closed);
  EXPECT_EQ(flows.size(), 0u);
}

TEST_F(MuxEndTest, SoDoesTheTunnels) {
  peer->reset();
  loop.settle();
  EXPECT_TRUE(seen.closed);
  EXPECT_EQ(flows.size(), 0u);
}

TEST_F(MuxEndTest, AStandingPeerCostsAtMostSoMuch) {
  const Bytes datagram(1400, 'x');
  for (int i = 0; i < 10'000; ++i) client->say(datagram);
  EXPECT_GT(flows.counters().dropped, 5'000u);
  EXPECT_LT(tunnel.unsent(), std::size_t{3} << 20);
}

}  // namespace
}  // namespace ebb::flow
