// A tunnel: one wire that carries many mux streams. What portal, bridge and forward mux have in common: frames out of
// sides, frames into sides, slow consumers. Each kind's own rules are in common/reverse and reached by the hooks.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "common/protocol/mux/session.h"
#include "common/reverse/tunnel.h"
#include "worker/relay/relay.h"
#include "worker/relay/stream_user.h"
#include "worker/relay/wire.h"

namespace ebb::relay {

class Tunnel;

/// The side of a relay that is a stream of a tunnel.
class MuxSide final : public Side, private StreamUser {
 public:
  MuxSide(Tunnel& tunnel, StreamId stream);
  ~MuxSide() override;

  void send(ConstSpan piece) override;
  void flush() override {}
  void send_end() override;
  void abort() override;
  void wind_down() override;
  bool has_room() override;
  std::size_t queued() const override;
  std::uint64_t delivered() const override;
  void pause() override {}  // the tunnel goes on for the others, and counts what is queued
  void resume() override;
  void close() override;
  StreamId stream() const { return stream_; }

 private:
  friend class Tunnel;
  // StreamUser
  void on_stream_data(ConstSpan payload) override;
  void on_stream_datagram(const Target*, ConstSpan datagram) override { on_stream_data(datagram); }
  void on_stream_end(bool error) override;
  void on_stream_fin() override;
  void on_end_due() override { end_and_listen(); }
  void end(bool error);
  void send_fin();
  void end_and_listen();
  void tunnel_over();
  Side& consumer() { return relay_->other(*this); }

  static constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);
  static constexpr Duration kFlowing = std::chrono::seconds(1);         // an answer without so long a pause
  static constexpr Duration kSign = std::chrono::milliseconds(300);     // a round trip to a visitor
  static constexpr Duration kAnswerPatience = std::chrono::seconds(30);  // stock bridges end by themselves within 2 s
  Tunnel* tunnel_;  // null once the stream is over
  StreamId stream_;
  bool fin_sent_ = false;
  bool end_sent_ = false;  // and listens for the rest of the answer
  bool waiting_ = false;  // in the tunnel's queue for room
  MuxSide* prev_waiting_ = nullptr;
  MuxSide* next_waiting_ = nullptr;
  std::size_t dirty_at_ = kNowhere;   // place in the list of those who got data in this batch
  std::size_t behind_at_ = kNowhere;  // place in the list of those whose consumer holds bytes
  std::uint64_t sent_until_ = 0;      // the wire's accepted() behind our last bytes
  std::uint64_t seen_delivered_ = 0;
  TimePoint progress_at_{};
  TimePoint heard_at_{};  // last data of the peer
};

/// Kept to within an eighth and one read.
struct TunnelLimits {
  std::size_t stream_buffer = 8u << 20;   // bytes queued towards one consumer
  std::size_t tunnel_buffer = 32u << 20;  // and towards all consumers of a tunnel
  Duration stall = std::chrono::seconds(10);
};

class Tunnel : protected WireObserver, protected mux::SessionEvents {
 public:
  /// `stack` empty: frames without any protocol below.
  Tunnel(net::Loop& loop, BlockPool& blocks, layers::Stack stack, TunnelLimits limits);
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;
  ~Tunnel() override;

  std::uint64_t bytes_in() const { return wire_.received(); }
  std::uint64_t bytes_out() const { return wire_.written(); }
  std::size_t unsent() const { return wire_.queued(); }
  /// The same and what the peer's kernel has not acknowledged. A system call.
  std::size_t undelivered() const { return wire_.queued() + (wire_.stream() ? wire_.stream()->undelivered() : 0); }
  /// A consumer lags so far that the tunnel is not read: no new streams for now.
  bool congested() const { return over_limit_; }
  /// From the next look at its consumers on.
  void set_limits(TunnelLimits limits) { limits_ = limits; }

  // Streams of datagrams (worker/flow). A flow has no back-pressure: what cannot go now is lost.
  /// Who is told what comes on `stream`, and its end.
  void set_stream_user(StreamId stream, StreamUser* user) { set_user(stream, user); }
  /// One datagram of a live stream, as one frame. False: dropped. It is larger than the peer takes, empty (which every
  /// stock peer drops), or too much is unsent. `address`: the packet's own, written in front where the peer reads it.
  bool send_datagram(StreamId stream, ConstSpan datagram, const Target* address);
  /// End, and the id is forgotten. Nothing is told of it.
  void end_stream(StreamId stream, bool error);
  /// Whether the peer reads a packet's own address, and writes it (spec/mux-cool.md 1.4).
  virtual bool packet_addresses() const { return false; }

