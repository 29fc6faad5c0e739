#include "common/net/dial.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/net/resolver.h"
#include "tests/support/turns.h"

namespace ebb::net {
namespace {

using namespace std::chrono_literals;
using test::run_until;

struct Listener {
  Fd fd;
  std::uint16_t port = 0;
};

/// On 127.0.0.1 at a free port. Without `listening` the port refuses, and stays ours.
Listener make_listener(bool listening = true) {
  Listener out{Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), 0};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(out.fd.get(), generic, length) != 0) std::abort();
  if (listening && ::listen(out.fd.get(), 16) != 0) std::abort();
  if (::getsockname(out.fd.get(), generic, &length) != 0) std::abort();
  out.port = ntohs(address.sin_port);
  return out;
}

const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});

class DialTest : public testing::Test {
 protected:
  std::unique_ptr<Dial> dial(DialPlan plan) {
    outcome.reset();
    return std::make_unique<Dial>(loop, std::move(plan), [this](auto result) { outcome = std::move(result); });
  }
  bool settled() const { return outcome.has_value(); }

  UvLoop loop;
  std::optional<Result<std::unique_ptr<TcpStream>>> outcome;
};

TEST_F(DialTest, ConnectsToAnAddress) {
  const Listener listener = make_listener();
  const auto dialling = dial({.host = kLoopback, .port = listener.port});
  EXPECT_FALSE(settled()) << "never from within the constructor";
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome) << outcome->error().what;
  EXPECT_EQ((**outcome)->peer()->text(), "127.0.0.1:" + std::to_string(listener.port));
  int nodelay = 0;
  socklen_t length = sizeof nodelay;
  ::getsockopt((**outcome)->fd(), IPPROTO_TCP, 1, &nodelay, &length);
  EXPECT_EQ(nodelay, 1);
}

TEST_F(DialTest, ConnectsToANameTryingAllItsAddresses) {
  const Listener listener = make_listener();  // IPv4 only, while the name may be ::1 first
  const auto dialling = dial({.host = std::string("localhost"), .port = listener.port});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome) << outcome->error().what;
}

