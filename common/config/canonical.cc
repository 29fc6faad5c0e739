#include "common/config/canonical.h"

#include "common/base/json_writer.h"
#include "common/config/load.h"
#include "common/config/shapes.h"
#include "common/config/text.h"
#include "common/crypto/uuid.h"

namespace ebb::config {
namespace {

/// Writes indented JSON; the caller closes what it opens.
class Writer {
 public:
  void open(std::string_view key, char bracket) {
    begin(key);
    out_ += bracket;
    ++depth_;
    first_ = true;
  }
  void close(char bracket) {
    --depth_;
    if (!first_) line();
    out_ += bracket;
    first_ = false;
  }
  void text(std::string_view key, std::string_view value) { raw(key, json_quote(value)); }
  void number(std::string_view key, std::uint64_t value) { raw(key, std::to_string(value)); }
  void boolean(std::string_view key, bool value) { raw(key, value ? "true" : "false"); }
  void strings(std::string_view key, const std::vector<std::string>& values) {
    std::string list = "[";
    for (const auto& value : values) list += (list.size() > 1 ? ", " : "") + json_quote(value);
    raw(key, list + "]");
  }
  void millis(std::string_view key, Millis value) { text(key, std::to_string(value.count()) + "ms"); }
  std::string take() { return std::move(out_) + "\n"; }

 private:
  void line() { out_ += "\n" + std::string(2 * depth_, ' '); }
  void begin(std::string_view key) {
    if (!first_) out_ += ',';
    if (depth_ > 0) line();
    first_ = false;
    if (!key.empty()) out_ += json_quote(key) + ": ";
  }
  void raw(std::string_view key, std::string_view value) {
    begin(key);
    out_ += value;
  }

  std::string out_;
  std::size_t depth_ = 0;
  bool first_ = true;
};

template <class T>
struct Word {
  T value;
  std::string_view text;
};
template <class T, std::size_t N>
std::string_view word_of(T value, const Word<T> (&table)[N]) {
  for (const auto& word : table) {
    if (word.value == value) return word.text;
  }
  return table[0].text;
}

constexpr Word<LogLevel> kLevels[] = {{LogLevel::warning, "warning"},
                                      {LogLevel::debug, "debug"},
                                      {LogLevel::info, "info"},
                                      {LogLevel::error, "error"},
                                      {LogLevel::none, "none"}};
constexpr Word<VmessSecurity> kSecurities[] = {{VmessSecurity::auto_, "auto"},
                                               {VmessSecurity::aes_128_gcm, "aes-128-gcm"},
                                               {VmessSecurity::chacha20_poly1305, "chacha20-poly1305"},
                                               {VmessSecurity::none, "none"},
                                               {VmessSecurity::zero, "zero"}};
constexpr Word<Dialect> kDialects[] = {
    {Dialect::auto_, "auto"}, {Dialect::v2ray, "v2ray"}, {Dialect::v2fly, "v2fly"}, {Dialect::xray, "xray"}};
constexpr Word<PickPolicy> kPolicies[] = {{PickPolicy::least, "least"},
                                          {PickPolicy::roundrobin, "roundrobin"},
                                          {PickPolicy::hash, "hash"},
                                          {PickPolicy::order, "order"}};

class Canonical {
 public:
  explicit Canonical(Secrets secrets) : secrets_(secrets) {}

  std::string write(const Config& config) {
    json_.open({}, '{');
    write_log(config.log);
    write_reverse(config);
    json_.open("inbounds", '[');
    for (const auto& inbound : config.inbounds) write_inbound(inbound);
    json_.close(']');
    json_.open("outbounds", '[');
    for (const auto& outbound : config.outbounds) write_outbound(outbound);
    json_.close(']');
    json_.open("routing", '{');
    json_.text("domainStrategy", "AsIs");
    json_.open("rules", '[');
    for (const auto& rule : config.rules) write_rule(rule);
    json_.close(']');
    json_.close('}');
    write_policy(config);
    write_settings(config);
    json_.close('}');
    return json_.take();
  }

 private:
  void write_log(const Log& log) {
    json_.open("log", '{');
    json_.text("access", log.access_on ? log.access : "none");
    json_.text("error", log.error_on ? log.error : "none");
    json_.text("loglevel", word_of(log.level, kLevels));
    json_.close('}');
  }

  template <class List>
  void write_ends(std::string_view key, const List& ends) {
    json_.open(key, '[');
    for (const auto& end : ends) {
      json_.open({}, '{');
      json_.text("tag", end.tag);
      json_.text("domain", end.domain);
      json_.close('}');
    }
    json_.close(']');
  }

  void write_reverse(const Config& config) {
    json_.open("reverse", '{');
    write_ends("bridges", config.bridges);
    write_ends("portals", config.portals);
    json_.close('}');
  }

