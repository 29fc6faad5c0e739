#include "ipc/offer_book.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/ipc/fake_link.h"

namespace ebb::ipc {
namespace {

using namespace std::chrono_literals;
using test::FakeLink;
using test::make_message;
using test::open_null;

class OfferBookTest : public testing::Test {
 protected:
  struct End {
    Hid hid;
    OfferOutcome outcome;
    bool has_fd;
  };

  Hid add(OfferRole role = OfferRole::visitor, std::uint16_t portal = 1, std::size_t blob_bytes = 0) {
    OfferRecord record;
    record.role = role;
    record.portal = portal;
    Fd fd = open_null();
    Bytes blob(blob_bytes, 7);
    const auto hid = book.add(record, fd, blob);
    EXPECT_TRUE(hid);
    EXPECT_FALSE(fd);
    return hid.value_or(0);
  }
  std::vector<Hid> offered(FakeLink& link) {
    std::vector<Hid> hids;
    while (Message* m = link.next(Type::offer)) {
      for (const OfferRecord& r : m->records<OfferRecord>()) hids.push_back(r.hid);
      EXPECT_EQ(m->fds.size(), m->header.nrec);
    }
    return hids;
  }
  std::vector<Hid> recalled(FakeLink& link) {
    const Message* m = link.next(Type::recall);
    return m == nullptr ? std::vector<Hid>{} : m->records<Hid>();
  }
  FaultCode hids(std::uint64_t gen, Type type, std::vector<Hid> list) {
    const auto m = make_message(type, std::span<const Hid>(list));
    return book.on_message(gen, m.message, now);
  }
  FaultCode refuse(std::uint64_t gen, Hid hid, RefuseReason reason) {
    const Refusal refusal{hid, reason, 0};
    return book.on_message(gen, make_message(Type::refuse, std::span(&refusal, 1)).message, now);
  }
  void tunnels(std::uint64_t gen, std::uint16_t portal, std::uint16_t live) {
    const TunnelCount count{portal, live, 0};
    EXPECT_EQ(book.on_message(gen, make_message(Type::tunnels, std::span(&count, 1)).message, now), FaultCode::none);
  }
  void credit(std::uint64_t gen, std::uint32_t window) {
    const Credit body{window, 0};
    auto m = make_message(Type::credit, std::span(&body, 1));
    m.message.header.nrec = 0;
    EXPECT_EQ(book.on_message(gen, m.message, now), FaultCode::none);
  }
  void goaway(std::uint64_t gen) {
    const Gen body{gen};
    EXPECT_EQ(book.on_message(gen, make_message(Type::goaway, std::span(&body, 1)).message, now), FaultCode::none);
  }
  void flush(Duration later = 0ms) {
    now += later;
    book.flush(now);
  }

  TimePoint now{1h};
  std::vector<End> ends;
  OfferBook book{{.generation = 3, .worker = 4},
                 [this](const OfferRecord& r, OfferOutcome o, Fd fd) { ends.push_back({r.hid, o, bool(fd)}); }};
  FakeLink old_link{Role::worker}, new_link{Role::worker};
};

TEST_F(OfferBookTest, OffersKeepsAndForgetsAtTake) {
  book.add_link(1, old_link, 256);
  const Hid hid = add();
  EXPECT_EQ(worker_of(hid), 4);
  EXPECT_EQ(hid >> 48, 3u);
  EXPECT_EQ(book.state(hid), OfferState::held);
  flush();
  EXPECT_EQ(offered(old_link), std::vector{hid});
  EXPECT_EQ(book.state(hid), OfferState::offered);
  EXPECT_EQ(hids(1, Type::take, {hid}), FaultCode::none);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].outcome, OfferOutcome::taken);
  EXPECT_FALSE(ends[0].has_fd);
  EXPECT_EQ(book.size(), 0u);
  EXPECT_EQ(hids(1, Type::take, {hid}), FaultCode::unexpected);
}

