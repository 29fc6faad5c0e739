#include "common/protocol/vmess/kdf.h"

#include <gtest/gtest.h>

#include "tests/support/vectors.h"

namespace ebb::vmess {
namespace {

TEST(VmessKdf, MatchesTheRealImplementations) {
  for (const auto& entry : test::load_vectors("vmess/kdf.json")["vectors"]) {
    const Bytes key = entry["key"].hex();
    std::vector<Bytes> path;
    for (const auto& salt : entry["path_hex"]) path.push_back(salt.hex());
    const std::vector<ConstSpan> salts(path.begin(), path.end());
    EXPECT_EQ(to_hex(kdf(key, salts)), entry["kdf"].text());
    if (path.size() == 1) {
      EXPECT_EQ(to_hex(kdf16(key, {path[0]})), entry["kdf16"].text());
    }
  }
}

}  // namespace
}  // namespace ebb::vmess
