// Every field of a configuration that uses them all: each wrong type is a TYPE finding at its path, never a crash.
#include <gtest/gtest.h>

#include <functional>

#include "common/config/canonical.h"
#include "common/config/prescan.h"
#include "common/config/tree.h"
#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

const std::string kEverything = R"({
  "log": {"access": "/tmp/a", "error": "/tmp/e", "loglevel": "info"},
  "policy": {"levels": {"0": {"handshake": 4, "connIdle": 300, "uplinkOnly": 2, "downlinkOnly": 5}}},
  "reverse": {"bridges": [{"tag": "b", "domain": "b.test"}], "portals": [{"tag": "p", "domain": "p.test"}]},
  "inbounds": [
    {"tag": "door", "listen": "127.0.0.1", "port": "21080-21081", "protocol": "dokodemo-door",
     "settings": {"address": "10.0.0.1", "port": 80, "network": "tcp", "userLevel": 1, "followRedirect": false},
     "streamSettings": {"network": "tcp", "security": "none", "tcpSettings": {"header": {"type": "none"}, "acceptProxyProtocol": true},
                        "sockopt": {"tproxy": "off", "domainStrategy": "AsIs", "acceptProxyProtocol": false}},
     "sniffing": {"enabled": false, "destOverride": ["http"], "metadataOnly": false, "routeOnly": false,
                  "domainsExcluded": ["x.test"], "ipsExcluded": ["10.0.0.0/8"]},
     "allocate": {"strategy": "always"}},
    {"tag": "link", "port": 21024, "protocol": "vmess",
     "settings": {"clients": [{"id": "27848739-7e62-4138-9fd3-098a63964b6b", "alterId": 4, "level": 1, "email": "a@b"}],
                  "disableInsecureEncryption": true}}
  ],
  "outbounds": [
    {"tag": "out", "protocol": "freedom", "sendThrough": "10.0.0.9",
     "settings": {"redirect": "127.0.0.1:80", "domainStrategy": "AsIs", "userLevel": 0, "proxyProtocol": 0},
     "mux": {"enabled": false, "concurrency": 8}},
    {"tag": "tunnel", "protocol": "vmess", "settings": {"vnext": [{"address": "192.0.2.1", "port": 443,
       "users": [{"id": "27848739-7e62-4138-9fd3-098a63964b6b", "alterId": 0, "security": "auto", "level": 0, "email": "c"}]}]}},
    {"tag": "short", "protocol": "vmess", "settings": {"address": "192.0.2.1", "port": 443, "id": "27848739-7e62-4138-9fd3-098a63964b6b"}},
    {"tag": "block", "protocol": "blackhole", "settings": {"response": {"type": "http"}}}
  ],
  "routing": {"domainStrategy": "AsIs", "rules": [
    {"type": "field", "inboundTag": ["b"], "domain": ["full:b.test"], "outboundTag": "tunnel", "ruleTag": "r"},
    {"type": "field", "inboundTag": "b", "outboundTag": "out"},
    {"type": "field", "ip": ["10.0.0.0/8"], "port": "1-1000", "network": "tcp", "source": ["192.0.2.0/24"],
     "sourcePort": 4000, "user": ["a@b"], "outboundTag": "block"},
    {"type": "field", "network": ["tcp", "udp"], "outboundTag": "p"}],
    "settings": {"domainStrategy": "AsIs", "rules": [{"type": "field", "domains": ["domain:x.test"], "outboundTag": "out"}]}},
  "ebbgate": {
    "workers": 2, "broker": {"loops": 1},
    "limits": {"maxConnections": 1000, "maxStreamsPerTunnel": 10, "maxHandshakes": 10, "streamBuffer": "1MiB",
               "tunnelBuffer": 4194304, "memory": "1GiB", "minDrain": "32KiB"},
    "timers": {"handshake": "5s", "tunnelWait": 0, "halfCloseHold": "1m", "stall": 1.5, "udpIdle": "60s", "probation": "1s",
               "ready": "1s", "hardStopAfter": "1h", "drainSpread": "1s", "brokerMove": "1s", "respawnBackoff": "0s",
               "stopGrace": "250ms"},
    "maxGenerations": 3, "trustedProxies": ["192.0.2.7", "10.0.0.0/8"],
    "portals": {"p": {"dialect": "xray", "tunnels": 2, "policy": "hash", "allowUnauthenticated": true, "proxyProtocol": 1}},
    "bridges": {"b": {"minTunnels": 2, "maxTunnels": 4, "weight": 3, "proxyProtocol": 2}},
    "runtimeDir": "/run/x", "admin": {"socket": ""}, "user": "", "group": "", "log": {"format": "json"}}
})";