TEST_F(OfferBookTest, OffersAtOnceUnlessOthersWait) {
  const auto offer = [&] {
    OfferRecord record;
    record.role = OfferRole::visitor;
    record.portal = 1;
    Fd fd = open_null();
    Bytes blob;
    const auto hid = book.offer(record, fd, blob, now);
    EXPECT_TRUE(hid);
    EXPECT_FALSE(fd);
    return hid.value_or(0);
  };
  const Hid early = offer();  // no link yet
  EXPECT_EQ(book.state(early), OfferState::held);
  book.add_link(1, old_link, 3);
  const Hid behind = offer();
  EXPECT_EQ(offered(old_link), (std::vector{early, behind}));  // in the order in which they came
  const Hid at_once = offer();
  EXPECT_EQ(offered(old_link), std::vector{at_once});
  EXPECT_EQ(book.state(at_once), OfferState::offered);
  EXPECT_EQ(book.unacked(), 3u);
  const Hid no_room = offer();
  EXPECT_EQ(book.state(no_room), OfferState::held);
  EXPECT_EQ(hids(1, Type::take, {early, behind, at_once}), FaultCode::none);
  flush();
  EXPECT_EQ(offered(old_link), std::vector{no_room});
  book.on_link_eof(1, now);  // what was sent at once comes back like any other
  EXPECT_EQ(book.state(no_room), OfferState::held);
}

TEST_F(OfferBookTest, BatchesUpTo32AndSendsBlobsAlone) {
  book.add_link(1, old_link, 256);
  std::vector<Hid> all;
  for (int i = 0; i < 40; ++i) all.push_back(add(OfferRole::visitor, 1, i == 10 ? 100 : 0));
  flush();
  std::vector<std::size_t> sizes;
  for (const auto& m : old_link.queue) sizes.push_back(m->message.header.nrec);
  EXPECT_EQ(sizes, (std::vector<std::size_t>{10, 1, 29}));
  EXPECT_EQ(old_link.queue[1]->storage.size(), sizeof(OfferRecord) + 100);
  EXPECT_EQ(offered(old_link), all);  // in order
}

TEST_F(OfferBookTest, NeverExceedsTheWindow) {
  book.add_link(1, old_link, 3);
  std::vector<Hid> all;
  for (int i = 0; i < 8; ++i) all.push_back(add());
  flush();
  EXPECT_EQ(offered(old_link).size(), 3u);
  EXPECT_FALSE(book.accepting());
  EXPECT_EQ(hids(1, Type::take, {all[0], all[1]}), FaultCode::none);
  flush();
  EXPECT_EQ(offered(old_link), (std::vector{all[3], all[4]}));
  credit(1, 5);  // two parked: the window grows by them
  flush();
  EXPECT_EQ(offered(old_link).size(), 2u);
  credit(1, 0);
  EXPECT_EQ(hids(1, Type::take, {all[2], all[3], all[4], all[5], all[6]}), FaultCode::none);
  flush();
  EXPECT_TRUE(offered(old_link).empty());
  EXPECT_FALSE(book.accepting());
  credit(1, 2);
  EXPECT_TRUE(book.accepting());
  flush();
  EXPECT_EQ(offered(old_link), std::vector{all[7]});
}

TEST_F(OfferBookTest, WhatIsHeldUsesUpRoomBeforeItIsSent) {
  book.add_link(1, old_link, 3);
  std::vector<Hid> all;
  for (int i = 0; i < 2; ++i) all.push_back(add());
  EXPECT_TRUE(book.accepting());
  all.push_back(add());
  EXPECT_FALSE(book.accepting());  // a fourth could not be offered
  flush();
  EXPECT_FALSE(book.accepting());
  all.push_back(add());  // it was under way already, through a handshake
  flush();
  EXPECT_EQ(hids(1, Type::take, {all[0]}), FaultCode::none);
  EXPECT_FALSE(book.accepting());  // that place is the fourth's
  flush();
  EXPECT_EQ(hids(1, Type::take, {all[1]}), FaultCode::none);
  EXPECT_TRUE(book.accepting());
}

TEST_F(OfferBookTest, WhatNobodyCanHaveKeepsNobodyWaiting) {
  book.add_link(1, old_link, 2);
  goaway(1);
  tunnels(1, 1, 1);
  for (int i = 0; i < 3; ++i) add(OfferRole::visitor, 2);  // only portal 1 has a tunnel at the broker that leaves
  flush();
  EXPECT_EQ(book.held(), 3u);
  EXPECT_TRUE(book.accepting());
}

