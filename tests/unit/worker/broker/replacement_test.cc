// Brokers that are replaced, towards portals and bridges of our own: plants in one loop, joined by real sockets.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

#include "common/net/tcp_stream.h"
#include "tests/support/memory_stream.h"
#include "tests/support/turns.h"
#include "worker/broker/plant.h"

namespace ebb::broker {
namespace {

using test::MemoryStream;
using test::run_until;
using namespace std::chrono_literals;
using State = reverse::PortalTunnel::State;

const Target kTarget{Network::tcp, std::string("origin.test"), 80};
const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

/// Where bridges dial to; whoever has the portal takes what comes.
struct Door {
  Door() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(fd.get(), generic, length) != 0 || ::listen(fd.get(), 64) != 0) std::abort();
    ::getsockname(fd.get(), generic, &length);
    port = ntohs(address.sin_port);
  }
  Fd accept() const { return Fd(::accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)); }
  Fd fd;
  std::uint16_t port = 0;
};

config::Config portal_config() {
  config::Config out;
  config::Portal portal;
  portal.tag = "portal";
  portal.domain = "t.reverse";
  out.portals.push_back(portal);
  return out;
}

/// Its connection goes to the door, the streams of its tunnels to the origin.
config::Config bridge_config(const Door& door, const Door& origin) {
  config::Config out;
  config::FreedomOutbound to_door, to_origin;
  to_door.redirect = config::Redirect{Host(kLoopback), door.port};
  to_origin.redirect = config::Redirect{Host(kLoopback), origin.port};
  out.outbounds.push_back({"origin", to_origin, std::nullopt});
  out.outbounds.push_back({"door", to_door, std::nullopt});
  config::Bridge bridge;
  bridge.tag = "bridge";
  bridge.domain = "t.reverse";
  out.bridges.push_back(bridge);
  routing::Rule rule;
  rule.domains = {"full:t.reverse"};
  rule.outbound_tag = "door";
  out.rules.push_back(rule);
  return out;
}

/// One broker process, as far as a plant is one.
struct Process {
  Process(net::UvLoop& on, config::Config config)
      : loop(on),
        relays(on),
        plant(GenerationTables::make(1, std::move(config)).value(), {on, blocks, random}, relays, visitors,
              [](PortalKey, Portal&) {}) {
    plant.start();
  }
  Portal& portal() { return *plant.portal(plant.tables().current().portals[0]); }
  const bridge::Bridge& bridge() { return *plant.bridges()[0]; }
  /// A visitor of the portal; null: no tunnel takes him.
  std::unique_ptr<MemoryStream> visit() {
    auto [visitor, end] = MemoryStream::pair(loop);
    auto socket = std::make_unique<relay::SocketSide>(loop, blocks, layers::Stack());
    auto& attached = *socket;
    std::unique_ptr<relay::Side> side = std::move(socket);
    if (!portal().serve(side, kTarget, {}, 0)) return nullptr;
    attached.attach(std::move(end));
    loop.run_once();
    return std::move(visitor);
  }

  net::UvLoop& loop;
  relay::BlockPool blocks;
  crypto::SystemRandom random;
  Visitors visitors;
  relay::Relays relays;
  Plant plant;
};

class Replacement : public testing::Test {
 protected:
  /// What bridges dial lands here.
  void accept_into(Process& process) {
    while (Fd fd = door.accept()) {
      process.portal().add_tunnel(
          {std::make_unique<net::TcpStream>(loop, std::move(fd)), layers::Stack(), {}, "192.0.2.1:1", std::nullopt});
    }
  }
  template <class Predicate>
  bool until(Process& portal, Predicate holds, Duration limit = 10s) {
    return run_until(loop, [&] { return accept_into(portal), holds(); }, limit);
  }
  static bool greeted(Process& portal) {
    return std::ranges::any_of(portal.portal().links(), [](const auto& link) {
      return link->plan().peer_hello() && link->plan().state() == State::active;
    });
  }

  config::Config bridge_config() const { return broker::bridge_config(door, origin); }

  net::UvLoop loop;
  Door door;
  Door origin;  // takes connections and says nothing
};

TEST_F(Replacement, ABridgesBrokerMovesItsTunnelsToItsSuccessor) {
  Process portal(loop, portal_config());
  Process old(loop, bridge_config());
  ASSERT_TRUE(until(portal, [&] { return greeted(portal); }));
  auto visitor = portal.visit();
  ASSERT_TRUE(visitor);
  Process fresh(loop, bridge_config());
  old.plant.drain(1s);
  ASSERT_TRUE(until(portal, [&] { return portal.portal().links().size() == 2 && greeted(portal); }));
  EXPECT_EQ(old.bridge().links().size(), 1u) << "a visitor is on it";
  EXPECT_EQ(portal.portal().links()[0]->plan().state(), State::draining);
  visitor->reset();
  ASSERT_TRUE(until(portal, [&] { return old.plant.without_tunnels(); }));
  EXPECT_EQ(portal.portal().links().size(), 1u);
  EXPECT_EQ(fresh.bridge().links().size(), 1u);
  EXPECT_TRUE(portal.visit());
}

