#include "common/base/json_writer.h"

#include <gtest/gtest.h>

namespace ebb {
namespace {

TEST(JsonWriter, NestsAndEscapes) {
  JsonWriter w;
  w.object().key("a").number(-1).key("b").array().text("x\"\n").boolean(true).null().array().end().end();
  w.key("c").object().end().key("d").raw("[1]").end();
  EXPECT_EQ(w.str(), R"({"a":-1,"b":["x\"\u000a",true,null,[]],"c":{},"d":[1]})");
}

}  // namespace
}  // namespace ebb
