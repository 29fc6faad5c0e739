// The bridge's end of one tunnel: recognises the portal's control stream under any name, obeys it, answers a hello;
// everything else is a user stream. Sans-IO: bytes in, bytes out, time as an argument.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/time.h"
#include "common/protocol/mux/session.h"
#include "common/reverse/control.h"
#include "common/reverse/engine.h"
#include "common/reverse/flow_control.h"
#include "common/reverse/tunnel.h"

namespace ebb::reverse {

struct BridgeTunnelSettings {
  std::string domain;  // the bridge's own; a New for it is refused (PROTOCOL.md, registration)
  bool answer_hello = true;
  Hello hello;                      // what we say of ourselves; max_data 0 = 65535
  std::uint64_t seed = 0;           // padding
  std::size_t max_streams = 65000;  // live streams
  /// VLESS reverse: the New frames carry source and local address, garbage there is fatal. So do those of our own
  /// portals, when Hello::features says that we read them.
  bool source_local = false;
  std::uint64_t budget = std::uint64_t{32} << 20;  // bytes that streams with credit may cost, limits.tunnelBuffer
};

class BridgeTunnel final : public Engine {
 public:
  enum class State : std::uint8_t { active, draining, dead };
  static constexpr auto kDrainedIdle = std::chrono::seconds(60);

  BridgeTunnel(BridgeTunnelSettings settings, TimePoint now);

  // Engine
  Decoded<> feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) override;
  void tick(TimePoint now) override;
  TimePoint next_deadline() const override;
  Bytes take_output() override;
  bool has_output() const override { return session_.has_output() || (hello_stream_ && flow_.owes()); }
  bool dead() const override { return state_ == State::dead; }
  TunnelEnd end() const override { return end_; }
  Violations violations() const override { return Violations::of(session_.counters(), credit_overruns_, bad_control_); }
  void set_user(StreamId stream, void* user) override { session_.set_user(stream, user); }
  void* user(StreamId stream) const override { return session_.user(stream); }
  void close(StreamId stream, TimePoint now) override;
  void abort_streams(mux::SessionEvents& events) override;
  SendLimits send_limits() const override { return send_limits_; }
  /// A stock portal does not say so.
  bool packet_addresses() const override {
    return peer_hello_ && (peer_hello_->features & settings_.hello.features & kFeaturePacketAddress) != 0;
  }
  bool tells_reasons() const override { return (features_ & kFeatureAbortReason) != 0; }
  std::optional<Abort> abort_reason() const override { return decode_abort(session_.end_data()); }
  HalfClose half_close(StreamId stream) const override {
    return session_.half_close(stream) ? HalfClose::fin : HalfClose::none;
  }
  bool fin_sent(StreamId stream, TimePoint now) override;
  std::uint64_t credit(StreamId stream) const override { return flow_.left(stream); }
  bool holds_peer_to_credit(StreamId stream) const override { return flow_.enforced(stream); }
  void spent(StreamId stream, std::uint64_t bytes) override { flow_.spent(stream, bytes); }
  void consumed(StreamId stream, std::uint64_t bytes, TimePoint now) override { flow_.consumed(stream, bytes, now); }
  void set_pressed(bool pressed) override { flow_.budget().set_pressed(pressed); }
  void set_budget(std::uint64_t bytes) override { flow_.budget().resize(bytes); }
  void set_reading(bool reading, TimePoint now) override { liveness_.set_reading(reading, now); }

  State state() const { return state_; }
  /// All sessions, control included: what the "more than 16" rule counts.
  std::size_t sessions() const { return session_.live_streams(); }
  std::size_t user_streams() const { return session_.live_streams() - control_ids_.size(); }
  /// The name the portal's control stream came under; empty before.
  const std::string& control_name() const { return control_name_; }
  const std::optional<Hello>& peer_hello() const { return peer_hello_; }  // set: our own portal
  /// The portal is ours as far as is known: it showed the marker, its hello may still be under way.
  bool own_portal() const { return marked_ && !taken_for_stock_; }
  /// Who visits, from what stood behind the target of his New; empty where the portal does not tell, or nothing did.
  VisitorAddress visitor_behind(ConstSpan trailing) const;
  const mux::Session& session() const { return session_; }
  Duration rtt() const { return liveness_.rtt(); }
  std::uint64_t refused_own_domain() const { return refused_own_domain_; }

  /// Planned restart: tells our own portal to choose another tunnel. False towards a stock portal, which cannot be told
  /// (and is not written to), and before we know whose portal it is: ours is told as soon as it has said so.
  bool announce_restart();
  /// Takes it back. False as above.
  bool announce_return();
  /// A changed share of the visitors: Hello::weight. False as above, and where it is known; told as soon as it can be.
  bool announce_weight(std::uint32_t weight);
  /// We want to leave it, whether or not the portal could be told.
  bool leaving() const { return leaving_; }
  const FlowControl& flow() const { return flow_; }

 private:
  static constexpr std::size_t kMaxControlStreams = 16;  // stock portals open one, our probe two

  struct Inner;  // sorts control streams from user streams

  void on_open(StreamId stream, const Target& target, ConstSpan trailing, mux::SessionEvents& events);
  void refuse(StreamId stream, AbortReason why);
  void open_control(StreamId stream, const std::string& name, ConstSpan trailing);
  void on_control(StreamId stream, ConstSpan payload, TimePoint now, mux::SessionEvents& events);
  Control message() const;
  void forget_control(StreamId stream);
  void write_control(Control& message);
  bool tell_restart();
  bool tell(Control message);
  void send_ping();
  TimePoint closing_at() const;
  void note_sessions(TimePoint now);
  bool is_control(StreamId stream) const;
  bool reads_source() const;
  void die(TunnelEnd why);

  BridgeTunnelSettings settings_;
  mux::Session session_;
  Padding padding_;
  Liveness liveness_;
  FlowControl flow_;
  std::uint64_t credit_overruns_ = 0;
  State state_ = State::active;
  TunnelEnd end_ = TunnelEnd::none;
  std::vector<StreamId> control_ids_;     // live control streams; bounded
  bool marked_ = false;                   // the portal showed the marker, and we answered
  bool taken_for_stock_ = false;          // too late for it
  std::optional<StreamId> hello_stream_;  // where we answered, and may write
  std::string control_name_;
  bool leaving_ = false;  // announce_restart()
  std::uint32_t announced_weight_ = 0;
  std::optional<Hello> peer_hello_;
  std::uint64_t features_ = 0;  // agreed, for streams opened from here on
  SendLimits send_limits_;
  TimePoint empty_since_;  // TimePoint::max() while a session is live
  TimePoint draining_since_{};
  std::optional<WireError> bad_trailing_;
  std::uint64_t refused_own_domain_ = 0;
  std::uint64_t bad_control_ = 0;
};

}  // namespace ebb::reverse
