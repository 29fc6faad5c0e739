// Our portal and our bridge on the two ends of one tunnel, in memory.
#include <gtest/gtest.h>

#include <deque>

#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

/// Two tunnel ends joined by byte queues with a delay each way; every delivery is cut at random.
struct Pair {
  Bench<PortalTunnel> portal;
  Bench<BridgeTunnel> bridge;
  Duration one_way;
  test::Dice dice{7};
  struct Batch {
    TimePoint due;
    Bytes bytes;
  };
  std::deque<Batch> to_bridge, to_portal;
  std::size_t from_portal = 0, from_bridge = 0;  // frames' bytes so far

  static PortalTunnelSettings portal_settings() {
    return {.domain = "private.example", .hello = {.node_id = {1}}, .seed = 3};
  }
  static BridgeTunnelSettings bridge_settings() {
    return {.domain = "private.example", .hello = {.max_data = 20000, .node_id = {2}}, .seed = 4};
  }
  explicit Pair(Duration delay, PortalTunnelSettings p = portal_settings(), BridgeTunnelSettings b = bridge_settings())
      : portal(std::move(p)), bridge(std::move(b)), one_way(delay) {}

  void send_to_bridge(ConstSpan bytes) {
    from_portal += bytes.size();
    to_bridge.push_back({portal.now + one_way, Bytes(bytes.begin(), bytes.end())});
  }
  void send_to_portal(ConstSpan bytes) {
    from_bridge += bytes.size();
    to_portal.push_back({bridge.now + one_way, Bytes(bytes.begin(), bytes.end())});
  }
  template <class End>
  void deliver(std::deque<Batch>& queue, End& end) {
    while (!queue.empty() && queue.front().due <= end.now) {
      for (auto rest = ConstSpan(queue.front().bytes); !rest.empty();) {
        const auto piece = rest.first(1 + dice.below(rest.size()));
        end.feed_bytes(piece);
        rest = rest.subspan(piece.size());
      }
      queue.pop_front();
    }
  }
  void pass(Duration time) {
    for (; time > Duration::zero(); time -= milliseconds(5)) {
      portal.pass(milliseconds(5));
      bridge.pass(milliseconds(5));
      deliver(to_bridge, bridge);
      deliver(to_portal, portal);
      if (portal.tunnel.has_output()) send_to_bridge(portal.tunnel.take_output());
      if (bridge.tunnel.has_output()) send_to_portal(bridge.tunnel.take_output());
    }
  }
};

TEST(OursToOurs, AgreeInOneRoundTrip) {
  Pair pair(milliseconds(20));
  pair.pass(milliseconds(80));  // New + hello, hello back, hello of the portal
  ASSERT_TRUE(pair.portal.tunnel.peer_hello());
  ASSERT_TRUE(pair.bridge.tunnel.peer_hello());
  EXPECT_EQ(pair.portal.tunnel.peer_hello()->node_id[0], 2);
  EXPECT_EQ(pair.bridge.tunnel.peer_hello()->node_id[0], 1);
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::active);
  EXPECT_EQ(pair.portal.tunnel.dialect(), std::nullopt);
  EXPECT_EQ(pair.portal.tunnel.send_limits().max_data, 20000U);
  EXPECT_EQ(pair.bridge.tunnel.send_limits().max_data, 65535U);
  EXPECT_EQ(pair.bridge.tunnel.sessions(), 1U) << "one probe session is the control stream, the other is gone";
  EXPECT_EQ(pair.portal.tunnel.session().live_streams(), 1U);
}

TEST(OursToOurs, StayTogetherForAnHour) {
  Pair pair(milliseconds(20));
  pair.pass(std::chrono::minutes(60));
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::active);
  EXPECT_EQ(pair.bridge.tunnel.state(), BridgeTunnel::State::active);
  EXPECT_FALSE(pair.portal.fatal || pair.bridge.fatal);
  EXPECT_GT(pair.from_bridge, 0U);
  EXPECT_LT(pair.from_bridge, 30000U) << "pings and answers, little else";
}

