// Reload and resize in the machine: every step, and the way back from each.
#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using ipc::UpdatePhase;
using std::chrono::milliseconds;

/// Two workers w2, w3 replaced by w4, w5, up to the answer.
Stage in_probation(Plan plan = Stage::two_workers()) {
  Stage stage = Stage::running(plan);
  stage.reload_to_readying(plan);
  stage.actions();
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  for (const auto* name : {"w4", "w5"}) stage.started(name);
  for (const auto* name : {"w2", "w3"}) stage.paused(name);
  stage.answer(UpdatePhase::commit);
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "done 1 exit 0"));
  return stage;
}

TEST(Reload, GoesThroughEveryStep) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 2"});
  stage.machine.loaded(2, Stage::two_workers(), false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"prepare b1 2"});
  stage.config = 2;
  stage.answer(UpdatePhase::prepare);
  EXPECT_EQ(stage.actions(),
            (Words{"spawn w4", "link w4 b1", "tell w4 gen1", "spawn w5", "link w5 b1", "tell w5 gen1"}));
  stage.ready("w5");
  EXPECT_EQ(stage.actions(), Words{});
  stage.ready("w4");
  EXPECT_EQ(stage.actions(), (Words{"listen", "start w4", "start w5"}));
  EXPECT_EQ(stage.state("w4"), ChildState::probation);
  stage.started("w4");
  EXPECT_EQ(stage.actions(), Words{});
  stage.started("w5");
  EXPECT_EQ(stage.actions(), (Words{"pause w2", "pause w3"}));
  EXPECT_EQ(stage.state("w2"), ChildState::paused);
  EXPECT_EQ(stage.machine.generation(), 1u);
  stage.paused("w3");
  stage.paused("w2");
  EXPECT_EQ(stage.actions(), (Words{"decide 2", "commit b1 2"}));
  EXPECT_EQ(stage.machine.generation(), 2u);
  EXPECT_TRUE(stage.machine.reloading());
  stage.answer(UpdatePhase::commit);
  EXPECT_EQ(stage.actions(), Words{"done 1 exit 0"});
  EXPECT_FALSE(stage.machine.reloading());
  EXPECT_EQ(stage.machine.operation(), "probation");
  EXPECT_EQ(stage.pass(9'900ms), Words{});
  EXPECT_EQ(stage.pass(200ms), (Words{"drain w2 3600000", "drain w3 3600000", "close-removed 2"}));
  EXPECT_EQ(stage.state("w4"), ChildState::active);
  EXPECT_EQ(stage.machine.operation(), "idle");
  stage.dies("w2", {false, 0});
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("w3", {false, 0});
  EXPECT_EQ(stage.actions(), Words{"forget 1"});
  stage.dies("w4");  // and life goes on
  EXPECT_EQ(stage.actions()[0], "spawn w6");
  EXPECT_EQ(stage.machine.find(stage.key("w6"))->name(), "worker g2/0");
}

TEST(Reload, ABadConfigurationTouchesNothing) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, stage.now);
  stage.actions();
  stage.machine.refused(2, 23, "a comma is missing\nand a brace\n", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 23", "forget 2"}));
  EXPECT_EQ(stage.machine.last_reload(), "a comma is missing (and more)");
  EXPECT_EQ(stage.machine.generation(), 1u);
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 3"});
}

TEST(Reload, ABrokerThatRefusesEndsIt) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, stage.now);
  stage.machine.loaded(2, Stage::two_workers(), false, stage.now);
  stage.actions();
  stage.config = 2;
  stage.answer(UpdatePhase::prepare, 2, "rules");
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 1", "abort b1 2", "close-removed 1", "forget 2"}));
  EXPECT_NE(stage.machine.last_reload().find("refuses it: rules"), std::string::npos);
}

TEST(Reload, ABrokerThatIsSilentEndsIt) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, stage.now);
  stage.machine.loaded(2, Stage::two_workers(), false, stage.now);
  stage.actions();
  const auto words = stage.pass(31s);
  EXPECT_TRUE(has(words, "done 1 exit 1"));
  EXPECT_TRUE(has(words, "abort b1 2"));
}

