// What single fields and sections mean, beyond the corpus.
#include <gtest/gtest.h>

#include "common/config/canonical.h"
#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

const std::string kId = "27848739-7e62-4138-9fd3-098a63964b6b";

/// A file with one freedom outbound and this redirect.
std::optional<Redirect> redirect(const std::string& text) {
  const auto loaded =
      load_text(R"({"outbounds": [{"protocol": "freedom", "settings": {"redirect": ")" + text + "\"}}]}");
  if (!loaded.config) return std::nullopt;
  expect_canonical_round_trip(*loaded.config);
  return std::get<FreedomOutbound>(loaded.config->outbounds[0].protocol).redirect;
}

TEST(Sections, EveryFormOfRedirect) {
  const auto full = redirect("127.0.0.1:80");
  ASSERT_TRUE(full && full->host);
  EXPECT_EQ(host_text(*full->host), "127.0.0.1");
  EXPECT_EQ(full->port, 80);
  EXPECT_FALSE(redirect(":8080")->host);
  EXPECT_EQ(redirect(":8080")->port, 8080);
  EXPECT_FALSE(redirect("0.0.0.0:81")->host);
  EXPECT_EQ(redirect("host.test:0")->port, 0);
  EXPECT_EQ(host_text(*redirect("[::1]:80")->host), "::1");
  EXPECT_EQ(host_text(*redirect("nas:80")->host), "nas");
  for (const auto* bad : {"127.0.0.1", "::1:80", "nas:http", "nas:65536", "nas:", "[::1]", "a:b:80"}) {
    EXPECT_FALSE(redirect(bad)) << bad;
  }
}

Loaded door(const std::string& port, std::map<std::string, std::string> environment = {}) {
  return load_text(R"({"inbounds": [{"protocol": "dokodemo-door", "port": )" + port +
                       R"(, "settings": {"address": "10.0.0.1", "port": 80}}]})",
                   std::move(environment));
}

TEST(Sections, InboundPorts) {
  using Ports = std::vector<PortRange>;
  EXPECT_EQ(door("1080").config->inbounds[0].ports, (Ports{{1080, 1080}}));
  EXPECT_EQ(door("\"1080-1082\"").config->inbounds[0].ports, (Ports{{1080, 1082}}));
  EXPECT_EQ(door("\"1080,1090-1092\"").config->inbounds[0].ports, (Ports{{1080, 1080}, {1090, 1092}}));
  EXPECT_EQ(door("\"env:P\"", {{"P", "2000-2001"}}).config->inbounds[0].ports, (Ports{{2000, 2001}}));
  for (const auto* bad :
       {"\"\"", "\"1-\"", "\"a\"", "-1", "1.5", "70000", "\"70000\"", "\"1-5000\"", "\"env:Q\"", "\"80,80\""}) {
    EXPECT_FALSE(door(bad).config) << bad;
  }
}

TEST(Sections, DokodemoPortIsTheListeningPortWhenAbsent) {
  const auto text = [](const std::string& port) {
    return R"({"inbounds": [{"protocol": "dokodemo-door", "port": )" + port +
           R"(, "settings": {"address": "10.0.0.1"}}]})";
  };
  const auto one = load_text(text("2080"));
  ASSERT_TRUE(one.config) << all_text(one);
  EXPECT_EQ(std::get<DokodemoInbound>(one.config->inbounds[0].protocol).port, 2080);
  EXPECT_TRUE(has(one, "VALUE", "$.inbounds[0].settings.port"));
  EXPECT_TRUE(has(load_text(text("\"2080-2081\"")), "MISSING", "$.inbounds[0].settings.port"));
  EXPECT_TRUE(has(load_text(text("0")), "MISSING", "$.inbounds[0].settings.port"));
}

