#include "worker/edge/mux_server.h"

#include <algorithm>
#include <array>
#include <utility>

#include "common/base/log.h"
#include "worker/flow/mux_end.h"

namespace ebb::edge {
MuxServer::MuxServer(Edge& edge, const Request& request, layers::Stack stack)
    : Link(edge.loop_, edge.blocks_, std::move(stack), outbound::tunnel_limits(edge.config_.settings),
           request.source.text(),
           std::make_unique<reverse::ForwardMux>(edge.config_.level(request.inbound->level(request.user)).conn_idle,
                                                 edge.loop_.now())),
      edge_(edge),
      request_(request) {}

void MuxServer::start(std::unique_ptr<net::Stream> stream, Bytes unread) {
  tunnel_.attach(std::move(stream), std::move(unread));
}

void MuxServer::drain(TimePoint when) {
  plan_.leave_at(when);
  poke();
}

void MuxServer::on_stream_opened(StreamId stream, const Target& target, ConstSpan) {
  if (!edge_.room_for_stream(plan_.session().live_streams())) return refuse_for_want_of_room(stream);
  auto subject = edge_.subject_of(request_);
  subject.target = &target;
  const auto decision = edge_.router_.decide(subject);
  if (decision.kind != routing::Decision::Kind::outbound) {
    // Streams cannot be handed to the broker yet: only whole connections have a descriptor.
    if (!warned_) {
      log_event(log::Level::warning, "edge/mux", "stream was refused: a portal cannot be reached through mux",
                kv("conn", request_.conn), kv("peer", request_.source), kv("target", target));
    }
    warned_ = true;
    return tunnel_.refuse(stream);
  }
  edge_.log_accepted(request_, target, decision, true);
  if (target.network == Network::udp) {
    auto origin = edge_.outbounds_.open_flow(decision.index, target);
    if (origin == nullptr) return tunnel_.refuse(stream);
    edge_.flows_.start(std::make_unique<flow::MuxEnd>(tunnel_, stream), std::move(origin));
    return;
  }
  const auto& level = edge_.config_.level(request_.inbound->level(request_.user));
  edge_.relays_.start(tunnel_.make_side(stream), edge_.outbounds_.open(decision.index, target),
                      outbound::relay_times(level));
}

void MuxServer::refuse_for_want_of_room(StreamId stream) {
  ++edge_.counts_.mux_streams_refused;
  if (const auto others = edge_.mux_refusals_.say(loop_.now())) {
    log_event(log::Level::warning, "edge/mux", "stream was refused: too many connections", kv("conn", request_.conn),
              kv("peer", request_.source), kv("others", *others));
  }
  tunnel_.abort_stream(stream, {reverse::AbortReason::overload});
}

/// Counted only: the tunnel says what breaks rules inside it.
void MuxServer::on_tunnel_moved() {
  const auto& counted = plan_.session().counters();
  const auto count = [this](MuxFault fault, std::uint64_t& known, std::uint64_t now) {
    edge_.counts_.mux_faults[static_cast<std::size_t>(fault)] += now - std::exchange(known, now);
  };
  count(MuxFault::reopened, reopened_, counted.reopened);
  count(MuxFault::surplus, surplus_, counted.surplus);
}

void MuxServer::on_tunnel_over(const Error& why) {
  if (why.code == Errc::protocol) edge_.mux_faulty(request_, MuxFault::malformed);
  if (why.code == Errc::overload) edge_.mux_faulty(request_, MuxFault::deaf);
  log_event(log::Level::debug, "edge/mux", "connection ended", kv("conn", request_.conn), kv("reason", why));
  edge_.mux_ended(*this);
}

std::string_view name_of(MuxFault fault) {
  switch (fault) {
    case MuxFault::malformed: return "malformed";
    case MuxFault::deaf: return "deaf";
    case MuxFault::reopened: return "reopened";
    case MuxFault::surplus: return "surplus";
  }
  return "malformed";
}

void Edge::mux_faulty(const Request& request, MuxFault fault) {
  const auto which = static_cast<std::size_t>(fault);
  const std::uint64_t all = ++counts_.mux_faults[which];
  if (!mux_faults_[which].say(loop_.now())) return;
  log_event(log::Level::warning, "edge/mux", "client did what it may not", kv("conn", request.conn),
            kv("peer", request.source), kv("fault", name_of(fault)), kv("so_far", all));
}

void Edge::mux_ended(MuxServer& server) {
  const auto at = std::ranges::find(muxes_, &server, &std::unique_ptr<MuxServer>::get);
  ended_muxes_.splice(ended_muxes_.end(), muxes_, at);
  loop_.defer(sweep_);
}

}  // namespace ebb::edge
