// What runs inside a tunnel: frames of the peer in, streams' events out, frames for the peer out. Portal tunnel, bridge
// tunnel and forward mux are engines; tunnel::Tunnel owns one, and a wire. Sans-IO: time is an argument.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "common/base/time.h"
#include "common/protocol/mux/session.h"
#include "common/reverse/abort_reason.h"
#include "common/reverse/tunnel.h"

namespace ebb::reverse {

/// What the peer of a tunnel did that none may do. The tunnel lives on: a stream or a message was the price.
struct Violations {
  std::uint64_t credit_overruns = 0;  // streams that were ended because more came than was given
  std::uint64_t bad_control = 0;      // control messages that cannot be read, control streams beyond the bound
  std::uint64_t reopened = 0;         // New on a live id
  std::uint64_t surplus = 0;          // New beyond the bound on live streams
  std::uint64_t ignored_new = 0;      // New from the end that opens none
  std::uint64_t after_fin = 0;        // data behind its own FIN
  std::uint64_t total() const { return credit_overruns + bad_control + reopened + surplus + ignored_new + after_fin; }

  static Violations of(const mux::SessionCounters& counted, std::uint64_t credit_overruns = 0,
                       std::uint64_t bad_control = 0) {
    return {credit_overruns, bad_control, counted.reopened, counted.surplus, counted.ignored_new, counted.after_fin};
  }
};

inline constexpr std::size_t kMaxAbortFrame = mux::kKeepHead + Abort::kMaxBytes;

class Engine {
 public:
  static constexpr std::uint64_t kNoCredit = std::numeric_limits<std::uint64_t>::max();

  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  /// Tunnel bytes from the peer; `events` sees user streams only. An error means the tunnel is dead. Take take_output()
  /// afterwards, and look at dead().
  virtual Decoded<> feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) = 0;
  /// Runs what is due; then as after feed().
  virtual void tick(TimePoint now) = 0;
  /// May lie in the past: due now. TimePoint::max() when dead. Ask again after every call that takes `now`.
  virtual TimePoint next_deadline() const = 0;
  /// Frames it wants sent, at a frame border of the output.
  virtual Bytes take_output() = 0;
  virtual bool has_output() const = 0;
  /// Nothing is carried any more: close the transport, abort_streams(). Then end() says why.
  virtual bool dead() const = 0;
  virtual TunnelEnd end() const = 0;
  /// Since it began.
  virtual Violations violations() const = 0;

  // ---- streams
  virtual void set_user(StreamId stream, void* user) = 0;
  virtual void* user(StreamId stream) const = 0;
  /// The local side forgets the stream after writing its End.
  virtual void close(StreamId stream, TimePoint now) = 0;
  /// Reports on_end(error) for every user stream and forgets them all.
  virtual void abort_streams(mux::SessionEvents& events) = 0;
  virtual SendLimits send_limits() const = 0;
  /// The peer reads and writes a packet's own address in UDP Keep frames.
  virtual bool packet_addresses() const { return false; }

  /// An End + Error to the peer may say why.
  virtual bool tells_reasons() const { return false; }
  /// Writes End + Error for `stream`, with what is said if the peer wants to know, to `out` (kMaxAbortFrame bytes).
  /// Returns bytes written.
  std::size_t write_abort(MutSpan out, StreamId stream, const Abort& why) const;
  /// During on_end(): why the peer aborted the stream, if he said so.
  virtual std::optional<Abort> abort_reason() const { return std::nullopt; }

  // ---- one direction over
  virtual HalfClose half_close(StreamId) const { return HalfClose::none; }
  /// The local side wrote a FIN (HalfClose::fin). True: that was the stream's end.
  virtual bool fin_sent(StreamId, TimePoint) { return true; }
  /// The local side sends no more, and its End has gone out (HalfClose::listen) or waits (quiet): no load any more.
  virtual void hold(StreamId, bool /*end_sent*/) {}

  // ---- credit; kNoCredit for streams without
  /// Bytes that may be sent on it now. 0: on_credit() will tell.
  virtual std::uint64_t credit(StreamId) const { return kNoCredit; }
  /// The peer sends on it what it was given, and no more. on_credit() tells of a change.
  virtual bool holds_peer_to_credit(StreamId) const { return false; }
  /// So many were sent.
  virtual void spent(StreamId, std::uint64_t) {}
  /// The local consumer took so many of what arrived. Look at has_output() afterwards.
  virtual void consumed(StreamId, std::uint64_t, TimePoint) {}
  /// The process is short of memory: no window grows meanwhile.
  virtual void set_pressed(bool) {}
  /// Bytes of credit and queues all streams together may cost from now on.
  virtual void set_budget(std::uint64_t) {}

  /// Tell when the transport is not read because of back-pressure: silence proves nothing then.
  virtual void set_reading(bool, TimePoint) {}
};

}  // namespace ebb::reverse