TEST(Sections, RuleListsThatNeverMatchStayConditions) {
  const auto loaded = load_text(R"({"outbounds": [{"protocol": "freedom", "tag": "o"}], "routing": {"rules": [
    {"inboundTag": [""], "outboundTag": "o"}, {"user": "", "outboundTag": "o"}, {"port": 0, "outboundTag": "o"},
    {"sourcePort": "", "outboundTag": "o"}, {"port": "0, 5-3", "domain": [], "outboundTag": "o"}]}})");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  const auto& rules = loaded.config->rules;
  EXPECT_EQ(rules[0].inbound_tags, std::vector<std::string>{});
  EXPECT_EQ(rules[1].users, std::vector<std::string>{});
  EXPECT_EQ(rules[2].ports, std::vector<PortRange>{});
  EXPECT_EQ(rules[3].source_ports, std::vector<PortRange>{});
  EXPECT_EQ(rules[4].ports, (std::vector<PortRange>{{0, 0}, {5, 3}}));
  EXPECT_FALSE(rules[4].domains);
  expect_canonical_round_trip(*loaded.config);
}

TEST(Sections, LegacyPlacesComeFirst) {
  const auto loaded = load_text(R"({
    "port": 2001, "inbound": {"tag": "a", "protocol": "vmess"},
    "inboundDetour": [{"tag": "b", "port": 2002, "protocol": "vmess"}], "inbounds": [{"tag": "c", "port": 2003, "protocol": "vmess"}],
    "outbound": {"tag": "x", "protocol": "freedom"}, "outboundDetour": [{"tag": "y", "protocol": "freedom"}],
    "outbounds": [{"tag": "z", "protocol": "freedom"}]})");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  std::string tags;
  for (const auto& inbound : loaded.config->inbounds) tags += inbound.tag;
  for (const auto& outbound : loaded.config->outbounds) tags += outbound.tag;
  EXPECT_EQ(tags, "abcxyz");
  EXPECT_EQ(loaded.config->inbounds[0].ports[0].from, 2001);
}

TEST(Merge, LaterFilesReplaceSectionsAndMergeLists) {
  const auto outbounds = [](std::vector<SourceFile> files) {
    const auto loaded = load(std::move(files), Surroundings{});
    EXPECT_TRUE(loaded.config) << all_text(loaded);
    std::string tags;
    for (const auto& outbound : loaded.config->outbounds) tags += outbound.tag;
    return tags;
  };
  const std::string a = R"({"outbounds": [{"tag": "a", "protocol": "freedom"}]})";
  const std::string b = R"({"outbounds": [{"tag": "b", "protocol": "freedom"}]})";
  const std::string ac = R"({"outbounds": [{"tag": "c", "protocol": "freedom"}, {"tag": "d", "protocol": "freedom"}]})";
  EXPECT_EQ(outbounds({{"1.json", a}, {"2.json", b}}), "ba");
  EXPECT_EQ(outbounds({{"1.json", a}, {"2_Tail.json", b}}), "ab");
  EXPECT_EQ(outbounds({{"1.json", a}, {"tails/2.json", b}}), "ba");
  EXPECT_EQ(outbounds({{"1.json", a}, {"2.json", ac}}), "cda");
  EXPECT_EQ(outbounds({{"1.json", a}, {"2.json", R"({"outbounds": [{"tag": "a", "protocol": "blackhole"}]})"}}), "a");
  const auto rules = load({{"1.json", R"({"outbounds": [{"tag": "o", "protocol": "freedom"}],
                             "routing": {"rules": [{"network": "tcp", "outboundTag": "o"}]}})"},
                           {"2.json", R"({"routing": {"rules": []}})"}},
                          Surroundings{});
  EXPECT_TRUE(rules.config->rules.empty());
  EXPECT_TRUE(
      has(load({{"1.json", a}, {"2.json", R"({"outbounds": [{"_tag": "a", "protocol": "freedom"}]})"}}, Surroundings{}),
          "UNSUPPORTED", "$.outbounds[0]._tag"));
}

TEST(Merge, FindingsNameTheFileThatContributed) {
  const auto loaded =
      load({{"one.json", "{}"}, {"two.json", "{\"outbounds\": [\n {\"protocol\": \"freedon\"}]}"}}, Surroundings{});
  ASSERT_EQ(loaded.diagnostics.size(), 1u);
  EXPECT_EQ(loaded.diagnostics[0].file, "two.json");
  EXPECT_EQ(loaded.diagnostics[0].line, 2u);
}

