// A relayed connection: two sides, back-pressure between them, half-close, idle timers. The hot code.
//
//   client side  --on_data-->  Relay  --send-->  origin side        and the other way round
//
// A side is a socket (SocketSide), a stream of a tunnel (MuxSide) or nothing (blackhole). Sides report to their relay;
// the relay ends by deferred work, so no callback ever finds its object gone.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>

#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/net/loop.h"

namespace ebb::relay {

class Relay;

class Side {
 public:
  Side() = default;
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;
  virtual ~Side() = default;

  /// Bytes of the other side, to go out here; valid until flush().
  virtual void send(ConstSpan piece) = 0;
  virtual void flush() = 0;
  /// The other side is done sending: pass it on after what was sent.
  virtual void send_end() = 0;
  /// The other side is broken: make that visible here (a reset, End + Error and why), now.
  virtual void abort(const Error& why) = 0;
  /// The other side is gone in both directions: deliver what was sent, say the end, take no more input, then
  /// Relay::on_wound_down().
  virtual void wind_down() = 0;
  /// Bytes of the other side that should be read at once now. 0: send() would only queue, or may not; the side then
  /// calls Relay::on_room() when that has changed.
  virtual std::size_t room() = 0;
  static constexpr std::size_t kEverything = static_cast<std::size_t>(-1);
  /// Bytes of the other side that are still here.
  virtual std::size_t queued() const = 0;
  /// Bytes passed on for good, ever: what tells a slow consumer from a dead one.
  virtual std::uint64_t delivered() const = 0;
  /// Whether on_consumer_progress() should be called: who owes its peer credit for what the other side passes on.
  virtual bool wants_progress() const { return false; }
  /// The other side has passed on bytes that were queued: queued() and delivered() of it have changed.
  virtual void on_consumer_progress() {}
  /// The other side has room again: read once, now.
  virtual void resume() = 0;
  /// The relay is over: end quietly whatever is still open. Nothing is reported afterwards.
  virtual void close() = 0;

 protected:
  friend class Relay;
  Relay* relay_ = nullptr;
};

/// Policy timers: no bytes during a whole period end the relay. While bytes wait
/// to be delivered the period is `idle`, whatever has ended: the short ones are for silence.
struct RelayTimes {
  Duration idle = std::chrono::seconds(300);
  Duration client_ended = std::chrono::seconds(1);  // policy downlinkOnly, or as a tunnel's peer needs it
  Duration origin_ended = std::chrono::seconds(1);  // policy uplinkOnly
};

/// Learns how the origin of a relay does, until that is known. Destroyed without a word: nothing can be said, the
/// client left first or the relay was ended.
class OriginWatch {
 public:
  OriginWatch() = default;
  OriginWatch(const OriginWatch&) = delete;
  OriginWatch& operator=(const OriginWatch&) = delete;
  virtual ~OriginWatch() = default;
  /// The first byte of its answer is here.
  virtual void answered() = 0;
  /// It ended, or failed, and had not answered. `failure`: null when it ended. `client_ended`: the client sent no more
  /// by then.
  virtual void ended(const Error* failure, bool client_ended) = 0;
};

class Relays;

class Relay {
 public:
  Relay(Relays& home, std::unique_ptr<Side> client, std::unique_ptr<Side> origin, RelayTimes times);
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  ~Relay();

  // Reports of the sides.
  void on_data(Side& from, ConstSpan piece);
  void on_batch_end(Side& from);
  /// Before a read of `from`: how much of it the other side can take now; 0: none.
  std::size_t may_read(Side& from);
  /// `from` will send no more. `both`: it takes no more either (End of a mux stream).
  void on_end(Side& from, bool both);
  /// `from` is dead: the other side is aborted.
  void on_failed(Side& from, const Error& why);
  void on_room(Side& from);
  /// `from` has passed on queued bytes.
  void on_progress(Side& from);
  void on_wound_down(Side& from);

  /// How much silence `ended`, who has sent his end, leaves the other direction before the relay ends.
  void set_patience(const Side& ended, Duration patience) {
    (&ended == client_.get() ? times_.client_ended : times_.origin_ended) = patience;
  }
  /// Either end reaches the other party as such, so an answer may take its time: an origin that has ended waits 30 s
  /// for the client, a client the whole idle time for his answer.
  void keep_half_closed();

  void watch_origin(std::unique_ptr<OriginWatch> watch) {
    if (!finished_) origin_watch_ = std::move(watch);
  }
  /// Ends both sides as a failure (stall, drain, kick).
  void abort(const Error& why);
  Side& other(const Side& side) { return &side == client_.get() ? *origin_ : *client_; }
  bool finished() const { return finished_; }
  std::uint64_t bytes_up() const { return bytes_up_; }
  std::uint64_t bytes_down() const { return bytes_down_; }

 private:
  friend class Relays;
  void origin_ended(const Side& from, const Error* failure);
  void finish();
  void arm();
  void look_again(Duration after);
  std::size_t queued() const { return client_->queued() + origin_->queued(); }
  void idle_over();
  Duration period() const;

  Relays& home_;
  std::unique_ptr<Side> client_;
  std::unique_ptr<Side> origin_;
  RelayTimes times_;
  net::Timer timer_;
  TimePoint last_;
  std::uint64_t delivered_seen_ = 0;  // when the timer was set
  bool queued_seen_ = false;
  std::uint64_t bytes_up_ = 0;
  std::uint64_t bytes_down_ = 0;
  std::unique_ptr<OriginWatch> origin_watch_;
  bool client_ended_ = false;
  bool origin_ended_ = false;
  bool winding_ = false;  // nothing new is taken, what is left gets delivered
  bool client_wound_ = false;
  bool origin_wound_ = false;
  bool finished_ = false;
  Relay* prev_ = nullptr;
  Relay* next_ = nullptr;
  bool held_ = false;
  Relay* prev_held_ = nullptr;
  Relay* next_held_ = nullptr;
};

/// All relays of one loop.
class Relays {
 public:
  explicit Relays(net::Loop& loop);
  Relays(const Relays&) = delete;
  Relays& operator=(const Relays&) = delete;
  ~Relays();

  Relay& start(std::unique_ptr<Side> client, std::unique_ptr<Side> origin, RelayTimes times);
  net::Loop& loop() { return loop_; }
  std::size_t size() const { return size_; }
  /// Resets every connection.
  void abort_all(const Error& why);
  /// Relays whose client sends no more and may have left: they wait for an answer's end.
  std::size_t half_closed() const { return held_; }
  /// More relays than this, and those of them that have waited longest are reset: clients who have left may fill no
  /// table. No bound by default.
  void set_half_closed_bound(std::size_t relays) { bound_ = relays; }

 private:
  friend class Relay;
  void bury(Relay& relay);
  void hold(Relay& relay);
  void let_go(Relay& relay);
  void keep_bound();
  void sweep();

  net::Loop& loop_;
  Relay* head_ = nullptr;
  Relay* dead_ = nullptr;
  std::size_t size_ = 0;
  Relay* first_held_ = nullptr;  // in the order they came
  Relay* last_held_ = nullptr;
  std::size_t held_ = 0;
  std::size_t bound_ = static_cast<std::size_t>(-1);
  net::Deferred sweep_;
};

}  // namespace ebb::relay
