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

TEST(Query, NamesATunnelOrAUser) {
  const auto tunnel = parse_query(R"({"query":"kick","tunnel":7})");
  ASSERT_TRUE(tunnel);
  EXPECT_EQ(tunnel->kind, Kind::kick);
  EXPECT_EQ(tunnel->tunnel, 7u);
  const auto user = parse_query(R"({"query":"drain","user":"nas@home"})");
  ASSERT_TRUE(user);
  EXPECT_EQ(user->kind, Kind::drain);
  EXPECT_FALSE(user->tunnel);
  EXPECT_EQ(user->user, "nas@home");
  EXPECT_EQ(query_counts(2, 31), R"({"tunnels":2,"visitors":31})");
}

TEST(Query, SaysWhatIsMissing) {
  for (const char* text : {R"({"query":"kick"})", R"({"query":"kick","tunnel":"7"})", R"({"query":"kick","tunnel":-7})",
                           R"({"query":"drain","user":""})", R"({"query":"kick","tunnel":7,"user":"a"})",
                           R"({"query":"moved"})", R"({"query":"moved","portals":"a b"})",
                           R"({"query":"moved","portals":["a b",3]})", R"({"query":"moved","portals":{}})"}) {
    EXPECT_FALSE(parse_query(text)) << text;
  }
  EXPECT_EQ(query_error("no \"x\""), R"({"error":"no \"x\""})");
}

}  // namespace
}  // namespace ebb::ipc
