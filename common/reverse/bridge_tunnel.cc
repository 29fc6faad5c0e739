#include "common/reverse/bridge_tunnel.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ebb::reverse {
namespace {

// 0000 as a rule: a stock portal gets there only after 65536 streams on one tunnel.
constexpr std::array kPingIds{StreamId{0x0000}, StreamId{0xffff}, StreamId{0xfffe}};

}  // namespace

/// Sits between the session and the owner: control streams stay inside, the rest passes through.
struct BridgeTunnel::Inner final : mux::SessionEvents {
  Inner(BridgeTunnel& tunnel, mux::SessionEvents& users, TimePoint at) : self(tunnel), events(users), now(at) {}

  void on_open(StreamId stream, const Target& target, ConstSpan trailing) override {
    self.on_open(stream, target, trailing, events);
  }
  void on_data(StreamId stream, void* user, ConstSpan piece) override {
    if (self.flow_.received(stream, piece.size())) return events.on_data(stream, user, piece);
    ++self.credit_overruns_;
    self.session_.queue_end(stream, true);
    self.close(stream, now);
    events.on_end(stream, user, true);
  }
  void on_datagram(StreamId stream, void* user, const Target* from, ConstSpan payload) override {
    if (self.is_control(stream)) return self.on_control(stream, payload, now, events);
    events.on_datagram(stream, user, from, payload);
  }
  void on_fin(StreamId stream, void* user) override {
    self.session_.live(stream) ? self.flow_.finished(stream) : self.flow_.closed(stream);
    events.on_fin(stream, user);
  }
  void on_end(StreamId stream, void* user, bool error) override {
    if (self.is_control(stream)) return self.forget_control(stream);
    self.flow_.closed(stream);
    events.on_end(stream, user, error);
  }
  void on_stray_end(StreamId stream) override {
    if (std::ranges::find(kPingIds, stream) != kPingIds.end()) self.liveness_.ping_answered(now);
    events.on_stray_end(stream);
  }

  BridgeTunnel& self;
  mux::SessionEvents& events;
  TimePoint now;
};

BridgeTunnel::BridgeTunnel(BridgeTunnelSettings settings, TimePoint now)
    : settings_(std::move(settings)),
      session_(mux::Role::acceptor, {.max_streams = settings_.max_streams + kMaxControlStreams}),
      padding_(settings_.seed),
      liveness_(now),
      flow_(settings_.budget),
      empty_since_(now) {
  if (settings_.hello.max_data == 0) settings_.hello.max_data = mux::kMaxDataEver;
  if (settings_.hello.max_datagram == 0) settings_.hello.max_datagram = mux::kMaxDataEver;
  settings_.hello.initial_window = flow_.announced();
}

Decoded<> BridgeTunnel::feed(ConstSpan in, TimePoint now, mux::SessionEvents& events) {
  if (state_ == State::dead) return {};
  if (!in.empty()) liveness_.heard(now);
  Inner inner(*this, events, now);
  auto fed = session_.feed(in, inner);
  if (fed && bad_trailing_) fed = std::unexpected{*bad_trailing_};
  if (!fed) {
    die(TunnelEnd::fatal_frame);
    return fed;
  }
  note_sessions(now);
  return fed;
}

void BridgeTunnel::tick(TimePoint now) {
  if (state_ == State::dead) return;
  note_sessions(now);
  if (liveness_.dead(now)) return die(TunnelEnd::unresponsive);
  if (liveness_.ping_due(now)) send_ping();
  if (now >= closing_at()) die(TunnelEnd::drained);
}

TimePoint BridgeTunnel::next_deadline() const {
  if (state_ == State::dead) return TimePoint::max();
  return std::min(liveness_.next_deadline(), closing_at());
}

TimePoint BridgeTunnel::closing_at() const {
  if (state_ != State::draining || empty_since_ == TimePoint::max()) return TimePoint::max();
  return std::max(empty_since_, draining_since_) + kDrainedIdle;
}

void BridgeTunnel::on_open(StreamId stream, const Target& target, ConstSpan trailing, mux::SessionEvents& events) {
  const auto* name = target.name();
  if (name != nullptr && is_control_name(*name)) return open_control(stream, *name, trailing);
  const bool own = name != nullptr && same_name(*name, settings_.domain);
  if (own) ++refused_own_domain_;
  if (own) return refuse(stream, AbortReason::denied);
  if (user_streams() > settings_.max_streams) return refuse(stream, AbortReason::overload);
  if (reads_source() && !bad_trailing_) {
    if (const auto parsed = mux::decode_source_local(trailing); !parsed) {
      bad_trailing_ = parsed.error();
      session_.close(stream);
      return;
    }
  }
  if (target.network == Network::tcp) {
    if ((features_ & kFeatureHalfClose) != 0) session_.agree_half_close(stream);
    flow_.opened(stream);
  }
  events.on_open(stream, target, trailing);
}

void BridgeTunnel::refuse(StreamId stream, AbortReason why) {
  std::array<std::uint8_t, kMaxAbortFrame> frame;
  session_.append_output(ConstSpan(frame).first(write_abort(frame, stream, Abort{why})));
  session_.close(stream);
}

/// A portal that showed the marker is ours, and may tell before its own hello has come.
bool BridgeTunnel::reads_source() const {
  return settings_.source_local || (marked_ && (settings_.hello.features & kFeatureSourceAddress) != 0);
}

VisitorAddress BridgeTunnel::visitor_behind(ConstSpan trailing) const {
  if (!reads_source()) return {};
  const auto told = mux::decode_source_local(trailing);
  return told ? mux::visitor_of(*told) : VisitorAddress{};
}

void BridgeTunnel::send_ping() {
  if (liveness_.own_pings()) {
    Control ping = message();
    ping.ping = Ping{liveness_.ping_id(), false};
    tell(std::move(ping));
    return;
  }
  const auto unused = std::ranges::find_if(kPingIds, [this](StreamId id) { return !session_.live(id); });
  if (unused == kPingIds.end()) return;
  std::array<std::uint8_t, mux::kKeepHead> ping{};
  mux::write_keep_head(ping, *unused, 0);
  session_.append_output(ping);
}

void BridgeTunnel::close(StreamId stream, TimePoint now) {
  if (!is_control(stream)) {
    session_.close(stream);
    flow_.closed(stream);
  }
  note_sessions(now);
}

bool BridgeTunnel::fin_sent(StreamId stream, TimePoint now) {
  const bool over = session_.fin_sent(stream);
  if (over) flow_.closed(stream);
  note_sessions(now);
  return over;
}

void BridgeTunnel::abort_streams(mux::SessionEvents& events) {
  for (const auto id : session_.ids()) {
    if (is_control(id) || !session_.live(id)) continue;  // a callback may have closed it
    void* const user = session_.user(id);
    session_.close(id);
    flow_.closed(id);
    events.on_end(id, user, true);
  }
}

void BridgeTunnel::note_sessions(TimePoint now) {
  if (session_.live_streams() > 0) {
    empty_since_ = TimePoint::max();
  } else if (empty_since_ == TimePoint::max()) {
    empty_since_ = now;
  }
}

bool BridgeTunnel::is_control(StreamId stream) const {
  return std::ranges::find(control_ids_, stream) != control_ids_.end();
}

void BridgeTunnel::die(TunnelEnd why) {
  state_ = State::dead;
  end_ = why;
}

}  // namespace ebb::reverse
