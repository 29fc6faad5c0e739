// Brokers that take over from one another, supervisors that do, and processes whose supervisor died.
#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using ipc::UpdatePhase;
using Phase = Machine::Phase;

bool has(const Words& words, const std::string& word) { return std::ranges::find(words, word) != words.end(); }

Plan with_portal() {
  Plan plan = Stage::two_workers();
  plan.portals = {"portal private"};
  return plan;
}

Orphan orphan(std::uint32_t key, ipc::Role role, std::uint64_t gen, std::uint32_t index = 0, bool serves = true) {
  return {ChildKey{key}, role, gen, index, static_cast<pid_t>(1000 + key), 1, serves};
}

// ---- brokers ----------------------------------------------------------------------------------

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
  unsigned seen = 0;
  for (const auto& one : stage.machine.take()) {
    const auto* listen = std::get_if<action::Listen>(&one);
    if (listen == nullptr) continue;
    ++seen;
    EXPECT_EQ(listen->escrow, (std::vector{stage.key("b1"), stage.key("b4")}));
  }
  EXPECT_EQ(seen, 1u);
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
  stage.machine.signal(SIGHUP, false, stage.now);
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
  stage.machine.signal(SIGHUP, false, stage.now);
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

TEST(Broker, AnUpgradeWaitsUntilANewOneHasTunnels) {
  Stage stage = Stage::running(with_portal());
  stage.machine.renew_broker("asked for", stage.now);
  stage.actions();
  stage.ready("b4");
  stage.actions();
  stage.machine.signal(SIGUSR2, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.live(stage.key("b4"), {}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.live(stage.key("b4"), {"portal private"}, stage.now);
  EXPECT_TRUE(has(stage.actions(), "upgrade s5 from 2"));

  Stage nobody = Stage::running(with_portal());
  nobody.machine.renew_broker("asked for", nobody.now);
  nobody.actions();
  nobody.ready("b4");
  nobody.machine.signal(SIGUSR2, false, nobody.now);
  EXPECT_FALSE(has(nobody.pass(4'900ms), "upgrade s5 from 2"));
  EXPECT_TRUE(has(nobody.pass(200ms), "upgrade s5 from 2"));  // whoever waited has been answered
}

// ---- an upgrade, the old supervisor -------------------------------------------------------------

Stage upgrading(bool same_protocol = true) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGUSR2, false, stage.now);
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
  EXPECT_EQ(stage.actions(), Words{"all-moved"});
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
  EXPECT_EQ(exits.actions(), (Words{"done 1 exit 23", "restore"}));
  Stage stays = upgrading();
  stays.machine.link_lost(stays.key("s4"), "", stays.now);
  EXPECT_TRUE(has(stays.pass(6s), "kill s4 9"));
  Stage missing = Stage::running();
  missing.broken_spawn = true;
  missing.machine.upgrade(missing.now);
  EXPECT_EQ(missing.actions(), (Words{"upgrade s4 from 1", "done 1 exit 1", "restore"}));
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
  stage.machine.signal(SIGHUP, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"done 2 exit 1"});
  stage.machine.signal(SIGUSR2, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"done 3 exit 1"});
  stage.machine.signal(SIGTTIN, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.dies("s4", {false, 1});
  EXPECT_TRUE(has(stage.actions(), "load 2 workers 3"));
}

TEST(Upgrade, WaitsForAReloadOnce) {
  Stage stage = Stage::running();
  stage.machine.signal(SIGHUP, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"load 2"});
  stage.machine.signal(SIGUSR2, false, stage.now);
  stage.machine.signal(SIGUSR2, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"done 3 exit 1"});
  stage.machine.refused(2, 23, "a comma is missing", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 23", "forget 2", "upgrade s4 from 2"}));
}

TEST(Upgrade, IsCancelledByAStop) {
  Stage fast = upgrading();
  fast.machine.signal(SIGTERM, false, fast.now);
  const auto words = fast.actions();
  for (const auto* word : {"done 1 exit 1", "kill s4 15", "drain w2 5000", "drain b1 5000"})
    EXPECT_TRUE(has(words, word));
  EXPECT_TRUE(has(fast.pass(8s), "kill s4 9"));

  Stage graceful = upgrading();
  graceful.machine.signal(SIGQUIT, false, graceful.now);
  EXPECT_TRUE(has(graceful.actions(), "kill s4 15"));
  EXPECT_EQ(graceful.machine.phase(), Phase::retiring);
}

TEST(Upgrade, AGracefulStopServesWhatWaitsInTheQueues) {
  Stage stage = upgrading();
  stage.ready("s4");
  stage.started("s4");
  stage.actions();  // our workers pause
  stage.machine.signal(SIGQUIT, false, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"done 1 exit 1", "restore", "start w2", "start w3", "kill s4 15", "retire"}));
  EXPECT_TRUE(has(stage.pass(1s), "drain w2 3600000"));
}

