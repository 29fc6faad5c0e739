#include "ipc/query.h"

#include <gtest/gtest.h>

namespace ebb::ipc {
namespace {

using Kind = Query::Kind;

TEST(Query, KnowsWhatItIsAsked) {
  EXPECT_EQ(parse_query(R"({"query":"status"})")->kind, Kind::status);
  EXPECT_EQ(parse_query(R"({"query":"live"})")->kind, Kind::live);
  const auto moved = parse_query(R"({"query":"moved","portals":["web w.reverse","a \"b\" c","web w.reverse"]})");
  ASSERT_TRUE(moved);
  EXPECT_EQ(moved->kind, Kind::moved);
  EXPECT_EQ(moved->portals, (std::set<std::string>{"web w.reverse", "a \"b\" c"}));
  EXPECT_TRUE(parse_query(R"({"query":"moved","portals":[]})")->portals.empty());
}

TEST(Query, AnswersWhatItDoesNotKnowWithTheStatus) {
  for (const char* text : {"", "{", "null", "[]", "\"live\"", "{}", R"({"query":7})", R"({"query":"live")", "\xff\xfe",
                           R"({"query":"dance"})", R"({"query":null,"portals":3})"}) {
    const auto query = parse_query(text);
    ASSERT_TRUE(query) << text;
    EXPECT_EQ(query->kind, Kind::status) << text;
  }
  EXPECT_EQ(parse_query(std::string(60'000, '['))->kind, Kind::status);
}

TEST(Query, SaysWhatIsMissing) {
  for (const char* text : {R"({"query":"moved"})", R"({"query":"moved","portals":"a b"})",
                           R"({"query":"moved","portals":["a b",3]})", R"({"query":"moved","portals":{}})"}) {
    EXPECT_FALSE(parse_query(text)) << text;
  }
  EXPECT_EQ(query_error("no \"x\""), R"({"error":"no \"x\""})");
}

}  // namespace
}  // namespace ebb::ipc
