#include "ipc/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <string>
#include <vector>

#include "common/crypto/hash.h"
#include "ipc/memfd.h"
#include "tests/unit/ipc/child_recorder.h"

namespace ebb::ipc {
namespace {

using test::Recorder;

class ChildControlTest : public ::testing::Test {
 protected:
  explicit ChildControlTest(Role role = Role::worker) {
    ::sigprocmask(SIG_SETMASK, nullptr, &before_);
    auto ends = pair();
    supervisor.emplace(std::move(ends->first), Link::ctl, Role::supervisor, role);
    child.emplace(std::move(ends->second), role, recorder);
    Hello hello;
    hello.role = Role::supervisor;
    hello.gen = 3;
    supervisor->send_body(Type::hello, hello);
  }
  ~ChildControlTest() override { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

  void send_config(std::string_view text, bool wrong_hash = false) {
    Config config;
    config.gen = 3;
    config.len = text.size();
    config.sha256 = crypto::sha256({as_bytes(text)});
    if (wrong_hash) config.sha256[0] ^= 1;
    const Fd memfd = *make_sealed("snapshot", as_bytes(text));
    const int fds[] = {memfd.get()};
    supervisor->send_body(Type::config, config, fds);
  }
  /// Types the supervisor received.
  std::vector<Type> answers() {
    std::vector<Type> types;
    while (supervisor->on_readable([&](Message& m) {
      types.push_back(m.type());
      if (m.type() == Type::pong && m.body.size() == sizeof(Pong)) pong = m.as<Pong>();
      if (m.type() == Type::answer) answer += as_text(m.body);
      if (m.type() == Type::config_update_result) {
        const auto result = m.as<ConfigUpdate>();
        results.push_back(std::to_string(result.gen) + " " + std::to_string(static_cast<int>(result.phase)) + " " +
                          std::to_string(result.code) + " " + std::string(as_text(m.body.subspan(sizeof result))));
      }
    }) == ReadEnd::busy) {
    }
    return types;
  }

  Recorder recorder;
  std::optional<Channel> supervisor;
  std::optional<ChildControl> child;
  Pong pong;
  std::string answer;
  std::vector<std::string> results;  // generation, phase, code, text

 private:
  sigset_t before_;
};

TEST_F(ChildControlTest, CollectsEverythingUntilStart) {
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const Fd table = *make_shared("replay", 4096);
  const int one[] = {null.get()};
  const int shm[] = {table.get()};
  const int two[] = {null.get(), null.get()};
  supervisor->send_body(Type::logfd, LogFd{LogKind::access, 0}, one);
  supervisor->send_body(Type::shm, Shm{4096, ShmKind::replay, 0}, shm);
  send_config("{}");
  const SlotGrant grants[] = {{1, 10, 0, 0, 4096, 0}, {2, 12, 0, 0, 4096, 0}};
  supervisor->send_records(Type::slot_grant, std::span<const SlotGrant>(grants), two);
  supervisor->send_body(Type::link_add, LinkAdd{5, 1, 256}, one);
  child->on_readable();
  EXPECT_EQ(recorder.seen,
            (std::vector<std::string>{"log 2", "shm 2 4096", "config 3 {}", "slot 10", "slot 12", "link 5"}));
  EXPECT_EQ(child->gen(), 3u);
  child->ready();
  EXPECT_EQ(answers(), (std::vector{Type::hello, Type::ready}));

  recorder.seen.clear();
  supervisor->send_body(Type::start, Gen{3});
  supervisor->send_body(Type::broker_state, BrokerState{5, BrokerPhase::active, 0});
  supervisor->send_body(Type::pause, Gen{3});
  const SlotId revoked[] = {{12, 0}};
  supervisor->send_records(Type::slot_revoke, std::span<const SlotId>(revoked));
  child->on_readable();
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"start", "broker 5", "pause", "revoked 12"}));
  EXPECT_EQ(answers(), (std::vector{Type::started, Type::paused, Type::slot_revoked}));
}

TEST_F(ChildControlTest, AnswersPingAndQuery) {
  supervisor->send_body(Type::ping, Ping{42});
  supervisor->send_long_text(Type::query, std::string(60'000, 'q'));
  child->on_readable();
  const auto types = answers();
  ASSERT_EQ(types.size(), 5u);  // HELLO, PONG, ANSWER in three parts
  EXPECT_EQ(pong.t, 42u);
  EXPECT_EQ(pong.conns, 8u);
  EXPECT_EQ(pong.fds_free, 9u);
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"query 60000"});
  EXPECT_EQ(answer.size(), 100'000u);
}

TEST_F(ChildControlTest, PassesDrainOnWithItsDeadline) {
  supervisor->send_body(Type::drain, Drain{5000, 100, 0});
  child->on_readable();
  ASSERT_TRUE(recorder.order.has_value());
  EXPECT_EQ(recorder.order->why, DrainOrder::Why::ordered);
  EXPECT_EQ(recorder.order->deadline, std::chrono::milliseconds(5000));
  EXPECT_EQ(recorder.order->jitter, std::chrono::milliseconds(100));
}

TEST_F(ChildControlTest, TakesTheEndOfTheSupervisorAsQuit) {
  supervisor->send_body(Type::start, Gen{3});
  supervisor->close();
  child->on_readable();
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"start", "drain"}));  // what was queued comes first
  EXPECT_EQ(recorder.order->why, DrainOrder::Why::supervisor_gone);
  EXPECT_FALSE(recorder.order->deadline.has_value());
  EXPECT_TRUE(child->ended());
  EXPECT_EQ(child->fd(), -1);  // a level-triggered watcher of the ended link would never sleep again
  child->on_readable();
  child->ready();
  child->drained(0, 0);  // nobody listens; nothing happens
  EXPECT_EQ(recorder.seen.size(), 2u);
}

