// CPU per GiB of the whole byte path in one process: visitor socket -> portal tunnel -> VMess -> bridge tunnel ->
// origin socket, over loopback TCP. The generator and the sink run in threads of their own and are not counted.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include <array>
#include <atomic>
#include <thread>

#include "common/net/tcp_stream.h"
#include "common/reverse/bridge_tunnel.h"
#include "common/reverse/portal_tunnel.h"
#include "worker/layers/vmess/vmess.h"
#include "worker/relay/socket_side.h"
#include "worker/tunnel/link.h"

namespace ebb::relay {
namespace {

std::pair<Fd, Fd> tcp_pair() {
  Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length);
  listen(listener.get(), 1);
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length);
  Fd a(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  connect(a.get(), reinterpret_cast<sockaddr*>(&address), length);
  Fd b(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return {std::move(a), std::move(b)};
}

Fd non_blocking(Fd fd) {
  net::tune_socket(fd.get(), std::chrono::seconds(30));
  const int flags = fcntl(fd.get(), F_GETFL);
  fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
  return fd;
}

template <class Kind>
class Link : public tunnel::Link<Kind> {
 public:
  template <class Settings>
  Link(net::Loop& loop, BlockPool& blocks, layers::Stack stack, const Settings& settings)
      : tunnel::Link<Kind>(loop, blocks, std::move(stack), {}, "peer", std::make_unique<Kind>(settings, loop.now())) {}
  std::function<void(StreamId)> opened;

 protected:
  void on_tunnel_over(const Error&) override {}
  void on_stream_opened(StreamId stream, const Target&, ConstSpan) override { opened(stream); }
};

void carry(benchmark::State& state) {
  const auto streams = static_cast<std::size_t>(state.range(0));
  const bool down = state.range(1) != 0;
  constexpr std::size_t kTotal = std::size_t{2} << 30;
  for (auto _ : state) {
    net::UvLoop loop;
    BlockPool blocks;
    crypto::SystemRandom random;
    Relays relays(loop);
    vmess::ClientOptions options;
    const Target to{Network::tcp, std::string("t.reverse"), 0};
    const auto handshake = vmess::ClientHandshake::make(options, to, 1'600'000'000, random);
    reverse::PortalTunnelSettings portal_settings;
    portal_settings.domain = "t.reverse";
    portal_settings.offer_hello = state.range(2) != 0;
    Link<reverse::PortalTunnel> portal(
        loop, blocks, layers::Stack(std::make_unique<layers::VmessServerLayer>(handshake->keys(), random)),
        portal_settings);
    reverse::BridgeTunnelSettings bridge_settings;
    Link<reverse::BridgeTunnel> bridge(
        loop, blocks, layers::Stack(std::make_unique<layers::VmessClientLayer>(*handshake, random)), bridge_settings);
    std::vector<Fd> visitors, origins;
    bridge.opened = [&](StreamId stream) {
      auto [mine, theirs] = tcp_pair();
      origins.push_back(std::move(theirs));
      auto side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
      SocketSide& socket = *side;
      relays.start(bridge.tunnel().make_side(stream), std::move(side), {});
      socket.attach(std::make_unique<net::TcpStream>(loop, non_blocking(std::move(mine))));
    };
    auto [a, b] = tcp_pair();
    a = non_blocking(std::move(a));
    b = non_blocking(std::move(b));
    bridge.tunnel().attach(std::make_unique<net::TcpStream>(loop, std::move(b)));
    loop.run_once();
    Bytes header(handshake->request().size());
    while (recv(a.get(), header.data(), header.size(), MSG_PEEK) < static_cast<ssize_t>(header.size())) loop.run_once();
    recv(a.get(), header.data(), header.size(), 0);
    portal.tunnel().attach(std::make_unique<net::TcpStream>(loop, std::move(a)), {});
    for (int i = 0; i < 50; ++i) loop.run_once();
    for (std::size_t i = 0; i < streams; ++i) {
      std::array<std::uint8_t, mux::kMaxHead> head;
      const auto opened = portal.plan().open(Target{Network::tcp, std::string("o.test"), 80}, nullptr, head);
      portal.tunnel().send_frames(ConstSpan(head).first(opened->head_bytes));
      auto [mine, theirs] = tcp_pair();
      visitors.push_back(std::move(theirs));
      auto side = std::make_unique<SocketSide>(loop, blocks, layers::Stack());
      SocketSide& socket = *side;
      relays.start(std::move(side), portal.tunnel().make_side(opened->stream), {});
      socket.attach(std::make_unique<net::TcpStream>(loop, non_blocking(std::move(mine))));
    }
    while (origins.size() < streams) loop.run_once();
    std::vector<std::thread> threads;
    std::atomic<std::size_t> done = 0;
    for (std::size_t i = 0; i < streams; ++i) {
      const int from = (down ? origins : visitors)[i].get();
      const int into = (down ? visitors : origins)[i].get();
      threads.emplace_back([from, streams] {
        Bytes chunk(256 * 1024, 7);
        for (std::size_t sent = 0; sent < kTotal / streams;) {
          const ssize_t n = send(from, chunk.data(), std::min(chunk.size(), kTotal / streams - sent), MSG_NOSIGNAL);
          if (n <= 0) break;
          sent += static_cast<std::size_t>(n);
        }
      });
      threads.emplace_back([&, into] {
        Bytes chunk(256 * 1024);
        for (std::size_t got = 0; got < kTotal / streams;) {
          const ssize_t n = recv(into, chunk.data(), chunk.size(), 0);
          if (n <= 0) break;
          got += static_cast<std::size_t>(n);
        }
        if (++done == streams) loop.post([&loop] { loop.stop(); });
      });
    }
    timespec before{}, after{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    loop.run();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    for (auto& thread : threads) thread.join();
    const double seconds =
        static_cast<double>(after.tv_sec - before.tv_sec) + static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9;
    state.SetIterationTime(seconds);
    state.counters["cpu_s_per_GiB"] = seconds / 2;
  }
}
// streams, direction (0 up, 1 down), our own hello (larger frames) or a stock peer's frames
BENCHMARK(carry)->ArgsProduct({{1, 8}, {0, 1}, {0, 1}})->UseManualTime()->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ebb::relay
