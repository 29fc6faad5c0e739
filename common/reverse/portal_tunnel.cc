#include "common/reverse/portal_tunnel.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ebb::reverse {
namespace {

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
  if (now >= helpless_at_) {
    helpless_ = true;
    helpless_at_ = TimePoint::max();
  }
  if (drain_due()) leave(aged_, now);
  if (now >= next_beat_) send_beat(now, false);
  close_when_done(now);
}

TimePoint PortalTunnel::next_deadline() const {
  if (state_ == State::dead) return TimePoint::max();
  if (drain_due() || finished()) return TimePoint::min();
  auto due = std::min({liveness_.next_deadline(), next_beat_, next_idle_check_, helpless_at_});
  if (probe_ != Probe::none) due = std::min(due, judge_at_);
  return due;
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

void PortalTunnel::set_congested(bool congested, TimePoint now) {
  if (congested == congested_) return;
  congested_ = congested;
  helpless_ = false;
  helpless_at_ = congested ? now + kHelpless : TimePoint::max();
}

void PortalTunnel::help_came(TimePoint now) {
  if (!congested_) return;
  helpless_ = false;
  helpless_at_ = now + kHelpless;
}

bool PortalTunnel::pickable(TimePoint now) const {
  return (state_ == State::probing || state_ == State::active) && !congested_ && could_serve(now);
}

bool PortalTunnel::pickable_as_last(TimePoint now) const { return (!congested_ || helpless_) && could_serve(now); }

bool PortalTunnel::could_serve(TimePoint now) const {
  return state_ != State::dead && !closed_to_users() && !liveness_.suspect(now) && session_.ids_left() &&
         user_streams() < settings_.max_streams;
}

}  // namespace ebb::reverse
