#include "ipc/offer_intake.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/unit/ipc/fake_link.h"

namespace ebb::ipc {
namespace {

using namespace std::chrono_literals;
using test::FakeLink;
using test::make_message;
using test::open_null;

struct FakeHost : OfferHost {
  std::optional<PortalKey> portal_of(LinkId, const OfferRecord& r) override {
    if (r.portal == 404) return std::nullopt;
    return r.portal + 1000u;
  }
  Choice choose(PortalKey portal, const OfferRecord& r, ConstSpan) override {
    ++asked;
    if (r.inbound == 13) return Choice::refuse(RefuseReason::bad_state);
    int& free = room[portal];
    if (r.role == OfferRole::visitor && free == 0) return Choice::park();
    if (r.role == OfferRole::visitor) --free;
    return Choice::take(portal);
  }
  void release(std::uint64_t ticket) override {
    ++room[static_cast<PortalKey>(ticket)];
    ++released;
  }
  void own(OwnedOffer offer) override {
    EXPECT_TRUE(offer.fd);
    if (on_own) on_own();
    owned.push_back(std::move(offer));
  }
  std::map<PortalKey, int> room;
  std::vector<OwnedOffer> owned;
  std::function<void()> on_own;
  int asked = 0, released = 0;
};

class OfferIntakeTest : public testing::Test {
 protected:
  static OfferRecord record(std::uint32_t n, std::uint16_t portal = 1, OfferRole role = OfferRole::visitor) {
    OfferRecord r;
    r.hid = make_hid(3, 4, n);
    r.portal = portal;
    r.role = role;
    return r;
  }
  FaultCode offer(std::vector<OfferRecord> records, Bytes blob = {}, bool fds_lost = false) {
    auto m = make_message(Type::offer, std::span<const OfferRecord>(records));
    m.storage.insert(m.storage.end(), blob.begin(), blob.end());
    m.message.body = m.storage;
    m.message.fds_lost = fds_lost;
    if (!fds_lost) {
      for (std::size_t i = 0; i < records.size(); ++i) m.message.fds.push_back(open_null());
    }
    return intake.on_message(link, m.message, now);
  }
  void recall(std::vector<Hid> hids) {
    auto m = make_message(Type::recall, std::span<const Hid>(hids));
    EXPECT_EQ(intake.on_message(link, m.message, now), FaultCode::none);
  }
  std::vector<std::uint32_t> numbers(Type type) {
    std::vector<std::uint32_t> out;
    const Message* m = out_link.next(type);
    if (m == nullptr) return out;
    if (type == Type::refuse) {
      for (const Refusal& r : m->records<Refusal>()) out.push_back(static_cast<std::uint32_t>(r.hid));
    } else {
      for (Hid hid : m->records<Hid>()) out.push_back(static_cast<std::uint32_t>(hid));
    }
    return out;
  }
  RefuseReason refused(std::uint32_t n) {
    const Message* m = out_link.next(Type::refuse);
    EXPECT_NE(m, nullptr);
    if (m == nullptr) return {};
    EXPECT_EQ(static_cast<std::uint32_t>(m->as<Refusal>().hid), n);
    return m->as<Refusal>().reason;
  }
  std::uint32_t window() {
    const Message* m = out_link.next(Type::credit);
    return m == nullptr ? 0xFFFF : m->as<Credit>().window;
  }
  using Numbers = std::vector<std::uint32_t>;

