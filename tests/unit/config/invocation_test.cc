// Where the configuration comes from, with a temporary directory for a machine. spec/config.md 2.2.
#include "common/config/invocation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/config/support.h"

namespace ebb::config {
namespace {

namespace fs = std::filesystem;

class InvocationTest : public testing::Test {
 protected:
  InvocationTest() {
    std::string name = (fs::temp_directory_path() / "ebb_config_XXXXXX").string();
    root_ = mkdtemp(name.data());
    fs::create_directory(root_ / "work");
    fs::create_directory(root_ / "bin");
  }
  ~InvocationTest() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text = "{}") {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  Gathered run(const Invocation& invocation) {
    Machine machine;
    machine.working_directory = root_ / "work";
    machine.executable_directory = root_ / "bin";
    machine.surroundings.environment = [this](const std::string& name) -> std::optional<std::string> {
      const auto found = environment_.find(name);
      return found == environment_.end() ? std::nullopt : std::optional(found->second);
    };
    machine.standard_input = [] { return Result<std::string>("stdin text"); };
    return gather(invocation, machine);
  }

  static std::string names(const Gathered& gathered) {
    std::string out;
    for (const auto& file : gathered.files) out += (out.empty() ? "" : " ") + file.name;
    for (const auto& d : gathered.diagnostics) out += " !" + d.code;
    return out;
  }

  fs::path root_;
  std::map<std::string, std::string> environment_;
};

TEST_F(InvocationTest, NamedFilesInOrderAndStandardInput) {
  write("work/b.json", "B");
  write("work/a.json", "A");
  const auto gathered = run({{"b.json", "stdin:", "a.json"}, {}, false});
  EXPECT_EQ(names(gathered), "b.json stdin: a.json");
  EXPECT_EQ(gathered.files[0].text, "B");
  EXPECT_EQ(gathered.files[1].text, "stdin text");
}

TEST_F(InvocationTest, DirectoryComesAfterTheFilesInByteOrder) {
  write("work/z.json"), write("work/d/10.json"), write("work/d/2.json"), write("work/d/B.json"), write("work/d/a.json");
  write("work/d/readme.txt"), write("work/d/sub/x.json");
  EXPECT_EQ(names(run({{"z.json"}, "d", false})), "z.json d/10.json d/2.json d/B.json d/a.json");
  EXPECT_EQ(names(run({{}, "d", true})), "d/10.json d/2.json d/B.json d/a.json d/sub/x.json");
  environment_["V2RAY_LOCATION_CONFDIR"] = "d";
  EXPECT_EQ(run({{"z.json"}, {}, false}).files.size(), 5u);
  EXPECT_EQ(run({}).chosen, "4 files in d");
}

TEST_F(InvocationTest, DefaultsInOrder) {
  EXPECT_EQ(names(run({})), "stdin:");
  write("bin/config.json", "beside");
  EXPECT_EQ(run({}).files.at(0).text, "beside");
  write("etc/config.json", "etc");
  environment_["v2ray.location.config"] = (root_ / "etc").string();
  EXPECT_EQ(run({}).files.at(0).text, "etc");
  write("work/config.json", "here");
  EXPECT_EQ(run({}).files.at(0).text, "here");
  EXPECT_EQ(run({}).chosen, "config.json");
}

TEST_F(InvocationTest, WhatCannotBeReadIsAnError) {
  fs::create_directory(root_ / "work/empty");
  EXPECT_EQ(names(run({{"none.json"}, {}, false})), " !FILE");
  EXPECT_EQ(names(run({{"empty"}, {}, false})), " !FILE");
  EXPECT_EQ(names(run({{}, "missing", false})), " !FILE");
  EXPECT_EQ(names(run({{}, "empty", false})), " !FILE");
  const auto url = run({{"https://user:secret@host/config.json"}, {}, false});
  EXPECT_EQ(names(url), " !UNSUPPORTED");
  EXPECT_EQ(url.diagnostics[0].text().find("secret"), std::string::npos);
  EXPECT_NE(run({{"none.json"}, {}, false}).diagnostics[0].text().find("No such file"), std::string::npos);
}

}  // namespace
}  // namespace ebb::config
