"""Short connections whose clients close first, with shipped defaults: nobody is refused, nothing piles up; and upgrades
under such a load."""

import threading
import time

from ebbtest import procfs

from . import actions, scenario, test_upgrade


class Watch(threading.Thread):
    """The most of something, looked at again and again until stopped."""

    def __init__(self, look, every_s: float):
        super().__init__(daemon=True)
        self.most, self.looks = 0, 0
        self._look, self._every, self._over, self._failed = look, every_s, threading.Event(), None

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self.join(30)
        if self._failed:
            raise self._failed

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self.most = max(self.most, self._look())
                self.looks += 1
                self._over.wait(self._every)
        except Exception as failure:  # told by the test
            self._failed = failure


class ClosingFirst(scenario.Scenario):
    """Between our own nodes. Limits: what a stream may leave behind, and for how long."""

    quick = {}
    rate = 2000
    seconds = 60.0 if scenario.FULL else 4.0
    lingering_s = 0.0  # after the visitor's close, as long as a peer without a half-close makes us wait
    most_tunnels = 8

    def most_descriptors(self, load_) -> int:
        """Above the start, of any process of ours, without those of visitors who are still there."""
        most = 0
        for it in self.services:
            for role, count in self.before.get(it.name, {}).items():
                now = max((procfs.fd_count(p) for p in it.role(role)), default=0)
                most = max(most, now - count)
        return most - load_.progress()["open"]

    def test_nothing_piles_up(self):
        self.start_stack()
        it = self.load(self.rate, close_first=True, long=0)
        with Watch(lambda: self.most_descriptors(it), 0.2) as descriptors, \
                Watch(lambda: len(self.portal.tunnels()), 0.5) as tunnels:
            while it.going_on():
                time.sleep(0.2)  # the load runs
        self.note(f"at most {descriptors.most} descriptors above the start and {tunnels.most} tunnels")
        self.assertGreater(min(descriptors.looks, tunnels.looks), 2)
        result = self.expect(it)
        self.assertGreater(result["started"], 0.9 * it.rate * it.seconds)
        self.assertLessEqual(descriptors.most, 200 + self.lingering_s * it.rate)
        self.assertLessEqual(tunnels.most, self.most_tunnels)
        self.finish()


class BesideV2ray(ClosingFirst):
    """A stock bridge cannot be told that the visitor sends no more: an answer may follow, so his stream waits for it."""

    bridge_kind = "v2ray"
    lingering_s = 2.0
    most_tunnels = 256


@scenario.full_only
class BesideV2fly(BesideV2ray):
    bridge_kind = "v2fly"


@scenario.full_only
class BesideXray(BesideV2ray):
    bridge_kind = "xray"


class UpgradesMeanwhile(test_upgrade.Upgrade):
    """Three of each end that is ours. With the shipped timers each takes 10 to 12 s, for which the short form has no time."""

    quick = {} if scenario.FULL else scenario.QUICK
    rate = 2000
    seconds = 90.0 if scenario.FULL else 15.0

    def test_three_of_each_end(self):
        self.start_upgradable()
        it, count = self.load(self.rate, close_first=True), 0
        while count < 3:
            actions.good_upgrade(self.portal)
            if self.bridge.kind == "ours":
                actions.good_upgrade(self.bridge)
            count += 1
        self.note(f"the third was done {it.left():.1f} s before the end of the load")
        self.assertTrue(it.going_on(), "the load was over before the third upgrade")
        self.expect(it)
        self.finish(descriptors=False)


class UpgradesBesideV2ray(UpgradesMeanwhile):
    bridge_kind = "v2ray"
    seconds = 60.0 if scenario.FULL else 15.0  # one end is ours


@scenario.full_only
class UpgradesBesideV2fly(UpgradesBesideV2ray):
    bridge_kind = "v2fly"


@scenario.full_only
class UpgradesBesideXray(UpgradesBesideV2ray):
    bridge_kind = "xray"