TEST(OursToOurs, AgreeThoughTheHelloIsLate) {
  Pair pair(milliseconds(300));  // the probe's End frames are under way when the hello comes
  pair.pass(milliseconds(1500));
  EXPECT_TRUE(pair.portal.tunnel.peer_hello());
  EXPECT_TRUE(pair.bridge.tunnel.peer_hello());
  EXPECT_EQ(pair.portal.tunnel.session().ids_used(), 3U) << "a fresh control stream";
  EXPECT_EQ(pair.bridge.tunnel.sessions(), 1U);
  EXPECT_TRUE(pair.bridge.tunnel.announce_restart());
  pair.pass(milliseconds(700));
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::draining);
}

TEST(OursToOurs, TellEachOtherAboutRestarts) {
  Pair pair(milliseconds(10));
  pair.pass(seconds(1));
  ASSERT_TRUE(pair.bridge.tunnel.announce_restart());
  pair.pass(milliseconds(50));
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::draining);
  EXPECT_FALSE(pair.portal.tunnel.pickable(pair.portal.now));
  EXPECT_TRUE(pair.portal.tunnel.pickable_as_last(pair.portal.now));

  Pair other(milliseconds(10));
  other.pass(seconds(1));
  other.portal.tunnel.drain(other.portal.now);
  other.pass(milliseconds(50));
  EXPECT_EQ(other.bridge.tunnel.state(), BridgeTunnel::State::draining);
}

TEST(OursToOurs, DoNotDrainAt256Streams) {
  Pair pair(milliseconds(10));
  pair.pass(seconds(1));
  Bytes head(mux::kMaxHead);
  for (int i = 0; i < 1000; ++i) {
    const auto opened = pair.portal.tunnel.open(kWeb, nullptr, head);
    pair.portal.tunnel.close(opened->stream);
  }
  pair.pass(seconds(5));
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::active);
}

TEST(OursToOurs, DrainAheadOfTheLastId) {
  auto settings = Pair::portal_settings();
  settings.drain_after_ids = 100;
  Pair pair(milliseconds(10), settings);
  pair.pass(seconds(1));
  Bytes head(mux::kMaxHead);
  for (int i = 0; i < 100; ++i) pair.portal.tunnel.close(pair.portal.tunnel.open(kWeb, nullptr, head)->stream);
  pair.pass(milliseconds(100));
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::draining);
  EXPECT_EQ(pair.bridge.tunnel.state(), BridgeTunnel::State::draining);
  pair.portal.tunnel.set_replaced(true);
  pair.pass(milliseconds(100));
  EXPECT_EQ(pair.portal.tunnel.end(), TunnelEnd::drained);
  EXPECT_EQ(pair.bridge.tunnel.sessions(), 0U) << "the control stream was ended";
}

TEST(OursToOurs, CarryStreamsBothWays) {
  Pair pair(milliseconds(10));
  Bytes frame(mux::kMaxHead);
  const auto opened = pair.portal.tunnel.open({Network::tcp, std::string("web.example"), 80}, nullptr, frame, 5);
  frame.resize(opened->head_bytes);
  frame.insert(frame.end(), {'h', 'e', 'l', 'l', 'o'});
  pair.send_to_bridge(pair.portal.tunnel.take_output());
  pair.send_to_bridge(frame);
  pair.pass(milliseconds(100));
  EXPECT_EQ(pair.bridge.events.lines, (Lines{"open 3 tcp:web.example:80", "data 3 68656c6c6f"}));
  Bytes answer(mux::kKeepHead);
  mux::write_keep_head(answer, opened->stream, 40000);
  answer.resize(answer.size() + 40000, 0x78);
  answer.resize(answer.size() + mux::kEndFrame);
  mux::write_end(MutSpan(answer).last(mux::kEndFrame), opened->stream, false);
  pair.bridge.tunnel.close(opened->stream, pair.bridge.now);
  pair.send_to_portal(answer);
  pair.pass(milliseconds(100));
  ASSERT_EQ(pair.portal.events.lines.size(), 2U);
  EXPECT_EQ(pair.portal.events.lines[0].size(), std::string("data 3 ").size() + 80000);
  EXPECT_EQ(pair.portal.events.lines[1], "end 3");
  EXPECT_EQ(pair.bridge.events.lines.back(), "stray 3") << "the portal's End, once";
}

