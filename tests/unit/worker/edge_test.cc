#include "worker/edge/edge.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/net/linger.h"
#include "common/protocol/mux/frame.h"
#include "common/protocol/vmess/session_state.h"
#include "ipc/state_blob.h"
#include "tests/unit/worker/edge_fixture.h"
#include "worker/edge/session.h"

namespace ebb::edge {
namespace {

TEST_F(EdgeTest, RelaysThroughAnOutboundAndPassesTheEndOn) {
  const Fd client = connect_to(slots[0].port);
  send_text(client, "ping");
  Fd served;
  ASSERT_TRUE(run_until(loop, [&] {
    served = Fd(::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    return static_cast<bool>(served);
  }));
  std::string at_origin;
  ASSERT_TRUE(run_until(loop, [&] {
    receive(served, at_origin);
    return at_origin == "ping";
  }));
  send_text(served, "pong");
  served.reset();
  std::string at_client;
  EXPECT_TRUE(run_until(loop, [&] {
    receive(client, at_client);
    return at_client == "pong<end>";
  })) << at_client;
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_TRUE(run_until(loop, [&] { return edge->idle(); }));
}

TEST_F(EdgeTest, LeavesClientsInTheKernelsQueueUntilThereIsABroker) {
  const Fd client = connect_to(slots[1].port);
  for (int i = 0; i < 5; ++i) loop.run_once();
  EXPECT_EQ(edge->counts().accepted, 0u);
  add_broker();
  EXPECT_TRUE(offers_come(1));
  EXPECT_EQ(edge->counts().accepted, 1u);
}

TEST_F(EdgeTest, OffersAVisitorUnreadAndForgetsHimWhenHeIsTaken) {
  add_broker();
  const Fd client = connect_to(slots[1].port);
  send_text(client, "untouched");
  ASSERT_TRUE(offers_come(1));
  const auto& offer = offers[0];
  EXPECT_EQ(offer.klass, ipc::OfferClass::raw);
  EXPECT_EQ(offer.role, ipc::OfferRole::visitor);
  EXPECT_EQ(offer.inbound, 1);
  EXPECT_EQ(offer.portal, 0);
  EXPECT_EQ(offer.user, ipc::kNoUser);
  EXPECT_NE(offer.cookie, 0u);
  EXPECT_EQ(offer.local_port, slots[1].port);
  EXPECT_EQ(edge->connections(), 1u);
  std::string seen;
  receive(offered_fds[0], seen);
  EXPECT_EQ(seen, "untouched");
  take(offer.hid);
  EXPECT_TRUE(run_until(loop, [&] { return edge->connections() == 0; }));
  EXPECT_EQ(edge->counts().taken, 1u);
  send_text(offered_fds[0], "mine now");
  std::string at_client;
  receive(client, at_client);
  EXPECT_EQ(at_client, "mine now");
}

TEST_F(EdgeTest, StopsAcceptingWithoutCreditAndGoesOnWithIt) {
  add_broker(2);
  std::vector<Fd> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(connect_to(slots[1].port));
  ASSERT_TRUE(offers_come(2));
  for (int i = 0; i < 5; ++i) loop.run_once();
  read_broker();
  EXPECT_EQ(offers.size(), 2u);
  EXPECT_EQ(edge->counts().accepted, 2u);  // the others are safe in the kernel's queue
  take(offers[0].hid);
  take(offers[1].hid);
  EXPECT_TRUE(offers_come(4));
}

TEST_F(EdgeTest, OffersWhileItAccepts) {
  add_broker();
  std::vector<Fd> clients;
  for (int i = 0; i < 10; ++i) clients.push_back(connect_to(slots[1].port));
  ASSERT_TRUE(offers_come(10));
  EXPECT_EQ(messages, std::vector<std::size_t>(10, 1));  // what is kept back would die with this process
}

TEST_F(EdgeTest, ClosesARefusedVisitorPolitely) {
  add_broker();
  const Fd client = connect_to(slots[1].port);
  send_text(client, "never read");
  ASSERT_TRUE(offers_come(1));
  offered_fds.clear();
  const ipc::Refusal refusal{offers[0].hid, ipc::RefuseReason::no_portal, 0};
  broker->send_records(ipc::Type::refuse, std::span<const ipc::Refusal>(&refusal, 1));
  std::string at_client;
  EXPECT_TRUE(run_until(loop, [&] {
    receive(client, at_client);
    return at_client == "<end>";
  })) << "an end, not a reset";
}

TEST_F(EdgeTest, ALinkThatBrokeTheProtocolIsReportedAndReplaced) {
  std::vector<std::uint64_t> faults;
  edge->handoff().on_fault([&](std::uint64_t broker_gen) { faults.push_back(broker_gen); });
  add_broker(1);
  const Fd first = connect_to(slots[1].port);
  ASSERT_TRUE(offers_come(1));
  const Fd second = connect_to(slots[1].port);  // no credit: it stays in the kernel's queue
  ASSERT_EQ(::send(broker->fd(), "no message", 10, MSG_NOSIGNAL), 10);
  ASSERT_TRUE(run_until(loop, [&] { return !faults.empty(); }));
  EXPECT_EQ(faults, std::vector<std::uint64_t>{1});
  EXPECT_EQ(edge->handoff().links(), 0u);
  EXPECT_EQ(edge->handoff().pending(), 0u);  // what was out is nobody's any more, as far as we know
  std::string at_client;
  receive(first, at_client);
  EXPECT_EQ(at_client, "");  // the broker has its copy and goes on as owner
  add_broker();              // of the same generation
  EXPECT_TRUE(offers_come(2));
}

TEST_F(EdgeTest, ABrokerThatFindsUsGuiltyGivesBackWhatItHadNotTaken) {
  std::vector<std::uint64_t> faults;
  edge->handoff().on_fault([&](std::uint64_t broker_gen) { faults.push_back(broker_gen); });
  add_broker();
  const Fd client = connect_to(slots[1].port);
  ASSERT_TRUE(offers_come(1));
  offered_fds.clear();
  broker->send_fault(ipc::FaultCode::bad_seq, "test");
  ASSERT_TRUE(run_until(loop, [&] { return !faults.empty(); }));
  EXPECT_EQ(edge->handoff().pending(), 1u);
  add_broker();
  ASSERT_TRUE(offers_come(2));
  EXPECT_EQ(offers[1].hid, offers[0].hid);
  EXPECT_NE(offers[1].flags & ipc::offer_flags::retry, 0);
}

TEST_F(EdgeTest, ABrokerThatDiesIsNoFault) {
  std::vector<std::uint64_t> faults;
  edge->handoff().on_fault([&](std::uint64_t broker_gen) { faults.push_back(broker_gen); });
  add_broker();
  broker->close();
  ASSERT_TRUE(run_until(loop, [&] { return edge->handoff().links() == 0; }));
  EXPECT_TRUE(faults.empty());
}

TEST_F(EdgeTest, OffersABridgeAsATunnelWithItsState) {
  add_broker();
  const Fd client = connect_to(slots[2].port);
  const Target target{Network::tcp, std::string("bridge.internal"), 0};
  const auto handshake = client_of(target);
  send_bytes(client, handshake.request());
  send_text(client, "ciphertext");
  ASSERT_TRUE(offers_come(1));
  EXPECT_EQ(offers[0].klass, ipc::OfferClass::state);
  EXPECT_EQ(offers[0].role, ipc::OfferRole::tunnel);
  EXPECT_EQ(offers[0].user, 0u);
  const auto blob = ipc::decode_blob(blobs[0]);
  ASSERT_TRUE(blob);
  const auto state = vmess::decode_state(blob->get(ipc::layer_tlv(3)).value());
  ASSERT_TRUE(state);
  EXPECT_EQ(state->keys, handshake.keys());
  // What came with the header was read with it, the rest is still in the socket.
  std::string unread;
  if (const auto read = blob->get(ipc::Tlv::unread_cipher)) unread = as_text(*read);
  receive(offered_fds[0], unread);
  EXPECT_EQ(unread, "ciphertext");
  const auto meta = ipc::decode_meta(blob->get(ipc::Tlv::meta).value());
  ASSERT_TRUE(meta);
  EXPECT_EQ(meta->target, target);
  EXPECT_EQ(meta->user, "nas@home");
}

TEST_F(EdgeTest, RefusesAReplayedHeaderInSilence) {
  add_broker();
  const auto handshake = client_of({Network::tcp, std::string("bridge.internal"), 0});
  const Fd first = connect_to(slots[2].port);
  send_bytes(first, handshake.request());
  ASSERT_TRUE(offers_come(1));
  const Fd second = connect_to(slots[2].port);
  send_bytes(second, handshake.request());
  send_bytes(second, Bytes(4000, 0));
  EXPECT_TRUE(run_until(loop, [&] { return edge->counts().handshakes_failed == 1; }));
  read_broker();
  EXPECT_EQ(offers.size(), 1u);
}

TEST_F(EdgeTest, ServesTheStreamsOfAMuxConnectionOneByOne) {
  add_broker();
  const Fd client = connect_to(slots[2].port);
  const auto handshake = client_of({Network::tcp, std::string(vmess::kMuxHost), 0});
  send_bytes(client, handshake.request());
  vmess::BodySealer sealer(vmess::request_body(handshake.keys()), random);
  Bytes frame(mux::kMaxHead + 4);
  const std::size_t head = mux::write_new(frame, StreamId{1}, Target{Network::tcp, kLoopback, origin.port}, 4);
  ASSERT_GT(head, 0u);
  std::ranges::copy(std::string_view("ping"), frame.begin() + static_cast<std::ptrdiff_t>(head));
  Bytes sealed(2048);
  const std::size_t size = sealer.seal(std::span(frame).first(head + 4), sealed);
  send_bytes(client, std::span(sealed).first(size));
  Fd served;
  std::string at_origin;
  ASSERT_TRUE(run_until(loop, [&] {
    if (!served) served = Fd(::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (served) receive(served, at_origin);
    return at_origin == "ping";
  }));
  EXPECT_EQ(edge->connections(), 2u) << "the connection and its stream";
}

TEST_F(EdgeTest, DrainingKeepsWhatIsCarriedAndLeavesTheQueueToOthers) {
  const Fd carried = connect_to(slots[0].port);
  send_text(carried, "x");
  Fd served;
  ASSERT_TRUE(run_until(loop, [&] {
    served = Fd(::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    return static_cast<bool>(served);
  }));
  edge->drain(10s);
  const Fd waiting = connect_to(slots[0].port);
  for (int i = 0; i < 5; ++i) loop.run_once();
  EXPECT_EQ(edge->connections(), 1u);
  EXPECT_TRUE(Fd(::accept4(slots[0].fd.get(), nullptr, nullptr, SOCK_CLOEXEC))) << "still queued for another worker";
  edge->abort_all(Error{Errc::closed, "test", {}});
  EXPECT_TRUE(run_until(loop, [&] { return edge->idle(); }));
}

TEST_F(EdgeTest, PausedItLeavesTheQueueToOthersAndCarriesOn) {
  const Fd carried = connect_to(slots[0].port);
  send_text(carried, "one");
  Fd served;
  std::string at_origin;
  ASSERT_TRUE(run_until(loop, [&] {
    if (!served) served = Fd(::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (served) receive(served, at_origin);
    return at_origin == "one";
  }));
  edge->pause();
  const Fd queued = connect_to(slots[0].port);
  send_text(carried, "two");
  ASSERT_TRUE(run_until(loop, [&] {
    receive(served, at_origin);
    return at_origin == "onetwo";
  }));
  EXPECT_EQ(edge->counts().accepted, 1u);
  EXPECT_EQ(edge->listeners().size(), slots.size()) << "its copies stay";
  edge->start();
  EXPECT_TRUE(run_until(loop, [&] { return edge->counts().accepted == 2; }));
}

TEST_F(EdgeTest, PausedItFinishesHandshakesAndGetsItsOffersAnswered) {
  add_broker();
  const auto handshake = client_of({Network::tcp, std::string("bridge.internal"), 0});
  const ConstSpan request = handshake.request();
  const Fd client = connect_to(slots[2].port);
  send_bytes(client, request.first(20));
  ASSERT_TRUE(run_until(loop, [&] { return edge->connections() == 1; }));
  edge->pause();
  send_bytes(client, request.subspan(20));
  ASSERT_TRUE(offers_come(1));
  take(offers[0].hid);
  EXPECT_TRUE(run_until(loop, [&] { return edge->idle(); }));
}

TEST_F(EdgeTest, DrainingFinishesHandshakesAndOffersFirst) {
  add_broker();
  const Fd offered = connect_to(slots[1].port);
  ASSERT_TRUE(offers_come(1));
  const auto handshake = client_of({Network::tcp, std::string("bridge.internal"), 0});
  const ConstSpan request = handshake.request();
  const Fd client = connect_to(slots[2].port);
  send_bytes(client, request.first(20));
  ASSERT_TRUE(run_until(loop, [&] { return edge->connections() == 2; }));
  edge->drain(10s);
  EXPECT_EQ(edge->listeners().size(), 0u);
  take(offers[0].hid);
  ASSERT_TRUE(run_until(loop, [&] { return edge->connections() == 1; }));
  EXPECT_FALSE(edge->idle());
  send_bytes(client, request.subspan(20));
  ASSERT_TRUE(offers_come(2));
  take(offers[1].hid);
  EXPECT_TRUE(run_until(loop, [&] { return edge->idle(); }));
  EXPECT_EQ(edge->counts().handshakes_failed, 0u);
}

/// A forward-mux connection with one stream to the origin.
struct DrainedMux : EdgeTest {
  DrainedMux() : client(connect_to(slots[2].port)) {
    add_broker();
    const auto handshake = client_of({Network::tcp, std::string(vmess::kMuxHost), 0});
    send_bytes(client, handshake.request());
    sealer.emplace(vmess::request_body(handshake.keys()), random);
    Bytes frame(mux::kMaxHead);
    frame.resize(mux::write_new(frame, StreamId{1}, Target{Network::tcp, kLoopback, origin.port}, 0));
    send_frame(frame);
  }
  void send_frame(ConstSpan frame) {
    Bytes plain(frame.begin(), frame.end());
    Bytes sealed(2048);
    const std::size_t size = sealer->seal(plain, sealed);
    send_bytes(client, std::span(sealed).first(size));
  }
  Fd client;
  std::optional<vmess::BodySealer> sealer;
};

TEST_F(DrainedMux, EndsWhenItsLastStreamHasAndTheClientIsQuiet) {
  Fd served;
  ASSERT_TRUE(run_until(loop, [&] {
    served = Fd(::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    return static_cast<bool>(served);
  }));
  edge->drain(0s);
  const TimePoint drained = Clock::now();
  EXPECT_FALSE(run_until(loop, [&] { return edge->connections() < 2; }, 50ms)) << "its stream is live";
  std::array<std::uint8_t, mux::kEndFrame> end;
  mux::write_end(end, StreamId{1}, false);
  send_frame(end);
  std::string at_client;
  EXPECT_TRUE(run_until(loop, [&] {
    receive(client, at_client);
    return at_client.ends_with("<end>");
  })) << "an end, not a reset";
  EXPECT_GE(Clock::now() - drained, 1s);
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_TRUE(run_until(loop, [&] { return edge->idle(); }));
}

/// In a process of its own: a log is for life, and other tests become processes that have theirs.
struct FaultyMux : DrainedMux {
  void misbehave() {
    const Fd file(::memfd_create("log", MFD_CLOEXEC));
    log::init({.error = Fd(::dup(file.get()))});
    const auto lines = [&](std::string_view what) {
      std::string text(64 << 10, '\0');
      const ssize_t n = ::pread(file.get(), text.data(), text.size(), 0);
      text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
      int found = 0;
      for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
      return found;
    };
    const auto count = [&](MuxFault fault) { return edge->counts().mux_faults[static_cast<std::size_t>(fault)]; };
    Bytes again(mux::kMaxHead);
    again.resize(mux::write_new(again, StreamId{1}, Target{Network::tcp, kLoopback, origin.port}, 0));
    const TimePoint begin = Clock::now();
    for (std::uint64_t times = 1; times <= 20; ++times) {
      send_frame(again);  // the session ends the stream that it finds there; then it is a new one
      send_frame(again);
      EXPECT_TRUE(run_until(loop, [&] { return count(MuxFault::reopened) >= times; }));
    }
    EXPECT_EQ(count(MuxFault::malformed), 0u);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - begin).count();
    EXPECT_GE(lines("New on a live id"), 1);
    EXPECT_EQ(lines("fault=reopened"), 0) << "the tunnel says it, and nobody else";
    EXPECT_LE(lines("New on a live id"), 1 + seconds) << "one a second";
    send_frame(Bytes{0, 1, 0xff});  // metadata of one byte
    EXPECT_TRUE(run_until(loop, [&] { return count(MuxFault::malformed) == 1; }));
    EXPECT_EQ(lines("fault=malformed"), 1) << "each reason for itself";
    EXPECT_TRUE(run_until(loop, [&] { return edge->connections() == 0; }));
    ::_exit(HasFailure() ? 1 : 0);
  }
};

TEST_F(FaultyMux, IsCountedAndToldOf) { EXPECT_EXIT(misbehave(), testing::ExitedWithCode(0), ""); }

TEST_F(DrainedMux, KicksAUserOutOfWhatHeHasOpenHere) {
  std::vector<Fd> served;
  const auto at_origin = [&](std::size_t count) {
    return run_until(loop, [&] {
      if (Fd next{::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)}) {
        served.push_back(std::move(next));
      }
      return served.size() >= count;
    });
  };
  ASSERT_TRUE(at_origin(1));
  const Fd stranger = connect_to(slots[0].port);
  ASSERT_TRUE(at_origin(2));
  const Fd relayed = connect_to(slots[2].port);
  send_bytes(relayed, client_of({Network::tcp, kLoopback, origin.port}).request());
  ASSERT_TRUE(at_origin(3));
  EXPECT_EQ(edge->kick(""), 0u);
  EXPECT_EQ(edge->kick("nas"), 0u);
  EXPECT_EQ(edge->kick("NAS@home"), 2u) << "the mux connection, and the one that is relayed";
  EXPECT_EQ(edge->kick("nas@home"), 0u);
  EXPECT_TRUE(run_until(loop, [&] { return edge->connections() == 1; }));
  char byte = 0;
  EXPECT_TRUE(
      run_until(loop, [&] { return ::recv(relayed.get(), &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET; }));
  std::string at_client;
  receive(client, at_client);
  EXPECT_TRUE(at_client.ends_with("<end>") || errno == ECONNRESET);
  send_text(served[1], "still here");
  EXPECT_TRUE(run_until(loop, [&] {
    receive(stranger, at_client);
    return at_client.ends_with("still here");
  }));
  const Fd again = connect_to(slots[2].port);
  send_bytes(again, client_of({Network::tcp, kLoopback, origin.port}).request());
  ASSERT_TRUE(at_origin(4)) << "he may come back";
  EXPECT_EQ(edge->kick("09090909-0909-0909-0909-090909090909"), 1u);
}

TEST(MayRegister, NeedsAnAuthenticatingInboundOrALocalPeer) {
  const Endpoint local{kLoopback, 1};
  const Endpoint remote{IpAddress::parse("203.0.113.9").value(), 1};
  config::Inbound open;
  open.protocol = config::DokodemoInbound{};
  config::Inbound vmess;
  vmess.protocol = config::VmessInbound{};
  config::Portal portal;
  EXPECT_TRUE(may_register(vmess, remote, portal));
  EXPECT_TRUE(may_register(open, local, portal));
  EXPECT_FALSE(may_register(open, remote, portal));
  portal.allow_unauthenticated = true;
  EXPECT_TRUE(may_register(open, remote, portal));
}

}  // namespace
}  // namespace ebb::edge
