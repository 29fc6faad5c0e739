// The JSON dialect: what is accepted, what is refused, and where the finger points. spec/config.md 3.
#include "common/config/text.h"

#include <gtest/gtest.h>

#include "common/config/prescan.h"
#include "common/config/tree.h"
#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

/// "line:column path message" of the fault, or "".
std::string fault(std::string text) {
  const std::string original = text;
  const auto scanned = prescan(text);
  EXPECT_EQ(text.size(), original.size());
  if (!scanned.fault) return "";
  const auto [line, column] = locate(original, scanned.fault->offset);
  return std::to_string(line) + ":" + std::to_string(column) + " " + scanned.fault->path + " " + scanned.fault->message;
}

TEST(Prescan, BlanksCommentsAndKeepsOffsets) {
  std::string text = "{ // one \xE4\xB8\xAD\n# two\n\"a//b\": /* x\ny */ \"#'/*\" }\r\n// end";
  const auto scanned = prescan(text);
  EXPECT_FALSE(scanned.fault);
  EXPECT_EQ(text, "{           \n     \n\"a//b\":     \n     \"#'/*\" }\r\n      ");
}

TEST(Prescan, PointsAtWhatStrictJsonForbids) {
  EXPECT_EQ(fault("{'a': 1}"), "1:2 $ strings and keys need double quotes");
  EXPECT_EQ(fault("{a: 1}"), "1:2 $ keys need double quotes");
  EXPECT_EQ(fault("{\"a\": yes}"), "1:7 $.a strings need double quotes");
  EXPECT_EQ(fault("{\"a\": 0x10}"), "1:7 $.a this is not a JSON number");
  EXPECT_EQ(fault("{\"a\": 01}"), "1:7 $.a this is not a JSON number");
  EXPECT_EQ(fault("{\"a\": 1.}"), "1:7 $.a this is not a JSON number");
  EXPECT_EQ(fault("{\"a\": -}"), "1:7 $.a this is not a JSON number");
  EXPECT_EQ(fault("{\"a\": [1,]}"), "1:10 $.a trailing comma before \"]\"");
  EXPECT_EQ(fault("{\"a\": 1,}"), "1:9 $ trailing comma before \"}\"");
  EXPECT_EQ(fault("{\"a\": [1 2]}"), "1:10 $.a expected \",\" or \"]\"");
  EXPECT_EQ(fault("{\"a\" 1}"), "1:6 $.a expected \":\" after the key, found \"1\"");
  EXPECT_EQ(fault("{\"a\": {\"b\": [1, {\"c\": }]}}"), "1:23 $.a.b[1].c expected a value, found \"}\"");
  EXPECT_EQ(fault("{\"a\": \"x\ty\"}"), "1:9 $.a raw control character in a string");
  EXPECT_EQ(fault("{\"a\": \"x\ny\"}"), "1:9 $.a string is not closed on its line");
  EXPECT_EQ(fault("{\"a\": \"x\\q\"}"), "1:9 $.a unknown escape in a string");
  EXPECT_EQ(fault("{\"a\": \"\\ud800\"}"), "1:8 $.a half of a surrogate pair");
  EXPECT_EQ(fault("{\"a\": \"\xFF\"}"), "1:8 $.a invalid UTF-8 in a string");
  EXPECT_EQ(fault("{\"a\": \xEF\xBC\x8C}"), "1:7 $.a full-width comma U+FF0C");
  EXPECT_EQ(fault("{\"a\": \"b"), "1:7 $.a string opened here is never closed");
  EXPECT_EQ(fault("{\"a\": [1"), "1:9 $.a file ends inside the array that starts at line 1 column 7");
  EXPECT_EQ(fault("{ /* x"), "1:3 $ block comment opened here is never closed");
  EXPECT_EQ(fault("{} /* x"), "1:4 $ block comment opened here is never closed");
  EXPECT_EQ(fault(" // nothing\n"), "1:1 $ file is empty");
  EXPECT_EQ(fault(std::string("{\0\"\0", 4)), "1:1 $ file is UTF-16, not UTF-8");
  EXPECT_EQ(fault("\xFF\xFE{"), "1:1 $ file is UTF-16, not UTF-8");
}