/// Remembers what a tunnel's peer said of the last end.
template <class Tunnel>
struct Reasons : test::Recorder {
  explicit Reasons(const Tunnel& of) : tunnel(of) {}
  void on_end(StreamId stream, void* user, bool error) override {
    last = tunnel.abort_reason();
    test::Recorder::on_end(stream, user, error);
  }
  const Tunnel& tunnel;
  std::optional<Abort> last;
};

Bytes abort_frame(const Engine& from, StreamId stream, AbortReason reason) {
  Bytes frame(kMaxAbortFrame);
  frame.resize(from.write_abort(frame, stream, Abort{reason}));
  return frame;
}

TEST(OursToOurs, TellEachOtherWhyAStreamWasAborted) {
  Pair pair(milliseconds(20));
  pair.pass(milliseconds(100));
  Bytes head(mux::kMaxHead);
  const auto first = pair.portal.tunnel.open(kWeb, nullptr, head)->stream;
  pair.bridge.feed_bytes(ConstSpan(head).first(mux::decode_head(head)->used));
  Reasons portal(pair.portal.tunnel);
  pair.bridge.tunnel.close(first, pair.bridge.now);
  ASSERT_TRUE(
      pair.portal.tunnel.feed(abort_frame(pair.bridge.tunnel, first, AbortReason::refused), pair.portal.now, portal));
  EXPECT_EQ(portal.lines, Lines{"end! " + std::to_string(first.value)});
  EXPECT_EQ(portal.last, Abort{AbortReason::refused});
  EXPECT_EQ(pair.portal.tunnel.abort_reason(), std::nullopt) << "of that stream alone";

  const auto second = pair.portal.tunnel.open(kWeb, nullptr, head)->stream;
  pair.bridge.feed_bytes(ConstSpan(head).first(mux::decode_head(head)->used));
  Reasons bridge(pair.bridge.tunnel);
  pair.portal.tunnel.close(second);
  ASSERT_TRUE(
      pair.bridge.tunnel.feed(abort_frame(pair.portal.tunnel, second, AbortReason::reset), pair.bridge.now, bridge));
  EXPECT_EQ(bridge.last, Abort{AbortReason::reset});
}

TEST(OursToOurs, SayWhyOnlyWhereBothWantIt) {
  auto settings = Pair::bridge_settings();
  settings.hello.features &= ~kFeatureAbortReason;
  Pair pair(milliseconds(20), Pair::portal_settings(), settings);
  EXPECT_FALSE(pair.portal.tunnel.tells_reasons()) << "nobody is known yet";
  pair.pass(milliseconds(100));
  ASSERT_TRUE(pair.portal.tunnel.peer_hello());
  EXPECT_EQ(abort_frame(pair.portal.tunnel, StreamId{9}, AbortReason::reset), test::unhex("000400090302"));
  EXPECT_EQ(abort_frame(pair.bridge.tunnel, StreamId{9}, AbortReason::reset), test::unhex("000400090302"));
}

struct EarlyStream : Pair {
  StreamId stream;

  explicit EarlyStream(PortalTunnelSettings p = with_credit(portal_settings()),
                       BridgeTunnelSettings b = with_credit(bridge_settings()))
      : Pair(milliseconds(20), std::move(p), std::move(b)) {
    Bytes frame(mux::kMaxHead);
    const auto opened = portal.tunnel.open(kWeb, nullptr, frame);
    stream = opened->stream;
    send_to_bridge(portal.tunnel.take_output());
    send_to_bridge(ConstSpan(frame).first(opened->head_bytes));
  }
  template <class Settings>
  static Settings with_credit(Settings settings) {
    settings.hello.features = kFeatureCredit | kFeatureHalfClose;
    return settings;
  }
  Bytes data(std::size_t bytes) const {
    Bytes frame(mux::kKeepHead);
    mux::write_keep_head(frame, stream, bytes);
    frame.resize(frame.size() + bytes, 0x78);
    return frame;
  }
};