Tree parsed(const std::string& text) {
  std::string copy = text;
  EXPECT_FALSE(prescan(copy).fault);
  Tree tree = parse_tree(std::move(copy), 0);
  EXPECT_FALSE(tree.failed);
  return tree;
}

/// The tree as text again, with `swap` in place of the node `target`.
std::string written(const Node& node, const Node* target, const std::string& swap) {
  if (&node == target) return swap;
  std::string out;
  switch (node.kind) {
    case Kind::null: return "null";
    case Kind::boolean: return node.boolean ? "true" : "false";
    case Kind::number: return std::string(node.text);
    case Kind::string: return "\"" + std::string(node.text) + "\"";
    case Kind::array:
      for (const auto& item : node.items) out += (out.empty() ? "" : ",") + written(item, target, swap);
      return "[" + out + "]";
    case Kind::object:
      for (const auto& item : node.items) {
        out += (out.empty() ? "\"" : ",\"") + std::string(item.key) + "\":" + written(item, target, swap);
      }
      return "{" + out + "}";
  }
  return out;
}

void walk(const Node& node, const std::string& path,
          const std::function<void(const Node&, const std::string&)>& visit) {
  visit(node, path);
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    const auto& item = node.items[i];
    walk(item, node.kind == Kind::object ? path + "." + std::string(item.key) : path + "[" + std::to_string(i) + "]",
         visit);
  }
}

/// Fields that take more than one kind on purpose, by the end of their path.
bool takes(const std::string& path, Kind kind) {
  const auto ends = [&](std::initializer_list<const char*> names) {
    for (const std::string name : names) {
      if (path.ends_with("." + name)) return true;
    }
    return false;
  };
  const bool list = ends({"inboundTag", "domain", "domains", "ip", "source", "user", "network", "destOverride",
                          "domainsExcluded", "ipsExcluded", "trustedProxies"}) &&
                    path.find("reverse") == std::string::npos && path.find("streamSettings") == std::string::npos &&
                    path != "$.ebbgate.user";
  if (list) return kind == Kind::string || kind == Kind::array;
  const bool inbound_port = path == "$.inbounds[0].port" || path == "$.inbounds[1].port";
  if (inbound_port || ends({"sourcePort", "workers", "loops"}) || path.find(".rules[2].port") != std::string::npos ||
      path.find("limits.streamBuffer") != std::string::npos || path.find("limits.tunnelBuffer") != std::string::npos ||
      path.find("limits.memory") != std::string::npos || path.find("limits.minDrain") != std::string::npos ||
      path.find(".timers.") != std::string::npos) {
    return kind == Kind::string || kind == Kind::number;
  }
  return false;
}

TEST(Fields, EverythingLoads) {
  const auto loaded = load_text(kEverything);
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  for (const auto& d : loaded.diagnostics) EXPECT_NE(d.code, "UNKNOWN_KEY") << d.text();
  expect_canonical_round_trip(*loaded.config);
  const Settings& settings = loaded.config->settings;
  EXPECT_EQ(settings.workers, 2u);
  EXPECT_EQ(settings.limits.memory, 1u << 30);
  EXPECT_EQ(settings.timers.stall, Millis(1500));
  EXPECT_EQ(settings.timers.tunnel_wait, Millis(0));
  EXPECT_EQ(settings.timers.hard_stop_after, Millis(3'600'000));
  EXPECT_EQ(settings.admin_socket, "");
  EXPECT_EQ(loaded.config->portals[0].policy, PickPolicy::hash);
  EXPECT_EQ(loaded.config->bridges[0].max_tunnels, 4u);
  EXPECT_TRUE(loaded.config->log.json);
  EXPECT_TRUE(loaded.config->inbounds[0].accept_proxy_protocol);
  EXPECT_FALSE(loaded.config->inbounds[1].accept_proxy_protocol);
  EXPECT_EQ(settings.trusted_proxies, (std::vector<std::string>{"192.0.2.7", "10.0.0.0/8"}));
  EXPECT_EQ(loaded.config->portals[0].proxy_protocol, 1);
  EXPECT_EQ(loaded.config->bridges[0].proxy_protocol, 2);
}