TEST_F(DialTest, BindsTheLocalAddress) {
  const Listener listener = make_listener();
  const auto dialling = dial({.host = kLoopback, .port = listener.port, .bind = IpAddress::from_v4({127, 0, 0, 77})});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_TRUE(*outcome) << outcome->error().what;
  sockaddr_storage from{};
  socklen_t length = sizeof from;
  const Fd accepted(::accept4(listener.fd.get(), reinterpret_cast<sockaddr*>(&from), &length, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted);
  EXPECT_EQ(endpoint_from(reinterpret_cast<sockaddr*>(&from))->ip.text(), "127.0.0.77");
}

TEST_F(DialTest, RefusalNamesTheTargetAndComesAtOnceForASingleAttempt) {
  const Listener closed = make_listener(false);
  const auto dialling = dial({.host = kLoopback, .port = closed.port});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_FALSE(*outcome);
  EXPECT_EQ(outcome->error().code, Errc::refused);
  EXPECT_EQ(outcome->error().what, "connect 127.0.0.1:" + std::to_string(closed.port) + ": Connection refused");
}

TEST_F(DialTest, FiveAttemptsTakeOneSecond) {
  const Listener closed = make_listener(false);
  const TimePoint before = Clock::now();
  const auto dialling = dial({.host = kLoopback, .port = closed.port, .attempts = DialPlan::kOutboundAttempts});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  EXPECT_FALSE(*outcome);
  EXPECT_GE(Clock::now() - before, 1000ms);
  EXPECT_LT(Clock::now() - before, 3s);
}

TEST_F(DialTest, ALaterAttemptMaySucceed) {
  Listener listener = make_listener(false);
  const auto dialling = dial({.host = kLoopback, .port = listener.port, .attempts = DialPlan::kOutboundAttempts});
  const TimePoint before = Clock::now();
  run_until(loop, [&] { return Clock::now() - before > 150ms; }, 160ms);
  ASSERT_FALSE(settled());
  ASSERT_EQ(::listen(listener.fd.get(), 16), 0);
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  EXPECT_TRUE(*outcome);
}

TEST_F(DialTest, AnAttemptEndsAfterItsTime) {
  // A full accept queue answers no SYN: backlog 0 holds one connection.
  const Listener full = make_listener(false);
  ASSERT_EQ(::listen(full.fd.get(), 0), 0);
  std::vector<std::unique_ptr<Dial>> fillers;
  int connected = 0;
  for (int i = 0; i < 4; ++i) {
    fillers.push_back(std::make_unique<Dial>(loop, DialPlan{.host = kLoopback, .port = full.port},
                                             [&](auto result) { connected += result.has_value(); }));
  }
  ASSERT_TRUE(run_until(loop, [&] { return connected > 0; }));
  const auto dialling = dial({.host = kLoopback, .port = full.port, .attempt_timeout = 200ms});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_FALSE(*outcome);
  EXPECT_EQ(outcome->error().code, Errc::timeout);
}

TEST_F(DialTest, DestroyingItCancelsAtEveryStage) {
  const Listener listener = make_listener();
  const Listener closed = make_listener(false);
  for (int turns = 0; turns < 6; ++turns) {
    for (const std::uint16_t port : {listener.port, closed.port}) {
      auto by_name = dial({.host = std::string("localhost"), .port = port, .attempts = 3});
      auto by_address = dial({.host = kLoopback, .port = port, .attempts = 3});
      for (int i = 0; i < turns && !settled(); ++i) loop.run_once();
      const bool before = settled();
      by_name.reset();
      by_address.reset();
      loop.run_once();
      EXPECT_EQ(settled(), before);
    }
  }
}

TEST_F(DialTest, TheCallbackMayDestroyTheDial) {
  const Listener closed = make_listener(false);
  const Listener listener = make_listener();
  for (const std::uint16_t port : {listener.port, closed.port}) {
    std::unique_ptr<Dial> dialling;
    dialling = std::make_unique<Dial>(loop, DialPlan{.host = kLoopback, .port = port}, [&](auto) { dialling.reset(); });
    EXPECT_TRUE(run_until(loop, [&] { return !dialling; }));
  }
}

TEST_F(DialTest, ABindAddressOfTheWrongFamilyIsAnError) {
  const auto dialling = dial({.host = IpAddress::parse("::1").value(), .port = 1, .bind = kLoopback});
  ASSERT_TRUE(run_until(loop, [&] { return settled(); }));
  ASSERT_FALSE(*outcome);
  EXPECT_NE(outcome->error().what.find("family of 127.0.0.1"), std::string::npos);
}

TEST(Lookup, AnswersAddressesWithoutThePool) {
  UvLoop loop;
  std::vector<IpAddress> got;
  const Lookup lookup(loop, kLoopback, [&](auto result) { got = result.value(); });
  EXPECT_TRUE(got.empty()) << "on a later turn";
  loop.run_once();
  EXPECT_EQ(got, std::vector{kLoopback});
}

TEST(Lookup, FindsLocalhost) {
  UvLoop loop;
  std::vector<IpAddress> got;
  const Lookup lookup(loop, std::string("localhost"), [&](auto result) { got = result.value(); });
  ASSERT_TRUE(run_until(loop, [&] { return !got.empty(); }));
  EXPECT_TRUE(got.front().loopback());
}

TEST(Lookup, RefusesWhatIsNoDomainName) {
  for (const std::string name : {"", ".", "127.1", "0x7f.1", "10.0x7f", "2130706433", "a b", "fe80::1%lo", "host.1."}) {
    EXPECT_FALSE(is_domain_name(name)) << name;
  }
  EXPECT_FALSE(is_domain_name(std::string_view("good.example\0.evil", 18)));
  EXPECT_FALSE(is_domain_name(std::string(254, 'a')));
  for (const std::string name :
       {"localhost", "a.b.", "xn--bcher-kva.example", "bücher.example", "_srv.x", "1.2.example"}) {
    EXPECT_TRUE(is_domain_name(name)) << name;
  }
  UvLoop loop;
  std::string why;
  const Lookup lookup(loop, std::string("127.1"), [&](auto result) { why = result.error().what; });
  loop.run_once();
  EXPECT_EQ(why, "resolve 127.1: not a domain name");
}

}  // namespace
}  // namespace ebb::net
