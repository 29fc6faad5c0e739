// Loops and other findings of the walk through the rules: the layouts of spec/routing.md 11.2 and their neighbours.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

const std::string kTunnel =
    R"({"tag": "interconn", "protocol": "vmess", "settings": {"address": "192.0.2.1", "port": 1024, "id": "example"}})";
const std::string kOut = R"({"tag": "out", "protocol": "freedom", "settings": {"redirect": "127.0.0.1:80"}})";
const std::string kOwn = R"({"inboundTag": ["bridge"], "domain": ["full:test.v2ray.com"], "outboundTag": "interconn"})";

Loaded bridge(const std::string& outbounds, const std::string& rules) {
  return load_text(R"({"reverse": {"bridges": [{"tag": "bridge", "domain": "test.v2ray.com"}]}, "outbounds": [)" +
                   outbounds + R"(], "routing": {"rules": [)" + rules + "]}}");
}

bool finds(const Loaded& loaded, const std::string& code) {
  return std::any_of(loaded.diagnostics.begin(), loaded.diagnostics.end(),
                     [&](const auto& d) { return d.code == code; });
}

TEST(Bridge, DocumentedLayoutHasNothingToReport) {
  const auto loaded = bridge(kOut + "," + kTunnel, kOwn + R"(, {"inboundTag": ["bridge"], "outboundTag": "out"})");
  ASSERT_TRUE(loaded.config);
  for (const auto& d : loaded.diagnostics) EXPECT_EQ(d.severity, Severity::info) << d.text();
}

TEST(Bridge, LoopsAreRefused) {
  // V03, a catch-all into the tunnel, a target condition that sends some of it back.
  EXPECT_TRUE(finds(bridge(kTunnel + "," + kOut, kOwn), "BRIDGE_LOOP"));
  EXPECT_TRUE(
      finds(bridge(kOut + "," + kTunnel, R"({"network": "tcp,udp", "outboundTag": "interconn"})"), "BRIDGE_LOOP"));
  EXPECT_TRUE(finds(bridge(kOut + "," + kTunnel, kOwn + R"(, {"port": 443, "outboundTag": "interconn"},
                                                           {"inboundTag": "bridge", "outboundTag": "out"})"),
                    "BRIDGE_LOOP"));
  EXPECT_TRUE(finds(bridge(kTunnel, ""), "BRIDGE_LOOP"));
}

TEST(Bridge, WhatBringsTheTunnelUpIsNoLoop) {
  for (const std::string own :
       {R"({"inboundTag": ["bridge"], "port": "0", "outboundTag": "interconn"})",               // V15
        R"({"inboundTag": ["bridge"], "domain": ["test.v2ray"], "outboundTag": "interconn"})",  // V26
        R"({"domain": ["full:test.v2ray.com"], "outboundTag": "interconn"})"}) {
    const auto loaded = bridge(kTunnel + "," + kOut, own + R"(, {"inboundTag": ["bridge"], "outboundTag": "out"})");
    EXPECT_TRUE(loaded.config) << own << all_text(loaded);
  }
  EXPECT_TRUE(finds(bridge(kOut + "," + kTunnel, kOwn), "BRIDGE_IMPLICIT_DEFAULT"));  // V04
}

TEST(Bridge, TunnelsThatNeverComeUp) {
  const std::string all = R"({"inboundTag": ["bridge"], "outboundTag": "out"})";
  EXPECT_TRUE(finds(bridge(kOut + "," + kTunnel, all + "," + kOwn), "BRIDGE_SHADOWED"));  // V02
  EXPECT_TRUE(finds(bridge(kOut + "," + kTunnel, ""), "BRIDGE_NO_TUNNEL_RULE"));          // V05
  EXPECT_TRUE(
      finds(bridge(kOut + "," + kTunnel, R"({"inboundTag": ["bridge"], "port": 0, "outboundTag": "interconn"},)" + all),
            "RULE_NEVER_MATCHES"));  // V16
  const auto by_source = bridge(kOut + "," + kTunnel,
                                kOwn + R"(, {"inboundTag": "bridge", "source": ["0.0.0.0/0"], "outboundTag": "out"})");
  EXPECT_FALSE(finds(by_source, "RULE_NEVER_MATCHES"));  // V19: our own portal tells the visitor's address
  EXPECT_TRUE(finds(by_source, "COMPAT"));
}

TEST(Bridge, TwoOfThemMayShareTagOutboundAndDomain) {
  const auto loaded = load_text(
      R"({"reverse": {"bridges": [{"tag": "b1", "domain": "one"}, {"tag": "b2", "domain": "two"}, {"tag": "b2", "domain": "two"}]},
    "outbounds": [)" +
      kOut + "," + kTunnel + R"(], "routing": {"rules": [
      {"domain": ["full:one"], "outboundTag": "interconn"}, {"domain": ["full:two"], "outboundTag": "interconn"},
      {"inboundTag": ["b1", "b2"], "outboundTag": "out"}]},
    "ebbgate": {"bridges": {"b2": {"minTunnels": 2}}}})");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  EXPECT_EQ(loaded.config->bridges[1].min_tunnels, 2u);
  EXPECT_EQ(loaded.config->bridges[2].min_tunnels, 2u);
  expect_canonical_round_trip(*loaded.config);
}

Loaded portal(const std::string& outbounds, const std::string& rules) {
  return load_text(R"({"reverse": {"portals": [{"tag": "portal", "domain": "d"}]}, "inbounds": [
      {"tag": "external", "port": 2080, "protocol": "dokodemo-door", "settings": {"address": "127.0.0.1", "port": 80}},
      {"tag": "interconn", "port": 2024, "protocol": "vmess", "settings": {"clients": [{"id": "example", "email": "nas@home"}]}}],
    "outbounds": [)" +
                   outbounds + R"(], "routing": {"rules": [)" + rules + "]}}");
}