  void write_user(const VmessUser& user, bool outbound) {
    json_.open({}, '{');
    const std::string id = crypto::uuid_text(user.id);
    json_.text("id", secrets_ == Secrets::keep ? id : masked(id));
    json_.number("alterId", user.alter_id);
    json_.number("level", user.level);
    if (!user.email.empty()) json_.text("email", user.email);
    if (outbound) json_.text("security", word_of(user.security, kSecurities));
    json_.close('}');
  }

  void write_users(std::string_view key, const std::vector<VmessUser>& users, bool outbound) {
    json_.open(key, '[');
    for (const auto& user : users) write_user(user, outbound);
    json_.close(']');
  }

  void write_inbound(const Inbound& inbound) {
    json_.open({}, '{');
    if (!inbound.tag.empty()) json_.text("tag", inbound.tag);
    json_.text("listen", inbound.listen.text());
    json_.text("port", ports_text(inbound.ports));
    if (inbound.accept_proxy_protocol) {
      json_.open("streamSettings", '{');
      json_.open("sockopt", '{');
      json_.boolean("acceptProxyProtocol", true);
      json_.close('}');
      json_.close('}');
    }
    if (const auto* door = std::get_if<DokodemoInbound>(&inbound.protocol)) {
      json_.text("protocol", "dokodemo-door");
      json_.open("settings", '{');
      json_.text("address", host_text(door->address));
      json_.number("port", door->port);
      json_.text("network", door->tcp && door->udp ? "tcp,udp" : door->udp ? "udp" : "tcp");
      json_.number("userLevel", door->level);
      json_.close('}');
    } else if (const auto* vmess = std::get_if<VmessInbound>(&inbound.protocol)) {
      json_.text("protocol", "vmess");
      json_.open("settings", '{');
      write_users("clients", vmess->users, false);
      json_.boolean("disableInsecureEncryption", vmess->refuse_insecure);
      json_.close('}');
    }
    json_.close('}');
  }

  static std::string redirect_text(const Redirect& redirect) {
    std::string host = redirect.host ? host_text(*redirect.host) : "";
    if (host.find(':') != std::string::npos) host = "[" + host + "]";
    return host + ":" + std::to_string(redirect.port);
  }

  void write_server(const VmessServer& server) {
    json_.open({}, '{');
    json_.text("address", host_text(server.address));
    json_.number("port", server.port);
    write_users("users", server.users, true);
    json_.close('}');
  }

  void write_outbound(const Outbound& outbound) {
    json_.open({}, '{');
    if (!outbound.tag.empty()) json_.text("tag", outbound.tag);
    if (outbound.send_through) json_.text("sendThrough", outbound.send_through->text());
    if (const auto* freedom = std::get_if<FreedomOutbound>(&outbound.protocol)) {
      json_.text("protocol", "freedom");
      json_.open("settings", '{');
      if (freedom->redirect) json_.text("redirect", redirect_text(*freedom->redirect));
      json_.number("userLevel", freedom->level);
    } else if (const auto* vmess = std::get_if<VmessOutbound>(&outbound.protocol)) {
      json_.text("protocol", "vmess");
      json_.open("settings", '{');
      json_.open("vnext", '[');
      for (const auto& server : vmess->servers) write_server(server);
      json_.close(']');
    } else if (const auto* blackhole = std::get_if<BlackholeOutbound>(&outbound.protocol)) {
      json_.text("protocol", "blackhole");
      json_.open("settings", '{');
      json_.open("response", '{');
      json_.text("type", blackhole->http_response ? "http" : "none");
      json_.close('}');
    }
    json_.close('}');
    json_.close('}');
  }

  /// A list that never matches is written as one empty entry: an empty array would be no condition at all.
  void write_list(std::string_view key, const std::optional<std::vector<std::string>>& list) {
    if (list) json_.strings(key, list->empty() ? std::vector<std::string>{""} : *list);
  }

  void write_rule(const routing::Rule& rule) {
    json_.open({}, '{');
    json_.text("type", "field");
    if (!rule.rule_tag.empty()) json_.text("ruleTag", rule.rule_tag);
    write_list("domain", rule.domains);
    write_list("ip", rule.ips);
    if (rule.ports) json_.text("port", ports_text(*rule.ports));
    if (rule.source_ports) json_.text("sourcePort", ports_text(*rule.source_ports));
    if (rule.networks) {
      std::string networks;
      for (const auto network : *rule.networks) {
        networks += (networks.empty() ? "" : ",") + std::string(network == Network::tcp ? "tcp" : "udp");
      }
      json_.text("network", networks);
    }
    write_list("source", rule.sources);
    write_list("user", rule.users);
    write_list("inboundTag", rule.inbound_tags);
    json_.text("outboundTag", rule.outbound_tag);
    json_.close('}');
  }