TEST(Secrets, NeverPrinted) {
  const std::string secret = "27848739-7e62-4138-9fd3-098a63964b6";  // one digit short
  for (const std::string& text : std::vector<std::string>{
           R"({"inbounds": [{"port": 1, "protocol": "vmess", "settings": {"clients": [{"id": ")" + secret + "\"}]}}]}",
           R"({"inbounds": [{"port": 1, "protocol": "vmess", "settings": {"clients": [{"id": ")" + secret +
               "\" \"level\": 1}]}}]}",
           R"({"outbounds": [{"protocol": "vmess", "settings": {"address": "x", "port": 1, "id": ")" + secret +
               "\", \"alterId\": -1}}]}"}) {
    const auto loaded = load_text(text);
    EXPECT_FALSE(loaded.config);
    EXPECT_EQ(all_text(loaded).find("7e62"), std::string::npos) << all_text(loaded);
  }
  const auto good = load_text(R"({"inbounds": [{"port": 2001, "protocol": "vmess", "settings": {"clients": [{"id": ")" +
                              kId + R"("}]}}]})");
  ASSERT_TRUE(good.config);
  EXPECT_EQ(canonical_json(*good.config, Secrets::mask).find("7e62"), std::string::npos);
  EXPECT_NE(canonical_json(*good.config, Secrets::mask).find("2784…"), std::string::npos);
}

TEST(Users, IdsAsXrayMapsThem) {
  const auto with_id = [](const std::string& id) {
    return load_text(R"({"inbounds": [{"port": 2001, "protocol": "vmess", "settings": {"clients": [{"id": ")" + id +
                     "\"}]}}]}");
  };
  const auto mapped = with_id("example");
  ASSERT_TRUE(mapped.config) << all_text(mapped);
  EXPECT_TRUE(has(mapped, "COMPAT", "$.inbounds[0].settings.clients[0].id"));
  EXPECT_FALSE(with_id("27848739-7e62-4138").config);  // a UUID that lost its end, not a name
  EXPECT_FALSE(with_id("").config);
}

TEST(Users, TheSameEmailTwiceIsRefused) {
  const auto loaded = load_text(R"({"inbounds": [{"port": 2001, "protocol": "vmess", "settings": {"clients": [
    {"id": "example", "email": "a@b"}, {"id": "other", "email": "A@B"}]}}]})");
  EXPECT_TRUE(has(loaded, "VALUE", "$.inbounds[0].settings.clients[1].email"));
}

TEST(Unbuilt, RefusedByNameAndOffIsFine) {
  const auto with = [](const std::string& top) {
    return load_text(R"({"outbounds": [{"tag": "o", "protocol": "freedom"}], )" + top + "}");
  };
  for (const auto* name : {"api", "stats"}) {
    EXPECT_TRUE(has(with("\"" + std::string(name) + "\": {}"), "UNSUPPORTED", "$." + std::string(name)));
  }
  EXPECT_TRUE(has(with(R"("dns": {"servers": ["1.1.1.1"]})"), "UNSUPPORTED", "$.dns"));
  EXPECT_TRUE(with(R"("dns": {})").config);
  EXPECT_TRUE(has(with(R"("routing": {"domainStrategy": "IPIfNonMatch"})"), "UNSUPPORTED", "$.routing.domainStrategy"));
  EXPECT_TRUE(has(with(R"("routing": {"rules": [{"protocol": ["http"], "outboundTag": "o"}]})"), "UNSUPPORTED",
                  "$.routing.rules[0].protocol"));
  EXPECT_TRUE(has(with(R"("routing": {"rules": [{"ip": ["geoip:private"], "outboundTag": "o"}]})"), "UNSUPPORTED",
                  "$.routing.rules[0].ip[0]"));
  EXPECT_TRUE(has(with(R"("ebbgate": {"admin": {"http": "127.0.0.1:80"}})"), "UNSUPPORTED", "$.ebbgate.admin.http"));
  EXPECT_TRUE(has(with(R"("reverse": {"bridges": [{"tag": "b", "domain": "d"}]},
                          "ebbgate": {"bridges": {"b": {"allowTargets": [{"port": 80}]}}})"),
                  "UNSUPPORTED", "$.ebbgate.bridges.b.allowTargets"));
  EXPECT_TRUE(has(with(R"("router": {})"), "UNSUPPORTED", "$.router"));
  const auto mux = load_text(R"({"outbounds": [{"tag": "o", "protocol": "freedom", "mux": {"enabled": true}}]})");
  EXPECT_TRUE(has(mux, "UNSUPPORTED", "$.outbounds[0].mux"));
}

