// Brokers in the machine: who is linked to which, and one that takes over from another.
#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using ipc::UpdatePhase;

/// Broker b1 is being replaced by b4: up to the point where b4 serves.
Stage replaced() {
  Stage stage = Stage::running();
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.ready("b4");
  stage.actions();
  return stage;
}

TEST(Broker, IsReplacedByOneThatIsReady) {
  Stage stage = Stage::running();
  EXPECT_EQ(stage.machine.renew_broker("asked for", stage.now), 1u);
  EXPECT_EQ(stage.actions(), (Words{"spawn b4", "link w2 b4", "link w3 b4"}));
  EXPECT_EQ(stage.state("b1"), ChildState::active);  // it serves until the new one can
  stage.ready("b4");
  EXPECT_EQ(stage.actions(),
            (Words{"start b4", "tell w2 gen2", "tell w3 gen2", "revoke b1", "tell b1 gen1 draining", "done 1 exit 0"}));
  EXPECT_EQ(stage.state("b1"), ChildState::draining);
  // As long as the old one is there the new one is asked which portals have moved.
  const auto words = stage.pass(1s);
  EXPECT_EQ(std::ranges::count(words, "live b4"), 4);
  stage.dies("b1", {false, 0});
  EXPECT_EQ(stage.actions(), Words{});
  EXPECT_FALSE(has(stage.pass(1s), "live b4"));
  stage.dies("b4");
  EXPECT_EQ(stage.actions()[0], "spawn b5");
}

TEST(Broker, IsTakenBackWhenItsSuccessorEnds) {
  Stage stage = replaced();
  stage.dies("b4");
  EXPECT_EQ(stage.actions(), (Words{"escrow b1", "tell b1 gen1", "tell w2 gen1", "tell w3 gen1"}));
  EXPECT_EQ(stage.state("b1"), ChildState::active);
  stage.dies("b1");  // like any other
  EXPECT_EQ(stage.actions()[0], "spawn b5");
}

TEST(Broker, StaysWhenItsSuccessorIsNeverReady) {
  Stage stage = Stage::running();
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.dies("b4", {false, 1});
  EXPECT_EQ(stage.actions(), Words{"done 1 exit 1"});
  EXPECT_EQ(stage.state("b1"), ChildState::active);
  stage.machine.renew_broker("asked for", stage.now);
  EXPECT_TRUE(has(stage.actions(), "spawn b5"));
}

TEST(Broker, ThatEndsWhileItIsReplacedIsNotMissed) {
  Stage stage = Stage::running();
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.dies("b1");
  EXPECT_EQ(stage.actions(), Words{});  // b4 is on its way
  stage.ready("b4");
  EXPECT_TRUE(has(stage.actions(), "done 1 exit 0"));
}

TEST(Broker, HasAHardStopWhenReplaced) {
  Plan plan = Stage::two_workers();
  plan.hard_stop_broker = 10s;
  Stage stage = Stage::running(plan);
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.ready("b4");
  stage.actions();
  EXPECT_TRUE(has(stage.pass(11s), "drain b1 5000"));
  stage.dies("b4");  // a DRAIN is never taken back
  EXPECT_EQ(stage.actions()[0], "spawn b5");
}

TEST(Broker, TheOldOneKeepsTheSlotsUntilTheNewOneIsReady) {
  Stage stage = Stage::running();
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.reload_to_readying();
  stage.machine.updated(stage.key("b4"), {2, UpdatePhase::prepare, 0}, "", stage.now);
  stage.actions();
  for (const auto* name : {"w5", "w6"}) stage.ready(name);
  EXPECT_TRUE(has(stage.actions(), "listen"));
  EXPECT_EQ(stage.escrow, (std::vector{stage.key("b1"), stage.key("b4")}));
}

