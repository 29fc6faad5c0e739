// CPU per datagram of the whole way in one process: client -> door -> portal tunnel -> VMess -> bridge tunnel -> origin
// socket, and the answer back. Clients and the echoing origin run in threads of their own and are not counted.
#include <benchmark/benchmark.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "common/net/tcp_stream.h"
#include "common/reverse/bridge_tunnel.h"
#include "common/reverse/portal_tunnel.h"
#include "worker/flow/doors.h"
#include "worker/flow/mux_end.h"
#include "worker/flow/origin_end.h"
#include "worker/layers/vmess/vmess.h"
#include "worker/tunnel/link.h"

namespace ebb::flow {
namespace {

template <class Engine>
class Link : public tunnel::Link<Engine> {
 public:
  Link(net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack, std::unique_ptr<Engine> engine)
      : tunnel::Link<Engine>(loop, blocks, std::move(stack), {}, "peer", std::move(engine)) {}
  std::function<void(StreamId, const Target&)> opened;

 private:
  void on_stream_opened(StreamId stream, const Target& target, ConstSpan) override { opened(stream, target); }
  void on_tunnel_over(const Error&) override {}
};

Endpoint name_of(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size);
  return *endpoint_from(reinterpret_cast<sockaddr*>(&storage));
}

void send_to(int fd, ConstSpan bytes, const Endpoint& to) {
  sockaddr_storage storage{};
  const auto size = endpoint_to(to, storage);
  ::sendto(fd, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&storage), size);
}

void carry(benchmark::State& state) {
  const auto clients = static_cast<std::size_t>(state.range(0));
  const Bytes datagram(static_cast<std::size_t>(state.range(1)), 7);
  constexpr std::size_t kTotal = 200'000;
  const Endpoint loopback{IpAddress::from_v4({127, 0, 0, 1}), 0};
  for (auto _ : state) {
    net::UvLoop loop;
    relay::BlockPool blocks;
    crypto::SystemRandom random;
    Flows flows(loop);
    const Target to{Network::tcp, std::string("t.reverse"), 0};
    const auto handshake = vmess::ClientHandshake::make({}, to, 1'600'000'000, random);
    reverse::PortalTunnelSettings settings;
    settings.domain = "t.reverse";
    Link<reverse::PortalTunnel> portal(
        loop, blocks, layers::Stack(std::make_unique<layers::VmessServerLayer>(handshake->keys(), random)),
        std::make_unique<reverse::PortalTunnel>(settings, loop.now()));
    Link<reverse::BridgeTunnel> bridge(
        loop, blocks, layers::Stack(std::make_unique<layers::VmessClientLayer>(*handshake, random)),
        std::make_unique<reverse::BridgeTunnel>(reverse::BridgeTunnelSettings{}, loop.now()));
    bridge.opened = [&](StreamId stream, const Target& target) {
      flows.start(std::make_unique<MuxEnd>(bridge.tunnel(), stream),
                  std::make_unique<OriginEnd>(loop, OriginWay{target.host, target.port, false, std::nullopt}));
    };
    std::array<int, 2> ends{};
    ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data());
    bridge.tunnel().attach(std::make_unique<net::TcpStream>(loop, Fd(ends[1])), {});
    loop.run_once();
    Bytes header(handshake->request().size());
    ::recv(ends[0], header.data(), header.size(), 0);
    portal.tunnel().attach(std::make_unique<net::TcpStream>(loop, Fd(ends[0])), {});
    const Fd origin = std::move(*net::UdpSocket::bind(loopback));
    net::UdpSocket::widen_buffers(origin.get(), 4 << 20);
    const Endpoint service = name_of(origin.get());
    Doors doors(loop, flows,
                {[&](const Endpoint&) { return Doors::Inbound{0, Target{Network::udp, service.ip, service.port}}; },
                 [&](const Doors::Inbound& at, const VisitorAddress&) -> std::unique_ptr<DatagramEnd> {
                   std::array<std::uint8_t, mux::kMaxHead> head;
                   const auto opened = portal.plan().open(at.target, nullptr, head);
                   portal.tunnel().send_frames(ConstSpan(head).first(opened->head_bytes));
                   return std::make_unique<MuxEnd>(portal.tunnel(), opened->stream);
                 }});
    const Fd slot = std::move(*net::UdpSocket::bind(loopback));
    const Endpoint door = name_of(slot.get());
    doors.add(1, slot.get());
    doors.serve();

    std::atomic<bool> over = false;
    std::atomic<std::size_t> answered = 0;
    std::thread echo([&] {
      Bytes bytes(65536);
      while (!over) {
        pollfd waiting{origin.get(), POLLIN, 0};
        ::poll(&waiting, 1, 100);
        sockaddr_storage from{};
        socklen_t size = sizeof from;
        for (ssize_t got = 0; (got = ::recvfrom(origin.get(), bytes.data(), bytes.size(), 0,
                                                reinterpret_cast<sockaddr*>(&from), &size)) >= 0;) {
          ::sendto(origin.get(), bytes.data(), static_cast<std::size_t>(got), 0, reinterpret_cast<sockaddr*>(&from),
                   size);
          size = sizeof from;
        }
      }
    });
    std::thread visitors([&] {
      std::vector<Fd> sockets;
      for (std::size_t i = 0; i < clients; ++i) sockets.push_back(std::move(*net::UdpSocket::bind(loopback)));
      Bytes bytes(65536);
      std::size_t sent = 0;
      // At most 256 under way, so that no buffer on the way overflows: what is measured is work, not loss.
      while (answered < kTotal && !over) {
        for (; sent < kTotal && sent < answered + 256; ++sent) send_to(sockets[sent % clients].get(), datagram, door);
        std::size_t heard = 0;
        for (auto& each : sockets) {
          while (::recv(each.get(), bytes.data(), bytes.size(), 0) >= 0) ++heard;
        }
        answered += heard;
        if (heard == 0) std::this_thread::yield();
      }
      loop.post([&loop] { loop.stop(); });
    });
    timespec before{}, after{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    net::Timer limit([](void* at) { static_cast<net::UvLoop*>(at)->stop(); }, &loop);
    loop.arm(limit, std::chrono::seconds(120));
    loop.run();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    over = true;
    visitors.join();
    echo.join();
    const double seconds =
        static_cast<double>(after.tv_sec - before.tv_sec) + static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9;
    state.SetIterationTime(seconds);
    state.counters["cpu_us_per_datagram"] = seconds * 1e6 / static_cast<double>(2 * answered);  // there and back
    state.counters["dropped"] = static_cast<double>(flows.counters().dropped);
  }
}
// clients, bytes of a datagram
BENCHMARK(carry)->ArgsProduct({{1, 64}, {64, 1200}})->UseManualTime()->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ebb::flow