TEST(Policy, LevelsAndDefaults) {
  const auto loaded = load_text(R"({"policy": {"levels": {"3": {"handshake": 4, "bufferSize": 512}}}})");
  ASSERT_TRUE(loaded.config);
  EXPECT_EQ(loaded.config->level(3).handshake, Millis(4000));
  EXPECT_EQ(loaded.config->level(3).uplink_only, Millis(1000));
  EXPECT_EQ(loaded.config->level(1).conn_idle, Millis(300'000));
  EXPECT_TRUE(has(loaded, "INEFFECTIVE", "$.policy.levels.3.bufferSize"));
  EXPECT_FALSE(load_text(R"({"policy": {"levels": {"x": {}}}})").config);
}

TEST(Ebbgate, DanglingTagsAndWrongWords) {
  const auto loaded = load_text(R"({"reverse": {"portals": [{"tag": "portal", "domain": "d"}]},
    "ebbgate": {"portals": {"portl": {}}, "timers": {"stall": "5 s"}, "limits": {"memory": "1MB"}, "workers": "many"}})");
  EXPECT_TRUE(has(loaded, "DANGLING", "$.ebbgate.portals.portl"));
  EXPECT_TRUE(has(loaded, "VALUE", "$.ebbgate.timers.stall"));
  EXPECT_TRUE(has(loaded, "VALUE", "$.ebbgate.limits.memory"));
  EXPECT_TRUE(has(loaded, "VALUE", "$.ebbgate.workers"));
}

TEST(Ebbgate, AStallIsLongEnoughToJudgeBy) {
  EXPECT_TRUE(has(load_text(R"({"ebbgate": {"timers": {"stall": 0}}})"), "VALUE", "$.ebbgate.timers.stall"));
  EXPECT_TRUE(has(load_text(R"({"ebbgate": {"timers": {"stall": "999ms"}}})"), "VALUE", "$.ebbgate.timers.stall"));
  EXPECT_FALSE(has(load_text(R"({"ebbgate": {"timers": {"stall": "1s"}}})"), "VALUE", "$.ebbgate.timers.stall"));
}

TEST(ProxyProtocol, SwitchedOnInAnyOfItsPlaces) {
  const auto with = [](const std::string& stream, const std::string& ebbgate = "{}") {
    return load_text(R"({"inbounds": [{"port": 2001, "protocol": "dokodemo-door",
      "settings": {"address": "10.0.0.1", "port": 80}, "streamSettings": )" +
                     stream + R"(}], "ebbgate": )" + ebbgate + "}");
  };
  for (const auto* on :
       {R"({"tcpSettings": {"acceptProxyProtocol": true}})", R"({"rawSettings": {"acceptProxyProtocol": true}})",
        R"({"sockopt": {"acceptProxyProtocol": true}})",
        R"({"tcpSettings": {"acceptProxyProtocol": false}, "sockopt": {"acceptProxyProtocol": true}})"}) {
    const auto loaded = with(on);
    ASSERT_TRUE(loaded.config) << all_text(loaded);
    EXPECT_TRUE(loaded.config->inbounds[0].accept_proxy_protocol) << on;
    EXPECT_EQ(loaded.config->settings.trusted_proxies, (std::vector<std::string>{"127.0.0.0/8", "::1"}));
    expect_canonical_round_trip(*loaded.config);
  }
  EXPECT_FALSE(with("{}").config->inbounds[0].accept_proxy_protocol);
  const auto nobody = with(R"({"sockopt": {"acceptProxyProtocol": true}})", R"({"trustedProxies": []})");
  EXPECT_TRUE(has(nobody, "VALUE", "$.inbounds[0].streamSettings.sockopt.acceptProxyProtocol")) << all_text(nobody);
  EXPECT_FALSE(nobody.config);
  const auto unused = with("{}", R"({"trustedProxies": []})");
  ASSERT_TRUE(unused.config) << all_text(unused);
  expect_canonical_round_trip(*unused.config);
  const auto outbound = load_text(
      R"({"outbounds": [{"protocol": "freedom", "streamSettings": {"sockopt": {"acceptProxyProtocol": true}}}]})");
  EXPECT_TRUE(outbound.config);
  EXPECT_TRUE(has(outbound, "INEFFECTIVE", "$.outbounds[0].streamSettings.sockopt.acceptProxyProtocol"));
}

