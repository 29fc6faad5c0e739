// Brokers as processes of their own, a worker's Edge here, and what is lost when one takes over from the other:
// nothing. The test plays the supervisor, the bridge and the visitors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <list>
#include <set>

#include "common/base/json_writer.h"
#include "common/config/canonical.h"
#include "common/crypto/hash.h"
#include "common/reverse/bridge_tunnel.h"
#include "ipc/memfd.h"
#include "tests/support/turns.h"
#include "worker/broker/broker_main.h"
#include "worker/edge/edge.h"

namespace ebb {
namespace {

using namespace std::chrono_literals;
using test::run_until;

const IpAddress kLoopback = IpAddress::from_v4({127, 0, 0, 1});
constexpr std::uint32_t kWorker = 7;

struct Listener {
  Listener() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(fd.get(), generic, length) != 0 || ::listen(fd.get(), 256) != 0) std::abort();
    ::getsockname(fd.get(), generic, &length);
    port = ntohs(address.sin_port);
  }
  Fd fd;
  std::uint16_t port = 0;
};

Fd connect_to(std::uint16_t port) {
  Fd out(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage storage{};
  const unsigned length = endpoint_to({kLoopback, port}, storage);
  if (::connect(out.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) std::abort();
  const int on = 1;
  ::ioctl(out.get(), FIONBIO, &on);
  return out;
}

/// Bytes in both directions over a socket without blocking.
struct Pipe {
  explicit Pipe(std::uint16_t port) : fd(connect_to(port)) {}
  /// What has arrived.
  Bytes read() {
    Bytes out(64 * 1024);
    const ssize_t n = ::recv(fd.get(), out.data(), out.size(), 0);
    if (n == 0) ended = true;
    if (n < 0 && errno != EAGAIN) reset = true;
    out.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return out;
  }
  void write(ConstSpan bytes) { unsent.insert(unsent.end(), bytes.begin(), bytes.end()); }
  void flush() {
    const ssize_t n = unsent.empty() ? 0 : ::send(fd.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
    if (n > 0) unsent.erase(unsent.begin(), unsent.begin() + n);
  }
  Fd fd;
  Bytes unsent;
  bool ended = false;
  bool reset = false;
};

/// A bridge with an echo for an origin. A stock one knows nothing of hellos and looks at its tunnels every `tick`.
class Bridge {
 public:
  Bridge(std::uint16_t port, bool stock, Duration tick) : port_(port), stock_(stock), tick_(tick) {}

  void turn() {
    const TimePoint now = Clock::now();
    for (auto at = tunnels_.begin(); at != tunnels_.end();) {
      at = one(*at, now) ? std::next(at) : tunnels_.erase(at);
    }
    if (now < next_) return;
    next_ = now + tick_;
    const auto active = [](const Tunnel& each) { return each.plan.state() == reverse::BridgeTunnel::State::active; };
    if (std::ranges::none_of(tunnels_, active)) tunnels_.emplace_back(port_, stock_);
  }
  std::size_t tunnels() const { return tunnels_.size(); }
  std::size_t lost_streams = 0;  // open when their tunnel ended

 private:
  struct Tunnel final : mux::SessionEvents {
    Tunnel(std::uint16_t port, bool stock)
        : pipe(port), plan({.domain = "t.reverse", .answer_hello = !stock}, Clock::now()) {}
    void on_open(StreamId, const Target&, ConstSpan) override {}
    void on_data(StreamId stream, void*, ConstSpan piece) override {
      Bytes frame(mux::kKeepHead);
      mux::write_keep_head(frame, stream, piece.size());
      frame.insert(frame.end(), piece.begin(), piece.end());
      pipe.write(frame);
    }
    void on_end(StreamId, void*, bool) override {}
    void on_fin(StreamId stream, void*) override {  // the origin has nothing more to say either
      Bytes frame(mux::kEndFrame);
      mux::write_fin(frame, stream);
      pipe.write(frame);
      plan.fin_sent(stream, Clock::now());
    }
    Pipe pipe;
    reverse::BridgeTunnel plan;
  };
  bool one(Tunnel& tunnel, TimePoint now) {
    for (Bytes in = tunnel.pipe.read(); !in.empty(); in = tunnel.pipe.read()) {
      EXPECT_TRUE(tunnel.plan.feed(in, now, tunnel));
      tunnel.pipe.write(tunnel.plan.take_output());
    }
    tunnel.plan.tick(now);
    tunnel.pipe.write(tunnel.plan.take_output());
    tunnel.pipe.flush();
    if (!tunnel.pipe.ended && !tunnel.pipe.reset) return true;
    lost_streams += tunnel.plan.user_streams();
    return false;
  }

  std::uint16_t port_;
  bool stock_;
  Duration tick_;
  TimePoint next_{};
  std::list<Tunnel> tunnels_;
};

/// Says something of his own, wants to hear exactly that, and leaves.
struct Visitor {
  Visitor(std::uint16_t port, std::string what, std::size_t times) : pipe(port), text(std::move(what)), rounds(times) {
    pipe.write(as_bytes(text));
  }
  /// False: it is over, for good or ill.
  bool turn() {
    pipe.flush();
    const Bytes in = pipe.read();
    heard += as_text(in);
    if (pipe.ended || pipe.reset || heard.size() > text.size()) return false;
    if (heard.size() < text.size()) return true;
    good = heard == text;
    heard.clear();
    if (!good || --rounds == 0) return false;
    pipe.write(as_bytes(text));
    return true;
  }
  Pipe pipe;
  std::string text, heard;
  std::size_t rounds;  // still to go
  bool good = false;
};

/// A broker process and the supervisor's end of its ctl.
class BrokerProcess {
 public:
  BrokerProcess(std::uint64_t gen, const std::string& snapshot) : gen_(gen) {
    auto ends = ipc::pair();
    Fd log(::memfd_create("log", MFD_CLOEXEC));
    log_ = Fd(::fcntl(log.get(), F_DUPFD_CLOEXEC, 0));
    pid_ = ::fork();
    if (pid_ == 0) child(std::move(ends->second));
    ctl_.emplace(std::move(ends->first), ipc::Link::ctl, ipc::Role::supervisor, ipc::Role::broker);
    ipc::Hello hello;
    hello.role = ipc::Role::supervisor;
    hello.gen = gen;
    ctl_->send_body(ipc::Type::hello, hello);
    const int log_fd = log.get();
    ctl_->send_body(ipc::Type::logfd, ipc::LogFd{ipc::LogKind::error, 0}, std::span(&log_fd, 1));
    ipc::Config config;
    config.gen = 1;
    config.len = snapshot.size();
    config.sha256 = crypto::sha256({as_bytes(snapshot)});
    const Fd sealed = *ipc::make_sealed("snapshot", as_bytes(snapshot));
    const int fd = sealed.get();
    ctl_->send_body(ipc::Type::config, config, std::span(&fd, 1));
  }
  BrokerProcess(const BrokerProcess&) = delete;
  BrokerProcess& operator=(const BrokerProcess&) = delete;
  ~BrokerProcess() {
    if (pid_ <= 0 || exit_status) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void turn() {
    while (ctl_->on_readable([this](ipc::Message& m) {
      if (m.type() == ipc::Type::ready) ready = true;
      if (m.type() == ipc::Type::drained) drained.push_back(m.as<ipc::Drained>());
      if (m.type() == ipc::Type::answer) answer = as_text(m.body);
    }) == ipc::ReadEnd::busy) {
    }
    int status = 0;
    if (!exit_status && ::waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
  }
  void link(edge::Edge& edge) {
    auto ends = ipc::pair();
    const int fd = ends->second.get();
    ctl_->send_body(ipc::Type::link_add, ipc::LinkAdd{gen_, kWorker, 64}, std::span(&fd, 1));
    edge.handoff().add_link({gen_, kWorker, 64}, std::move(ends->first), 1);
  }
  void start() { ctl_->send_body(ipc::Type::start, ipc::Gen{gen_}); }
  void state(ipc::BrokerPhase phase) { ctl_->send_body(ipc::Type::broker_state, ipc::BrokerState{gen_, phase, 0}); }
  void drain(std::uint64_t ms) { ctl_->send_body(ipc::Type::drain, ipc::Drain{ms, 0, 0}); }
  void ask(std::string_view query) {
    answer.reset();
    ctl_->send_long_text(ipc::Type::query, query);
  }
  std::string log() const {
    std::string out(1 << 20, '\0');
    const ssize_t n = ::pread(log_.get(), out.data(), out.size(), 0);
    out.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return out;
  }
  std::uint64_t gen() const { return gen_; }

  bool ready = false;
  std::vector<ipc::Drained> drained;
  std::optional<std::string> answer;
  std::optional<int> exit_status;

 private:
  [[noreturn]] static void child(Fd ctl) {
    ::dup2(ctl.release(), 3);
    ::close_range(4, ~0U, 0);  // the test's sockets must end when the test ends them
    ::_exit(broker::run_broker(Fd(3)));
  }

  std::uint64_t gen_;
  pid_t pid_ = -1;
  Fd log_;
  std::optional<ipc::Channel> ctl_;
};

config::Config make_config() {
  config::Config out;
  out.log.level = config::LogLevel::info;
  out.log.error_on = true;
  out.inbounds.resize(2);
  out.inbounds[0].tag = "public";
  out.inbounds[0].protocol = config::DokodemoInbound{std::string("service"), 80, 0};
  out.inbounds[1].tag = "tunnel";  // whoever comes here comes as a bridge
  out.inbounds[1].protocol = config::DokodemoInbound{std::string("t.reverse"), 80, 0};
  for (std::uint16_t i = 0; i < out.inbounds.size(); ++i) {
    out.inbounds[i].listen = kLoopback;
    out.inbounds[i].ports = {{static_cast<std::uint16_t>(i + 1), static_cast<std::uint16_t>(i + 1)}};  // not looked at
  }
  config::Portal portal;
  portal.tag = "portal";
  portal.domain = "t.reverse";
  out.portals.push_back(portal);
  return out;
}

class TwoBrokers : public testing::Test {
 protected:
  TwoBrokers() : config(make_config()) {}
  void SetUp() override {
    const auto snapshot = config::canonical_json(config, config::Secrets::keep);
    ASSERT_TRUE(config::parse_canonical(snapshot)) << snapshot;
    brokers.push_back(std::make_unique<BrokerProcess>(1, snapshot));
    edge = std::move(edge::Edge::make(loop, config, std::nullopt).value());
    for (std::size_t i = 0; i < slots.size(); ++i) {
      ipc::SlotGrant grant;
      grant.slot = static_cast<std::uint32_t>(i);
      grant.inbound = static_cast<std::uint16_t>(i);
      edge->listeners().add(grant, Fd(::dup(slots[i].fd.get())));
    }
    edge->start();
    begin(*brokers[0]);
  }
  /// Up to the moment from which tunnels go to it.
  void begin(BrokerProcess& broker) {
    ASSERT_TRUE(until([&] { return broker.ready || broker.exit_status; }) && broker.ready)
        << broker.exit_status.value_or(-1) << broker.log();
    broker.link(*edge);
    broker.start();
    edge->handoff().on_broker_state({broker.gen(), ipc::BrokerPhase::active, 0});
  }
  BrokerProcess& successor() {
    const auto snapshot = config::canonical_json(config, config::Secrets::keep);
    brokers.push_back(std::make_unique<BrokerProcess>(brokers.size() + 1, snapshot));
    return *brokers.back();
  }
  /// One step of everything that is not in the loop.
  void turn() {
    for (auto& each : brokers) each->turn();
    for (auto& each : bridges) each.turn();
    for (auto at = visitors.begin(); at != visitors.end();) {
      if (at->turn()) {
        ++at;
        continue;
      }
      (at->good && at->rounds == 0 ? served : failed) += 1;
      at = visitors.erase(at);
    }
    while (visitors.size() < load) visit(1);
    pass_on_what_moved();
  }
  /// As the supervisor does: the newest one is asked, and its answer passed on to all the others.
  void pass_on_what_moved() {
    if (brokers.size() < 2 || !passing_on || Clock::now() < next_ask) return;
    BrokerProcess& newest = *brokers.back();
    if (newest.answer) {
      const auto from = newest.answer->find('[');
      const auto list = newest.answer->substr(from, newest.answer->rfind(']') - from + 1);
      for (auto& each : brokers) {
        if (each.get() != &newest && !each->exit_status) each->ask(R"({"query":"moved","portals":)" + list + "}");
      }
    }
    newest.ask(R"({"query":"live"})");
    next_ask = Clock::now() + 20ms;
  }
  void visit(std::size_t rounds) {
    visitors.emplace_back(slots[0].port, "visitor " + std::to_string(++last_visitor), rounds);
  }
  template <class Predicate>
  bool until(Predicate holds, Duration limit = 20s) {
    return run_until(loop, [&] { return turn(), holds(); }, limit);
  }

  config::Config config;
  net::UvLoop loop;
  std::array<Listener, 2> slots;
  std::vector<std::unique_ptr<BrokerProcess>> brokers;
  std::unique_ptr<edge::Edge> edge;
  std::list<Bridge> bridges;
  std::list<Visitor> visitors;
  std::size_t load = 0;  // visitors at any time
  std::size_t served = 0, failed = 0;
  std::size_t last_visitor = 0;
  bool passing_on = true;
  TimePoint next_ask{};
};

TEST_F(TwoBrokers, TakeOverAgainAndAgainWithoutALoss) {
  bridges.emplace_back(slots[1].port, false, 10ms);
  ASSERT_TRUE(until([&] { return bridges.back().tunnels() > 0; }));
  load = 8;
  ASSERT_TRUE(until([&] { return served > 50; }));
  for (int round = 0; round < 4; ++round) {
    BrokerProcess& old = *brokers.back();
    BrokerProcess& fresh = successor();
    begin(fresh);
    old.state(ipc::BrokerPhase::draining);
    ASSERT_TRUE(until([&] { return old.exit_status.has_value(); })) << old.log();
    EXPECT_EQ(old.exit_status, 0);
    ASSERT_EQ(old.drained.size(), 1u);
    EXPECT_EQ(old.drained[0].left_conns + old.drained[0].left_unacked, 0u);
    const std::size_t before = served;
    ASSERT_TRUE(until([&] { return served > before + 20; }));
  }
  load = 0;
  ASSERT_TRUE(until([&] { return visitors.empty(); }));
  EXPECT_EQ(failed, 0u);
  EXPECT_EQ(bridges.back().lost_streams, 0u);
}

/// Known to be stock, or the probe would take ten seconds to find out.
struct StockBridge : TwoBrokers {
  StockBridge() { config.portals[0].dialect = config::Dialect::v2ray; }
};

TEST_F(StockBridge, MovesAtItsNextLookAndALongVisitorStays) {
  bridges.emplace_back(slots[1].port, true, 500ms);
  ASSERT_TRUE(until([&] { return bridges.back().tunnels() > 0; }));
  visit(1'000'000);
  load = 4;
  ASSERT_TRUE(until([&] { return served > 20; }));
  BrokerProcess& old = *brokers.back();
  begin(successor());
  old.state(ipc::BrokerPhase::draining);
  ASSERT_TRUE(until([&] { return bridges.back().tunnels() == 2; })) << old.log();
  const std::size_t before = served;
  ASSERT_TRUE(until([&] { return served > before + 50; }));
  EXPECT_FALSE(until([&] { return old.exit_status.has_value(); }, 300ms)) << "it carries the long visitor";
  visitors.front().rounds = 1;
  ASSERT_TRUE(until([&] { return old.exit_status.has_value(); })) << old.log();
  EXPECT_EQ(old.exit_status, 0);
  load = 0;
  ASSERT_TRUE(until([&] { return visitors.empty(); }));
  EXPECT_EQ(failed, 0u);
  EXPECT_EQ(bridges.back().lost_streams, 0u);
}

TEST_F(TwoBrokers, GoBackToTheOldOneWhenItsSuccessorDies) {
  bridges.emplace_back(slots[1].port, false, 10ms);
  ASSERT_TRUE(until([&] { return bridges.back().tunnels() > 0; }));
  load = 4;
  ASSERT_TRUE(until([&] { return served > 20; }));
  BrokerProcess& old = *brokers.back();
  BrokerProcess& fresh = successor();
  ASSERT_TRUE(until([&] { return fresh.ready; }));
  passing_on = false;
  old.state(ipc::BrokerPhase::draining);
  ASSERT_FALSE(until([&] { return old.exit_status.has_value(); }, 100ms)) << "nothing has moved";
  brokers.pop_back();  // killed before it was linked
  old.state(ipc::BrokerPhase::active);
  edge->handoff().on_broker_state({old.gen(), ipc::BrokerPhase::active, 0});
  const std::size_t before = served;
  ASSERT_TRUE(until([&] { return served > before + 50; }));
  load = 0;
  ASSERT_TRUE(until([&] { return visitors.empty(); }));
  EXPECT_EQ(failed, 0u);
  EXPECT_FALSE(until([&] { return old.exit_status.has_value(); }, 200ms));
  old.ask(R"({"query":"live"})");
  ASSERT_TRUE(until([&] { return old.answer.has_value(); }));
  EXPECT_EQ(*old.answer, R"({"live":["portal t.reverse"]})");
}

TEST_F(StockBridge, AreAskedByJson) {
  bridges.emplace_back(slots[1].port, true, 10ms);
  BrokerProcess& broker = *brokers.back();
  const auto answer = [&](std::string_view query) {
    broker.ask(query);
    EXPECT_TRUE(until([&] { return broker.answer.has_value(); })) << query;
    return broker.answer.value_or("");
  };
  ASSERT_TRUE(until([&] { return answer(R"({"query":"live"})") == R"({"live":["portal t.reverse"]})"; }));
  EXPECT_TRUE(answer("no JSON at all").starts_with(R"({"connections":)"));
  EXPECT_TRUE(answer(R"({"query":"what"})").starts_with(R"({"connections":)"));
  EXPECT_TRUE(answer(R"({"query":"kick"})").starts_with(R"({"error":)"));
  EXPECT_EQ(answer(R"({"query":"moved","portals":[]})"), "{}");
  EXPECT_EQ(answer(R"({"query":"kick","tunnel":1})"), R"({"tunnels":0,"visitors":0})");
  EXPECT_EQ(answer(R"({"query":"drain","tunnel":1000001})"), R"({"tunnels":1,"visitors":0})")
      << "the first of broker 1";
  EXPECT_EQ(answer(R"({"query":"kick","tunnel":1000001})"), R"({"tunnels":1,"visitors":0})");
  EXPECT_EQ(answer(R"({"query":"kick","user":"nobody@home"})"), R"({"tunnels":0,"visitors":0})");
}

struct SlowToMove : StockBridge {
  SlowToMove() { config.settings.timers.broker_move = config::Millis(100); }
};

TEST_F(SlowToMove, AreWarnedOfOnceAndServedOn) {
  bridges.emplace_back(slots[1].port, true, 24h);  // never looks at its tunnels again
  ASSERT_TRUE(until([&] { return bridges.back().tunnels() > 0; }));
  load = 2;
  ASSERT_TRUE(until([&] { return served > 10; }));
  BrokerProcess& old = *brokers.back();
  begin(successor());
  old.state(ipc::BrokerPhase::draining);
  const auto warnings = [&] {
    std::size_t out = 0;
    const std::string log = old.log();
    for (auto at = log.find("no bridge has dialled"); at != log.npos; at = log.find("no bridge has dialled", at + 1))
      ++out;
    return out;
  };
  ASSERT_TRUE(until([&] { return warnings() > 0; }));
  const std::size_t before = served;
  EXPECT_FALSE(until([&] { return old.exit_status.has_value(); }, 500ms));
  EXPECT_GT(served, before);
  EXPECT_EQ(warnings(), 1u);
  load = 0;
  ASSERT_TRUE(until([&] { return visitors.empty(); }));
  EXPECT_EQ(failed, 0u);
  old.drain(5000);
  EXPECT_TRUE(until([&] { return old.exit_status.has_value(); })) << "DRAIN is final and cuts tunnels";
}

struct NarrowTunnels : StockBridge {
  NarrowTunnels() { config.settings.limits.max_streams_per_tunnel = 1; }
};

TEST_F(NarrowTunnels, TakeNoMoreVisitorsThanThereIsRoomFor) {
  bridges.emplace_back(slots[1].port, true, 10ms);
  ASSERT_TRUE(until([&] { return bridges.back().tunnels() > 0; }));
  visit(1);
  ASSERT_TRUE(until([&] { return visitors.empty(); }));
  for (int i = 0; i < 8; ++i) visit(1);  // offered in one message
  ASSERT_TRUE(until([&] { return visitors.empty(); }));
  EXPECT_EQ(served, 9u) << "one after the other";
  EXPECT_EQ(failed, 0u);
}

}  // namespace
}  // namespace ebb
