// Realistic files: accepted when what they need is built, otherwise refused with nothing but the missing features.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <set>

#include "tests/support/vectors.h"
#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

// Words of good/expected.json, key `needs`, that are built. "policy": the four timers.
const std::set<std::string> kBuilt{"vmess",       "dokodemo", "freedom", "blackhole",      "vmess-legacy", "tcp",
                                   "portal",      "bridge",   "policy",  "rule-domain",    "rule-ip",      "rule-user",
                                   "legacy-keys", "confdir",  "regexp",  "proxy-protocol", "udp"};

Loaded load_good(const std::string& name) {
  const std::string path = kCorpus + "good/" + name;
  if (!std::filesystem::is_directory(path)) return load_vector("good/" + name);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().extension() == ".json") names.insert(entry.path().string());
  }
  std::vector<SourceFile> files;
  for (const auto& file : names) files.push_back({file, slurp(file)});
  return load(std::move(files), Surroundings{});
}

TEST(GoodCorpus, AcceptedOrRefusedByName) {
  std::size_t accepted = 0;
  const auto all = test::load_vectors("configs/good/expected.json");
  for (const auto& entry : all) {
    const std::string file = entry["file"].text();
    SCOPED_TRACE(file);
    std::string missing;
    for (const auto& need : entry["needs"]) {
      if (!kBuilt.contains(need.text())) missing += " " + need.text();
    }
    const auto loaded = load_good(file);
    if (missing.empty()) {
      ++accepted;
      EXPECT_TRUE(loaded.config) << all_text(loaded);
      if (loaded.config) expect_canonical_round_trip(*loaded.config);
      continue;
    }
    EXPECT_FALSE(loaded.config) << "needs" << missing;
    std::cout << "not built yet: " << file << " needs" << missing << "\n";
    for (const auto& d : loaded.diagnostics) {
      EXPECT_TRUE(!d.refuses || d.code == "UNSUPPORTED" || d.code == "UNKNOWN_TRANSPORT") << d.text();
    }
  }
  EXPECT_GE(accepted, 2u);
}

TEST(GoodCorpus, NoFalseAlarms) {
  const std::set<std::string> alarms{
      "DANGLING",      "BRIDGE_LOOP",   "BRIDGE_SHADOWED", "BRIDGE_NO_TUNNEL_RULE",
      "PORTAL_UNUSED", "UNKNOWN_KEY",   "PORT_CLASH",      "PORTAL_UNREACHABLE_FOR_BRIDGE",
      "UNREACHABLE",   "DUPLICATE_KEY", "DOMAIN_CASE",     "RULE_NEVER_MATCHES"};
  const auto all = test::load_vectors("configs/good/expected.json");
  for (const auto& entry : all) {
    for (const auto& d : load_good(entry["file"].text()).diagnostics) EXPECT_FALSE(alarms.contains(d.code)) << d.text();
  }
}

TEST(GoodCorpus, NamesTheMissingFeature) {
  EXPECT_TRUE(
      has(load_good("g20-v2fly5-grpc.bridge.json"), "UNKNOWN_TRANSPORT", "$.outbounds[1].streamSettings.network"));
  EXPECT_TRUE(has(load_good("g21-tcp-http-header.bridge.json"), "UNSUPPORTED",
                  "$.outbounds[1].streamSettings.tcpSettings.header.type"));
  EXPECT_TRUE(has(load_good("g12-balancer.portal.json"), "UNSUPPORTED", "$.routing.balancers"));
  EXPECT_TRUE(has(load_good("g07-two-vps.bridge.json"), "UNSUPPORTED", "$.outbounds[1].streamSettings.sockopt.mark"));
}

TEST(GoodCorpus, DokodemoListensOnTheNetworksItNames) {
  const auto loaded = load_good("g11-udp-wireguard.portal.json");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  const auto& inbounds = loaded.config->inbounds;
  EXPECT_FALSE(inbounds[0].listens(Network::tcp));
  EXPECT_TRUE(inbounds[0].listens(Network::udp));
  EXPECT_TRUE(inbounds[1].listens(Network::tcp) && inbounds[1].listens(Network::udp));
  EXPECT_TRUE(inbounds[2].listens(Network::tcp));
  EXPECT_FALSE(inbounds[2].listens(Network::udp));
}

TEST(GoodCorpus, DirectoryMergesInNameOrder) {
  const auto loaded = load_good("g23-confdir");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  const Config& config = *loaded.config;
  ASSERT_EQ(config.outbounds.size(), 2u);
  EXPECT_EQ(config.outbounds[0].tag, "block");
  EXPECT_EQ(config.outbounds[1].tag, "direct");
  ASSERT_EQ(config.inbounds.size(), 2u);
  EXPECT_EQ(config.inbounds[0].tag, "external");
  EXPECT_EQ(config.inbounds[0].ports[0].from, 8088);
  EXPECT_EQ(config.inbounds[1].ports[0].from, 9007);
}

}  // namespace
}  // namespace ebb::config
