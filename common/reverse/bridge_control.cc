// BridgeTunnel: the control streams, what is heard on them and said on the one that our own portal reads.
#include <array>
#include <utility>

#include "common/reverse/bridge_tunnel.h"
#include "common/reverse/extension.h"

namespace ebb::reverse {

void BridgeTunnel::open_control(StreamId stream, const std::string& name, ConstSpan trailing) {
  if (control_ids_.size() >= kMaxControlStreams) {
    ++bad_control_;
    session_.queue_end(stream, true);
    session_.close(stream);
    return;
  }
  control_ids_.push_back(stream);
  control_name_ = name;
  session_.set_message_stream(stream);
  session_.set_silent(stream);  // as V2Ray: no frame comes back, whatever the portal does with it
  if (settings_.answer_hello && !marked_ && mux::has_hello_marker(trailing)) {
    marked_ = true;
    hello_stream_ = stream;
    if ((settings_.hello.features & kFeatureCredit) != 0) flow_.expect(true);
    Control message;
    message.hello = settings_.hello;
    write_control(message);
    announced_weight_ = settings_.hello.weight;
  }
}

void BridgeTunnel::on_control(StreamId stream, ConstSpan payload, TimePoint now, mux::SessionEvents& events) {
  const auto message = decode_control(payload);
  if (!message) {
    ++bad_control_;  // as V2Ray: the stream goes on
    return;
  }
  const bool leaving = message->draining() || (marked_ && message->notice && message->notice->code == kNoticeRestart);
  if (leaving && state_ == State::active) {
    state_ = State::draining;
    draining_since_ = now;
  } else if (!leaving && state_ == State::draining) {
    state_ = State::active;
  }
  const bool decided = !message->hello || message->hello->version != 0;
  if (message->hello && marked_ && decided) {
    hello_stream_ = stream;  // the portal reads this one from now on
    const bool fresh = !peer_hello_;
    if (fresh) peer_hello_ = *message->hello;
    send_limits_ = limits_from(*peer_hello_);
    features_ = peer_hello_->features & settings_.hello.features;
    const auto early = (features_ & kFeatureCredit) != 0 ? flow_.agree(peer_hello_->initial_window) : flow_.forgo();
    if ((features_ & kFeaturePing) != 0) liveness_.use_own_pings(now);
    if (tells_reasons()) session_.agree_end_data();
    if (fresh && leaving_) tell_restart();
    if (fresh) announce_weight(settings_.hello.weight);
    tell_agreed(early, features_, session_, events);
  }
  if (!peer_hello_) {
    if (!marked_ || !decided) return;
    taken_for_stock_ = true;
    tell_agreed(flow_.forgo(), 0, session_, events);
    return;
  }
  if (const auto pong = take_extension(*message, now, flow_, liveness_, session_, events)) {
    Control answer = this->message();
    answer.ping = pong;
    tell(std::move(answer));
  }
}

void BridgeTunnel::forget_control(StreamId stream) {
  std::erase(control_ids_, stream);
  if (hello_stream_ == stream) hello_stream_.reset();
}

/// The portal reads our state out of every message, whatever it was sent for.
Control BridgeTunnel::message() const {
  Control out;
  if (!leaving_) return out;
  out.state = kStateDrain;
  out.notice = Notice{kNoticeRestart, "restart", 0};
  return out;
}

Bytes BridgeTunnel::take_output() {
  while (hello_stream_ && flow_.owes()) {
    Control windows = message();
    windows.windows = flow_.take();
    if (!windows.windows.empty()) write_control(windows);
  }
  return session_.take_output();
}

void BridgeTunnel::write_control(Control& message) {
  if (message.windows.empty() && !message.ping) message.random = padding_.next();
  append_control(session_, *hello_stream_, message);
}

bool BridgeTunnel::announce_restart() {
  leaving_ = true;
  return tell_restart();
}

bool BridgeTunnel::announce_return() {
  leaving_ = false;
  return tell(message());
}

bool BridgeTunnel::announce_weight(std::uint32_t weight) {
  settings_.hello.weight = weight;
  if (announced_weight_ == weight) return false;
  Control again = message();
  again.hello = settings_.hello;
  if (!tell(std::move(again))) return false;
  announced_weight_ = weight;
  return true;
}

bool BridgeTunnel::tell_restart() {
  Control restart = message();
  restart.state = kStateDrain;
  restart.notice = Notice{kNoticeRestart, "restart", 0};
  return tell(std::move(restart));
}

bool BridgeTunnel::tell(Control message) {
  if (!peer_hello_ || !hello_stream_ || state_ == State::dead) return false;
  write_control(message);
  return true;
}

}  // namespace ebb::reverse