TEST(Upgrade, AskedForDuringStartUpWaitsForItsTime) {
  Stage stage(Stage::two_workers());
  stage.actions();
  stage.machine.signal(SIGUSR2, false, stage.now);
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

// ---- an upgrade, the new supervisor -------------------------------------------------------------

Predecessor old_one() {
  Predecessor old;
  old.pid = 77;
  old.gen = 5;
  old.brokers = {3};
  return old;
}

/// Its children b2, w3, w4 are READY and START was said.
Stage arrived(const Predecessor& old = old_one()) {
  Stage stage(with_portal(), old);
  stage.actions();
  if (!old.apart) stage.machine.updated(stage.key("old"), {22, UpdatePhase::prepare, 0}, "", stage.now);
  stage.actions();
  for (const auto* name : {"b2", "w3", "w4"}) stage.ready(name);
  stage.actions();
  stage.machine.predecessor_start(stage.now);
  return stage;
}

TEST(Arrival, TakesOverStepByStep) {
  Stage stage(Stage::two_workers(), old_one());
  EXPECT_EQ(stage.actions(), Words{"prepare old 22"});
  stage.machine.updated(stage.key("old"), {22, UpdatePhase::prepare, 1}, "loops", stage.now);
  EXPECT_EQ(stage.actions(), (Words{"spawn b2", "spawn w3", "link w3 old", "spawn w4", "link w4 old"}));
  EXPECT_EQ(stage.machine.find(stage.key("b2"))->name(), "broker b22");
  for (const auto* name : {"b2", "w3"}) stage.ready(name);
  EXPECT_EQ(stage.actions(), Words{});
  stage.ready("w4");
  EXPECT_EQ(stage.actions(), Words{"tell-ready"});
  stage.machine.predecessor_start(stage.now);
  EXPECT_EQ(stage.actions(), (Words{"listen", "start w3", "start w4"}));
  stage.started("w3");
  stage.started("w4");
  EXPECT_EQ(stage.actions(), Words{"start old"});  // STARTED: now it may pause its own
  EXPECT_FALSE(stage.machine.in_charge());
  EXPECT_EQ(stage.committed, Words{});
  const auto words = stage.pass(10s);
  EXPECT_EQ(words, (Words{"take-over", "link w3 b2", "link w4 b2", "start b2", "tell w3 gen22", "tell w4 gen22",
                          "commit old 22", "close-removed 22"}));
  EXPECT_TRUE(stage.machine.in_charge());
  EXPECT_EQ(stage.committed.back(), "old");  // only when everything of ours is in its place
  EXPECT_EQ(stage.state("w3"), ChildState::active);
  stage.dies("w3");  // its successor needs the old broker, too
  EXPECT_EQ(stage.actions(), (Words{"spawn w5", "link w5 old", "link w5 b2", "tell w5 gen22"}));
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  stage.dies("w4");
  EXPECT_EQ(stage.actions(), (Words{"spawn w6", "link w6 b2", "tell w6 gen22"}));
}

TEST(Arrival, BeforeStartAFailureIsAnExit) {
  Stage stage(Stage::two_workers(), old_one());
  stage.actions();
  stage.machine.updated(stage.key("old"), {22, UpdatePhase::prepare, 0}, "", stage.now);
  stage.actions();
  stage.dies("w3", {false, 1});
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "leave-predecessor"));
  EXPECT_TRUE(has(words, "kill w4 9"));
  EXPECT_FALSE(has(words, "kill old 15"));
  EXPECT_FALSE(stage.machine.in_charge());  // registry and service manager are the old one's
  for (const auto* name : {"w4", "b2"}) stage.dies(name);
  EXPECT_TRUE(has(stage.actions(), "exit 1"));
}

TEST(Arrival, AProcessThatCannotBeStartedLeavesTheOldOneAlone) {
  Stage stage(Stage::two_workers(), old_one());
  stage.actions();
  stage.broken_spawn = true;
  stage.machine.updated(stage.key("old"), {22, UpdatePhase::prepare, 0}, "", stage.now);
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "leave-predecessor"));
  EXPECT_FALSE(has(words, "kill old 15"));
  EXPECT_TRUE(has(words, "exit 1"));
}

