#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using namespace std::chrono_literals;

TEST(Machine, StartsBrokerFirstAndServesWhenAllAreReady) {
  Stage stage(Stage::two_workers());
  EXPECT_EQ(stage.actions(), (Words{"spawn b1", "spawn w2", "link w2 b1", "spawn w3", "link w3 b1"}));
  stage.ready("w2");
  stage.ready("b1");
  EXPECT_EQ(stage.actions(), Words{});
  stage.ready("w3");
  EXPECT_EQ(stage.actions(), (Words{"listen", "start b1", "tell w2 gen1", "tell w3 gen1", "start w2", "start w3"}));
  EXPECT_EQ(stage.machine.phase(), Machine::Phase::running);
}

TEST(Machine, APureBridgeIsABrokerAlone) {
  Stage stage(Plan{});
  EXPECT_EQ(stage.actions(), Words{"spawn b1"});
  stage.ready("b1");
  EXPECT_EQ(stage.actions(), (Words{"listen", "start b1"}));
}

TEST(Machine, AnEndBeforeReadyEndsTheStart) {
  Stage stage(Stage::two_workers());
  stage.actions();
  stage.ready("b1");
  stage.dies("w2", {false, 1});
  EXPECT_EQ(stage.actions(), (Words{"close", "kill b1 9", "kill w3 9"}));
  EXPECT_EQ(stage.notes.back(), "worker g1/0 ended with exit code 1 before it was ready");
  stage.dies("b1");
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("w3");
  EXPECT_EQ(stage.actions(), Words{"exit 1"});
}

TEST(Machine, ASlowStartEnds) {
  Stage stage(Stage::two_workers());
  stage.actions();
  stage.ready("b1");
  EXPECT_EQ(stage.pass(29s), Words{});
  EXPECT_EQ(stage.pass(2s), (Words{"close", "kill b1 9", "kill w2 9", "kill w3 9"}));
}

TEST(Machine, AProcessThatCannotBeMadeEndsTheStart) {
  Stage stage(Stage::two_workers());
  stage.broken_spawn = true;
  const auto words = stage.actions();
  EXPECT_EQ(words.back(), "exit 1");
  EXPECT_EQ(stage.machine.phase(), Machine::Phase::done);
}

TEST(Machine, ReplacesAWorkerAtOnceWithTheSameSlots) {
  Stage stage = Stage::running();
  stage.dies("w3");
  EXPECT_EQ(stage.actions(), (Words{"spawn w4", "link w4 b1", "tell w4 gen1"}));
  const Child* fresh = stage.machine.find(stage.key("w4"));
  EXPECT_EQ(fresh->name(), "worker g1/1");
  stage.ready("w4");
  EXPECT_EQ(stage.actions(), Words{"start w4"});  // it starts at once: slots listen
}

TEST(Machine, ReplacesABrokerByTheNextGenerationLinkedToAll) {
  Stage stage = Stage::running();
  stage.dies("b1");
  EXPECT_EQ(stage.actions(), (Words{"spawn b4", "link w2 b4", "link w3 b4"}));
  stage.ready("b4");
  EXPECT_EQ(stage.actions(), (Words{"start b4", "tell w2 gen2", "tell w3 gen2"}));
  EXPECT_EQ(stage.machine.find(stage.key("b4"))->name(), "broker b2");
}

TEST(Machine, LinksAWorkerBornWithoutBrokerWhenOneIsThere) {
  Plan plan = Stage::two_workers();
  Stage stage = Stage::running(plan);
  // The broker keeps ending until it has to wait.
  std::string broker = "b1";
  Words words;
  for (int i = 0; i < 6; ++i) {
    stage.dies(broker);
    words = stage.actions();
    if (!words.empty()) broker = words[0].substr(6);
  }
  EXPECT_EQ(words, Words{});
  stage.dies("w2");
  words = stage.actions();
  ASSERT_EQ(words.size(), 1u);  // no link: nobody to link to
  const std::string worker = words[0].substr(6);
  words = stage.pass(1s);
  ASSERT_EQ(words.size(), 3u);
  EXPECT_TRUE(words[1] == "link w3 " + words[0].substr(6) && words[2] == "link " + worker + " " + words[0].substr(6));
}

