#include "supervisor/process/checker.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "common/config/canonical.h"
#include "ipc/memfd.h"

namespace ebb::supervisor {
namespace {

constexpr const char* kGood = R"({"inbounds": [{"tag": "in", "port": 1080, "protocol": "dokodemo-door",
  "settings": {"address": "127.0.0.1", "port": 80}}], "outbounds": [{"protocol": "freedom"}]})";

class CheckerTest : public ::testing::Test {
 protected:
  CheckerTest() {
    char name[] = "/tmp/ebb-checker-XXXXXX";
    root_ = ::mkdtemp(name);
  }
  ~CheckerTest() override {
    std::filesystem::remove_all(root_);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // every checker was collected
  }
  std::string file(const std::string& name, const std::string& text) {
    std::ofstream(root_ + "/" + name) << text;
    return root_ + "/" + name;
  }
  Result<CheckVerdict> check(std::vector<std::string> names, int input = 0,
                             std::chrono::milliseconds limit = std::chrono::seconds(30)) {
    CheckRequest request;
    request.invocation.configs = std::move(names);
    request.input = input;
    request.limit = limit;
    return check_configuration(*Binary::self(), request);
  }
  std::string root_;
};

TEST_F(CheckerTest, ReturnsTheCanonicalForm) {
  const std::string path = file("config.json", kGood);
  const auto verdict = check({path});
  ASSERT_TRUE(verdict.has_value()) << verdict.error().what;
  EXPECT_TRUE(verdict->accepted) << verdict->diagnostics;
  const auto config = config::parse_canonical(verdict->snapshot);
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->inbounds.at(0).tag, "in");
  EXPECT_EQ(verdict->chosen, path);
  EXPECT_EQ(verdict->instance.size(), 12u);
  EXPECT_EQ(verdict->instance, instance_of({{path, ""}}));
}

TEST_F(CheckerTest, ReturnsEveryDiagnostic) {
  const auto verdict = check({file("bad.json", R"({"inbounds": [{"port": 70000, "protocol": "dokodemo"}]})")});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_FALSE(verdict->accepted);
  EXPECT_NE(verdict->diagnostics.find("bad.json:1:"), std::string::npos);
  EXPECT_NE(verdict->diagnostics.find("70000"), std::string::npos);
  EXPECT_NE(verdict->diagnostics.find("\"dokodemo\""), std::string::npos);
}

TEST_F(CheckerTest, NamesAFileThatIsNotThere) {
  const auto verdict = check({root_ + "/nowhere.json"});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_FALSE(verdict->accepted);
  EXPECT_NE(verdict->diagnostics.find("nowhere.json"), std::string::npos);
}

TEST_F(CheckerTest, ReadsStandardInputFromUs) {
  const Fd input = *ipc::make_sealed("input", as_bytes(kGood));
  ::lseek(input.get(), 0, SEEK_SET);
  const auto verdict = check({"stdin:"}, input.get());
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(verdict->accepted) << verdict->diagnostics;
  EXPECT_EQ(verdict->instance, instance_of({{"stdin:", kGood}}));
  EXPECT_NE(verdict->instance, instance_of({{"stdin:", "{}"}}));
}

TEST_F(CheckerTest, CarriesLargeConfigurationsAndManyDiagnostics) {
  std::string rules;
  for (int i = 0; i < 30'000; ++i) rules += R"({"type": "nonsense", "outboundTag": "x"},)";
  rules.back() = ' ';
  const auto many = check({file("many.json", R"({"routing": {"rules": [)" + rules + "]}}")});
  ASSERT_TRUE(many.has_value()) << many.error().what;
  EXPECT_FALSE(many->accepted);
  // more than one message holds
  EXPECT_GT(many->diagnostics.size(), 60'000u);
}

TEST_F(CheckerTest, ACrashIsAnErrorAndNothingElse) {
  const auto verdict = check({"crash"});
  ASSERT_FALSE(verdict.has_value());
  EXPECT_EQ(verdict.error().what, "the checker crashed (signal 6 (Aborted)); the configuration is not used");
}

TEST_F(CheckerTest, AHangEndsAtTheLimit) {
  const auto begin = std::chrono::steady_clock::now();
  const auto verdict = check({"hang"}, 0, std::chrono::milliseconds(50));
  ASSERT_FALSE(verdict.has_value());
  EXPECT_EQ(verdict.error().code, Errc::timeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(CheckerArguments, SurviveTheWayToTheChild) {
  config::Invocation invocation;
  invocation.configs = {"a.json", "-c", "stdin:"};
  invocation.confdir = "-r";
  const auto back = invocation_from(checker_arguments(invocation));
  EXPECT_EQ(back.configs, invocation.configs);
  EXPECT_EQ(back.confdir, invocation.confdir);
  EXPECT_FALSE(back.recurse);
}

}  // namespace
}  // namespace ebb::supervisor
