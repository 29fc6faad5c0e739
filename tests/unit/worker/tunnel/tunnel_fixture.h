// A portal's and a bridge's tunnel joined in memory, VMess between them, with visitors and origins at the ends; and a
// portal's tunnel whose other end the test plays.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "common/reverse/bridge_tunnel.h"
#include "common/reverse/portal_tunnel.h"
#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "worker/layers/vmess/vmess.h"
#include "worker/relay/socket_side.h"
#include "worker/tunnel/link.h"

namespace ebb::tunnel {

using relay::BlockPool;
using relay::Relay;
using relay::Relays;
using relay::Side;
using relay::SocketSide;
using relay::Wire;
using test::ManualLoop;
using test::MemoryFaults;
using test::MemoryStream;
using namespace std::chrono_literals;

inline const Target kTarget{Network::tcp, std::string("origin.test"), 80};

template <class Kind>
class TestLink : public Link<Kind> {
 public:
  template <class Settings>
  TestLink(net::Loop& loop, BlockPool& blocks, layers::Stack stack, TunnelLimits limits, const Settings& settings)
      : Link<Kind>(loop, blocks, std::move(stack), limits, "peer", std::make_unique<Kind>(settings, loop.now())) {}
  using Link<Kind>::plan_;
  bool over = false;
  Duration quiet = 1s;
  std::function<void(StreamId, const Target&)> opened;

 protected:
  Duration quiet_before_end() const override { return quiet; }
  void on_tunnel_over(const Error&) override { over = true; }
  void on_stream_opened(StreamId stream, const Target& target, ConstSpan) override { opened(stream, target); }
};
using TestPortal = TestLink<reverse::PortalTunnel>;
using TestBridge = TestLink<reverse::BridgeTunnel>;

struct FixtureOptions {
  MemoryFaults faults;  // of both ends of the tunnel's transport
  TunnelLimits limits;
  bool plain = false;             // no VMess
  std::size_t drain_after = 256;  // user streams, as from a legacy bridge
  bool hello = true;
};

struct Fixture {
  explicit Fixture(MemoryFaults tunnel_faults = {}, TunnelLimits limits = {})
      : Fixture(FixtureOptions{tunnel_faults, limits}) {}
  explicit Fixture(const FixtureOptions& o) {
    vmess::ClientOptions options;
    options.user.id.value[0] = 7;
    const auto handshake =
        vmess::ClientHandshake::make(options, Target{Network::tcp, std::string("t.reverse"), 0}, 1'600'000'000, random);
    reverse::PortalTunnelSettings portal_settings;
    portal_settings.domain = "t.reverse";
    portal_settings.drain_after = o.drain_after;
    portal_settings.offer_hello = o.hello;
    layers::Stack server, client;
    if (!o.plain) {
      server.push(std::make_unique<layers::VmessServerLayer>(handshake->keys(), random));
      client.push(std::make_unique<layers::VmessClientLayer>(*handshake, random));
    }
    portal = std::make_unique<TestPortal>(loop, blocks, std::move(server), o.limits, portal_settings);
    reverse::BridgeTunnelSettings bridge_settings;
    bridge_settings.domain = "t.reverse";
    bridge = std::make_unique<TestBridge>(loop, blocks, std::move(client), o.limits, bridge_settings);
    bridge->opened = [this](StreamId stream, const Target& target) { open_at_bridge(stream, target); };
    auto [a, b] = MemoryStream::pair(loop, o.faults, o.faults);
    bridge->tunnel().attach(std::move(b), {});
    loop.settle();
    // What a worker has read already: the request header (and nothing of the body).
    Bytes header(o.plain ? 0 : handshake->request().size());
    std::size_t got = 0;
    while (got < header.size()) {
      const auto r = a->read(MutSpan(header).subspan(got));
      if (r.kind == net::IoResult::Kind::ok) got += r.bytes;
      loop.settle();
    }
    portal->tunnel().attach(std::move(a), {});
    loop.settle();
  }

  /// A visitor's end; the origin's end shows up in `origins` under the stream's id.
  std::pair<StreamId, std::unique_ptr<MemoryStream>> visit(MemoryFaults faults = {}) {
    std::array<std::uint8_t, mux::kMaxHead> head;
    const auto opened = portal->plan_.open(kTarget, nullptr, head);
    EXPECT_TRUE(opened);
    portal->tunnel().send_frames(ConstSpan(head).first(opened->head_bytes));
    auto [visitor, end] = MemoryStream::pair(loop, {}, faults);
    auto side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    SocketSide& socket = *side;
    relays.start(std::move(side), portal->tunnel().make_side(opened->stream), {});
    socket.attach(std::move(end));
    loop.settle();
    return {opened->stream, std::move(visitor)};
  }

  void open_at_bridge(StreamId stream, const Target& target) {
    EXPECT_EQ(target, kTarget);
    if (open_origin) {
      relays.start(bridge->tunnel().make_side(stream), open_origin(), {});
      return;
    }
    auto [origin, end] = MemoryStream::pair(loop, {}, origin_faults);
    origins[stream.value] = std::move(origin);
    auto side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    SocketSide& socket = *side;
    relays.start(bridge->tunnel().make_side(stream), std::move(side), {});
    socket.attach(std::move(end));
  }

  ManualLoop loop;
  crypto::SeededRandom random{1};
  BlockPool blocks;
  Relays relays{loop};
  std::function<std::unique_ptr<Side>()> open_origin;  // instead of a socket
  MemoryFaults origin_faults;
  std::map<std::uint16_t, std::unique_ptr<MemoryStream>> origins;
  std::unique_ptr<TestPortal> portal;
  std::unique_ptr<TestBridge> bridge;
};

/// A portal's tunnel without a protocol below, whose other end is the test's.
struct RawPortal {
  RawPortal(net::Loop& loop, BlockPool& blocks, MemoryFaults faults, TunnelLimits limits = {},
            reverse::Dialect dialect = reverse::Dialect::v2ray) {
    reverse::PortalTunnelSettings settings;
    settings.domain = "raw.reverse";
    settings.forced = dialect;
    link = std::make_unique<TestPortal>(loop, blocks, layers::Stack(), limits, settings);
    auto [ours, theirs] = MemoryStream::pair(loop, faults);
    far = std::move(theirs);
    link->tunnel().attach(std::move(ours), {});
  }
  std::pair<StreamId, std::unique_ptr<Side>> open() {
    std::array<std::uint8_t, mux::kMaxHead> head;
    const auto opened = link->plan_.open(kTarget, nullptr, head);
    link->tunnel().send_frames(ConstSpan(head).first(opened->head_bytes));
    return {opened->stream, link->tunnel().make_side(opened->stream)};
  }
  /// A visitor's end, on a stream of his own.
  std::pair<StreamId, std::unique_ptr<MemoryStream>> visit(net::Loop& loop, BlockPool& blocks, Relays& relays) {
    auto [id, origin] = open();
    auto [visitor, end] = MemoryStream::pair(loop);
    auto side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
    SocketSide& socket = *side;
    relays.start(std::move(side), std::move(origin), {});
    socket.attach(std::move(end));
    return {id, std::move(visitor)};
  }
  std::unique_ptr<TestPortal> link;
  std::unique_ptr<MemoryStream> far;
};

}  // namespace ebb::tunnel