  TimePoint now{1h};
  FakeHost host;
  OfferIntake intake{{.max_parked_per_portal = 5, .max_pending = 8, .max_blob_bytes = 100}, host};
  FakeLink out_link{Role::broker};
  LinkId link = intake.add_link(out_link, 4);
};

TEST_F(OfferIntakeTest, TakesBeforeItOwns) {
  host.room[1001] = 2;
  bool told = false;
  host.on_own = [&] { told = !out_link.queue.empty() && out_link.queue[0]->message.type() == Type::take; };
  EXPECT_EQ(offer({record(1), record(2)}), FaultCode::none);
  EXPECT_TRUE(told);
  EXPECT_EQ(numbers(Type::take), (Numbers{1, 2}));
  ASSERT_EQ(host.owned.size(), 2u);
  EXPECT_EQ(host.owned[0].portal, 1001u);
  EXPECT_EQ(intake.pending(), 0u);
  EXPECT_EQ(intake.counts().taken, 2u);
  EXPECT_TRUE(out_link.queue.empty());  // no CREDIT: nothing was parked
}

TEST_F(OfferIntakeTest, ParksUntilATunnelIsThereOldestFirst) {
  offer({record(1), record(2), record(3, 2)});
  EXPECT_EQ(window(), kDefaultCredits + 3);
  EXPECT_EQ(intake.parked(1001), 2u);
  now += 1s;
  host.room[1001] = 1;
  intake.portal_up(1001, now);
  EXPECT_EQ(numbers(Type::take), (Numbers{1}));
  EXPECT_EQ(host.owned[0].waited, 1s);
  EXPECT_EQ(window(), kDefaultCredits + 2);
  host.room[1001] = 5;
  intake.portal_up(1001, now);
  EXPECT_EQ(numbers(Type::take), (Numbers{2}));
  intake.portal_up(7, now);
  EXPECT_EQ(intake.pending(), 1u);
}

TEST_F(OfferIntakeTest, KeepsTheBlobOfAParkedOffer) {
  OfferRecord r = record(1);
  r.blob_len = 3;
  offer({r}, {1, 2, 3});
  host.room[1001] = 1;
  intake.portal_up(1001, now);
  EXPECT_EQ(host.owned.at(0).blob, (Bytes{1, 2, 3}));
}

TEST_F(OfferIntakeTest, AsksUntilTheFirstThatMustWait) {
  offer({record(1), record(2), record(3)});
  host.asked = 0;
  intake.portal_up(1001, now);
  EXPECT_EQ(host.asked, 1);
}

TEST_F(OfferIntakeTest, RefusesAfterTheTunnelWait) {
  offer({record(1)});
  EXPECT_EQ(intake.next_deadline(), now + 5s);
  now += 2s;
  offer({record(2)});
  now += 3s;
  intake.on_deadline(now);
  EXPECT_EQ(refused(1), RefuseReason::no_portal);
  EXPECT_EQ(intake.pending(), 1u);
  EXPECT_EQ(window(), kDefaultCredits + 1);
  EXPECT_EQ(intake.next_deadline(), now + 2s);
}

TEST_F(OfferIntakeTest, BoundsWhatIsParked) {
  for (std::uint32_t i = 1; i <= 5; ++i) offer({record(i)});
  EXPECT_EQ(out_link.next(Type::refuse), nullptr);
  offer({record(6)});
  EXPECT_EQ(refused(6), RefuseReason::overload);
  offer({record(7, 2), record(8, 2), record(9, 2), record(10, 2)});  // other portals still have room, up to 8 in all
  EXPECT_EQ(refused(10), RefuseReason::overload);
  EXPECT_EQ(intake.pending(), 8u);
}

TEST_F(OfferIntakeTest, BoundsTheBytesOfBlobs) {
  OfferRecord r = record(1);
  r.blob_len = 60;
  offer({r}, Bytes(60));
  r = record(2);
  r.blob_len = 60;
  offer({r}, Bytes(60));
  EXPECT_EQ(refused(2), RefuseReason::overload);
}

TEST_F(OfferIntakeTest, RefusesAllOfAMessageThatLostItsFds) {
  host.room[1001] = 2;
  EXPECT_EQ(offer({record(1), record(2)}, {}, true), FaultCode::none);
  const Message* m = out_link.next(Type::refuse);
  ASSERT_NE(m, nullptr);
  for (const Refusal& r : m->records<Refusal>()) EXPECT_EQ(r.reason, RefuseReason::ctrunc);
  EXPECT_EQ(m->header.nrec, 2);
  EXPECT_TRUE(host.owned.empty());
  EXPECT_EQ(offer({record(1)}), FaultCode::none);  // again, with its fd
  EXPECT_EQ(numbers(Type::take), (Numbers{1}));
}

TEST_F(OfferIntakeTest, RefusesWhatTheHostRefuses) {
  OfferRecord bad = record(1);
  bad.inbound = 13;
  offer({bad});
  EXPECT_EQ(refused(1), RefuseReason::bad_state);
  offer({record(2, 404)});
  EXPECT_EQ(refused(2), RefuseReason::no_portal);
}

TEST_F(OfferIntakeTest, RecallsWhatIsParkedAndIgnoresWhatIsGone) {
  offer({record(1)});
  host.room[1002] = 1;
  offer({record(2, 2)});
  EXPECT_EQ(numbers(Type::take), (Numbers{2}));
  recall({make_hid(3, 4, 1), make_hid(3, 4, 2), make_hid(3, 4, 77)});  // 2 was taken: TAKE crosses the RECALL
  EXPECT_EQ(numbers(Type::recalled), (Numbers{1}));
  EXPECT_EQ(intake.pending(), 0u);
  host.room[1001] = 1;
  intake.portal_up(1001, now);
  EXPECT_EQ(host.owned.size(), 1u);
  EXPECT_EQ(offer({record(1)}), FaultCode::none);  // a recalled one may come back
  EXPECT_EQ(host.owned.size(), 2u);
}

TEST_F(OfferIntakeTest, DoesNotTouchWhatItCannotTell) {
  out_link.full = true;
  host.room[1001] = 1;
  offer({record(1)});
  EXPECT_TRUE(host.owned.empty());
  EXPECT_EQ(host.released, 1);
  EXPECT_EQ(host.room[1001], 1);
  EXPECT_EQ(intake.next_deadline(), now + 5ms);
  now += 6s;  // chosen, only not told: tunnelWait does not end it
  intake.on_deadline(now);
  EXPECT_EQ(intake.pending(), 1u);
  EXPECT_TRUE(host.owned.empty());
  out_link.full = false;
  intake.on_writable(link, now);
  EXPECT_EQ(host.owned.size(), 1u);
  EXPECT_EQ(numbers(Type::take), (Numbers{1}));
}

TEST_F(OfferIntakeTest, TriesAgainAfterAWhileToo) {
  out_link.full = true;
  host.room[1001] = 1;
  offer({record(1)});
  out_link.full = false;
  now += 5ms;
  intake.on_deadline(now);
  EXPECT_EQ(host.owned.size(), 1u);
}

TEST_F(OfferIntakeTest, ADeadWorkersOffersAreServed) {
  offer({record(1), record(2)});
  out_link.full = true;
  host.room[1001] = 1;
  intake.portal_up(1001, now);
  EXPECT_TRUE(host.owned.empty());
  intake.on_link_eof(link, now);
  EXPECT_EQ(host.owned.size(), 1u);  // nobody left to tell
  host.room[1001] = 1;
  intake.portal_up(1001, now);
  EXPECT_EQ(host.owned.size(), 2u);
  EXPECT_EQ(intake.pending(), 0u);
  EXPECT_EQ(intake.next_deadline(), std::nullopt);
  EXPECT_EQ(offer({record(3)}), FaultCode::unexpected);
}

TEST_F(OfferIntakeTest, AClosedEndMeansTheWorkerIsDead) {
  out_link.dead = true;
  host.room[1001] = 1;
  offer({record(1)});
  EXPECT_EQ(host.owned.size(), 1u);
}

TEST_F(OfferIntakeTest, ADeadWorkersOfferStillTimesOut) {
  offer({record(1)});
  intake.on_link_eof(link, now);
  now += 5s;
  intake.on_deadline(now);
  EXPECT_EQ(intake.pending(), 0u);
  EXPECT_TRUE(host.owned.empty());
}

TEST_F(OfferIntakeTest, AFaultGivesEverythingBackUntouched) {
  offer({record(1)});
  EXPECT_EQ(offer({record(1)}), FaultCode::unexpected);  // the same hid twice
  intake.on_link_fault(link);
  host.room[1001] = 9;
  intake.portal_up(1001, now);
  EXPECT_TRUE(host.owned.empty());
  EXPECT_EQ(intake.pending(), 0u);
}

TEST_F(OfferIntakeTest, AWorkerSpeaksOnlyForItself) {
  OfferRecord foreign = record(1);
  foreign.hid = make_hid(3, 5, 1);
  EXPECT_EQ(offer({foreign}), FaultCode::unexpected);
}

TEST_F(OfferIntakeTest, GoingAwayRefusesWhatWouldWait) {
  offer({record(1)});
  intake.go_away(9, now);
  EXPECT_EQ(refused(1), RefuseReason::draining);
  host.room[1001] = 1;
  offer({record(2)});  // a drained tunnel still carries new streams
  EXPECT_EQ(host.owned.size(), 1u);
  offer({record(3)});
  EXPECT_EQ(refused(3), RefuseReason::draining);
  FakeLink late(Role::broker);
  intake.add_link(late, 5);
  EXPECT_NE(late.next(Type::goaway), nullptr);
}

TEST_F(OfferIntakeTest, TheWindowCanBeShut) {
  offer({record(1)});
  EXPECT_EQ(window(), kDefaultCredits + 1);
  intake.set_window(0, now);
  EXPECT_EQ(window(), 0u);
  intake.set_window(16, now);
  EXPECT_EQ(window(), 17u);
}

TEST_F(OfferIntakeTest, TellsTunnelsAtAPace) {
  const auto live = [&] {
    std::vector<TunnelCount> all;
    while (const Message* m = out_link.next(Type::tunnels)) {
      for (const TunnelCount& c : m->records<TunnelCount>()) all.push_back(c);
    }
    return all;
  };
  intake.set_tunnels(link, 1, 1, 0, now);
  EXPECT_EQ(live().size(), 1u);
  intake.set_tunnels(link, 1, 1, 0, now);  // no change
  EXPECT_EQ(intake.next_deadline(), std::nullopt);
  intake.set_tunnels(link, 1, 2, 7, now);
  intake.set_tunnels(link, 2, 1, 0, now);
  EXPECT_TRUE(live().empty());
  EXPECT_EQ(intake.next_deadline(), now + 100ms);
  now += 100ms;
  intake.on_deadline(now);
  const auto both = live();
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].live, 2);
  EXPECT_EQ(both[0].streams, 7u);
  now += 100ms;
  for (std::uint16_t p = 0; p < 300; ++p) intake.set_tunnels(link, p, 3, 0, now);
  EXPECT_EQ(live().size(), 1u);  // the first at once, the rest with the next message
  now += 100ms;
  intake.on_deadline(now);
  EXPECT_EQ(live().size(), 299u);  // in two messages
}

TEST_F(OfferIntakeTest, AFloodOfAnswersNobodyReadsIsAFault) {
  out_link.full = true;
  host.room[1001] = 1;
  offer({record(1)});  // now the link is known to be full
  FaultCode code = FaultCode::none;
  std::uint32_t n = 2;
  for (; n < 100'000 && code == FaultCode::none; ++n) code = offer({record(n, 404)});
  EXPECT_EQ(code, FaultCode::bad_count);
  EXPECT_LT(n, 70'000u);
}

}  // namespace
}  // namespace ebb::ipc
