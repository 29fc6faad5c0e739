#include "common/net/race.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/net/tcp_stream.h"
#include "tests/support/turns.h"

namespace ebb::net {
namespace {

using namespace std::chrono_literals;
using test::run_until;

IpAddress ip(const char* text) { return IpAddress::parse(text).value(); }

std::vector<IpAddress> ips(std::initializer_list<const char*> texts) {
  std::vector<IpAddress> out;
  for (const auto* text : texts) out.push_back(ip(text));
  return out;
}

/// A TCP socket bound to `address`; port 0: any. Neither listening nor refusing yet: that is up to the test.
Fd bound(const char* address, std::uint16_t& port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_storage storage{};
  socklen_t length = endpoint_to(Endpoint{ip(address), port}, storage);
  auto* generic = reinterpret_cast<sockaddr*>(&storage);
  if (::bind(fd.get(), generic, length) != 0 || ::getsockname(fd.get(), generic, &length) != 0) return {};
  port = endpoint_from(generic)->port;
  return fd;
}

/// Addresses with one port each in common, of which some are silent, some refuse and some listen.
class RaceTest : public testing::Test {
 protected:
  Fd& at(const char* address) {
    held.push_back(bound(address, port));
    EXPECT_TRUE(held.back()) << address;
    return held.back();
  }
  void refusing(const char* address) { at(address); }
  void listening(const char* address) { ASSERT_EQ(::listen(at(address).get(), 16), 0); }
  /// A full accept queue answers no SYN: the nearest to a dead address that loopback has.
  void silent(const char* address) {
    const int listener = at(address).get();
    ASSERT_EQ(::listen(listener, 0), 0);
    int connected = 0;
    for (int i = 0; i < 4; ++i) {
      fillers.push_back(std::make_unique<Race>(loop, ips({address}), RacePlan{.port = port}, [&](Result<Fd> socket) {
        if (socket) ++connected, held.push_back(std::move(*socket));
      }));
    }
    ASSERT_TRUE(run_until(loop, [&] { return connected > 0; }));
  }
  std::unique_ptr<Race> race(std::initializer_list<const char*> addresses, RacePlan plan = {}) {
    outcome.reset();
    plan.port = port;
    began = Clock::now();
    return std::make_unique<Race>(loop, ips(addresses), plan, [this](Result<Fd> result) {
      outcome = std::move(result);
      took = Clock::now() - began;
    });
  }
  bool settled() const { return outcome.has_value(); }
  std::string winner() const {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    ::getpeername((*outcome)->get(), reinterpret_cast<sockaddr*>(&storage), &length);
    return endpoint_from(reinterpret_cast<sockaddr*>(&storage))->ip.text();
  }

  UvLoop loop;
  std::uint16_t port = 0;
  std::vector<Fd> held;
  std::vector<std::unique_ptr<Race>> fillers;
  std::optional<Result<Fd>> outcome;
  TimePoint began;
  Duration took{};
};

TEST(Interleave, LetsTheFamiliesTakeTurns) {
  EXPECT_EQ(interleave(ips({"::1", "::2", "::3", "10.0.0.1", "10.0.0.2"})),
            ips({"::1", "10.0.0.1", "::2", "10.0.0.2", "::3"}));
  EXPECT_EQ(interleave(ips({"10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"})),
            ips({"10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"}));
  EXPECT_EQ(interleave(ips({"::2", "::1"})), ips({"::2", "::1"}));
  EXPECT_TRUE(interleave({}).empty());
}

TEST_F(RaceTest, ADeadFirstAddressCostsAQuarterOfASecond) {
  silent("127.0.0.2");
  listening("127.0.0.3");
  const auto racing = race({"127.0.0.2", "127.0.0.3"});
  EXPECT_FALSE(settled()) << "never from within the constructor";
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome) << outcome->error().what;
  EXPECT_EQ(winner(), "127.0.0.3");
  EXPECT_GE(took, 240ms);
  EXPECT_LT(took, 500ms);
}

TEST_F(RaceTest, ARefusalCostsNothing) {
  refusing("127.0.0.2");
  refusing("127.0.0.3");
  listening("127.0.0.4");
  const auto racing = race({"127.0.0.2", "127.0.0.3", "127.0.0.4"});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome) << outcome->error().what;
  EXPECT_EQ(winner(), "127.0.0.4");
  EXPECT_LT(took, 200ms);
}

TEST_F(RaceTest, ARefusalWhileAnotherIsSilentBeginsTheNext) {
  silent("127.0.0.2");
  refusing("127.0.0.3");
  listening("127.0.0.4");
  const auto racing = race({"127.0.0.2", "127.0.0.3", "127.0.0.4"});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome) << outcome->error().what;
  EXPECT_EQ(winner(), "127.0.0.4");
  EXPECT_LT(took, 450ms) << "two times 250 ms otherwise";
}

TEST_F(RaceTest, TheWinnerIsTunedAndTheOthersAreClosed) {
  silent("127.0.0.2");
  listening("127.0.0.3");
  const auto racing = race({"127.0.0.2", "127.0.0.3"});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome);
  int nodelay = 0;
  socklen_t length = sizeof nodelay;
  ::getsockopt((*outcome)->get(), IPPROTO_TCP, 1, &nodelay, &length);
  EXPECT_EQ(nodelay, 1);
  const int before = (*outcome)->get();
  run_until(loop, [] { return false; }, 20ms);
  EXPECT_TRUE(*outcome) << "told once";
  EXPECT_EQ((*outcome)->get(), before);
}

TEST_F(RaceTest, AllRefusedIsARefusalThatNamesTheLast) {
  refusing("127.0.0.2");
  refusing("127.0.0.3");
  auto racing = race({"127.0.0.2", "127.0.0.3"}, {.name = "portal.example"});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_FALSE(*outcome);
  EXPECT_EQ(outcome->error().code, Errc::refused);
  const std::string there = std::to_string(port);
  EXPECT_EQ(outcome->error().what,
            "connect portal.example:" + there + " (127.0.0.3:" + there + "): Connection refused");
}

TEST_F(RaceTest, TriesSixteenAddressesAtMost) {
  refusing("127.0.0.2");
  listening("127.0.0.3");
  std::vector<IpAddress> many(Race::kMaxAddresses, ip("127.0.0.2"));
  many.push_back(ip("127.0.0.3"));
  const Race racing(loop, many, {.port = port}, [this](Result<Fd> result) { outcome = std::move(result); });
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  EXPECT_FALSE(*outcome);
}

TEST_F(RaceTest, DestroyingItCancelsAtEveryStage) {
  silent("127.0.0.2");
  listening("127.0.0.3");
  for (int turns = 0; turns < 6; ++turns) {
    auto racing = race({"127.0.0.2", "127.0.0.3"});
    for (int i = 0; i < turns && !settled(); ++i) loop.run_once();
    const bool before = settled();
    racing.reset();
    run_until(loop, [] { return false; }, 5ms);
    EXPECT_EQ(settled(), before);
  }
}

TEST_F(RaceTest, TheCallbackMayDestroyTheRace) {
  refusing("127.0.0.2");
  listening("127.0.0.3");
  for (const auto* address : {"127.0.0.2", "127.0.0.3"}) {
    std::unique_ptr<Race> racing;
    racing = std::make_unique<Race>(loop, ips({address}), RacePlan{.port = port}, [&](Result<Fd>) { racing.reset(); });
    EXPECT_TRUE(run_until(loop, [&] { return !racing; }));
  }
}

}  // namespace
}  // namespace ebb::net
