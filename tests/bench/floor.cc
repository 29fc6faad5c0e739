// What this machine asks for a tunnel at the least, without anything of ours but the cipher: loopback TCP, blocking
// calls, 256 KiB reads. source -> [first hop] -> [second hop] -> sink, a thread each; the figure is the CPU time of the
// two hops together, by getrusage, per GiB. "seal" puts 16 KiB AES-128-GCM records between the hops, "copy" does not.
#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "common/base/bytes.h"
#include "common/base/fd.h"
#include "common/crypto/aead.h"

namespace {

using namespace ebb;
using crypto::Aead;

constexpr std::size_t kRead = 256 * 1024;
constexpr std::size_t kRecord = 16 * 1024;
constexpr std::size_t kWire = 2 + kRecord + crypto::kTagBytes;
constexpr std::uint64_t kBytes = 1ull << 30;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Pair {
  Fd near, far;
};

Pair tcp_pair() {
  const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), generic, length) != 0 || ::listen(listener.get(), 1) != 0) die("listen");
  ::getsockname(listener.get(), generic, &length);
  Pair pair;
  pair.near = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(pair.near.get(), generic, length) != 0) die("connect");
  pair.far = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!pair.far) die("accept");
  return pair;
}

void write_all(int fd, ConstSpan bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0) die("send");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

std::size_t read_some(int fd, MutSpan into) {
  const ssize_t n = ::recv(fd, into.data(), into.size(), 0);
  if (n < 0) die("recv");
  return static_cast<std::size_t>(n);
}

double thread_cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](timeval t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

crypto::Nonce nonce_of(std::uint64_t counter) {
  crypto::Nonce nonce{};
  store_be64(nonce, counter);
  return nonce;
}

void copy_hop(int from, int to) {
  Bytes buffer(kRead);
  while (const std::size_t n = read_some(from, buffer)) write_all(to, ConstSpan(buffer).first(n));
}

void seal_hop(int from, int to) {
  Aead aead(crypto::AeadAlgorithm::aes_128_gcm, Bytes(16, 1), Aead::Use::seal);
  Bytes buffer(kRead);
  Bytes out(kRead / kRecord * kWire + kWire);
  std::uint64_t counter = 0;
  while (const std::size_t n = read_some(from, buffer)) {
    std::size_t at = 0;
    for (std::size_t done = 0; done < n; done += kRecord) {
      const ConstSpan text = ConstSpan(buffer).subspan(done, std::min(kRecord, n - done));
      store_be16(MutSpan(out).subspan(at), static_cast<std::uint16_t>(text.size() + crypto::kTagBytes));
      at += 2 + aead.seal(nonce_of(counter++), {}, text, MutSpan(out).subspan(at + 2));
    }
    write_all(to, ConstSpan(out).first(at));
  }
}

void open_hop(int from, int to) {
  Aead aead(crypto::AeadAlgorithm::aes_128_gcm, Bytes(16, 1), Aead::Use::open);
  Bytes buffer(kRead + kWire);
  std::size_t held = 0;
  std::uint64_t counter = 0;
  while (const std::size_t n = read_some(from, MutSpan(buffer).subspan(held, kRead))) {
    held += n;
    std::size_t at = 0;
    std::size_t plain = 0;  // opened records are moved together so that one write takes them all
    while (held - at >= 2) {
      const std::size_t size = load_be16(ConstSpan(buffer).subspan(at));
      if (held - at < 2 + size) break;
      const MutSpan sealed = MutSpan(buffer).subspan(at + 2, size);
      if (!aead.open(nonce_of(counter++), {}, sealed)) die("tag");
      std::copy_n(sealed.begin(), size - crypto::kTagBytes, buffer.begin() + static_cast<std::ptrdiff_t>(plain));
      plain += size - crypto::kTagBytes;
      at += 2 + size;
    }
    write_all(to, ConstSpan(buffer).first(plain));
    std::copy(buffer.begin() + static_cast<std::ptrdiff_t>(at), buffer.begin() + static_cast<std::ptrdiff_t>(held),
              buffer.begin());
    held -= at;
  }
}

void floor(benchmark::State& state) {
  const bool sealing = state.range(0) != 0;
  double cpu_seconds = 0;
  double gib = 0;
  for (auto _ : state) {
    Pair first = tcp_pair();
    Pair middle = tcp_pair();
    Pair last = tcp_pair();
    double first_cpu = 0;
    double second_cpu = 0;
    std::uint64_t arrived = 0;
    std::jthread source([&] {
      const Bytes block(kRead, 'x');
      for (std::uint64_t sent = 0; sent < kBytes; sent += block.size()) write_all(first.near.get(), block);
      first.near.reset();
    });
    std::jthread first_hop([&] {
      (sealing ? seal_hop : copy_hop)(first.far.get(), middle.near.get());
      first_cpu = thread_cpu_seconds();
      middle.near.reset();
    });
    std::jthread second_hop([&] {
      (sealing ? open_hop : copy_hop)(middle.far.get(), last.near.get());
      second_cpu = thread_cpu_seconds();
      last.near.reset();
    });
    std::jthread sink([&] {
      Bytes buffer(kRead);
      while (const std::size_t n = read_some(last.far.get(), buffer)) arrived += n;
    });
    source.join();
    first_hop.join();
    second_hop.join();
    sink.join();
    if (arrived != kBytes) return state.SkipWithError("bytes are missing");
    cpu_seconds += first_cpu + second_cpu;
    gib += static_cast<double>(kBytes) / (1 << 30);
  }
  state.counters["CPU-s/GiB"] = cpu_seconds / gib;
  state.SetLabel(sealing ? "seal" : "copy");
}
BENCHMARK(floor)->Arg(0)->Arg(1)->Iterations(1)->Repetitions(3)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
