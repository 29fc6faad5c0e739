// The end of the supervisor and the way of the next one in: ChildControl with a real adoption socket and a hand-moved
// clock.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/crypto/hash.h"
#include "ipc/child.h"
#include "ipc/memfd.h"
#include "tests/unit/ipc/child_recorder.h"

namespace ebb::ipc {
namespace {

using namespace std::chrono_literals;
using test::Recorder;

std::uint64_t inode_of(const Fd& fd) {
  struct stat info{};
  EXPECT_EQ(::fstat(fd.get(), &info), 0);
  return info.st_ino;
}

/// Everything of ADOPT_STATE, its parts put together.
struct Told {
  std::vector<AdoptState> parts;
  std::vector<AdoptSlot> slots;
  std::vector<Fd> slot_fds;
  std::vector<Fd> memory;
  std::vector<Type> others;  // what came besides
  std::vector<Stat> stats;

  void take(Message& message) {
    if (message.type() == Type::stats) stats = message.records<Stat>();
    if (message.type() != Type::adopt_state) return others.push_back(message.type());
    parts.push_back(message.as<AdoptState>());
    for (const auto& slot : message.records<AdoptSlot>(sizeof(AdoptState))) slots.push_back(slot);
    for (std::size_t i = 0; i < message.fds.size(); ++i) {
      (i < message.header.nrec ? slot_fds : memory).push_back(std::move(message.fds[i]));
    }
  }
};

class AdoptionTest : public ::testing::Test {
 protected:
  explicit AdoptionTest(Role role = Role::worker) : role_(role) {
    ::sigprocmask(SIG_SETMASK, nullptr, &before_);
    std::string directory = "/tmp/ebb-adoption-XXXXXX";
    EXPECT_NE(::mkdtemp(directory.data()), nullptr);
    address_.sun_family = AF_UNIX;
    const std::string path = directory + "/socket";
    std::memcpy(address_.sun_path, path.c_str(), path.size() + 1);
    Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));  // blocking: the child sees to that itself
    EXPECT_EQ(::bind(listener.get(), generic(), sizeof address_), 0);
    EXPECT_EQ(::listen(listener.get(), 8), 0);
    start(std::move(listener));
  }
  ~AdoptionTest() override {
    ::unlink(address_.sun_path);
    const std::string path = address_.sun_path;
    ::rmdir(path.substr(0, path.rfind('/')).c_str());
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

  /// A child with HELLO exchanged.
  void start(Fd listener) {
    auto ends = pair();
    supervisor.emplace(std::move(ends->first), Link::ctl, Role::supervisor, role_);
    child.emplace(std::move(ends->second), role_, recorder, std::move(listener), [this] { return now; });
    Hello hello;
    hello.role = Role::supervisor;
    hello.gen = 3;
    supervisor->send_body(Type::hello, hello);
    child->on_readable();
  }
  void send_config(std::string_view text) {
    Config config;
    config.gen = 3;
    config.len = text.size();
    config.sha256 = crypto::sha256({as_bytes(text)});
    const Fd memfd = *make_sealed("snapshot", as_bytes(text));
    const int fds[] = {memfd.get()};
    supervisor->send_body(Type::config, config, fds);
    child->on_readable();
  }
  void orphan() {
    supervisor->send_body(Type::commit, Gen{3});
    supervisor->close();
    child->on_readable();
    recorder.seen.clear();
  }
  Fd connect() {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    EXPECT_EQ(::connect(fd.get(), generic(), sizeof address_), 0);
    return fd;
  }
  /// A supervisor connects and says ADOPT; what it is told.
  Told adopt() {
    supervisor.emplace(connect(), Link::adoption, Role::supervisor, role_);
    supervisor->send_body(Type::adopt, Adopt{{}, 9});
    child->on_adoption_readable();
    child->on_readable();
    return read();
  }
  Told read() {
    Told told;
    while (supervisor->on_readable([&](Message& m) { told.take(m); }) == ReadEnd::busy) {
    }
    return told;
  }
  static bool closed(const Fd& fd) {
    char byte = 0;
    return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0;
  }
  sockaddr* generic() { return reinterpret_cast<sockaddr*>(&address_); }

  TimePoint now{std::chrono::hours(1)};
  Recorder recorder;
  std::optional<Channel> supervisor;
  std::optional<ChildControl> child;

 private:
  Role role_;
  sockaddr_un address_{};
  sigset_t before_;
};

struct BrokerAdoptionTest : AdoptionTest {
  BrokerAdoptionTest() : AdoptionTest(Role::broker) {}
};

TEST_F(AdoptionTest, WithoutCommitTheEndOfTheSupervisorIsADrain) {
  supervisor->close();
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"drain"});
  EXPECT_EQ(recorder.order->why, DrainOrder::Why::supervisor_gone);
  EXPECT_TRUE(child->ended());
  EXPECT_EQ(child->fd(), -1);
  EXPECT_EQ(child->adoption_fd(), -1);
  EXPECT_FALSE(child->next_deadline().has_value());
}

