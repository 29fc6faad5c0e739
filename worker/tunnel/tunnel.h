// A tunnel: one wire that carries many streams, an engine that knows their rules (common/reverse/engine.h), and who of
// the streams may use the wire next. Frames out of sides, frames into sides, slow consumers of peers without credit.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/reverse/engine.h"
#include "worker/relay/wire.h"
#include "worker/tunnel/laggards.h"
#include "worker/tunnel/mux_side.h"
#include "worker/tunnel/pipe.h"
#include "worker/tunnel/scheduler.h"
#include "worker/tunnel/violations.h"

namespace ebb::tunnel {

/// The last number given to a tunnel of this process, whatever its kind: an administrator names tunnels by them. A
/// process that has contemporaries of its kind begins where none of theirs will get.
inline std::uint64_t& last_tunnel_number() {
  static std::uint64_t last = 0;
  return last;
}

/// What consumers of a peer without credit may hold, kept to within one read. With credit, what all windows of a tunnel
/// may cost: tunnel_buffer.
struct TunnelLimits : LaggardLimits {
  SourceLedger* sources = nullptr;  // null: nothing is counted by source
};

/// Whose tunnel it is. Nothing is called once the tunnel is dead, but on_tunnel_over().
class TunnelOwner {
 public:
  /// The peer wants a stream: make_side(), set_stream_user() or refuse().
  virtual void on_stream_opened(StreamId stream, const Target& target, ConstSpan trailing) = 0;
  /// The engine was fed, ticked, or lost a stream: whoever keeps the pool may have to look at it again.
  virtual void on_tunnel_moved() {}
  /// Tunnel::congested() has changed.
  virtual void on_congestion_changed() {}
  /// HalfClose::quiet: how long an answer must have paused before End stops it; 0: End at once.
  virtual Duration quiet_before_end() const { return Duration(0); }
  /// One client's own: it may be ended when memory is short and he takes too little. No: it carries many, and pings
  /// tell whether it is alive.
  virtual bool expendable() const { return false; }
  /// By deferred work, once: the owner may destroy the tunnel.
  virtual void on_tunnel_over(const Error& why) = 0;

 protected:
  ~TunnelOwner() = default;
};

class Tunnel final : private relay::WireObserver, private relay::BlockPool::Waiter, private mux::SessionEvents {
 public:
  /// `stack` empty: frames without any protocol below. `peer`: its address, for people.
  Tunnel(net::Loop& loop, relay::BlockPool& blocks, layers::Stack stack, TunnelLimits limits, std::string peer,
         std::unique_ptr<reverse::Engine> engine, TunnelOwner& owner);
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;
  ~Tunnel() override;

  /// Starts on a connected stream.
  void attach(std::unique_ptr<net::Stream> stream, Bytes unread = {});

  reverse::Engine& engine() { return *engine_; }
  const reverse::Engine& engine() const { return *engine_; }
  /// After calling the engine from outside: sends what it wants sent, and arms the timer.
  void pump();
  /// Ends every stream with an error and closes the transport.
  void die(const Error& why);
  /// The same on an order of the administrator.
  void kick(const Error& why);
  bool kicked() const { return kicked_; }
  /// Carries nothing more; its last bytes may still be on their way.
  bool dead() const { return dead_; }

  TunnelId id() const { return id_; }
  const std::string& peer() const { return peer_; }
  TimePoint since() const { return since_; }
  std::uint64_t bytes_in() const { return wire_.received(); }
  std::uint64_t bytes_out() const { return wire_.written(); }
  std::size_t unsent() const { return wire_.queued(); }
  /// The same and what the peer's kernel has not acknowledged. A system call.
  std::size_t undelivered() const { return wire_.queued() + (wire_.stream() ? wire_.stream()->undelivered() : 0); }
  /// A consumer lags, or lately did: no new streams while there is another tunnel.
  bool congested() const { return congested_; }
  /// What consumers without credit hold.
  std::size_t held() const { return laggards_.queued(); }
  /// From the next look at its consumers on.
  void set_limits(TunnelLimits limits);
  net::Stream* transport() { return wire_.stream(); }

  // ---- streams. Opener: engine first, then send_frames(New).
  /// The side of a relay for a stream that is open; the caller wires the relay.
  std::unique_ptr<MuxSide> make_side(StreamId stream, SourceLedger::Key source = 0);
  /// Who is told what comes on `stream`, and its end.
  void set_stream_user(StreamId stream, StreamUser* user) { engine_->set_user(stream, user); }
  /// Frames that nothing holds back: Opens, Ends, answers.
  void send_frames(ConstSpan frames);
  /// End + Error for a stream nobody uses yet, because of our rules.
  void refuse(StreamId stream) { abort_stream(stream, {reverse::AbortReason::denied}); }
  /// End, and the id is forgotten. Nothing is told of it.
  void end_stream(StreamId stream);
  /// The same with an error, and why, for a peer that wants to know.
  void abort_stream(StreamId stream, const reverse::Abort& why);

