// What a hostile peer of a tunnel may do with streams of datagrams: any frames, whole and cut, on either role's side.
// What comes out is bounded, no datagram is changed or cut, and what goes back is never larger than the peer takes.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "tests/support/manual_loop.h"
#include "tests/support/memory_stream.h"
#include "worker/flow/mux_end.h"
#include "worker/tunnel/link.h"

namespace {

using namespace ebb;

constexpr std::size_t kMostFlows = 4;

/// Sends every datagram back, with the address it had.
class EchoEnd final : public flow::DatagramEnd {
 public:
  bool send(ConstSpan datagram, const Target* address) override {
    const Bytes copy(datagram.begin(), datagram.end());
    flow_->on_datagram(*this, copy, address);
    return true;
  }
  void close() override {}
};

class FuzzEngine final : public reverse::Engine {
 public:
  explicit FuzzEngine(mux::Role role) : session(role, {.max_streams = 8, .max_ids = 64}) {}
  Decoded<> feed(ConstSpan plain, TimePoint, mux::SessionEvents& events) override {
    return session.feed(plain, events);
  }
  void tick(TimePoint) override {}
  TimePoint next_deadline() const override { return TimePoint::max(); }
  Bytes take_output() override { return session.take_output(); }
  bool has_output() const override { return session.has_output(); }
  bool dead() const override { return false; }
  reverse::TunnelEnd end() const override { return reverse::TunnelEnd::none; }
  reverse::Violations violations() const override { return {}; }
  void set_user(StreamId stream, void* user) override { session.set_user(stream, user); }
  void* user(StreamId stream) const override { return session.user(stream); }
  void close(StreamId stream, TimePoint) override { session.close(stream); }
  void abort_streams(mux::SessionEvents& events) override {
    for (const auto id : session.ids()) {
      if (!session.live(id)) continue;
      void* const user = session.user(id);
      session.close(id);
      events.on_end(id, user, true);
    }
  }
  reverse::SendLimits send_limits() const override { return {}; }

  mux::Session session;
};

class FuzzLink final : public tunnel::Link<FuzzEngine> {
 public:
  FuzzLink(net::Loop& loop, relay::BlockPool& blocks, flow::Flows& flows, mux::Role role)
      : Link(loop, blocks, layers::Stack{}, {}, "peer", std::make_unique<FuzzEngine>(role)), flows_(flows) {}
  void open() {
    std::array<std::uint8_t, mux::kMaxHead> head;
    const auto opened = plan_.session.open({Network::udp, IpAddress{}, 53}, nullptr, head);
    tunnel_.send_frames(ConstSpan(head).first(opened->head_bytes));
    start(opened->stream);
  }

 private:
  void start(StreamId stream) {
    flows_.start(std::make_unique<EchoEnd>(), std::make_unique<flow::MuxEnd>(tunnel_, stream));
    assert(flows_.size() <= kMostFlows);
  }
  void on_stream_opened(StreamId stream, const Target& target, ConstSpan) override {
    if (target.network == Network::udp) start(stream);
  }
  void on_tunnel_over(const Error&) override {}

  flow::Flows& flows_;
};

/// Every frame we wrote can be read, and none holds more than a stock peer takes.
void check(ConstSpan out) {
  while (!out.empty()) {
    const auto step = mux::decode_head(out);
    assert(step && step->message);
    const std::size_t size = step->used + step->message->data_bytes;
    assert(size <= out.size());
    assert(step->message->data_bytes <= mux::kMaxDatagram);
    out = out.subspan(size);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  test::ManualLoop loop;
  relay::BlockPool blocks;
  flow::Flows flows(loop, kMostFlows);
  const auto role = (data[0] & 1) != 0 ? mux::Role::opener : mux::Role::acceptor;
  auto [ours, theirs] = test::MemoryStream::pair(loop);
  {
    FuzzLink link(loop, blocks, flows, role);
    link.tunnel().attach(std::move(ours), {});
    if (role == mux::Role::opener) {
      link.open();
      link.open();
    }
    Bytes out;
    for (ConstSpan in(data + 2, size - 2); !in.empty();) {
      const auto piece = in.first(std::min<std::size_t>(in.size(), std::size_t{1} + (data[1] << 2)));
      theirs->put(piece);
      loop.settle();
      const Bytes more = theirs->take();
      out.insert(out.end(), more.begin(), more.end());
      in = in.subspan(piece.size());
    }
    check(out);
    if ((data[0] & 2) != 0) loop.advance(std::chrono::seconds(130));
  }
  loop.settle();
  assert(flows.size() == 0);
  return 0;
}