TEST(ProxyProtocol, TrustedProxiesAreAddresses) {
  const auto with = [](const std::string& list) {
    return load_text(R"({"ebbgate": {"trustedProxies": )" + list + "}}");
  };
  EXPECT_TRUE(has(with(R"(["proxy.test"])"), "VALUE", "$.ebbgate.trustedProxies[0]"));
  EXPECT_TRUE(has(with(R"(["::1", "10.0.0.0/33"])"), "VALUE", "$.ebbgate.trustedProxies[1]"));
  EXPECT_TRUE(has(with(R"(["geoip:private"])"), "UNSUPPORTED", "$.ebbgate.trustedProxies[0]"));
  const auto everybody = with(R"(["0.0.0.0/0"])");
  EXPECT_TRUE(has(everybody, "VALUE", "$.ebbgate.trustedProxies[0]"));
  EXPECT_TRUE(everybody.config);
}

TEST(ProxyProtocol, VersionsOfPortalsAndBridges) {
  const auto with = [](const std::string& version) {
    return load_text(
        R"({"reverse": {"portals": [{"tag": "p", "domain": "p.test"}], "bridges": [{"tag": "b", "domain": "b.test"}]},
      "outbounds": [{"protocol": "freedom"}], "ebbgate": {"portals": {"p": {"proxyProtocol": )" +
        version + R"(}}, "bridges": {"b": {"proxyProtocol": )" + version + "}}}}");
  };
  for (const int version : {0, 1, 2}) {
    const auto loaded = with(std::to_string(version));
    ASSERT_TRUE(loaded.config) << all_text(loaded);
    EXPECT_EQ(loaded.config->portals[0].proxy_protocol, version);
    EXPECT_EQ(loaded.config->bridges[0].proxy_protocol, version);
    expect_canonical_round_trip(*loaded.config);
  }
  EXPECT_TRUE(has(with("3"), "VALUE", "$.ebbgate.portals.p.proxyProtocol"));
  EXPECT_TRUE(has(with("3"), "VALUE", "$.ebbgate.bridges.b.proxyProtocol"));
}

TEST(ProxyProtocol, Version1IsSaidToHaveNoHeaderForUdp) {
  const auto with = [](const std::string& version, const std::string& network) {
    return load_text(
        R"({"inbounds": [{"port": 1080, "protocol": "dokodemo-door", "settings": {"address": "10.0.0.1", "port": 53,
      "network": ")" +
        network + R"("}}],
      "reverse": {"portals": [{"tag": "p", "domain": "p.test"}], "bridges": [{"tag": "b", "domain": "b.test"}]},
      "outbounds": [{"protocol": "freedom"}], "ebbgate": {"portals": {"p": {"proxyProtocol": )" +
        version + R"(}}, "bridges": {"b": {"proxyProtocol": )" + version + "}}}}");
  };
  const auto severity = [](const Loaded& loaded, const std::string& path) {
    for (const auto& each : loaded.diagnostics) {
      if (each.code == "INEFFECTIVE" && each.path == path) return std::optional(each.severity);
    }
    return std::optional<Severity>();
  };
  const std::string portal = "$.ebbgate.portals.p.proxyProtocol", bridge = "$.ebbgate.bridges.b.proxyProtocol";
  EXPECT_EQ(severity(with("1", "tcp,udp"), portal), Severity::warning);
  EXPECT_EQ(severity(with("1", "tcp"), portal), Severity::info);
  EXPECT_EQ(severity(with("1", "tcp,udp"), bridge), Severity::info);
  for (const auto* path : {&portal, &bridge}) EXPECT_EQ(severity(with("2", "tcp,udp"), *path), std::nullopt);
}

}  // namespace
}  // namespace ebb::config
