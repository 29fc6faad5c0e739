// VMess in user space: what a chunk, a handshake and a stranger's probe cost. Compare within one run, CPU time first.
#include <benchmark/benchmark.h>

#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/client.h"
#include "common/protocol/vmess/memory_replay.h"
#include "common/protocol/vmess/server.h"

namespace {

using namespace ebb;
using namespace ebb::vmess;

constexpr UnixSeconds kNow = 1'800'000'000;
const User kUser{UserId{{0xAB, 1, 2, 3}}, 0};
const Target kTarget{Network::tcp, std::string("a.example"), 443};

SessionKeys keys_for(std::int64_t security, std::uint8_t more_options = 0) {
  SessionKeys keys;
  keys.security = static_cast<Security>(security);
  keys.options = static_cast<std::uint8_t>(usual_options(keys.security) | more_options);
  derive_response_keys(keys);
  return keys;
}

void per_byte(benchmark::State& state, std::size_t chunk) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(chunk));
}

/// range(0): security, range(1): payload bytes, gathered from a frame head and the data behind it.
void seal(benchmark::State& state) {
  crypto::SystemRandom random;
  BodySealer sealer(request_body(keys_for(state.range(0))), random);
  const Bytes payload(static_cast<std::size_t>(state.range(1)), 'x');
  Bytes out(payload.size() + BodySealer::kMaxOverhead);
  const ConstSpan parts[] = {ConstSpan(payload).first(8), ConstSpan(payload).subspan(8)};
  for (auto _ : state) benchmark::DoNotOptimize(sealer.seal(parts, out));
  per_byte(state, payload.size());
}
BENCHMARK(seal)->ArgsProduct({{1, 3, 4, 5}, {2048, 8192, 16384}})->ArgNames({"security", "bytes"});

void seal_and_open(benchmark::State& state) {
  crypto::SystemRandom random;
  const auto options = static_cast<std::uint8_t>(state.range(2));
  BodySealer sealer(request_body(keys_for(state.range(0), options)), random);
  BodyOpener opener(request_body(keys_for(state.range(0), options)));
  const Bytes payload(static_cast<std::size_t>(state.range(1)), 'x');
  Bytes out(payload.size() + BodySealer::kMaxOverhead);
  for (auto _ : state) {
    const std::size_t n = sealer.seal(payload, out);
    if (!opener.open(MutSpan(out).first(n))) state.SkipWithError("does not open");
  }
  per_byte(state, payload.size());
}
BENCHMARK(seal_and_open)->ArgsProduct({{1, 3, 4, 5}, {8192, 16384}, {0, 0x10}})->ArgNames({"security", "bytes", "A"});

void request_from_client(benchmark::State& state) {
  crypto::SystemRandom random;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ClientHandshake::make(ClientOptions{kUser}, kTarget, kNow, random));
  }
}
BENCHMARK(request_from_client);

/// An accepted AEAD header, both bodies set up; the user is the last of range(0).
void accept_aead(benchmark::State& state) {
  crypto::SystemRandom random;
  std::vector<User> list(static_cast<std::size_t>(state.range(0)));
  for (User& user : list) random.fill(user.id.value);
  UserTable users = UserTable::make(list).value();
  std::vector<Bytes> requests;
  for (int i = 0; i < 512; ++i) {
    const auto client = ClientHandshake::make(ClientOptions{list.back()}, kTarget, kNow, random).value();
    requests.emplace_back(client.request().begin(), client.request().end());
  }
  std::size_t next = 0;
  MemoryReplayGuard guard;
  for (auto _ : state) {
    if (next == requests.size()) {
      state.PauseTiming();
      guard = MemoryReplayGuard();
      next = 0;
      state.ResumeTiming();
    }
    ServerHandshake handshake(users, guard, random);
    const Verdict verdict = handshake.feed(requests[next++], kNow);
    const auto* accepted = std::get_if<Accepted>(&verdict);
    if (!accepted) return state.SkipWithError("refused");
    BodyOpener opener(request_body(accepted->request.keys));
    BodySealer sealer(response_body(accepted->request.keys), random);
    std::array<std::uint8_t, kMaxResponseBytes> response;
    benchmark::DoNotOptimize(encode_response(accepted->request.keys, response));
  }
}
BENCHMARK(accept_aead)->Arg(1)->Arg(100);

/// A stranger's noise against 10 users with alterId 64.
void refuse_noise(benchmark::State& state) {
  crypto::SeededRandom random(1);
  std::vector<User> list(10);
  for (User& user : list) {
    random.fill(user.id.value);
    user.alter_id = 64;
  }
  UserTable users = UserTable::make(list).value();
  users.advance(kNow);
  MemoryReplayGuard guard;
  Bytes noise(64);
  for (auto _ : state) {
    random.fill(noise);
    ServerHandshake handshake(users, guard, random);
    benchmark::DoNotOptimize(handshake.feed(noise, kNow));
  }
}
BENCHMARK(refuse_noise);

/// One second more for one user with alterId range(0).
void advance_legacy(benchmark::State& state) {
  UserTable users = UserTable::make({User{kUser.id, static_cast<std::uint16_t>(state.range(0))}}).value();
  UnixSeconds now = kNow;
  users.advance(now);
  for (auto _ : state) users.advance(++now);
}
BENCHMARK(advance_legacy)->Arg(1)->Arg(64);

}  // namespace
