// The portal's end of one tunnel: probe for the bridge's dialect, control stream, draining, liveness; and user streams.
// Sans-IO: bytes in, bytes out, time as an argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/base/time.h"
#include "common/protocol/mux/session.h"
#include "common/reverse/control.h"
#include "common/reverse/tunnel.h"

namespace ebb::reverse {

struct PortalTunnelSettings {
  std::string domain;                   // the portal's own; never put into a New frame (spec/reverse.md 4.6)
  std::optional<Dialect> forced;        // configuration, or a VLESS command-4 tunnel (xray): no probe, no hello
  std::optional<Dialect> remembered;    // from the last tunnel of this user and domain: probed first, still verified
  bool offer_hello = true;              // false: the probe frames carry no marker
  Hello hello;                          // what we say of ourselves; max_data 0 = 65535
  std::uint64_t seed = 0;               // padding
  std::size_t max_streams = 65000;      // live user streams; beyond it the tunnel is not picked
  std::size_t drain_after = 256;        // user streams ever, legacy bridge: as V2Ray
  std::size_t drain_after_ids = 60000;  // ids, our own bridge
};

class PortalTunnel {
 public:
  enum class State : std::uint8_t {
    probing,  // usable for streams, dialect not known yet
    active,
    draining,  // usable for streams only while no other tunnel is
    dead,      // close the transport, abort_streams()
  };

  PortalTunnel(PortalTunnelSettings settings, TimePoint now);

  /// Tunnel bytes from the bridge. `events` sees user streams only. An error means the tunnel is dead (end() says
  /// fatal_frame). Append take_output() to the tunnel's output afterwards.
  Decoded<> feed(ConstSpan in, TimePoint now, mux::SessionEvents& events);
  /// Runs what is due. Call at next_deadline() or any time; then take_output() and look at state().
  void tick(TimePoint now);
  /// May lie in the past: due now. TimePoint::max() when dead. Ask again after every call that takes `now`, and after
  /// open() and close().
  TimePoint next_deadline() const;
  Bytes take_output() { return session_.take_output(); }
  bool has_output() const { return session_.has_output(); }

  /// Opens a user stream: writes New to `out` (mux::kMaxHead bytes) and the caller appends `data_bytes` bytes. nullopt:
  /// dead, spent or full tunnel, the portal's own domain, or a target Mux.cool cannot carry.
  std::optional<mux::Session::Opened> open(const Target& target, void* user, MutSpan out, std::size_t data_bytes = 0);
  /// The local side forgets the stream after writing its End.
  void close(StreamId stream) {
    if (!internal(stream)) session_.close(stream);
  }
  void set_user(StreamId stream, void* user) { session_.set_user(stream, user); }
  HalfClose half_close(StreamId stream) const;
  /// The local side wrote a FIN (HalfClose::fin). True: that was the stream's end.
  bool fin_sent(StreamId stream) { return session_.fin_sent(stream); }
  /// The visitor sends no more, and his End has gone out (HalfClose::listen) or waits (quiet): no load any more.
  void hold(StreamId stream, bool end_sent);
  /// Reports on_end(error) for every user stream and forgets them all.
  void abort_streams(mux::SessionEvents& events);

  State state() const { return state_; }
  TunnelEnd end() const { return end_; }
  std::optional<Dialect> dialect() const { return dialect_; }  // nullopt while probing and with our own bridge
  bool dialect_unsure() const { return unsure_; }              // nobody answered: assumed
  /// What to remember for the next tunnel of this user and domain.
  std::optional<Dialect> dialect_to_remember() const { return unsure_ ? std::nullopt : dialect_; }
  const std::optional<Hello>& peer_hello() const { return peer_hello_; }  // set: our own bridge
  SendLimits send_limits() const { return send_limits_; }
  /// The bridge reads and writes a packet's own address in UDP Keep frames.
  bool packet_addresses() const {
    if (peer_hello_) return (peer_hello_->features & settings_.hello.features & kFeaturePacketAddress) != 0;
    return dialect_ == Dialect::xray && !unsure_;
  }
  /// Load: streams that may carry something in both directions.
  std::size_t user_streams() const;
  /// Those, and the ones that wait for the rest of an answer.
  std::size_t open_streams() const { return user_streams() + session_.held_streams(); }
  std::size_t streams_opened() const { return opened_; }
  const mux::Session& session() const { return session_; }
  Duration rtt() const { return liveness_.rtt(); }