  void write_policy(const Config& config) {
    json_.open("policy", '{');
    json_.open("levels", '{');
    const auto seconds = [&](std::string_view key, Millis value) {
      json_.number(key, static_cast<std::uint64_t>(value.count() / 1000));
    };
    for (const auto& [number, level] : config.policy) {
      json_.open(std::to_string(number), '{');
      seconds("handshake", level.handshake);
      seconds("connIdle", level.conn_idle);
      seconds("uplinkOnly", level.uplink_only);
      seconds("downlinkOnly", level.downlink_only);
      json_.close('}');
    }
    json_.close('}');
    json_.close('}');
  }

  void count_or_auto(std::string_view key, std::uint32_t count) {
    if (count == 0) return json_.text(key, "auto");
    json_.number(key, count);
  }

  void write_limits(const Limits& limits) {
    json_.open("limits", '{');
    if (limits.max_connections != 0) json_.number("maxConnections", limits.max_connections);
    json_.number("maxStreamsPerTunnel", limits.max_streams_per_tunnel);
    json_.number("maxHandshakes", limits.max_handshakes);
    json_.number("streamBuffer", limits.stream_buffer);
    json_.number("tunnelBuffer", limits.tunnel_buffer);
    if (limits.memory != 0) json_.number("memory", limits.memory);
    json_.number("minDrain", limits.min_drain);
    json_.close('}');
  }

  void write_timers(const Timers& timers) {
    json_.open("timers", '{');
    if (timers.handshake) json_.millis("handshake", *timers.handshake);
    json_.millis("tunnelWait", timers.tunnel_wait);
    json_.millis("halfCloseHold", timers.half_close_hold);
    json_.millis("stall", timers.stall);
    json_.millis("udpIdle", timers.udp_idle);
    json_.millis("probation", timers.probation);
    json_.millis("ready", timers.ready);
    if (timers.hard_stop_after) json_.millis("hardStopAfter", *timers.hard_stop_after);
    json_.millis("drainSpread", timers.drain_spread);
    json_.millis("brokerMove", timers.broker_move);
    json_.millis("respawnBackoff", timers.respawn_backoff);
    json_.millis("stopGrace", timers.stop_grace);
    json_.close('}');
  }

  void write_portal_settings(const Portal& portal) {
    json_.open(portal.tag, '{');
    json_.text("dialect", word_of(portal.dialect, kDialects));
    json_.number("tunnels", portal.tunnels);
    json_.text("policy", word_of(portal.policy, kPolicies));
    json_.boolean("allowUnauthenticated", portal.allow_unauthenticated);
    json_.number("proxyProtocol", portal.proxy_protocol);
    json_.close('}');
  }

  void write_bridge_settings(const Config& config) {
    json_.open("bridges", '{');
    for (std::size_t i = 0; i < config.bridges.size(); ++i) {
      const Bridge& bridge = config.bridges[i];
      bool again = false;  // bridges that share a tag share their settings
      for (std::size_t j = 0; j < i; ++j) again = again || config.bridges[j].tag == bridge.tag;
      if (again) continue;
      json_.open(bridge.tag, '{');
      json_.number("minTunnels", bridge.min_tunnels);
      json_.number("maxTunnels", bridge.max_tunnels);
      json_.number("weight", bridge.weight);
      json_.number("proxyProtocol", bridge.proxy_protocol);
      json_.close('}');
    }
    json_.close('}');
  }

  void write_settings(const Config& config) {
    const Settings& settings = config.settings;
    json_.open("ebbgate", '{');
    count_or_auto("workers", settings.workers);
    json_.open("broker", '{');
    count_or_auto("loops", settings.broker_loops);
    json_.close('}');
    write_limits(settings.limits);
    write_timers(settings.timers);
    json_.number("maxGenerations", settings.max_generations);
    json_.strings("trustedProxies", settings.trusted_proxies);
    json_.open("portals", '{');
    for (const auto& portal : config.portals) write_portal_settings(portal);
    json_.close('}');
    write_bridge_settings(config);
    json_.text("runtimeDir", settings.runtime_dir);
    json_.open("admin", '{');
    if (settings.admin_socket) json_.text("socket", *settings.admin_socket);
    json_.close('}');
    json_.open("log", '{');
    json_.text("format", config.log.json ? "json" : "text");
    json_.close('}');
    json_.close('}');
  }

  Secrets secrets_;
  Writer json_;
};

}  // namespace

std::string canonical_json(const Config& config, Secrets secrets) { return Canonical(secrets).write(config); }

Result<Config> parse_canonical(std::string_view text) {
  std::vector<SourceFile> snapshot;
  snapshot.push_back({"snapshot", std::string(text)});
  auto loaded = load(std::move(snapshot), Surroundings{}, Depth::elements);
  if (loaded.config) return std::move(*loaded.config);
  for (const auto& diagnostic : loaded.diagnostics) {
    if (diagnostic.refuses) return std::unexpected{Error{Errc::config, diagnostic.text(), {}}};
  }
  return std::unexpected{Error{Errc::config, "no configuration", {}}};
}

}  // namespace ebb::config
