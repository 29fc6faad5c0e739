#include "worker/broker/status.h"

#include <chrono>

#include "common/base/json_writer.h"

namespace ebb::broker {
namespace {

std::string_view name_of(const reverse::PortalTunnel& tunnel) {
  switch (tunnel.state()) {
    case reverse::PortalTunnel::State::probing: return "probing";
    case reverse::PortalTunnel::State::active: return "active";
    case reverse::PortalTunnel::State::draining: return "draining";
    case reverse::PortalTunnel::State::dead: return "dead";
  }
  return "dead";
}

std::string_view name_of(const reverse::BridgeTunnel& tunnel) {
  switch (tunnel.state()) {
    case reverse::BridgeTunnel::State::active: return tunnel.control_name().empty() ? "waiting" : "active";
    case reverse::BridgeTunnel::State::draining: return "draining";
    case reverse::BridgeTunnel::State::dead: return "dead";
  }
  return "dead";
}

template <class Link>
void write_tunnel(JsonWriter& out, const Link& link, std::string_view state, std::string_view dialect, TimePoint now) {
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(now - link.since()).count();
  const auto rtt = std::chrono::duration_cast<std::chrono::microseconds>(link.plan().rtt()).count();
  out.object();
  out.key("id").number(static_cast<std::int64_t>(link.id().value));
  out.key("peer").text(link.peer());
  out.key("age_s").raw(std::to_string(age / 1000) + "." + std::to_string(age % 1000 / 100));
  out.key("streams").number(static_cast<std::int64_t>(link.plan().user_streams()));
  out.key("bytes_in").number(static_cast<std::int64_t>(link.tunnel().bytes_in()));
  out.key("bytes_out").number(static_cast<std::int64_t>(link.tunnel().bytes_out()));
  out.key("rtt_us").number(rtt);
  // Slow consumers without credit: what they hold, and whether new streams go elsewhere because of it.
  out.key("held").number(static_cast<std::int64_t>(link.tunnel().held()));
  out.key("congested").boolean(link.tunnel().congested());
  out.key("state").text(state);
  out.key("dialect").text(dialect);
  out.end();
}

std::string_view dialect_of(const PortalLink& link) {
  if (link.plan().peer_hello()) return "ebbgate";
  const auto dialect = link.plan().dialect();
  return dialect ? reverse::name_of(*dialect) : "unknown";
}

std::string_view dialect_of(const bridge::BridgeLink& link) {
  if (link.plan().peer_hello()) return "ebbgate";
  const std::string& name = link.plan().control_name();
  if (name == "reverse") return "xray";
  if (name == "reverse.internal.v2ray.com") return "v2ray";
  if (name == "reverse.internal.v2fly.org") return "v2fly";
  return name.empty() ? "unknown" : "xray-old";
}

}  // namespace

std::string status_json(const std::vector<const Portal*>& portals, const std::vector<const bridge::Bridge*>& bridges,
                        std::size_t connections, TimePoint now) {
  JsonWriter out;
  out.object().key("connections").number(static_cast<std::int64_t>(connections));
  out.key("portals").array();
  for (const auto& portal : portals) {
    const auto& links = portal->links();
    out.object().key("tag").text(portal->settings().tag).key("domain").text(portal->settings().domain);
    out.key("dialect").text(links.empty() ? "unknown" : dialect_of(*links.back()));
    out.key("tunnels").array();
    for (const auto& link : links) write_tunnel(out, *link, name_of(link->plan()), dialect_of(*link), now);
    out.end().end();
  }
  out.end().key("bridges").array();
  for (const auto& bridge : bridges) {
    const auto& links = bridge->links();
    out.object().key("tag").text(bridge->settings().tag).key("domain").text(bridge->settings().domain);
    out.key("dialect").text(links.empty() ? "unknown" : dialect_of(*links.back()));
    out.key("dialling").number(static_cast<std::int64_t>(bridge->dialling()));
    out.key("last_failure").text(bridge->last_failure());
    out.key("tunnels").array();
    for (const auto& link : links) write_tunnel(out, *link, name_of(link->plan()), dialect_of(*link), now);
    out.end().end();
  }
  out.end().end();
  return out.str();
}

std::string live_json(const std::vector<std::string>& portals) {
  JsonWriter out;
  out.object().key("live").array();
  for (const auto& each : portals) out.text(each);
  out.end().end();
  return out.str();
}

}  // namespace ebb::broker