TEST_F(ChildControlTest, TakesQuitAsDrain) {
  ::raise(SIGQUIT);
  child->on_signal();
  ASSERT_TRUE(recorder.order.has_value());
  EXPECT_EQ(recorder.order->why, DrainOrder::Why::signalled);
  recorder.order.reset();
  child->on_signal();
  EXPECT_FALSE(recorder.order.has_value());
}

struct BrokerControlTest : ChildControlTest {
  BrokerControlTest() : ChildControlTest(Role::broker) {}
  void update(std::uint64_t gen, UpdatePhase phase, std::string_view snapshot = {}) {
    if (phase != UpdatePhase::prepare) {
      supervisor->send_body(Type::config_update, ConfigUpdate{gen, phase, 0});
      return;
    }
    const Fd memfd = *make_sealed("snapshot", as_bytes(snapshot));
    const int fds[] = {memfd.get()};
    supervisor->send_body(Type::config_update, ConfigUpdate{gen, phase, 0}, fds);
  }
};

TEST_F(BrokerControlTest, AnswersEachStepOfAnUpdate) {
  update(4, UpdatePhase::prepare, "{\"portals\":[]}");
  update(4, UpdatePhase::commit);
  update(5, UpdatePhase::prepare, "{}");
  update(5, UpdatePhase::abort);
  child->on_readable();
  EXPECT_EQ(recorder.seen,
            (std::vector<std::string>{"prepare 4 {\"portals\":[]}", "commit 4", "prepare 5 {}", "abort 5"}));
  answers();
  EXPECT_EQ(results, (std::vector<std::string>{"4 1 0 ", "4 2 0 ", "5 1 0 ", "5 3 0 "}));
}

TEST_F(BrokerControlTest, SaysWhyAnUpdateIsRefused) {
  recorder.verdict = std::unexpected(Error{Errc::config, std::string(300, 'x'), "routing"});
  update(4, UpdatePhase::prepare, "{}");
  child->on_readable();
  recorder.verdict = {};
  recorder.needs_restart = "the number of loops";
  update(5, UpdatePhase::prepare, "{}");
  child->on_readable();
  recorder.needs_restart = std::string(300, 'y');
  update(6, UpdatePhase::prepare, "{}");
  child->on_readable();
  answers();
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[0], "4 1 2 routing: " + std::string(kMaxUpdateText - 9, 'x'));
  EXPECT_EQ(results[1], "5 1 1 the number of loops");
  EXPECT_EQ(results[2], "6 1 1 " + std::string(kMaxUpdateText, 'y'));
}

TEST_F(BrokerControlTest, AnswersASnapshotThatMayChangeUnderItsFeet) {
  const Fd open = *make_shared("snapshot", 64);
  const int fds[] = {open.get()};
  supervisor->send_body(Type::config_update, ConfigUpdate{4, UpdatePhase::prepare, 0}, fds);
  child->on_readable();
  answers();
  ASSERT_EQ(results.size(), 1u);
  EXPECT_TRUE(results[0].starts_with("4 1 2 snapshot")) << results[0];
  EXPECT_TRUE(recorder.seen.empty());
}

TEST_F(ChildControlTest, EndsOnAnUpdateForAWorker) {
  supervisor->send_body(Type::config_update, ConfigUpdate{4, UpdatePhase::commit, 0});
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"broken: ctl: CONFIG_UPDATE is for brokers"});
}

TEST_F(ChildControlTest, EndsOnASnapshotThatDoesNotMatch) {
  send_config("{\"inbounds\":[]}", true);
  supervisor->send_body(Type::start, Gen{3});
  child->on_readable();
  EXPECT_EQ(recorder.seen, std::vector<std::string>{"broken: configuration snapshot: the hash does not match"});
}

TEST_F(ChildControlTest, EndsOnASnapshotTheOwnerRefuses) {
  recorder.verdict = std::unexpected(Error{Errc::config, "no", "here"});
  send_config("{}");
  child->on_readable();
  EXPECT_EQ(recorder.seen.back(), "broken: here: no");
}

TEST_F(ChildControlTest, EndsOnAMessageThatIsNotAllowed) {
  Hello again;
  again.role = Role::supervisor;
  Channel other(Fd(::fcntl(supervisor->fd(), F_DUPFD_CLOEXEC, 0)), Link::ctl, Role::supervisor, Role::worker);
  other.send_body(Type::hello, again);  // a second HELLO, with sequence number 1 again
  child->on_readable();
  ASSERT_EQ(recorder.seen.size(), 1u);
  EXPECT_TRUE(recorder.seen[0].starts_with("broken: ctl: the supervisor sent a bad message")) << recorder.seen[0];
}

}  // namespace
}  // namespace ebb::ipc
