// Clients of a UDP address over real sockets, and origins behind them.
#include "worker/flow/doors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "tests/support/log_lines.h"
#include "tests/support/turns.h"
#include "worker/flow/origin_end.h"

namespace ebb::flow {
namespace {

const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

Fd socket_at(const Endpoint& address) {
  auto made = net::UdpSocket::bind(address);
  EXPECT_TRUE(made.has_value());
  return std::move(*made);
}

Endpoint name_of(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size), 0);
  return *endpoint_from(reinterpret_cast<sockaddr*>(&storage));
}

/// A plain socket of a test, by hand.
struct Peer {
  explicit Peer(const IpAddress& ip = kLoopback) : fd(socket_at({ip, 0})), name(name_of(fd.get())) {}
  void send(std::string_view text, const Endpoint& to) const {
    sockaddr_storage storage{};
    const auto size = endpoint_to(to, storage);
    EXPECT_EQ(::sendto(fd.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&storage), size),
              static_cast<ssize_t>(text.size()));
  }
  /// What has come, and from where.
  bool receive() {
    char bytes[65536];
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    const auto got = ::recvfrom(fd.get(), bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&storage), &size);
    if (got < 0) return false;
    got_text.emplace_back(bytes, static_cast<std::size_t>(got));
    from = *endpoint_from(reinterpret_cast<sockaddr*>(&storage));
    return true;
  }
  Fd fd;
  Endpoint name;
  std::vector<std::string> got_text;
  Endpoint from;
};

struct DoorsTest : ::testing::Test {
  DoorsTest() {
    slot = socket_at({kLoopback, 0});
    door = name_of(slot.get());
    inbound = Doors::Inbound{0, Target{Network::udp, origin.name.ip, origin.name.port}};
    doors.add(1, slot.get());
  }
  std::unique_ptr<DatagramEnd> open(const Doors::Inbound& at) {
    ++opened;
    if (refuse) return nullptr;
    return std::make_unique<OriginEnd>(loop, OriginWay{at.target.host, at.target.port, false, std::nullopt});
  }
  bool gets(Peer& peer, std::size_t count = 1) {
    return test::run_until(loop, [&] {
      while (peer.receive()) {
      }
      return peer.got_text.size() >= count;
    });
  }

  net::UvLoop loop;
  Flows flows{loop};
  Peer origin;
  std::optional<Doors::Inbound> inbound;
  int opened = 0;
  VisitorAddress visitor;
  bool refuse = false;
  Doors doors{loop,
              flows,
              {[this](const Endpoint&) { return inbound; },
               [this](const Doors::Inbound& at, const VisitorAddress& who) {
                 visitor = who;
                 return open(at);
               }}};
  Fd slot;
  Endpoint door;
};

TEST_F(DoorsTest, EachClientHasAFlowOfHisOwn) {
  doors.serve();
  Peer a, b;
  a.send("from a", door);
  ASSERT_TRUE(gets(origin));
  origin.send("to a", origin.from);
  b.send("from b", door);
  ASSERT_TRUE(gets(origin, 2));
  origin.send("to b", origin.from);
  ASSERT_TRUE(gets(a) && gets(b));
  EXPECT_EQ(origin.got_text, (std::vector<std::string>{"from a", "from b"}));
  EXPECT_EQ(a.got_text, std::vector<std::string>{"to a"});
  EXPECT_EQ(b.got_text, std::vector<std::string>{"to b"});
  EXPECT_EQ(a.from, door);
  EXPECT_EQ(visitor, (VisitorAddress{b.name, door}));
  EXPECT_EQ(opened, 2);
  a.send("again", door);
  ASSERT_TRUE(gets(origin, 3));
  EXPECT_EQ(opened, 2);
  EXPECT_EQ(flows.size(), 2u);
}

TEST_F(DoorsTest, NothingIsReadBeforeItIsServed) {
  Peer a;
  a.send("waits in the kernel", door);
  inbound.reset();
  doors.serve();
  for (int i = 0; i < 20; ++i) loop.run_once();
  EXPECT_EQ(opened, 0);
  inbound = Doors::Inbound{0, Target{Network::udp, origin.name.ip, origin.name.port}};
  doors.serve();
  EXPECT_TRUE(gets(origin));
}