 protected:
  friend class MuxSide;
  /// Starts on a connected stream.
  void attach(std::unique_ptr<net::Stream> stream, Bytes unread);
  /// Sends what take_output() has and arms the timer for next_deadline(). After anything that may have changed either.
  void pump();
  /// Starts the relay of a stream that was opened: the side's user pointer is set, the caller wires the relay.
  std::unique_ptr<MuxSide> make_side(StreamId stream);
  void send_frames(ConstSpan frames);
  /// Ends every stream with an error and closes the transport. The owner's on_tunnel_over() follows by deferred work.
  /// A destructor calls it first thing, while the hooks below still work.
  void die(const Error& why);
  /// Carries nothing more; its last bytes may still be on their way.
  bool dead() const { return dead_; }

  // What the kind of tunnel decides.
  virtual Decoded<> feed(ConstSpan plain) = 0;
  virtual Bytes take_output() = 0;
  virtual void tick() = 0;
  virtual TimePoint next_deadline() const = 0;
  virtual void forget(StreamId stream) = 0;
  virtual void set_user(StreamId stream, void* user) = 0;
  virtual void* user_of(StreamId stream) const = 0;
  virtual reverse::HalfClose half_close(StreamId stream) const = 0;
  /// A FIN has gone out; true: that was the stream's end.
  virtual bool fin_sent(StreamId stream) = 0;
  /// Our end of the stream sends no more, and End has gone out or waits.
  virtual void hold(StreamId stream, bool end_sent) = 0;
  /// HalfClose::quiet: how long an answer must have paused before End stops it; 0: End at once.
  virtual Duration quiet_before_end() const { return Duration(0); }
  virtual void abort_streams() = 0;
  virtual std::size_t max_data() const = 0;
  virtual std::size_t max_datagram() const { return mux::kMaxDatagram; }
  virtual void on_reading_changed(bool reading) = 0;
  /// Looked at after every feed and tick: whether the tunnel has to end.
  virtual bool finished() const = 0;
  /// Then: why. An orderly end lets the last bytes arrive.
  virtual reverse::TunnelEnd end() const { return reverse::TunnelEnd::idle; }
  virtual void on_tunnel_over(const Error& why) = 0;

  // mux::SessionEvents
  void on_data(StreamId stream, void* user, ConstSpan piece) override;
  void on_datagram(StreamId stream, void* user, const Target* from, ConstSpan payload) override;
  void on_end(StreamId stream, void* user, bool error) override;
  void on_fin(StreamId stream, void* user) override;

  net::Loop& loop_;
  Wire wire_;

 private:
  // WireObserver
  void on_plain(MutSpan bytes) override;
  void on_batch_end() override;
  void on_wire_end() override;
  void on_wire_failed(Error why) override;
  void on_wire_room() override;
  void on_wire_sent_all() override;

  void send_data(MuxSide& side, ConstSpan piece);
  void send_own(ConstSpan frames);
  void wait_for_room(MuxSide& side);
  void stop_waiting(MuxSide& side);
  void add_behind(MuxSide& side);
  void remove_behind(MuxSide& side);
  void unlist(MuxSide& side);
  void check_behind();
  void end_soon(MuxSide& side);
  void end_those_due();
  void set_over_limit(bool over);
  void timer_fired();
  bool end_if_finished();
  void leave(const Error& why);
  void gone();

  BlockPool& blocks_;
  TunnelLimits limits_;
  net::Timer timer_;
  net::Timer behind_timer_;
  net::Timer ending_timer_;
  net::Deferred check_later_;
  net::Deferred over_later_;
  std::vector<MuxSide*> dirty_;
  std::vector<MuxSide*> behind_;
  struct Ending {
    TimePoint due;
    StreamId stream;
  };
  std::deque<Ending> ending_;  // whose End waits for a sign that the visitor has left altogether
  MuxSide* first_waiting_ = nullptr;  // sides whose other side was told to stop, in order
  MuxSide* last_waiting_ = nullptr;
  std::size_t unchecked_ = 0;  // bytes that came since check_behind()
  Error why_over_{};
  std::uint64_t left_at_ = 0;  // leaving: the wire's written() when the timer was set
  bool over_limit_ = false;
  bool dead_ = false;
  bool leaving_ = false;  // dead, and the last bytes are on their way
};

}  // namespace ebb::relay