TEST(Machine, BacksOffWhenARoleKeepsEnding) {
  Stage stage = Stage::running();
  std::string worker = "w2";
  const auto die = [&] {
    stage.dies(worker);
    const auto words = stage.actions();
    if (!words.empty()) worker = words[0].substr(6);
    return !words.empty();
  };
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(die());
  for (const auto pause : {1s, 2s, 4s, 8s, 16s, 30s, 30s}) {
    EXPECT_FALSE(die());
    EXPECT_EQ(stage.pass(pause - 10ms), Words{});
    const auto words = stage.pass(10ms);
    ASSERT_FALSE(words.empty());
    worker = words[0].substr(6);
  }
  stage.pass(11s);  // quiet for more than 10 s: forgotten
  EXPECT_TRUE(die());
}

TEST(Machine, OnePauseServesAllThatEndedTogether) {
  Plan plan;
  plan.workers = 8;
  Stage stage(plan);
  stage.actions();
  stage.ready("b1");
  for (int i = 2; i <= 9; ++i) stage.ready("w" + std::to_string(i));
  stage.actions();
  for (int i = 2; i <= 9; ++i) stage.dies("w" + std::to_string(i));
  const auto spawned = [](const Words& words) {
    return std::ranges::count_if(words, [](const auto& w) { return w.starts_with("spawn"); });
  };
  EXPECT_EQ(spawned(stage.actions()), 5);
  EXPECT_EQ(spawned(stage.pass(1s)), 3);
}

TEST(Machine, NeverPausesWhenBackOffIsOff) {
  Plan plan = Stage::two_workers();
  plan.respawn_backoff = 0ms;
  Stage stage = Stage::running(plan);
  std::string worker = "w2";
  for (int i = 0; i < 50; ++i) {
    stage.dies(worker);
    worker = stage.actions().at(0).substr(6);
  }
}

TEST(Machine, APersistentSpawnFailureIsRetriedSlowly) {
  Stage stage = Stage::running();
  stage.broken_spawn = true;
  stage.dies("w2");
  EXPECT_EQ(stage.actions(), (Words{"spawn w4", "link w4 b1", "tell w4 gen1"}));  // the runner skips links of nobody
  const auto words = stage.pass(3500ms);
  EXPECT_EQ(std::ranges::count_if(words, [](const auto& w) { return w.starts_with("spawn"); }), 3);
}

TEST(Machine, AbortsThenKillsAProcessThatDoesNotAnswer) {
  Stage stage = Stage::running();
  EXPECT_EQ(stage.pass(5s, "w2"), Words{});
  EXPECT_EQ(stage.pass(1s, "w2"), Words{"kill w2 6"});
  EXPECT_EQ(stage.pass(1s, "w2"), Words{"kill w2 9"});
  stage.dies("w2");
  EXPECT_EQ(stage.actions()[0], "spawn w4");
}

