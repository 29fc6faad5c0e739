// A proxy in front of our inbounds tells who the client is; anybody else who tries changes nothing.
#include <gtest/gtest.h>

#include "ipc/state_blob.h"
#include "tests/unit/worker/edge_fixture.h"

namespace ebb::edge {
namespace {

constexpr std::string_view kHeader = "PROXY TCP4 203.0.113.7 198.51.100.1 51234 443\r\n";

/// Every inbound expects a header from loopback.
struct BehindProxy : EdgeTest {
  BehindProxy() : EdgeTest({"127.0.0.0/8", "::1"}) {}

  static Endpoint peer_of(const ipc::OfferRecord& record) {
    return {IpAddress::from_v6(record.peer), record.peer_port};
  }
  static Endpoint local_of(const ipc::OfferRecord& record) {
    return {IpAddress::from_v6(record.local), record.local_port};
  }
  bool closes(const Fd& client) {
    std::string seen;
    return run_until(loop, [&] {
      receive(client, seen);
      return seen == "<end>";
    });
  }
};

/// And one where nobody we know is trusted.
struct BehindNobody : EdgeTest {
  BehindNobody() : EdgeTest({"192.0.2.1"}) {}
};

const Endpoint kVisitor{*IpAddress::parse("203.0.113.7"), 51234};
const Endpoint kArrival{*IpAddress::parse("198.51.100.1"), 443};

TEST_F(BehindProxy, OffersTheVisitorWithWhatCameBehindTheHeader) {
  add_broker();
  const Fd client = connect_to(slots[1].port);
  send_text(client, std::string(kHeader) + "first bytes");
  ASSERT_TRUE(offers_come(1));
  EXPECT_EQ(peer_of(offers[0]), kVisitor);
  EXPECT_EQ(local_of(offers[0]), kArrival);
  EXPECT_EQ(offers[0].role, ipc::OfferRole::visitor);
  EXPECT_EQ(offers[0].klass, ipc::OfferClass::state);
  const auto blob = ipc::decode_blob(blobs[0]);
  ASSERT_TRUE(blob);
  EXPECT_FALSE(blob->get(ipc::Tlv::first_layer));
  EXPECT_EQ(as_text(blob->get(ipc::Tlv::unread_plain).value()), "first bytes");
}

TEST_F(BehindProxy, OffersAVisitorWhoIsSilentBehindTheHeaderAsHeIs) {
  add_broker();
  const Fd client = connect_to(slots[1].port);
  for (const char byte : kHeader) {
    EXPECT_TRUE(offers.empty());
    send_text(client, std::string_view(&byte, 1));
    loop.run_once();
    read_broker();
  }
  ASSERT_TRUE(offers_come(1));
  EXPECT_EQ(peer_of(offers[0]), kVisitor);
  EXPECT_EQ(offers[0].klass, ipc::OfferClass::raw);
  EXPECT_TRUE(blobs[0].empty());
  send_text(client, "later");
  std::string seen;
  EXPECT_TRUE(run_until(loop, [&] {
    receive(offered_fds[0], seen);
    return seen == "later";
  }));
}

TEST_F(BehindProxy, RelaysWhatComesBehindTheHeader) {
  const Fd client = connect_to(slots[0].port);
  send_text(client, std::string(kHeader) + "ping");
  Fd served;
  ASSERT_TRUE(run_until(loop, [&] {
    served = Fd(::accept4(origin.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    return static_cast<bool>(served);
  }));
  std::string seen;
  EXPECT_TRUE(run_until(loop, [&] {
    receive(served, seen);
    return seen == "ping";
  })) << seen;
}

TEST_F(BehindProxy, KeepsTheSocketsAddressesWhenTheProxySpeaksForItself) {
  add_broker();
  for (const std::string_view header :
       {std::string_view("PROXY UNKNOWN\r\n"), std::string_view("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 16)}) {
    const std::size_t before = offers.size();
    const Fd client = connect_to(slots[1].port);
    send_text(client, header);
    ASSERT_TRUE(offers_come(before + 1));
    EXPECT_EQ(peer_of(offers.back()).ip, kLoopback);
    EXPECT_EQ(local_of(offers.back()), (Endpoint{kLoopback, slots[1].port}));
  }
}

TEST_F(BehindProxy, VmessBeginsBehindTheHeader) {
  add_broker();
  const auto handshake = client_of({Network::tcp, std::string("bridge.internal"), 0});
  const Fd client = connect_to(slots[2].port);
  send_text(client, kHeader);
  send_bytes(client, handshake.request());
  send_text(client, "ciphertext");
  ASSERT_TRUE(offers_come(1));
  EXPECT_EQ(offers[0].role, ipc::OfferRole::tunnel);
  EXPECT_EQ(peer_of(offers[0]), kVisitor);
  std::string unread;
  const auto blob = ipc::decode_blob(blobs[0]);
  ASSERT_TRUE(blob);
  if (const auto read = blob->get(ipc::Tlv::unread_cipher)) unread = as_text(*read);
  receive(offered_fds[0], unread);
  EXPECT_EQ(unread, "ciphertext");
}

TEST_F(BehindProxy, ClosesAndCountsProxiesThatSendNoGoodHeader) {
  add_broker();
  std::uint64_t refused = 0;
  for (const std::string_view bad : {"GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 203.0.113.7 198.51.100.1 1 99999\r\n"}) {
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      const Fd client = connect_to(slots[slot].port);
      send_text(client, bad);
      EXPECT_TRUE(closes(client));
      EXPECT_EQ(edge->counts().proxy_headers_refused, ++refused);
    }
  }
  const Fd leaves = connect_to(slots[1].port);
  send_text(leaves, kHeader.substr(0, 20));
  ::shutdown(leaves.get(), SHUT_WR);
  EXPECT_TRUE(closes(leaves));
  EXPECT_EQ(edge->counts().proxy_headers_refused, refused + 1);
  EXPECT_EQ(edge->counts().handshakes_failed, refused + 1);
  EXPECT_TRUE(edge->idle());
  read_broker();
  EXPECT_TRUE(offers.empty());
}

TEST_F(BehindNobody, AHeaderIsPayload) {
  add_broker();
  const Fd client = connect_to(slots[1].port);
  send_text(client, kHeader);
  ASSERT_TRUE(offers_come(1));
  EXPECT_EQ(offers[0].klass, ipc::OfferClass::raw);
  EXPECT_EQ(IpAddress::from_v6(offers[0].peer), kLoopback);
  std::string seen;
  EXPECT_TRUE(run_until(loop, [&] {
    receive(offered_fds[0], seen);
    return seen == kHeader;
  }));
  EXPECT_EQ(edge->counts().proxy_headers_refused, 0u);
}

TEST_F(BehindNobody, AHeaderFailsTheHandshake) {
  add_broker();
  const auto handshake = client_of({Network::tcp, std::string("bridge.internal"), 0});
  const Fd client = connect_to(slots[2].port);
  send_text(client, kHeader);
  send_bytes(client, handshake.request());
  send_bytes(client, Bytes(4000, 0));
  EXPECT_TRUE(run_until(loop, [&] { return edge->counts().handshakes_failed == 1; }));
  read_broker();
  EXPECT_TRUE(offers.empty());
}

TEST(Sparingly, SaysOneASecondAndCountsTheOthers) {
  Sparingly warnings;
  const TimePoint start{std::chrono::hours(1)};
  EXPECT_EQ(warnings.say(start), 0u);
  EXPECT_EQ(warnings.say(start + 1ms), std::nullopt);
  EXPECT_EQ(warnings.say(start + 999ms), std::nullopt);
  EXPECT_EQ(warnings.say(start + 1s), 2u);
  EXPECT_EQ(warnings.say(start + 2s), 0u);
}

TEST(Sparingly, SaysEachUntilItIsAFlood) {
  Sparingly lines;
  const TimePoint start{std::chrono::hours(1)};
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(lines.say(start + i * 100ms, 3), 0u);
  EXPECT_EQ(lines.say(start + 400ms, 3), std::nullopt);
  EXPECT_EQ(lines.say(start + 999ms, 3), std::nullopt);
  EXPECT_EQ(lines.say(start + 1s, 3), 2u);
  EXPECT_EQ(lines.say(start + 1s, 3), 0u);
}

}  // namespace
}  // namespace ebb::edge
