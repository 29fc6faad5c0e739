#include "supervisor/generations/runner.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "supervisor/process/environment.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

class RunnerTest : public ::testing::Test {
 protected:
  RunnerTest() {
    ::sigprocmask(SIG_BLOCK, nullptr, &before_);
    char name[] = "/tmp/ebb-runner-XXXXXX";
    root_ = ::mkdtemp(name);
    file_ = root_ + "/config.json";
  }
  ~RunnerTest() override {
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
    std::filesystem::remove_all(root_);
  }
  /// What a reload will read: one listener as in make(), `tag` decides what the children do with it.
  void write_file(const std::string& tag, const std::string& more = "") {
    std::ofstream(file_) << R"({"log": {"loglevel": "none"}, "ebbgate": {"workers": 2, "timers": {"probation": "50ms"}},
      "inbounds": [{"tag": ")" + tag +
                                R"(", "listen": "127.0.0.1", "port": 0, "protocol": "dokodemo-door",
      "settings": {"address": "127.0.0.1", "port": 80}})" +
                                more + R"(], "outbounds": [{"protocol": "freedom"}]})";
  }
  /// Reloads once everything is up, then ends the service when `over` says so.
  void reload_once(std::function<bool()> over) {
    bool asked = false;
    EXPECT_EQ(run_until([&] {
                if (!asked && !all_active()) return false;
                if (!asked) {
                  asked = true;
                  runner_->reload([this](int exit, std::string text) {
                    exit_ = exit;
                    text_ = std::move(text);
                  });
                }
                if (!exit_ || !over()) return false;
                ::kill(::getpid(), SIGTERM);
                return true;
              }),
              0);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  }

  void make(const std::string& snapshot, std::uint32_t workers) {
    Configuration configuration;
    configuration.plan.workers = workers;
    configuration.plan.respawn_backoff = 0ms;
    config::Config config;  // what the supervisor reads; the children are told `snapshot`
    config.inbounds.resize(workers == 0 ? 0 : 1);
    for (auto& inbound : config.inbounds) {
      inbound.tag = "in";
      inbound.listen = IpAddress::from_v4({127, 0, 0, 1});
      inbound.ports = {{port_, port_}};
    }
    configuration.snapshot = *make_snapshot(snapshot, std::move(config));
    configuration.logs = std::make_shared<LogFiles>(LogFiles{Fd(::dup(2)), std::nullopt});
    SlotBook slots;
    EXPECT_TRUE(slots.add(configuration.snapshot->listeners, 8, [](int) { return false; }).empty());
    Service service{*Binary::self(),
                    configuration,
                    std::move(slots),
                    *ipc::ReplayTable::create(64),
                    *take_signals(),
                    {},
                    ServiceManager::from_environment()};
    service.invocation.configs = {file_};
    runner_ = std::make_unique<Runner>(loop_, std::move(service));
  }
  /// Calls `look` every 5 ms of loop time until it returns true; the test's time limit bounds it.
  int run_until(std::function<bool()> look) {
    look_ = std::move(look);
    loop_.arm(again_, 5ms);
    return runner_->run();
  }
  static void look_again(void* self) {
    auto& my = *static_cast<RunnerTest*>(self);
    if (!my.look_()) my.loop_.arm(my.again_, 5ms);
  }
  bool all_active() const {
    const auto& children = runner_->machine().children();
    return runner_->machine().phase() == Machine::Phase::running &&
           std::ranges::all_of(children, [](const auto& c) { return c.second.state == ChildState::active; });
  }
  pid_t pid_of(const std::string& name) const {
    for (const auto& [key, child] : runner_->machine().children()) {
      if (child.name() == name) return child.pid;
    }
    return 0;
  }

  net::UvLoop loop_;
  std::unique_ptr<Runner> runner_;
  std::function<bool()> look_;
  net::Timer again_{&RunnerTest::look_again, this};
  sigset_t before_;
  std::string root_, file_;
  std::uint16_t port_ = 0;   // of the inbound
  std::optional<int> exit_;  // of the reload
  std::string text_;
};

/// Bound beside ours and listening first: only listen() can tell.
TEST_F(RunnerTest, AnAddressThatCannotListenEndsTheStart) {
  const auto bound = [](std::uint16_t port) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_storage storage{};
    const auto size = endpoint_to({IpAddress::from_v4({127, 0, 0, 1}), port}, storage);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
    return fd;
  };
  {
    const Fd any = bound(0);
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    ::getsockname(any.get(), reinterpret_cast<sockaddr*>(&storage), &size);
    port_ = endpoint_from(reinterpret_cast<sockaddr*>(&storage))->port;
  }
  make("{}", 2);
  const Fd stranger = bound(port_);
  ASSERT_EQ(::listen(stranger.get(), 1), 0);
  EXPECT_EQ(run_until([] { return false; }), 1);
  EXPECT_NE(runner_->failure().find("in use"), std::string::npos) << runner_->failure();
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