TEST(Machine, AbortsALoopThatLags) {
  Stage stage = Stage::running();
  stage.machine.pong(stage.key("b1"), {0, 4'999'999, 0, 0, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.pong(stage.key("b1"), {0, 5'000'001, 3, 9, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{"kill b1 6"});
  EXPECT_EQ(stage.machine.find(stage.key("b1"))->connections, 3u);
}

TEST(Machine, ForgivesTheLagOfAMachineThatStoodStill) {
  Stage stage = Stage::running();
  stage.pass(2500ms);
  stage.now += 8s;  // nobody ran, we neither
  stage.machine.pong(stage.key("b1"), {0, 7'900'000, 0, 0, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.tick(stage.now);
  EXPECT_EQ(stage.actions(), (Words{"ping b1", "ping w2", "ping w3"}));
  stage.machine.pong(stage.key("w2"), {0, 8'000'000, 0, 0, 0}, stage.now + 1s);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.pong(stage.key("w3"), {0, 12'600'001, 0, 0, 0}, stage.now + 1s);  // it was late by itself, too
  EXPECT_EQ(stage.actions(), Words{"kill w3 6"});
  stage.now += 2500ms;  // and once more, before all of it was told
  stage.machine.tick(stage.now);
  stage.actions();
  stage.machine.pong(stage.key("b1"), {0, 8'000'000, 0, 0, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.pass(5s);
  stage.machine.pong(stage.key("b1"), {0, 5'000'001, 0, 0, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{"kill b1 6"});
}

TEST(Machine, AReplacementThatIsNeverReadyIsKilledAndReplaced) {
  Stage stage = Stage::running();
  stage.dies("w2");
  stage.actions();
  EXPECT_EQ(stage.pass(31s), Words{"kill w4 9"});
  stage.dies("w4");
  EXPECT_EQ(stage.actions()[0], "spawn w5");
}

TEST(Machine, KillsAProcessThatBreaksTheProtocol) {
  Stage stage = Stage::running();
  stage.machine.link_lost(stage.key("w2"), "bad sequence", stage.now);
  EXPECT_EQ(stage.actions(), Words{"kill w2 9"});
}

TEST(Machine, KillsAProcessThatClosedItsLinkAndStays) {
  Stage stage = Stage::running();
  stage.machine.link_lost(stage.key("w2"), "", stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  EXPECT_EQ(stage.pass(4900ms, "w2"), Words{});
  EXPECT_EQ(stage.pass(200ms, "w2"), Words{"kill w2 9"});
}

TEST(Machine, TermDrainsEverybodyAtOnceAndKillsTheRest) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGTERM, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"close", "drain b1 5000", "drain w2 5000", "drain w3 5000"}));
  stage.dies("w2", {false, 0});
  stage.dies("b1", {false, 0});
  EXPECT_EQ(stage.actions(), Words{});  // nothing is replaced
  EXPECT_EQ(stage.pass(5s), Words{});
  EXPECT_EQ(stage.pass(1s), Words{"kill w3 9"});
  stage.dies("w3");
  EXPECT_EQ(stage.actions(), Words{"exit 0"});
  EXPECT_FALSE(stage.machine.next_tick().has_value());
}

TEST(Machine, ASecondTermKills) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGTERM, stage.now);
  stage.actions();
  stage.machine.signal(SIGTERM, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"kill b1 9", "kill w2 9", "kill w3 9"}));
}

TEST(Machine, QuitRetiresSlotsThenDrainsWorkersThenTheBroker) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGQUIT, stage.now);
  EXPECT_EQ(stage.actions(), Words{"retire"});
  EXPECT_EQ(stage.pass(1s), (Words{"drain w2 3600000", "drain w3 3600000", "close", "revoke b1"}));
  stage.dies("w2", {false, 0});
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("w3", {false, 0});
  EXPECT_EQ(stage.actions(), Words{"drain b1 86400000"});
  stage.dies("b1", {false, 0});
  EXPECT_EQ(stage.actions(), Words{"exit 0"});
}

TEST(Machine, QuitDrainsTheBrokerWhenOffersMustBeAnswered) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGQUIT, stage.now);
  EXPECT_EQ(stage.pass(6900ms), (Words{"retire", "drain w2 3600000", "drain w3 3600000", "close", "revoke b1"}));
  EXPECT_EQ(stage.pass(200ms), Words{"drain b1 86400000"});
}

TEST(Machine, WhoOutstaysItsHardStopIsTerminatedThenKilled) {
  Plan plan = Stage::two_workers();
  plan.hard_stop_workers = 60s;
  Stage stage = Stage::running(plan);
  stage.machine.signal(SIGQUIT, stage.now);
  stage.pass(7500ms);
  stage.dies("b1", {false, 0});
  stage.dies("w2", {false, 0});
  stage.actions();
  EXPECT_EQ(stage.pass(58s), Words{});
  EXPECT_EQ(stage.pass(1s), Words{"kill w3 15"});
  EXPECT_EQ(stage.pass(2s), Words{"kill w3 9"});
}

TEST(Machine, TermOvertakesQuit) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGQUIT, stage.now);
  stage.pass(2s);
  stage.machine.signal(SIGTERM, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"close", "drain b1 5000", "drain w2 5000", "drain w3 5000"}));
}

