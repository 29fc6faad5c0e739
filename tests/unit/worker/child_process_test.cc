// A worker and a broker as real processes, and the test as their supervisor: how they survive it and let the next one
// in, and what they tell it.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "common/config/canonical.h"
#include "common/crypto/hash.h"
#include "ipc/channel.h"
#include "ipc/memfd.h"
#include "worker/broker/broker_main.h"
#include "worker/edge/worker_main.h"

namespace ebb {
namespace {

using namespace std::chrono_literals;
using ipc::Channel;
using ipc::Role;
using ipc::Type;

std::string snapshot() {
  const auto config = config::parse_canonical(R"({"log":{"loglevel":"none"},
      "inbounds":[{"tag":"door","port":9,"protocol":"dokodemo-door","settings":{"address":"127.0.0.1","port":9}}],
      "outbounds":[{"protocol":"freedom"}]})");
  EXPECT_TRUE(config.has_value()) << (config ? "" : config.error().what);
  return config ? config::canonical_json(*config, config::Secrets::keep) : "";
}

/// Plays the supervisor of one child.
class ChildProcess : public testing::Test {
 protected:
  explicit ChildProcess(Role role) : role_(role) {
    std::string directory = "/tmp/ebb-adopted-XXXXXX";
    EXPECT_NE(::mkdtemp(directory.data()), nullptr);
    const std::string path = directory + "/socket";
    address_.sun_family = AF_UNIX;
    std::memcpy(address_.sun_path, path.c_str(), path.size() + 1);
    Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(listener.get(), generic(), sizeof address_), 0);
    EXPECT_EQ(::listen(listener.get(), 8), 0);
    auto ends = ipc::pair();
    child_ = ::fork();
    if (child_ == 0) {
      ends->first.reset();
      ::alarm(60);
      ::_exit(role_ == Role::worker ? edge::run_worker(std::move(ends->second), std::move(listener))
                                    : broker::run_broker(std::move(ends->second), std::move(listener)));
    }
    link_.emplace(std::move(ends->first), ipc::Link::ctl, Role::supervisor, role_);
  }
  ~ChildProcess() override {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    ::unlink(address_.sun_path);
    const std::string path = address_.sun_path;
    ::rmdir(path.substr(0, path.rfind('/')).c_str());
  }

  void greet() {
    ipc::Hello hello;
    hello.role = Role::supervisor;
    hello.gen = 3;
    link_->send_body(Type::hello, hello);
  }
  void configure(const std::string& text) {
    ipc::Config config;
    config.gen = 3;
    config.len = text.size();
    config.sha256 = crypto::sha256({as_bytes(text)});
    const Fd memfd = *ipc::make_sealed("snapshot", as_bytes(text));
    const int fds[] = {memfd.get()};
    link_->send_body(Type::config, config, fds);
  }
  void set_up(int slot) {
    greet();
    configure(snapshot());
    const int slot_fds[] = {slot};
    const ipc::SlotGrant grants[] = {{.cookie = 77, .slot = 5, .listener = 2}};
    link_->send_records(Type::slot_grant, std::span<const ipc::SlotGrant>(grants), slot_fds);
    ASSERT_TRUE(wait_for(Type::ready));
    link_->send_body(Type::start, ipc::Gen{3});
    ASSERT_TRUE(wait_for(Type::started));
  }
  Fd connect() {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), generic(), sizeof address_), 0);
    return fd;
  }
  void adopt() {
    link_.emplace(connect(), ipc::Link::adoption, Role::supervisor, role_);
    link_->send_body(Type::adopt, ipc::Adopt{{}, 9});
    ASSERT_TRUE(wait_for(Type::adopt_state));
  }
  /// Reads until such a message came; false after 10 s or at the end of the link.
  bool wait_for(Type type) {
    const auto give_up = Clock::now() + 10s;
    for (bool found = false; Clock::now() < give_up;) {
      const auto end = link_->on_readable([&](ipc::Message& m) {
        found |= m.type() == type;
        if (m.type() == Type::stats) stat_ = m.as<ipc::Stat>();
        if (m.type() != Type::adopt_state) return;
        state_ = m.as<ipc::AdoptState>();
        slots_ = m.records<ipc::AdoptSlot>(sizeof(ipc::AdoptState));
        fds_ = std::move(m.fds);
      });
      if (found) return true;
      if (end == ipc::ReadEnd::eof || end == ipc::ReadEnd::fault) return false;
      pollfd waiting{link_->fd(), POLLIN, 0};
      ::poll(&waiting, 1, 100);
    }
    return false;
  }
  int wait_for_exit() {
    int status = -1;
    if (::waitpid(std::exchange(child_, -1), &status, 0) < 0) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  sockaddr* generic() { return reinterpret_cast<sockaddr*>(&address_); }

  std::optional<Channel> link_;
  ipc::Stat stat_;
  ipc::AdoptState state_;
  std::vector<ipc::AdoptSlot> slots_;
  std::vector<Fd> fds_;

 private:
  Role role_;
  sockaddr_un address_{};
  pid_t child_ = -1;
};

struct AdoptedProcess : ChildProcess, testing::WithParamInterface<Role> {
  AdoptedProcess() : ChildProcess(GetParam()) {}
};

