// The portal's end of one tunnel: probe for the bridge's dialect, control stream, draining, liveness; and user streams.
// Sans-IO: bytes in, bytes out, time as an argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/base/time.h"
#include "common/protocol/mux/session.h"
#include "common/reverse/control.h"
#include "common/reverse/engine.h"
#include "common/reverse/flow_control.h"
#include "common/reverse/tunnel.h"

namespace ebb::reverse {

struct PortalTunnelSettings {
  std::string domain;                   // the portal's own; never put into a New frame (PROTOCOL.md, registration)
  std::optional<Dialect> forced;        // configuration, or a VLESS command-4 tunnel (xray): no probe, no hello
  std::optional<Dialect> remembered;    // from the last tunnel of this user and domain: probed first, still verified
  bool offer_hello = true;              // false: the probe frames carry no marker
  bool know_first = false;              // no user streams before it is known whose bridge this is
  Hello hello;                          // what we say of ourselves; max_data 0 = 65535
  std::uint64_t seed = 0;               // padding
  std::size_t max_streams = 65000;      // live user streams; beyond it the tunnel is not picked
  std::size_t drain_after = 256;        // user streams ever, legacy bridge: as V2Ray
  std::size_t drain_after_ids = 60000;  // ids, our own bridge
  std::uint64_t budget = std::uint64_t{32} << 20;  // bytes that streams with credit may cost, limits.tunnelBuffer
};

class PortalTunnel final : public Engine {
 public:
  enum class State : std::uint8_t {
    probing,  // usable for streams, dialect not known yet
    active,
    draining,  // usable for streams only while no other tunnel is
    dead,      // close the transport, abort_streams()
  };

  PortalTunnel(PortalTunnelSettings settings, TimePoint now);

  // Engine
  Decoded<> feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) override;
  void tick(TimePoint now) override;
  TimePoint next_deadline() const override;
  Bytes take_output() override;
  bool has_output() const override { return session_.has_output() || (control_ && flow_.owes()); }
  bool dead() const override { return state_ == State::dead; }
  TunnelEnd end() const override { return end_; }
  Violations violations() const override { return Violations::of(session_.counters(), credit_overruns_, bad_control_); }
  void set_user(StreamId stream, void* user) override { session_.set_user(stream, user); }
  void* user(StreamId stream) const override { return session_.user(stream); }
  void close(StreamId stream, TimePoint) override { close(stream); }
  void abort_streams(mux::SessionEvents& events) override;
  SendLimits send_limits() const override { return send_limits_; }
  bool packet_addresses() const override;
  bool tells_reasons() const override { return (features_ & kFeatureAbortReason) != 0; }
  std::optional<Abort> abort_reason() const override { return decode_abort(session_.end_data()); }
  HalfClose half_close(StreamId stream) const override;
  bool fin_sent(StreamId stream, TimePoint now) override;
  void hold(StreamId stream, bool end_sent) override;
  std::uint64_t credit(StreamId stream) const override { return flow_.left(stream); }
  bool holds_peer_to_credit(StreamId stream) const override { return flow_.enforced(stream); }
  void spent(StreamId stream, std::uint64_t bytes) override { flow_.spent(stream, bytes); }
  void consumed(StreamId stream, std::uint64_t bytes, TimePoint now) override { flow_.consumed(stream, bytes, now); }
  void set_pressed(bool pressed) override { flow_.budget().set_pressed(pressed); }
  void set_budget(std::uint64_t bytes) override { flow_.budget().resize(bytes); }
  void set_reading(bool reading, TimePoint now) override { liveness_.set_reading(reading, now); }

  /// Opens a user stream: writes New to `out` (mux::kMaxHead bytes) and the caller appends `data_bytes` bytes. nullopt:
  /// dead, spent or full tunnel, the portal's own domain, or a target Mux.cool cannot carry. The bridge is told who the
  /// `visitor` is if it can take that.
  std::optional<mux::Session::Opened> open(const Target& target, void* user, MutSpan out, std::size_t data_bytes = 0,
                                           const VisitorAddress& visitor = {});
  void close(StreamId stream);

