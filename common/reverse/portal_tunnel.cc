#include "common/reverse/portal_tunnel.h"

#include <algorithm>
#include <array>
#include <utility>

#include "common/reverse/extension.h"

namespace ebb::reverse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// PROTOCOL.md, probe: its clock.
constexpr auto kHelloWait = milliseconds(150);
constexpr auto kOneAnswerWait = milliseconds(400);
constexpr auto kNoAnswerWait = seconds(10);
constexpr auto kIdleCheck = seconds(16);     // common/protocol/mux/PROTOCOL.md, idle
constexpr StreamId kPingId{0xffff};          // never allocated, so every peer answers End
constexpr std::size_t kInternalStreams = 8;  // room for control and probe beside the users' streams

}  // namespace

/// Sits between the session and the owner: control and probe streams stay inside, the rest passes through.
struct PortalTunnel::Inner final : mux::SessionEvents {
  Inner(PortalTunnel& tunnel, mux::SessionEvents& users, TimePoint at) : self(tunnel), events(users), now(at) {}

  void on_open(StreamId, const Target&, ConstSpan) override {}  // an opener never gets one
  void on_data(StreamId stream, void* user, ConstSpan piece) override {
    if (self.flow_.received(stream, piece.size())) return events.on_data(stream, user, piece);
    ++self.credit_overruns_;
    self.session_.queue_end(stream, true);
    self.close(stream);
    events.on_end(stream, user, true);
  }
  void on_datagram(StreamId stream, void* user, const Target* from, ConstSpan payload) override {
    if (self.internal(stream)) return self.on_control_data(stream, payload, now, events);
    events.on_datagram(stream, user, from, payload);
  }
  void on_fin(StreamId stream, void* user) override {
    self.session_.live(stream) ? self.flow_.finished(stream) : self.flow_.closed(stream);
    events.on_fin(stream, user);
  }
  void on_end(StreamId stream, void* user, bool error) override {
    if (self.control_ == stream) return self.control_lost(now);
    if (self.internal(stream)) return self.probe_answered(stream, now);
    self.flow_.closed(stream);
    events.on_end(stream, user, error);
  }
  void on_stray_end(StreamId stream) override {
    if (stream == kPingId) self.liveness_.ping_answered(now);
    events.on_stray_end(stream);
  }

  PortalTunnel& self;
  mux::SessionEvents& events;
  TimePoint now;
};

PortalTunnel::PortalTunnel(PortalTunnelSettings settings, TimePoint now)
    : settings_(std::move(settings)),
      session_(mux::Role::opener, {.max_streams = PortalTunnelSettings{}.max_streams + kInternalStreams}),
      padding_(settings_.seed),
      liveness_(now),
      flow_(settings_.budget),
      started_(now),
      next_idle_check_(now + kIdleCheck) {
  if (settings_.hello.max_data == 0) settings_.hello.max_data = mux::kMaxDataEver;
  if (settings_.hello.max_datagram == 0) settings_.hello.max_datagram = mux::kMaxDataEver;
  settings_.hello.initial_window = flow_.announced();
  if (settings_.forced) {
    decide(*settings_.forced, now);
  } else {
    start_probe();
  }
}

Decoded<> PortalTunnel::feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) {
  if (state_ == State::dead) return {};
  if (!in.empty()) liveness_.heard(now);
  Inner inner(*this, events, now);
  auto fed = session_.feed(in, inner);
  if (!fed) die(TunnelEnd::fatal_frame);
  return fed;
}

void PortalTunnel::tick(TimePoint now) {
  if (state_ == State::dead) return;
  if (liveness_.dead(now)) return die(TunnelEnd::unresponsive);
  if (!liveness_.ping_due(now)) {
    // nothing to ask
  } else if (liveness_.own_pings()) {
    Control ping = message();
    ping.ping = Ping{liveness_.ping_id(), false};
    write_control(ping);
  } else {
    std::array<std::uint8_t, mux::kKeepHead> ping{};
    mux::write_keep_head(ping, kPingId, 0);
    session_.append_output(ping);
  }
  if (probe_ != Probe::none && now >= judge_at_) judge_probe(now);
  if (drain_due()) leave(aged_, now);
  if (now >= next_beat_) send_beat(now, false);
  close_when_done(now);
}

TimePoint PortalTunnel::next_deadline() const {
  if (state_ == State::dead) return TimePoint::max();
  if (drain_due() || finished()) return TimePoint::min();
  auto due = std::min({liveness_.next_deadline(), next_beat_, next_idle_check_});
  if (probe_ != Probe::none) due = std::min(due, judge_at_);
  return due;
}

