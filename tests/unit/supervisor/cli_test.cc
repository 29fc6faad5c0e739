#include "supervisor/cli/cli.h"

#include <iterator>
#include <sstream>

namespace ebb::supervisor {
namespace {

using Kind = Command::Kind;

/// Words between blanks.
std::vector<std::string> split(const std::string& line) {
  std::istringstream in(line);
  return {std::istream_iterator<std::string>(in), {}};
}

Command good(const std::string& words) {
  auto parsed = parse_command_line(split(words));
  if (const auto* usage = std::get_if<Usage>(&parsed)) {
    ADD_FAILURE() << usage->text;
    return {};
  }
  return std::get<Command>(parsed);
}
Usage bad(const std::string& words) {
  auto parsed = parse_command_line(split(words));
  const auto* usage = std::get_if<Usage>(&parsed);
  if (usage == nullptr) {
    ADD_FAILURE() << "accepted";
    return {};
  }
  return *usage;
}
using Names = std::vector<std::string>;

TEST(CommandLine, TakesEveryFormV2RayUsersType) {
  for (const char* words : {"-config f.json", "--config f.json", "-config=f.json", "--config=f.json", "-c f.json",
                            "-c=f.json", "run -c f.json", "run -config=f.json", "run --config f.json",
                            "-c f.json -format json", "run -c f.json -format=auto"}) {
    const auto command = good(words);
    EXPECT_EQ(command.kind, Kind::run);
    EXPECT_EQ(command.invocation.configs, Names{"f.json"});
  }
  for (const char* words : {"-test -config f.json", "--test -c=f.json", "test -c f.json", "run -test -c f.json"}) {
    const auto command = good(words);
    EXPECT_EQ(command.kind, Kind::test);
    EXPECT_EQ(command.invocation.configs, Names{"f.json"});
  }
}

TEST(CommandLine, RepeatsFilesAndTakesDirectories) {
  EXPECT_EQ(good("-c a -config b --config=c").invocation.configs, (Names{"a", "b", "c"}));
  const auto command = good("run -confdir /etc/x -r");
  EXPECT_EQ(command.invocation.confdir, "/etc/x");
  EXPECT_TRUE(command.invocation.recurse);
  EXPECT_EQ(good("-d y").invocation.confdir, "y");
  const auto none = good("");
  EXPECT_EQ(none.kind, Kind::run);
  EXPECT_TRUE(none.invocation.configs.empty());
  EXPECT_FALSE(none.invocation.confdir.has_value());
}

TEST(CommandLine, KnowsItsOtherCommands) {
  EXPECT_EQ(good("-version").kind, Kind::version);
  EXPECT_EQ(good("version").kind, Kind::version);
  EXPECT_EQ(good("uuid").kind, Kind::uuid);
  EXPECT_EQ(good("check -c f --json").kind, Kind::check);
  EXPECT_EQ(good("dump -c f").kind, Kind::dump);
  const auto ctl = good("ctl status -json --socket /x");
  EXPECT_EQ(ctl.kind, Kind::ctl);
  EXPECT_EQ(ctl.action, "status");
  EXPECT_EQ(ctl.socket, "/x");
  EXPECT_TRUE(ctl.json);
  EXPECT_EQ(good("ctl status -c f.json").invocation.configs, Names{"f.json"});
}

TEST(CommandLine, UsageErrorsAreTwoAndNameTheWord) {
  for (const char* words : {"--no-such-flag", "run -nosuch", "nosuch", "-c", "ctl"}) {
    EXPECT_EQ(bad(words).exit, 2) << words;
  }
  EXPECT_NE(bad("convert").text.find("\"convert\""), std::string::npos);
  EXPECT_NE(bad("x25519").text.find("belongs to V2Ray or Xray"), std::string::npos);
  EXPECT_NE(bad("ctl nosuch").text.find("there is no ctl nosuch"), std::string::npos);
  for (const char* words :
       {"ctl kick", "ctl kick tunnel", "ctl drain user", "ctl kick broker", "ctl drain broker b1"}) {
    EXPECT_NE(bad(words).text.find("what? tunnel ID, user NAME"), std::string::npos) << words;
  }
  EXPECT_NE(bad("ctl status tunnel").text.find("takes no tunnel"), std::string::npos);
  EXPECT_NE(bad("-format yaml -c f").text.find("convert the configuration to JSON"), std::string::npos);
}

TEST(CommandLine, ControlSaysHowLongToWait) {
  EXPECT_EQ(good("ctl upgrade").action, "upgrade");
  EXPECT_EQ(good("ctl kick user a@b -c f").which, "a@b");
  EXPECT_EQ(good("ctl drain tunnel b1.7").what, "tunnel");
  EXPECT_EQ(good("ctl drain broker").what, "broker");
  EXPECT_TRUE(good("ctl reload").wait);
  EXPECT_TRUE(good("ctl reload --wait -c f").wait);
  EXPECT_FALSE(good("ctl reload --no-wait").wait);
  EXPECT_FALSE(good("ctl stop").now);
  EXPECT_TRUE(good("ctl stop --now").now);
}

TEST(CommandLine, HelpIsNotAnError) {
  EXPECT_EQ(bad("-h").exit, 0);
  EXPECT_EQ(bad("-help").exit, 0);
  EXPECT_NE(bad("run --help").text.find("--config"), std::string::npos);
}

}  // namespace
}  // namespace ebb::supervisor
