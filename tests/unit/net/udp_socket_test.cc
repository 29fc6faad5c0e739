#include "common/net/udp_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "tests/support/turns.h"

namespace ebb::net {
namespace {

const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

struct Inbox final : UdpObserver {
  void on_datagram(MutSpan datagram, const Endpoint& sender, const IpAddress* to) override {
    got.emplace_back(as_text(datagram));
    from = sender;
    if (to != nullptr) local = *to;
    if (close_at == got.size()) socket->close();
  }
  void on_datagrams_end() override { ++turns; }
  std::vector<std::string> got;
  Endpoint from;
  std::optional<IpAddress> local;
  std::size_t turns = 0;
  std::size_t close_at = 0;
  std::unique_ptr<UdpSocket> socket;
};

struct UdpSocketTest : ::testing::Test {
  Endpoint open(Inbox& box, const Endpoint& at, bool tell = false) {
    auto bound = UdpSocket::bind(at);
    EXPECT_TRUE(bound.has_value());
    if (tell) UdpSocket::tell_local_address(bound->get(), at.ip.v6);
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    ::getsockname(bound->get(), reinterpret_cast<sockaddr*>(&storage), &size);
    box.socket = UdpSocket::make(loop, std::move(*bound), box);
    box.socket->watch(true);
    return *endpoint_from(reinterpret_cast<sockaddr*>(&storage));
  }
  bool until(const std::function<bool()>& holds) { return test::run_until(loop, holds); }
  UvLoop loop;
  Inbox a, b;
};

TEST_F(UdpSocketTest, SendsNowAndTellsWhoSent) {
  const auto at_a = open(a, {kLoopback, 0});
  const auto at_b = open(b, {kLoopback, 0});
  EXPECT_TRUE(a.socket->send(as_bytes("hello"), at_b));
  EXPECT_TRUE(a.socket->send({}, at_b));  // empty datagrams are datagrams
  ASSERT_TRUE(until([&] { return b.got.size() == 2; }));
  EXPECT_EQ(b.got, (std::vector<std::string>{"hello", ""}));
  EXPECT_EQ(b.from, at_a);
  EXPECT_FALSE(b.local.has_value());
}

TEST_F(UdpSocketTest, CollectedOnesGoOutInOrderAtTheEndOfTheWakeUp) {
  open(a, {kLoopback, 0});
  const auto at_b = open(b, {kLoopback, 0});
  std::vector<std::string> sent;
  for (int i = 0; i < 100; ++i) {
    sent.push_back(std::to_string(i));
    a.socket->send_later(as_bytes(sent.back()), at_b);
  }
  EXPECT_LT(a.socket->counters().sent, 100u);
  ASSERT_TRUE(until([&] { return b.got.size() == 100; }));
  EXPECT_EQ(b.got, sent);
  EXPECT_EQ(a.socket->counters().sent, 100u);
  EXPECT_EQ(b.socket->counters().received, 100u);
}

TEST_F(UdpSocketTest, TheLargestPassWholeAndLargerOnesAreDropped) {
  open(a, {kLoopback, 0});
  const auto at_b = open(b, {kLoopback, 0});
  const std::string largest(UdpSocket::kMaxDatagram, 'x');
  for (int i = 0; i < 3; ++i) a.socket->send_later(as_bytes(largest), at_b);
  a.socket->send_later(as_bytes(largest + "x"), at_b);
  EXPECT_FALSE(a.socket->send(as_bytes(largest + "x"), at_b));
  ASSERT_TRUE(until([&] { return b.got.size() >= 2; }));
  EXPECT_EQ(b.got[0].size(), largest.size());
  EXPECT_EQ(a.socket->counters().dropped, 2u);
}

TEST_F(UdpSocketTest, OneThatCannotBeReachedCostsOnlyItself) {
  open(a, {kLoopback, 0});
  const auto at_b = open(b, {kLoopback, 0});
  a.socket->send_later(as_bytes("1"), at_b);
  a.socket->send_later(as_bytes("nowhere"), {IpAddress::parse("::1").value(), 9});  // the wrong family
  a.socket->send_later(as_bytes("2"), at_b);
  ASSERT_TRUE(until([&] { return b.got.size() == 2; }));
  EXPECT_EQ(a.socket->counters().dropped, 1u);
}

TEST_F(UdpSocketTest, TellsTheAddressThatWasAskedAndAnswersFromIt) {
  auto at_a = open(a, {IpAddress{}, 0}, true);
  const auto at_b = open(b, {kLoopback, 0});
  at_a.ip = IpAddress::from_v4({127, 0, 0, 3});
  EXPECT_TRUE(b.socket->send(as_bytes("question"), at_a));
  ASSERT_TRUE(until([&] { return !a.got.empty(); }));
  ASSERT_TRUE(a.local.has_value());
  EXPECT_EQ(*a.local, at_a.ip);
  EXPECT_TRUE(a.socket->send(as_bytes("now"), at_b, &*a.local));
  a.socket->send_later(as_bytes("later"), at_b, &*a.local);
  ASSERT_TRUE(until([&] { return b.got.size() == 2; }));
  EXPECT_EQ(b.from, at_a);
}

TEST_F(UdpSocketTest, MayBeClosedInItsCallback) {
  open(a, {kLoopback, 0});
  const auto at_b = open(b, {kLoopback, 0});
  b.close_at = 2;
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(a.socket->send(as_bytes("x"), at_b));
  ASSERT_TRUE(until([&] { return b.got.size() == 2; }));
  for (int i = 0; i < 5; ++i) loop.run_once();
  EXPECT_EQ(b.got.size(), 2u);
  EXPECT_FALSE(b.socket->send(as_bytes("x"), at_b));
}

TEST_F(UdpSocketTest, AFloodLeavesTurnsToOthers) {
  open(a, {kLoopback, 0});
  const auto at_b = open(b, {kLoopback, 0});
  UdpSocket::widen_buffers(b.socket->fd(), 4 << 20);
  constexpr std::size_t kTurn = UdpSocket::kBatch * UdpSocket::kBatchesPerTurn;
  std::size_t sent = 0;
  while (sent < 3 * kTurn && a.socket->send(as_bytes("x"), at_b)) ++sent;
  ASSERT_TRUE(until([&] { return b.got.size() == sent; }));
  EXPECT_GE(b.turns, sent / kTurn);
}

}  // namespace
}  // namespace ebb::net