  /// May get new streams like any other.
  bool pickable(TimePoint now) const;
  /// May get new streams while no other tunnel is there.
  bool pickable_as_last(TimePoint now) const;
  /// How many streams could be opened on it one after the other now.
  std::size_t room() const;

  /// Its visitors are served elsewhere: another tunnel of this bridge is up, or the successor of this process serves
  /// the portal. A draining tunnel closes as soon as it is empty then; without that it stays, for visitors who come.
  void set_replaced(bool replaced) { replaced_ = replaced; }
  bool replaced() const { return replaced_; }
  /// DRAIN technique (spec/reverse.md 8.3): makes the bridge dial another tunnel; this one stays fully usable.
  void ask_for_another(TimePoint now);
  bool asked_for_another() const { return tell_drain_; }
  void set_max_streams(std::size_t streams) { settings_.max_streams = streams; }
  /// A consumer lags (spec/mux-cool.md 7): no new streams for now.
  void set_congested(bool congested) { congested_ = congested; }
  /// Planned replacement or `ctl drain`: DRAIN, with notice code 1 to our own bridge, and no new streams while another
  /// tunnel is there.
  void drain(TimePoint now);
  /// Takes drain() back, as far as nothing else makes this tunnel leave: its age, or the bridge.
  void resume(TimePoint now);
  /// Tell when the transport is not read because of back-pressure: silence proves nothing then.
  void set_reading(bool reading, TimePoint now) { liveness_.set_reading(reading, now); }

 private:
  struct Inner;  // sorts control and probe streams from user streams
  enum class Probe : std::uint8_t { none, hello_wait, end_wait };

  void start_probe();
  void judge_probe(TimePoint now);
  void probe_answered(StreamId stream, TimePoint now);
  void stop_probe();
  void decide(Dialect dialect, TimePoint now);
  void on_hello(const Hello& hello, StreamId stream, TimePoint now);
  std::optional<StreamId> open_internal(std::string_view name, ConstSpan payload, ConstSpan trailing);
  Bytes beat(bool with_hello);
  void open_control(TimePoint now, bool with_hello);
  void send_beat(TimePoint now, bool with_hello);
  void control_lost(TimePoint now);
  void leave(bool& why, TimePoint now);
  void review_state();
  void on_control_data(StreamId stream, ConstSpan payload, TimePoint now);
  bool drain_due() const;
  bool finished() const;  // drained and nothing left to serve
  void close_when_done(TimePoint now);
  void die(TunnelEnd why);
  bool internal(StreamId stream) const;
  Duration beat_interval() const;

  PortalTunnelSettings settings_;
  mux::Session session_;
  Padding padding_;
  Liveness liveness_;
  State state_ = State::probing;
  TunnelEnd end_ = TunnelEnd::none;

  Probe probe_ = Probe::none;
  StreamId probe_ids_[2]{};
  Dialect probe_names_[2]{Dialect::v2ray, Dialect::v2fly};
  bool answered_[2]{};
  TimePoint started_;
  TimePoint judge_at_{};  // probe: when the evidence is complete

  std::optional<Dialect> dialect_;
  bool unsure_ = false;
  std::uint8_t tried_ = 0;  // bit per dialect whose control stream the bridge ended
  std::optional<Hello> peer_hello_;
  std::uint64_t features_ = 0;  // agreed, for streams opened from here on
  SendLimits send_limits_;

  std::optional<StreamId> control_;
  TimePoint next_beat_ = TimePoint::max();
  bool tell_drain_ = false;     // beats say DRAIN from now on
  bool planned_ = false;        // why it drains: drain(),
  bool aged_ = false;           // too many streams or ids ever,
  bool bridge_leaves_ = false;  // or our own bridge said so
  bool replaced_ = false;
  bool congested_ = false;
  std::size_t opened_ = 0;

  TimePoint next_idle_check_;
  std::size_t ids_at_idle_check_ = 0;
  bool idle_at_check_ = false;
};

}  // namespace ebb::reverse