TEST(Reload, AWorkerThatIsLateOrEndsBeforeReadyEndsIt) {
  Plan plan = Stage::two_workers();
  plan.ready = 2s;
  const Words back = {"done 1 exit 1", "kill w4 9", "kill w5 9", "abort b1 2", "close-removed 1"};
  Stage late = Stage::running();
  late.reload_to_readying(plan);
  late.actions();
  late.ready("w4");
  EXPECT_EQ(late.pass(3s), back);
  late.dies("w4");
  late.dies("w5");
  EXPECT_EQ(late.actions(), Words{"forget 2"});

  Stage dead = Stage::running();
  dead.reload_to_readying(plan);
  dead.actions();
  dead.dies("w4", {false, 1});
  EXPECT_EQ(dead.actions(), (Words{"done 1 exit 1", "kill w5 9", "abort b1 2", "close-removed 1"}));
  EXPECT_EQ(dead.state("w2"), ChildState::active);
}

TEST(Reload, AListenThatFailsEndsIt) {
  Stage stage = Stage::running();
  stage.reload_to_readying();
  stage.actions();
  stage.listens = false;
  stage.committed.clear();
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  EXPECT_EQ(stage.actions(), Words{"listen"});
  EXPECT_EQ(stage.machine.operation(), "listening");
  stage.machine.listen_failed(2, "port taken", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 1", "kill w4 9", "kill w5 9", "abort b1 2", "close-removed 1"}));
  EXPECT_EQ(stage.committed, Words{});  // nobody was told to serve, or to outlive us
  EXPECT_EQ(stage.machine.phase(), Machine::Phase::running);
  EXPECT_EQ(stage.state("w2"), ChildState::active);
  stage.machine.listening(2, stage.now);  // too late
  EXPECT_EQ(stage.actions(), Words{});
}

TEST(Reload, AWorkerThatEndsWhileTheListenIsDueEndsIt) {
  Stage stage = Stage::running();
  stage.reload_to_readying();
  stage.actions();
  stage.listens = false;
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  stage.actions();
  stage.dies("w5");
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 1", "kill w4 9", "abort b1 2", "close-removed 1"}));
  stage.machine.listening(2, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
}

TEST(Reload, ACrashBeforeCommitWakesThePaused) {
  Stage stage = Stage::running();
  stage.reload_to_readying();
  stage.actions();
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  for (const auto* name : {"w4", "w5"}) stage.started(name);
  stage.paused("w2");
  stage.actions();
  stage.dies("w5");
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 1", "restore", "start w2", "start w3", "drain w4 5000", "abort b1 2",
                                    "close-removed 1"}));
  EXPECT_EQ(stage.state("w3"), ChildState::active);
  EXPECT_EQ(stage.pass(5400ms), Words{});
  EXPECT_EQ(stage.pass(200ms), Words{"kill w4 9"});
}

TEST(Reload, ACrashInProbationRollsBack) {
  Stage stage = in_probation();
  stage.dies("w4");
  EXPECT_EQ(stage.actions(), (Words{"decide 1", "restore", "start w2", "start w3", "prepare b1 1", "commit b1 1",
                                    "drain w5 5000", "close-removed 1"}));
  EXPECT_EQ(stage.machine.generation(), 1u);
  EXPECT_EQ(stage.state("w2"), ChildState::active);
  EXPECT_TRUE(stage.machine.last_reload().starts_with("rolled back: worker g2/0 ended with"));
  stage.dies("w5", {false, 0});
  EXPECT_EQ(stage.actions(), Words{"forget 2"});
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 3"});  // a number is never used twice
}

TEST(Reload, AHangInProbationRollsBack) {
  Stage stage = in_probation();
  EXPECT_EQ(stage.pass(5s, "w4"), Words{});
  const auto words = stage.pass(1s, "w4");
  EXPECT_EQ(words[0], "kill w4 6");
  EXPECT_TRUE(has(words, "start w2") && has(words, "decide 1"));
  EXPECT_TRUE(has(stage.pass(1s, "w4"), "kill w4 9"));
}

TEST(Reload, APausedWorkerThatEndsIsMissedOnlyOnTheWayBack) {
  Stage stage = in_probation();
  stage.dies("w2");
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("w4");
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "start w3"));
  EXPECT_TRUE(has(words, "spawn w6"));
  EXPECT_EQ(stage.machine.find(stage.key("w6"))->name(), "worker g1/0");
  stage.ready("w6");
  EXPECT_EQ(stage.actions(), Words{"start w6"});
}

