#include "common/crypto/uuid.h"

#include <gtest/gtest.h>

#include "tests/support/vectors.h"

namespace ebb::crypto {
namespace {

TEST(UserIdText, AcceptsWhatAnyPeerAccepts) {
  for (const auto& entry : test::load_vectors("vmess/ids.json")["uuid_parse"]) {
    const std::string text = entry["text"].text();
    const std::string v4 = entry["v2ray-4.34"].text();
    const std::string xray = entry["xray-26.7"].text();
    const std::string wanted = v4 != "error" && v4 != "crash" ? v4 : xray;
    const auto id = parse_user_id(text);
    EXPECT_EQ(id ? to_hex(id->value) : "error", wanted) << text;
  }
}

TEST(UserIdText, PrintsTheUsualForm) {
  const auto id = parse_user_id("278487397E6241389FD3098A63964B6B");
  ASSERT_TRUE(id);
  EXPECT_EQ(uuid_text(*id), "27848739-7e62-4138-9fd3-098a63964b6b");
}

TEST(UserIdText, SaysWhatItExpected) {
  const auto id = parse_user_id("zz848739-7e62-4138-9fd3-098a63964b6b");
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().code, Errc::config);
  EXPECT_NE(id.error().what.find("zz848739"), std::string::npos);
  EXPECT_FALSE(parse_user_id("0123456789012345678901234567890"));
  EXPECT_TRUE(is_mapped_user_id("example"));
}

}  // namespace
}  // namespace ebb::crypto
