#include "supervisor/slots/book.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace ebb::supervisor {
namespace {

const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

std::uint16_t port_of(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size);
  return endpoint_from(reinterpret_cast<sockaddr*>(&storage))->port;
}
Fd bound(bool listening) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage storage{};
  const auto size = endpoint_to({kLoopback, 0}, storage);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
  if (listening) {
    EXPECT_EQ(::listen(fd.get(), 1), 0);
  }
  return fd;
}
std::uint16_t free_port() { return port_of(bound(false).get()); }
Listener on(std::uint16_t port, const char* tag = "in") { return {{kLoopback, port}, 0, tag}; }
bool nobody(int) { return false; }

bool connects(std::uint16_t port) {
  const Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage storage{};
  const auto size = endpoint_to({kLoopback, port}, storage);
  return ::connect(client.get(), reinterpret_cast<sockaddr*>(&storage), size) == 0;
}

std::vector<std::uint64_t> cookies(const SlotBook& book, std::uint16_t port) {
  std::vector<std::uint64_t> all;
  if (const auto* address = book.find({kLoopback, port})) {
    for (const auto& slot : address->slots) all.push_back(slot.cookie);
  }
  return all;
}

class Book : public ::testing::Test {
 protected:
  Book() : a_(free_port()), b_(free_port()) {
    EXPECT_TRUE(book_.add({on(a_, "a")}, 4, nobody).empty());
    EXPECT_TRUE(book_.listen({on(a_, "a")}).has_value());
  }
  std::uint16_t a_, b_;
  SlotBook book_;
};

TEST_F(Book, AnAddressKeepsItsSocketsAndTheirNumber) {
  const auto before = cookies(book_, a_);
  ASSERT_EQ(before.size(), 4u);
  EXPECT_EQ(book_.add({on(a_, "renamed"), on(b_)}, 16, nobody), std::vector<std::string>{});
  EXPECT_EQ(cookies(book_, a_), before);
  EXPECT_EQ(cookies(book_, b_).size(), 16u);
  EXPECT_FALSE(book_.has_more_than({on(a_), on(b_)}));
  EXPECT_TRUE(book_.has_more_than({on(b_)}));
}

TEST_F(Book, NewOnesListenOnlyWhenTold) {
  ASSERT_TRUE(book_.add({on(a_), on(b_)}, 2, nobody).empty());
  EXPECT_FALSE(connects(b_));
  ASSERT_TRUE(book_.listen({on(a_), on(b_)}).has_value());
  EXPECT_TRUE(connects(b_));
  EXPECT_TRUE(connects(a_));
}

TEST_F(Book, AConflictChangesNothing) {
  const Fd stranger = bound(true);
  const auto problems = book_.add({on(a_), on(b_), on(port_of(stranger.get()), "taken")}, 2, nobody);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_NE(problems[0].find("\"taken\""), std::string::npos);
  EXPECT_NE(problems[0].find("process " + std::to_string(::getpid())), std::string::npos);
  EXPECT_EQ(book_.find({kLoopback, b_}), nullptr);
  EXPECT_EQ(book_.addresses().size(), 1u);
}

TEST_F(Book, ListenersThatOverlapAreRefused) { EXPECT_EQ(book_.add({on(a_), on(a_, "twice")}, 2, nobody).size(), 1u); }

TEST_F(Book, ARemovedAddressLetsNobodyInAndCanComeBack) {
  book_.retire_all_but({});
  const Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_storage storage{};
  const auto size = endpoint_to({kLoopback, a_}, storage);
  ::connect(client.get(), reinterpret_cast<sockaddr*>(&storage), size);
  for (const auto& slot : book_.find({kLoopback, a_})->slots)
    EXPECT_FALSE(Fd(::accept(slot.fd.get(), nullptr, nullptr)));
  book_.restore();
  EXPECT_TRUE(connects(a_));
}

TEST_F(Book, ClosingTellsTheSlotsAndFreesThePort) {
  ASSERT_TRUE(book_.add({on(a_), on(b_)}, 2, nobody).empty());
  EXPECT_EQ(book_.close_all_but({on(b_)}), (std::vector<std::uint32_t>{0, 1, 2, 3}));
  EXPECT_FALSE(connects(a_));
  EXPECT_EQ(book_.slot_ids(), (std::vector<std::uint32_t>{4, 5}));
  ASSERT_TRUE(book_.add({on(a_), on(b_)}, 2, nobody).empty());
  EXPECT_EQ(book_.find({kLoopback, a_})->slots[0].id, 6u);  // never used twice
}

TEST_F(Book, AnAddressThatOurOwnProcessesStillHoldCanBeTakenAgain) {
  const Fd held_by_a_worker(::dup(book_.find({kLoopback, a_})->slots[0].fd.get()));
  book_.close_all_but({});
  EXPECT_EQ(book_.add({on(a_)}, 2, nobody).size(), 1u);
  EXPECT_TRUE(book_.add({on(a_)}, 2, [](int pid) { return pid == ::getpid(); }).empty());
}

TEST_F(Book, UdpComesAndGoesWithoutTcpOfTheSamePort) {
  Listener udp = on(a_, "a");
  udp.network = Network::udp;
  EXPECT_EQ(book_.add({on(a_, "a"), udp}, 4, nobody), std::vector<std::string>{});
  const auto* address = book_.find(place_of(udp));
  ASSERT_NE(address, nullptr);
  EXPECT_EQ(address->slots.size(), 4u);
  EXPECT_TRUE(book_.listen({on(a_, "a"), udp}).has_value());

  Slot held{Fd(::dup(address->slots[0].fd.get())), address->slots[0].cookie, 40, 9};
  SlotBook other;
  EXPECT_TRUE(other.adopt(std::move(held)));
  EXPECT_NE(other.find(place_of(udp)), nullptr);
  EXPECT_EQ(other.find({kLoopback, a_}), nullptr);

  EXPECT_EQ(book_.close_all_but({on(a_, "a")}).size(), 4u);
  EXPECT_EQ(book_.find(place_of(udp)), nullptr);
  EXPECT_TRUE(connects(a_));
}

}  // namespace
}  // namespace ebb::supervisor
