// A reload in the broker: what stays the same stays up, what is gone ends with the commit and not before.
#include "worker/broker/plant.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/support/memory_stream.h"
#include "tests/support/turns.h"
#include "worker/broker/status.h"

namespace ebb::broker {
namespace {

using test::MemoryStream;
using test::run_until;
using namespace std::chrono_literals;

const Target kTarget{Network::tcp, std::string("origin.test"), 80};

UserId user_id(std::uint8_t n) {
  UserId id;
  id.value.fill(n);
  return id;
}

/// Two portals and an inbound with users 1 and 2.
config::Config base() {
  config::Config out;
  for (const char* tag : {"a", "b"}) {
    config::Portal portal;
    portal.tag = tag;
    portal.domain = std::string(tag) + ".reverse";
    portal.dialect = config::Dialect::v2ray;  // no probe: one control stream
    out.portals.push_back(portal);
  }
  config::Inbound inbound;
  inbound.tag = "in";
  config::VmessInbound vmess;
  vmess.users.resize(2);
  vmess.users[0].id = user_id(1);
  vmess.users[0].email = "nas@home";
  vmess.users[1].id = user_id(2);
  inbound.protocol = vmess;
  out.inbounds.push_back(inbound);
  return out;
}

class PlantTest : public testing::Test {
 protected:
  explicit PlantTest(config::Config config = base())
      : plant(GenerationTables::make(1, std::move(config)).value(), {loop, blocks, random}, relays, visitors,
              [this](PortalKey key, Portal&) { changed.push_back(key); }) {}

  Portal& portal(std::size_t index) { return *plant.portal(plant.tables().current().portals[index]); }
  Person person(std::uint32_t user) { return *GenerationTables::person(plant.tables().current(), 0, user); }
  /// The bridge's end of a new tunnel, without a protocol below.
  std::unique_ptr<MemoryStream> tunnel(Portal& to, std::optional<Person> of = std::nullopt) {
    auto [ours, theirs] = MemoryStream::pair(loop);
    to.add_tunnel({std::move(ours), layers::Stack(), {}, "192.0.2.1:1", of});
    loop.run_once();
    return std::move(theirs);
  }
  std::unique_ptr<MemoryStream> visit(Portal& to, std::optional<Person> who = std::nullopt) {
    auto [visitor, end] = MemoryStream::pair(loop);
    std::unique_ptr<relay::SocketSide> socket;
    if (who) {
      socket = std::make_unique<Visitor>(visitors, *who, loop, blocks, layers::Stack());
    } else {
      socket = std::make_unique<relay::SocketSide>(loop, blocks, layers::Stack());
    }
    auto& attached = *socket;
    std::unique_ptr<relay::Side> side = std::move(socket);
    if (!to.serve(side, kTarget, {}, 0)) return nullptr;
    attached.attach(std::move(end));
    loop.run_once();
    return std::move(visitor);
  }
  bool over(const MemoryStream& end) {
    return run_until(loop, [&] { return end.ended() || end.was_reset(); }, 1s);
  }