TEST_F(AdoptionTest, WithoutAListenerCommitChangesNothing) {
  recorder.seen.clear();
  for (const int kind : {0, 1, 2}) {
    Fd socket;
    if (kind == 1) socket = Fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (kind == 2) socket = std::move(pair()->first);  // connected, no listener
    start(std::move(socket));
    supervisor->send_body(Type::commit, Gen{3});
    supervisor->close();
    child->on_readable();
    EXPECT_EQ(recorder.seen, std::vector<std::string>{"drain"}) << kind;
    EXPECT_TRUE(child->ended());
    recorder.seen.clear();
  }
}

TEST_F(AdoptionTest, ACommittedChildSurvivesTheEndOfTheSupervisor) {
  supervisor->send_body(Type::start, Gen{3});
  supervisor->send_body(Type::commit, Gen{3});
  EXPECT_EQ(child->adoption_fd(), -1);  // nobody is wanted as long as it lives
  supervisor->close();
  child->on_readable();
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"start", "orphaned 0"}));
  EXPECT_TRUE(child->orphaned());
  EXPECT_FALSE(child->ended());
  EXPECT_EQ(child->fd(), -1);
  EXPECT_GE(child->adoption_fd(), 0);
  child->ready();  // nobody listens; nothing happens
  child->drained(0, 0);
}

TEST_F(AdoptionTest, SaysOnceAMinuteThatItIsAlone) {
  orphan();
  EXPECT_EQ(child->next_deadline(), now + 60s);
  for (int minute = 0; minute < 2; ++minute) {
    now += 59s;
    child->on_deadline();
    now += 1s;
    child->on_deadline();
  }
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"orphaned 60", "orphaned 120"}));
  adopt();
  EXPECT_FALSE(child->next_deadline().has_value());
}

TEST_F(AdoptionTest, TellsTheNextSupervisorWhatItHolds) {
  const Fd replay = *make_shared("replay", 4096), stats = *make_shared("stats", 4096);
  const int replay_fds[] = {replay.get()}, stats_fds[] = {stats.get()};
  supervisor->send_body(Type::shm, Shm{4096, ShmKind::replay, 0}, replay_fds);
  supervisor->send_body(Type::shm, Shm{4096, ShmKind::stats, 0}, stats_fds);
  send_config("{\"portals\":[]}");
  const Fd slot = std::move(pair()->first), other = std::move(pair()->first);
  recorder.own = {17, {{{111, 4, 1}, slot.get()}, {{222, 5, 2}, other.get()}}};
  orphan();

  const Told told = adopt();
  ASSERT_EQ(told.parts.size(), 1u);
  EXPECT_EQ(told.parts[0].gen, 3u);
  EXPECT_EQ(told.parts[0].role, static_cast<std::uint32_t>(Role::worker));
  EXPECT_EQ(told.parts[0].conns, 17u);
  EXPECT_EQ(told.parts[0].config_sha256, crypto::sha256({as_bytes("{\"portals\":[]}")}));
  EXPECT_EQ(told.parts[0].shm_kinds, shm_bit(ShmKind::stats) | shm_bit(ShmKind::replay) | shm_bit(ShmKind::snapshot));
  ASSERT_EQ(told.slots.size(), 2u);
  EXPECT_EQ(told.slots[1].cookie, 222u);
  EXPECT_EQ(told.slots[1].slot, 5u);
  EXPECT_EQ(told.slots[1].listener, 2u);
  ASSERT_EQ(told.slot_fds.size(), 2u);
  EXPECT_EQ(inode_of(told.slot_fds[0]), inode_of(slot));  // copies: the child keeps its own
  EXPECT_EQ(inode_of(told.slot_fds[1]), inode_of(other));
  ASSERT_EQ(told.memory.size(), 3u);
  EXPECT_EQ(inode_of(told.memory[0]), inode_of(stats));
  EXPECT_EQ(inode_of(told.memory[1]), inode_of(replay));
  EXPECT_EQ(*read_sealed(told.memory[2].get(), 1000), "{\"portals\":[]}");
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"adopted"});
  EXPECT_FALSE(child->orphaned());
  EXPECT_EQ(child->adoption_fd(), -1);
  EXPECT_GE(child->fd(), 0);
}