TEST_F(OfferBookTest, ReoffersAfterTheEndOfTheLinkWithTheRetryFlag) {
  book.add_link(1, old_link, 256);
  const Hid a = add(), b = add();
  flush();
  offered(old_link);
  EXPECT_EQ(hids(1, Type::take, {a}), FaultCode::none);
  book.on_link_eof(1, now);
  EXPECT_EQ(book.state(b), OfferState::held);
  EXPECT_FALSE(book.accepting());
  book.add_link(2, new_link, 256);
  flush();
  Message* m = new_link.next(Type::offer);
  ASSERT_NE(m, nullptr);
  const auto record = m->as<OfferRecord>();
  EXPECT_EQ(record.hid, b);
  EXPECT_EQ(record.flags, offer_flags::retry);
  EXPECT_EQ(ends.size(), 1u);  // only a
}

TEST_F(OfferBookTest, ABrokenBrokerLosesWhatItWasOffered) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  tunnels(1, 1, 1);
  const Hid a = add(), b = add(OfferRole::tunnel);
  flush();
  EXPECT_EQ(book.on_message(1, make_message(Type::take, std::span<const Hid>(&b, 1)).message, now),
            FaultCode::unexpected);  // offered to the other one
  book.on_link_fault(1);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].hid, a);
  EXPECT_EQ(ends[0].outcome, OfferOutcome::link_fault);
  EXPECT_FALSE(ends[0].has_fd);
  EXPECT_EQ(book.state(b), OfferState::offered);
}

TEST_F(OfferBookTest, AnotherLinkToTheSameBrokerTakesTheFaultedOnesPlace) {
  book.add_link(1, old_link, 2);
  const Hid a = add(), b = add(), c = add();
  flush();
  EXPECT_EQ(offered(old_link), (std::vector{a, b}));  // c had no credit
  book.on_link_fault(1);
  ASSERT_EQ(ends.size(), 2u);  // nobody knows who owns them
  EXPECT_FALSE(book.accepting());
  EXPECT_TRUE(book.add_link(1, new_link, 2));
  EXPECT_TRUE(book.accepting());
  flush();
  EXPECT_EQ(offered(new_link), std::vector{c});
  EXPECT_EQ(hids(1, Type::take, {c}), FaultCode::none);
  EXPECT_EQ(hids(1, Type::take, {a}), FaultCode::unexpected);  // the dead link's hids are unknown here
}

TEST_F(OfferBookTest, WhatAFaultedLinkDidNotGetGoesToABrokerOfAnyGeneration) {
  book.add_link(2, old_link, 1);
  const Hid a = add(), b = add();
  flush();
  EXPECT_EQ(offered(old_link), std::vector{a});
  book.on_link_fault(2);
  book.add_link(1, new_link, 256);  // an older one
  flush();
  EXPECT_EQ(offered(new_link), std::vector{b});
}

TEST_F(OfferBookTest, TunnelsGoToTheNewestVisitorsToWhereTheTunnelsAre) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  book.on_broker_state(1, BrokerPhase::active);
  tunnels(1, 1, 2);
  const Hid tunnel = add(OfferRole::tunnel), visitor = add(), elsewhere = add(OfferRole::visitor, 9);
  flush();
  EXPECT_EQ(offered(old_link), std::vector{visitor});
  EXPECT_EQ(offered(new_link), (std::vector{tunnel, elsewhere}));  // nobody has portal 9: the newest parks it
  tunnels(2, 1, 1);
  const Hid later = add();
  flush();
  EXPECT_EQ(offered(new_link), std::vector{later});
  EXPECT_TRUE(recalled(old_link).empty());  // never by age alone
}

TEST_F(OfferBookTest, DrainingBrokersGetNoTunnels) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  book.on_broker_state(2, BrokerPhase::draining);
  const Hid tunnel = add(OfferRole::tunnel);
  flush();
  EXPECT_EQ(offered(old_link), std::vector{tunnel});
  book.on_broker_state(1, BrokerPhase::draining);
  const Hid nowhere = add(OfferRole::tunnel);
  flush();
  EXPECT_EQ(book.state(nowhere), OfferState::held);
  book.on_broker_state(1, BrokerPhase::active);
  flush();
  EXPECT_EQ(offered(old_link), std::vector{nowhere});
}

TEST_F(OfferBookTest, GoawayMeansOnlyWhenNobodyElseHasATunnel) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  tunnels(1, 1, 1);
  goaway(1);
  const Hid a = add();
  flush();
  EXPECT_EQ(offered(old_link), std::vector{a});  // nobody else has one
  tunnels(2, 1, 1);
  const Hid b = add();
  flush();
  EXPECT_EQ(offered(new_link), std::vector{b});
  tunnels(2, 1, 0);
  tunnels(1, 1, 0);
  const Hid c = add();
  flush();
  EXPECT_EQ(offered(new_link), std::vector{c});  // to be parked: not at one that leaves
}

