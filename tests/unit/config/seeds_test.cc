// The configurations of the documents users start from must load, and survive the canonical form.
#include <gtest/gtest.h>

#include "common/config/canonical.h"
#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

const std::vector<std::string> kPairs{"seed-000-en", "seed-001-ko", "seed-002-zh", "seed-003-xray", "seed-004-guide"};

std::vector<std::string> seed_files() {
  std::vector<std::string> out;
  for (const auto& pair : kPairs) {
    for (const auto* role : {"bridge", "portal"}) {
      for (const auto* kind : {".json", ".local.json"}) out.push_back("seeds/" + pair + "." + role + kind);
    }
  }
  return out;
}

TEST(Seeds, AllLoadAndReadBackTheSame) {
  for (const auto& name : seed_files()) {
    SCOPED_TRACE(name);
    const auto loaded = load_vector(name);
    ASSERT_TRUE(loaded.config) << all_text(loaded);
    expect_canonical_round_trip(*loaded.config);
  }
}

TEST(Seeds, LocalPortalMeansWhatItSays) {
  const auto loaded = load_vector("seeds/seed-000-en.portal.local.json");
  ASSERT_TRUE(loaded.config);
  const Config& config = *loaded.config;
  ASSERT_EQ(config.inbounds.size(), 2u);
  EXPECT_EQ(config.inbounds[0].tag, "external");
  EXPECT_EQ(config.inbounds[0].listen.text(), "127.0.0.1");
  EXPECT_EQ(config.inbounds[0].ports, (std::vector<PortRange>{{21080, 21080}}));
  const auto& door = std::get<DokodemoInbound>(config.inbounds[0].protocol);
  EXPECT_EQ(host_text(door.address), "127.0.0.1");
  EXPECT_EQ(door.port, 21081);
  EXPECT_FALSE(config.inbounds[0].authenticates());
  EXPECT_TRUE(config.inbounds[1].authenticates());
  ASSERT_EQ(config.portals.size(), 1u);
  EXPECT_EQ(config.portals[0].domain, "test.v2ray.com");
  ASSERT_EQ(config.rules.size(), 2u);
  EXPECT_EQ(config.rules[0].inbound_tags, std::vector<std::string>{"external"});
  EXPECT_EQ(config.rules[0].outbound_tag, "portal");
  EXPECT_FALSE(config.log.access_on);
  EXPECT_TRUE(config.log.error_on);
  EXPECT_EQ(config.level(0).handshake, Millis(60'000));
  EXPECT_EQ(config.level(1).conn_idle, Millis(600'000));
}

TEST(Seeds, LocalBridgeMeansWhatItSays) {
  const auto loaded = load_vector("seeds/seed-004-guide.bridge.local.json");
  ASSERT_TRUE(loaded.config);
  const Config& config = *loaded.config;
  ASSERT_EQ(config.outbounds.size(), 2u);
  const auto& tunnel = std::get<VmessOutbound>(config.outbounds[0].protocol);
  ASSERT_EQ(tunnel.servers.size(), 1u);
  EXPECT_EQ(tunnel.servers[0].port, 21683);
  EXPECT_EQ(tunnel.servers[0].users.at(0).alter_id, 64);
  EXPECT_FALSE(std::get<FreedomOutbound>(config.outbounds[1].protocol).redirect);
  EXPECT_EQ(config.rules.at(0).domains, std::vector<std::string>{"full:private.cloud.com"});
}

TEST(Seeds, AsPrintedLackAComma) {
  for (const auto* name : {"seed-000-en", "seed-001-ko", "seed-002-zh"}) {
    SCOPED_TRACE(name);
    const auto loaded = load_vector("seeds/" + std::string(name) + ".bridge.as-printed.json");
    EXPECT_FALSE(loaded.config);
    ASSERT_EQ(loaded.diagnostics.size(), 1u);
    const auto& found = loaded.diagnostics[0];
    EXPECT_EQ(found.code, "JSON_SYNTAX");
    EXPECT_EQ(found.path, "$.outbounds[0]");
    EXPECT_EQ(found.line, 11u);
    EXPECT_EQ(found.column, 7u);
    EXPECT_EQ(found.suggestion, "add a comma after \"out\" on line 10");
  }
}

}  // namespace
}  // namespace ebb::config