TEST(OursToOurs, GiveCreditToStreamsThatBeganBeforeTheyKnewEachOther) {
  EarlyStream pair;
  EXPECT_EQ(pair.portal.tunnel.credit(pair.stream), Engine::kNoCredit) << "the bridge may be a stock one";
  EXPECT_FALSE(pair.portal.tunnel.holds_peer_to_credit(pair.stream));
  pair.portal.tunnel.spent(pair.stream, 60000);
  pair.send_to_bridge(pair.data(60000));
  pair.pass(milliseconds(30));
  EXPECT_EQ(pair.bridge.tunnel.credit(pair.stream), kMinWindow) << "it saw the marker, and not the hello";
  EXPECT_FALSE(pair.bridge.tunnel.holds_peer_to_credit(pair.stream));
  pair.bridge.tunnel.spent(pair.stream, 10000);
  pair.send_to_portal(pair.data(10000));
  pair.pass(milliseconds(25));
  // The portal knows, and its hello is under way.
  const std::uint64_t announced = pair.bridge.tunnel.flow().announced();
  EXPECT_EQ(pair.portal.tunnel.credit(pair.stream), announced - 60000);
  EXPECT_TRUE(pair.portal.tunnel.holds_peer_to_credit(pair.stream));
  pair.portal.tunnel.consumed(pair.stream, 10000, pair.portal.now);
  pair.bridge.tunnel.consumed(pair.stream, 60000, pair.bridge.now);
  pair.pass(milliseconds(100));
  EXPECT_TRUE(pair.bridge.tunnel.holds_peer_to_credit(pair.stream));
  EXPECT_EQ(pair.portal.tunnel.credit(pair.stream), kInitialWindow) << "counted from what was consumed";
  EXPECT_EQ(pair.bridge.tunnel.credit(pair.stream), announced - 10000) << "too little was taken to be worth a message";
  EXPECT_EQ(pair.portal.tunnel.half_close(pair.stream), HalfClose::fin);
  EXPECT_EQ(pair.bridge.tunnel.half_close(pair.stream), HalfClose::fin);
}

TEST(OursToOurs, HoldThePeerToTheCreditOfSuchAStreamOnceHeKnows) {
  EarlyStream pair;
  for (int i = 0; i < 6; ++i) pair.send_to_bridge(pair.data(50000));  // from before the hello: nobody forbade it
  pair.pass(milliseconds(200));
  EXPECT_EQ(pair.bridge.tunnel.violations().credit_overruns, 0U);
  pair.send_to_bridge(pair.data(1));
  pair.pass(milliseconds(50));
  EXPECT_EQ(pair.bridge.tunnel.violations().credit_overruns, 1U);
  EXPECT_EQ(pair.bridge.events.lines.back(), "end! 3");
}

TEST(OursToOurs, CountControlMessagesThatCannotBeRead) {
  Pair pair(milliseconds(10));
  pair.pass(seconds(1));
  ASSERT_TRUE(pair.portal.tunnel.peer_hello());
  EXPECT_EQ(pair.portal.tunnel.violations().total(), 0U);
  EXPECT_EQ(pair.bridge.tunnel.violations().total(), 0U);
  const std::string noise =
      "000400010201"
      "0003ffffff";  // on id 1, the control stream
  pair.portal.feed(noise);
  pair.bridge.feed(noise);
  EXPECT_EQ(pair.portal.tunnel.violations().bad_control, 1U);
  EXPECT_EQ(pair.bridge.tunnel.violations().bad_control, 1U);
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::active);
  EXPECT_EQ(pair.bridge.tunnel.state(), BridgeTunnel::State::active);
}

TEST(OursToOurs, WatchASlowConsumerUntilWhatCameWithoutCreditIsPaidFor) {
  EarlyStream pair;
  for (int i = 0; i < 6; ++i) pair.send_to_bridge(pair.data(50000));
  pair.pass(milliseconds(200));
  EXPECT_GE(pair.bridge.tunnel.flow().budget().charged(), 300000U) << "what it holds is charged";
  EXPECT_FALSE(pair.bridge.tunnel.holds_peer_to_credit(pair.stream));
  pair.bridge.tunnel.consumed(pair.stream, 300000, pair.bridge.now);
  EXPECT_TRUE(pair.bridge.tunnel.holds_peer_to_credit(pair.stream));
}