TEST(Arrival, InProbationAFailureFinishesWhatIsCarried) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.dies("w3");
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "leave-predecessor"));
  EXPECT_TRUE(has(words, "drain w4 3600000"));
  EXPECT_TRUE(has(words, "close"));
  EXPECT_FALSE(stage.machine.in_charge());  // as long as that may take
  stage.dies("w4", {false, 0});
  stage.actions();
  stage.dies("b2", {false, 0});
  EXPECT_TRUE(has(stage.actions(), "exit 1"));
}

TEST(Arrival, RetiresWhatTheConfigurationDoesNotHaveAnyMore) {
  Predecessor old = old_one();
  old.removes = true;
  Stage stage = arrived(old);
  stage.actions();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  EXPECT_EQ(stage.actions(), Words{"retire-removed 22"});
  EXPECT_EQ(stage.pass(900ms), Words{});
  EXPECT_EQ(stage.pass(200ms), Words{"start old"});
}

TEST(Arrival, TakesOverAtOnceWhenTheOldOneDies) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.machine.link_lost(stage.key("old"), "", stage.now);
  EXPECT_EQ(stage.actions(), Words{});  // it may only have hung up
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "adopt"));
  EXPECT_TRUE(has(words, "take-over"));
  EXPECT_LT(std::ranges::find(words, "adopt"), std::ranges::find(words, "take-over"));  // before the registry is ours
  EXPECT_EQ(stage.machine.phase(), Phase::running);
  std::vector<Orphan> orphans = {orphan(2, ipc::Role::worker, 5), orphan(3, ipc::Role::broker, 3)};
  stage.machine.take_in(orphans, stage.now);
  for (const auto& one : orphans) {
    EXPECT_GT(one.key.value, 4u);  // 2 and 3 are taken
    stage.names[one.key] = one.role == ipc::Role::worker ? "orphan" : "orphaned-broker";
  }
  const auto then = stage.actions();
  EXPECT_TRUE(has(then, "drain orphan 3600000"));
  EXPECT_TRUE(has(then, "tell orphaned-broker gen3 draining"));

  Stage early(Stage::two_workers(), old_one());
  early.actions();
  early.machine.link_lost(early.key("old"), "", early.now);
  EXPECT_TRUE(has(early.actions(), "exit 1"));
}

TEST(Arrival, ApartItServesEverythingWhenTheOldOneDies) {
  Predecessor old = old_one();
  old.apart = true;
  Stage stage = arrived(old);
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.machine.exited(ChildKey{1}, std::nullopt, stage.now);
  const auto words = stage.actions();
  for (const auto* word : {"take-over", "grant w3 others", "start w3", "grant w4 others"}) {
    EXPECT_TRUE(has(words, word)) << word;
  }
}

TEST(Arrival, AReloadDoesNotWaitForAnOldOneThatHasEnded) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.pass(10s);
  stage.machine.signal(SIGHUP, false, stage.now);
  stage.actions();
  stage.machine.loaded(23, Stage::two_workers(), false, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"prepare b2 23", "prepare old 23"}));
  stage.machine.updated(stage.key("b2"), {23, UpdatePhase::prepare, 0}, "", stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  EXPECT_TRUE(has(stage.actions(), "spawn w5"));
}

TEST(Arrival, ALinkToABrokerOfTheOldOneIsReplacedToo) {
  Stage stage = arrived();
  stage.actions();
  stage.machine.link_faulted(stage.key("w3"), 3, stage.now);
  EXPECT_EQ(stage.actions(), Words{"link w3 old"});  // it has no other before COMMIT
}

TEST(Arrival, GivesUpWhenTheOldOneHangsUpAndLives) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.pass(8s);
  stage.machine.link_lost(stage.key("old"), "", stage.now);
  EXPECT_EQ(stage.pass(4s), Words{});  // probation is over, but whose is the service?
  const auto words = stage.pass(2s);
  EXPECT_TRUE(has(words, "leave-predecessor"));
  EXPECT_TRUE(has(words, "drain w3 3600000"));
  EXPECT_FALSE(has(words, "take-over"));
}