TEST(Reload, AnOldWorkerBornDuringItWaitsPaused) {
  Stage stage = Stage::running();
  stage.reload_to_readying();
  stage.actions();
  stage.dies("w2");
  EXPECT_EQ(stage.actions()[0], "spawn w6");
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  for (const auto* name : {"w4", "w5"}) stage.started(name);
  EXPECT_TRUE(has(stage.actions(), "pause w3"));
  stage.ready("w6");
  EXPECT_EQ(stage.actions(), Words{});
  EXPECT_EQ(stage.state("w6"), ChildState::paused);
  stage.paused("w3");
  EXPECT_TRUE(has(stage.actions(), "commit b1 2"));
}

TEST(Reload, ABrokerThatDiesInTheMiddleGetsWhatDecides) {
  // While its answer is due: the successor starts with the old one and is asked instead.
  Stage preparing = Stage::running();
  preparing.machine.signal(SIGHUP, preparing.now);
  preparing.machine.loaded(2, Stage::two_workers(), false, preparing.now);
  preparing.actions();
  preparing.config = 2;
  preparing.dies("b1");
  EXPECT_EQ(preparing.actions(), (Words{"spawn b4", "link w2 b4", "link w3 b4", "prepare b4 2"}));
  preparing.answer(UpdatePhase::prepare);
  EXPECT_EQ(preparing.actions()[0], "spawn w5");

  // While the old ones pause: COMMIT waits for the successor's OK.
  Stage pausing = Stage::running();
  pausing.reload_to_readying();
  pausing.actions();
  for (const auto* name : {"w4", "w5"}) pausing.ready(name);
  for (const auto* name : {"w4", "w5"}) pausing.started(name);
  pausing.actions();
  pausing.dies("b1");
  EXPECT_EQ(pausing.actions(),
            (Words{"spawn b6", "link w2 b6", "link w3 b6", "prepare b6 2", "link w4 b6", "link w5 b6"}));
  for (const auto* name : {"w2", "w3"}) pausing.paused(name);
  EXPECT_EQ(pausing.actions(), Words{});
  pausing.answer(UpdatePhase::prepare);
  EXPECT_EQ(pausing.actions(), (Words{"decide 2", "commit b6 2"}));

  // While COMMIT is under way: the successor starts with the new one, nothing is to be answered.
  pausing.dies("b6");
  const auto words = pausing.actions();
  EXPECT_EQ(words[0], "spawn b7");
  EXPECT_FALSE(has(words, "prepare b7 2"));
  EXPECT_EQ(words.back(), "done 1 exit 0");
}

TEST(Reload, ANewBrokerLearnsWhatItsOldWorkersMean) {
  Stage stage = in_probation();
  stage.dies("b1");
  EXPECT_EQ(stage.actions(),
            (Words{"spawn b6", "prepare b6 1", "link w2 b6", "link w3 b6", "abort b6 1", "link w4 b6", "link w5 b6"}));
}

TEST(Reload, RemovedAddressesEmptyBeforeTheOldPause) {
  Stage stage = Stage::running();
  stage.reload_to_readying(Stage::two_workers(), true);
  stage.actions();
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  for (const auto* name : {"w4", "w5"}) stage.started(name);
  EXPECT_EQ(stage.actions(), (Words{"listen", "start w4", "start w5", "retire-removed 2"}));
  EXPECT_EQ(stage.pass(900ms), Words{});
  EXPECT_EQ(stage.pass(200ms), (Words{"pause w2", "pause w3"}));
}

TEST(Reload, AnotherHupReadsTheFileOnceMore) {
  Stage stage = Stage::running();
  EXPECT_EQ(stage.machine.reload(stage.now), 1u);
  EXPECT_EQ(stage.actions(), Words{"load 2"});
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(stage.machine.reload(stage.now), 2u);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.refused(2, 23, "wrong", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 23", "forget 2", "load 3"}));
  stage.machine.refused(3, 23, "wrong", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 2 exit 23", "forget 3"}));
}

TEST(Reload, AnotherHupSettlesProbationAndBeginsAtOnce) {
  Stage stage = in_probation();
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"drain w2 3600000", "drain w3 3600000", "close-removed 2", "load 3"}));
  EXPECT_EQ(stage.state("w4"), ChildState::active);
  EXPECT_TRUE(stage.machine.reloading());
  stage.machine.signal(SIGHUP, stage.now);  // this one waits
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.refused(3, 23, "a comma is missing", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 2 exit 23", "forget 3", "load 4"}));
  EXPECT_EQ(stage.machine.generation(), 2u);  // what was settled stays
}

