// What a frame costs: decoding a tunnel of 8 KiB frames, many streams, small frames; writing heads.
#include <benchmark/benchmark.h>

#include <array>

#include "common/protocol/mux/session.h"

namespace {

using namespace ebb;

struct Sum : mux::SessionEvents {
  std::size_t bytes = 0;
  void on_open(StreamId, const Target&, ConstSpan) override {}
  void on_data(StreamId, void*, ConstSpan piece) override { bytes += piece.size(); }
  void on_end(StreamId, void*, bool) override {}
};

/// 256 KiB of frames of `data` bytes over `streams` streams, fed as one read.
void decode_frames(benchmark::State& state) {
  const auto data = static_cast<std::size_t>(state.range(0));
  const auto streams = static_cast<std::uint16_t>(state.range(1));
  mux::Session session(mux::Role::opener);
  Bytes head(mux::kMaxHead), input;
  for (std::uint16_t i = 0; i < streams; ++i) (void)session.open({Network::tcp, IpAddress{}, 80}, nullptr, head);
  std::size_t frames = 0;
  for (; input.size() < (std::size_t{256} << 10); ++frames) {
    std::array<std::uint8_t, mux::kKeepHead> keep;
    mux::write_keep_head(keep, StreamId{static_cast<std::uint16_t>(1 + frames % streams)}, data);
    input.insert(input.end(), keep.begin(), keep.end());
    input.resize(input.size() + data);
  }
  Sum sum;
  for (auto _ : state) {
    if (!session.feed(input, sum)) state.SkipWithError("fatal frame");
  }
  benchmark::DoNotOptimize(sum.bytes);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * input.size()));
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * frames));
}
BENCHMARK(decode_frames)->Args({8192, 1})->Args({8192, 1000})->Args({64, 1})->Args({64, 1000});

/// The same cut into reads that never end at a frame border.
void decode_cut_frames(benchmark::State& state) {
  mux::Session session(mux::Role::opener);
  Bytes head(mux::kMaxHead);
  (void)session.open({Network::tcp, IpAddress{}, 80}, nullptr, head);
  Bytes input(mux::kKeepHead + mux::kMaxData);
  mux::write_keep_head(input, StreamId{1}, mux::kMaxData);
  Sum sum;
  const auto cut = ConstSpan(input).first(5);
  for (auto _ : state) {
    if (!session.feed(cut, sum) || !session.feed(ConstSpan(input).subspan(5), sum)) state.SkipWithError("fatal frame");
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()));
}
BENCHMARK(decode_cut_frames);

void write_keep_heads(benchmark::State& state) {
  std::array<std::uint8_t, mux::kKeepHead> out;
  std::uint16_t id = 0;
  for (auto _ : state) {
    mux::write_keep_head(out, StreamId{++id}, mux::kMaxData);
    benchmark::DoNotOptimize(out);
  }
}
BENCHMARK(write_keep_heads);

void open_and_close(benchmark::State& state) {
  std::optional<mux::Session> session(mux::Role::opener);
  Bytes head(mux::kMaxHead);
  const Target target{Network::tcp, std::string("private.example.com"), 443};
  for (auto _ : state) {
    if (!session->ids_left()) session.emplace(mux::Role::opener);
    const auto opened = session->open(target, nullptr, head);
    session->close(opened->stream);
  }
}
BENCHMARK(open_and_close);

}  // namespace
