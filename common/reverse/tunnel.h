// What both ends of a tunnel share: why it ended, which bytes we may send, when the peer counts as dead.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>

#include "common/base/bytes.h"
#include "common/base/time.h"
#include "common/protocol/mux/frame.h"
#include "common/reverse/control.h"

namespace ebb::reverse {

enum class TunnelEnd : std::uint8_t {
  none,          // alive
  fatal_frame,   // the peer broke the frame format
  unresponsive,  // no byte for 10 s, and none within 15 s after a ping
  idle,          // no session for long
  drained,       // drained, replaced and empty
  spent,         // all 65000 ids used and no stream left
};
std::string_view name_of(TunnelEnd end);

/// What may be done when our side of a stream sends no more and the peer's answer is still to come. Source:
/// common/protocol/mux/PROTOCOL.md, half-closes.
enum class HalfClose : std::uint8_t {
  none,    // End, which ends both directions
  fin,     // agreed: FIN bit at once, the answer takes its time
  listen,  // V2Ray, v2fly as bridge: End at once, and they still deliver the answer they have begun
  quiet,   // Xray as bridge, and who is not known yet: End stops the answer, so it waits until that has paused
};

/// Largest data parts we may write to this peer, bytes.
struct SendLimits {
  std::size_t max_data = mux::kMaxData;
  std::size_t max_datagram = mux::kMaxDatagram;
};
/// Limits towards a peer that sent a hello: what it announced, never below what everybody takes.
SendLimits limits_from(const Hello& hello);

/// Names as DNS compares them: letters in either case. For refusing the portal's own domain, where missing one would
/// hurt.
bool same_name(std::string_view a, std::string_view b);

/// Padding source: a small generator seeded by the owner. Not for secrets.
class Padding {
 public:
  explicit Padding(std::uint64_t seed) : state_(seed) {}
  /// 1..63 bytes, never empty, so that a beat is never skipped (PROTOCOL.md, control stream).
  Bytes next();

 private:
  std::uint64_t draw();
  std::uint64_t state_;
};

/// When the peer counts as dead. A stock peer: ping after 10 s of silence, dead 15 s after an unanswered one. Our own:
/// ping after 5 s of silence, dead 5 s after the third unanswered one; and one every 10 s, for the round trip time. Any
/// byte is an answer.
class Liveness {
 public:
  static constexpr auto kQuiet = std::chrono::seconds(10);
  static constexpr auto kPatience = std::chrono::seconds(15);
  static constexpr auto kSuspect = std::chrono::seconds(5);  // unanswered for so long: no new streams

  static constexpr auto kOwnQuiet = std::chrono::seconds(5);
  static constexpr auto kOwnRefresh = std::chrono::seconds(10);
  static constexpr unsigned kOwnMissed = 3;

  explicit Liveness(TimePoint now) : heard_(now) {}
  /// The peer is ours: pings have numbers from here on; the first is due at once.
  void use_own_pings(TimePoint now);
  bool own_pings() const { return own_; }
  /// Of the ping that is due: its number.
  std::uint64_t ping_id() const { return ping_id_; }
  /// Answers of old pings tell nothing.
  void ping_answered(std::uint64_t id, TimePoint now);
  /// The smallest of the last few; 0 = none yet.
  Duration min_rtt() const;
  void heard(TimePoint now);
  /// We do not read the tunnel (back-pressure): silence proves nothing.
  void set_reading(bool reading, TimePoint now);
  /// True once when a ping is due; the caller sends it.
  bool ping_due(TimePoint now);
  void ping_answered(TimePoint now);
  bool dead(TimePoint now) const;
  bool suspect(TimePoint now) const;
  TimePoint next_deadline() const;       // TimePoint::max() while not reading
  Duration rtt() const { return rtt_; }  // of the last answered ping; 0 = none yet

 private:
  TimePoint heard_;
  TimePoint ping_sent_{};
  bool waiting_ = false;     // a ping is out and nothing came since
  bool answer_due_ = false;  // a ping is out and its own answer has not come
  bool reading_ = true;
  bool own_ = false;
  unsigned missed_ = 0;  // own pings without any byte since
  std::uint64_t ping_id_ = 0;
  Duration rtt_{};
  std::array<Duration, 6> rtts_{};  // the last ones
  std::size_t rtts_seen_ = 0;

  TimePoint own_ping_at() const;
};

}  // namespace ebb::reverse
