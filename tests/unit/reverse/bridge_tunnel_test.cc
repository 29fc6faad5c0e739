#include "common/reverse/bridge_tunnel.h"

#include <gtest/gtest.h>

#include "tests/support/vectors.h"
#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

using Bridge = Bench<BridgeTunnel>;
using State = BridgeTunnel::State;

BridgeTunnelSettings settings() { return {.domain = "private.example"}; }

std::string open_frame(std::uint16_t id, const Target& target, ConstSpan data = {}, ConstSpan trailing = {}) {
  Bytes out(mux::kMaxHead);
  out.resize(mux::write_new(out, StreamId{id}, target, data.size(), trailing));
  out.insert(out.end(), data.begin(), data.end());
  return to_hex(out);
}
Target control(std::string_view name) { return {Network::udp, std::string(name), 0}; }

constexpr std::string_view kNames[] = {kControlNameV2ray, kControlNameV2fly, kControlNameXray, kControlNameOldXray};
constexpr const char* kActive =
    "0004000102010006"
    "9a0603010203";
constexpr const char* kDrain =
    "0004000102010002"
    "0801";

TEST(BridgeTunnel, ObeysAllFourNamesAndExposesNone) {
  for (const auto name : kNames) {
    for (const auto network : {Network::udp, Network::tcp}) {
      SCOPED_TRACE(name);
      Bridge bridge(settings());
      bridge.feed(open_frame(1, {network, std::string(name), 4711}, test::unhex("9a0603010203")));
      EXPECT_EQ(bridge.tunnel.control_name(), name);
      EXPECT_EQ(bridge.tunnel.state(), State::active);
      bridge.feed(kDrain);
      EXPECT_EQ(bridge.tunnel.state(), State::draining);
      bridge.feed(kActive);
      EXPECT_EQ(bridge.tunnel.state(), State::active);
      bridge.feed("00040001020100020802");
      EXPECT_EQ(bridge.tunnel.state(), State::draining) << "any state but 0";
      bridge.feed(
          "0004000102010003ffffff"
          "000400010300"
          "000400010300");
      EXPECT_EQ(bridge.tunnel.violations().bad_control, 1U);
      EXPECT_EQ(bridge.tunnel.state(), State::draining) << "the last state stays";
      EXPECT_EQ(bridge.events.lines, (Lines{"stray 1"}));
      EXPECT_EQ(bridge.output(), Lines()) << "never a byte on the control stream";
      EXPECT_EQ(bridge.tunnel.sessions(), 0U);
    }
  }
}

TEST(BridgeTunnel, CountsControlStreamsBeyondTheBound) {
  Bridge bridge(settings());
  for (std::uint16_t id = 1; id <= 20; ++id) bridge.feed(open_frame(id, control("reverse")));
  EXPECT_EQ(bridge.tunnel.sessions(), 16U);
  EXPECT_EQ(bridge.tunnel.violations().bad_control, 4U);
}

TEST(BridgeTunnel, ReadsControlMessagesHoweverTheyAreCut) {
  const auto stream = test::unhex(open_frame(1, {Network::tcp, std::string("reverse"), 1}, test::unhex("0801")));
  for (std::size_t cut = 1; cut < stream.size(); ++cut) {
    Bridge bridge(settings());
    bridge.feed_bytes(ConstSpan(stream).first(cut));
    bridge.feed_bytes(ConstSpan(stream).subspan(cut));
    EXPECT_EQ(bridge.tunnel.state(), State::draining);
  }
}

TEST(BridgeTunnel, ObeysSeveralControlStreamsButNotAnyNumber) {
  Bridge bridge(settings());
  for (std::uint16_t id = 1; id <= 17; ++id) bridge.feed(open_frame(id, control("reverse")));
  EXPECT_EQ(bridge.output(), (Lines{"000400110302"}));
  EXPECT_EQ(bridge.tunnel.user_streams(), 0U);
  EXPECT_EQ(bridge.tunnel.sessions(), 16U);
}