  net::UvLoop loop;
  relay::BlockPool blocks;
  crypto::SystemRandom random;
  Visitors visitors;
  relay::Relays relays{loop};
  std::vector<PortalKey> changed;
  Plant plant;
};

TEST_F(PlantTest, KeepsTunnelsAndVisitorsOfAPortalThatStaysTheSame) {
  auto bridge = tunnel(portal(1));
  auto visitor = visit(portal(1));
  ASSERT_TRUE(visitor);
  const Portal* before = &portal(1);
  auto fresh = base();
  fresh.portals.erase(fresh.portals.begin());
  fresh.portals[0].tunnels = 4;
  fresh.portals[0].policy = config::PickPolicy::roundrobin;
  fresh.settings.limits.max_streams_per_tunnel = 1;
  ASSERT_TRUE(plant.prepare(2, fresh));
  EXPECT_EQ(before->settings().tunnels, 0u);  // not before commit
  ASSERT_TRUE(plant.commit(2).has_value());
  EXPECT_EQ(&portal(0), before);
  EXPECT_EQ(before->settings().tunnels, 4u);
  EXPECT_FALSE(before->has_room());  // the new limit counts for tunnels that are up
  loop.run_once();
  EXPECT_FALSE(bridge->ended() || bridge->was_reset() || visitor->ended() || visitor->was_reset());
  visitor->put("still here");
  bridge->take();
  EXPECT_TRUE(run_until(loop, [&] { return bridge->waiting() > 0; }));
}

TEST_F(PlantTest, StatusShowsWhatPeersDidThatNoneMayAndWhatBecameOfFlows) {
  auto bridge = tunnel(portal(0));
  plant.flows().count_dropped();
  std::array<std::uint8_t, mux::kMaxHead> frame;
  bridge->put(ConstSpan(frame).first(mux::write_new(frame, StreamId{9}, kTarget, 0)));
  loop.run_once();
  const std::string status = status_json(plant, 0, {}, loop.now());
  EXPECT_TRUE(status.contains(R"("violations":1,)")) << status;
  EXPECT_TRUE(status.contains(R"("ignored_new":1,"after_fin":0,"credit_overruns":0,"bad_control":0})")) << status;
  EXPECT_TRUE(status.contains(
      R"("flows":{"live":0,"started":0,"datagrams":0,"dropped":1,"displaced":0,"idle":0},"udp_sockets":{"received":0,)"))
      << status;
}

TEST_F(PlantTest, EndsAPortalAtCommitAndNotBefore) {
  auto bridge = tunnel(portal(0));
  auto visitor = visit(portal(0));
  const PortalKey key = plant.tables().current().portals[0];
  auto fresh = base();
  fresh.portals[0].domain = "elsewhere.reverse";  // the same tag: another portal all the same
  ASSERT_TRUE(plant.prepare(2, fresh));
  EXPECT_EQ(plant.portals().size(), 3u);
  loop.run_once();
  EXPECT_FALSE(bridge->ended() || visitor->was_reset());
  EXPECT_EQ(plant.commit(2), std::vector<PortalKey>{key});
  EXPECT_EQ(plant.portal(key), nullptr);
  EXPECT_TRUE(over(*bridge));
  EXPECT_TRUE(over(*visitor));
  EXPECT_TRUE(visitor->was_reset());  // not an end that looks complete
  EXPECT_EQ(plant.portals().size(), 2u);
}

TEST_F(PlantTest, ServesANewPortalFromPrepareOn) {
  auto fresh = base();
  fresh.portals.push_back(fresh.portals[0]);
  fresh.portals[2].tag = "c";
  ASSERT_TRUE(plant.prepare(2, fresh));
  Portal* added = plant.portal(plant.tables().prepared()->portals[2]);
  ASSERT_NE(added, nullptr);
  auto bridge = tunnel(*added);
  auto visitor = visit(*added);
  EXPECT_TRUE(visitor);
  EXPECT_FALSE(changed.empty());
  ASSERT_TRUE(plant.commit(2).has_value());
  EXPECT_EQ(&portal(2), added);
  loop.run_once();
  EXPECT_FALSE(bridge->ended() || visitor->was_reset());
}

TEST_F(PlantTest, TakesBackAtAbortWhatItPrepared) {
  auto bridge = tunnel(portal(0), person(0));
  auto fresh = base();
  fresh.portals[0].tag = "new";
  ASSERT_TRUE(plant.prepare(2, fresh));
  const PortalKey key = plant.tables().prepared()->portals[0];
  auto new_bridge = tunnel(*plant.portal(key));
  EXPECT_EQ(plant.abort(2), std::vector<PortalKey>{key});
  EXPECT_TRUE(over(*new_bridge));
  EXPECT_FALSE(bridge->ended() || bridge->was_reset());
  EXPECT_EQ(plant.commit(2), std::nullopt);
}

TEST_F(PlantTest, EndsTunnelsAndVisitorsOfARemovedUser) {
  auto bridge_of_first = tunnel(portal(0), person(0));
  auto bridge_of_second = tunnel(portal(1), person(1));
  auto bridge_of_nobody = tunnel(portal(1));
  auto first = visit(portal(1), person(0));
  auto second = visit(portal(1), person(1));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(visitors.size(), 2u);
  auto fresh = base();
  auto& users = std::get<config::VmessInbound>(fresh.inbounds[0].protocol).users;
  users.erase(users.begin());  // the second one gets number 0
  ASSERT_TRUE(plant.prepare(2, fresh));
  loop.run_once();
  EXPECT_FALSE(bridge_of_first->ended() || first->was_reset());
  ASSERT_TRUE(plant.commit(2).has_value());
  EXPECT_TRUE(over(*bridge_of_first));
  EXPECT_TRUE(over(*first));
  EXPECT_TRUE(run_until(loop, [&] { return visitors.size() == 1; }));
  EXPECT_FALSE(bridge_of_second->ended() || bridge_of_nobody->ended() || second->ended() || second->was_reset());
}

TEST_F(PlantTest, CountsTunnelsOfAUserAsOneBridgesOverReloads) {
  auto one = tunnel(portal(0), person(1));
  auto fresh = base();
  auto& users = std::get<config::VmessInbound>(fresh.inbounds[0].protocol).users;
  users.erase(users.begin());
  ASSERT_TRUE(plant.prepare(2, fresh) && plant.commit(2));
  auto two = tunnel(portal(0), person(0));
  ASSERT_EQ(portal(0).links().size(), 2u);
  EXPECT_EQ(portal(0).links()[0]->bridge_key(), portal(0).links()[1]->bridge_key());
}

TEST_F(PlantTest, KicksATunnelAndWhomItCarries) {
  auto bridge = tunnel(portal(0));
  auto other_bridge = tunnel(portal(1));
  auto first = visit(portal(0), person(0));
  auto second = visit(portal(0));
  auto other = visit(portal(1));
  const TunnelId id = portal(0).links()[0]->id();
  const auto kicked = plant.kick(id);
  EXPECT_EQ(kicked.tunnels, 1u);
  EXPECT_EQ(kicked.visitors, 2u);
  EXPECT_TRUE(over(*bridge));
  EXPECT_TRUE(over(*first) && over(*second));
  EXPECT_TRUE(first->was_reset() && second->was_reset());
  EXPECT_EQ(plant.kick(id).tunnels, 0u);
  EXPECT_FALSE(other_bridge->ended() || other->was_reset());
}

TEST_F(PlantTest, KicksAUserByEmailOrId) {
  auto his_bridge = tunnel(portal(0), person(0));
  auto bridge = tunnel(portal(1), person(1));
  auto on_his_bridge = visit(portal(0));
  auto he = visit(portal(1), person(0));
  auto both = visit(portal(0), person(0));
  auto she = visit(portal(1), person(1));
  auto nobody = visit(portal(1));
  for (const char* wrong : {"", "nas", "nas@home2", "99999999-9999-9999-9999-999999999999"}) {
    const auto none = plant.kick(wrong);
    EXPECT_EQ(none.tunnels + none.visitors, 0u) << wrong;
  }
  const auto kicked = plant.kick("NAS@home");
  EXPECT_EQ(kicked.tunnels, 1u);
  EXPECT_EQ(kicked.visitors, 3u) << "his own, and whom his tunnel carried; nobody twice";
  EXPECT_TRUE(over(*his_bridge));
  EXPECT_TRUE(over(*on_his_bridge) && over(*he) && over(*both));
  EXPECT_TRUE(on_his_bridge->was_reset() && he->was_reset() && both->was_reset());
  EXPECT_FALSE(bridge->ended() || she->was_reset() || nobody->was_reset());
  EXPECT_EQ(plant.kick("nas@home").tunnels, 0u);
  const auto by_id = plant.kick("02020202-0202-0202-0202-020202020202");  // has no e-mail
  EXPECT_EQ(by_id.tunnels, 1u);
  EXPECT_TRUE(over(*bridge) && over(*she) && over(*nobody));
}

TEST_F(PlantTest, DrainsATunnelOrThoseOfAUser) {
  auto bridge = tunnel(portal(0), person(0));
  auto other = tunnel(portal(1), person(1));
  auto visitor = visit(portal(0));
  EXPECT_EQ(plant.drain("nobody@home"), 0u);
  EXPECT_EQ(plant.drain("nas@home"), 1u);
  EXPECT_FALSE(portal(0).serving());
  EXPECT_TRUE(portal(1).serving());
  auto another = visit(portal(0));
  ASSERT_TRUE(another) << "as the last one it serves";
  auto replacement = tunnel(portal(0), person(0));
  EXPECT_TRUE(portal(0).serving());
  visitor->reset();
  another->reset();
  EXPECT_TRUE(run_until(loop, [&] { return portal(0).links().size() == 1; }));
  EXPECT_EQ(plant.drain(portal(1).links()[0]->id()), 1u);
  EXPECT_FALSE(portal(1).serving());
  EXPECT_EQ(plant.drain(TunnelId{12345678}), 0u);
}

TEST_F(PlantTest, PreparesWhatItCannotFollowInPlaceAndSaysSo) {
  auto fresh = base();
  EXPECT_EQ(plant.needs_restart(fresh), "");
  fresh.settings.broker_loops = 2;
  EXPECT_EQ(plant.needs_restart(fresh), "broker.loops changes from auto to 2");
  fresh.portals[0].tag = "new";
  ASSERT_TRUE(plant.prepare(2, fresh));
  EXPECT_EQ(plant.portals().size(), 3u);
  ASSERT_TRUE(plant.commit(2).has_value());
  EXPECT_EQ(plant.needs_restart(fresh), "broker.loops changes from auto to 2") << "the process is still the same";
  EXPECT_EQ(plant.needs_restart(base()), "") << "back to what it was started with";
}

TEST_F(PlantTest, ChangesNothingWhenRulesCannotBeUsed) {
  auto fresh = base();
  routing::Rule rule;
  rule.domains = {"regexp:("};
  rule.outbound_tag = "a";
  fresh.rules.push_back(rule);
  EXPECT_FALSE(plant.prepare(2, fresh));
  EXPECT_EQ(plant.portals().size(), 2u);
  EXPECT_EQ(plant.commit(2), std::nullopt);
}

TEST_F(PlantTest, DrainsAPortalThatComesWhileItDrains) {
  plant.drain();
  auto fresh = base();
  fresh.portals[0].tag = "new";
  ASSERT_TRUE(plant.prepare(2, fresh));
  Portal& added = *plant.portal(plant.tables().prepared()->portals[0]);
  auto bridge = tunnel(added);
  EXPECT_EQ(added.links()[0]->plan().state(), reverse::PortalTunnel::State::draining);
}

TEST_F(PlantTest, SaysWhichPortalsServeAndLetsThoseGoThatMoved) {
  auto first = tunnel(portal(0));
  auto second = tunnel(portal(1));
  EXPECT_EQ(plant.live(), (std::vector<std::string>{"a a.reverse", "b b.reverse"}));
  plant.set_moved({"a a.reverse"});
  loop.run_once();
  EXPECT_FALSE(first->ended()) << "nobody said that this process is replaced";
  plant.drain();
  EXPECT_TRUE(plant.live().empty());
  EXPECT_EQ(plant.unmoved().size(), 2u);
  plant.set_moved({"a a.reverse", "unknown x"});
  ASSERT_EQ(plant.unmoved().size(), 1u);
  EXPECT_EQ(plant.unmoved()[0]->settings().tag, "b");
  EXPECT_TRUE(over(*first));
  EXPECT_TRUE(run_until(loop, [&] { return portal(0).links().empty(); }));
  EXPECT_FALSE(second->ended());
  EXPECT_FALSE(plant.without_tunnels());
  plant.set_moved({"b b.reverse"});
  EXPECT_TRUE(over(*second));
  EXPECT_TRUE(run_until(loop, [&] { return plant.without_tunnels(); }));
  auto late = tunnel(portal(0));
  EXPECT_FALSE(run_until(loop, [&] { return late->ended(); }, 50ms)) << "a has no tunnel elsewhere any more";
}

/// A bridge whose connection leads nowhere, so that dialling shows at once.
config::Config with_bridge(const std::string& domain) {
  config::Config out;
  out.outbounds.push_back({"out", config::BlackholeOutbound{}, std::nullopt});
  config::Bridge bridge;
  bridge.tag = "bridge";
  bridge.domain = domain;
  out.bridges.push_back(bridge);
  return out;
}

struct BridgePlantTest : PlantTest {
  BridgePlantTest() : PlantTest(with_bridge("one.x")) {}
};

TEST_F(BridgePlantTest, KeepsABridgeThatStaysTheSameAndDialsANewOneAtCommit) {
  plant.start();
  const bridge::Bridge* before = plant.bridges()[0];
  ASSERT_TRUE(run_until(loop, [&] { return !before->last_failure().empty(); }));
  auto fresh = with_bridge("one.x");
  fresh.bridges[0].min_tunnels = 3;
  fresh.bridges.push_back(fresh.bridges[0]);
  fresh.bridges[1].domain = "two.x";
  ASSERT_TRUE(plant.prepare(2, fresh));
  EXPECT_EQ(plant.bridges().size(), 1u);
  ASSERT_TRUE(plant.commit(2).has_value());
  ASSERT_EQ(plant.bridges().size(), 2u);
  EXPECT_EQ(plant.bridges()[0], before);
  EXPECT_EQ(before->settings().min_tunnels, 3u);
  EXPECT_TRUE(run_until(loop, [&] { return !plant.bridges()[1]->last_failure().empty(); }));
}

TEST_F(BridgePlantTest, EndsABridgeAtCommit) {
  plant.start();
  loop.run_once();
  ASSERT_TRUE(plant.prepare(2, with_bridge("two.x")));
  EXPECT_EQ(plant.bridges()[0]->settings().domain, "one.x");
  ASSERT_TRUE(plant.commit(2).has_value());
  ASSERT_EQ(plant.bridges().size(), 1u);
  EXPECT_EQ(plant.bridges()[0]->settings().domain, "two.x");
  EXPECT_TRUE(run_until(loop, [&] { return !plant.bridges()[0]->last_failure().empty(); }));
}

TEST_F(BridgePlantTest, StopsDiallingForASuccessorAndTakesItBack) {
  plant.start();
  const bridge::Bridge* bridge = plant.bridges()[0];
  ASSERT_TRUE(run_until(loop, [&] { return !bridge->last_failure().empty(); }));
  plant.drain();
  ASSERT_TRUE(plant.prepare(2, with_bridge("two.x")) && plant.commit(2));
  bridge = plant.bridges()[0];
  EXPECT_FALSE(run_until(loop, [&] { return !bridge->last_failure().empty(); }, 50ms));
  plant.resume();
  EXPECT_TRUE(run_until(loop, [&] { return !bridge->last_failure().empty(); }));
}

TEST_F(BridgePlantTest, DialsNothingWhenStartedWhileItDrains) {
  plant.drain();
  plant.start();
  EXPECT_FALSE(run_until(loop, [&] { return !plant.bridges()[0]->last_failure().empty(); }, 50ms));
  EXPECT_TRUE(plant.without_tunnels());
  plant.resume();
  EXPECT_TRUE(run_until(loop, [&] { return !plant.bridges()[0]->last_failure().empty(); }));
}

TEST_F(BridgePlantTest, DialsNothingBeforeStart) {
  ASSERT_TRUE(plant.prepare(2, with_bridge("two.x")) && plant.commit(2));
  loop.run_once();
  EXPECT_TRUE(plant.bridges()[0]->last_failure().empty());
  EXPECT_EQ(plant.bridges()[0]->dialling(), 0u);
}

}  // namespace
}  // namespace ebb::broker
