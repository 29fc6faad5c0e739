// A binary upgrade in the machine of the new supervisor, until it is in charge.
#include <signal.h>

#include <algorithm>

#include "tests/unit/supervisor/stage.h"

namespace ebb::supervisor {
namespace {

using ipc::UpdatePhase;
using Phase = Machine::Phase;

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
  stage.perform();
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
                          "commit old 22", "close-removed 22", "adopt"}));
  EXPECT_TRUE(stage.machine.in_charge());
  EXPECT_EQ(stage.committed.back(), "old");  // only when everything of ours is in its place
  EXPECT_EQ(stage.state("w3"), ChildState::active);
  stage.dies("w3");  // its successor needs the old broker, too
  EXPECT_EQ(stage.actions(), (Words{"spawn w5", "link w5 old", "link w5 b2", "tell w5 gen22"}));
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  EXPECT_EQ(stage.actions(), Words{"adopt"});
  stage.dies("w4");
  EXPECT_EQ(stage.actions(), (Words{"spawn w6", "link w6 b2", "tell w6 gen22"}));
}

TEST(Arrival, AListenThatFailsLetsNobodyBegin) {
  Stage stage(Stage::two_workers(), old_one());
  stage.actions();
  stage.machine.updated(stage.key("old"), {22, UpdatePhase::prepare, 0}, "", stage.now);
  stage.actions();
  for (const auto* name : {"b2", "w3", "w4"}) stage.ready(name);
  stage.actions();
  stage.listens = false;
  stage.machine.predecessor_start(stage.now);
  EXPECT_EQ(stage.actions(), Words{"listen"});
  stage.machine.listen_failed(22, "port taken", stage.now);
  const auto words = stage.actions();
  EXPECT_TRUE(has(words, "leave-predecessor"));
  EXPECT_FALSE(has(words, "start w3"));
  stage.machine.listening(22, stage.now);  // too late
  EXPECT_EQ(stage.actions(), Words{});
  for (const auto* name : {"w3", "w4", "b2"}) stage.dies(name);
  EXPECT_TRUE(has(stage.actions(), "exit 1"));
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
  stage.left_behind = {orphan(2, ipc::Role::worker, 5), orphan(3, ipc::Role::broker, 3)};
  const auto words = stage.actions();
  const auto at = [&](const char* word) { return std::ranges::find(words, word) - words.begin(); };
  EXPECT_EQ(words[0], "adopt all");
  EXPECT_TRUE(has(words, "drain orphan-w5 3600000"));
  EXPECT_TRUE(has(words, "tell orphan-b3 gen3 draining"));
  EXPECT_LT(at("tell orphan-b3 gen3 draining"), at("take-over"));  // it gives its slots back while they are known
  EXPECT_TRUE(has(words, "take-over"));
  EXPECT_EQ(stage.machine.phase(), Phase::running);
  EXPECT_GT(stage.key("orphan-w5").value, 4u);  // 2 and 3 are taken
  // What its workers have goes to its broker; ours is for ours, and they have their links to its broker already.
  for (const auto* word : {"link orphan-w5 b2", "link w3 orphan-b3", "start orphan-b3"}) {
    EXPECT_FALSE(has(words, word)) << word;
  }
  // COMMIT may not have come through.
  for (const auto* word : {"link w3 b2", "prepare orphan-b3 22", "commit orphan-b3 22"}) {
    EXPECT_TRUE(has(words, word)) << word;
  }

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
  stage.machine.signal(SIGHUP, stage.now);
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
  EXPECT_EQ(stage.actions(), Words{"moved other thing"});
  stage.machine.live(stage.key("b2"), {"portal private"}, stage.now);
  EXPECT_EQ(stage.actions(),
            (Words{"moved portal private", "grant w3 others", "start w3", "grant w4 others", "start w4", "start old"}));
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
  stage.machine.signal(SIGTERM, stage.now);
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
  stage.machine.signal(SIGTERM, stage.now);
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
  stage.machine.signal(SIGQUIT, stage.now);
  EXPECT_FALSE(has(stage.actions(), "kill old 3"));  // our workers may still offer to its brokers
  stage.pass(1s);
  for (const auto* name : {"w3", "w4"}) stage.dies(name, {false, 0});
  EXPECT_TRUE(has(stage.actions(), "kill old 3"));
}

TEST(Arrival, AProcessThatDiesWithTheOldOneIsReplaced) {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.adopts = false;
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  stage.dies("w3");
  stage.dies("b2");
  EXPECT_EQ(stage.actions(), Words{"adopt all"});
  std::vector<Orphan> nobody;
  stage.machine.take_in(nobody, false, stage.now);
  const auto words = stage.actions();
  for (const auto* word : {"take-over", "spawn b5", "spawn w6"}) EXPECT_TRUE(has(words, word)) << word;
}

TEST(Arrival, AdoptedWorkersKeepTheNumberOfTheirLinks) {
  Stage stage = arrived();
  stage.adopts = false;
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  std::vector<Orphan> orphans = {orphan(2, ipc::Role::worker, 5)};
  orphans[0].link_id = 2;
  stage.machine.take_in(orphans, false, stage.now);
  EXPECT_NE(orphans[0].key.value, 2u);
  EXPECT_EQ(stage.machine.find(orphans[0].key)->link_id, 2u);
  EXPECT_EQ(stage.machine.find(stage.key("w3"))->link_id, stage.key("w3").value);
}

