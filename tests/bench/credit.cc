// What credit costs per frame: a frame counted on arrival, taken by its consumer, credit returned and spent again.
#include "common/reverse/credit.h"

#include <benchmark/benchmark.h>

#include <deque>

namespace {

using namespace ebb;

void credit_per_frame(benchmark::State& state) {
  reverse::WindowBudget budget;
  budget.set_rtt(std::chrono::milliseconds(1));
  std::deque<reverse::ReceiveWindow> windows;
  std::deque<reverse::SendCredit> senders;
  for (int i = 0; i < state.range(0); ++i) {
    windows.emplace_back(budget);
    senders.emplace_back(budget.announced());
  }
  constexpr std::uint64_t kFrame = 8192;
  TimePoint now(std::chrono::seconds(1));
  std::size_t i = 0;
  for (auto _ : state) {
    i = i + 1 < windows.size() ? i + 1 : 0;
    senders[i].spend(kFrame);
    if (!windows[i].received(kFrame)) state.SkipWithError("overrun");
    if (const auto add = windows[i].consumed(kFrame, now += std::chrono::microseconds(8)); add > 0) senders[i].add(add);
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()));
}
BENCHMARK(credit_per_frame)->Arg(1)->Arg(100)->Arg(10000);

}  // namespace
