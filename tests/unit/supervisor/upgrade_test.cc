// A binary upgrade in the machine of the old supervisor.
#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using ipc::UpdatePhase;
using Phase = Machine::Phase;

Stage upgrading(bool same_protocol = true) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGUSR2, stage.now);
  EXPECT_EQ(stage.actions(), Words{"upgrade s4 from 1"});
  stage.machine.successor_greets(stage.key("s4"), same_protocol);
  EXPECT_EQ(stage.actions(), same_protocol ? (Words{"tell s4 gen1", "equip"}) : Words{"equip"});
  return stage;
}

TEST(Upgrade, HandsOverWhenTheNewOneIsInCharge) {
  Stage stage = upgrading();
  const ChildKey s4 = stage.key("s4");
  stage.machine.successor_update(s4, {18, UpdatePhase::prepare, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{"prepare b1 18"});
  stage.machine.updated(stage.key("b1"), {18, UpdatePhase::prepare, 0}, "", stage.now);
  EXPECT_EQ(stage.actions(), Words{"answer 18 code 0"});
  stage.ready("s4");
  EXPECT_EQ(stage.actions(), Words{"start s4"});
  EXPECT_EQ(stage.state("w2"), ChildState::active);  // both poll for a moment
  stage.started("s4");
  EXPECT_EQ(stage.actions(), (Words{"pause w2", "pause w3"}));
  stage.committed.clear();
  stage.machine.successor_committed(s4, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"hand-over", "done 1 exit 0", "drain w2 3600000", "drain w3 3600000", "revoke b1",
                                    "tell b1 gen1 draining", "close"}));
  EXPECT_EQ(stage.committed, Words{"s4"});
  EXPECT_EQ(stage.machine.phase(), Phase::retired);
  stage.machine.link_lost(s4, "", stage.now);  // it died: its own successor cannot reach our broker
  EXPECT_EQ(stage.actions(), Words{"moved"});
  for (const auto* name : {"w2", "w3", "b1"}) stage.dies(name, {false, 0});
  EXPECT_EQ(stage.actions(), Words{"exit 0"});  // the successor lives on
}

TEST(Upgrade, AnythingWrongBeforeCommitIsTakenBack) {
  const auto wrong = [](const char* name, auto what) {
    Stage stage = upgrading();
    stage.machine.successor_update(stage.key("s4"), {18, UpdatePhase::prepare, 0}, stage.now);
    stage.machine.updated(stage.key("b1"), {18, UpdatePhase::prepare, 0}, "", stage.now);
    stage.ready("s4");
    stage.started("s4");
    stage.actions();
    what(stage);
    const auto words = stage.actions();
    EXPECT_TRUE(has(words, "done 1 exit 1")) << name;
    for (const auto* word : {"restore", "start w2", "start w3", "abort b1 18"}) EXPECT_TRUE(has(words, word)) << name;
    EXPECT_EQ(stage.machine.phase(), Phase::running) << name;
    EXPECT_EQ(stage.state("w2"), ChildState::active) << name;
  };
  wrong("killed", [](Stage& s) { s.dies("s4"); });
  wrong("hung up", [](Stage& s) { s.machine.link_lost(s.key("s4"), "", s.now); });
  wrong("nonsense", [](Stage& s) { s.machine.link_lost(s.key("s4"), "bad magic", s.now); });
  Stage exits = upgrading();
  exits.machine.successor_complains(exits.key("s4"), "a comma is missing");
  exits.machine.link_lost(exits.key("s4"), "", exits.now);
  EXPECT_EQ(exits.actions(), Words{});  // its exit follows and says how
  exits.dies("s4", {false, 23});
  EXPECT_EQ(exits.actions(), (Words{"done 1 exit 23", "restore", "reclaim"}));
  Stage stays = upgrading();
  stays.machine.link_lost(stays.key("s4"), "", stays.now);
  EXPECT_TRUE(has(stays.pass(6s), "kill s4 9"));
  Stage missing = Stage::running();
  missing.broken_spawn = true;
  missing.machine.upgrade(missing.now);
  EXPECT_EQ(missing.actions(), (Words{"upgrade s4 from 1", "done 1 exit 1", "restore"}));
}

TEST(Upgrade, OneThatWasGivenUpHasNoSayAnyMore) {
  Stage stage = upgrading();
  const ChildKey s4 = stage.key("s4");
  stage.pass(61s);  // it hangs, and what it had to say comes afterwards
  stage.machine.successor_update(s4, {18, UpdatePhase::prepare, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.upgrade(stage.now);
  EXPECT_TRUE(has(stage.actions(), "upgrade s5 from 1"));
  const ChildKey s5 = stage.key("s5");
  stage.machine.successor_greets(s5, true);
  stage.ready("s5");
  stage.started("s5");
  stage.machine.successor_committed(s5, stage.now);
  stage.actions();
  ASSERT_EQ(stage.machine.phase(), Phase::retired);
  EXPECT_FALSE(stage.machine.heir(s4));
  EXPECT_TRUE(stage.machine.heir(s5));
  stage.machine.successor_update(s4, {18, UpdatePhase::prepare, 0}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.successor_update(s5, {19, UpdatePhase::prepare, 0}, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"prepare b1 19", "answer 19 code 0"}));
}

TEST(Upgrade, IsGivenUpWhenTheNewOneHangs) {
  Stage stage = upgrading();
  EXPECT_FALSE(has(stage.pass(59s), "kill s4 9"));
  const auto words = stage.pass(2s);
  EXPECT_TRUE(has(words, "done 1 exit 1"));
  EXPECT_TRUE(has(words, "kill s4 9"));
}

TEST(Upgrade, OthersWaitOrAreRefusedMeanwhile) {
  Stage stage = upgrading();
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"done 2 exit 1"});
  stage.machine.signal(SIGUSR2, stage.now);
  EXPECT_EQ(stage.actions(), Words{"done 3 exit 1"});
  stage.machine.signal(SIGTTIN, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("s4", {false, 1});
  EXPECT_TRUE(has(stage.actions(), "load 2 workers 3"));
}

