// PortalTunnel: the control stream, what is said and heard on it, and when the tunnel is left.
#include <array>
#include <utility>

#include "common/reverse/extension.h"
#include "common/reverse/portal_tunnel.h"

namespace ebb::reverse {

std::optional<StreamId> PortalTunnel::open_internal(std::string_view name, ConstSpan payload, ConstSpan trailing) {
  std::array<std::uint8_t, mux::kMaxHead> head{};
  const Target target{Network::udp, std::string(name), 0};
  const auto opened = session_.open(target, nullptr, head, payload.size(), trailing);
  if (!opened) return std::nullopt;
  session_.append_output(ConstSpan(head).first(opened->head_bytes));
  session_.append_output(payload);
  return opened->stream;
}

/// The bridge reads our state out of every message, whatever it was sent for.
Control PortalTunnel::message() const {
  Control out;
  out.state = tell_drain_ ? kStateDrain : kStateActive;
  if (planned_ && peer_hello_) out.notice = Notice{kNoticeRestart, "restart", 0};
  return out;
}

Control PortalTunnel::beat(bool with_hello) {
  Control beat = message();
  beat.random = padding_.next();
  if (with_hello) beat.hello = settings_.hello;
  return beat;
}

/// To our own bridge, on the stream it reads.
void PortalTunnel::write_control(const Control& message) {
  if (control_) append_control(session_, *control_, message);
}

Bytes PortalTunnel::take_output() {
  while (control_ && flow_.owes()) {
    Control windows = message();
    windows.windows = flow_.take();
    if (!windows.windows.empty()) write_control(windows);
  }
  return session_.take_output();
}

void PortalTunnel::open_control(TimePoint now, bool with_hello) {
  control_ = open_internal(control_name(dialect_.value_or(Dialect::v2ray)), encode_control(beat(with_hello)), {});
  next_beat_ = control_ ? now + beat_interval() : TimePoint::max();
}

void PortalTunnel::send_beat(TimePoint now, bool with_hello) {
  if (!control_) return;
  write_control(beat(with_hello));
  next_beat_ = now + beat_interval();
}

Duration PortalTunnel::beat_interval() const {
  return dialect_ == Dialect::xray ? std::chrono::seconds(10) : std::chrono::seconds(2);
}

void PortalTunnel::control_lost(TimePoint now) {
  control_.reset();
  next_beat_ = TimePoint::max();
  if (peer_hello_ || settings_.forced || !dialect_) return;
  // A stock bridge never ends the right control stream: the guess was wrong (PROTOCOL.md, probe).
  tried_ |= 1U << static_cast<unsigned>(*dialect_);
  for (const auto next : {Dialect::v2ray, Dialect::v2fly, Dialect::xray}) {
    if ((tried_ >> static_cast<unsigned>(next) & 1U) != 0) continue;
    unsure_ = true;
    send_limits_ = {};
    return decide(next, now);
  }
  unsure_ = true;  // none of the names: it runs without a control stream
}

void PortalTunnel::on_control_data(StreamId stream, ConstSpan payload, TimePoint now, mux::SessionEvents& events) {
  const bool marked = probe_ != Probe::none && settings_.offer_hello;
  if (!marked && !peer_hello_) return;  // a stock bridge has nothing to say here; a redirect target may
  const auto message = decode_control(payload);
  if (!message) {
    // Before a hello it may be anybody's: a bridge that does not know the name sends what its redirect target says.
    if (peer_hello_) ++bad_control_;
    return;
  }
  if (message->hello) on_hello(*message->hello, stream, now, events);
  if (!peer_hello_) return;
  if (const auto pong = take_extension(*message, now, flow_, liveness_, session_, events)) {
    Control answer = this->message();
    answer.ping = pong;
    write_control(answer);
  }
  // Our own bridge plans a restart: choose another tunnel. Stock bridges cannot say this.
  const bool leaving = message->draining() || (message->notice && message->notice->code == kNoticeRestart);
  if (!peer_hello_ || state_ == State::dead || std::exchange(bridge_leaves_, leaving) == leaving) return;
  review_state();
}

// --- draining and closing ------------------------------------------------------------------------------------------

bool PortalTunnel::drain_due() const {
  if (state_ == State::draining || state_ == State::dead) return false;
  return peer_hello_ ? session_.ids_used() >= settings_.drain_after_ids : opened_ >= settings_.drain_after;
}

void PortalTunnel::drain(TimePoint now) { leave(planned_, now); }

void PortalTunnel::leave(bool& why, TimePoint now) {
  if (state_ == State::dead || std::exchange(why, true)) return;
  state_ = State::draining;
  tell_drain_ = true;
  send_beat(now, false);
}

void PortalTunnel::resume(TimePoint now) {
  if (state_ == State::dead || !std::exchange(planned_, false)) return;
  review_state();
  tell_drain_ = aged_;  // whoever wants another tunnel of the bridge asks again
  send_beat(now, false);
}

void PortalTunnel::review_state() {
  if (planned_ || aged_ || bridge_leaves_) {
    state_ = State::draining;
  } else {
    state_ = probe_ == Probe::none ? State::active : State::probing;
  }
}

void PortalTunnel::ask_for_another(TimePoint now) {
  if (std::exchange(tell_drain_, true) || state_ == State::dead) return;
  control_ || probe_ == Probe::none ? send_beat(now, false) : call_out();
}

/// While the dialect is not known, and what would tell it may lie behind a consumer that lags: under every name.
void PortalTunnel::call_out() {
  Control drain = message();
  drain.random = padding_.next();
  drain.hello = Hello{.version = 0, .features = 0};  // to our own bridge: nothing is decided yet
  const auto payload = encode_control(drain);
  for (const auto dialect : {Dialect::v2ray, Dialect::v2fly, Dialect::xray}) {
    const auto stream = open_internal(control_name(dialect), payload, {});
    if (!stream) continue;
    session_.queue_end(*stream, false);
    session_.close(*stream);
  }
}

bool PortalTunnel::finished() const {
  return state_ == State::draining && (replaced_ || !session_.ids_left()) && open_streams() == 0;
}

void PortalTunnel::close_when_done(TimePoint now) {
  if (finished()) {
    if (control_) session_.queue_end(*control_, false);
    return die(session_.ids_left() ? TunnelEnd::drained : TunnelEnd::spent);
  }
  if (now < next_idle_check_) return;
  next_idle_check_ = now + kIdleCheck;
  const bool idle = session_.live_streams() == 0;
  if (idle && idle_at_check_ && session_.ids_used() == ids_at_idle_check_) return die(TunnelEnd::idle);
  idle_at_check_ = idle;
  ids_at_idle_check_ = session_.ids_used();
}

}  // namespace ebb::reverse
