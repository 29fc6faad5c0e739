// Flows of the UDP addresses: which of them are read, and where a client's first datagram leads.
#include <algorithm>
#include <functional>
#include <utility>

#include "common/base/log.h"
#include "worker/broker/plant.h"

namespace ebb::broker {
namespace {

bool listens_at(const config::Inbound& inbound, const Endpoint& local) {
  // "::" is two addresses to the kernel (supervisor/slots).
  const bool any = inbound.listen == IpAddress{true, {}} && local.ip == IpAddress{};
  if (inbound.listen != local.ip && !any) return false;
  return std::ranges::any_of(inbound.ports,
                             [&](const auto& range) { return range.from <= local.port && local.port <= range.to; });
}

}  // namespace

void Plant::review_doors() {
  if (started_) doors_.serve();
}

/// By address: a configuration may number its inbounds anew, while sockets stay.
std::optional<flow::Doors::Inbound> Plant::inbound_at(const Endpoint& local) const {
  const auto& inbounds = config().inbounds;
  for (std::size_t i = 0; i < inbounds.size(); ++i) {
    const auto* door = std::get_if<config::DokodemoInbound>(&inbounds[i].protocol);
    if (door == nullptr || !door->udp || !listens_at(inbounds[i], local)) continue;
    const Target target{Network::udp, door->address, door->port};
    if (!may_read(inbounds[i], target)) return std::nullopt;
    return flow::Doors::Inbound{i, target};
  }
  return std::nullopt;
}

/// Datagrams wait in the kernel where reading would only lose them: as long as a visitor would wait when this process
/// is young and bridges have not dialled it, and for ever when a successor has the portal's tunnels.
bool Plant::may_read(const config::Inbound& inbound, const Target& target) const {
  routing::Subject subject;
  subject.inbound_tag = inbound.tag;
  subject.target = &target;
  const auto way = tables_.current().router.decide(subject);
  if (way.kind != routing::Decision::Kind::portal) return !draining_;
  const Portal* to = portal(tables_.current().portals[way.index]);
  if (to == nullptr || (draining_ && moved_.contains(to->name()))) return false;
  return to->has_room() || portal_home_.around.loop.now() >= read_from_;
}

std::unique_ptr<flow::DatagramEnd> Plant::open_flow(const flow::Doors::Inbound& door, const VisitorAddress& visitor) {
  const Endpoint& client = *visitor.source;
  const auto& table = tables_.current();
  const auto& inbound = table.config.inbounds[door.index];
  routing::Subject subject;
  subject.inbound_tag = inbound.tag;
  subject.target = &door.target;
  subject.source = &client;
  const auto way = table.router.decide(subject);
  log::AccessLine line;
  line.source = &client;
  line.target = &door.target;
  std::unique_ptr<flow::DatagramEnd> origin;
  if (way.kind == routing::Decision::Kind::portal) {
    line.outbound_tag = table.config.portals[way.index].tag;
    Portal* to = portal(table.portals[way.index]);
    const auto key = std::hash<std::string_view>{}(as_text(client.ip.bytes));
    if (to != nullptr) origin = to->open_flow(door.target, key, visitor);
  } else if (way.kind == routing::Decision::Kind::outbound) {
    line.outbound_tag = table.config.outbounds[way.index].tag;
    origin = outbounds_->open_flow(way.index, door.target);
  }
  if (origin != nullptr) {
    log_access(line);
    return origin;
  }
  const TimePoint now = portal_home_.around.loop.now();
  if (now >= next_refusal_) {
    next_refusal_ = now + std::chrono::seconds(1);
    log_event(log::Level::info, "flow", "datagram was dropped: no tunnel or outbound takes it", kv("tag", inbound.tag),
              kv("peer", client), kv("dropped", flows_.counters().dropped));
  }
  return nullptr;
}

}  // namespace ebb::broker