TEST(OursToOurs, TellAWeightThatChangedBeforeTheyKnewEachOther) {
  Pair pair(milliseconds(20));
  pair.pass(milliseconds(50));
  EXPECT_FALSE(pair.bridge.tunnel.announce_weight(3)) << "its hello has gone, the portal's has not come";
  pair.pass(milliseconds(100));
  ASSERT_TRUE(pair.portal.tunnel.peer_hello());
  EXPECT_EQ(pair.portal.tunnel.peer_hello()->weight, 3U);
  EXPECT_TRUE(pair.bridge.tunnel.announce_weight(5));
  pair.pass(milliseconds(50));
  EXPECT_EQ(pair.portal.tunnel.peer_hello()->weight, 5U);
}

TEST(OursToOurs, GiveABridgeThatIsTakenForAStockOneItsFreedomBack) {
  auto settings = EarlyStream::with_credit(Pair::portal_settings());
  EarlyStream pair(settings);
  pair.pass(milliseconds(30));
  ASSERT_EQ(pair.bridge.tunnel.credit(pair.stream), kMinWindow);
  EXPECT_TRUE(pair.bridge.tunnel.own_portal());
  pair.to_portal.clear();  // its hello is lost: the portal has given up
  Control beat;
  beat.random = Bytes(3);
  const auto message = encode_control(beat);
  Bytes frame(mux::kKeepHead);
  mux::write_keep_head(frame, StreamId{1}, message.size());
  frame.insert(frame.end(), message.begin(), message.end());
  pair.bridge.feed_bytes(frame);
  EXPECT_EQ(pair.bridge.tunnel.credit(pair.stream), Engine::kNoCredit);
  EXPECT_FALSE(pair.bridge.tunnel.own_portal());
}

TEST(OursToOurs, AgreeThoughTheBridgeIsAskedForAnotherTunnelBefore) {
  EarlyStream pair;
  pair.portal.tunnel.ask_for_another(pair.portal.now);
  pair.pass(milliseconds(30));
  EXPECT_EQ(pair.bridge.tunnel.state(), BridgeTunnel::State::draining);
  EXPECT_EQ(pair.bridge.tunnel.credit(pair.stream), kMinWindow);
  pair.pass(milliseconds(100));
  EXPECT_EQ(pair.bridge.tunnel.credit(pair.stream), pair.portal.tunnel.flow().announced());
  EXPECT_TRUE(pair.bridge.tunnel.holds_peer_to_credit(pair.stream));
  EXPECT_TRUE(pair.portal.tunnel.holds_peer_to_credit(pair.stream));
}

TEST(OursToOurs, APortalThatIsReplacedSaysSoAndMayTakeItBack) {
  Pair pair(milliseconds(10));
  pair.pass(milliseconds(100));
  pair.portal.tunnel.drain(pair.portal.now);
  EXPECT_FALSE(pair.portal.tunnel.pickable(pair.portal.now));
  EXPECT_TRUE(pair.portal.tunnel.pickable_as_last(pair.portal.now));
  const auto frames = test::frames_of(pair.portal.tunnel.take_output());
  ASSERT_EQ(frames.size(), 1U);
  ASSERT_TRUE(control_in(frames[0]).notice);
  EXPECT_EQ(control_in(frames[0]).notice->code, kNoticeRestart);
  EXPECT_TRUE(control_in(frames[0]).draining()) << "what a stock bridge understands";
  pair.send_to_bridge(test::unhex(frames[0]));
  pair.pass(milliseconds(20));
  EXPECT_EQ(pair.bridge.tunnel.state(), BridgeTunnel::State::draining);
  pair.portal.tunnel.drain(pair.portal.now);  // twice is once
  EXPECT_FALSE(pair.portal.tunnel.has_output());
  pair.portal.tunnel.resume(pair.portal.now);
  pair.pass(milliseconds(20));
  EXPECT_TRUE(pair.portal.tunnel.pickable(pair.portal.now));
  EXPECT_EQ(pair.bridge.tunnel.state(), BridgeTunnel::State::active);
}

