"""After an upgrade the supervisor of before waits for its last processes, and may die as it does. spec/processes.md 9.2, 9.4."""

import os
import re
import signal
import unittest

from ebbtest import case, operated, ports, procfs, service, visitors, wait


class AfterAnUpgrade(operated.Orphaned):
    """The supervisor of before an upgrade waits for its last processes: its broker b1 has the first visitor."""

    def upgrade(self) -> int:
        """The retired one's pid."""
        old = self.portal.main()
        self.ctl("upgrade")
        self.assertTrue(procfs.alive(old))
        wait.until("its workers have left", lambda: len(self.portal.role("worker")) == 2, 10)
        return old

    def begin_upgrade(self, probation: str) -> int:
        """The new one is in probation. The pid of the one in charge."""
        self.config["ebbgate"]["timers"]["probation"] = probation
        self.write()
        old = self.portal.main()
        self.portal.signal(signal.SIGUSR2)
        wait.until("it is in probation", lambda: self.status()["reload"]["step"] == "upgrade in probation", 15, step=0.05)
        return old

    def moved(self) -> None:
        """Visitors go to the newest broker."""
        wait.until("a tunnel has streams", lambda: self.stream() and any(t["streams"] for t in self.portal.tunnels()), 20)

    def kill(self, *pids: int) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.gone(pids, 5)

    def freeze(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        wait.until("it stands", lambda: procfs.state(pid) == "T", 5)
        self.addCleanup(service.signal_if_there, pid, signal.SIGCONT)

    def thaw(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def in_charge_after(self, old: int) -> int:
        wait.until("another one is in charge", lambda: self.portal.main() != old, 15, step=0.02)
        return self.portal.main()

    def stops(self, seconds: float = 7) -> None:
        self.portal.signal(signal.SIGTERM)
        self.all_gone(seconds)
        self.assertEqual(self.files(), {"lock", "instance", "registry"})
        for wrong in ("could not be used", "protocol was broken", "could not follow", "could not be kept"):
            self.assertNotIn(wrong, self.portal.log())

    def adopted(self, name: str = "broker b1") -> None:
        self.log_says(f'process adopted name="{name}"')


@case.beyond_v2ray
class RetiredOneDies(AfterAnUpgrade):
    def test_the_one_in_charge_takes_its_processes_over(self):
        self.start_operated()
        stream, broker = self.stream(), self.portal.broker()
        old = self.upgrade()
        self.assertNotIn("broker b1", self.states(), "that is the old one's")
        self.kill(old)
        self.adopted()
        self.assertEqual(self.states()["broker b1"], "draining")
        stream.exchange()
        self.assertTrue(visitors.fetches(self.public))
        self.stops()
        self.assertFalse(procfs.alive(broker))

    def test_its_last_process_leaves(self):
        self.start_operated()
        stream, broker = self.stream(), self.portal.broker()
        self.kill(self.upgrade())
        self.adopted()
        stream.close()
        self.gone([broker], 60)
        self.log_says('process ended name="broker b1"')
        self.assertEqual([f for f in self.files() if f.startswith("retired")], [])

    def test_it_ends_by_itself(self):
        self.start_operated()
        stream = self.stream()
        old = self.upgrade()
        self.assertEqual(len([f for f in self.files() if f.startswith("retired")]), 1)
        stream.close()
        self.gone([old], 60)
        self.assertEqual([f for f in self.files() if f.startswith("retired")], [])
        self.assertNotIn("adopted", self.portal.log())

    def test_both_die(self):
        self.start_operated()
        stream = self.stream()
        old, main = self.upgrade(), self.portal.main()
        self.kill(main, old)
        stream.exchange()
        self.restart()
        names = re.findall(r'process adopted name="(\S+ \S+)"', self.portal.log())
        self.assertEqual(sorted(n for n in names if n.startswith("broker")), ["broker b1", "broker b18"])
        stream.exchange()
        self.settled()
        self.assertTrue(visitors.fetches(self.public))
        self.stops()

    def test_after_the_one_in_charge(self):
        """The next one finds it waiting, and must not take from it what it needs to be found later."""
        self.start_operated()
        stream = self.stream()
        old = self.upgrade()
        self.kill_supervisor()
        self.restart()
        self.settled()
        self.kill(old)
        self.adopted()
        stream.exchange()
        self.stops()

    def test_while_the_next_one_starts(self):
        """It waits for a worker that hangs when the retired one dies."""
        self.start_operated()
        stream = self.stream()
        old = self.upgrade()
        worker = self.portal.role("worker")[0]
        self.freeze(worker)
        self.kill_supervisor()
        self.portal.spawn()
        wait.until("it has begun", lambda: self.portal.signer() == self.portal.pid, 5)
        self.kill(old)
        self.log_says("a process does not let itself be adopted", 10)
        self.adopted()
        stream.exchange()
        self.stops()

    def test_of_the_one_before(self):
        """Two upgrades, and the first visitor is still there."""
        self.start_operated()
        stream, first = self.stream(), self.upgrade()
        self.moved()
        second = self.upgrade()
        self.assertTrue(procfs.alive(first) and procfs.alive(second))
        self.kill(first)
        self.adopted()
        stream.exchange()
        self.stops()

    def test_of_a_whole_chain(self):
        self.start_operated()
        stream, first = self.stream(), self.upgrade()
        self.moved()
        second = self.upgrade()
        self.kill(second, first, self.portal.main())
        self.restart()
        self.settled()
        stream.exchange()
        self.assertTrue(visitors.fetches(self.public))
        self.stops()

    def test_one_that_hears_nothing(self):
        self.start_operated()
        self.stream()
        self.freeze(self.upgrade())
        self.stops(15)


@case.beyond_v2ray
class RetiredOneDiesInAStop(AfterAnUpgrade):
    def test_with_term(self):
        for before in (True, False):
            with self.subTest(killed_first=before):
                self.start_operated()
                self.stream()
                old = self.upgrade()
                if before:
                    os.kill(old, signal.SIGKILL)
                self.portal.signal(signal.SIGTERM)
                if not before:
                    os.kill(old, signal.SIGKILL)
                self.all_gone(7)
                self.bridge.stop()

    def test_with_term_in_the_same_moment(self):
        self.start_operated()
        self.stream()
        old, main = self.upgrade(), self.portal.main()
        self.freeze(main)
        self.kill(old)
        os.kill(main, signal.SIGTERM)
        self.thaw(main)
        self.all_gone(7)

    def test_with_quit(self):
        """While nothing is let in any more, and when all wait for their connections."""
        for seconds in (0.2, 3):
            with self.subTest(after=seconds):
                self.start_operated()
                stream = self.stream()
                old = self.upgrade()
                self.portal.signal(signal.SIGQUIT)
                wait.holds("it waits for the stream", lambda: procfs.alive(old), seconds)
                self.kill(old)
                self.adopted()
                stream.exchange()
                self.portal.signal(signal.SIGTERM)
                self.all_gone(7)
                self.bridge.stop()

    def test_with_our_last_process(self):
        self.start_operated()
        stream = self.stream()
        old, main, first = self.upgrade(), self.portal.main(), self.portal.role("broker")[0]
        self.portal.signal(signal.SIGQUIT)
        wait.until("nobody is let in", lambda: not procfs.listening(self.public), 10)
        self.freeze(main)
        self.kill(old)
        for pid in set(self.portal.tree()) - {main, first}:
            service.signal_if_there(pid, signal.SIGKILL)
        self.thaw(main)
        self.adopted()
        stream.exchange()
        self.assertTrue(procfs.alive(main))
        self.portal.signal(signal.SIGTERM)
        self.all_gone(7)


@case.beyond_v2ray
class OneDiesInAnUpgrade(AfterAnUpgrade):
    def test_the_one_in_charge_under_load(self):
        """Its workers, adopted, still offer what they have to its broker."""
        self.start_operated()
        stream = self.stream()
        with visitors.Load(self.public, rate=100, parallel=8) as load:
            first = self.begin_upgrade("5s")
            self.kill(first)
            self.in_charge_after(first)
            self.adopted()
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 100, 10)
            self.reload()
            self.ctl("drain", "broker")
            stream.exchange()
        self.assertEqual(load.failures, [])
        self.stops()

    def test_the_retired_one_while_the_one_in_charge_stands(self):
        """It notices when it is not in charge any more: those in the registry are another one's."""
        self.start_operated()
        stream, first = self.stream(), self.upgrade()
        second = self.begin_upgrade("2s")
        self.freeze(second)
        self.kill(first)
        third = self.in_charge_after(second)
        later = self.stream()
        theirs = {p for p in self.portal.tree() if procfs.parent(p) == third}
        self.assertEqual(len(theirs), 3)
        self.thaw(second)
        self.adopted()
        wait.holds("nobody is killed", lambda: theirs <= set(self.portal.tree()), 6)
        stream.exchange()
        later.exchange()
        self.kill_supervisor()
        self.restart()
        self.settled()
        later.exchange()
        self.stops()

    def test_the_one_in_charge_unnoticed(self):
        """It is dead, but its successor only hears of it once it has taken over."""
        self.start_operated()
        stream = self.stream()
        first = self.begin_upgrade("1s")
        second = next(p for p in self.portal.supervisors() if p != first)
        self.freeze(second)
        self.kill(first)
        wait.holds("probation is over", lambda: procfs.alive(second), 1.5)
        self.thaw(second)
        self.in_charge_after(first)
        self.adopted()
        stream.exchange()
        self.stops()

    def test_what_was_removed_stays_removed(self):
        self.start_operated()
        extra = ports.free_port()
        self.add_door(extra, "second")
        self.reload()
        self.settled()
        self.stream()
        self.config["inbounds"].pop()
        self.config["routing"]["rules"][0]["inboundTag"].pop()
        self.write()
        first = self.begin_upgrade("5s")
        self.kill(first)
        self.in_charge_after(first)
        wait.until("the address is closed", lambda: not procfs.listening(extra), 10)
        self.add_door(extra, "second")
        self.reload()
        for _ in range(20):
            self.connect(extra).close()
        self.stops()


if __name__ == "__main__":
    unittest.main()