TEST_F(DoorsTest, CountsWhatItsSocketsCarriedAlsoThoseThatAreGone) {
  doors.serve();
  Peer a;
  a.send("to the origin", door);
  ASSERT_TRUE(gets(origin));
  origin.send("back", origin.from);
  ASSERT_TRUE(gets(a));
  EXPECT_EQ(doors.counters().received, 1u);
  EXPECT_EQ(doors.counters().sent, 1u);
  doors.remove(1);
  EXPECT_EQ(doors.counters().received, 1u);
  EXPECT_EQ(doors.counters().sent, 1u);
}

TEST_F(DoorsTest, SaysOnceASecondThatDescriptorsAreShort) {
#ifdef __has_feature
#if __has_feature(address_sanitizer)  // and with it UBSan
  GTEST_SKIP() << "UBSan opens a pipe to look at an object's type, and takes it for a wrong one when it cannot";
#endif
#endif
  doors.serve();
  Peer a;
  test::LogLines log;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(Fd(::dup(slot.get())).get());  // the lowest that is free
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  for (int i = 0; i < 50; ++i) a.send("for nobody", door);
  EXPECT_TRUE(test::run_until(loop, [&] { return flows.counters().dropped == 50; }));
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_GE(log.count("no socket towards an origin"), 1u);
  EXPECT_LE(log.count("no socket towards an origin"), 2u);
  a.send("now", door);
  EXPECT_TRUE(gets(origin));
}

TEST_F(DoorsTest, AnotherTargetEndsTheFlowsOfTheOldOne) {
  doors.serve();
  Peer a;
  a.send("old", door);
  ASSERT_TRUE(gets(origin));
  doors.serve();
  EXPECT_EQ(flows.size(), 1u);  // the same one does not
  Peer elsewhere;
  inbound->target = Target{Network::udp, elsewhere.name.ip, elsewhere.name.port};
  doors.serve();
  EXPECT_EQ(flows.size(), 0u);
  a.send("new", door);
  EXPECT_TRUE(gets(elsewhere));
  EXPECT_EQ(origin.got_text.size(), 1u);
}

TEST_F(DoorsTest, WhatLeadsNowhereIsCounted) {
  doors.serve();
  refuse = true;
  Peer a;
  a.send("1", door);
  a.send("2", door);
  EXPECT_TRUE(test::run_until(loop, [&] { return flows.counters().dropped == 2; }));
  EXPECT_EQ(flows.size(), 0u);
  refuse = false;
  a.send("3", door);
  EXPECT_TRUE(gets(origin));
}

TEST_F(DoorsTest, AnAddressThatGoesTakesItsFlowsAlong) {
  doors.serve();
  Peer a;
  a.send("hello", door);
  ASSERT_TRUE(gets(origin));
  doors.remove(1);
  EXPECT_EQ(flows.size(), 0u);
  EXPECT_EQ(doors.size(), 0u);
  loop.run_once();
}

TEST_F(DoorsTest, AnswersComeFromTheAddressThatWasAsked) {
  const Fd any = socket_at({IpAddress{}, 0});
  const Endpoint all = name_of(any.get());
  doors.add(2, any.get());
  doors.serve();
  Peer a;
  const Endpoint second{IpAddress::from_v4({127, 0, 0, 2}), all.port};
  a.send("to the second address", second);
  ASSERT_TRUE(gets(origin));
  origin.send("from it", origin.from);
  ASSERT_TRUE(gets(a));
  EXPECT_EQ(a.from, second);
  EXPECT_EQ(visitor, (VisitorAddress{a.name, second}));
  a.send("to the first", {kLoopback, all.port});
  ASSERT_TRUE(gets(origin, 2));
  EXPECT_EQ(opened, 2);  // another 4-tuple, another flow
}

TEST_F(DoorsTest, AFloodOfClientsEndsTheOldest) {
  flows.set_most(8);
  doors.serve();
  std::vector<Peer> clients(20);
  for (auto& client : clients) client.send("hello", door);
  ASSERT_TRUE(gets(origin, 20));
  EXPECT_EQ(flows.size(), 8u);
  EXPECT_EQ(flows.counters().displaced, 12u);
  clients[0].send("again", door);
  EXPECT_TRUE(gets(origin, 21));
}