TEST_F(OfferBookTest, RecallsWhatWaitsAtTheWrongBroker) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  const Hid hid = add();
  flush();
  EXPECT_EQ(offered(new_link), std::vector{hid});
  tunnels(1, 1, 1);
  EXPECT_EQ(recalled(new_link), std::vector{hid});
  EXPECT_EQ(book.state(hid), OfferState::recalling);
  tunnels(1, 1, 1);
  EXPECT_TRUE(recalled(new_link).empty());  // once
  flush();
  EXPECT_TRUE(offered(old_link).empty());  // not before the answer
  EXPECT_EQ(hids(2, Type::recalled, {hid}), FaultCode::none);
  flush();
  EXPECT_EQ(offered(old_link), std::vector{hid});
}

TEST_F(OfferBookTest, ATakeMayCrossTheRecall) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  const Hid hid = add();
  flush();
  tunnels(1, 1, 1);
  EXPECT_EQ(recalled(new_link), std::vector{hid});
  EXPECT_EQ(hids(2, Type::take, {hid}), FaultCode::none);
  EXPECT_EQ(ends.at(0).outcome, OfferOutcome::taken);
  flush();
  EXPECT_TRUE(offered(old_link).empty());
  EXPECT_EQ(hids(2, Type::recalled, {hid}), FaultCode::unexpected);
}

TEST_F(OfferBookTest, ARecallMayEndWithTheLink) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  const Hid hid = add();
  flush();
  tunnels(1, 1, 1);
  offered(old_link);
  book.on_link_eof(2, now);
  EXPECT_EQ(offered(old_link), std::vector{hid});
}

TEST_F(OfferBookTest, RecalledWithoutRecallIsAFault) {
  book.add_link(1, old_link, 256);
  const Hid hid = add();
  flush();
  EXPECT_EQ(hids(1, Type::recalled, {hid}), FaultCode::unexpected);
  EXPECT_EQ(hids(1, Type::take, {hid + 1}), FaultCode::unexpected);
  EXPECT_EQ(refuse(1, hid + 1, RefuseReason::overload), FaultCode::unexpected);
}

TEST_F(OfferBookTest, ARefusalForDrainingGoesToAnotherBrokerOnly) {
  book.add_link(1, old_link, 256);
  const Hid hid = add(), tunnel = add(OfferRole::tunnel);
  flush();
  offered(old_link);
  EXPECT_EQ(refuse(1, hid, RefuseReason::draining), FaultCode::none);
  EXPECT_EQ(refuse(1, tunnel, RefuseReason::draining), FaultCode::none);
  flush();
  EXPECT_TRUE(offered(old_link).empty());  // no ping-pong
  EXPECT_EQ(book.state(hid), OfferState::held);
  book.add_link(2, new_link, 256);
  flush();
  EXPECT_EQ(offered(new_link), (std::vector{hid, tunnel}));
}

TEST_F(OfferBookTest, LostFdsAreOfferedAgainAfterAWhile) {
  book.add_link(1, old_link, 256);
  const Hid hid = add();
  flush();
  offered(old_link);
  for (Duration wait : {5ms, 10ms, 20ms}) {
    EXPECT_EQ(refuse(1, hid, RefuseReason::ctrunc), FaultCode::none);
    flush();
    EXPECT_TRUE(offered(old_link).empty());
    EXPECT_EQ(book.next_deadline(), now + wait);
    flush(wait - 1ms);
    EXPECT_TRUE(offered(old_link).empty());
    now += 1ms;
    book.on_deadline(now);
    EXPECT_EQ(offered(old_link), std::vector{hid});
  }
}

TEST_F(OfferBookTest, FinalRefusalsGiveTheFdBack) {
  book.add_link(1, old_link, 256);
  const Hid a = add(), b = add(), c = add();
  flush();
  EXPECT_EQ(refuse(1, a, RefuseReason::no_portal), FaultCode::none);
  EXPECT_EQ(refuse(1, b, RefuseReason::overload), FaultCode::none);
  EXPECT_EQ(refuse(1, c, RefuseReason::bad_state), FaultCode::none);
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[0].outcome, OfferOutcome::no_portal);
  EXPECT_EQ(ends[1].outcome, OfferOutcome::overload);
  EXPECT_EQ(ends[2].outcome, OfferOutcome::bad_state);
  for (const End& e : ends) EXPECT_TRUE(e.has_fd);
  EXPECT_EQ(book.size(), 0u);
}

