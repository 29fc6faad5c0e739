// The `ebbgate` object. spec/config.md 20.
#include <algorithm>

#include "common/config/draft.h"
#include "common/config/text.h"
#include "common/routing/matcher.h"

namespace ebb::config {
namespace {

constexpr std::uint32_t kMostWorkers = 1024;
constexpr std::uint32_t kMostTunnels = 65535;
constexpr std::uint32_t kMostWeight = 65535;
constexpr std::size_t kMostProxies = 1000;

void read_count_or_auto(Fields& fields, std::string_view key, std::uint32_t& into) {
  const auto value = fields.find(key);
  if (!value) return;
  if (value->kind() == Kind::string && same_word(value->node().text, "auto")) {
    into = 0;
  } else if (value->kind() == Kind::string) {
    value->refuse("VALUE", "expected \"auto\" or a number, found " + quoted(value->node().text));
  } else if (const auto number = value->number<std::uint32_t>(1, kMostWorkers)) {
    into = *number;
  }
}

template <class T>
void read_number(Fields& fields, std::string_view key, T low, T high, T& into) {
  if (const auto number = fields.number<T>(key, low, high)) into = *number;
}

void read_limits(const Value& value, Limits& limits) {
  Fields fields(value);
  constexpr std::uint32_t kMost = 100'000'000;
  read_number<std::uint32_t>(fields, "maxConnections", 1, kMost, limits.max_connections);
  read_number<std::uint32_t>(fields, "maxStreamsPerTunnel", 0, 65535, limits.max_streams_per_tunnel);
  read_number<std::uint32_t>(fields, "maxHandshakes", 1, kMost, limits.max_handshakes);
  const auto size = [&](std::string_view key, std::uint64_t least, std::uint64_t& into) {
    const auto field = fields.find(key);
    const auto bytes = field ? read_size(*field) : std::nullopt;
    if (bytes && *bytes < least) {
      field->refuse("VALUE", quoted(key) + " must be at least " + std::to_string(least / 1024) + "KiB");
    } else if (bytes) {
      into = *bytes;
    }
  };
  size("streamBuffer", 64u << 10, limits.stream_buffer);
  size("tunnelBuffer", 64u << 10, limits.tunnel_buffer);
  size("memory", 1u << 20, limits.memory);
  size("minDrain", 1u << 10, limits.min_drain);
}

void read_timers(const Value& value, Timers& timers) {
  Fields fields(value);
  const auto duration = [&](std::string_view key, auto& into, Millis least = Millis(0)) {
    const auto field = fields.find(key);
    const auto found = field ? read_duration(*field) : std::nullopt;
    if (found && *found < least) {
      field->refuse("VALUE", quoted(key) + " must be at least " + std::to_string(least.count()) + "ms");
    } else if (found) {
      into = *found;
    }
  };
  duration("handshake", timers.handshake);
  duration("tunnelWait", timers.tunnel_wait);
  duration("halfCloseHold", timers.half_close_hold);
  duration("stall", timers.stall, Millis(1000));  // less would judge nobody by what he takes
  duration("udpIdle", timers.udp_idle);
  duration("probation", timers.probation);
  duration("ready", timers.ready);
  duration("hardStopAfter", timers.hard_stop_after);
  duration("drainSpread", timers.drain_spread);
  duration("brokerMove", timers.broker_move);
  duration("respawnBackoff", timers.respawn_backoff);
  duration("stopGrace", timers.stop_grace);
}

template <class T, std::size_t N>
void read_word(Fields& fields, std::string_view key, const std::pair<std::string_view, T> (&table)[N], T& into) {
  const auto value = fields.find(key);
  const auto word = value ? value->string() : std::nullopt;
  if (!word) return;
  if (const auto found = word_in(*word, table)) {
    into = *found;
    return;
  }
  std::string allowed;
  for (const auto& [text, ignored] : table) allowed += (allowed.empty() ? "" : ", ") + std::string(text);
  value->refuse("VALUE", "unknown value " + quoted(*word), "use one of: " + allowed);
}

void read_trusted_proxies(const Value& value, std::vector<std::string>& into) {
  const auto list = read_string_list(value);
  if (!list) return;
  if (list->items.size() > kMostProxies) return value.refuse("VALUE", "more than 1000 entries", "use CIDRs");
  for (std::size_t i = 0; i < list->items.size(); ++i) {
    const auto& item = list->items[i];
    if (const auto checked = routing::check_ip_pattern(item); !checked) {
      list->places[i].refuse(routing::uses_geo_file(item) ? "UNSUPPORTED" : "VALUE", checked.error().what,
                             "write addresses or CIDRs, like \"192.0.2.7\" or \"10.0.0.0/8\"");
    } else if (item.ends_with("/0")) {
      list->places[i].warn("VALUE", quoted(item) + " lets everybody claim any client address",
                           "list only the proxies in front of this machine");
    }
  }
  into = list->items;
}

/// `udp`: what we know of flows. Nobody can tell of a bridge's, so that is no warning.
void read_header_version(Fields& fields, Severity udp, std::uint8_t& into) {
  read_number<std::uint8_t>(fields, "proxyProtocol", 0, 2, into);
  if (into != 1) return;
  const auto value = fields.find("proxyProtocol");
  value->report().note(udp, "INEFFECTIVE", value->place(), "version 1 has no header for UDP: flows go without one",
                       "version 2 has one");
}

void read_portal(const Value& value, Portal& portal, bool udp) {
  constexpr std::pair<std::string_view, Dialect> kDialects[] = {
      {"auto", Dialect::auto_}, {"v2ray", Dialect::v2ray}, {"v2fly", Dialect::v2fly}, {"xray", Dialect::xray}};
  constexpr std::pair<std::string_view, PickPolicy> kPolicies[] = {{"least", PickPolicy::least},
                                                                   {"roundrobin", PickPolicy::roundrobin},
                                                                   {"hash", PickPolicy::hash},
                                                                   {"order", PickPolicy::order}};
  Fields fields(value);
  read_word(fields, "dialect", kDialects, portal.dialect);
  read_word(fields, "policy", kPolicies, portal.policy);
  read_number<std::uint32_t>(fields, "tunnels", 0, kMostTunnels, portal.tunnels);
  if (const auto allow = fields.boolean("allowUnauthenticated")) portal.allow_unauthenticated = *allow;
  read_header_version(fields, udp ? Severity::warning : Severity::info, portal.proxy_protocol);
}

void read_bridge(const Value& value, Bridge& bridge) {
  Fields fields(value);
  read_number<std::uint32_t>(fields, "minTunnels", 1, kMostTunnels, bridge.min_tunnels);
  read_number<std::uint32_t>(fields, "maxTunnels", 0, kMostTunnels, bridge.max_tunnels);
  if (bridge.max_tunnels != 0 && bridge.max_tunnels < bridge.min_tunnels) {
    value.refuse("VALUE", "maxTunnels is below minTunnels");
  }
  read_number<std::uint32_t>(fields, "weight", 1, kMostWeight, bridge.weight);
  read_header_version(fields, Severity::info, bridge.proxy_protocol);
  fields.unsupported("allowTargets", "allowTargets is not built yet", "use routing rules");
}

/// `portals.TAG` or `bridges.TAG`: every end with that tag, or DANGLING.
template <class T, class Read>
void read_ends(Fields& fields, std::string_view key, std::string_view what, std::vector<ReverseDraft<T>>& ends,
               Read read) {
  const auto map = fields.find(key);
  if (!map) return;
  for (const auto& [tag, value] : map->members()) {
    T* first = nullptr;
    for (auto& end : ends) {
      if (end.value.tag != tag) continue;
      if (first == nullptr) {
        first = &end.value;
        read(value, end.value);
      } else {  // two bridges may share a tag; findings are reported once
        T copy = *first;
        copy.domain = end.value.domain;
        end.value = std::move(copy);
      }
    }
    if (first == nullptr) {
      std::vector<std::string_view> tags;
      for (const auto& end : ends) tags.push_back(end.value.tag);
      value.report().note(Severity::error, "DANGLING", value.place(),
                          "no " + std::string(what) + " has the tag " + quoted(tag), did_you_mean(tag, tags));
    }
  }
}

}  // namespace

void read_ebbgate(const Value& section, Draft& draft) {
  Fields fields(section);
  if (!fields.valid()) return;
  Settings& settings = draft.settings;
  read_count_or_auto(fields, "workers", settings.workers);
  if (const auto broker = fields.find("broker")) {
    Fields inner(*broker);
    read_count_or_auto(inner, "loops", settings.broker_loops);
    if (settings.broker_loops > 1) inner.no_effect({"loops"}, "has no effect: a broker runs one loop so far");
  }
  if (const auto limits = fields.find("limits")) read_limits(*limits, settings.limits);
  if (const auto timers = fields.find("timers")) read_timers(*timers, settings.timers);
  read_number<std::uint32_t>(fields, "maxGenerations", 2, 1000, settings.max_generations);
  if (const auto proxies = fields.find("trustedProxies")) read_trusted_proxies(*proxies, settings.trusted_proxies);
  const bool udp =
      std::ranges::any_of(draft.inbounds, [](const auto& each) { return each.inbound.listens(Network::udp); });
  read_ends(fields, "portals", "portal", draft.portals,
            [udp](const Value& value, Portal& portal) { read_portal(value, portal, udp); });
  read_ends(fields, "bridges", "bridge", draft.bridges, read_bridge);
  settings.runtime_dir = fields.string("runtimeDir").value_or("");
  if (const auto admin = fields.find("admin")) {
    Fields inner(*admin);
    settings.admin_socket = inner.string("socket");
    inner.unsupported("http", "admin.http is not built yet", "use the admin socket");
  }
  for (const auto* key : {"user", "group"}) {
    fields.unsupported_text(key, "giving up root is not built yet: ebbgate runs as who started it",
                            "remove it and start ebbgate as that user, with systemd User= and Group=, or setpriv");
  }
  if (const auto log = fields.find("log")) {
    Fields inner(*log);
    constexpr std::pair<std::string_view, bool> kFormats[] = {{"text", false}, {"json", true}};
    read_word(inner, "format", kFormats, draft.log.json);
  }
}

}  // namespace ebb::config