TEST(OriginEnd, ADatagramsOwnAddressIsWhereItGoesUnlessItIsRedirected) {
  net::UvLoop loop;
  Peer one, two;
  for (const bool redirected : {false, true}) {
    OriginEnd end(loop, OriginWay{one.name.ip, one.name.port, redirected, std::nullopt});
    const Target other{Network::udp, two.name.ip, two.name.port};
    EXPECT_TRUE(end.send(as_bytes("plain"), nullptr));
    EXPECT_TRUE(end.send(as_bytes("addressed"), &other));
    end.close();
    EXPECT_FALSE(end.send(as_bytes("late"), nullptr));
  }
  const auto all = [&](Peer& peer, std::size_t count) {
    return test::run_until(loop, [&] {
      while (peer.receive()) {
      }
      return peer.got_text.size() >= count;
    });
  };
  EXPECT_TRUE(all(one, 3) && all(two, 1));
  EXPECT_EQ(one.got_text, (std::vector<std::string>{"plain", "plain", "addressed"}));
  EXPECT_EQ(two.got_text, std::vector<std::string>{"addressed"});
}

TEST(OriginEnd, CountsASocketForEachAddressFamily) {
  if (!net::UdpSocket::bind({IpAddress{true, {}}, 0})) GTEST_SKIP() << "no IPv6 here";
  struct Client final : DatagramEnd {
    bool send(ConstSpan, const Target*) override { return true; }
    void close() override {}
    void say(const char* to) {
      const Target target{Network::udp, *IpAddress::parse(to), 9};
      flow_->on_datagram(*this, as_bytes("x"), &target);
    }
  };
  net::UvLoop loop;
  Flows flows(loop);
  auto client = std::make_unique<Client>();
  Client& speaker = *client;
  Flow& flow = flows.start(std::move(client), std::make_unique<OriginEnd>(loop, OriginWay{kLoopback, 9, false, {}}));
  speaker.say("127.0.0.1");
  speaker.say("127.0.0.2");
  EXPECT_EQ(flows.descriptors(), 1u);
  speaker.say("::1");
  speaker.say("::2");
  EXPECT_EQ(flows.descriptors(), 2u);
  flow.end();
  EXPECT_EQ(flows.descriptors(), 0u);
}

TEST(OriginEnd, WaitsForANameAndKeepsTheNewestDatagrams) {
  net::UvLoop loop;
  Peer local;
  OriginEnd end(loop, OriginWay{std::string("localhost"), local.name.port, false, kLoopback});
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(end.send(as_bytes(std::to_string(i)), nullptr));
  EXPECT_TRUE(test::run_until(loop, [&] {
    while (local.receive()) {
    }
    return local.got_text.size() >= OriginEnd::kMaxWaiting;
  }));
  EXPECT_EQ(local.got_text.front(), "4");
  EXPECT_EQ(local.got_text.back(), "19");
}

TEST(OriginEnd, AHeaderLeadsTheFirstDatagramThatIsNotDropped) {
  net::UvLoop loop;
  Peer local;
  OriginEnd end(loop, OriginWay{std::string("localhost"), local.name.port, false, kLoopback});
  end.lead_with(as_bytes("<who>"));
  for (std::size_t i = 0; i <= OriginEnd::kMaxWaiting; ++i) EXPECT_TRUE(end.send(as_bytes(std::to_string(i)), nullptr));
  EXPECT_TRUE(test::run_until(loop, [&] {
    while (local.receive()) {
    }
    return local.got_text.size() >= OriginEnd::kMaxWaiting;
  }));
  EXPECT_EQ(local.got_text[0], "<who>1");
  EXPECT_EQ(local.got_text[1], "2");
  OriginEnd full(loop, OriginWay{kLoopback, local.name.port, false, std::nullopt});
  full.lead_with(as_bytes("<who>"));
  EXPECT_FALSE(full.send(Bytes(net::UdpSocket::kMaxDatagram), nullptr));
  EXPECT_TRUE(full.send(as_bytes("next"), nullptr));
  local.got_text.clear();
  EXPECT_TRUE(test::run_until(loop, [&] { return local.receive(); }));
  EXPECT_EQ(local.got_text[0], "<who>next");
}

TEST(OriginEnd, ANameThatNobodyHasIsDropped) {
  net::UvLoop loop;
  OriginEnd end(loop, OriginWay{std::string("127.1"), 53, false, std::nullopt});
  EXPECT_TRUE(end.send(as_bytes("waits"), nullptr));
  EXPECT_TRUE(test::run_until(loop, [&] { return !end.send(as_bytes("x"), nullptr); }));
}

}  // namespace
}  // namespace ebb::flow
