#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "supervisor/slots/book.h"

namespace ebb::supervisor {
namespace {

const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

std::uint16_t port_of(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size);
  return endpoint_from(reinterpret_cast<sockaddr*>(&storage))->port;
}

/// A listener of somebody else on a free loopback port.
struct Stranger {
  Stranger() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);  // as stock V2Ray opens its own
    sockaddr_storage storage{};
    const auto size = endpoint_to({kLoopback, 0}, storage);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
  }
  Fd fd;
};

std::uint16_t free_port() {
  Stranger stranger;
  return port_of(stranger.fd.get());
}

bool nobody(int) { return false; }

/// A book of one address that is bound, or listens.
SlotBook book_of(const Listener& listener, unsigned slots, bool listening) {
  SlotBook book;
  EXPECT_EQ(book.add({listener}, slots, nobody), std::vector<std::string>{});
  if (listening) {
    EXPECT_TRUE(book.listen({listener}).has_value());
  }
  return book;
}

TEST(Slots, CountFollowsWorkersWithinBounds) {
  EXPECT_EQ(slots_per_address(1, 1, 65536), 8u);
  EXPECT_EQ(slots_per_address(4, 1, 65536), 16u);
  EXPECT_EQ(slots_per_address(1000, 1, 65536), 64u);
  EXPECT_EQ(slots_per_address(2, 2000, 65536), 8u);
  EXPECT_EQ(slots_per_address(2, 10'000, 65536), 1u);  // a wide range of ports: one each
}

TEST(Slots, BindAsOneGroupAndServeAfterListen) {
  const Listener listener{{kLoopback, free_port()}, 0, "external"};
  SlotBook book = book_of(listener, 8, false);
  const auto& slots = book.find(place_of(listener))->slots;
  ASSERT_EQ(slots.size(), 8u);
  std::set<std::uint64_t> cookies;
  for (const auto& slot : slots) {
    cookies.insert(slot.cookie);
    EXPECT_EQ(port_of(slot.fd.get()), listener.address.port);
    EXPECT_EQ(slot.id, static_cast<std::size_t>(&slot - slots.data()));
  }
  EXPECT_EQ(cookies.size(), 8u);

  const auto connects = [&] {
    const Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage storage{};
    const auto size = endpoint_to(listener.address, storage);
    return ::connect(client.get(), reinterpret_cast<sockaddr*>(&storage), size) == 0;
  };
  EXPECT_FALSE(connects());  // bound, not listening: nothing starts before workers are READY
  ASSERT_TRUE(book.listen({listener}).has_value());
  EXPECT_TRUE(connects());
}

TEST(Slots, NameTheHolderOfAPort) {
  const Stranger stranger;
  const Listener listener{{kLoopback, port_of(stranger.fd.get())}, 2, "external"};
  SlotBook book;
  const auto problems = book.add({listener}, 8, nobody);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_TRUE(book.addresses().empty());
  const std::string expected = "$.inbounds[2] \"external\", " + listener.address.text() +
                               ": the port is in use by process " + std::to_string(::getpid()) + " (";
  EXPECT_TRUE(problems[0].starts_with(expected)) << problems[0];
}

TEST(Slots, FindTheHolderBehindAWildcard) {
  const Listener wildcard{{IpAddress{}, free_port()}, 0, ""};
  const SlotBook book = book_of(wildcard, 1, true);
  const auto owner = find_port_owner({kLoopback, wildcard.address.port});
  ASSERT_TRUE(owner.has_value());
  EXPECT_EQ(owner->pid, ::getpid());
  EXPECT_FALSE(find_port_owner({kLoopback, free_port()}).has_value());
}

TEST(Slots, ReportEveryAddressThatCannotBeHad) {
  const Stranger one, two;
  SlotBook book;
  const auto problems = book.add({{{kLoopback, port_of(one.fd.get())}, 0, "a"},
                                  {{kLoopback, free_port()}, 1, "b"},
                                  {{kLoopback, port_of(two.fd.get())}, 2, "c"},
                                  {{*IpAddress::parse("192.0.2.1"), 4711}, 3, "d"}},
                                 8, nobody);
  ASSERT_EQ(problems.size(), 3u);
  EXPECT_TRUE(problems[2].ends_with("this machine has no such address; write one it has, or 0.0.0.0 for all"))
      << problems[2];
}

TEST(Slots, RefuseListenersThatOverlap) {
  const auto problems = overlaps({{{IpAddress{}, 4711}, 0, "all"}, {{kLoopback, 4711}, 1, "local"}});
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(
      problems[0],
      "$.inbounds[1] \"local\", 127.0.0.1:4711: also wanted by $.inbounds[0] \"all\", 0.0.0.0:4711; give each its own "
      "port or address");
}

TEST(Slots, RetiredOnesLetNobodyInButKeepTheQueue) {
  const Listener listener{{kLoopback, free_port()}, 0, ""};
  const SlotBook book = book_of(listener, 1, true);
  const Slot& slot = book.find(place_of(listener))->slots[0];
  const auto begin_connect = [&] {
    Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_storage storage{};
    const auto size = endpoint_to(listener.address, storage);
    ::connect(client.get(), reinterpret_cast<sockaddr*>(&storage), size);
    return client;
  };
  const Fd early = begin_connect();
  retire(slot);
  const Fd late = begin_connect();
  const int fd = slot.fd.get();
  EXPECT_TRUE(Fd(::accept(fd, nullptr, nullptr)));
  EXPECT_FALSE(Fd(::accept(fd, nullptr, nullptr)));
  restore(slot);
  const Fd later = begin_connect();
  EXPECT_TRUE(Fd(::accept(fd, nullptr, nullptr)));
}

TEST(Listeners, CoverEveryPortAndBothFamiliesOfAWildcard) {
  config::Config config;
  config::Inbound a;
  a.tag = "a";
  a.ports = {{100, 102}, {7, 3}};  // the second never matches
  config::Inbound b;
  b.listen = *IpAddress::parse("::");
  b.ports = {{65535, 65535}};
  config.inbounds = {a, b};
  const auto all = listeners_of(config);
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0].name(), "$.inbounds[0] \"a\", 0.0.0.0:100");
  EXPECT_EQ(all[2].address.port, 102);
  EXPECT_EQ(all[3].name(), "$.inbounds[1], [::]:65535");
  EXPECT_EQ(all[4].name(), "$.inbounds[1], 0.0.0.0:65535");
}

