"""Signals in any order: T20, T21, T26."""

import glob
import os
import random
import signal
import threading
import time

from ebbtest import procfs, service, wait

from . import actions, scenario


class T20Storm(scenario.Scenario):
    def test_thousand_hups_in_a_second(self):
        self.start_stack()
        actions.good_reload(self.portal)
        it = self.load(2000)
        begin = time.monotonic()
        for i in range(1000):
            self.portal.signal(signal.SIGHUP)
            time.sleep(max(0.0, begin + (i + 1) / 1000 - time.monotonic()))
        self.note(f"1000 HUP in {self.seconds_since(begin)}")
        self.expect(it)
        generation = self.portal.status()["generation"]
        time.sleep(1)  # a reload begins at once, also in probation: one may have been under way, and one kept in mind
        settled = self.portal.status()["generation"]
        self.assertLessEqual(settled, generation + 2)
        time.sleep(1)
        self.assertEqual(self.portal.status()["generation"], settled, "no more than one was kept in mind")
        self.finish()

    def test_all_signals_at_random(self):
        self.make_stack()
        self.portal.own_binary()
        self.start_services()
        actions.good_reload(self.portal)
        actions.good_upgrade(self.portal)
        it, chance, counts = self.load(2000, seconds=max(self.seconds, 8)), random.Random(20), {}
        while it.going_on(chance.uniform(0, 0.05)):
            which = chance.choice((signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
            if service.signal_if_there(self.portal.main(), which):
                counts[which.name] = counts.get(which.name, 0) + 1
        self.note(str(counts))
        self.expect(it)
        wait.until("one supervisor is left", lambda: len(self.portal.supervisors()) == 1, 15)
        self.finish(descriptors=False)


class T21LogsRenamed(scenario.Scenario):
    def test_every_line_is_somewhere(self):
        self.make_stack()
        access = os.path.join(self.directory, "access.log")
        self.portal.config["log"]["access"] = access
        self.portal.configure()
        self.start_services()
        actions.need_signal(self.portal, signal.SIGUSR1)
        it, count = self.load(2000, long=50), 0
        while it.going_on(0.1):
            os.rename(access, f"{access}.{count}")
            self.portal.signal(signal.SIGUSR1)
            wait.until("a new file", lambda: os.path.exists(access), 5, step=0.005)
            count += 1
        result = self.expect(it)
        lines = 0
        for path in glob.glob(access + "*"):
            with open(path, encoding="utf-8") as f:
                lines += sum("accepted" in line and "127.0.0.1:" + str(self.origin.port) in line for line in f)
        self.note(f"{count} renames")
        self.assertEqual(lines, result["started"] + result["long"]["opened"] + self.warm_ids)
        self.finish()


class T26StoppedUnderLoad(scenario.Scenario):
    """TERM at any moment: all processes gone within 7 s, whatever is going on."""

    def stop_all(self, it) -> None:
        for one in (self.portal, self.bridge):
            begin = time.monotonic()
            self.assertEqual(one.stop(), 0, one.tail())
            self.note(f"{one.name} gone after {self.seconds_since(begin)}")
        result = it.finish(at_once=True)
        self.say(it, result, result["failed"])
        self.assertEqual(result["by_kind"].get("wrong_echo", 0), 0)
        self.assertEqual(self.origin.finish(at_once=True)["duplicates"], 0)

    def test_plainly(self):
        self.start_stack()
        it = self.load(2000)
        time.sleep(1)
        self.stop_all(it)

    @scenario.full_only
    def test_by_quit(self):
        """QUIT: new ones are refused, those under way are finished; then all have gone."""
        self.start_stack()
        it = self.load(1000, long=0)
        time.sleep(1)
        for one in (self.portal, self.bridge):
            one.signal(signal.SIGQUIT)
        quit_at = time.monotonic()
        for one in (self.portal, self.bridge):
            wait.until(f"{one.name} has gone\n{one.tail()}", lambda one=one: not one.tree(), 10)
        self.note(f"all gone after {self.seconds_since(quit_at)}")
        self.expect(it, lost=lambda f: f["started_us"] / 1e6 > quit_at - 0.05 and f["kind"] != "timeout")
        self.origin.finish(at_once=True)

    def test_during_a_reload(self):
        self.start_stack(probation="2s")
        actions.good_reload(self.portal)
        it = self.load(2000, seconds=10)
        self.portal.signal(signal.SIGHUP)
        time.sleep(0.2)
        self.stop_all(it)

    def test_during_an_upgrade(self):
        self.make_stack(probation="2s")
        self.portal.own_binary()
        self.start_services()
        actions.good_upgrade(self.portal)
        it = self.load(2000, seconds=10)
        asked = threading.Thread(target=self.portal.ctl, args=("upgrade",))
        asked.start()
        wait.until("two supervisors", lambda: len(self.portal.supervisors()) == 2, 5, step=0.002)
        self.stop_all(it)
        asked.join(20)

    @scenario.full_only
    def test_during_an_adoption(self):
        self.start_stack()
        actions.need_adoption(self.portal)
        it = self.load(2000, seconds=10)
        actions.kill_supervisor(self.portal)
        self.portal.spawn()
        wait.until("it has the lock", lambda: self.portal.signer() == self.portal.pid, 5, step=0.002)
        time.sleep(0.05)
        self.stop_all(it)
        self.assertFalse(any(procfs.alive(p) for p in self.portal.tree()))
