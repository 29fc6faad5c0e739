#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "ipc/memfd.h"
#include "ipc/replay_table.h"

namespace ebb::ipc {

/// Plays the halves of insert() by hand.
struct ReplayTableProbe {
  ReplayTable& table;
  ReplayTable::Place place = table.locate(ReplayKind::session, as_bytes("x"));
  ReplayVerdict claim(std::uint32_t now, std::size_t& index) { return ReplayTable::claim(place, 100, now, index); }
  ReplayVerdict settle(std::uint32_t now, std::size_t index) { return ReplayTable::settle(place, now, index); }
  void set(std::size_t index, std::uint64_t cell) { place.bucket[index] = cell; }
  std::uint64_t foreign(std::uint64_t n, std::uint32_t expiry) const { return (place.fingerprint ^ n) << 26 | expiry; }
  std::uint64_t equal_claim(std::uint32_t expiry) const { return foreign(0, expiry); }
};

namespace {

Bytes key(std::uint64_t n) {
  Bytes bytes(16);
  std::memcpy(bytes.data(), &n, sizeof n);
  return bytes;
}

TEST(Memfd, SealedOnesCannotBeChanged) {
  const auto fd = make_sealed("test", as_bytes("hello"));
  ASSERT_TRUE(fd);
  EXPECT_EQ(*read_sealed(fd->get(), 5), "hello");
  EXPECT_EQ(read_sealed(fd->get(), 4).error().code, Errc::protocol);
  EXPECT_EQ(::ftruncate(fd->get(), 1), -1);
  EXPECT_EQ(::pwrite(fd->get(), "x", 1, 0), -1);
  EXPECT_EQ(map_shared(fd->get()).error().code, Errc::os);  // not writable
  const auto mapping = map_sealed(fd->get());
  EXPECT_EQ(as_text(mapping->bytes()), "hello");
  EXPECT_EQ(*read_sealed(make_sealed("empty", {})->get(), 0), "");
}

TEST(Memfd, RefusesFilesWithoutSeals) {
  const Fd plain(::memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(plain.get(), 8192), 0);
  EXPECT_EQ(read_sealed(plain.get(), 8192).error().code, Errc::protocol);
  EXPECT_EQ(map_shared(plain.get()).error().code, Errc::protocol);
  const auto shared = make_shared("shared", 8192);
  EXPECT_EQ(map_sealed(shared->get()).error().code, Errc::protocol);  // others may write it
  EXPECT_TRUE(map_shared(shared->get()));
  EXPECT_EQ(::ftruncate(shared->get(), 0), -1);
  EXPECT_FALSE(map_sealed(-1));
}

TEST(ReplayTable, RemembersUntilExpiry) {
  auto table = ReplayTable::create(1024);
  ASSERT_TRUE(table) << table.error().what;
  EXPECT_EQ(table->insert(ReplayKind::auth_id, key(1), 240, 1000), ReplayVerdict::fresh);
  EXPECT_EQ(table->insert(ReplayKind::session, key(1), 180, 1000), ReplayVerdict::fresh);  // another kind
  EXPECT_EQ(table->insert(ReplayKind::auth_id, key(1), 240, 1239), ReplayVerdict::replay);
  EXPECT_TRUE(table->contains(ReplayKind::auth_id, key(1), 1239));
  EXPECT_FALSE(table->contains(ReplayKind::auth_id, key(1), 1240));
  EXPECT_FALSE(table->contains(ReplayKind::taint, key(1), 1000));
  EXPECT_EQ(table->insert(ReplayKind::auth_id, key(1), 240, 1240), ReplayVerdict::fresh);
  EXPECT_EQ(table->counts().fresh, 3u);
  EXPECT_EQ(table->counts().replays, 1u);
}

TEST(ReplayTable, SurvivesTheWrapOfItsClock) {
  auto table = ReplayTable::create(1024);
  const std::uint32_t wrap = 1u << 24;
  EXPECT_EQ(table->insert(ReplayKind::auth_id, key(1), 240, wrap - 10), ReplayVerdict::fresh);
  EXPECT_EQ(table->insert(ReplayKind::auth_id, key(1), 240, wrap + 229), ReplayVerdict::replay);
  EXPECT_EQ(table->insert(ReplayKind::auth_id, key(1), 240, wrap + 230), ReplayVerdict::fresh);
}

TEST(ReplayTable, RefusesWhenFullAndNeverForgetsEarly) {
  auto table = ReplayTable::create(32);  // one bucket
  std::uint64_t n = 0;
  while (table->insert(ReplayKind::session, key(n), 180, 50) == ReplayVerdict::fresh) ++n;
  EXPECT_EQ(n, 32u);
  EXPECT_EQ(table->counts().full, 1u);
  for (std::uint64_t i = 0; i < n; ++i) {
    EXPECT_EQ(table->insert(ReplayKind::session, key(i), 180, 229), ReplayVerdict::replay);
  }
  EXPECT_EQ(table->insert(ReplayKind::session, key(99), 180, 230), ReplayVerdict::fresh);
}

TEST(ReplayTable, AttachesOnlyToATable) {
  auto table = ReplayTable::create(64);
  ASSERT_TRUE(table);
  auto other = ReplayTable::attach(Fd(::dup(table->fd())));
  ASSERT_TRUE(other);
  EXPECT_EQ(table->insert(ReplayKind::taint, key(5), 100, 1), ReplayVerdict::fresh);
  EXPECT_TRUE(other->contains(ReplayKind::taint, key(5), 1));
  EXPECT_FALSE(ReplayTable::attach(Fd(::open("/dev/null", O_RDWR))));
  auto blank = make_shared("blank", 4096 + 64 * 8);
  EXPECT_EQ(ReplayTable::attach(std::move(*blank)).error().code, Errc::protocol);
  EXPECT_FALSE(ReplayTable::create(31));
}

/// Two claims of the same bytes, a tick apart: one sees cell 3 as taken, the other as expired, so they land on 5 and 3.
TEST(ReplayTable, ClocksATickApartNeverAcceptTwice) {
  for (const bool settle_high_first : {true, false}) {
    auto table = ReplayTable::create(32);
    ReplayTableProbe probe{*table};
    for (std::size_t i = 0; i < 5; ++i) probe.set(i, probe.foreign(i + 1, i == 3 ? 1001 : 1100));
    std::size_t high = 0, low = 0;
    ASSERT_EQ(probe.claim(1000, high), ReplayVerdict::fresh);
    ASSERT_EQ(high, 5u);
    const std::size_t saved = high;
    // The other one scanned before that claim; with its clock a tick ahead it picks cell 3.
    probe.set(5, 0);
    ASSERT_EQ(probe.claim(1001, low), ReplayVerdict::fresh);
    ASSERT_EQ(low, 3u);
    probe.set(saved, probe.equal_claim(1100));
    ReplayVerdict a, b;
    if (settle_high_first) {
      a = probe.settle(1000, high);
      b = probe.settle(1001, low);
    } else {
      b = probe.settle(1001, low);
      a = probe.settle(1000, high);
    }
    EXPECT_EQ((a == ReplayVerdict::fresh) + (b == ReplayVerdict::fresh), 1) << settle_high_first;
  }
}

/// The higher one settles before the lower one claims: here "look only below you" would accept both.
TEST(ReplayTable, AConfirmedHigherEntryBeatsALateLowerOne) {
  auto table = ReplayTable::create(32);
  ReplayTableProbe probe{*table};
  probe.set(0, probe.foreign(1, 1001));
  std::size_t high = 0;
  ASSERT_EQ(probe.claim(1000, high), ReplayVerdict::fresh);
  ASSERT_EQ(high, 1u);
  ASSERT_EQ(probe.settle(1000, high), ReplayVerdict::fresh);
  probe.set(0, probe.equal_claim(1101));  // the late one's claim, made from a scan of before
  EXPECT_EQ(probe.settle(1001, 0), ReplayVerdict::replay);
}

TEST(ReplayTable, AKilledClaimIsRemembered) {
  auto table = ReplayTable::create(32);
  ReplayTableProbe probe{*table};
  std::size_t index = 0;
  ASSERT_EQ(probe.claim(1000, index), ReplayVerdict::fresh);  // and its process dies here
  EXPECT_EQ(table->insert(ReplayKind::session, as_bytes("x"), 100, 1001), ReplayVerdict::replay);
  EXPECT_EQ(table->insert(ReplayKind::session, as_bytes("x"), 100, 1100), ReplayVerdict::fresh);
}

TEST(ReplayTable, OfTwoThreadsExactlyOneAccepts) {
  constexpr std::uint64_t kKeys = 20'000;
  auto table = ReplayTable::create(1 << 16);
  std::vector<std::atomic<int>> accepted(kKeys);
  std::atomic<int> at_start = 0;
  const auto run = [&](std::uint32_t skew) {
    auto mine = ReplayTable::attach(Fd(::dup(table->fd())));
    ++at_start;
    while (at_start < 2) {
    }
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      accepted[i] += mine->insert(ReplayKind::auth_id, key(i), 240, 100 + skew) == ReplayVerdict::fresh;
    }
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  for (std::uint64_t i = 0; i < kKeys; ++i) ASSERT_EQ(accepted[i], 1) << i;
}

TEST(ReplayTable, OfTwoProcessesExactlyOneAccepts) {
  constexpr std::uint64_t kKeys = 20'000;
  auto table = ReplayTable::create(1 << 16);
  auto results = map_shared(make_shared("results", kKeys + sizeof(std::atomic<int>))->get());
  auto* at_start = new (results->data()) std::atomic<int>(0);
  auto* accepted = static_cast<std::atomic<std::uint8_t>*>(results->data()) + sizeof(std::atomic<int>);
  const auto run = [&] {
    auto mine = ReplayTable::attach(Fd(::dup(table->fd())));
    ++*at_start;
    while (*at_start < 2) std::this_thread::yield();
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      accepted[i] += mine->insert(ReplayKind::session, key(i), 180, 100) == ReplayVerdict::fresh;
    }
  };
  const pid_t pid = ::fork();
  if (pid == 0) {
    run();
    ::_exit(0);
  }
  run();
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_EQ(status, 0);
  for (std::uint64_t i = 0; i < kKeys; ++i) ASSERT_EQ(accepted[i], 1) << i;
  EXPECT_EQ(table->counts().fresh, kKeys);
  EXPECT_EQ(table->counts().replays, kKeys);
}

}  // namespace
}  // namespace ebb::ipc