TEST(Arrival, ApartItWaitsForTunnelsOfItsOwn) {
  Predecessor old = old_one();
  old.apart = true;
  Stage stage(with_portal(), old);
  EXPECT_EQ(stage.actions(), (Words{"spawn b2", "spawn w3 with tunnel slots", "link w3 b2",
                                    "spawn w4 with tunnel slots", "link w4 b2"}));
  for (const auto* name : {"b2", "w3", "w4"}) stage.ready(name);
  EXPECT_EQ(stage.actions(), Words{"tell-ready"});
  stage.machine.predecessor_start(stage.now);
  EXPECT_EQ(stage.actions(), (Words{"listen", "start b2", "tell w3 gen22", "tell w4 gen22", "start w3", "start w4"}));
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  EXPECT_TRUE(has(stage.pass(300ms), "live b2"));
  stage.machine.live(stage.key("b2"), {"other thing"}, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.live(stage.key("b2"), {"portal private"}, stage.now);
  EXPECT_EQ(stage.actions(), (Words{"grant w3 others", "start w3", "grant w4 others", "start w4", "start old"}));
}

TEST(Arrival, ApartItDoesNotWaitForever) {
  Predecessor old = old_one();
  old.apart = true;
  Stage stage = arrived(old);
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  EXPECT_FALSE(has(stage.pass(59s), "start old"));
  EXPECT_TRUE(has(stage.pass(2s), "start old"));
}

TEST(Arrival, ABrokerThatCannotReadTheNewConfigurationIsNotLinked) {
  Stage stage(Stage::two_workers(), old_one());
  stage.actions();
  stage.machine.updated(stage.key("old"), {22, UpdatePhase::prepare, 2}, "unknown field", stage.now);
  EXPECT_TRUE(has(stage.actions(), "spawn w3 with tunnel slots"));
}

TEST(Arrival, AStopLeavesTheOldOneAlone) {
  Stage stage = arrived();
  stage.actions();
  stage.machine.signal(SIGTERM, false, stage.now);
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "leave-predecessor"));
  EXPECT_TRUE(has(words, "drain w3 5000"));
  EXPECT_FALSE(has(words, "kill old 15"));
  EXPECT_FALSE(stage.machine.in_charge());
}

TEST(Arrival, AStopInChargeStopsTheOldOneToo) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.pass(10s);
  stage.machine.signal(SIGTERM, false, stage.now);
  EXPECT_TRUE(has(stage.actions(), "kill old 15"));
  for (const auto* name : {"w3", "w4", "b2"}) stage.dies(name, {false, 0});
  EXPECT_FALSE(has(stage.actions(), "exit 0"));
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  EXPECT_TRUE(has(stage.actions(), "exit 0"));
}

TEST(Arrival, AStopThatLetsConnectionsFinishIsPassedOn) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.pass(10s);
  stage.machine.signal(SIGQUIT, false, stage.now);
  EXPECT_FALSE(has(stage.actions(), "kill old 3"));  // our workers may still offer to its brokers
  stage.pass(1s);
  for (const auto* name : {"w3", "w4"}) stage.dies(name, {false, 0});
  EXPECT_TRUE(has(stage.actions(), "kill old 3"));

  Stage old = upgrading();
  old.ready("s4");
  old.started("s4");
  old.machine.successor_committed(old.key("s4"), old.now);
  old.actions();
  old.machine.signal(SIGQUIT, false, old.now);
  EXPECT_EQ(old.actions(), Words{"drain b1 86400000"});
}

// ---- adoption -----------------------------------------------------------------------------------

TEST(Adoption, ReplacesTheWorkersByAnOrdinaryReload) {
  Stage stage(Stage::two_workers(),
              {orphan(1, ipc::Role::broker, 1), orphan(7, ipc::Role::worker, 4, 0), orphan(8, ipc::Role::worker, 4, 1)},
              4, {8, 4, 1});
  EXPECT_EQ(stage.actions(), (Words{"start w7", "start w8", "load 5"}));  // they may have been paused
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
  EXPECT_EQ(bridge.actions(), Words{"load 5"});  // there are no slots to have
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
  EXPECT_FALSE(has(words, "drain w5 3600000"));  // it was told before
  EXPECT_TRUE(has(words, "tell b1 gen1 draining"));
}

TEST(Adoption, KnowsARetiredSupervisorAndStopsIt) {
  Stage stage(Stage::two_workers(), {orphan(1, ipc::Role::broker, 1), orphan(9, ipc::Role::supervisor, 0)}, 4,
              {9, 4, 1});
  stage.actions();
  stage.machine.signal(SIGTERM, false, stage.now);
  EXPECT_TRUE(has(stage.actions(), "kill w9 15"));
  stage.dies("b1");
  EXPECT_FALSE(has(stage.actions(), "exit 0"));
  stage.machine.exited(ChildKey{9}, std::nullopt, stage.now);
  EXPECT_TRUE(has(stage.actions(), "exit 0"));
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
  EXPECT_EQ(stage.actions(), Words{"load 5"});
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