TEST(OursToOurs, ABridgeThatIsReplacedSaysSoAndMayTakeItBack) {
  Pair pair(milliseconds(10));
  pair.pass(milliseconds(100));
  ASSERT_TRUE(pair.bridge.tunnel.announce_restart());
  pair.pass(milliseconds(20));
  EXPECT_FALSE(pair.portal.tunnel.pickable(pair.portal.now));
  EXPECT_TRUE(pair.portal.tunnel.pickable_as_last(pair.portal.now));
  pair.portal.tunnel.drain(pair.portal.now);
  pair.portal.tunnel.resume(pair.portal.now);
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::draining) << "the bridge still leaves";
  ASSERT_TRUE(pair.bridge.tunnel.announce_return());
  pair.pass(milliseconds(20));
  EXPECT_TRUE(pair.portal.tunnel.pickable(pair.portal.now));
}

TEST(OursToOurs, ABridgeThatIsReplacedBeforeItKnowsThePortalSaysSoAfterwards) {
  Pair pair(milliseconds(10));
  EXPECT_FALSE(pair.bridge.tunnel.announce_restart());
  EXPECT_TRUE(pair.bridge.tunnel.leaving());
  pair.pass(milliseconds(100));
  ASSERT_TRUE(pair.portal.tunnel.peer_hello());
  EXPECT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::draining);
  EXPECT_TRUE(pair.portal.tunnel.pickable_as_last(pair.portal.now));

  Pair undecided(milliseconds(10));
  undecided.bridge.tunnel.announce_restart();
  EXPECT_FALSE(undecided.bridge.tunnel.announce_return());
  undecided.pass(milliseconds(100));
  EXPECT_EQ(undecided.portal.tunnel.state(), PortalTunnel::State::active);
}

TEST(OursToOurs, ADrainedTunnelBeatsAsLongAsSomebodyUsesIt) {
  Pair pair(milliseconds(10));
  pair.pass(milliseconds(100));
  Bytes head(mux::kMaxHead);
  const auto opened = pair.portal.tunnel.open(kWeb, nullptr, head);
  pair.send_to_bridge(ConstSpan(head).first(opened->head_bytes));
  pair.portal.tunnel.drain(pair.portal.now);
  pair.portal.tunnel.set_replaced(true);
  for (int i = 0; i < 20; ++i) {
    const auto before = pair.from_portal;
    pair.pass(seconds(3));
    EXPECT_GT(pair.from_portal, before) << "an Xray bridge ends a tunnel whose control stream is silent";
    ASSERT_EQ(pair.portal.tunnel.state(), PortalTunnel::State::draining);
  }
  pair.portal.tunnel.close(opened->stream);
  pair.pass(milliseconds(20));
  EXPECT_EQ(pair.portal.tunnel.end(), TunnelEnd::drained);
}

TEST(OursToOurs, SpeakLegacyWhenOneSideDoesNotOffer) {
  auto deaf = Pair::bridge_settings();
  deaf.answer_hello = false;
  Pair pair(milliseconds(10), Pair::portal_settings(), deaf);
  pair.pass(seconds(30));
  EXPECT_FALSE(pair.portal.tunnel.peer_hello());
  EXPECT_EQ(pair.portal.tunnel.dialect(), Dialect::v2ray) << "all names are taken in silence, so it is assumed";
  EXPECT_EQ(pair.bridge.tunnel.control_name(), kControlNameV2ray);

  auto mute = Pair::portal_settings();
  mute.offer_hello = false;
  Pair quiet(milliseconds(10), mute);
  quiet.pass(seconds(30));
  EXPECT_FALSE(quiet.bridge.tunnel.peer_hello());
  EXPECT_FALSE(quiet.bridge.tunnel.announce_restart());
  EXPECT_EQ(quiet.portal.tunnel.dialect(), Dialect::v2ray);
}

}  // namespace
}  // namespace ebb::reverse
