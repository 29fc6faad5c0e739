// What a handed-over connection costs: offer and TAKE over a real socket pair, both sides in one thread, and the parts.
#include <benchmark/benchmark.h>
#include <fcntl.h>

#include <vector>

#include "ipc/channel.h"
#include "ipc/offer_book.h"
#include "ipc/offer_intake.h"
#include "ipc/replay_table.h"

namespace {

using namespace ebb;
using namespace ebb::ipc;

struct Host : OfferHost {
  std::optional<PortalKey> portal_of(LinkId, const OfferRecord&) override { return 1; }
  Choice choose(PortalKey, const OfferRecord&, ConstSpan) override { return Choice::take(0); }
  void release(std::uint64_t) override {}
  void own(OwnedOffer) override { ++owned; }
  std::uint64_t owned = 0;
};

/// Items: connections. Range 0: how many one wake-up accepts. Range 1: bytes of blob each carries.
void handoff(benchmark::State& state) {
  auto ends = ipc::pair();
  Channel worker(std::move(ends->first), Link::handoff, Role::worker, Role::broker);
  Channel broker(std::move(ends->second), Link::handoff, Role::broker, Role::worker);
  Host host;
  OfferIntake intake({}, host);
  OfferBook book({.generation = 1, .worker = 1}, [](const OfferRecord&, OfferOutcome, Fd) {});
  const LinkId link = intake.add_link(broker, 1);
  book.add_link(1, worker, kDefaultCredits);
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const TimePoint now{};
  for (auto _ : state) {
    for (std::int64_t i = 0; i < state.range(0); ++i) {
      OfferRecord record;
      Fd fd(::fcntl(null.get(), F_DUPFD_CLOEXEC, 0));
      Bytes blob(static_cast<std::size_t>(state.range(1)));
      book.add(record, fd, blob);
    }
    book.flush(now);
    while (broker.on_readable([&](Message& m) { intake.on_message(link, m, now); }) == ReadEnd::busy) {
    }
    while (worker.on_readable([&](Message& m) { book.on_message(1, m, now); }) == ReadEnd::busy) {
    }
  }
  if (book.size() != 0) state.SkipWithError("offers were left over");
  state.SetItemsProcessed(static_cast<std::int64_t>(host.owned));
}
BENCHMARK(handoff)->Args({1, 0})->Args({8, 0})->Args({32, 0})->Args({64, 0})->Args({1, 1024})->Args({32, 1024});

/// The same system calls with nothing around them: what there is to gain.
void bare_fd_and_answer(benchmark::State& state) {
  auto ends = ipc::pair();
  Channel worker(std::move(ends->first), Link::handoff, Role::worker, Role::broker);
  Channel broker(std::move(ends->second), Link::handoff, Role::broker, Role::worker);
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  OfferRecord record;
  record.hid = 1;
  for (auto _ : state) {
    const Fd kept(::fcntl(null.get(), F_DUPFD_CLOEXEC, 0));
    const int fds[] = {kept.get()};
    worker.try_send(Type::offer, bytes_of(record), fds, 1);
    broker.on_readable([&](Message& m) { broker.try_send(Type::take, bytes_of(m.as<OfferRecord>().hid), {}, 1); });
    worker.on_readable([](Message&) {});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(bare_fd_and_answer);

void replay_insert(benchmark::State& state) {
  auto table = ReplayTable::create();
  std::array<std::uint8_t, 16> key{};
  std::uint64_t n = 0;
  for (auto _ : state) {
    std::memcpy(key.data(), &n, sizeof n);
    // A second passes every 1,000 inserts: 240,000 live entries, a quarter of the table.
    benchmark::DoNotOptimize(table->insert(ReplayKind::auth_id, key, 240, static_cast<std::uint32_t>(n++ / 1000)));
  }
  if (table->counts().full != 0) state.SkipWithError("a bucket was full");
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(replay_insert);

void judge_an_offer(benchmark::State& state) {
  OfferRecord record;
  record.hid = 1;
  Header header;
  header.type = static_cast<std::uint16_t>(Type::offer);
  header.nfds = header.nrec = 1;
  header.seq = 1;
  header.body_len = sizeof record;
  const Direction direction(Link::handoff, Role::worker);
  for (auto _ : state) benchmark::DoNotOptimize(direction.check(header, bytes_of(record)));
}
BENCHMARK(judge_an_offer);

}  // namespace