TEST(Reload, WhatWasSettledIsWhereTheNextOneComesBackTo) {
  Stage stage = in_probation();
  EXPECT_EQ(stage.machine.reload(stage.now), 2u);
  stage.actions();
  stage.config = 3;
  stage.machine.loaded(3, Stage::two_workers(), true, stage.now);
  stage.answer(UpdatePhase::prepare);
  stage.actions();
  for (const auto* name : {"w6", "w7"}) stage.ready(name);
  for (const auto* name : {"w6", "w7"}) stage.started(name);
  EXPECT_TRUE(has(stage.actions(), "retire-removed 3"));
  EXPECT_EQ(stage.pass(1s), (Words{"pause w4", "pause w5"}));
  for (const auto* name : {"w4", "w5"}) stage.paused(name);
  stage.answer(UpdatePhase::commit);
  EXPECT_EQ(stage.actions(), (Words{"decide 3", "commit b1 3", "done 2 exit 0"}));
  stage.dies("w6");
  const auto words = stage.actions();
  for (const auto* word : {"decide 2", "restore", "start w4", "start w5", "close-removed 2"}) {
    EXPECT_TRUE(has(words, word)) << word;
  }
  EXPECT_FALSE(has(words, "start w2"));
}

TEST(Reload, AHupInProbationComesBeforeWhatWaits) {
  Stage stage = in_probation();
  stage.machine.signal(SIGTTIN, stage.now);
  stage.machine.signal(SIGUSR2, stage.now);
  EXPECT_EQ(stage.actions(), Words{});  // an upgrade or a resize can wait for what is on trial: nobody lives on by that
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions().back(), "load 3");
  stage.machine.refused(3, 23, "a comma is missing", stage.now);
  EXPECT_EQ(stage.actions().back(), "upgrade s6 from 3");
}

TEST(Reload, HupDuringStartUpComesAfterIt) {
  Stage stage(Stage::two_workers());
  stage.actions();
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  for (const auto* name : {"b1", "w2", "w3"}) stage.ready(name);
  EXPECT_EQ(stage.actions().back(), "load 2");
}

TEST(Reload, TheNumberOfWorkersGoesUpAndDown) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGTTIN, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 2 workers 3"});
  for (int i = 0; i < 3; ++i) stage.machine.signal(SIGTTOU, stage.now);  // queued
  EXPECT_EQ(stage.actions(), Words{});
  Plan plan = Stage::two_workers();
  plan.workers = 3;
  stage.machine.loaded(2, plan, false, stage.now);
  stage.config = 2;
  stage.answer(UpdatePhase::prepare);
  EXPECT_TRUE(has(stage.actions(), "spawn w6"));
  for (const auto* name : {"w4", "w5", "w6"}) stage.ready(name);
  for (const auto* name : {"w4", "w5", "w6"}) stage.started(name);
  for (const auto* name : {"w2", "w3"}) stage.paused(name);
  stage.answer(UpdatePhase::commit);
  stage.actions();
  EXPECT_EQ(stage.pass(10s).back(), "load 3 workers 1");  // 3 - 3, but one stays
}

