"""Descriptors run out (T18), and nothing grows (T19)."""

import os
import signal
import time

from ebbtest import procfs, wait

from . import actions, evidence, scenario, test_baseline

class T18DescriptorsRunOut(test_baseline.T25Direct):
    """With so few that they run out, clients wait in the kernel's queue: what serves them stands still for a second."""

    test_baseline = None
    open_files = 1024

    def stand_still(self, it, stopped: int, watched: list[int]) -> None:
        """Stops a process and sees that the watched ones fill up but keep descriptors back."""
        time.sleep(1)
        actions.freeze(stopped)
        time.sleep(1)
        full = [max(map(procfs.fd_count, watched))]
        time.sleep(0.2)
        full.append(max(map(procfs.fd_count, watched)))
        os.kill(stopped, signal.SIGCONT)
        self.note(f"{full[1]} descriptors when full, of {self.open_files}")
        waiting = it.progress()["open"]
        self.assertGreater(waiting, 1.2 * full[1], "nobody had to wait outside")
        self.assertLess(full[1] - full[0], 20, "it was not full yet")
        self.assertLess(full[1], self.open_files - 32)

    def test_of_the_workers(self):
        self.workers = 2
        self.make_direct(open_files=self.open_files)
        it = self.load(2000 / scenario.SCALE, long=10)
        self.stand_still(it, self.origin.pid, self.portal.role("worker"))
        self.expect(it)
        self.finish()

    def test_of_the_broker(self):
        self.start_stack(open_files=self.open_files)
        it = self.load(2000 / scenario.SCALE)
        self.stand_still(it, self.bridge.broker(), [self.portal.broker()])
        self.expect(it)
        self.finish()


class T19NothingGrows(scenario.Scenario):
    """The same many times over, without load: descriptors, memory and processes return to the start."""

    limit_s = 900
    reloads, others = (500, 50) if scenario.FULL else (12, 2)
    # Heaps find their size in the first dozens of rounds and then swing by a few pages around it.
    warm, swing_kib = (50, 192) if scenario.FULL else (2, 384)

    def measure(self) -> dict:
        found = {}
        for it in self.services:
            found[it.name, "processes"] = len(it.tree())
            for role in ("supervisor", "broker"):
                if not scenario.ASAN:  # it keeps freed memory for a while
                    found[it.name, role, "KiB"] = evidence.private_kib(it.role(role)[0])
            found |= {(it.name, role, "fds"): n for role, n in it.descriptors().items()}
        return found

    def repeat(self, times: int, action) -> None:
        for _ in range(min(self.warm, times)):  # what is made once is made
            action()
        self.rest()
        before = self.measure()
        for _ in range(times):
            action()
        self.rest()

        def grown():
            now = self.measure()
            return {k: (v, now.get(k)) for k, v in before.items()
                    if now.get(k, 0) > (v * 1.02 + self.swing_kib if k[-1] == "KiB" else v)}
        wait.until(f"back at the start, (before, now): {grown()}", lambda: not grown(), 15, step=0.5)
        after = self.measure()
        story = ", ".join(f"{' '.join(k)} {v} -> {after[k]}" for k, v in before.items())
        print(f"| {type(self).__name__}.{self._testMethodName}: {times} times: {story}", flush=True)

    def rest(self) -> None:
        """Until one generation is left of everything."""
        for it in self.services:
            workers = it.config["ebbgate"].get("workers", 0)
            wait.until(f"{it.name} is down to one generation: {it.tree()}", lambda it=it, n=workers: (
                len(it.supervisors()), len(it.role("broker")), len(it.role("worker"))) == (1, 1, n), 30)
        self.settle()

    def test_reloads(self):
        self.start_stack()
        actions.good_reload(self.portal)
        self.repeat(self.reloads, lambda: (actions.good_reload(self.portal), actions.good_reload(self.bridge)))
        self.finish(descriptors=False)

    @scenario.full_only
    def test_upgrades(self):
        self.make_stack()
        self.portal.own_binary()
        self.bridge.own_binary()
        self.start_services()
        actions.good_upgrade(self.portal)
        self.repeat(self.others, lambda: (actions.good_upgrade(self.portal), actions.good_upgrade(self.bridge)))
        self.finish(descriptors=False)

    @scenario.full_only
    def test_broker_replacements(self):
        self.start_stack()
        actions.need_broker_replacement(self.portal)
        self.repeat(self.others, lambda: (actions.replace_broker(self.portal), actions.replace_broker(self.bridge)))
        self.finish(descriptors=False)
