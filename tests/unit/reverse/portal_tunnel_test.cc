#include "common/reverse/portal_tunnel.h"

#include <gtest/gtest.h>

#include "tests/support/vectors.h"
#include "tests/unit/reverse/tunnel_clock.h"

namespace ebb::reverse {
namespace {

using Portal = Bench<PortalTunnel>;
using State = PortalTunnel::State;

PortalTunnelSettings settings() { return {.domain = "private.example"}; }
PortalTunnelSettings forced(Dialect dialect) {
  auto out = settings();
  out.forced = dialect;
  return out;
}

std::uint16_t open_stream(Portal& portal) {
  Bytes head(mux::kMaxHead);
  const auto opened = portal.tunnel.open(kWeb, nullptr, head);
  return opened ? opened->stream.value : 0;
}

Lines probe_frames() {
  Lines out;
  for (const auto& frame : test::load_vectors("reverse/dialect_detection.json")["probe_frames"])
    out.push_back(frame.text());
  return out;
}

TEST(PortalTunnel, ProbesWithTheFramesThatWereVerifiedLive) {
  Portal portal(settings());
  const auto frames = probe_frames();
  EXPECT_EQ(portal.output(), Lines(frames.begin(), frames.begin() + 2));
  portal.pass(milliseconds(149));
  EXPECT_EQ(portal.output(), Lines());
  portal.pass(milliseconds(1));
  EXPECT_EQ(portal.output(), Lines(frames.begin() + 2, frames.end()));
  EXPECT_EQ(portal.tunnel.state(), State::probing);
  EXPECT_EQ(portal.tunnel.user_streams(), 0U);
}

TEST(PortalTunnel, FindsTheDialectInEveryRecordedRun) {
  for (const auto& run : test::load_vectors("reverse/dialect_detection.json")["results"]) {
    SCOPED_TRACE(run["bridge"].text());
    Portal portal(settings());
    for (const auto& answer : run["evidence"]) {
      const auto at = kStart + milliseconds(static_cast<int>(answer.at(1).real() * 1000 + 0.5));
      portal.pass(std::max(Duration::zero(), at - portal.now));
      portal.feed(answer.at(0).text());
    }
    while (!portal.tunnel.dialect() && portal.now < kStart + seconds(20)) portal.pass(milliseconds(10));
    const auto& found = run["detected"].text();
    EXPECT_EQ(portal.tunnel.dialect(), found == "v4" ? Dialect::v2ray : found == "v5" ? Dialect::v2fly : Dialect::xray);
    const auto took = std::chrono::duration<double>(portal.now - kStart).count();
    EXPECT_NEAR(took, run["seconds"].real(), 0.06);
    EXPECT_EQ(portal.tunnel.dialect_to_remember(), portal.tunnel.dialect());
    EXPECT_EQ(portal.tunnel.state(), State::active);
    EXPECT_EQ(portal.tunnel.user_streams(), 0U);
  }
}

TEST(PortalTunnel, AssumesV2rayWhenNobodyAnswers) {
  Portal portal(settings());
  portal.pass(milliseconds(9990));
  EXPECT_FALSE(portal.tunnel.dialect());
  portal.output();
  portal.pass(milliseconds(10));
  EXPECT_EQ(portal.tunnel.dialect(), Dialect::v2ray);
  EXPECT_FALSE(portal.tunnel.dialect_to_remember());
}

TEST(PortalTunnel, DoesNotCountWhatAnybodyMaySayBeforeAHello) {
  Portal portal(settings());
  portal.feed(
      "000400010201"
      "0003ffffff");  // a redirect target of a bridge that does not know the name
  EXPECT_EQ(portal.tunnel.violations().total(), 0U);
}

TEST(PortalTunnel, ProbesTheRememberedNameFirstButStillVerifies) {
  auto with_memory = settings();
  with_memory.remembered = Dialect::v2fly;
  Portal portal(with_memory);
  EXPECT_NE(portal.output()[0].find(to_hex(as_bytes("v2fly"))), std::string::npos);
  portal.pass(milliseconds(200));
  portal.feed("000400010302");  // the bridge does not know v2fly's name after all
  portal.pass(milliseconds(400));
  EXPECT_EQ(portal.tunnel.dialect(), Dialect::v2ray);

  Portal silent(with_memory);
  silent.pass(seconds(11));
  EXPECT_EQ(silent.tunnel.dialect(), Dialect::v2fly);
}

TEST(PortalTunnel, OpensUserStreamsDuringTheProbe) {
  Portal portal(settings());
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
  EXPECT_EQ(open_stream(portal), 3);
  portal.feed("000400030201000161");
  EXPECT_EQ(portal.events.lines, (Lines{"data 3 61"}));
  EXPECT_EQ(portal.tunnel.user_streams(), 1U);
}

TEST(PortalTunnel, BeatsEveryTwoOrTenSecondsAndNeverEmpty) {
  for (const auto dialect : {Dialect::v2ray, Dialect::v2fly, Dialect::xray}) {
    Portal portal(forced(dialect));
    portal.output();
    const auto interval = dialect == Dialect::xray ? 10 : 2;
    for (int beat = 0; beat < 100; ++beat) {
      portal.feed("000400000400");  // the bridge is alive
      portal.pass(seconds(interval) - milliseconds(1));
      EXPECT_EQ(without_stream(portal.output(), 0xffff), Lines());
      portal.pass(milliseconds(1));
      const auto frames = without_stream(portal.output(), 0xffff);
      ASSERT_EQ(frames.size(), 1U);
      EXPECT_TRUE(frames[0].starts_with("000400010201"));
      EXPECT_FALSE(control_in(frames[0]).random.empty());
      EXPECT_FALSE(control_in(frames[0]).draining());
    }
    EXPECT_EQ(portal.tunnel.state(), State::active);
  }
}

TEST(PortalTunnel, TriesTheNextNameWhenTheBridgeEndsTheControlStream) {
  Portal portal(settings());
  portal.pass(seconds(10));
  portal.output();
  for (const auto next : {Dialect::v2fly, Dialect::xray}) {
    const auto control = static_cast<std::uint8_t>(portal.tunnel.session().ids_used());
    portal.feed(
        "0004"
        "00" +
        to_hex(ConstSpan(&control, 1)) + "0302");
    EXPECT_EQ(portal.tunnel.dialect(), next);
    const auto frames = portal.output();
    ASSERT_EQ(frames.size(), 2U);  // our End, and the new control stream
    EXPECT_NE(frames[1].find(to_hex(as_bytes(control_name(next)))), std::string::npos);
  }
  portal.feed("000400050302");
  portal.output();
  portal.pass(seconds(5));
  EXPECT_EQ(portal.output(), Lines()) << "no name left: it serves without a control stream";
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
  EXPECT_EQ(portal.tunnel.user_streams(), 0U);
}

TEST(PortalTunnel, SendsNothingUnderOtherNamesWhenTheDialectIsForced) {
  Portal portal(forced(Dialect::xray));
  portal.output();
  portal.feed("000400010302");
  portal.output();
  portal.pass(seconds(9));
  EXPECT_EQ(portal.output(), Lines());
  EXPECT_EQ(portal.tunnel.dialect(), Dialect::xray);
}

TEST(PortalTunnel, DrainsAfter256UserStreamsAndKeepsServing) {
  Portal portal(settings());
  portal.pass(milliseconds(200));
  portal.feed("000400020302");
  portal.pass(milliseconds(400));
  portal.output();
  std::uint16_t last = 0;
  for (int i = 0; i < 256; ++i) {
    EXPECT_TRUE(portal.tunnel.pickable(portal.now));
    last = open_stream(portal);
    if (i < 255) portal.tunnel.close(StreamId{last});
  }
  portal.pass(seconds(2));
  const auto frames = portal.output();
  ASSERT_FALSE(frames.empty());
  EXPECT_TRUE(control_in(frames[0]).draining());
  EXPECT_EQ(portal.tunnel.state(), State::draining);
  EXPECT_FALSE(portal.tunnel.pickable(portal.now));
  EXPECT_TRUE(portal.tunnel.pickable_as_last(portal.now));
  EXPECT_NE(open_stream(portal), 0);

  portal.tunnel.set_replaced(true);
  portal.feed("000400000400");
  portal.pass(seconds(5));
  for (const auto& beat : portal.output()) EXPECT_TRUE(control_in(beat).draining()) << "ACTIVE would undo it";
  EXPECT_EQ(portal.tunnel.state(), State::draining) << "two users are left";
  for (int id = 1; id < 400; ++id) portal.tunnel.close(StreamId{static_cast<std::uint16_t>(id)});
  portal.pass(milliseconds(0));
  EXPECT_EQ(portal.tunnel.state(), State::dead);
  EXPECT_EQ(portal.tunnel.end(), TunnelEnd::drained);
  EXPECT_EQ(portal.output(), (Lines{"000400030300"})) << "End for the control stream";
}

TEST(PortalTunnel, KeepsAnEmptyDrainingTunnelWhileThereIsNoOther) {
  Portal portal(forced(Dialect::v2ray));
  portal.tunnel.drain(portal.now);
  for (int i = 0; i < 100; ++i) {
    portal.pass(seconds(5));
    portal.feed("000400000400");
  }
  EXPECT_EQ(portal.tunnel.state(), State::draining);
  EXPECT_TRUE(portal.tunnel.pickable_as_last(portal.now));
}

TEST(PortalTunnel, KeepsAnEmptyOneWhoseReplacementIsGoneAgain) {
  Portal portal(forced(Dialect::v2ray));
  const auto user = open_stream(portal);
  portal.tunnel.drain(portal.now);
  portal.tunnel.set_replaced(true);
  portal.tunnel.set_replaced(false);
  portal.tunnel.close(StreamId{user});
  portal.pass(seconds(5));
  EXPECT_EQ(portal.tunnel.state(), State::draining);
  EXPECT_NE(open_stream(portal), 0) << "visitors have no other tunnel";
}

TEST(PortalTunnel, TakesAPlannedDrainBackButNotItsAge) {
  Portal portal(forced(Dialect::v2ray));
  portal.tunnel.drain(portal.now);
  portal.output();
  portal.tunnel.resume(portal.now);
  auto frames = portal.output();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_FALSE(control_in(frames[0]).draining());
  EXPECT_FALSE(control_in(frames[0]).notice) << "a stock bridge gets none";
  EXPECT_EQ(portal.tunnel.state(), State::active);
  for (int i = 0; i < 256; ++i) open_stream(portal);
  portal.pass(milliseconds(0));
  ASSERT_EQ(portal.tunnel.state(), State::draining);
  portal.tunnel.drain(portal.now);
  portal.tunnel.resume(portal.now);
  EXPECT_EQ(portal.tunnel.state(), State::draining);
  frames = portal.output();
  EXPECT_TRUE(control_in(frames.back()).draining());
}

TEST(PortalTunnel, AsksForAnotherTunnelAndStaysUsable) {
  Portal portal(forced(Dialect::v2ray));
  portal.output();
  portal.tunnel.ask_for_another(portal.now);
  const auto frames = portal.output();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_TRUE(control_in(frames[0]).draining());
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
  portal.tunnel.set_replaced(true);
  portal.pass(seconds(4));
  EXPECT_EQ(portal.tunnel.state(), State::active);
  portal.tunnel.drain(portal.now);
  portal.pass(seconds(2));
  EXPECT_EQ(portal.tunnel.end(), TunnelEnd::drained) << "drained for good, replaced and empty";
}

TEST(PortalTunnel, AsksUnderEveryNameWhileItDoesNotKnowTheBridges) {
  Portal portal(settings());
  portal.output();
  portal.tunnel.ask_for_another(portal.now);
  const auto frames = portal.output();
  ASSERT_EQ(frames.size(), 6U);
  const std::array names{Dialect::v2ray, Dialect::v2fly, Dialect::xray};
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto frame = test::unhex(frames[2 * i]);
    const auto opened = mux::decode_head(frame)->message;
    EXPECT_EQ(*mux::decode_open(opened->meta)->target.name(), control_name(names[i]));
    const Control asked = control_in(frames[2 * i]);
    EXPECT_TRUE(asked.draining());
    ASSERT_TRUE(asked.hello) << "our own bridge is told that nothing is decided yet";
    EXPECT_EQ(asked.hello->version, 0U);
    EXPECT_EQ(mux::decode_head(test::unhex(frames[2 * i + 1]))->message->stream, opened->stream);
  }
  EXPECT_EQ(portal.tunnel.user_streams(), 0U);
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
}

TEST(PortalTunnel, PingsAnUnknownIdAndGivesUpIn25Seconds) {
  Portal portal(forced(Dialect::v2ray));
  const auto user = open_stream(portal);
  portal.output();
  portal.pass(milliseconds(9999));
  EXPECT_EQ(without_stream(portal.output(), 1), Lines());
  portal.pass(milliseconds(1));
  EXPECT_EQ(without_stream(portal.output(), 1), (Lines{"0004ffff02010000"}));
  portal.pass(milliseconds(30));
  portal.feed("0004ffff0300");
  EXPECT_EQ(portal.tunnel.rtt(), milliseconds(30));
  portal.pass(seconds(15));
  EXPECT_TRUE(portal.tunnel.pickable_as_last(portal.now) == false) << "unanswered for 5 s: suspect";
  portal.feed("000400000400");
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
  portal.pass(seconds(25));
  EXPECT_EQ(portal.tunnel.state(), State::dead);
  EXPECT_EQ(portal.tunnel.end(), TunnelEnd::unresponsive);
  EXPECT_FALSE(portal.tunnel.pickable_as_last(portal.now));
  EXPECT_EQ(open_stream(portal), 0);
  portal.tunnel.abort_streams(portal.events);
  EXPECT_EQ(portal.events.lines.back(), "end! " + std::to_string(user));
  EXPECT_EQ(portal.tunnel.user_streams(), 0U);
}

TEST(PortalTunnel, DoesNotJudgeSilenceWhileItIsNotReading) {
  Portal portal(forced(Dialect::v2ray));
  portal.tunnel.set_reading(false, portal.now);
  portal.pass(seconds(60));
  EXPECT_EQ(portal.tunnel.state(), State::active);
  portal.tunnel.set_reading(true, portal.now);
  portal.pass(milliseconds(9999));
  EXPECT_EQ(portal.tunnel.state(), State::active);
  portal.pass(seconds(16));
  EXPECT_EQ(portal.tunnel.state(), State::dead);
}

TEST(PortalTunnel, ClosesAnIdleTunnelOnlyWithoutControlStreamAndAfterTwoChecks) {
  Portal portal(forced(Dialect::v2ray));
  const auto alive = [&portal](Duration time) {
    for (; time > Duration::zero(); time -= seconds(1)) {
      portal.feed("000400000400");
      portal.pass(seconds(1));
    }
  };
  alive(seconds(100));
  EXPECT_EQ(portal.tunnel.state(), State::active);
  portal.feed("000400010302");  // control lost
  alive(seconds(13));           // a check at 112 s
  portal.tunnel.close(StreamId{open_stream(portal)});
  alive(seconds(16));
  EXPECT_EQ(portal.tunnel.state(), State::active) << "a stream came in between";
  alive(seconds(16));
  EXPECT_EQ(portal.tunnel.end(), TunnelEnd::idle);
}

TEST(PortalTunnel, NeverOpensItsOwnDomain) {
  Portal portal(settings());
  Bytes head(mux::kMaxHead);
  EXPECT_FALSE(portal.tunnel.open({Network::tcp, std::string("private.example"), 80}, nullptr, head));
  EXPECT_FALSE(portal.tunnel.open({Network::udp, std::string("Private.Example"), 0}, nullptr, head));
  EXPECT_TRUE(portal.tunnel.open({Network::tcp, std::string("other.example"), 80}, nullptr, head));
}

TEST(PortalTunnel, CongestedAndWithoutHelpItIsALastResort) {
  Portal portal(forced(Dialect::v2ray));
  portal.tunnel.set_congested(true, portal.now);
  const TimePoint give_up = portal.now + PortalTunnel::kHelpless;
  EXPECT_LE(portal.tunnel.next_deadline(), give_up);
  portal.tunnel.tick(give_up - std::chrono::milliseconds(1));
  EXPECT_FALSE(portal.tunnel.pickable_as_last(give_up));
  EXPECT_TRUE(portal.tunnel.could_serve(give_up));
  portal.tunnel.tick(give_up);
  EXPECT_TRUE(portal.tunnel.pickable_as_last(give_up));
  EXPECT_FALSE(portal.tunnel.pickable(give_up));
  EXPECT_GT(portal.tunnel.next_deadline(), give_up);
  portal.tunnel.help_came(give_up);
  EXPECT_FALSE(portal.tunnel.pickable_as_last(give_up));
  EXPECT_LE(portal.tunnel.next_deadline(), give_up + PortalTunnel::kHelpless);
  portal.tunnel.tick(give_up + PortalTunnel::kHelpless);
  EXPECT_TRUE(portal.tunnel.pickable_as_last(give_up));
  portal.tunnel.set_congested(false, give_up);
  EXPECT_TRUE(portal.tunnel.pickable(give_up));
  portal.tunnel.help_came(give_up);
  EXPECT_TRUE(portal.tunnel.pickable(give_up));
  portal.tunnel.set_congested(true, give_up);
  EXPECT_FALSE(portal.tunnel.pickable_as_last(give_up));
}

TEST(PortalTunnel, TakesNoNewStreamsBeyondItsLimitsOrWhenCongested) {
  auto small = forced(Dialect::v2ray);
  small.max_streams = 2;
  Portal portal(small);
  EXPECT_NE(open_stream(portal), 0);
  portal.tunnel.set_congested(true, portal.now);
  EXPECT_FALSE(portal.tunnel.pickable(portal.now));
  EXPECT_FALSE(portal.tunnel.pickable_as_last(portal.now));
  portal.tunnel.set_congested(false, portal.now);
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
  EXPECT_EQ(portal.tunnel.room(), 1U);
  EXPECT_NE(open_stream(portal), 0);
  EXPECT_EQ(portal.tunnel.room(), 0U);
  EXPECT_FALSE(portal.tunnel.pickable_as_last(portal.now));
  EXPECT_EQ(open_stream(portal), 0);
}

TEST(PortalTunnel, SpendsItsIdsAndThenEnds) {
  Portal portal(forced(Dialect::v2ray));
  EXPECT_EQ(portal.tunnel.room(), 64999U) << "the control stream has one of 65000";
  while (portal.tunnel.session().ids_left()) portal.tunnel.close(StreamId{open_stream(portal)});
  EXPECT_EQ(open_stream(portal), 0);
  EXPECT_FALSE(portal.tunnel.pickable_as_last(portal.now));
  portal.pass(seconds(2));
  EXPECT_EQ(portal.tunnel.end(), TunnelEnd::spent);
}

TEST(PortalTunnel, DiesOfABrokenFrameAtOnce) {
  Portal portal(settings());
  portal.feed("000400010500");
  EXPECT_TRUE(portal.fatal);
  EXPECT_EQ(portal.tunnel.end(), TunnelEnd::fatal_frame);
}

TEST(PortalTunnel, IgnoresWhatAStockBridgeSaysOnTheControlStream) {
  Portal portal(forced(Dialect::v2ray));
  portal.output();
  portal.feed(
      "00040001020100020801"
      "000400010201000ac23e070801207f3a0141"
      "0004000102010003ffffff");
  EXPECT_EQ(portal.tunnel.state(), State::active);
  EXPECT_FALSE(portal.tunnel.peer_hello());
  EXPECT_TRUE(portal.events.lines.empty());
  EXPECT_EQ(portal.tunnel.send_limits().max_data, 8192U);
  EXPECT_EQ(portal.tunnel.send_limits().max_datagram, 2048U);
}

const VisitorAddress kVisitor{Endpoint{IpAddress::from_v4({203, 0, 113, 7}), 5555},
                              Endpoint{IpAddress::from_v4({192, 0, 2, 1}), 443}};

PortalTunnelSettings telling() {
  auto out = settings();
  out.hello.features = kFeatureSourceAddress;
  return out;
}

/// What stands behind the target of a stream opened for kVisitor.
std::string told(Portal& portal, Network network = Network::tcp, std::size_t data_bytes = 0) {
  Bytes head(mux::kMaxHead);
  const auto opened = portal.tunnel.open({network, kWeb.host, kWeb.port}, nullptr, head, data_bytes, kVisitor);
  if (!opened) return "not opened";
  const auto step = mux::decode_head(ConstSpan(head).first(opened->head_bytes));
  return to_hex(mux::decode_open(step->message->meta)->trailing);
}

/// The bridge's answer to the first probe stream.
std::string hello_frame(std::uint64_t features) {
  Control message;
  message.hello = Hello{.features = features};
  const auto payload = encode_control(message);
  Bytes frame(mux::kKeepHead);
  mux::write_keep_head(frame, StreamId{1}, payload.size());
  frame.insert(frame.end(), payload.begin(), payload.end());
  return to_hex(frame);
}

TEST(PortalTunnel, TellsTheVisitorsAddressToWhoeverCanTakeIt) {
  const std::string tcp = "0115b301cb0071070101bb01c0000201";
  const std::string udp = "0215b301cb0071070201bb01c0000201";
  Portal portal(telling());
  EXPECT_EQ(told(portal), tcp) << "not known yet: no bridge minds beside TCP";
  EXPECT_EQ(told(portal, Network::udp), udp) << "nor beside UDP without data";
  EXPECT_EQ(told(portal, Network::udp, 5), "") << "some do beside UDP with data";
  portal.feed(hello_frame(kFeatureSourceAddress));
  ASSERT_TRUE(portal.tunnel.peer_hello());
  EXPECT_EQ(told(portal), tcp);
  EXPECT_EQ(told(portal, Network::udp), udp);

  Portal without(telling());
  without.feed(hello_frame(0));
  EXPECT_EQ(told(without), "") << "our own bridge that does not read it";
  auto quiet = settings();
  quiet.hello.features = 0;
  Portal silent(quiet);
  EXPECT_EQ(told(silent), "") << "not offered";
  auto stock = telling();
  stock.forced = Dialect::v2ray;
  Portal known(stock);
  EXPECT_EQ(told(known), "") << "a stock bridge";
  Bytes head(mux::kMaxHead);
  Portal nobody(telling());
  ASSERT_TRUE(nobody.tunnel.open(kWeb, nullptr, head));
  EXPECT_TRUE(mux::decode_open(mux::decode_head(head)->message->meta)->trailing.empty()) << "nothing is known of him";
}

TEST(PortalTunnel, TakesNoVisitorsBeforeItKnowsWhoseBridgeItIs) {
  auto careful = telling();
  careful.know_first = true;
  Portal portal(careful);
  EXPECT_FALSE(portal.tunnel.pickable(portal.now));
  EXPECT_FALSE(portal.tunnel.pickable_as_last(portal.now));
  EXPECT_EQ(portal.tunnel.room(), 0U);
  EXPECT_EQ(told(portal), "not opened");
  portal.feed(hello_frame(kFeatureSourceAddress));
  EXPECT_TRUE(portal.tunnel.pickable(portal.now));
  EXPECT_GT(portal.tunnel.room(), 0U);

  Portal stock(careful);
  stock.pass(seconds(11));
  ASSERT_TRUE(stock.tunnel.dialect());
  EXPECT_GT(stock.tunnel.room(), 0U);
  Portal relaxed(careful);
  relaxed.tunnel.set_know_first(false);
  EXPECT_TRUE(relaxed.tunnel.pickable(relaxed.now));
}

}  // namespace
}  // namespace ebb::reverse
