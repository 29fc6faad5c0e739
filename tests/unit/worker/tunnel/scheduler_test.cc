#include "worker/tunnel/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace ebb::tunnel {
namespace {

constexpr std::size_t kQuantum = Scheduler::kFirstQuantum;
constexpr std::size_t kMiB = std::size_t{1} << 20;

struct Stream final : Source {
  std::uint64_t credit() const override { return credit_left; }
  std::uint64_t credit_left = kNoLimit;
  std::size_t waiting = 0;  // bytes in its socket
  std::size_t read = 0;
};

/// Reads what the grant says, as a tunnel does.
std::size_t serve(Scheduler& scheduler, std::size_t room) {
  const auto grant = scheduler.next(room);
  if (!grant) return 0;
  auto& stream = static_cast<Stream&>(*grant->source);
  const std::size_t bytes = std::min(grant->bytes, stream.waiting);
  EXPECT_GT(grant->bytes, 0u);
  EXPECT_LE(grant->bytes, room);
  EXPECT_LE(grant->bytes, stream.credit_left);
  stream.waiting -= bytes;
  stream.read += bytes;
  if (stream.credit_left != Source::kNoLimit) stream.credit_left -= bytes;
  scheduler.used(stream, bytes, stream.waiting > 0);
  return bytes;
}

void put(Scheduler& scheduler, Stream& stream, std::size_t bytes) {
  stream.waiting += bytes;
  scheduler.enter(stream);
}

TEST(Scheduler, GivesNothingToNobody) {
  Scheduler scheduler;
  EXPECT_TRUE(scheduler.idle());
  EXPECT_FALSE(scheduler.next(kMiB));
  Stream one;
  put(scheduler, one, 1);
  EXPECT_FALSE(scheduler.next(0));
  EXPECT_EQ(scheduler.ready(), 1u);
}

TEST(Scheduler, GrantsNoMoreThanCreditTurnAndRoom) {
  Scheduler scheduler;
  Stream one;
  put(scheduler, one, 100 * kMiB);
  EXPECT_EQ(scheduler.next(100)->bytes, 100u);
  EXPECT_EQ(scheduler.next(kMiB)->bytes, kQuantum);
  one.credit_left = 77;
  EXPECT_EQ(scheduler.next(kMiB)->bytes, 77u);
}

TEST(Scheduler, ClampsTheQuantum) {
  Scheduler scheduler;
  scheduler.set_quantum(1);
  EXPECT_EQ(scheduler.quantum(), Scheduler::kMinQuantum);
  scheduler.set_quantum(kMiB);
  EXPECT_EQ(scheduler.quantum(), Scheduler::kMaxQuantum);
}

TEST(Scheduler, ServesNewcomersFirst) {
  Scheduler scheduler;
  Stream bulk, small;
  put(scheduler, bulk, 100 * kMiB);
  for (int i = 0; i < 5; ++i) serve(scheduler, kMiB);
  put(scheduler, small, 500);
  EXPECT_EQ(scheduler.next(kMiB)->source, &small);
  EXPECT_EQ(serve(scheduler, kMiB), 500u);
  EXPECT_EQ(scheduler.next(kMiB)->source, &bulk);
}

TEST(Scheduler, CountsOneThatRanDryAsNewOnlyOnceARound) {
  Scheduler scheduler;
  Stream bulk, small;
  put(scheduler, bulk, 100 * kMiB);
  serve(scheduler, kMiB);
  std::size_t small_reads = 0;
  for (int i = 0; i < 1000; ++i) {  // it has something again whenever it was served
    if (small.waiting == 0) put(scheduler, small, 500);
    const auto before = small.read;
    serve(scheduler, kMiB);
    small_reads += small.read > before ? 1 : 0;
  }
  EXPECT_GE(bulk.read, 330 * kQuantum);
  EXPECT_GE(small_reads, 400u);
}

TEST(Scheduler, SharesEquallyWithinAQuantum) {
  Scheduler scheduler;
  std::deque<Stream> streams(7);
  for (Stream& s : streams) put(scheduler, s, 1000 * kMiB);
  std::minstd_rand random(1);
  for (int i = 0; i < 20000; ++i) {
    serve(scheduler, 1 + random() % (2 * kQuantum));  // however the room comes
    const auto [least, most] = std::ranges::minmax_element(streams, {}, &Stream::read);
    ASSERT_LE(most->read - least->read, kQuantum + kQuantum / 8);
  }
}

TEST(Scheduler, KeepsATurnThatRoomCutShort) {
  Scheduler scheduler;
  Stream first, second;
  put(scheduler, first, kMiB);
  put(scheduler, second, kMiB);
  EXPECT_EQ(serve(scheduler, kQuantum / 2), kQuantum / 2);
  EXPECT_EQ(scheduler.next(kMiB)->source, &first);
  EXPECT_EQ(serve(scheduler, kMiB), kQuantum / 2);
  EXPECT_EQ(scheduler.next(kMiB)->source, &second);
}

TEST(Scheduler, PutsOutWhoHasNoCreditUntilItComes) {
  Scheduler scheduler;
  Stream poor, rich;
  poor.credit_left = 100;
  put(scheduler, poor, kMiB);
  put(scheduler, rich, kMiB);
  EXPECT_EQ(serve(scheduler, kMiB), 100u);
  EXPECT_EQ(scheduler.next(kMiB)->source, &rich);
  EXPECT_EQ(scheduler.without_credit(), 1u);
  EXPECT_EQ(scheduler.ready(), 1u);
  scheduler.enter(poor);  // readable again: still no credit
  EXPECT_EQ(scheduler.without_credit(), 1u);
  poor.credit_left = 50;
  scheduler.credited(poor);
  scheduler.credited(poor);
  scheduler.credited(rich);
  EXPECT_EQ(scheduler.ready(), 2u);
  while (rich.waiting > 0 || poor.credit_left > 0) ASSERT_GT(serve(scheduler, kMiB), 0u);
  EXPECT_EQ(poor.read, 150u);
  EXPECT_TRUE(!scheduler.next(kMiB) && scheduler.idle());
}

TEST(Scheduler, LetsAnyoneLeaveAtAnyTime) {
  Scheduler scheduler;
  Stream other;
  put(scheduler, other, kMiB);
  {
    Stream gone;
    put(scheduler, gone, kMiB);
    scheduler.leave(gone);
    scheduler.leave(gone);
    EXPECT_EQ(scheduler.ready(), 1u);
    scheduler.used(gone, 10, true);
    scheduler.enter(gone);
    serve(scheduler, kMiB);
  }
  {
    Stream dry;
    put(scheduler, dry, 10);
    while (dry.waiting > 0) serve(scheduler, kMiB);
  }
  Stream poor;
  poor.credit_left = 0;
  put(scheduler, poor, 10);
  serve(scheduler, kMiB);
  scheduler.leave(poor);
  EXPECT_EQ(scheduler.without_credit(), 0u);
  EXPECT_EQ(scheduler.next(kMiB)->source, &other);
}

TEST(Scheduler, AThousandSparseSourcesDoNotStarveBulkNorItThem) {
  Scheduler scheduler;
  scheduler.set_quantum(Scheduler::kMinQuantum);
  Stream bulk;
  put(scheduler, bulk, 10000 * kMiB);
  std::deque<Stream> sparse(1000);
  std::minstd_rand random(7);
  std::map<const Source*, int> since;  // the turn at which it began to want
  int longest = 0;
  for (int turn = 0; turn < 200000; ++turn) {
    if (turn % 2 == 0) {  // every other turn brings a small request
      Stream& s = sparse[random() % sparse.size()];
      if (s.waiting == 0) since[&s] = turn;
      put(scheduler, s, 1 + random() % 1500);
    }
    const auto grant = scheduler.next(kMiB);
    if (grant && grant->source != &bulk) longest = std::max(longest, turn - since[grant->source]);
    serve(scheduler, kMiB);
  }
  EXPECT_LE(longest, 8) << "turns that a small request waited";
  EXPECT_GT(bulk.read, 90000u * Scheduler::kMinQuantum);
}

TEST(Scheduler, GivesBulkItsShareOfAThousandThatAlwaysWant) {
  Scheduler scheduler;
  scheduler.set_quantum(Scheduler::kMinQuantum);
  Stream bulk;
  put(scheduler, bulk, 10000 * kMiB);
  std::deque<Stream> greedy(1000);
  for (int round = 0; round < 100; ++round) {
    for (Stream& s : greedy)
      if (s.waiting == 0) put(scheduler, s, 100);
    for (int turn = 0; turn < 1001; ++turn) serve(scheduler, kMiB);
  }
  EXPECT_GE(bulk.read, 95 * Scheduler::kMinQuantum);
}

TEST(Scheduler, AgreesWithItsCountsOnRandomWalks) {
  for (unsigned seed = 1; seed <= 100; ++seed) {
    std::minstd_rand random(seed);
    Scheduler scheduler;
    std::vector<std::unique_ptr<Stream>> streams;
    for (int i = 0; i < 5000; ++i) {
      const auto pick = [&]() -> Stream& { return *streams[random() % streams.size()]; };
      switch (streams.empty() ? 0 : random() % 8) {
        case 0:
          if (streams.size() < 50) streams.push_back(std::make_unique<Stream>());
          if (random() % 2 == 0) streams.back()->credit_left = random() % 100000;
          break;
        case 1: put(scheduler, pick(), 1 + random() % 200000); break;
        case 2: scheduler.leave(pick()); break;
        case 3: streams.erase(streams.begin() + static_cast<std::ptrdiff_t>(random() % streams.size())); break;
        case 4:
          if (Stream& s = pick(); s.credit_left != Source::kNoLimit) {
            s.credit_left += 1000;
            scheduler.credited(s);
          }
          break;
        case 5: scheduler.set_quantum(random() % 100000); break;
        default: serve(scheduler, 1 + random() % 100000);
      }
      ASSERT_LE(scheduler.ready() + scheduler.without_credit(), streams.size());
    }
    // Whoever has bytes and credit and wants to read is served to the end.
    for (auto& s : streams)
      if (s->waiting > 0) scheduler.enter(*s);
    while (serve(scheduler, kMiB) > 0) {
    }
    for (auto& s : streams) EXPECT_TRUE(s->waiting == 0 || s->credit_left == 0);
    EXPECT_TRUE(scheduler.idle());
    streams.clear();
    EXPECT_EQ(scheduler.without_credit(), 0u);
  }
}

}  // namespace
}  // namespace ebb::tunnel