TEST(BridgeTunnel, AnswersTheHelloOnceAndOnlyToTheMarker) {
  Bridge bridge(settings());
  bridge.feed(open_frame(1, control(kControlNameV2ray)));
  EXPECT_EQ(bridge.output(), Lines());
  EXPECT_FALSE(bridge.tunnel.announce_restart()) << "a stock portal is never written to";
  const auto probe = test::load_vectors("reverse/dialect_detection.json")["probe_frames"];
  Bridge ours(settings());
  ours.feed(probe.at(0).text() + probe.at(1).text());
  const auto frames = ours.output();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_TRUE(frames[0].starts_with("000400010201"));
  ASSERT_TRUE(control_in(frames[0]).hello);
  EXPECT_EQ(control_in(frames[0]).hello->features, kOurFeatures);
  EXPECT_EQ(control_in(frames[0]).hello->max_data, 65535U);
  EXPECT_FALSE(control_in(frames[0]).random.empty());
  ours.feed(probe.at(2).text() + probe.at(3).text());
  EXPECT_EQ(ours.output(), Lines()) << "no End on control streams";

  auto closed = settings();
  closed.answer_hello = false;
  Bridge quiet(closed);
  quiet.feed(probe.at(0).text());
  EXPECT_EQ(quiet.output(), Lines());
}

TEST(BridgeTunnel, TakesNoHelloFromAPortalThatShowedNoMarker) {
  Control hello;
  hello.hello = Hello{.max_data = 65535};
  Bridge bridge(settings());
  bridge.feed(open_frame(1, control("reverse"), encode_control(hello)));
  EXPECT_FALSE(bridge.tunnel.peer_hello());
  EXPECT_FALSE(bridge.tunnel.announce_restart());
  EXPECT_EQ(bridge.tunnel.send_limits().max_data, 8192U);
  EXPECT_EQ(bridge.output(), Lines());
}

TEST(BridgeTunnel, RefusesItsOwnDomain) {
  Bridge bridge(settings());
  bridge.feed(open_frame(2, {Network::tcp, std::string("private.example"), 0}, test::unhex("6161")));
  bridge.feed(open_frame(3, {Network::tcp, std::string("PRIVATE.example"), 443}));
  EXPECT_EQ(bridge.output(), (Lines{"000400020302", "000400030302"}));
  EXPECT_TRUE(bridge.events.lines.empty());
  EXPECT_EQ(bridge.tunnel.refused_own_domain(), 2U);
}

TEST(BridgeTunnel, PassesOnUserStreams) {
  Bridge bridge(settings());
  bridge.feed(open_frame(2, kWeb, test::unhex("6869")) +
              open_frame(3, {Network::udp, kWeb.host, 53}, test::unhex("71")));
  EXPECT_EQ(bridge.events.lines,
            (Lines{"open 2 tcp:127.0.0.1:80", "data 2 6869", "open 3 udp:127.0.0.1:53", "gram 3 71"}));
  EXPECT_EQ(bridge.tunnel.user_streams(), 2U);
  bridge.feed("000400020300");
  EXPECT_EQ(bridge.events.lines.back(), "end 2");
  EXPECT_EQ(bridge.output(), (Lines{"000400020302"}));
}

TEST(BridgeTunnel, ClosesADrainedTunnelAfterAMinuteWithoutSessions) {
  Bridge bridge(settings());
  const auto alive = [&bridge](int time) {
    for (; time > 0; --time) bridge.feed("000400000400"), bridge.pass(seconds(1));
  };
  bridge.feed(open_frame(1, control("reverse"), test::unhex("0801")) + open_frame(2, kWeb));
  alive(120);
  EXPECT_EQ(bridge.tunnel.state(), State::draining) << "sessions are open";
  bridge.feed("000400010300");
  bridge.tunnel.close(StreamId{2}, bridge.now);
  alive(59);
  EXPECT_EQ(bridge.tunnel.state(), State::draining);
  alive(1);
  EXPECT_EQ(bridge.tunnel.state(), State::dead);
  EXPECT_EQ(bridge.tunnel.end(), TunnelEnd::drained);
}

TEST(BridgeTunnel, KeepsAnActiveTunnelHoweverLongItIsEmpty) {
  Bridge bridge(settings());
  for (int i = 0; i < 100; ++i) bridge.feed("000400000400"), bridge.pass(seconds(9));
  EXPECT_EQ(bridge.tunnel.state(), State::active);
  EXPECT_EQ(bridge.output(), Lines()) << "the bridge sends nothing of its own while it hears the portal";
}