/// In charge, and "old" still waits for its last process.
Stage in_charge() {
  Stage stage = arrived();
  for (const auto* name : {"w3", "w4"}) stage.started(name);
  stage.actions();
  stage.pass(10s);
  return stage;
}

const std::vector<Orphan> kLeft = {orphan(2, ipc::Role::worker, 5, 0, false),
                                   orphan(3, ipc::Role::broker, 3, 0, false)};

TEST(Arrival, AnOldOneThatEndsMayHaveBeenKilledWithProcessesLeft) {
  Stage stage = in_charge();
  stage.machine.link_lost(stage.key("old"), "", stage.now);
  EXPECT_EQ(stage.actions(), Words{});  // it need not be dead yet
  stage.left_behind = kLeft;
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  const auto words = stage.actions();
  EXPECT_EQ(words[0], "adopt");
  EXPECT_TRUE(has(words, "drain orphan-w5 3600000"));  // once more
  EXPECT_TRUE(has(words, "tell orphan-b3 gen3 draining"));
  EXPECT_TRUE(has(stage.pass(3605s), "kill orphan-w5 15"));  // hardStopAfter counts anew
}

TEST(Arrival, AStopReachesWhatAnOldOneHasLeft) {
  for (const bool before : {false, true}) {
    Stage stage = in_charge();
    stage.left_behind = kLeft;
    if (!before) stage.machine.signal(SIGTERM, stage.now);
    stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
    if (before) stage.machine.signal(SIGTERM, stage.now);
    EXPECT_TRUE(has(stage.actions(), "drain orphan-b3 5000")) << before;
    const auto words = stage.pass(6s);
    EXPECT_TRUE(has(words, "kill orphan-b3 9")) << before;
    EXPECT_TRUE(has(words, "kill orphan-w5 9")) << before;
  }
}

TEST(Arrival, AStopThatLetsConnectionsFinishDrainsWhatAnOldOneHasLeft) {
  Stage early = in_charge();
  early.machine.signal(SIGQUIT, early.now);
  early.left_behind = kLeft;
  early.machine.exited(early.key("old"), std::nullopt, early.now);
  EXPECT_TRUE(has(early.actions(), "tell orphan-b3 gen3 draining"));
  early.pass(1s);
  for (const auto* name : {"w3", "w4", "orphan-w5"}) early.dies(name, {false, 0});
  EXPECT_TRUE(has(early.actions(), "drain orphan-b3 86400000"));

  Stage late = in_charge();
  late.machine.signal(SIGQUIT, late.now);
  late.pass(1s);
  for (const auto* name : {"w3", "w4"}) late.dies(name, {false, 0});
  late.actions();
  late.left_behind = kLeft;
  late.machine.exited(late.key("old"), std::nullopt, late.now);
  EXPECT_TRUE(has(late.actions(), "drain orphan-b3 86400000"));
}

TEST(Arrival, NobodyLeavesBeforeItIsKnownWhatAnOldOneHasLeft) {
  Stage stage = in_charge();
  stage.adopts = false;
  stage.machine.signal(SIGQUIT, stage.now);
  stage.pass(1s);
  for (const auto* name : {"w3", "w4"}) stage.dies(name, {false, 0});
  stage.actions();
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  stage.dies("b2", {false, 0});
  EXPECT_EQ(stage.actions(), Words{"adopt"});
  std::vector<Orphan> nobody;
  stage.machine.take_in(nobody, true, stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.take_in(nobody, false, stage.now);
  EXPECT_EQ(stage.actions(), Words{"exit 0"});
}

TEST(Arrival, ABrokerThatIsAdoptedDuringAReloadIsToldOfIt) {
  Stage stage = in_charge();
  stage.machine.signal(SIGHUP, stage.now);
  stage.actions();
  stage.machine.loaded(23, Stage::two_workers(), false, stage.now);
  stage.actions();
  stage.left_behind = kLeft;
  stage.machine.exited(stage.key("old"), std::nullopt, stage.now);
  EXPECT_TRUE(has(stage.actions(), "prepare orphan-b3 23"));
  stage.machine.updated(stage.key("b2"), {23, UpdatePhase::prepare, 0}, "", stage.now);
  EXPECT_EQ(stage.actions(), Words{});
  stage.machine.updated(stage.key("orphan-b3"), {23, UpdatePhase::prepare, 0}, "", stage.now);
  EXPECT_TRUE(has(stage.actions(), "spawn w7"));
}

TEST(Arrival, SupervisorsOfEarlierUpgradesAreStoppedToo) {
  Stage stage = in_charge();
  std::vector<Orphan> older = {orphan(1, ipc::Role::supervisor, 0)};
  stage.machine.know(older, stage.now);
  stage.names[older[0].key] = "older";
  stage.machine.signal(SIGTERM, stage.now);
  EXPECT_TRUE(has(stage.actions(), "kill older 15"));
  // Deaf ones: TERM again, which makes them quick, then KILL.
  EXPECT_TRUE(has(stage.pass(7100ms), "kill older 15"));
  EXPECT_TRUE(has(stage.pass(2s), "kill older 9"));
}

}  // namespace
}  // namespace ebb::supervisor