TEST(Slots, UdpIsAGroupOfItsOwnBesideTcp) {
  const Endpoint address{kLoopback, free_port()};
  const Listener tcp{address, 0, "a", Network::tcp};
  const Listener udp{address, 0, "a", Network::udp};
  SlotBook book;
  EXPECT_EQ(book.add({tcp, udp}, 4, nobody), std::vector<std::string>{});
  ASSERT_EQ(book.slot_ids().size(), 8u);
  const Slot& slot = book.find(place_of(udp))->slots[0];
  EXPECT_EQ(port_of(slot.fd.get()), address.port);
  EXPECT_TRUE(listen_on(slot, udp).has_value());
  EXPECT_EQ(listening_place(slot), (Place{address, Network::udp}));
  EXPECT_EQ(listening_place(book.find(place_of(tcp))->slots[0]), std::nullopt);  // it does not listen yet
  retire(slot);
  restore(slot);

  SlotBook other;
  const auto again = other.add({Listener{address, 0, "b", Network::udp}}, 1, nobody);
  ASSERT_EQ(again.size(), 1u);  // SO_REUSEPORT lets nobody in by accident
  EXPECT_TRUE(again[0].find("udp " + address.text() + ": the port is in use by process " +
                            std::to_string(::getpid())) != std::string::npos)
      << again[0];
}

TEST(Slots, ListenersAreWhatInboundsNameNetworksFor) {
  config::Config config;
  config::Inbound inbound;
  inbound.ports = {{7000, 7001}};
  config::DokodemoInbound door;
  door.udp = true;
  inbound.protocol = door;
  config.inbounds = {inbound};
  EXPECT_EQ(listeners_of(config).size(), 4u);
  std::get<config::DokodemoInbound>(config.inbounds[0].protocol).tcp = false;
  const auto udp = listeners_of(config);
  ASSERT_EQ(udp.size(), 2u);
  EXPECT_EQ(udp[1].network, Network::udp);
  EXPECT_EQ(udp[1].address.port, 7001);
}

}  // namespace
}  // namespace ebb::supervisor