TEST(Portal, ReachedByUserAndByName) {
  const std::string external = R"({"inboundTag": ["external"], "outboundTag": "portal"})";
  for (const std::string own :
       {R"({"user": ["nas@home"], "outboundTag": "portal"},)",                                  // V21
        R"({"inboundTag": ["interconn"], "domain": ["full:d"], "outboundTag": "portal"},)"}) {  // V07
    const auto loaded = portal(kOut, own + external);
    ASSERT_TRUE(loaded.config);
    EXPECT_FALSE(finds(loaded, "PORTAL_UNREACHABLE_FOR_BRIDGE")) << all_text(loaded);
    EXPECT_FALSE(finds(loaded, "PORTAL_UNUSED"));
  }
  EXPECT_TRUE(finds(portal(kOut, external), "PORTAL_UNREACHABLE_FOR_BRIDGE"));  // V08
  EXPECT_TRUE(finds(portal("", external), "PORTAL_IS_DEFAULT"));                // V09
  EXPECT_FALSE(finds(portal("", external), "PORTAL_UNREACHABLE_FOR_BRIDGE"));
}

TEST(Rules, HiddenOnesAreReported) {
  const auto loaded = portal(
      kOut, R"({"network": "tcp,udp", "outboundTag": "out"}, {"inboundTag": ["external"], "outboundTag": "portal"})");
  EXPECT_TRUE(has(loaded, "UNREACHABLE", "$.routing.rules[1]"));
}

/// The messages of one code, "" for the rules that have none.
std::vector<std::string> by_rule(const Loaded& loaded, const std::string& code, std::size_t rules) {
  std::vector<std::string> out(rules);
  for (const auto& d : loaded.diagnostics) {
    for (std::size_t i = 0; i < rules; ++i) {
      if (d.code == code && d.path == "$.routing.rules[" + std::to_string(i) + "]") out[i] = d.message;
    }
  }
  return out;
}

TEST(Rules, TheHidingRuleIsNamed) {
  const auto loaded = portal(kOut, R"(
      {"inboundTag": ["external"], "outboundTag": "portal"}, {"inboundTag": ["external"], "outboundTag": "out"},
      {"network": "tcp", "port": 443, "outboundTag": "out"},
      {"inboundTag": ["interconn"], "outboundTag": "portal"}, {"network": "tcp,udp", "outboundTag": "out"},
      {"port": 80, "outboundTag": "out"})");
  const std::string by0 = "never reached: rule 0 already takes what this one would match";
  const std::string by3 = "never reached: rule 3 already takes what this one would match";
  EXPECT_EQ(by_rule(loaded, "UNREACHABLE", 6), (std::vector<std::string>{"", by0, "", "", by3, by3}));
}

TEST(Rules, AListOfAllUsersHidesAndOneOfSomeDoesNot) {
  const auto users = [](const std::string& list) {
    return by_rule(load_text(R"({"inbounds": [{"tag": "in", "port": 2024, "protocol": "vmess", "settings": {"clients": [
        {"id": "one", "email": "a@x"}, {"id": "two", "email": "b@x"}]}}], "outbounds": [)" +
                             kOut + R"(], "routing": {"rules": [{"user": [)" + list +
                             R"(], "outboundTag": "out"}, {"network": "tcp", "outboundTag": "out"}]}})"),
                   "UNREACHABLE", 2)[1] != "";
  };
  EXPECT_TRUE(users(R"("a@x", "b@x", "c@x")"));
  EXPECT_TRUE(users(R"("regexp:@x$")"));
  EXPECT_TRUE(users(R"("a@x", "regexp:^b")"));
  EXPECT_FALSE(users(R"("a@x", "c@x")"));
  EXPECT_FALSE(users(R"("regexp:^b")"));
  EXPECT_FALSE(users(R"("c@x")"));
}

TEST(Rules, OnlyTheFullDepthWalksThroughThem) {
  const std::string loop =
      R"({"reverse": {"bridges": [{"tag": "bridge", "domain": "test.v2ray.com"}]}, "outbounds": [)" + kTunnel +
      R"(], "routing": {"rules": [{"inboundTag": ["gone"], "outboundTag": "interconn"}]}})";
  EXPECT_FALSE(load_text(loop).config);
  const auto elements = load({{"test.json", loop}}, Surroundings{}, Depth::elements);
  EXPECT_TRUE(elements.config);
  EXPECT_TRUE(finds(elements, "DANGLING")) << all_text(elements);
  EXPECT_FALSE(finds(elements, "BRIDGE_LOOP"));
}

TEST(Ports, WildcardsTakeEveryAddress) {
  const auto two = [](const std::string& a, const std::string& b) {
    const auto inbound = [](const std::string& listen) {
      return R"({"listen": ")" + listen + R"(", "port": 2080, "protocol": "vmess"})";
    };
    return finds(load_text(R"({"inbounds": [)" + inbound(a) + "," + inbound(b) + "]}"), "PORT_CLASH");
  };
  EXPECT_TRUE(two("0.0.0.0", "127.0.0.1"));
  EXPECT_TRUE(two("127.0.0.1", "0.0.0.0"));
  EXPECT_TRUE(two("::", "127.0.0.1"));
  EXPECT_TRUE(two("::1", "::"));
  EXPECT_TRUE(two("127.0.0.1", "localhost"));
  EXPECT_FALSE(two("127.0.0.1", "127.0.0.2"));
  EXPECT_FALSE(two("0.0.0.0", "::1"));
}

}  // namespace
}  // namespace ebb::config
