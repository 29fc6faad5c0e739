// A hand-moved clock and the frames a tunnel writes: what the tests of both tunnel ends share.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/reverse/bridge_tunnel.h"
#include "common/reverse/portal_tunnel.h"
#include "tests/unit/protocol/mux/recorder.h"

namespace ebb::reverse {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Lines = std::vector<std::string>;

inline const TimePoint kStart = TimePoint{} + std::chrono::hours(1);
inline const Target kWeb{Network::tcp, IpAddress::from_v4({127, 0, 0, 1}), 80};

/// One tunnel end under a test's thumb.
template <class Tunnel>
struct Bench {
  Tunnel tunnel;
  TimePoint now = kStart;
  test::Recorder events;
  bool fatal = false;

  template <class Settings>
  explicit Bench(Settings settings) : tunnel(std::move(settings), kStart) {}

  /// Lets time pass, waking the tunnel exactly when it asks to be woken.
  void pass(Duration time) {
    const auto until = now + time;
    while (tunnel.next_deadline() <= until) {
      now = std::max(now, tunnel.next_deadline());
      const auto before = tunnel.next_deadline();
      tunnel.tick(now);
      ASSERT_TRUE(tunnel.next_deadline() > before) << "a deadline that is due must go away";
    }
    now = until;
  }
  void feed(std::string_view hex) { feed_bytes(test::unhex(hex)); }
  void feed_bytes(ConstSpan bytes) {
    if (!tunnel.feed(bytes, now, events)) fatal = true;
  }
  Lines output() { return test::frames_of(tunnel.take_output()); }
};

/// Frames of `lines` that do not belong to a heartbeat on `control`.
inline Lines without_stream(const Lines& lines, std::uint16_t control) {
  Lines out;
  for (const auto& line : lines) {
    if (mux::decode_head(test::unhex(line))->message->stream.value != control) out.push_back(line);
  }
  return out;
}

/// The Control message a frame carries.
inline Control control_in(const std::string& frame) {
  const auto bytes = test::unhex(frame);
  const auto step = mux::decode_head(bytes);
  return decode_control(ConstSpan(bytes).subspan(step->used)).value();
}

}  // namespace ebb::reverse
