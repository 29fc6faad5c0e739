#include "worker/edge/mux_server.h"

#include <algorithm>
#include <array>

#include "common/base/log.h"

namespace ebb::edge {
namespace {

relay::TunnelLimits tunnel_limits(const config::Settings& settings) {
  return {settings.limits.stream_buffer, settings.limits.tunnel_buffer, settings.timers.stall};
}

}  // namespace

MuxServer::MuxServer(Edge& edge, const Request& request, layers::Stack stack)
    : Tunnel(edge.loop_, edge.blocks_, std::move(stack), tunnel_limits(edge.config_.settings)),
      edge_(edge),
      request_(request),
      session_(mux::Role::acceptor, {kMaxStreams, 65000}),
      idle_(edge.config_.level(request.inbound->level(request.user)).conn_idle),
      last_active_(edge.loop_.now()) {}

MuxServer::~MuxServer() {
  if (!dead()) abort_streams();
}

void MuxServer::start(std::unique_ptr<net::Stream> stream, Bytes unread) {
  attach(std::move(stream), std::move(unread));
}

Decoded<> MuxServer::feed(ConstSpan plain) {
  last_active_ = loop_.now();
  return session_.feed(plain, *this);
}

// Streams have idle timers of their own; the connection ends when it has had none, and no bytes, for as long.
TimePoint MuxServer::next_deadline() const {
  return std::min(std::max(last_active_ + idle_, loop_.now() + std::chrono::seconds(1)), leaving_at());
}

void MuxServer::tick() {
  if (session_.live_streams() > 0) last_active_ = loop_.now();
  idle_over_ = loop_.now() - last_active_ >= idle_ || loop_.now() >= leaving_at();
}

void MuxServer::drain(TimePoint when) {
  leave_at_ = when;
  pump();
}

/// A client that has just spoken may be about to open a stream, and would lose it.
TimePoint MuxServer::leaving_at() const {
  constexpr auto kQuiet = std::chrono::seconds(1);
  if (!leave_at_ || session_.live_streams() > 0) return TimePoint::max();
  return std::max(*leave_at_, last_active_ + kQuiet);
}

void MuxServer::abort_streams() {
  for (const auto id : session_.ids()) {
    if (!session_.live(id)) continue;  // a callback may have closed it
    void* const user = session_.user(id);
    session_.close(id);
    on_end(id, user, true);
  }
}

void MuxServer::refuse(StreamId stream) {
  std::array<std::uint8_t, mux::kEndFrame> frame;
  mux::write_end(frame, stream, true);
  send_frames(frame);
  session_.close(stream);
}

void MuxServer::on_open(StreamId stream, const Target& target, ConstSpan) {
  if (target.network != Network::tcp) {
    log_event(log::Level::info, "edge/mux", "UDP stream was refused: UDP is not carried yet", kv("conn", request_.conn),
              kv("target", target));
    return refuse(stream);
  }
  auto subject = edge_.subject_of(request_);
  subject.target = &target;
  const auto decision = edge_.router_.decide(subject);
  if (decision.kind != routing::Decision::Kind::outbound) {
    // Streams cannot be handed to the broker yet (class RELAY of spec/processes.md 4).
    if (!warned_) {
      log_event(log::Level::warning, "edge/mux", "stream was refused: a portal cannot be reached through mux",
                kv("conn", request_.conn), kv("peer", request_.source), kv("target", target));
    }
    warned_ = true;
    return refuse(stream);
  }
  edge_.log_accepted(request_, target, decision, true);
  const auto& level = edge_.config_.level(request_.inbound->level(request_.user));
  edge_.relays_.start(make_side(stream), edge_.outbounds_.open(decision.index, target),
                      outbound::relay_times(level));
}

void MuxServer::on_tunnel_over(const Error& why) {
  log_event(log::Level::debug, "edge/mux", "connection ended", kv("conn", request_.conn), kv("reason", why));
  edge_.mux_ended(*this);
}

void Edge::mux_ended(MuxServer& server) {
  const auto at = std::ranges::find(muxes_, &server, &std::unique_ptr<MuxServer>::get);
  ended_muxes_.splice(ended_muxes_.end(), muxes_, at);
  loop_.defer(sweep_);
}

}  // namespace ebb::edge