TEST_F(OfferBookTest, GivesUpOnlyAfter30SecondsWithoutAnyBroker) {
  const Hid first = add();
  flush();
  EXPECT_EQ(book.next_deadline(), now + 30s);
  flush(20s);
  book.add_link(1, old_link, 0);  // there is one again, though without credit: the clock stands
  flush();
  EXPECT_EQ(book.next_deadline(), std::nullopt);
  flush(1h);
  EXPECT_EQ(book.state(first), OfferState::held);
  book.on_link_eof(1, now);
  flush(29s);
  EXPECT_TRUE(ends.empty());
  flush(1s);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].outcome, OfferOutcome::gave_up);
  EXPECT_TRUE(ends[0].has_fd);
  EXPECT_EQ(book.next_deadline(), std::nullopt);
}

TEST_F(OfferBookTest, WaitsForALinkWithoutRoom) {
  book.add_link(1, old_link, 256);
  old_link.full = true;
  const Hid a = add(), b = add();
  flush();
  EXPECT_EQ(book.held(), 2u);
  EXPECT_FALSE(book.accepting());
  EXPECT_EQ(book.next_deadline(), now + 5ms);
  old_link.full = false;
  flush();
  EXPECT_TRUE(offered(old_link).empty());  // neither writable nor due
  book.on_writable(1);
  flush();
  EXPECT_EQ(offered(old_link), (std::vector{a, b}));

  old_link.full = true;
  const Hid c = add();
  flush();
  old_link.full = false;
  flush(5ms);  // too many fds in flight: the socket does not say when that is over
  EXPECT_EQ(offered(old_link), std::vector{c});
}

TEST_F(OfferBookTest, TurnsToAnotherBrokerWhenALinkIsDead) {
  book.add_link(1, old_link, 256);
  book.add_link(2, new_link, 256);
  new_link.dead = true;
  const Hid hid = add();
  flush();
  EXPECT_EQ(offered(old_link), std::vector{hid});
  book.on_link_eof(2, now);
  EXPECT_TRUE(offered(old_link).empty());
}

TEST_F(OfferBookTest, IsBoundedAndLeavesWhatItRefusesAlone) {
  OfferBook small({.max_offers = 2, .max_blob_bytes = 10}, [](const OfferRecord&, OfferOutcome, Fd) {});
  const auto try_add = [&](std::size_t blob_bytes, auto change) {
    OfferRecord record;
    change(record);
    Fd fd = open_null();
    Bytes blob(blob_bytes);
    const bool added = small.add(record, fd, blob).has_value();
    EXPECT_EQ(static_cast<bool>(fd), !added);
    EXPECT_EQ(blob.size(), added ? 0 : blob_bytes);
    return added;
  };
  EXPECT_FALSE(try_add(11, [](OfferRecord&) {}));
  EXPECT_FALSE(try_add(0, [](OfferRecord& r) { r.role = OfferRole(7); }));
  EXPECT_TRUE(try_add(10, [](OfferRecord&) {}));
  EXPECT_TRUE(try_add(0, [](OfferRecord&) {}));
  EXPECT_FALSE(try_add(0, [](OfferRecord&) {}));
}

TEST_F(OfferBookTest, TheCallbackMayOfferAgain) {
  book.add_link(1, old_link, 256);
  Hid second = 0;
  OfferBook again({}, [&](const OfferRecord& r, OfferOutcome, Fd fd) {
    Bytes none;
    if (second == 0) second = again.add(r, fd, none).value_or(0);
  });
  again.add_link(1, new_link, 256);
  OfferRecord record;
  Fd fd = open_null();
  Bytes none;
  const Hid first = *again.add(record, fd, none);
  again.flush(now);
  const Refusal refusal{first, RefuseReason::no_portal, 0};
  EXPECT_EQ(again.on_message(1, make_message(Type::refuse, std::span(&refusal, 1)).message, now), FaultCode::none);
  again.flush(now);
  EXPECT_EQ(offered(new_link), (std::vector{first, second}));
}

TEST_F(OfferBookTest, OneLinkPerBroker) {
  EXPECT_TRUE(book.add_link(1, old_link, 1));
  EXPECT_FALSE(book.add_link(1, new_link, 1));
  book.send_goaway();
  EXPECT_NE(old_link.next(Type::goaway), nullptr);
}

}  // namespace
}  // namespace ebb::ipc
