#include "supervisor/process/registry.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace ebb::supervisor {
namespace {

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest() {
    char name[] = "/tmp/ebb-registry-XXXXXX";
    root_ = ::mkdtemp(name);
    path_ = root_ + "/registry";
  }
  ~RegistryTest() override { std::filesystem::remove_all(root_); }
  std::optional<Registry> reading(const std::string& text) {
    std::ofstream(path_) << text;
    return read_registry(path_);
  }
  std::string root_, path_;
};

TEST_F(RegistryTest, IsReadAsItWasWritten) {
  const Registry written{
      9, 4, 2, 3, {{70007, "worker", 3, 1, 4711, 123456789, "child-1-7.sock", 5}, {8, "broker", 2, 0, 1, 2, "b"}}};
  ASSERT_TRUE(write_registry(path_, written));
  const auto read = read_registry(path_);
  ASSERT_TRUE(read);
  EXPECT_EQ(std::tie(read->key, read->gen, read->broker, read->current),
            std::tie(written.key, written.gen, written.broker, written.current));
  ASSERT_EQ(read->entries.size(), 2u);
  const auto& one = read->entries[0];
  EXPECT_EQ(one.key, 70007u);
  EXPECT_EQ(one.link_id, 5u);
  EXPECT_EQ(one.role, "worker");
  EXPECT_EQ(one.gen, 3u);
  EXPECT_EQ(one.index, 1u);
  EXPECT_EQ(one.pid, 4711);
  EXPECT_EQ(one.started, 123456789u);
  EXPECT_EQ(one.socket, "child-1-7.sock");
  struct stat info{};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
}

TEST_F(RegistryTest, WhatIsNotOneOfOursIsNone) {
  EXPECT_FALSE(read_registry(path_));
  EXPECT_FALSE(reading(""));
  EXPECT_FALSE(reading("ebbgate-registry 2\nnumbers 1 1 1 1\n"));
  EXPECT_FALSE(reading("ebbgate-registry 1\n"));
  EXPECT_FALSE(reading("ebbgate-registry 1\nnumbers 1 one\n"));
}

TEST_F(RegistryTest, EntriesThatDoNotParseAreLeftOut) {
  const auto read = reading(
      "ebbgate-registry 1\nnumbers 1 1 1 1\n"
      "child x\nchild 1 worker 1 0 10 20 ../elsewhere\nchild 1 worker 1 0 10\nchild 2 broker 1 0 10 20 good\n\n");
  ASSERT_TRUE(read);
  ASSERT_EQ(read->entries.size(), 1u);
  EXPECT_EQ(read->entries[0].socket, "good");
  const auto before = reading("ebbgate-registry 1\nnumbers 1 1 1 1\nchild 65539 worker 1 0 10 20 socket\n");
  ASSERT_TRUE(before && before->entries.size() == 1);
  EXPECT_EQ(before->entries[0].link_id, 3u);  // as it was written once
}

TEST_F(RegistryTest, AProcessIsKnownByWhenItStarted) {
  const auto mine = process_start(::getpid());
  ASSERT_TRUE(mine);
  EXPECT_GT(*mine, 0u);
  EXPECT_EQ(process_start(::getpid()), mine);
  EXPECT_FALSE(process_start(-1));
}

TEST_F(RegistryTest, OneThatNobodyHasWaitedForIsDead) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(process_start(child));
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST_F(RegistryTest, OfRetiredSupervisorsTellsWhoLives) {
  const auto started = process_start(::getpid());
  ASSERT_TRUE(started);
  const Registry written{1, 1, 1, 1, {{8, "broker", 1, 0, 10, 20, "b"}}};
  const std::string alive = retired_registry(root_, ::getpid(), *started);
  const std::string dead = retired_registry(root_, ::getpid(), *started + 1);  // its pid is somebody else's by now
  ASSERT_TRUE(write_registry(alive, written));
  ASSERT_TRUE(write_registry(dead, written));
  for (const auto* name : {"registry", "retired-", "retired-1", "retired-1-", "retired-x-1", "retired-1-2.new"}) {
    ASSERT_TRUE(write_registry(std::filesystem::path(root_) / name, written));
  }
  std::ofstream(root_ + "/retired-5-5") << "nonsense";
  const auto all = retired_registries(root_);
  ASSERT_EQ(all.size(), 2u);
  for (const auto& one : all) {
    EXPECT_EQ(one.alive, one.path == alive) << one.path;
    EXPECT_TRUE(one.path == alive || one.path == dead) << one.path;
    EXPECT_EQ(one.registry.entries.size(), 1u);
  }
  EXPECT_TRUE(retired_registries(root_ + "/none").empty());
  std::ofstream(alive + ".new") << "half";
  std::ofstream(dead + ".new") << "half";
  sweep_retired_drafts(root_);
  EXPECT_TRUE(std::filesystem::exists(alive + ".new"));
  EXPECT_FALSE(std::filesystem::exists(dead + ".new"));
  EXPECT_TRUE(std::filesystem::exists(dead));
}

}  // namespace
}  // namespace ebb::supervisor