TEST_F(RunnerTest, StartsServesReplacesAndStops) {
  make("{}", 2);
  std::vector<ChildAnswer> answers;
  std::string title;
  pid_t killed = 0;
  const int status = run_until([&] {
    if (!all_active()) return false;
    if (killed == 0) {
      killed = pid_of("worker g1/1");
      std::ifstream in("/proc/" + std::to_string(killed) + "/cmdline");
      std::getline(in, title, '\0');
      ::kill(killed, SIGKILL);
      return false;
    }
    if (pid_of("worker g1/1") == killed) return false;
    EXPECT_TRUE(runner_->ask_children("status", [&](std::vector<ChildAnswer> given) {
      answers = std::move(given);
      ::kill(::getpid(), SIGTERM);
    }));
    return true;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(runner_->failure(), "");
  EXPECT_EQ(title, "ebbgate: worker g1/1");
  ASSERT_EQ(answers.size(), 3u);
  for (const auto& answer : answers) {
    ASSERT_TRUE(answer.json.has_value()) << answer.child.name();
    const bool broker = answer.child.role == ipc::Role::broker;
    // The broker keeps every slot and has had three workers; a worker polls half of them and offers to one broker.
    EXPECT_EQ(*answer.json, std::string(R"({"connections":7,"request":"status","started":true,"slots":)") +
                                (broker ? "8" : "4") + R"(,"links":)" + (broker ? "3" : "1") +
                                R"(,"logs":1,"shm":true})");
  }
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // no zombie, no child
}

TEST_F(RunnerTest, ABrokerThatDiesIsReplacedAndLinked) {
  make("{}", 1);
  pid_t killed = 0;
  std::vector<ChildAnswer> answers;
  const int status = run_until([&] {
    if (!all_active()) return false;
    if (killed == 0) {
      killed = pid_of("broker b1");
      ::kill(killed, SIGKILL);
      return false;
    }
    if (pid_of("broker b2") == 0) return false;
    return runner_->ask_children("status", [&](std::vector<ChildAnswer> given) {
      answers = std::move(given);
      ::kill(::getpid(), SIGQUIT);
    });
  });
  EXPECT_EQ(status, 0);
  ASSERT_EQ(answers.size(), 2u);
  for (const auto& answer : answers) {
    const std::string links = answer.child.role == ipc::Role::broker ? "1" : "2";  // the worker keeps the old end open
    EXPECT_NE(answer.json.value_or("").find(R"("links":)" + links), std::string::npos) << *answer.json;
  }
}

TEST_F(RunnerTest, AChildThatEndsBeforeReadyEndsTheStart) {
  make("die", 1);
  EXPECT_EQ(run_until([] { return true; }), 1);
  EXPECT_NE(runner_->failure().find("ended with exit code 3 before it was ready"), std::string::npos);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

TEST_F(RunnerTest, AQuestionIsAnsweredWithoutThoseThatEnd) {
  make("mute", 1);
  std::size_t silent = 0;
  EXPECT_EQ(run_until([&] {
              if (!all_active()) return false;
              return runner_->ask_children("status", [&](std::vector<ChildAnswer> given) {
                silent = static_cast<std::size_t>(
                    std::ranges::count_if(given, [](const auto& a) { return !a.json.has_value(); }));
                ::kill(::getpid(), SIGTERM);
              });
            }),
            0);
  EXPECT_EQ(silent, 2u);
}

TEST_F(RunnerTest, ReloadsFromItsFiles) {
  make("{}", 1);
  write_file("fresh");
  reload_once([&] { return runner_->machine().operation() == "idle" && runner_->machine().children().size() == 3; });
  EXPECT_EQ(exit_, 0) << text_;
  EXPECT_EQ(runner_->machine().generation(), 2u);
  EXPECT_EQ(runner_->configuration().snapshot->config.inbounds.at(0).tag, "fresh");
  EXPECT_EQ(runner_->configuration().plan.workers, 2u);
}

TEST_F(RunnerTest, AWrongFileIsToldAndChangesNothing) {
  make("{}", 1);
  write_file("x", ", {\"protocol\": \"nosuch\", \"port\": 1}");
  reload_once([] { return true; });
  EXPECT_EQ(exit_, 23);
  EXPECT_NE(text_.find("nosuch"), std::string::npos) << text_;
  EXPECT_EQ(runner_->machine().generation(), 1u);
}

TEST_F(RunnerTest, ABrokerMayRefuse) {
  make("{}", 1);
  write_file("stubborn");
  reload_once([] { return true; });
  EXPECT_EQ(exit_, 1);
  EXPECT_NE(text_.find("no"), std::string::npos) << text_;
  EXPECT_EQ(runner_->machine().generation(), 1u);
}

TEST_F(RunnerTest, WorkersThatDieWhenStartedBringTheOldOnesBack) {
  make("{}", 1);
  write_file("fragile");
  reload_once([&] { return runner_->machine().operation() == "idle"; });
  EXPECT_EQ(runner_->machine().generation(), 1u);
  EXPECT_NE(runner_->machine().last_reload().find("ended with exit code 5"), std::string::npos);
}

}  // namespace
}  // namespace ebb::supervisor
