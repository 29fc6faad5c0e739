// A portal's pool: when those who wait for a tunnel are told, and how it drains.
#include "worker/broker/portal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "tests/support/log_lines.h"
#include "tests/support/memory_stream.h"
#include "tests/support/turns.h"
#include "worker/relay/socket_side.h"

namespace ebb::broker {
namespace {

using test::MemoryStream;
using namespace std::chrono_literals;

const Target kTarget{Network::tcp, std::string("origin.test"), 80};

class PortalTest : public testing::Test {
 protected:
  PortalTest() {
    portal_settings.tag = "portal";
    portal_settings.domain = "t.reverse";
    portal_settings.dialect = config::Dialect::v2ray;  // no probe: one control stream
  }
  void SetUp() override {
    portal = std::make_unique<Portal>(portal_settings, home);
    portal->on_change = [this](Portal&) { ++changes; };
  }
  /// The bridge's end of a new tunnel, without a protocol below.
  std::unique_ptr<MemoryStream> tunnel(const char* peer = "192.0.2.1:1", std::optional<Person> person = std::nullopt) {
    auto [ours, theirs] = MemoryStream::pair(loop);
    portal->add_tunnel({std::move(ours), layers::Stack(), {}, peer, person});
    loop.run_once();
    return std::move(theirs);
  }
  std::unique_ptr<MemoryStream> visit(const VisitorAddress& address = {}) {
    auto [visitor, end] = MemoryStream::pair(loop);
    auto socket = std::make_unique<relay::SocketSide>(loop, blocks, layers::Stack());
    auto& attached = *socket;
    std::unique_ptr<relay::Side> side = std::move(socket);
    if (!portal->serve(side, kTarget, {}, 0, address)) return nullptr;
    attached.attach(std::move(end));
    loop.run_once();
    return std::move(visitor);
  }
  static void end_stream(MemoryStream& bridge, std::uint16_t id, bool error = false) {
    std::array<std::uint8_t, mux::kEndFrame> frame;
    mux::write_end(frame, StreamId{id}, error);
    bridge.put(frame);
  }
  void answer(MemoryStream& bridge, std::uint16_t id) {
    std::array<std::uint8_t, mux::kKeepHead + 1> frame{};
    mux::write_keep_head(frame, StreamId{id}, 1);
    bridge.put(frame);
    loop.run_once();
  }
  std::size_t streams_of(std::size_t link) { return portal->links()[link]->plan().user_streams(); }
  reverse::Standing standing(std::size_t link) {
    const auto key = reverse::target_key(kTarget);
    return portal->pool().health().standing(portal->links()[link]->bridge(), key, loop.now());
  }

