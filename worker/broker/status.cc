#include "worker/broker/status.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>

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

void write_number(JsonWriter& out, std::string_view key, std::uint64_t value) {
  out.key(key).number(static_cast<std::int64_t>(value));
}

/// What the peer of a tunnel sent that it should not have. Data for an unknown id is none of his faults: he may not
/// know yet that the stream is over.
void write_faults(JsonWriter& out, const mux::SessionCounters& counted, const reverse::Violations& faults) {
  write_number(out, "frames", counted.frames);
  write_number(out, "unknown_data", counted.unknown_data);
  write_number(out, "reopened", faults.reopened);
  write_number(out, "surplus", faults.surplus);
  write_number(out, "ignored_new", faults.ignored_new);
  write_number(out, "after_fin", faults.after_fin);
  write_number(out, "credit_overruns", faults.credit_overruns);
  write_number(out, "bad_control", faults.bad_control);
}
void write_counts(JsonWriter& out, const reverse::PortalTunnel& tunnel) {
  write_faults(out, tunnel.session().counters(), tunnel.violations());
}
void write_counts(JsonWriter& out, const reverse::BridgeTunnel& tunnel) {
  write_faults(out, tunnel.session().counters(), tunnel.violations());
  write_number(out, "refused_own_domain", tunnel.refused_own_domain());
}

void write_flows(JsonWriter& out, const flow::Flows& flows, const net::UdpSocket::Counters& sockets) {
  flows.describe(out.key("flows"));
  // Of the addresses that are served: what their kernels brought and took.
  out.key("udp_sockets").object();
  write_number(out, "received", sockets.received);
  write_number(out, "sent", sockets.sent);
  write_number(out, "dropped", sockets.dropped);
  out.end();
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
  write_number(out, "violations", link.plan().violations().total());
  out.key("state").text(state);
  out.key("dialect").text(dialect);
  out.key("counts").object();
  write_counts(out, link.plan());
  out.end().end();
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

std::string_view name_of(config::PickPolicy policy) {
  switch (policy) {
    case config::PickPolicy::least: return "least";
    case config::PickPolicy::roundrobin: return "roundrobin";
    case config::PickPolicy::hash: return "hash";
    case config::PickPolicy::order: return "order";
  }
  return "least";
}

/// The tunnels of a portal, by the bridge they come from.
struct BridgeRow {
  const PortalLink* link = nullptr;  // one of them, settled where there is one
  std::uint64_t rank = 0;
  std::uint32_t weight = 1;
  std::size_t tunnels = 0;
  std::size_t streams = 0;
  std::uint64_t visitors = 0;
};

std::vector<BridgeRow> bridges_of(const Portal& portal) {
  std::vector<BridgeRow> rows;
  for (const auto& link : portal.links()) {
    if (link->dead()) continue;
    const auto same = [&](const BridgeRow& row) { return row.link->bridge() == link->bridge(); };
    auto row = std::ranges::find_if(rows, same);
    if (row == rows.end()) row = rows.insert(row, BridgeRow{.link = link.get()});
    if (link->settled()) row->link = link.get();
    if (const auto& hello = link->plan().peer_hello()) row->weight = std::max(row->weight, hello->weight);
    ++row->tunnels;
    row->streams += link->plan().user_streams();
  }
  for (auto& row : rows) {
    row.rank = portal.pool().rank(row.link->bridge(), row.weight, row.link->account().place, row.link->settled());
    row.visitors = portal.pool().visitors(row.link->bridge());
  }
  std::ranges::sort(rows, {}, &BridgeRow::rank);
  return rows;
}

void write_bridges(JsonWriter& out, const Portal& portal, TimePoint now) {
  const auto rows = bridges_of(portal);
  std::uint64_t visitors = 0;
  for (const auto& row : rows) visitors += row.visitors;
  out.key("bridges").array();
  for (const auto& row : rows) {
    const auto known = portal.pool().health().summary(row.link->bridge());
    out.object().key("user").text(row.link->account().email).key("address").text(row.link->address());
    out.key("weight").number(row.weight);
    out.key("tunnels").number(static_cast<std::int64_t>(row.tunnels));
    out.key("streams").number(static_cast<std::int64_t>(row.streams));
    out.key("visitors").number(static_cast<std::int64_t>(row.visitors));
    out.key("share_percent");
    out.number(visitors > 0 ? static_cast<std::int64_t>((row.visitors * 100 + visitors / 2) / visitors) : 0);
    out.key("health").text(known.failing > 0 ? "failing" : known.proven > 0 ? "good" : "untried");
    out.key("failing_targets").number(static_cast<std::int64_t>(known.failing));
    if (known.failing > 0) {
      const auto wait = std::max(known.next_trial - now, Duration(0));
      out.key("next_trial_s").number(std::chrono::ceil<std::chrono::seconds>(wait).count());
    }
    out.end();
  }
  out.end();
}

}  // namespace

std::string status_json(const Plant& plant, std::size_t connections, const ipc::OfferIntake::Counts& offers,
                        TimePoint now) {
  JsonWriter out;
  out.object().key("connections").number(static_cast<std::int64_t>(connections));
  out.key("counts").object().key("taken").number(static_cast<std::int64_t>(offers.taken));
  out.key("recalled").number(static_cast<std::int64_t>(offers.recalled));
  for (std::size_t reason = 1; reason < std::size(offers.refused); ++reason) {
    std::string name = "refused_" + std::string(ipc::name_of(static_cast<ipc::RefuseReason>(reason)));
    std::ranges::replace(name, ' ', '_');
    out.key(name).number(static_cast<std::int64_t>(offers.refused[reason]));
  }
  out.end();
  write_flows(out, plant.flows(), plant.doors().counters());
  out.key("portals").array();
  for (const auto& portal : plant.portals()) {
    const auto& links = portal->links();
    out.object().key("tag").text(portal->settings().tag).key("domain").text(portal->settings().domain);
    out.key("dialect").text(links.empty() ? "unknown" : dialect_of(*links.back()));
    out.key("policy").text(name_of(portal->settings().policy));
    write_bridges(out, *portal, now);
    out.key("tunnels").array();
    for (const auto& link : links) write_tunnel(out, *link, name_of(link->plan()), dialect_of(*link), now);
    out.end().end();
  }
  out.end().key("bridges").array();
  for (const auto& bridge : plant.bridges()) {
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