TEST(Machine, IntIsTerm) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGINT, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"close", "drain b1 5000", "drain w2 5000", "drain w3 5000"}));
  EXPECT_EQ(stage.machine.phase(), Machine::Phase::stopping);
  stage.machine.signal(SIGINT, stage.now);  // and a second one means now
  EXPECT_TRUE(has(stage.actions(), "kill b1 9"));
}

TEST(Machine, AListenThatFailsAtTheStartLetsNobodyBegin) {
  Stage stage(Stage::two_workers());
  stage.listens = false;
  stage.actions();
  for (const auto* name : {"b1", "w2", "w3"}) stage.ready(name);
  EXPECT_EQ(stage.actions(), Words{"listen"});
  EXPECT_EQ(stage.machine.phase(), Machine::Phase::starting);
  stage.machine.listen_failed(1, "port taken", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"close", "kill b1 9", "kill w2 9", "kill w3 9"}));
  EXPECT_EQ(stage.committed, Words{});
  stage.machine.listening(1, stage.now);  // too late
  for (const auto* name : {"b1", "w2", "w3"}) stage.dies(name);
  EXPECT_EQ(stage.actions(), Words{"exit 1"});
}

TEST(Machine, AStopWhileTheListenIsDueLetsNobodyBegin) {
  Stage stage(Stage::two_workers());
  stage.listens = false;
  stage.actions();
  for (const auto* name : {"b1", "w2", "w3"}) stage.ready(name);
  stage.machine.signal(SIGTERM, stage.now);
  stage.machine.listening(1, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"listen", "close", "drain b1 5000", "drain w2 5000", "drain w3 5000"}));
  EXPECT_EQ(stage.committed, Words{});
}

TEST(Machine, StopsDuringStartUp) {
  Stage stage(Stage::two_workers());
  stage.actions();
  stage.machine.signal(SIGQUIT, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"close", "drain b1 5000", "drain w2 5000", "drain w3 5000"}));
  for (const auto* name : {"b1", "w2", "w3"}) stage.dies(name, {false, 0});
  EXPECT_EQ(stage.actions(), Words{"exit 0"});
}

TEST(Machine, ForgetsPendingReplacementsWhenItStops) {
  Stage stage = Stage::running();
  std::string worker = "w2";
  for (int i = 0; i < 6; ++i) {
    stage.dies(worker);
    const auto words = stage.actions();
    if (!words.empty()) worker = words[0].substr(6);
  }
  stage.machine.signal(SIGTERM, stage.now);
  stage.dies("w3", {false, 0});
  stage.dies("b1", {false, 0});
  EXPECT_EQ(stage.actions().back(), "exit 0");
  EXPECT_EQ(stage.pass(10s), Words{});
}

TEST(Machine, MaintenanceKeepsTheQueuesUntilAReload) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGWINCH, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"drain w2 3600000", "drain w3 3600000"}));  // no slot is closed
  for (const auto* name : {"w2", "w3"}) stage.dies(name, {false, 0});
  EXPECT_EQ(stage.actions(), Words{});  // and nobody takes their places
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 2"});
  stage.machine.refused(2, 23, "a comma is missing", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 23", "forget 2"}));
  stage.machine.signal(SIGHUP, stage.now);
  stage.actions();
  stage.machine.loaded(3, Stage::two_workers(), false, stage.now);
  stage.config = 3;
  stage.answer(ipc::UpdatePhase::prepare);
  stage.actions();
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  for (const auto* name : {"w4", "w5"}) stage.started(name);
  EXPECT_EQ(stage.actions(), (Words{"listen", "start w4", "start w5", "decide 3", "commit b1 3"}));
}

TEST(Machine, PlanFollowsTheConfiguration) {
  config::Config config;
  EXPECT_EQ(plan_of(config, 4).workers, 0u);  // no inbound, no worker
  config.inbounds.emplace_back();
  EXPECT_EQ(plan_of(config, 4).workers, 4u);
  config.settings.workers = 7;
  config.settings.timers.hard_stop_after = 60s;
  const auto plan = plan_of(config, 4);
  EXPECT_EQ(plan.workers, 7u);
  EXPECT_EQ(plan.hard_stop_workers, 60s);
  EXPECT_EQ(plan.hard_stop_broker, 60s);
}

}  // namespace
}  // namespace ebb::supervisor