TEST_F(Replacement, ABridgesBrokerKeepsItsTunnelsWhileNobodyElseHasOne) {
  Process portal(loop, portal_config());
  Process old(loop, bridge_config());
  ASSERT_TRUE(until(portal, [&] { return greeted(portal); }));
  old.plant.drain();
  ASSERT_TRUE(until(portal, [&] { return portal.portal().links()[0]->plan().state() == State::draining; }));
  EXPECT_FALSE(until(portal, [&] { return old.plant.without_tunnels(); }, 50ms));
  EXPECT_TRUE(portal.visit());
  old.plant.resume();
  EXPECT_TRUE(until(portal, [&] { return portal.portal().serving(); }));
}

TEST_F(Replacement, APortalsBrokerKeepsItsTunnelsUntilItsSuccessorServes) {
  Process old(loop, portal_config());
  Process bridge(loop, bridge_config());
  ASSERT_TRUE(until(old, [&] { return greeted(old); }));
  Process fresh(loop, portal_config());
  old.plant.drain();
  auto visitor = old.visit();  // the successor has no tunnel yet
  ASSERT_TRUE(visitor);
  ASSERT_TRUE(until(fresh, [&] { return !fresh.plant.live().empty(); })) << "the bridge dials at once, not in 2 s";
  EXPECT_EQ(fresh.plant.live(), std::vector<std::string>{"portal t.reverse"});
  const auto live = fresh.plant.live();
  old.plant.set_moved({live.begin(), live.end()});
  EXPECT_FALSE(until(fresh, [&] { return old.plant.without_tunnels(); }, 50ms));
  auto late = old.visit();
  ASSERT_TRUE(late) << "who comes to the old one all the same is served";
  visitor->reset();
  late->reset();
  EXPECT_TRUE(until(fresh, [&] { return old.plant.without_tunnels(); }));
  EXPECT_TRUE(until(fresh, [&] { return bridge.bridge().links().size() == 1; }));
  EXPECT_TRUE(fresh.visit());
}

TEST_F(Replacement, BothEndsAtOnce) {
  Process old_portal(loop, portal_config());
  Process old_bridge(loop, bridge_config());
  ASSERT_TRUE(until(old_portal, [&] { return greeted(old_portal); }));
  old_bridge.plant.drain();
  old_portal.plant.drain();
  Process portal(loop, portal_config());
  Process bridge(loop, bridge_config());
  ASSERT_TRUE(until(portal, [&] { return greeted(portal); }));
  const auto live = portal.plant.live();
  old_portal.plant.set_moved({live.begin(), live.end()});
  EXPECT_TRUE(until(portal, [&] { return old_portal.plant.without_tunnels() && old_bridge.plant.without_tunnels(); }));
  EXPECT_TRUE(portal.visit());
}

TEST_F(Replacement, KeepsAPortalThatStreamsOfABridgeMayEnter) {
  auto both = bridge_config();
  both.portals = portal_config().portals;
  routing::Rule rule;
  rule.inbound_tags = {"bridge"};
  rule.outbound_tag = "portal";
  both.rules.push_back(rule);
  Process far(loop, portal_config());
  Process old(loop, both);
  ASSERT_TRUE(until(far, [&] { return greeted(far); }));
  auto [ours, theirs] = MemoryStream::pair(loop);
  old.portal().add_tunnel({std::move(ours), layers::Stack(), {}, "192.0.2.2:1", std::nullopt});
  old.plant.drain();
  old.plant.set_moved({"portal t.reverse"});
  EXPECT_FALSE(until(far, [&] { return old.portal().links().empty(); }, 50ms));
  EXPECT_TRUE(old.plant.unmoved().empty()) << "nothing to warn of";
  far.portal().abort(Error{Errc::closed, "the far portal ends", {}});
  ASSERT_TRUE(until(far, [&] { return old.bridge().links().empty(); }));
  old.plant.set_moved({"portal t.reverse"});  // as it is told again and again
  EXPECT_TRUE(until(far, [&] { return old.plant.without_tunnels(); }));
}

TEST_F(Replacement, ADrainedTunnelOfABridgeIsReplacedAndAKickedOneResetsItsStreams) {
  Process portal(loop, portal_config());
  Process bridge(loop, bridge_config());
  ASSERT_TRUE(until(portal, [&] { return greeted(portal); }));
  ASSERT_TRUE(until(portal, [&] { return bridge.bridge().links()[0]->plan().peer_hello().has_value(); }));
  auto visitor = portal.visit();
  const TunnelId first = bridge.bridge().links()[0]->id();
  EXPECT_NE(first, portal.portal().links()[0]->id()) << "numbers of one process, whatever the kind";
  EXPECT_EQ(bridge.plant.drain(first), 1u);
  ASSERT_TRUE(until(portal, [&] { return bridge.bridge().links().size() == 2 && portal.portal().serving(); }));
  visitor->reset();
  ASSERT_TRUE(until(portal, [&] { return bridge.bridge().links().size() == 1; }));
  const TunnelId second = bridge.bridge().links()[0]->id();
  EXPECT_NE(first, second);

  auto other = portal.visit();
  ASSERT_TRUE(other);
  ASSERT_TRUE(until(portal, [&] { return bridge.bridge().links()[0]->plan().user_streams() == 1; }));
  EXPECT_EQ(bridge.plant.kick(first).tunnels, 0u);
  const auto kicked = bridge.plant.kick(second);
  EXPECT_EQ(kicked.tunnels, 1u);
  EXPECT_EQ(kicked.visitors, 1u);
  EXPECT_TRUE(until(portal, [&] { return other->was_reset(); }));
  EXPECT_TRUE(until(portal, [&] { return portal.portal().serving(); })) << "the bridge dials again";
}

}  // namespace
}  // namespace ebb::broker