// --- probe ---------------------------------------------------------------------------------------------------------

void PortalTunnel::start_probe() {
  if (settings_.remembered == Dialect::v2fly) std::swap(probe_names_[0], probe_names_[1]);
  if (settings_.offer_hello && (settings_.hello.features & kFeatureCredit) != 0) flow_.expect(false);
  const ConstSpan marker = settings_.offer_hello ? ConstSpan(mux::kHelloMarker) : ConstSpan();
  for (std::size_t i = 0; i < 2; ++i) probe_ids_[i] = *open_internal(control_name(probe_names_[i]), {}, marker);
  probe_ = Probe::hello_wait;
  judge_at_ = started_ + kHelloWait;
}

void PortalTunnel::judge_probe(TimePoint now) {
  if (probe_ == Probe::hello_wait) {
    probe_ = Probe::end_wait;
    for (std::size_t i = 0; i < 2; ++i) {
      if (answered_[i]) continue;
      session_.queue_end(probe_ids_[i], false);
      session_.set_silent(probe_ids_[i]);  // stays in the table: its answer is the evidence
    }
    judge_at_ = answered_[0] || answered_[1] ? now + kOneAnswerWait : started_ + kNoAnswerWait;
    return;
  }
  if (answered_[0]) return decide(probe_names_[1], now);
  if (answered_[1]) return decide(probe_names_[0], now);
  unsure_ = true;
  decide(settings_.remembered.value_or(Dialect::v2ray), now);
}

void PortalTunnel::probe_answered(StreamId stream, TimePoint now) {
  answered_[stream == probe_ids_[0] ? 0 : 1] = true;
  if (answered_[0] && answered_[1]) return decide(Dialect::xray, now);
  if (probe_ == Probe::end_wait) judge_at_ = now + kOneAnswerWait;
}

void PortalTunnel::stop_probe() {
  if (std::exchange(probe_, Probe::none) == Probe::none) return;
  for (const auto id : probe_ids_) session_.close(id);
}

void PortalTunnel::decide(Dialect dialect, TimePoint now) {
  stop_probe();
  flow_.forgo();
  dialect_ = dialect;
  if (dialect == Dialect::xray && !unsure_) send_limits_.max_datagram = mux::kMaxDatagramXray;
  if (state_ == State::probing) state_ = State::active;
  open_control(now, false);
}

void PortalTunnel::on_hello(const Hello& hello, StreamId stream, TimePoint now, mux::SessionEvents& events) {
  if (peer_hello_ || hello.version == 0) return;
  peer_hello_ = hello;
  send_limits_ = limits_from(hello);
  features_ = hello.features & settings_.hello.features;  // our own hello goes out below, before any later frame
  const auto early = (features_ & kFeatureCredit) != 0 ? flow_.agree(hello.initial_window) : flow_.forgo();
  if ((features_ & kFeaturePing) != 0) liveness_.use_own_pings(now);
  if (state_ == State::probing) state_ = State::active;
  const auto other = stream == probe_ids_[0] ? 1 : 0;
  if (probe_ == Probe::hello_wait) {  // in time: the marked session becomes the control stream
    if (!answered_[other]) session_.queue_end(probe_ids_[other], false);
    session_.close(probe_ids_[other]);
    probe_ = Probe::none;
    control_ = stream;
    send_beat(now, true);
  } else {  // our End was under way already: a fresh control stream
    stop_probe();
    open_control(now, true);
  }
  tell_agreed(early, features_, session_, events);
}

// --- control stream ------------------------------------------------------------------------------------------------

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

Bytes PortalTunnel::beat(bool with_hello) {
  Control beat = message();
  beat.random = padding_.next();
  if (with_hello) beat.hello = settings_.hello;
  return encode_control(beat);
}

/// To our own bridge, on the stream it reads.
void PortalTunnel::write_control(const Control& message) {
  if (!control_) return;
  const auto bytes = encode_control(message);
  std::array<std::uint8_t, mux::kKeepHead> head{};
  mux::write_keep_head(head, *control_, bytes.size());
  session_.append_output(head);
  session_.append_output(bytes);
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
  control_ = open_internal(control_name(dialect_.value_or(Dialect::v2ray)), beat(with_hello), {});
  next_beat_ = control_ ? now + beat_interval() : TimePoint::max();
}

void PortalTunnel::send_beat(TimePoint now, bool with_hello) {
  if (!control_) return;
  const auto message = beat(with_hello);
  std::array<std::uint8_t, mux::kKeepHead> head{};
  mux::write_keep_head(head, *control_, message.size());
  session_.append_output(head);
  session_.append_output(message);
  next_beat_ = now + beat_interval();
}