TEST(BridgeTunnel, PingsWithIdZeroOrOneThatIsFree) {
  Bridge bridge(settings());
  bridge.pass(seconds(10));
  EXPECT_EQ(bridge.output(), (Lines{"0004000002010000"}));
  bridge.pass(milliseconds(70));
  bridge.feed("000400000300");
  EXPECT_EQ(bridge.tunnel.rtt(), milliseconds(70));
  bridge.feed(open_frame(0, kWeb));
  bridge.pass(seconds(10));
  EXPECT_EQ(bridge.output(), (Lines{"0004ffff02010000"}));
  bridge.pass(seconds(15));
  EXPECT_EQ(bridge.tunnel.end(), TunnelEnd::unresponsive);
  bridge.tunnel.abort_streams(bridge.events);
  EXPECT_EQ(bridge.events.lines.back(), "end! 0");
}

TEST(BridgeTunnel, ForgetsAControlStreamWhoseIdIsOpenedAgain) {
  Bridge bridge(settings());
  bridge.feed(open_frame(1, control("reverse")) + open_frame(1, kWeb));
  EXPECT_EQ(bridge.events.lines, (Lines{"open 1 tcp:127.0.0.1:80"}));
  EXPECT_EQ(bridge.tunnel.user_streams(), 1U);
}

TEST(BridgeTunnel, ReadsSourceAndLocalOnlyWhereTheyBelong) {
  const auto trailing = test::unhex("0500010101020304");
  Bridge classic(settings());
  classic.feed(open_frame(2, kWeb, {}, trailing));
  EXPECT_FALSE(classic.fatal);
  EXPECT_EQ(classic.events.lines, (Lines{"open 2 tcp:127.0.0.1:80 [0500010101020304]"}));
  auto vless = settings();
  vless.source_local = true;
  Bridge tunnel(vless);
  tunnel.feed(open_frame(2, kWeb, {}, test::unhex("0115b301cb0071070101bb01c0000201")));
  EXPECT_FALSE(tunnel.fatal);
  tunnel.feed(open_frame(3, kWeb, {}, trailing));
  EXPECT_TRUE(tunnel.fatal);
  EXPECT_EQ(tunnel.tunnel.end(), TunnelEnd::fatal_frame);
}

TEST(BridgeTunnel, ReadsTheVisitorsAddressFromOurOwnPortals) {
  const auto marked = open_frame(1, control(kControlNameV2ray), {}, mux::kHelloMarker);
  const auto trailing = test::unhex("0115b301cb0071070101bb01c0000201");
  auto reading = settings();
  reading.hello.features = kFeatureSourceAddress;
  Bridge bridge(reading);
  EXPECT_EQ(bridge.tunnel.visitor_behind(trailing), VisitorAddress{}) << "a portal that showed no marker";
  bridge.feed(marked);
  const auto visitor = bridge.tunnel.visitor_behind(trailing);
  ASSERT_TRUE(visitor.source && visitor.local);
  EXPECT_EQ(visitor.source->text(), "203.0.113.7:5555");
  EXPECT_EQ(visitor.local->text(), "192.0.2.1:443");
  EXPECT_EQ(bridge.tunnel.visitor_behind({}), VisitorAddress{});
  bridge.feed(open_frame(3, kWeb, {}, trailing));
  EXPECT_EQ(bridge.events.lines, (Lines{"open 3 tcp:127.0.0.1:80 [0115b301cb0071070101bb01c0000201]"}));
  bridge.feed(open_frame(4, kWeb, {}, test::unhex("0500010101020304")));
  EXPECT_TRUE(bridge.fatal);

  auto deaf_settings = settings();
  deaf_settings.hello.features = 0;
  Bridge deaf(deaf_settings);
  deaf.feed(marked);
  EXPECT_EQ(deaf.tunnel.visitor_behind(trailing), VisitorAddress{});
  deaf.feed(open_frame(3, kWeb, {}, test::unhex("0500010101020304")));
  EXPECT_FALSE(deaf.fatal);
}

TEST(BridgeTunnel, RefusesStreamsBeyondItsLimit) {
  auto small = settings();
  small.max_streams = 1;
  Bridge bridge(small);
  bridge.feed(open_frame(1, control("reverse")) + open_frame(2, kWeb) + open_frame(3, kWeb));
  EXPECT_EQ(bridge.output(), (Lines{"000400030302"}));
  EXPECT_EQ(bridge.tunnel.user_streams(), 1U);
}

}  // namespace
}  // namespace ebb::reverse
