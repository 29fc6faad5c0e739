#include "supervisor/process/runtime_dir.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

namespace ebb::supervisor {
namespace {

class RuntimeDirTest : public ::testing::Test {
 protected:
  RuntimeDirTest() {
    char name[] = "/tmp/ebb-runtime-XXXXXX";
    root_ = ::mkdtemp(name);
  }
  ~RuntimeDirTest() override { std::filesystem::remove_all(root_); }
  RuntimePlaces places(unsigned uid, std::map<std::string, std::string> variables = {}) {
    RuntimePlaces p;
    p.environment = [variables](const char* name) -> std::optional<std::string> {
      const auto found = variables.find(name);
      return found == variables.end() ? std::nullopt : std::optional(found->second);
    };
    p.uid = uid;
    p.run = root_ + "/run";
    p.temporary = root_ + "/tmp";
    return p;
  }
  std::string root_;
};

TEST_F(RuntimeDirTest, IsChosenInTheDocumentedOrder) {
  EXPECT_EQ(runtime_path("/x/y", "ID", places(0)), "/x/y");
  EXPECT_EQ(runtime_path("", "ID", places(0, {{"RUNTIME_DIRECTORY", "/run/a:/run/b"}})), "/run/a");
  EXPECT_EQ(runtime_path("", "ID", places(0, {{"XDG_RUNTIME_DIR", "/run/user/0"}})), root_ + "/run/ebbgate/ID");
  EXPECT_EQ(runtime_path("", "ID", places(7, {{"XDG_RUNTIME_DIR", "/run/user/7"}})), "/run/user/7/ebbgate/ID");
  EXPECT_EQ(runtime_path("", "ID", places(7)), root_ + "/tmp/ebbgate-7/ID");
}

TEST_F(RuntimeDirTest, IdIsTwelveDigitsOfSha256) {
  const std::string paths[] = {"/etc/ebbgate/config.json"};
  EXPECT_EQ(instance_id(paths).size(), 12u);
  EXPECT_EQ(instance_id_of_input(""), "e3b0c44298fc");
}

TEST_F(RuntimeDirTest, IsMadePrivateAndHoldsPidAndInstance) {
  const std::string path = root_ + "/run/ebbgate/ID";
  std::string instance;
  {
    const auto dir = claim_runtime_dir(path);
    ASSERT_TRUE(dir.has_value()) << dir.error().what;
    struct stat info{};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    EXPECT_EQ(lock_holder(path + "/lock"), ::getpid());
    EXPECT_EQ(running_instances(places(0)), std::vector<std::string>{path});
    instance = dir->instance;
    EXPECT_EQ(instance.size(), 32u);
  }
  EXPECT_FALSE(lock_holder(path + "/lock").has_value());
  EXPECT_TRUE(running_instances(places(0)).empty());
  const auto again = claim_runtime_dir(path);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->instance, instance);
}

TEST_F(RuntimeDirTest, RefusesASecondInstanceNamingPidAndFile) {
  const std::string path = root_ + "/ID";
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    const auto dir = claim_runtime_dir(path);
    [[maybe_unused]] const auto n = ::write(ready[1], "x", 1);
    ::pause();
    ::_exit(dir.has_value() ? 0 : 1);
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const auto dir = claim_runtime_dir(path);
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  ASSERT_FALSE(dir.has_value());
  EXPECT_EQ(dir.error().code, Errc::refused);
  EXPECT_EQ(dir.error().what, "this configuration is already running as process " + std::to_string(other) +
                                  ", which holds the lock " + path + "/lock");
  EXPECT_TRUE(claim_runtime_dir(path).has_value());  // a killed holder leaves nothing behind
}

TEST_F(RuntimeDirTest, RefusesADirectoryOthersCanWrite) {
  const std::string path = root_ + "/open";
  std::filesystem::create_directory(path);
  ::chmod(path.c_str(), 0777);
  EXPECT_FALSE(claim_runtime_dir(path).has_value());
  ::chmod(path.c_str(), 0755);
  EXPECT_TRUE(claim_runtime_dir(path).has_value());
}

TEST_F(RuntimeDirTest, RefusesALinkInPlaceOfADirectory) {
  std::filesystem::create_directory(root_ + "/real");
  std::filesystem::create_directory_symlink(root_ + "/real", root_ + "/link");
  EXPECT_FALSE(claim_runtime_dir(root_ + "/link").has_value());
  std::filesystem::create_directory_symlink(root_ + "/real", root_ + "/ebbgate-7");
  EXPECT_FALSE(claim_runtime_dir(root_ + "/ebbgate-7/ID").has_value());
}

}  // namespace
}  // namespace ebb::supervisor