TEST(Prescan, ColumnsCountCharacters) {
  EXPECT_EQ(fault("{\"\xE9\x97\xA8\": \"\xF0\x9F\x9A\xAA\", }"), "1:12 $ trailing comma before \"}\"");
  EXPECT_EQ(fault("\xEF\xBB\xBF{,}"), "1:2 $ expected a key in double quotes, found \",\"");
}

TEST(Prescan, TheSecretBeforeAMissingCommaIsNotRepeated) {
  std::string text = "{\"password\": \"hunter2\" \"b\": 1}";
  const auto scanned = prescan(text);
  ASSERT_TRUE(scanned.fault);
  EXPECT_EQ(scanned.fault->suggestion, "add a comma after the value of \"password\" on line 1");
}

TEST(Prescan, NestingAndSizeHaveLimits) {
  const auto nested = [](std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_EQ(fault(nested(64)), "");
  EXPECT_EQ(fault(nested(512)), "");
  EXPECT_EQ(fault(nested(513)).substr(0, 5), "1:513");
  std::string large(kMaxTextBytes, ' ');
  large[0] = '{', large.back() = '}';
  EXPECT_FALSE(prescan(large).fault);
  large += ' ';
  EXPECT_TRUE(prescan(large).fault);
  std::string many = "[";
  for (std::size_t i = 0; i < kMaxValues; ++i) many += "1,";
  EXPECT_TRUE(prescan(many += "1]").fault);
}

TEST(Load, DeepAndLargeFilesEndInAnAnswer) {
  const std::string deep = "{\"x\":" + std::string(510, '[') + std::string(510, ']') + "}";
  EXPECT_TRUE(load_text(deep).config);
  std::string noisy = "{";
  for (int i = 0; i < 3000; ++i) noisy += "\"unknown" + std::to_string(i) + "\": 1, ";
  const auto loaded = load_text(noisy + "\"inbounds\": 7}");
  EXPECT_FALSE(loaded.config);
  EXPECT_LE(loaded.diagnostics.size(), 500u);
  EXPECT_TRUE(has(loaded, "TYPE", "$.inbounds"));
}

TEST(Load, TopLevelShapes) {
  EXPECT_TRUE(load_text("null").config);
  EXPECT_TRUE(load_text("{}").config);
  EXPECT_TRUE(has(load_text("[]"), "TYPE", "$"));
  EXPECT_TRUE(has(load_text("\n  7"), "TYPE", "$"));
  EXPECT_EQ(short_forms(load_text("{} x")), std::vector<std::string>{"JSON_TRAILING $ 1:4"});
}

TEST(Load, DuplicateKeysMergeObjectsAndReplaceTheRest) {
  const auto loaded = load_text(R"({"log": {"loglevel": "info", "access": "a"}, "log": {"loglevel": "debug"},
    "outbounds": [{"protocol": "freedom"}], "outbounds": [{"protocol": "blackhole"}, {"protocol": "freedom"}]})");
  ASSERT_TRUE(loaded.config) << all_text(loaded);
  EXPECT_EQ(loaded.config->log.access, "a");
  EXPECT_EQ(loaded.config->log.level, LogLevel::debug);
  EXPECT_EQ(loaded.config->outbounds.size(), 2u);
  EXPECT_TRUE(has(loaded, "DUPLICATE_KEY", "$.log"));
  EXPECT_TRUE(has(loaded, "DUPLICATE_KEY", "$.log.loglevel"));
}

TEST(Words, NearestWithinTwoEdits) {
  EXPECT_EQ(did_you_mean("outbond", {"outbound", "outbounds", "inbounds"}),
            "did you mean \"outbound\" or \"outbounds\"?");
  EXPECT_EQ(did_you_mean("xyz", {"outbound", "tag"}), "");
  EXPECT_EQ(quoted("a\nb"), "\"a\\x0ab\"");
  EXPECT_EQ(masked("27848739-7e62"), "2784…");
}

TEST(Diagnostics, ReadAsTheReferenceSays) {
  const auto loaded = load_text("{\"inbounds\": [\n  {\"port\": 1, \"protocol\": \"dokodemo\"}]}");
  ASSERT_FALSE(loaded.diagnostics.empty());
  EXPECT_EQ(loaded.diagnostics.back().text(),
            "test.json:2:27: error: $.inbounds[0].protocol: unknown inbound protocol \"dokodemo\"\n"
            "    did you mean \"dokodemo-door\"?");
}

}  // namespace
}  // namespace ebb::config