Duration PortalTunnel::beat_interval() const { return dialect_ == Dialect::xray ? seconds(10) : seconds(2); }

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
  if (!message) return;
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
  drain.hello = Hello{.version = 0};  // to our own bridge: nothing is decided yet
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

void PortalTunnel::die(TunnelEnd why) {
  state_ = State::dead;
  end_ = why;
}

// --- user streams --------------------------------------------------------------------------------------------------

/// A bridge that is not known yet may be told where every stock one ignores it: not beside UDP with data, where Xray
/// reads a GlobalID.
bool PortalTunnel::tells_source(Network network, std::size_t data_bytes) const {
  if ((settings_.hello.features & kFeatureSourceAddress) == 0) return false;
  if (peer_hello_) return (peer_hello_->features & kFeatureSourceAddress) != 0;
  return probe_ != Probe::none && settings_.offer_hello && (network == Network::tcp || data_bytes == 0);
}

std::optional<mux::Session::Opened> PortalTunnel::open(const Target& target, void* user, MutSpan out,
                                                       std::size_t data_bytes, const VisitorAddress& visitor) {
  if (state_ == State::dead || user_streams() >= settings_.max_streams || closed_to_users()) return std::nullopt;
  if (target.name() != nullptr && same_name(*target.name(), settings_.domain)) return std::nullopt;
  std::array<std::uint8_t, mux::kMaxSourceLocal> told;
  const std::size_t told_bytes =
      tells_source(target.network, data_bytes) ? mux::encode_source_local(told, target.network, visitor) : 0;
  const auto opened = session_.open(target, user, out, data_bytes, ConstSpan(told).first(told_bytes));
  if (!opened) return opened;
  ++opened_;
  if (target.network != Network::tcp) return opened;
  if ((features_ & kFeatureHalfClose) != 0) session_.agree_half_close(opened->stream);
  flow_.opened(opened->stream);
  flow_.spent(opened->stream, std::min<std::uint64_t>(data_bytes, flow_.left(opened->stream)));
  return opened;
}

void PortalTunnel::close(StreamId stream) {
  if (internal(stream)) return;
  session_.close(stream);
  flow_.closed(stream);
}

bool PortalTunnel::packet_addresses() const {
  if (peer_hello_) return (peer_hello_->features & settings_.hello.features & kFeaturePacketAddress) != 0;
  return dialect_ == Dialect::xray && !unsure_;
}

bool PortalTunnel::fin_sent(StreamId stream, TimePoint) {
  const bool over = session_.fin_sent(stream);
  if (over) flow_.closed(stream);
  return over;
}

HalfClose PortalTunnel::half_close(StreamId stream) const {
  if (session_.half_close(stream)) return HalfClose::fin;
  if (dialect_ == Dialect::v2ray || dialect_ == Dialect::v2fly) return HalfClose::listen;
  return HalfClose::quiet;
}

void PortalTunnel::hold(StreamId stream, bool end_sent) {
  session_.set_held(stream);
  if (end_sent) session_.set_silent(stream);
}

void PortalTunnel::abort_streams(mux::SessionEvents& events) {
  for (const auto id : session_.ids()) {
    if (internal(id) || !session_.live(id)) continue;  // a callback may have closed it
    void* const user = session_.user(id);
    close(id);
    events.on_end(id, user, true);
  }
}

bool PortalTunnel::internal(StreamId stream) const {
  return control_ == stream || (probe_ != Probe::none && (stream == probe_ids_[0] || stream == probe_ids_[1]));
}

std::size_t PortalTunnel::user_streams() const {
  auto count = session_.live_streams() - session_.held_streams();
  if (control_) --count;
  if (probe_ != Probe::none) count -= std::size_t{session_.live(probe_ids_[0])} + session_.live(probe_ids_[1]);
  return count;
}

std::size_t PortalTunnel::room() const {
  const std::size_t streams = user_streams();
  if (state_ == State::dead || streams >= settings_.max_streams || closed_to_users()) return 0;
  return std::min(settings_.max_streams - streams, session_.ids_free());
}

bool PortalTunnel::pickable(TimePoint now) const {
  return (state_ == State::probing || state_ == State::active) && pickable_as_last(now);
}

bool PortalTunnel::pickable_as_last(TimePoint now) const {
  return state_ != State::dead && !congested_ && !closed_to_users() && !liveness_.suspect(now) && session_.ids_left() &&
         user_streams() < settings_.max_streams;
}

}  // namespace ebb::reverse