TEST_P(AdoptedProcess, OutlivesTwoSupervisorsAndServesAThird) {
  Fd slot(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(slot.get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  ASSERT_EQ(::listen(slot.get(), 8), 0);
  set_up(slot.get());
  link_->send_body(Type::commit, ipc::Gen{3});
  slot.reset();  // the child's copy is what is left of it

  for (int supervisor = 0; supervisor < 2; ++supervisor) {
    link_->close();
    const Fd garbage = connect();
    ASSERT_EQ(::send(garbage.get(), "hello", 5, MSG_NOSIGNAL), 5);
    char answer[256];
    while (::recv(garbage.get(), answer, sizeof answer, 0) > 0) {  // FAULT, then the end
    }
    adopt();
    EXPECT_EQ(state_.gen, 3u);
    EXPECT_EQ(state_.role, static_cast<std::uint32_t>(GetParam()));
    EXPECT_EQ(state_.shm_kinds, ipc::shm_bit(ipc::ShmKind::snapshot));
    ASSERT_EQ(slots_.size(), 1u);
    EXPECT_EQ(slots_[0].cookie, 77u);
    EXPECT_EQ(slots_[0].slot, 5u);
    EXPECT_EQ(slots_[0].listener, 2u);
    ASSERT_EQ(fds_.size(), 2u);
    int listens = 0;
    socklen_t size = sizeof listens;
    EXPECT_EQ(::getsockopt(fds_[0].get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size), 0);
    EXPECT_EQ(listens, 1);
    EXPECT_EQ(*ipc::read_sealed(fds_[1].get(), 100'000), snapshot());
    link_->send_body(Type::ping, ipc::Ping{1});
    EXPECT_TRUE(wait_for(Type::pong));
  }
  link_->send_body(Type::drain, ipc::Drain{});
  EXPECT_TRUE(wait_for(Type::drained));
  EXPECT_EQ(wait_for_exit(), 0);
}

TEST_P(AdoptedProcess, LeavesWithItsSupervisorUnlessToldOtherwise) {
  Fd slot(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ASSERT_EQ(::listen(slot.get(), 8), 0);
  set_up(slot.get());
  link_->close();
  EXPECT_EQ(wait_for_exit(), 0);
}

TEST_P(AdoptedProcess, LeavesWithASupervisorThatNeverConfiguredIt) {
  greet();
  link_->send_body(Type::ping, ipc::Ping{1});
  EXPECT_TRUE(wait_for(Type::pong));
  link_->close();
  EXPECT_LT(wait_for_exit(), 1000) << "killed by a signal";
}

TEST_P(AdoptedProcess, SaysWhyItCannotBegin) {
  const Fd log(::memfd_create("log", MFD_CLOEXEC));
  greet();
  const int fds[] = {log.get()};
  link_->send_body(Type::logfd, ipc::LogFd{ipc::LogKind::error, 0}, fds);
  configure(R"({"outbounds": [{"protocol": "fredom"}]})");
  EXPECT_EQ(wait_for_exit(), 1);
  char text[4096];
  const auto size = ::pread(log.get(), text, sizeof text, 0);
  const std::string_view said(text, static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  EXPECT_TRUE(said.contains("cannot go on") && said.contains("fredom")) << said;
}

struct WorkerProcess : ChildProcess {
  WorkerProcess() : ChildProcess(Role::worker) {}
};

TEST_F(WorkerProcess, TellsItsSupervisorOfALinkThatBrokeTheProtocol) {
  Fd slot(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ASSERT_EQ(::listen(slot.get(), 8), 0);
  set_up(slot.get());
  for (const std::uint64_t broker_gen : {4u, 4u, 5u}) {
    auto ends = ipc::pair();
    const int fds[] = {ends->second.get()};
    link_->send_body(Type::link_add, ipc::LinkAdd{broker_gen, 1, 256}, fds);
    ASSERT_EQ(::send(ends->first.get(), "no message", 10, MSG_NOSIGNAL), 10);
    ASSERT_TRUE(wait_for(Type::stats));
    EXPECT_EQ(stat_.counter, ipc::kLinkFaults);
    EXPECT_EQ(stat_.label, broker_gen);
    EXPECT_EQ(stat_.delta, 1u);
  }
}

struct BrokerProcess : ChildProcess {
  BrokerProcess() : ChildProcess(Role::broker) {}
};

/// An epoll set knows descriptions, not descriptors: with a copy elsewhere the closed link would go on telling a dead
/// object (spec/processes.md 13.11).
TEST_F(BrokerProcess, ForgetsAFaultedLinkThatIsStillOpenElsewhere) {
  Fd slot(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ASSERT_EQ(::listen(slot.get(), 8), 0);
  set_up(slot.get());
  for (int i = 0; i < 20; ++i) {
    auto ends = ipc::pair();
    const int fds[] = {ends->second.get()};  // ends->second stays open here
    link_->send_body(Type::link_add, ipc::LinkAdd{3, 1, 256}, fds);
    ASSERT_EQ(::send(ends->first.get(), "no message", 10, MSG_NOSIGNAL), 10);
    link_->send_body(Type::ping, ipc::Ping{1});
    ASSERT_TRUE(wait_for(Type::pong));
    (void)::send(ends->first.get(), "no message", 10, MSG_NOSIGNAL);
    ends->first.reset();
    link_->send_body(Type::ping, ipc::Ping{2});
    ASSERT_TRUE(wait_for(Type::pong));
  }
}

INSTANTIATE_TEST_SUITE_P(Roles, AdoptedProcess, testing::Values(Role::worker, Role::broker),
                         [](const auto& which) { return which.param == Role::worker ? "Worker" : "Broker"; });

}  // namespace
}  // namespace ebb