TEST(Broker, ReplacementsWaitWhenThereAreTooMany) {
  Stage stage = Stage::running();
  for (int i = 0; i < 7; ++i) {
    stage.machine.renew_broker("asked for", stage.now);
    stage.actions();
    stage.ready("b" + std::to_string(4 + i));
    stage.actions();
  }
  stage.machine.renew_broker("asked for", stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("b1", {false, 0});
  EXPECT_TRUE(has(stage.actions(), "spawn b11"));
}

TEST(Broker, AReloadThatNeedsAnotherProcessReplacesItAfterProbation) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, stage.now);
  stage.actions();
  stage.machine.loaded(2, Stage::two_workers(), false, stage.now);
  stage.config = 2;
  stage.answer(UpdatePhase::prepare, 1, "broker.loops changes");
  EXPECT_TRUE(has(stage.actions(), "spawn w4"));
  for (const auto* name : {"w4", "w5"}) stage.ready(name);
  for (const auto* name : {"w4", "w5"}) stage.started(name);
  for (const auto* name : {"w2", "w3"}) stage.paused(name);
  stage.answer(UpdatePhase::commit);
  EXPECT_FALSE(has(stage.actions(), "spawn b6"));
  const auto words = stage.pass(10s);
  EXPECT_TRUE(has(words, "spawn b6"));
  // It knows the new configuration; the old generation's it has to be told before that one's workers come.
  const Words tail(words.end() - 7, words.end());
  EXPECT_EQ(tail,
            (Words{"spawn b6", "prepare b6 1", "link w2 b6", "link w3 b6", "abort b6 1", "link w4 b6", "link w5 b6"}));
}

TEST(Broker, AReloadAsksAllOfThem) {
  Stage stage = replaced();
  stage.machine.signal(SIGHUP, stage.now);
  stage.actions();
  stage.machine.loaded(2, Stage::two_workers(), false, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"prepare b1 2", "prepare b4 2"}));
  stage.machine.updated(stage.key("b4"), {2, UpdatePhase::prepare, 0}, "", stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.updated(stage.key("b1"), {2, UpdatePhase::prepare, 2}, "no", stage.now);  // its word counts no more
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "link w5 b1"));
  EXPECT_TRUE(has(words, "link w5 b4"));
  EXPECT_TRUE(has(words, "tell w5 gen2"));
}

TEST(Broker, AWorkerWhoseLinkBrokeGetsAnotherAndIsReplacedInTheEnd) {
  Stage stage = Stage::running();
  for (int i = 0; i < 3; ++i) {
    stage.machine.link_faulted(stage.key("w2"), 1, stage.now);
    EXPECT_EQ(stage.actions(), (Words{"link w2 b1", "tell w2 gen1"}));
  }
  stage.machine.link_faulted(stage.key("w2"), 1, stage.now);
  EXPECT_EQ(stage.actions(),
            (Words{"link w2 b1", "tell w2 gen1", "drain w2 3600000", "spawn w4", "link w4 b1", "tell w4 gen1"}));
  stage.dies("w4");
  EXPECT_TRUE(has(stage.actions(), "spawn w5"));  // who leaves takes nobody's place
  stage.dies("w2", {false, 0});
  EXPECT_EQ(stage.actions(), Words{});  // its place is taken
}

TEST(Broker, OnlyTheNewestSaysWhichPortalsHaveMoved) {
  Stage stage = Stage::running(with_portal());
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.ready("b4");
  stage.machine.signal(SIGUSR2, stage.now);
  stage.actions();
  // Asked while it was the newest; its tunnels would end for having moved to itself.
  stage.machine.live(stage.key("b1"), {"portal private"}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.live(stage.key("b4"), {"portal private"}, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"moved portal private", "upgrade s5 from 2"}));
  stage.dies("b4");  // b1 is the newest again
  stage.actions();
  stage.machine.live(stage.key("b4"), {"portal private"}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
}

TEST(Broker, AnUpgradeWaitsUntilANewOneHasTunnels) {
  Stage stage = Stage::running(with_portal());
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.ready("b4");
  stage.actions();
  stage.machine.signal(SIGUSR2, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.live(stage.key("b4"), {}, stage.now);
  EXPECT_EQ(stage.actions(), Words{"moved"});
  stage.machine.live(stage.key("b4"), {"portal private"}, stage.now);
  EXPECT_TRUE(has(stage.actions(), "upgrade s5 from 2"));

  Stage nobody = Stage::running(with_portal());
  nobody.machine.renew_broker("asked for", nobody.now);
  nobody.actions();
  nobody.ready("b4");
  nobody.machine.signal(SIGUSR2, nobody.now);
  EXPECT_FALSE(has(nobody.pass(4'900ms), "upgrade s5 from 2"));
  EXPECT_TRUE(has(nobody.pass(200ms), "upgrade s5 from 2"));  // whoever waited has been answered
}

}  // namespace
}  // namespace ebb::supervisor