TEST(Upgrade, WaitsForAReloadOnce) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 2"});
  stage.machine.signal(SIGUSR2, stage.now);
  stage.machine.signal(SIGUSR2, stage.now);
  EXPECT_EQ(stage.actions(), Words{"done 3 exit 1"});
  stage.machine.refused(2, 23, "a comma is missing", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 23", "forget 2", "upgrade s4 from 2"}));
}

TEST(Upgrade, IsCancelledByAStop) {
  Stage fast = upgrading();
  fast.machine.signal(SIGTERM, fast.now);
  const auto words = fast.actions();
  for (const auto* word : {"done 1 exit 1", "kill s4 15", "drain w2 5000", "drain b1 5000"})
    EXPECT_TRUE(has(words, word));
  EXPECT_TRUE(has(fast.pass(8s), "kill s4 9"));

  Stage graceful = upgrading();
  graceful.machine.signal(SIGQUIT, graceful.now);
  EXPECT_TRUE(has(graceful.actions(), "kill s4 15"));
  EXPECT_EQ(graceful.machine.phase(), Phase::retiring);
}

TEST(Upgrade, AGracefulStopServesWhatWaitsInTheQueues) {
  Stage stage = upgrading();
  stage.ready("s4");
  stage.started("s4");
  stage.actions();  // our workers pause
  stage.machine.signal(SIGQUIT, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 1", "restore", "start w2", "start w3", "kill s4 15", "retire"}));
  EXPECT_TRUE(has(stage.pass(1s), "drain w2 3600000"));
}

TEST(Upgrade, AskedForDuringStartUpWaitsForItsTime) {
  Stage stage(Stage::two_workers());
  stage.actions();
  stage.machine.signal(SIGUSR2, stage.now);
  EXPECT_GT(*stage.machine.next_tick(), stage.now);  // not at once, again and again
  for (const auto* name : {"w2", "b1", "w3"}) stage.ready(name);
  EXPECT_TRUE(has(stage.actions(), "upgrade s4 from 1"));
}

TEST(Upgrade, TellsOfABrokerThatTookTheOldOnesPlace) {
  Stage stage = upgrading();
  stage.machine.successor_update(stage.key("s4"), {18, UpdatePhase::prepare, 0}, stage.now);
  stage.dies("b1");
  EXPECT_TRUE(has(stage.actions(), "answer 18 code 0"));  // nobody is left to ask
  stage.ready("b5");
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "prepare b5 18"));
  EXPECT_TRUE(has(words, "tell s4 gen2"));
}

TEST(Upgrade, ApartTheTunnelsAreForTheNewOne) {
  Stage stage = upgrading(false);
  stage.ready("s4");
  EXPECT_EQ(stage.actions(), (Words{"start s4", "revoke w2 tunnels", "revoke w3 tunnels", "tell b1 gen1 draining"}));
  stage.dies("s4");
  const auto words = stage.actions();
  for (const auto* word : {"grant w2 tunnels", "start w2", "grant w3 tunnels", "start w3", "tell b1 gen1"}) {
    EXPECT_TRUE(has(words, word)) << word;
  }
}

TEST(Upgrade, NumbersOfASuccessorThatDiedAreNotUsedAgain) {
  Stage stage = Stage::running();
  std::vector<Orphan> orphans = {orphan(2, ipc::Role::worker, 18)};  // it had told it to outlive it
  stage.machine.take_in(orphans, false, stage.now);
  stage.names[orphans[0].key] = "orphan";
  EXPECT_EQ(stage.actions(), Words{"drain orphan 3600000"});
  std::vector<Orphan> broker = {orphan(3, ipc::Role::broker, 18)};
  stage.machine.take_in(broker, false, stage.now);
  stage.actions();
  EXPECT_EQ(stage.machine.broker()->key, stage.key("b1"));  // ours serves on, whatever the numbers say
  stage.names[broker[0].key] = "theirs";
  stage.dies("w2");  // its successor must not see a broker that is newer by number and leaves
  const auto then = stage.actions();
  EXPECT_TRUE(has(then, "link w6 b1"));
  EXPECT_FALSE(has(then, "link w6 theirs"));
  stage.machine.signal(SIGHUP, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 19"});
  stage.dies("b1");
  EXPECT_TRUE(has(stage.actions(), "spawn b7"));  // theirs does not serve in its place
}

TEST(Upgrade, ASuccessorThatEndsInAStopMayHaveLeftProcesses) {
  Stage stage = upgrading();
  stage.machine.signal(SIGTERM, stage.now);
  stage.actions();
  for (const auto* name : {"w2", "w3", "b1"}) stage.dies(name, {false, 0});
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("s4", {false, 0});
  EXPECT_EQ(stage.actions(), Words{"reclaim"});
  std::vector<Orphan> nobody;
  stage.machine.take_in(nobody, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"exit 0"});
}

TEST(Upgrade, AfterwardsAGracefulStopLetsTheOldBrokerGo) {
  Stage old = upgrading();
  old.ready("s4");
  old.started("s4");
  old.machine.successor_committed(old.key("s4"), old.now);
  old.actions();
  old.machine.signal(SIGQUIT, old.now);  // no tunnel moves any more: nobody is left to move to
  EXPECT_EQ(old.actions(), Words{"drain b1 86400000"});
}

}  // namespace
}  // namespace ebb::supervisor