TEST(Reload, WithoutWorkersThereIsNothingToResizeOrToWatch) {
  Stage stage = Stage::running(Plan{});
  stage.machine.signal(SIGTTIN, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.signal(SIGHUP, stage.now);
  stage.machine.loaded(2, Plan{}, false, stage.now);
  stage.config = 2;
  stage.answer(UpdatePhase::prepare);
  stage.perform();
  stage.answer(UpdatePhase::commit);
  EXPECT_EQ(stage.actions(), (Words{"load 2", "prepare b1 2", "listen", "decide 2", "commit b1 2", "done 1 exit 0",
                                    "close-removed 2", "forget 1"}));
}

TEST(Reload, TheOldestOfTooManyGenerationsHasItsHardStop) {
  Plan plan = Stage::two_workers();
  plan.workers = 1;
  plan.max_generations = 2;
  plan.probation = 0ms;
  Stage stage(plan);
  stage.actions();
  stage.ready("b1");
  stage.ready("w2");
  stage.actions();
  std::string old = "w2";
  Words last;
  for (int i = 3; i <= 4; ++i) {
    stage.reload_to_readying(plan);
    stage.actions();
    const std::string fresh = "w" + std::to_string(i);
    stage.ready(fresh);
    stage.started(fresh);
    stage.paused(old);
    stage.answer(UpdatePhase::commit);
    stage.actions();
    last = stage.pass(1ms);
    EXPECT_EQ(last[0], "drain " + old + " 3600000");
    old = fresh;
  }
  EXPECT_EQ(last.back(), "drain w2 5000");
  stage.machine.drained(stage.key("w2"), {50, 0});
  EXPECT_EQ(stage.actions(), Words{});
  EXPECT_EQ(stage.notes.back(), "process drained");
  EXPECT_EQ(stage.pass(5500ms), Words{"kill w2 15"});
  EXPECT_EQ(stage.pass(2s), Words{"kill w2 9"});
}

TEST(Reload, TermWinsAtEveryStep) {
  for (int steps = 0; steps < 8; ++steps) {
    Stage stage = Stage::running();
    stage.machine.signal(SIGHUP, stage.now);
    if (steps > 0) stage.machine.loaded(2, Stage::two_workers(), true, stage.now);
    stage.config = 2;
    stage.actions();
    if (steps > 1) stage.answer(UpdatePhase::prepare);
    stage.actions();
    if (steps > 2) {
      for (const auto* name : {"w4", "w5"}) stage.ready(name);
    }
    if (steps > 3) {
      for (const auto* name : {"w4", "w5"}) stage.started(name);
    }
    if (steps > 4) stage.pass(1s);
    if (steps > 5) {
      for (const auto* name : {"w2", "w3"}) stage.paused(name);
    }
    if (steps > 6) stage.answer(UpdatePhase::commit);
    stage.actions();
    stage.machine.reload(stage.now);
    stage.machine.signal(SIGTERM, stage.now);
    const auto words = stage.actions();
    EXPECT_EQ(has(words, "done 1 exit 1"), steps < 7) << steps;
    EXPECT_TRUE(has(words, "done 2 exit 1")) << steps;
    EXPECT_EQ(has(words, "forget 2"), steps == 0);
    std::vector<std::string> alive = {"b1", "w2", "w3"};
    if (steps > 1) alive.insert(alive.end(), {"w4", "w5"});
    for (const auto& name : alive) EXPECT_TRUE(has(words, "drain " + name + " 5000")) << steps << name;
    stage.machine.loaded(2, Stage::two_workers(), true, stage.now);  // too late
    for (const auto& name : alive) stage.dies(name, {false, 0});
    EXPECT_TRUE(has(stage.actions(), "exit 0")) << steps;
  }
}

TEST(Reload, QuitDuringProbationLetsBothGenerationsFinish) {
  Stage stage = in_probation();
  stage.machine.signal(SIGQUIT, stage.now);
  EXPECT_EQ(stage.actions(), Words{"retire"});
  const auto words = stage.pass(1s);
  for (const auto* name : {"w2", "w3", "w4", "w5"}) EXPECT_TRUE(has(words, "drain " + std::string(name) + " 3600000"));
  for (const auto* name : {"w2", "w3", "w4", "w5"}) stage.dies(name, {false, 0});
  stage.dies("b1", {false, 0});
  EXPECT_EQ(stage.actions().back(), "exit 0");
}

TEST(Reload, AReloadThatComesTooLateIsAnswered) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGQUIT, stage.now);
  stage.actions();
  EXPECT_EQ(stage.machine.reload(stage.now), 1u);
  EXPECT_EQ(stage.actions(), Words{"done 1 exit 1"});
}

TEST(Reload, LogsAreReopenedAtAnyTime) {
  Stage stage = in_probation();
  stage.machine.signal(SIGUSR1, stage.now);
  EXPECT_EQ(stage.actions(), Words{"reopen"});
}

}  // namespace
}  // namespace ebb::supervisor