TEST_F(AdoptionTest, TheConnectionIsTheLinkFromThenOn) {
  orphan();
  adopt();
  recorder.seen.clear();
  supervisor->send_body(Type::ping, Ping{42});
  supervisor->send_body(Type::start, Gen{3});
  supervisor->send_body(Type::drain, Drain{0, 100, 0});
  child->on_readable();
  child->drained(0, 0);
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"start", "drain"}));
  EXPECT_EQ(read().others, (std::vector{Type::pong, Type::started, Type::drained}));
}

TEST_F(AdoptionTest, AnotherSupervisorMayDieToo) {
  orphan();
  adopt();
  supervisor->close();  // without a second COMMIT: who was to survive once is to survive again
  child->on_readable();
  EXPECT_EQ(recorder.seen.back(), "orphaned 0");
  EXPECT_GE(child->adoption_fd(), 0);
  const Told told = adopt();
  EXPECT_EQ(told.parts.size(), 1u);
  EXPECT_EQ(recorder.seen.back(), "adopted");
}

TEST_F(AdoptionTest, ChainsMoreSlotsThanAMessageHolds) {
  const Fd slot = std::move(pair()->first);
  for (std::uint32_t i = 0; i < 150; ++i) recorder.own.slots.push_back({{i, i, 0}, slot.get()});
  send_config("{}");
  orphan();
  const Told told = adopt();
  ASSERT_EQ(told.parts.size(), 3u);
  EXPECT_EQ(told.parts[0].n, 64u);
  EXPECT_EQ(told.parts[2].n, 22u);
  EXPECT_EQ(told.parts[0].shm_kinds, shm_bit(ShmKind::snapshot));  // the memfds come once
  EXPECT_EQ(told.parts[1].shm_kinds, 0u);
  EXPECT_EQ(told.slot_fds.size(), 150u);
  EXPECT_EQ(told.memory.size(), 1u);
  for (std::uint32_t i = 0; i < 150; ++i) EXPECT_EQ(told.slots[i].slot, i);
}

TEST_F(AdoptionTest, WhoTalksGarbageIsClosedAndTheNextOneGetsIn) {
  orphan();
  const Fd garbage = connect();
  EXPECT_EQ(::send(garbage.get(), "GET / HTTP/1.1\r\n", 16, 0), 16);
  child->on_adoption_readable();
  EXPECT_EQ(child->adoption_fd(), -1);  // one at a time
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"refused: bad magic"});
  EXPECT_EQ(child->fd(), -1);
  EXPECT_GE(child->adoption_fd(), 0);

  const Fd silent = connect();  // leaves without a word
  child->on_adoption_readable();
  ::shutdown(silent.get(), SHUT_RDWR);
  child->on_readable();
  EXPECT_EQ(recorder.seen.back(), "refused: it said nothing and left");

  EXPECT_EQ(adopt().parts.size(), 1u);
  EXPECT_EQ(recorder.seen.back(), "adopted");
}

TEST_F(AdoptionTest, NothingButAdoptOpensTheDoor) {
  orphan();
  Channel other(connect(), Link::ctl, Role::supervisor, Role::worker);
  Hello hello;
  hello.role = Role::supervisor;
  other.send_body(Type::hello, hello);
  child->on_adoption_readable();
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"refused: not allowed here and now"});
  EXPECT_EQ(adopt().parts.size(), 1u);
}

TEST_F(AdoptionTest, WhoSaysNothingHasFiveSeconds) {
  orphan();
  const Fd silent = connect();
  child->on_adoption_readable();
  EXPECT_EQ(child->next_deadline(), now + 5s);
  now += 4999ms;
  child->on_deadline();
  EXPECT_FALSE(closed(silent));
  now += 1ms;
  child->on_deadline();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"refused: it did not say ADOPT in time"});
  EXPECT_EQ(child->fd(), -1);
  child->on_adoption_readable();  // from here on it is closed: the watcher has let go of it
  EXPECT_TRUE(closed(silent));
  EXPECT_EQ(adopt().parts.size(), 1u);
}

TEST_F(AdoptionTest, TheNumberOfTheLinkIsNeverReusedUnderTheWatcher) {
  orphan();
  for (int i = 0; i < 3; ++i) {
    const Fd silent = connect();
    child->on_adoption_readable();
    const int watched = child->fd();
    ASSERT_GE(watched, 0);
    ::shutdown(silent.get(), SHUT_RDWR);
    child->on_readable();
    EXPECT_EQ(child->fd(), -1);
    EXPECT_GE(::fcntl(watched, F_GETFD), 0);  // still open: an epoll set can be told to forget it
  }
}