TEST(Fields, WhatHasNoEffectYetIsSaidOrRefused) {
  const auto loaded = load_text(R"({"outbounds": [{"protocol": "freedom"}], "ebbgate": {
    "broker": {"loops": 2}, "timers": {"udpIdle": "1m"}, "user": "nobody", "group": "nogroup"}})");
  EXPECT_FALSE(loaded.config);
  for (const auto* path : {"$.ebbgate.user", "$.ebbgate.group"}) EXPECT_TRUE(has(loaded, "UNSUPPORTED", path)) << path;
  for (const auto* path : {"$.ebbgate.broker.loops"}) {
    EXPECT_TRUE(has(loaded, "INEFFECTIVE", path)) << path;
  }
  EXPECT_NE(all_text(loaded).find("User="), std::string::npos);  // what to do instead
  const auto one = load_text(R"({"outbounds": [{"protocol": "freedom"}], "ebbgate": {"broker": {"loops": 1}}})");
  EXPECT_TRUE(one.config && one.diagnostics.empty()) << all_text(one);  // as it is
}

TEST(Fields, EveryWrongTypeIsReportedAtItsPath) {
  const Tree parsed_tree = parsed(kEverything);
  const Node& tree = parsed_tree.root;
  const std::pair<Kind, std::string> swaps[] = {
      {Kind::boolean, "true"}, {Kind::number, "7"}, {Kind::string, "\"x\""}, {Kind::array, "[]"}, {Kind::object, "{}"}};
  std::size_t tried = 0;
  walk(tree, "$", [&](const Node& node, const std::string& path) {
    for (const auto& [kind, swap] : swaps) {
      if (kind == node.kind || takes(path, kind)) continue;
      ++tried;
      const auto loaded = load_text(written(tree, &node, swap));
      EXPECT_TRUE(has(loaded, "TYPE", path)) << path << " = " << swap << "\n" << all_text(loaded);
      EXPECT_FALSE(loaded.config) << path << " = " << swap;
    }
  });
  EXPECT_GT(tried, 500u);
}

TEST(Fields, OddValuesNeverCrash) {
  const Tree parsed_tree = parsed(kEverything);
  const Node& tree = parsed_tree.root;
  const std::string swaps[] = {"null",   "-1",          "1.5",       "1e3",          "99999999999999999999",
                               "0",      "\"\"",        "[null]",    "[[]]",         "[{}]",
                               "[\"\"]", "{\"a\": {}}", "\"env:X\"", "\":\"",        "\"\\u0000\"",
                               "65536",  "4294967296",  "\"-\"",     "\"[::1]:80\"", "\"1-\""};
  walk(tree, "$", [&](const Node& node, const std::string& path) {
    for (const auto& swap : swaps) {
      const auto loaded = load_text(written(tree, &node, swap), {{"X", "80"}});
      bool refuses = false;
      for (const auto& d : loaded.diagnostics) refuses = refuses || d.refuses;
      ASSERT_EQ(loaded.config.has_value(), !refuses) << path << " = " << swap;
      if (loaded.config) expect_canonical_round_trip(*loaded.config);
    }
  });
}

TEST(Fields, NullIsAbsent) {
  const auto loaded =
      load_text(R"({"log": null, "inbounds": null, "outbounds": [null, {"protocol": "freedom", "tag": null}]})");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  EXPECT_EQ(loaded.config->outbounds.size(), 1u);
  EXPECT_FALSE(loaded.config->log.access_on);
}

TEST(Fields, CaseOfKeysDoesNotMatterAndExactSpellingWins) {
  const auto loaded = load_text(R"({"OutBounds": [{"PROTOCOL": "freedom", "TAG": "x", "tag": "y"}]})");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  EXPECT_EQ(loaded.config->outbounds.at(0).tag, "y");
}

TEST(Fields, CommentKeysAreNotUnknown) {
  const auto loaded = load_text(R"({"_note": 1, "//": 2, "#x": 3, "remark": "r", "$schema": "s", "outbuonds": []})");
  ASSERT_EQ(short_forms(loaded), std::vector<std::string>{"UNKNOWN_KEY $.outbuonds 1:63"});
}

}  // namespace
}  // namespace ebb::config
