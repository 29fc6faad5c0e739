// A tunnel: one wire that carries many mux streams. What portal, bridge and forward mux have in common: frames out of
// sides, frames into sides, slow consumers. Each kind's own rules are in common/reverse and reached by the hooks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/protocol/mux/session.h"
#include "common/reverse/tunnel.h"
#include "worker/relay/relay.h"
#include "worker/relay/wire.h"

namespace ebb::relay {

class Tunnel;

/// The side of a relay that is a stream of a tunnel.
class MuxSide final : public Side {
 public:
  /// `hold_half_close`: an end of the other side is not told to the peer, who would stop answering (a legacy bridge;
  /// spec/mux-cool.md 6.3). The relay's timer decides how long.
  MuxSide(Tunnel& tunnel, StreamId stream, bool hold_half_close);
  ~MuxSide() override;

  void send(ConstSpan piece) override;
  void flush() override {}
  void send_end() override;
  void abort() override;
  void wind_down() override;
  bool has_room() override;
  std::size_t queued() const override { return 0; }
  std::uint64_t delivered() const override { return sent_; }
  void pause() override;
  void resume() override;
  void close() override;
  StreamId stream() const { return stream_; }

 private:
  friend class Tunnel;
  void end(bool error);
  Side& consumer() { return relay_->other(*this); }

  Tunnel* tunnel_;  // null once the stream is over
  StreamId stream_;
  std::uint64_t sent_ = 0;
  bool hold_half_close_;
  bool dirty_ = false;    // got data in this batch
  bool waiting_ = false;  // in the tunnel's queue for room
  bool lagging_ = false;  // its consumer is slower than the tunnel
  std::uint64_t seen_delivered_ = 0;
  TimePoint progress_at_{};
};

struct TunnelLimits {
  std::size_t stream_buffer = 8u << 20;   // bytes queued towards one consumer
  std::size_t tunnel_buffer = 32u << 20;  // and towards all consumers of a tunnel
  Duration stall = std::chrono::seconds(10);
};

class Tunnel : protected WireObserver, protected mux::SessionEvents {
 public:
  /// `codec` null: frames without any protocol below.
  Tunnel(net::Loop& loop, BlockPool& blocks, std::unique_ptr<Codec> codec, TunnelLimits limits);
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;
  ~Tunnel() override;

  std::uint64_t bytes_in() const { return wire_.received(); }
  std::uint64_t bytes_out() const { return wire_.written(); }
  std::size_t unsent() const { return wire_.queued(); }
  /// A consumer lags so far that the tunnel is not read: no new streams for now.
  bool congested() const { return !lagging_.empty() && over_limit_; }

 protected:
  friend class MuxSide;
  /// Starts on a connected stream.
  void attach(std::unique_ptr<net::Stream> stream, Bytes unread);
  /// Sends what take_output() has and arms the timer for next_deadline(). After anything that may have changed either.
  void pump();
  /// Starts the relay of a stream that was opened: the side's user pointer is set, the caller wires the relay.
  std::unique_ptr<MuxSide> make_side(StreamId stream, bool hold_half_close);
  void send_frames(ConstSpan frames);
  /// Ends every stream with an error and closes the transport. The owner's on_tunnel_over() follows by deferred work.
  void die(const Error& why);
  bool dead() const { return dead_; }

  // What the kind of tunnel decides.
  virtual Decoded<> feed(ConstSpan plain) = 0;
  virtual Bytes take_output() = 0;
  virtual void tick() = 0;
  virtual TimePoint next_deadline() const = 0;
  virtual void forget(StreamId stream) = 0;
  virtual void set_user(StreamId stream, void* user) = 0;
  virtual void abort_streams() = 0;
  virtual std::size_t max_data() const = 0;
  virtual void on_reading_changed(bool reading) = 0;
  /// Looked at after every feed and tick: say why the tunnel has to end, if it has to.
  virtual bool finished() const = 0;
  virtual void on_tunnel_over(const Error& why) = 0;

  // mux::SessionEvents
  void on_data(StreamId stream, void* user, ConstSpan piece) override;
  void on_end(StreamId stream, void* user, bool error) override;

  net::Loop& loop_;
  Wire wire_;

 private:
  // WireObserver
  void on_plain(MutSpan bytes) override;
  void on_batch_end() override;
  void on_wire_end() override;
  void on_wire_failed(Error why) override;
  void on_wire_room() override;

  void send_data(MuxSide& side, ConstSpan piece);
  void wait_for_room(MuxSide& side);
  void add_lagging(MuxSide& side);
  void remove_lagging(MuxSide& side);
  void unlist(MuxSide& side);
  void check_lagging();
  void set_over_limit(bool over);
  void timer_fired();

  TunnelLimits limits_;
  net::Timer timer_;
  net::Timer lag_timer_;
  net::Deferred over_later_;
  std::vector<MuxSide*> dirty_;
  std::vector<MuxSide*> waiting_;  // sides whose other side was told to stop, in order
  std::vector<MuxSide*> lagging_;
  Error why_over_{};
  bool over_limit_ = false;
  bool dead_ = false;
};

}  // namespace ebb::relay
