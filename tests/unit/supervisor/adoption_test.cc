// Processes whose supervisor died, in the machine of the next one.
#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using ipc::UpdatePhase;
using Phase = Machine::Phase;

TEST(Adoption, ReplacesTheWorkersByAnOrdinaryReload) {
  Stage stage(Stage::two_workers(),
              {orphan(1, ipc::Role::broker, 1), orphan(7, ipc::Role::worker, 4, 0), orphan(8, ipc::Role::worker, 4, 1)},
              4, {8, 4, 1});
  EXPECT_EQ(stage.actions(), (Words{"start w7", "start w8", "load 5", "adopt"}));  // they may have been paused
  EXPECT_EQ(stage.machine.phase(), Phase::running);
  stage.machine.loaded(5, Stage::two_workers(), false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"prepare b1 5"});
  stage.config = 5;
  stage.answer(UpdatePhase::prepare);
  EXPECT_EQ(stage.actions(),
            (Words{"spawn w9", "link w9 b1", "tell w9 gen1", "spawn w10", "link w10 b1", "tell w10 gen1"}));
  for (const auto* name : {"w9", "w10"}) stage.ready(name);
  for (const auto* name : {"w9", "w10"}) stage.started(name);
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "pause w7"));
  EXPECT_TRUE(has(words, "pause w8"));
  for (const auto* name : {"w7", "w8"}) stage.paused(name);
  stage.answer(UpdatePhase::commit);
  EXPECT_TRUE(has(stage.pass(10s), "drain w7 3600000"));
  stage.machine.exited(stage.key("w7"), std::nullopt, stage.now);
  EXPECT_FALSE(has(stage.actions(), "spawn w11"));
}

TEST(Adoption, OrphansServeOnWhenTheConfigurationIsRefused) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1), orphan(7, ipc::Role::worker, 4, 0)}, 4,
              {8, 4, 1});
  stage.actions();
  stage.machine.refused(5, 23, "a comma is missing", stage.now);
  EXPECT_EQ(stage.state("w7"), ChildState::active);
  EXPECT_TRUE(has(stage.actions(), "spawn w9"));  // in the place of one that died meanwhile
  stage.dies("w7");
  EXPECT_TRUE(has(stage.actions(), "spawn w10"));
}

TEST(Adoption, WithoutWorkersNewOnesServeWhenTheConfigurationIsRefused) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1)}, 4, {8, 4, 1});
  stage.actions();
  stage.machine.refused(5, 1, "port 80 is in use", stage.now);
  const auto words = stage.actions();
  for (const auto* word : {"spawn w9", "link w9 b1", "spawn w10"}) EXPECT_TRUE(has(words, word)) << word;
  stage.ready("w9");
  EXPECT_TRUE(has(stage.actions(), "start w9"));
}

TEST(Adoption, ABrokerThatWasToldToLeaveIsReplaced) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1, 0, false), orphan(7, ipc::Role::worker, 4, 0)}, 4,
              {8, 4, 1});
  const auto words = stage.actions();
  for (const auto* word : {"tell b1 gen1 draining", "spawn b9", "link w7 b9"}) EXPECT_TRUE(has(words, word)) << word;
  Stage bridge(Plan{}, {orphan(1, ipc::Role::broker, 1, 0, false)}, 4, {8, 4, 1});
  EXPECT_EQ(bridge.actions(), (Words{"load 5", "adopt"}));  // there are no slots to have
}

TEST(Adoption, NewProcessesHaveWorkerIdsOfTheirOwn) {
  Stage stage(Stage::two_workers(),
              {orphan(1, ipc::Role::broker, 1), orphan(7, ipc::Role::worker, 4, 0), orphan(8, ipc::Role::worker, 4, 1)},
              4, {65'536 + 6, 4, 1});
  stage.machine.refused(5, 23, "a comma is missing", stage.now);
  stage.actions();
  stage.dies("w8");
  EXPECT_TRUE(has(stage.actions(), "spawn w65544"));  // 65543 would be 7 in the ids of offers
}

TEST(Adoption, TheOtherGenerationsLeave) {
  Stage stage(
      Stage::two_workers(),
      {orphan(1, ipc::Role::broker, 1), orphan(2, ipc::Role::broker, 2), orphan(5, ipc::Role::worker, 3, 0, false),
       orphan(6, ipc::Role::worker, 4, 0), orphan(7, ipc::Role::worker, 5, 0)},
      5, {7, 5, 2});
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "drain w6 3600000"));
  EXPECT_TRUE(has(words, "drain w5 3600000"));  // perhaps once more
  EXPECT_TRUE(has(words, "tell b1 gen1 draining"));
}

TEST(Adoption, KnowsARetiredSupervisorAndStopsIt) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1), orphan(9, ipc::Role::supervisor, 0)}, 4,
              {9, 4, 1});
  stage.actions();
  stage.machine.signal(SIGTERM, stage.now);
  EXPECT_TRUE(has(stage.actions(), "kill w9 15"));
  stage.dies("b1");
  EXPECT_FALSE(has(stage.actions(), "exit 0"));
  stage.machine.exited(ChildKey{9}, std::nullopt, stage.now);
  EXPECT_TRUE(has(stage.actions(), "exit 0"));
}

TEST(Adoption, ARetiredSupervisorsProcessesAreTakenOverWhenItEnds) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1), orphan(9, ipc::Role::supervisor, 0)}, 4,
              {9, 4, 1});
  stage.actions();
  stage.machine.exited(ChildKey{9}, std::nullopt, stage.now);
  EXPECT_EQ(stage.actions(), Words{"adopt"});
}

TEST(Adoption, WithoutABrokerOneIsStartedAndToldWhatOldIdsMean) {
  Stage stage(Stage::two_workers(), {orphan(7, ipc::Role::worker, 4, 0), orphan(6, ipc::Role::worker, 3, 0)}, 4,
              {8, 4, 1});
  const auto words = stage.actions();
  const auto at = [&](const std::string& word) { return std::ranges::find(words, word) - words.begin(); };
  EXPECT_TRUE(has(words, "spawn b9"));
  EXPECT_LT(at("prepare b9 3"), at("link w6 b9"));
  EXPECT_TRUE(has(words, "link w7 b9"));
}

TEST(Adoption, WithoutWorkersTheQueueWaitsForTheReload) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1)}, 4, {8, 4, 1});
  EXPECT_EQ(stage.actions(), (Words{"load 5", "adopt"}));
  stage.machine.loaded(5, Stage::two_workers(), false, stage.now);
  stage.config = 5;
  stage.answer(UpdatePhase::prepare);
  stage.actions();
  for (const auto* name : {"w9", "w10"}) stage.ready(name);
  for (const auto* name : {"w9", "w10"}) stage.started(name);
  EXPECT_EQ(stage.actions(), (Words{"listen", "start w9", "start w10", "decide 5", "commit b1 5"}));
}

}  // namespace
}  // namespace ebb::supervisor