TEST_F(AdoptionTest, WaitsWithoutDescriptorsAndTriesAgain) {
  orphan();
  child->on_deadline();  // the dead link's descriptor is free now
  const Fd waiting = connect();
  std::vector<Fd> all;
  while (true) {
    Fd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd) break;
    all.push_back(std::move(fd));
    if (all.size() > 100'000) GTEST_SKIP() << "no limit of descriptors worth the name";
  }
  child->on_adoption_readable();
  EXPECT_EQ(child->adoption_fd(), -1);  // watched, it would be readable for ever
  EXPECT_EQ(child->next_deadline(), now + 100ms);
  all.clear();
  now += 100ms;
  child->on_deadline();
  EXPECT_GE(child->adoption_fd(), 0);
  child->on_adoption_readable();
  EXPECT_GE(child->fd(), 0);
}

TEST_F(AdoptionTest, AChildThatWasFoundGuiltyIsNotLeftBehind) {
  supervisor->send_body(Type::commit, Gen{3});
  supervisor->send_fault(FaultCode::unexpected, "leave");
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"drain"});  // its supervisor lives, nobody would come
  EXPECT_TRUE(child->ended());
}

TEST_F(AdoptionTest, ABadMessageOfTheAdopterIsOneOfTheSupervisor) {
  orphan();
  adopt();
  supervisor->send_body(Type::commit, Gen{4});
  Channel other(Fd(::fcntl(supervisor->fd(), F_DUPFD_CLOEXEC, 0)), Link::adoption, Role::supervisor, Role::worker);
  other.send_body(Type::adopt, Adopt{});  // sequence number 1 again
  child->on_readable();
  EXPECT_EQ(recorder.seen.back(), "broken: ctl: the supervisor sent a bad message: gap in the sequence");
}

TEST_F(AdoptionTest, ReportsWaitForTheNextSupervisor) {
  child->report({kLinkFaults, 1, 1});
  EXPECT_EQ(read().others, (std::vector{Type::hello, Type::stats}));
  orphan();
  child->report({kLinkFaults, 2, 1});
  child->report({kLinkFaults, 3, 1});
  const Told told = adopt();
  ASSERT_EQ(told.stats.size(), 2u);
  EXPECT_EQ(told.stats[0].label, 2u);
  EXPECT_EQ(told.stats[1].label, 3u);
}

TEST_F(AdoptionTest, HalfAQueryDiesWithItsSupervisor) {
  supervisor->send_body(Type::commit, Gen{3});
  supervisor->send(Type::query, as_bytes("{\"half\":"), {}, 0, flags::more);
  orphan();
  adopt();
  recorder.seen.clear();
  supervisor->send_long_text(Type::query, "{}");
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"query 2"});
}

TEST_F(BrokerAdoptionTest, TheSnapshotIsTheOneThatDecides) {
  const auto update = [&](std::uint64_t gen, UpdatePhase phase, std::string_view text = {}) {
    if (phase != UpdatePhase::prepare) {
      supervisor->send_body(Type::config_update, ConfigUpdate{gen, phase, 0});
    } else {
      const Fd memfd = *make_sealed("snapshot", as_bytes(text));
      const int fds[] = {memfd.get()};
      supervisor->send_body(Type::config_update, ConfigUpdate{gen, phase, 0}, fds);
    }
    child->on_readable();
  };
  const auto told = [&] {
    orphan();
    const Told out = adopt();
    EXPECT_EQ(out.memory.size(), 1u);
    const auto text = read_sealed(out.memory[0].get(), 1000);
    EXPECT_EQ(out.parts[0].config_sha256, crypto::sha256({as_bytes(*text)}));
    return *text;
  };
  send_config("first");
  update(4, UpdatePhase::prepare, "second");
  EXPECT_EQ(told(), "first");
  update(4, UpdatePhase::commit);
  EXPECT_EQ(told(), "second");
  update(5, UpdatePhase::prepare, "third");
  update(5, UpdatePhase::abort);
  update(5, UpdatePhase::commit);
  EXPECT_EQ(told(), "second");
  recorder.verdict = std::unexpected(Error{Errc::config, "no", {}});
  update(6, UpdatePhase::prepare, "fourth");
  update(6, UpdatePhase::commit);
  EXPECT_EQ(told(), "second");
}

}  // namespace
}  // namespace ebb::ipc