  net::UvLoop loop;
  relay::BlockPool blocks;
  crypto::SystemRandom random;
  config::Portal portal_settings;
  relay::Relays relays{loop};
  PortalHome home{{loop, blocks, random}, {}, relays, {}};
  std::unique_ptr<Portal> portal;
  int changes = 0;
};

TEST_F(PortalTest, SaysAtOnceThatAFullTunnelHasRoomAgain) {
  home.settings.limits.max_streams_per_tunnel = 2;
  auto bridge = tunnel();
  auto first = visit();
  auto second = visit();
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(portal->has_room());
  changes = 0;
  end_stream(*bridge, 2);  // id 1 is the control stream
  loop.run_once();
  EXPECT_TRUE(portal->has_room());
  EXPECT_GT(changes, 0) << "visitors who wait would not be asked again before the next beat";
  changes = 0;
  auto third = visit();
  ASSERT_TRUE(third);
  changes = 0;
  third->reset();
  loop.run_once();
  EXPECT_TRUE(portal->has_room());
  EXPECT_GT(changes, 0);
}

/// Eight of nine tunnels are held up, and one address holds more than its share.
TEST_F(PortalTest, WhoHoldsUpManyTunnelsGetsNoFurtherOne) {
  std::vector<std::unique_ptr<MemoryStream>> bridges, visitors;
  for (int i = 0; i < 9; ++i) bridges.push_back(tunnel());
  for (std::size_t i = 0; i < 8; ++i) portal->links()[i]->plan().set_congested(true, loop.now());
  const auto from = [](const char* ip) { return VisitorAddress{Endpoint{*IpAddress::parse(ip), 4711}, {}}; };
  const auto come_to_the_free_one = [&](const char* ip) {
    const std::size_t before = streams_of(8);
    visitors.push_back(visit(from(ip)));
    EXPECT_TRUE(visitors.back()) << ip;
    return streams_of(8) > before;
  };
  portal->links()[0]->drain_in(0s);
  ASSERT_EQ(portal->links()[0]->plan().state(), reverse::PortalTunnel::State::draining);
  const std::size_t on_draining = streams_of(0);
  tunnel::Laggards laggards({}, &home.sources);
  for (const char* heavy : {"198.51.100.7", "2001:db8::1", "127.0.0.1"}) {
    EXPECT_TRUE(come_to_the_free_one(heavy));
    tunnel::Consumer holds(tunnel::SourceLedger::key_of(*IpAddress::parse(heavy)));
    laggards.update(holds, tunnel::LaggardLimits{}.source_buffer + 1, 0, loop.now());
    EXPECT_EQ(come_to_the_free_one(heavy), std::string(heavy) == "127.0.0.1") << "a proxy in front of many";
    EXPECT_TRUE(come_to_the_free_one("198.51.100.8"));
    EXPECT_EQ(come_to_the_free_one("2001:db8::2"), std::string(heavy) != "2001:db8::1") << "the same network";
  }
  EXPECT_EQ(streams_of(0), on_draining);
}

TEST_F(PortalTest, SaysEachTunnelThatClosesUntilItIsAFlood) {
  test::LogLines log;
  const TimePoint begin = loop.now();
  for (int i = 0; i < 100; ++i) {
    auto bridge = tunnel();
    bridge->reset();
    loop.run_once();
    ASSERT_TRUE(test::run_until(loop, [&] { return portal->links().empty(); }));
    if (i == 9) {
      EXPECT_EQ(log.count("tunnel closed"), 10u) << "in ordinary life each is said";
    }
  }
  const auto seconds = static_cast<std::size_t>((loop.now() - begin) / 1s);
  EXPECT_LE(log.count("tunnel opened"), (2 + seconds) * Sparingly::kEach);
  EXPECT_LE(log.count("tunnel closed"), (2 + seconds) * Sparingly::kEach);
  EXPECT_GE(log.count("tunnel closed"), Sparingly::kEach);
}

TEST_F(PortalTest, SaysALostTunnelThoughManyLeave) {
  test::LogLines log;
  std::vector<std::unique_ptr<MemoryStream>> bridges;
  for (unsigned i = 0; i < Sparingly::kEach + 1; ++i) bridges.push_back(tunnel());
  for (unsigned i = 0; i < Sparingly::kEach; ++i) portal->links()[i]->drain_in(0s);
  for (auto& bridge : bridges) bridge->reset();
  ASSERT_TRUE(test::run_until(loop, [&] { return portal->links().empty(); }));
  EXPECT_EQ(log.count("[Info] portal: tunnel closed"), Sparingly::kEach);
  EXPECT_EQ(log.count("[Warning] portal: tunnel closed"), 1u);
}

TEST_F(PortalTest, SaysOnceASecondWhatABridgeDoesThatItMayNot) {
  test::LogLines log;
  auto bridge = tunnel();
  std::array<std::uint8_t, mux::kMaxHead> frame;
  const auto head = mux::write_new(frame, StreamId{9}, kTarget, 0);
  // Another tunnel's may just have been said: then this one's turn comes in the next second.
  EXPECT_TRUE(test::run_until(loop, [&] {
    bridge->put(ConstSpan(frame).first(head));
    return log.count("the other end broke a rule") > 0;
  }));
  const auto counted = portal->links()[0]->plan().violations().ignored_new;
  const TimePoint begin = loop.now();
  for (int i = 0; i < 100; ++i) {
    bridge->put(ConstSpan(frame).first(head));
    loop.run_once();
  }
  EXPECT_GE(portal->links()[0]->plan().violations().ignored_new, counted + 100);
  EXPECT_LE(log.count("the other end broke a rule"), 2 + static_cast<std::size_t>((loop.now() - begin) / 1s));
  EXPECT_EQ(log.count("New from the end that opens none"), log.count("the other end broke a rule"));
}

TEST_F(PortalTest, SharesAmongBridgesEvenly) {
  auto one = tunnel("192.0.2.1:1"), other = tunnel("192.0.2.2:1"), more = tunnel("192.0.2.2:2");
  std::vector<std::unique_ptr<MemoryStream>> visitors;
  for (int i = 0; i < 20; ++i) visitors.push_back(visit());
  EXPECT_EQ(streams_of(0), 10u);
  EXPECT_EQ(streams_of(1), 5u);
  EXPECT_EQ(streams_of(2), 5u);
}

TEST_F(PortalTest, LearnsWhoReachesTheOriginFromWhatBecomesOfStreams) {
  using reverse::Standing;
  auto good = tunnel("192.0.2.1:1"), dead = tunnel("192.0.2.2:1");
  auto first = visit(), second = visit();
  ASSERT_EQ(streams_of(0), 1u);
  ASSERT_EQ(streams_of(1), 1u);
  answer(*good, 2);
  EXPECT_EQ(standing(0), Standing::proven);
  end_stream(*dead, 2, true);
  loop.run_once();
  EXPECT_EQ(standing(1), Standing::failing);
  for (int i = 0; i < 5; ++i) {
    auto late = visit();
    EXPECT_EQ(streams_of(1), 0u);
  }
}

TEST_F(PortalTest, TakesNeitherALostTunnelNorAVisitorWhoLeftForADeadOrigin) {
  using reverse::Standing;
  auto bridge = tunnel("192.0.2.1:1"), lost = tunnel("192.0.2.2:1");
  auto leaves = visit(), second = visit();
  leaves->reset();
  loop.run_once();
  EXPECT_EQ(standing(0), Standing::untried);
  lost->reset();
  ASSERT_TRUE(test::run_until(loop, [&] { return portal->links().size() == 1; }));
  auto again = tunnel("192.0.2.2:9");
  EXPECT_EQ(standing(1), Standing::untried);
}

TEST_F(PortalTest, OrderFollowsTheUsersOfTheConfiguration) {
  portal_settings.policy = config::PickPolicy::order;
  home.account = [](const Person& person) {
    return PortalHome::Account{person.id.value[0], "user " + std::to_string(person.id.value[0])};
  };
  portal = std::make_unique<Portal>(portal_settings, home);
  auto backup = tunnel("192.0.2.1:1", Person{{}, UserId{{2}}});
  auto visitor = visit();
  EXPECT_EQ(streams_of(0), 1u);
  auto primary = tunnel("192.0.2.2:1", Person{{}, UserId{{1}}});
  auto next = visit(), another = visit();
  EXPECT_EQ(streams_of(1), 2u);
  primary->reset();
  ASSERT_TRUE(test::run_until(loop, [&] { return portal->links().size() == 1; }));
  auto late = visit();
  EXPECT_EQ(streams_of(0), 2u);
}

TEST_F(PortalTest, AsksItsBridgesToDialAnewAndStillServes) {
  auto bridge = tunnel();
  bridge->take();
  portal->drain();
  loop.run_once();
  EXPECT_FALSE(bridge->take().empty()) << "DRAIN did not go out";
  EXPECT_EQ(portal->links().front()->plan().state(), reverse::PortalTunnel::State::draining);
  EXPECT_TRUE(visit());
  auto late = tunnel();
  EXPECT_EQ(portal->links().back()->plan().state(), reverse::PortalTunnel::State::draining);
}

TEST_F(PortalTest, SpreadsItsDrainAndTakesItBack) {
  using State = reverse::PortalTunnel::State;
  std::vector<std::unique_ptr<MemoryStream>> bridges;
  for (int i = 0; i < 20; ++i) bridges.push_back(tunnel());
  const auto serving = [this] {
    return std::ranges::count_if(portal->links(),
                                 [](const auto& link) { return link->plan().state() != State::draining; });
  };
  portal->drain(300ms);
  EXPECT_GT(serving(), 0) << "not all bridges at once";
  ASSERT_TRUE(test::run_until(loop, [&] { return serving() == 0; }, 5s));
  EXPECT_TRUE(portal->has_room()) << "empty ones beside others end, but never the last";
  portal->resume();
  EXPECT_GT(serving(), 0);
  const auto before = serving();
  portal->drain(1h);
  portal->resume();
  EXPECT_FALSE(test::run_until(loop, [&] { return serving() != before; }, 50ms));
  auto late = tunnel();
  EXPECT_EQ(serving(), before + 1);
}

TEST_F(PortalTest, KeepsDrainedTunnelsUntilASuccessorServesThePortal) {
  auto bridge = tunnel();
  auto visitor = visit();
  ASSERT_TRUE(visitor);
  portal->drain();
  EXPECT_FALSE(portal->serving());
  EXPECT_EQ(portal->live(), 1u) << "as the last one it takes visitors";
  visitor->reset();
  loop.run_once();
  EXPECT_FALSE(test::run_until(
      loop, [&] { return portal->links().empty(); }, 50ms))
      << "empty, but nobody else is there";
  auto late = visit();
  ASSERT_TRUE(late);
  portal->set_moved(true);
  EXPECT_FALSE(test::run_until(loop, [&] { return portal->links().empty(); }, 50ms)) << "it has a visitor";
  late->reset();
  EXPECT_TRUE(test::run_until(loop, [&] { return bridge->ended(); }));
  EXPECT_FALSE(bridge->was_reset());
  EXPECT_TRUE(test::run_until(loop, [&] { return portal->links().empty(); }));
  EXPECT_FALSE(portal->has_room());
}

TEST_F(PortalTest, KeepsItsTunnelsWhenTheSuccessorIsGoneAgain) {
  auto bridge = tunnel();
  auto visitor = visit();
  portal->drain();
  portal->set_moved(true);
  loop.run_once();
  portal->set_moved(false);  // the successor lost its only tunnel
  visitor->reset();
  EXPECT_FALSE(test::run_until(loop, [&] { return bridge->ended(); }, 50ms));
  EXPECT_TRUE(visit());
}

TEST_F(PortalTest, ForgetsTheSuccessorWhenItResumes) {
  auto bridge = tunnel();
  auto visitor = visit();
  portal->drain();
  portal->set_moved(true);
  loop.run_once();
  portal->resume();
  EXPECT_TRUE(portal->serving());
  portal->drain();
  visitor->reset();
  EXPECT_FALSE(test::run_until(loop, [&] { return bridge->ended(); }, 50ms));
}

TEST_F(PortalTest, DeliversWhatAStreamLeftInTheQueueBeforeItsTunnelCloses) {
  auto bridge = tunnel();
  bridge->take();
  bridge->faults.capacity = 1000;  // the bridge's network is slow: what it was sent waits in our queue
  static_cast<MemoryStream&>(*bridge).faults.max_read = 1000;
  auto visitor = visit();
  ASSERT_TRUE(visitor);
  portal->drain();
  portal->set_moved(true);
  const std::string upload(100'000, 'u');
  visitor->put(upload);
  visitor->shutdown_write();
  loop.run_once();
  end_stream(*bridge, 2);  // the origin had enough; what is on its way is delivered all the same
  std::size_t got = 0;
  ASSERT_TRUE(test::run_until(loop, [&] {
    got += bridge->take().size();
    return bridge->ended() && bridge->waiting() == 0;
  }));
  EXPECT_FALSE(bridge->was_reset());
  EXPECT_GT(got, upload.size());
}

TEST_F(PortalTest, GoesAwayWithTunnelsAndVisitorsOpen) {
  home.settings.limits.stream_buffer = 1000;
  auto bridge = tunnel();
  auto visitor = visit();
  static_cast<MemoryStream&>(*visitor).faults.capacity = 1000;
  Bytes much(64 * 1024);
  for (std::size_t at = 0; at < much.size(); at += 1024) {
    mux::write_keep_head(MutSpan(much).subspan(at), StreamId{2}, 1016);
  }
  for (int i = 0; i < 40; ++i) bridge->put(much);
  loop.run_once();
  portal.reset();  // a tunnel over its limit tells its owner that it is read again, who must still be there to hear it
  loop.run_once();
  EXPECT_TRUE(visitor->was_reset());
}

/// What the first user stream's New frame carries.
std::string first_bytes(MemoryStream& bridge) {
  const Bytes bytes = bridge.take();
  for (ConstSpan rest(bytes); !rest.empty();) {
    const auto step = mux::decode_head(rest);
    if (!step || !step->message) break;
    const auto& head = *step->message;
    if (head.status == mux::Status::open && mux::decode_open(head.meta)->target == kTarget) {
      return std::string(as_text(rest.subspan(step->used, head.data_bytes)));
    }
    rest = rest.subspan(step->used + head.data_bytes);
  }
  return "no such stream";
}

TEST_F(PortalTest, TellsAStockBridgesOriginWhoVisits) {
  const VisitorAddress address{Endpoint{*IpAddress::parse("203.0.113.7"), 51234},
                               Endpoint{*IpAddress::parse("198.51.100.1"), 443}};
  const auto header_of = [&](const VisitorAddress& visitor) {
    auto bridge = tunnel();
    portal->open(kTarget, 0, visitor)->close();
    loop.run_once();
    const auto seen = first_bytes(*bridge);
    portal->kick([](const PortalLink&) { return true; }, Error{Errc::closed, "next", {}});
    loop.run_once();
    return seen;
  };
  EXPECT_EQ(header_of(address), "") << "off by default";
  portal_settings.proxy_protocol = 1;
  portal->update(portal_settings);
  EXPECT_EQ(header_of(address), "PROXY TCP4 203.0.113.7 198.51.100.1 51234 443\r\n");
  EXPECT_EQ(header_of({}), "PROXY UNKNOWN\r\n");
  portal_settings.proxy_protocol = 2;
  portal->update(portal_settings);
  EXPECT_EQ(to_hex(as_bytes(header_of(address))), "0d0a0d0a000d0a515549540a2111000ccb007107c6336401c82201bb");
}

}  // namespace
}  // namespace ebb::broker