  State state() const { return state_; }
  std::optional<Dialect> dialect() const { return dialect_; }  // nullopt while probing and with our own bridge
  /// What to remember for the next tunnel of this user and domain: nothing where it was only assumed.
  std::optional<Dialect> dialect_to_remember() const { return unsure_ ? std::nullopt : dialect_; }
  const std::optional<Hello>& peer_hello() const { return peer_hello_; }  // set: our own bridge
  /// Load: streams that may carry something in both directions.
  std::size_t user_streams() const;
  /// Those, and the ones that wait for the rest of an answer.
  std::size_t open_streams() const { return user_streams() + session_.held_streams(); }
  const mux::Session& session() const { return session_; }
  Duration rtt() const { return liveness_.rtt(); }

  /// May get new streams like any other.
  bool pickable(TimePoint now) const;
  /// May get new streams while no other tunnel is there. A congested one only if none has come to its help for so
  /// long that none will: slow is better than never.
  bool pickable_as_last(TimePoint now) const;
  static constexpr Duration kHelpless = std::chrono::seconds(5);  // stock bridges look every 2 s whether to dial
  /// Takes none while congested, but for those who do not deserve better.
  bool congested() const { return congested_; }
  /// Could carry a new stream, however slowly.
  bool could_serve(TimePoint now) const;
  /// How many streams could be opened on it one after the other now.
  std::size_t room() const;

  /// Its visitors are served elsewhere: another tunnel of this bridge is up, or the successor of this process serves
  /// the portal. A draining tunnel closes as soon as it is empty then; without that it stays, for visitors who come.
  void set_replaced(bool replaced) { replaced_ = replaced; }
  bool replaced() const { return replaced_; }
  /// DRAIN technique (PROTOCOL.md, DRAIN): makes the bridge dial another tunnel; this one stays fully usable.
  void ask_for_another(TimePoint now);
  bool asked_for_another() const { return tell_drain_; }
  void set_max_streams(std::size_t streams) { settings_.max_streams = streams; }
  /// PortalTunnelSettings::know_first from now on.
  void set_know_first(bool know_first) { settings_.know_first = know_first; }
  /// A consumer lags (common/protocol/mux/PROTOCOL.md, slow consumers): no new streams for now.
  void set_congested(bool congested, TimePoint now);
  /// Another tunnel of its bridge came: while they come there is hope.
  void help_came(TimePoint now);
  /// Planned replacement or `ctl drain`: DRAIN, with notice code 1 to our own bridge, and no new streams while another
  /// tunnel is there.
  void drain(TimePoint now);
  /// Takes drain() back, as far as nothing else makes this tunnel leave: its age, or the bridge.
  void resume(TimePoint now);
  const FlowControl& flow() const { return flow_; }

 private:
  static constexpr auto kIdleCheck = std::chrono::seconds(16);  // common/protocol/mux/PROTOCOL.md, idle

  struct Inner;  // sorts control and probe streams from user streams
  enum class Probe : std::uint8_t { none, hello_wait, end_wait };

  void start_probe();
  void judge_probe(TimePoint now);
  void probe_answered(StreamId stream, TimePoint now);
  void stop_probe();
  void decide(Dialect dialect, TimePoint now);
  void on_hello(const Hello& hello, StreamId stream, TimePoint now, mux::SessionEvents& events);
  std::optional<StreamId> open_internal(std::string_view name, ConstSpan payload, ConstSpan trailing);
  Control message() const;
  void write_control(const Control& message);
  Control beat(bool with_hello);
  void open_control(TimePoint now, bool with_hello);
  void send_beat(TimePoint now, bool with_hello);
  void call_out();
  void control_lost(TimePoint now);
  void leave(bool& why, TimePoint now);
  void review_state();
  void on_control_data(StreamId stream, ConstSpan payload, TimePoint now, mux::SessionEvents& events);
  bool tells_source(Network network, std::size_t data_bytes) const;
  bool closed_to_users() const { return settings_.know_first && probe_ != Probe::none; }
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
  FlowControl flow_;
  std::uint64_t credit_overruns_ = 0;
  std::uint64_t bad_control_ = 0;
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
  TimePoint helpless_at_ = TimePoint::max();  // congested: when it is time to give up hope of another tunnel
  bool helpless_ = false;
  std::size_t opened_ = 0;

  TimePoint next_idle_check_;
  std::size_t ids_at_idle_check_ = 0;
  bool idle_at_check_ = false;
};

}  // namespace ebb::reverse
