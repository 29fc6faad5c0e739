#include "common/net/tcp_stream.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <functional>

#include "common/net/poll.h"
#include "tests/support/turns.h"

namespace ebb::net {
namespace {

using test::run_until;

struct Ears final : StreamObserver {
  std::function<void()> readable;
  std::function<void()> writable;
  void on_readable() override { readable ? readable() : void(); }
  void on_writable() override { writable ? writable() : void(); }
};

/// A connected loopback pair: `ours` as a stream, `theirs` a plain non-blocking descriptor.
class TcpStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(::bind(listener.get(), generic, length), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    ASSERT_EQ(::getsockname(listener.get(), generic, &length), 0);
    theirs = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(theirs.get(), generic, length), 0);
    Fd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    ASSERT_TRUE(accepted);
    ours = std::make_unique<TcpStream>(loop, std::move(accepted));
    ours->observe(&ears);
  }
  void send(std::string_view text) {
    ASSERT_EQ(::send(theirs.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  std::string receive() {
    char buffer[64];
    const ssize_t n = ::recv(theirs.get(), buffer, sizeof buffer, 0);
    return n < 0 ? "errno " + std::to_string(errno) : std::string(buffer, static_cast<std::size_t>(n));
  }
  /// Reads at most `limit` bytes per call, into `got`.
  void read_by(std::size_t limit) {
    ears.readable = [this, limit] {
      Bytes into(limit);
      const IoResult result = ours->read(into);
      last = result;
      if (result.kind == IoResult::Kind::ok) got += as_text(std::span(into).first(result.bytes));
      if (result.kind == IoResult::Kind::end || result.kind == IoResult::Kind::error) ours->watch(false, false);
    };
    ours->watch(true, false);
  }

  UvLoop loop;
  Fd theirs;
  std::unique_ptr<TcpStream> ours;
  Ears ears;
  std::string got;
  IoResult last;
};

TEST_F(TcpStreamTest, ReadsOnBehindUrgentData) {
  // recv() stops short at the mark; what lies behind it came with the same edge.
  send("before");
  ASSERT_EQ(::send(theirs.get(), "!", 1, MSG_OOB | MSG_NOSIGNAL), 1);
  send("behind");
  read_by(1024);
  ours->watch(true, false);
  ASSERT_TRUE(run_until(loop, [this] { return got == "beforebehind"; })) << got;
}

TEST_F(TcpStreamTest, KnowsWhatThePeerHasNotAcknowledged) {
  EXPECT_EQ(ours->undelivered(), 0u);
  Bytes much(std::size_t{1} << 20);
  const iovec piece{much.data(), much.size()};
  while (ours->write(std::span(&piece, 1)).kind == IoResult::Kind::ok) {
  }
  EXPECT_GT(ours->undelivered(), 0u);
}

TEST_F(TcpStreamTest, ReadsOnOnLaterTurnsWhatOneReadLeft) {
  read_by(3);
  send("abcdefgh");
  EXPECT_TRUE(run_until(loop, [&] { return got == "abcdefgh"; })) << got;
  send("ij");
  EXPECT_TRUE(run_until(loop, [&] { return got == "abcdefghij"; })) << got;
}

TEST_F(TcpStreamTest, SeesTheEndThatArrivedTogetherWithTheLastBytes) {
  read_by(100);
  ours->watch(false, false);
  send("bye");
  theirs.reset();
  loop.run_once();
  ours->watch(true, false);
  EXPECT_TRUE(run_until(loop, [&] { return last.kind == IoResult::Kind::end; }));
  EXPECT_EQ(got, "bye");
}

TEST_F(TcpStreamTest, SeesTheEndThatComesAfterAShortRead) {
  read_by(100);
  send("bye");
  EXPECT_TRUE(run_until(loop, [&] { return got == "bye"; }));
  ::shutdown(theirs.get(), SHUT_WR);
  EXPECT_TRUE(run_until(loop, [&] { return last.kind == IoResult::Kind::end; }));
}

TEST_F(TcpStreamTest, PausingKeepsWhatArrivedAndResumingReportsIt) {
  read_by(100);
  loop.run_once();
  ours->watch(false, false);
  send("later");
  for (int i = 0; i < 3; ++i) loop.run_once();
  EXPECT_EQ(got, "");
  ours->watch(true, false);
  EXPECT_TRUE(run_until(loop, [&] { return got == "later"; }));
}

TEST_F(TcpStreamTest, WritesUntilFullAndIsToldWhenThereIsRoom) {
  const Bytes block(64 * 1024, 'x');
  const iovec piece{const_cast<std::uint8_t*>(block.data()), block.size()};
  std::size_t sent = 0;
  bool blocked = false;
  const auto fill = [&] {
    for (;;) {
      const IoResult result = ours->write(std::span(&piece, 1));
      if (result.kind != IoResult::Kind::ok) {
        blocked = result.kind == IoResult::Kind::would_block;
        return;
      }
      sent += result.bytes;
    }
  };
  fill();
  ASSERT_TRUE(blocked);
  int told = 0;
  ears.writable = [&] {
    ++told;
    ours->watch(false, false);
  };
  ours->watch(false, true);
  for (int i = 0; i < 3; ++i) loop.run_once();
  Bytes sink(sent);
  std::size_t received = 0;
  while (received < sent) {
    const ssize_t n = ::recv(theirs.get(), sink.data(), sink.size(), 0);
    ASSERT_GT(n, 0);
    received += static_cast<std::size_t>(n);
  }
  EXPECT_TRUE(run_until(loop, [&] { return told > 0; }));
  blocked = false;
  fill();
  EXPECT_TRUE(blocked);
}

TEST_F(TcpStreamTest, ResetIsSeenByThePeerAsOne) {
  ours->reset();
  EXPECT_EQ(receive(), "errno " + std::to_string(ECONNRESET));
  Bytes into(1);
  EXPECT_EQ(ours->read(into).kind, IoResult::Kind::error);
}

TEST_F(TcpStreamTest, TheirResetIsAnErrorHere) {
  read_by(100);
  const linger now{1, 0};
  ::setsockopt(theirs.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  theirs.reset();
  EXPECT_TRUE(run_until(loop, [&] { return last.kind == IoResult::Kind::error; }));
  EXPECT_EQ(last.error, ECONNRESET);
}

TEST_F(TcpStreamTest, EndingOurDirectionLeavesTheirsOpen) {
  const std::string_view text = "done";
  const iovec piece{const_cast<char*>(text.data()), text.size()};
  ASSERT_EQ(ours->write(std::span(&piece, 1)).bytes, 4u);
  ours->shutdown_write();
  EXPECT_EQ(receive(), "done");
  EXPECT_EQ(receive(), "");
  read_by(100);
  send("still here");
  EXPECT_TRUE(run_until(loop, [&] { return got == "still here"; }));
}

TEST_F(TcpStreamTest, ReleasedDescriptorsLiveOn) {
  const Fd taken = ours->release();
  ours.reset();
  ASSERT_TRUE(taken);
  send("x");
  char byte = 0;
  pollfd waiting{taken.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&waiting, 1, 5000), 1);
  EXPECT_EQ(::recv(taken.get(), &byte, 1, 0), 1);
}

TEST_F(TcpStreamTest, KnowsItsPeer) {
  ASSERT_TRUE(ours->peer());
  EXPECT_TRUE(ours->peer()->ip.loopback());
  EXPECT_NE(ours->peer()->port, 0);
}

TEST_F(TcpStreamTest, DestroyingAReadyStreamInAnotherOnesCallbackIsSafe) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
  auto other = std::make_unique<TcpStream>(loop, Fd(pair[0]));
  const Fd far(pair[1]);
  Ears other_ears;
  bool other_told = false;
  other_ears.readable = [&] {
    other_told = true;
    ours.reset();
  };
  ears.readable = [&] {
    got = "told";
    other.reset();
  };
  other->observe(&other_ears);
  other->watch(true, false);
  ours->watch(true, false);
  send("x");
  ASSERT_EQ(::send(far.get(), "y", 1, 0), 1);
  EXPECT_TRUE(run_until(loop, [&] { return !other || !ours; }));
  for (int i = 0; i < 3; ++i) loop.run_once();
  EXPECT_NE(other_told, got == "told") << "exactly one of the two was called";
}

TEST(Poll, TellsUntilItIsTakenAndMayBeDestroyedInItsCallback) {
  UvLoop loop;
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
  const Fd near(pair[0]);
  const Fd far(pair[1]);
  int told = 0;
  std::unique_ptr<Poll> poll;
  poll = Poll::make(loop, near.get(), [&](bool readable, bool) {
    EXPECT_TRUE(readable);
    if (++told == 3) poll.reset();
  });
  ASSERT_TRUE(poll);
  ASSERT_EQ(::send(far.get(), "x", 1, 0), 1);
  loop.run_once();
  EXPECT_EQ(told, 0);
  poll->watch(true, false);
  EXPECT_TRUE(run_until(loop, [&] { return !poll; }));
  loop.run_once();
  EXPECT_EQ(told, 3);
}

TEST(UvLoop, RunsPostedWorkAndTimersAndStops) {
  UvLoop loop;
  struct Seen {
    UvLoop& loop;
    int posted = 0;
    int fired = 0;
    Timer timer{[](void* self) {
                  auto& seen = *static_cast<Seen*>(self);
                  ++seen.fired;
                  seen.loop.stop();
                },
                this};
  } seen{loop};
  loop.post([&] {
    ++seen.posted;
    loop.arm(seen.timer, std::chrono::milliseconds(20));
  });
  const TimePoint before = Clock::now();
  loop.run();
  EXPECT_EQ(seen.posted, 1);
  EXPECT_EQ(seen.fired, 1);
  EXPECT_GE(Clock::now() - before, std::chrono::milliseconds(20));
}

TEST_F(TcpStreamTest, KnowsItsPath) {
  const Bytes bytes(100'000);
  const iovec piece{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
  std::size_t written = 0;
  for (IoResult result; (result = ours->write({&piece, 1})).kind == IoResult::Kind::ok;) written += result.bytes;
  auto path = ours->path();
  ASSERT_TRUE(path);
  EXPECT_GT(path->notsent_bytes, 0u) << "the peer reads nothing and its window is shut";
  EXPECT_LE(path->unacked_bytes + path->notsent_bytes, written);
  for (std::size_t read = 0; read < written;) {
    char into[65536];
    const ssize_t n = ::recv(theirs.get(), into, sizeof into, 0);
    ASSERT_GT(n, 0);
    read += static_cast<std::size_t>(n);
  }
  path = ours->path();
  ASSERT_TRUE(path);
  EXPECT_EQ(path->notsent_bytes, 0u);
  EXPECT_GT(path->rtt, Duration{});
  EXPECT_GT(path->delivery_rate, 0u);
  EXPECT_LE(path->min_rtt, path->rtt + std::chrono::seconds(1));
  ours->reset();
  EXPECT_FALSE(ours->path());
}

TEST(PathInfoTest, NeedsATcpSocket) {
  EXPECT_FALSE(path_info(-1));
  const Fd udp(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(path_info(udp.get()));
}

}  // namespace
}  // namespace ebb::net
