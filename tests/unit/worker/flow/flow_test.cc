#include "worker/flow/flow.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/manual_loop.h"

namespace ebb::flow {
namespace {

using namespace std::chrono_literals;
using test::ManualLoop;

/// What an end was told, outside of it: ends go with their flows.
struct Told {
  std::vector<std::string> datagrams;
  std::vector<std::string> addresses;
  int closed = 0;
  bool takes = true;
  std::function<void()> on_close = nullptr;
};

class TestEnd final : public DatagramEnd {
 public:
  explicit TestEnd(std::shared_ptr<Told> told) : kept_(std::move(told)), told_(*kept_) {}
  bool send(ConstSpan datagram, const Target* address) override {
    if (!told_.takes) return false;
    told_.datagrams.emplace_back(as_text(datagram));
    told_.addresses.push_back(address != nullptr ? address->text() : "");
    return true;
  }
  void close() override {
    ++told_.closed;
    if (told_.on_close) told_.on_close();
  }
  void say(std::string_view text, const Target* address = nullptr) {
    flow_->on_datagram(*this, as_bytes(text), address);
  }
  void finish() { flow_->on_end(*this); }
  void open_further() { flow_->added_socket(); }

 private:
  std::shared_ptr<Told> kept_;  // a flow may outlive the test's own pair
  Told& told_;
};

struct Pair {
  explicit Pair(Flows& flows) {
    auto from = std::make_unique<TestEnd>(client_kept);
    auto to = std::make_unique<TestEnd>(origin_kept);
    client = from.get();
    origin = to.get();
    flows.start(std::move(from), std::move(to));
  }
  std::shared_ptr<Told> client_kept = std::make_shared<Told>(), origin_kept = std::make_shared<Told>();
  Told& client_told = *client_kept;
  Told& origin_told = *origin_kept;
  TestEnd* client;
  TestEnd* origin;
};

TEST(Flow, CarriesDatagramsAndTheirAddressesBothWays) {
  ManualLoop loop;
  Flows flows(loop);
  Pair pair(flows);
  const Target address{Network::udp, IpAddress::from_v4({203, 0, 113, 9}), 53};
  pair.client->say("question");
  pair.origin->say("answer", &address);
  pair.origin->say("");
  EXPECT_EQ(pair.origin_told.datagrams, std::vector<std::string>{"question"});
  EXPECT_EQ(pair.client_told.datagrams, (std::vector<std::string>{"answer", ""}));
  EXPECT_EQ(pair.client_told.addresses, (std::vector<std::string>{"udp:203.0.113.9:53", ""}));
  EXPECT_EQ(flows.counters().datagrams, 3u);
  EXPECT_EQ(flows.counters().dropped, 0u);
}

TEST(Flow, CountsWhatAnEndCannotSend) {
  ManualLoop loop;
  Flows flows(loop);
  Pair pair(flows);
  pair.origin_told.takes = false;
  pair.client->say("lost");
  pair.client->say("lost");
  flows.count_dropped();
  EXPECT_EQ(flows.counters().dropped, 3u);
}

TEST(Flow, EndsWithEitherEndAndIsDestroyedLater) {
  ManualLoop loop;
  Flows flows(loop);
  Pair pair(flows);
  pair.origin->finish();
  EXPECT_EQ(pair.client_told.closed, 1);
  EXPECT_EQ(pair.origin_told.closed, 1);
  EXPECT_EQ(flows.size(), 0u);
  pair.client->say("into nothing");  // still there until the end of the wake-up
  pair.client->finish();
  EXPECT_TRUE(pair.origin_told.datagrams.empty());
  EXPECT_EQ(pair.client_told.closed, 1);
  loop.settle();
}

TEST(Flow, EndsAfterTheIdleTimeAndNotBefore) {
  ManualLoop loop;
  Flows flows(loop);
  flows.set_idle(120s);
  Pair quiet(flows);
  loop.advance(60s);
  Pair other(flows);
  loop.advance(59s);
  EXPECT_EQ(flows.size(), 2u);
  other.origin->say("an answer counts, too");
  loop.advance(4s);  // at most a 64th late
  EXPECT_EQ(flows.size(), 1u);
  EXPECT_EQ(quiet.client_told.closed, 1);
  loop.advance(115s);
  EXPECT_EQ(flows.size(), 1u);
  loop.advance(4s);
  EXPECT_EQ(flows.size(), 0u);
  EXPECT_EQ(flows.counters().idle, 2u);
  Pair fresh(flows);  // the timer is armed again
  loop.advance(125s);
  EXPECT_EQ(flows.size(), 0u);
}

TEST(Flow, AShorterIdleTimeHoldsForThoseThereAre) {
  ManualLoop loop;
  Flows flows(loop);
  Pair pair(flows);
  loop.advance(30s);
  flows.set_idle(20s);
  EXPECT_EQ(flows.size(), 0u);
}

TEST(Flow, AFullTableLosesTheOneThatWasQuietForLongest) {
  ManualLoop loop;
  Flows flows(loop, 3);
  Pair a(flows), b(flows), c(flows);
  a.client->say("not me");
  Pair d(flows);
  EXPECT_EQ(flows.size(), 3u);
  EXPECT_EQ(b.client_told.closed, 1);
  Pair e(flows);
  EXPECT_EQ(c.client_told.closed, 1);
  EXPECT_EQ(a.client_told.closed, 0);
  EXPECT_EQ(flows.counters().displaced, 2u);
  flows.set_most(1);
  Pair f(flows);
  EXPECT_EQ(flows.size(), 1u);
  f.client->say("here");
  EXPECT_EQ(f.origin_told.datagrams.size(), 1u);
}

TEST(Flow, AFurtherSocketTakesTheRoomOfAFlow) {
  ManualLoop loop;
  Flows flows(loop, 3);
  Pair a(flows), b(flows), c(flows);
  a.origin->open_further();
  EXPECT_EQ(flows.descriptors(), 3u);
  EXPECT_EQ(flows.size(), 2u);
  EXPECT_EQ(a.origin_told.closed, 0) << "the oldest, but it has just sent";
  EXPECT_EQ(b.origin_told.closed, 1);
  Pair d(flows);
  EXPECT_EQ(c.origin_told.closed, 1);
  EXPECT_EQ(flows.descriptors(), 3u);
  Pair e(flows);
  EXPECT_EQ(a.origin_told.closed, 1);
  EXPECT_EQ(flows.descriptors(), 2u) << "it leaves with both";
  flows.set_most(1);
  e.origin->open_further();
  EXPECT_EQ(d.origin_told.closed, 1);
  EXPECT_EQ(e.origin_told.closed, 0) << "nobody ends himself";
}

/// As its End kills the tunnel that both share.
TEST(Flow, KeepsNoPlaceWhenTheOneThatMakesRoomEndsIt) {
  ManualLoop loop;
  Flows flows(loop, 2);
  Pair leaves(flows), stays(flows);
  leaves.client_told.on_close = [&] { stays.client->finish(); };
  stays.origin->open_further();
  EXPECT_EQ(leaves.client_told.closed, 1);
  EXPECT_EQ(stays.client_told.closed, 1);
  EXPECT_EQ(flows.descriptors(), 0u);
}

TEST(Flow, TheLastOfTheProcessAreClosed) {
  ManualLoop loop;
  const auto client = std::make_shared<Told>(), origin = std::make_shared<Told>();
  {
    Flows flows(loop);
    flows.start(std::make_unique<TestEnd>(client), std::make_unique<TestEnd>(origin));
  }
  EXPECT_EQ(client->closed, 1);
  EXPECT_EQ(origin->closed, 1);
}

}  // namespace
}  // namespace ebb::flow
