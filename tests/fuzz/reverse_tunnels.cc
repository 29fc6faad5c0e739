// Our portal and our bridge on one tunnel, driven by a script of bytes: time, streams, deliveries in pieces, and
// garbage from a hostile peer to either side.
#include <algorithm>
#include <cassert>
#include <set>

#include "common/reverse/bridge_tunnel.h"
#include "common/reverse/portal_tunnel.h"

namespace {

using namespace ebb;
using namespace ebb::reverse;
using std::chrono::milliseconds;

struct Script {
  ConstSpan rest;
  std::uint8_t byte() {
    if (rest.empty()) return 0;
    const auto b = rest[0];
    rest = rest.subspan(1);
    return b;
  }
  ConstSpan take(std::size_t n) {
    const auto out = rest.first(std::min(n, rest.size()));
    rest = rest.subspan(out.size());
    return out;
  }
};

/// A data plane that knows its streams: opened once, ended once, data only in between.
struct Plane : mux::SessionEvents {
  std::set<std::uint16_t> live;
  bool opener;
  explicit Plane(bool opens) : opener(opens) {}
  void on_open(StreamId id, const Target&, ConstSpan) override {
    assert(!opener);
    assert(live.insert(id.value).second);
  }
  void on_data(StreamId id, void*, ConstSpan piece) override { assert(live.contains(id.value) && !piece.empty()); }
  void on_end(StreamId id, void*, bool) override { assert(live.erase(id.value) == 1); }
};

template <class Tunnel>
void settle(Tunnel& tunnel, TimePoint now, Plane& plane) {
  for (int rounds = 0; tunnel.next_deadline() <= now; ++rounds) {
    assert(rounds < 100);
    tunnel.tick(now);
  }
  assert(tunnel.user_streams() == plane.live.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script{{data, size}};
  TimePoint now = TimePoint{} + std::chrono::hours(1);
  const auto flags = script.byte();
  PortalTunnelSettings ps{.domain = "d", .offer_hello = (flags & 1) != 0, .drain_after = 8, .drain_after_ids = 12};
  if ((flags & 2) != 0) ps.forced = static_cast<Dialect>(flags >> 6 > 2 ? 0 : flags >> 6);
  if ((flags & 4) != 0) ps.remembered = Dialect::v2fly;
  BridgeTunnelSettings bs{.domain = "d", .answer_hello = (flags & 8) != 0, .max_streams = 20};
  if ((flags & 16) != 0) ps.hello.features = bs.hello.features = ~std::uint64_t{0};
  PortalTunnel portal(ps, now);
  BridgeTunnel bridge(bs, now);
  Plane visitors(true), origins(false);
  Bytes to_bridge, to_portal;
  const auto append = [](Bytes& to, ConstSpan what) { to.insert(to.end(), what.begin(), what.end()); };
  const auto pull = [](Bytes& from, std::size_t n) {
    Bytes out(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(std::min(n, from.size())));
    from.erase(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(out.size()));
    return out;
  };
  while (!script.rest.empty()) {
    const auto op = script.byte();
    const auto arg = script.byte();
    switch (op % 12) {
      case 0: now += milliseconds(arg * 10); break;
      case 1: now += milliseconds(arg * 500); break;
      case 2: (void)bridge.feed(pull(to_bridge, arg * 4U), now, origins); break;
      case 3: (void)portal.feed(pull(to_portal, arg * 4U), now, visitors); break;
      case 4: (void)portal.feed(script.take(arg), now, visitors); break;
      case 5: (void)bridge.feed(script.take(arg), now, origins); break;
      case 6: {
        Bytes head(mux::kMaxHead);
        const Target target{arg % 2 == 0 ? Network::tcp : Network::udp, std::string(1, "bdex"[arg % 4]), arg};
        const auto opened = portal.open(target, nullptr, head);
        if (!opened) break;
        assert(visitors.live.insert(opened->stream.value).second);
        append(to_bridge, portal.take_output());
        append(to_bridge, ConstSpan(head).first(opened->head_bytes));
        break;
      }
      case 7:
      case 8: {
        auto& plane = op % 12 == 7 ? visitors : origins;
        if (plane.live.empty()) break;
        auto victim = plane.live.begin();
        std::advance(victim, arg % plane.live.size());
        const StreamId id{*victim};
        plane.live.erase(victim);
        Bytes end(kMaxAbortFrame);
        const Engine& from = op % 12 == 7 ? static_cast<const Engine&>(portal) : bridge;
        const Abort why{static_cast<AbortReason>(arg / 4), "why"};
        mux::write_end(end, id, false);
        end.resize((arg & 1) != 0 ? from.write_abort(end, id, why) : mux::kEndFrame);
        if (op % 12 == 7) {
          append(to_bridge, portal.take_output());  // a hello that was agreed on goes first
          portal.close(id), append(to_bridge, end);
        } else {
          bridge.close(id, now), append(to_portal, end);
        }
        break;
      }
      case 9: portal.set_replaced((arg & 1) != 0); break;
      case 10: (arg & 1) != 0 ? portal.drain(now) : portal.ask_for_another(now); break;
      case 11: (void)bridge.announce_restart(); break;
    }
    settle(portal, now, visitors);
    settle(bridge, now, origins);
    append(to_bridge, portal.take_output());
    append(to_portal, bridge.take_output());
  }
  portal.abort_streams(visitors);
  bridge.abort_streams(origins);
  assert(visitors.live.empty() && origins.live.empty());
  return 0;
}