  // Streams of datagrams (worker/flow). A flow has no back-pressure: what cannot go now is lost.
  /// One datagram of a live stream, as one frame. False: dropped. It is larger than the peer takes, empty (which every
  /// stock peer drops), or too much is unsent. `address`: the packet's own, written in front of it; null: none.
  bool send_datagram(StreamId stream, ConstSpan datagram, const Target* address);

 private:
  friend class MuxSide;

  // relay::WireObserver
  void on_plain(MutSpan bytes) override;
  void on_batch_end() override;
  void on_wire_end() override;
  void on_wire_failed(Error why) override;
  void on_wire_room() override {}  // on_wire_progress() says more
  void on_wire_progress() override;
  bool expendable() const override { return owner_.expendable(); }
  void on_wire_sent_all() override;

  // relay::BlockPool::Waiter
  void on_memory() override { loop_.defer(memory_later_); }

  // mux::SessionEvents
  void on_open(StreamId stream, const Target& target, ConstSpan trailing) override;
  void on_data(StreamId stream, void* user, ConstSpan piece) override;
  void on_datagram(StreamId stream, void* user, const Target* from, ConstSpan payload) override;
  void on_end(StreamId stream, void* user, bool error) override;
  void on_fin(StreamId stream, void* user) override;
  void on_credit(StreamId stream, void* user) override;

  // of sides
  void send_data(StreamId stream, ConstSpan piece);
  std::size_t ask(MuxSide& side);
  void turn_over(MuxSide& side);
  void credited(MuxSide& side);
  std::size_t room();
  void serve();
  void serve_soon();
  void consumer_holds(MuxSide::Lagging& consumer, std::size_t queued, std::uint64_t delivered);
  void consumer_leaves(std::unique_ptr<MuxSide::Lagging> consumer);
  void tell_progress(StreamId stream, std::uint64_t sent_until);
  void consumed(StreamId stream, std::uint64_t bytes);
  bool send_fin(StreamId stream);
  void hold(StreamId stream, bool end_sent);
  void forget(StreamId stream);
  void end_later(StreamId stream, Duration after);
  void end_those_due();
  void unlist(MuxSide& side);

  void look_at_memory();
  void memory_came();
  void follow_laggards();
  void laggards_due();

  void moved();
  void send_own(ConstSpan frames);
  void timer_fired();
  bool end_if_finished();
  void leave(const Error& why);
  void gone();

  net::Loop& loop_;
  relay::Wire wire_;
  relay::BlockPool& blocks_;
  TunnelOwner& owner_;
  std::unique_ptr<reverse::Engine> engine_;
  TunnelLimits limits_;
  TunnelId id_;
  std::string peer_;
  TimePoint since_;
  net::Timer timer_;
  net::Timer laggards_timer_;
  net::Timer ending_timer_;
  net::Timer room_timer_;
  net::Deferred pump_later_;
  net::Deferred serve_later_;
  net::Deferred memory_later_;
  net::Deferred over_later_;
  std::vector<MuxSide*> dirty_;
  struct Ending {
    TimePoint due;
    StreamId stream;
  };
  std::deque<Ending> ending_;  // whose End waits for a sign that the visitor has left altogether; all as long
  struct Sent {
    std::uint64_t until;  // of wire_.written()
    StreamId stream;
  };
  std::deque<Sent> progress_due_;  // whose producer is a stream of another tunnel
  struct Turn {
    MuxSide* side = nullptr;
    std::size_t bytes = 0;  // it may read
    std::size_t used = 0;   // it has sent
  };
  Turn turn_;
  Scheduler scheduler_;
  Laggards laggards_;
  Pipe pipe_;
  std::uint64_t pipe_seen_ = 0;  // of wire_.written()
  bool has_path_ = true;         // the wire can tell about it
  bool serving_ = false;
  Error why_over_{};
  ViolationLog violations_;
  std::uint64_t left_at_ = 0;  // leaving: the wire's written() when the timer was set
  bool pressed_ = false;       // as the engine was told
  bool reading_ = true;
  bool congested_ = false;
  bool kicked_ = false;
  bool dead_ = false;
  bool leaving_ = false;  // dead, and the last bytes are on their way
};

}  // namespace ebb::tunnel
