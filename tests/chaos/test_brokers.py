"""Brokers are replaced under load: T11, T12, T28."""

import time

from ebbtest import procfs, wait

from . import actions, generator, scenario


class T11BrokerReplaced(scenario.Scenario):
    def test_of_portal_and_bridge(self):
        self.start_stack()
        actions.need_broker_replacement(self.portal)
        it, count = self.load(3000), 0
        while it.going_on(0.2):
            actions.replace_broker(self.portal if count % 2 == 0 else self.bridge)
            count += 1
        self.note(f"{count} replacements")
        self.expect(it)
        self.assertGreaterEqual(count, 2)
        for service in self.services:
            wait.until("old brokers have left", lambda s=service: len(s.role("broker")) == 1, 30)
        self.finish(descriptors=False)


class _StockBridge(scenario.Scenario):
    def first_has_left(self) -> None:
        """Else it may be the one that carries the load's long streams."""
        wait.until("the first broker has left", lambda: len(self.portal.role("broker")) == 1, 70)

    def replace_once(self) -> tuple[int, float]:
        """3 s into the load: the old broker, and when it was replaced."""
        time.sleep(3)
        old = self.portal.broker()
        actions.replace_broker(self.portal)
        began = time.monotonic()
        # One whose dialect is still being found out carries visitors like any other.
        wait.until("the bridge has a tunnel at the new broker",
                   lambda: any(t["state"] in ("probing", "active") for t in self.portal.tunnels()), 3)
        self.note(f"switched after {self.seconds_since(began)}")
        return old, began


@scenario.full_only
class T12StockBridge(_StockBridge):
    """V2Ray's bridge moves over by itself when its tunnel is drained."""

    bridge_kind = "v2ray"

    def test_portal_broker_replaced_once(self):
        self.start_stack()
        actions.need_broker_replacement(self.portal)
        self.first_has_left()
        it = self.load(500, seconds=20)
        old, _ = self.replace_once()
        self.expect(it)
        wait.until("the old broker has left", lambda: not procfs.alive(old), 30)
        self.finish(descriptors=False)


@scenario.full_only
class T12StockPortal(scenario.Scenario):
    """Our bridge's new broker dials tunnels of its own; the old ones are never cut."""

    portal_kind = "v2ray"

    def test_bridge_broker_replaced_once(self):
        self.make_stack()
        self.portal.start(listens=self.public)
        self.bridge.start()
        wait.until("V2Ray serves", self.answers, 40, step=0.2)
        actions.need_broker_replacement(self.bridge)
        it = self.load(500, seconds=20)
        time.sleep(3)
        actions.replace_broker(self.bridge)
        self.expect(it)
        self.origin.finish(at_once=True)

    def answers(self) -> bool:
        probe = generator.Load([self.target], rate=10, seconds=0.3, long=0)
        try:
            self.warm_ids = probe.finish()["ok"]
            return self.warm_ids > 0 and probe.result["failed"] == 0
        finally:
            probe.close()


@scenario.full_only
class T12XrayBridge(_StockBridge):
    """Xray's bridge ends a tunnel that hears no control message for 60 s (spec/reverse.md 3.1): the old broker has to
    go on with them for as long as a drained tunnel carries somebody."""

    bridge_kind = "xray"
    limit_s = 400
    held_s = 150

    def test_portal_broker_replaced_once(self):
        self.start_stack()
        actions.need_broker_replacement(self.portal)
        self.first_has_left()
        it = self.load(500, seconds=self.held_s + 10)
        old, began = self.replace_once()
        while it.going_on(0.2):
            self.assertTrue(procfs.alive(old), "the old broker left those it had")
            time.sleep(0.2)
        self.assertGreaterEqual(time.monotonic() - began, self.held_s)
        self.expect(it)
        wait.until("the old broker has left", lambda: not procfs.alive(old), 70)
        self.finish(descriptors=False)


class T28Bulk(scenario.Scenario):
    """Bytes through 8 tunnels, every one compared, while reloads and replacements run. 10 GiB in the full form."""

    limit_s = 900
    streams = 16
    total = 10 << 30 if scenario.FULL else 256 << 20  # both ways together

    def test_bytes_are_equal(self):
        self.start_stack(bridge_extra={"bridges": {"bridge": {"minTunnels": 8}}})
        wait.until("8 tunnels", lambda: len(self.portal.tunnels()) >= 8, 10)
        actions.need_broker_replacement(self.portal)
        each = self.total // 2 // self.streams
        it, count = self.load(100, seconds=self.seconds, long=10, bulk_bytes=each, bulk_streams=self.streams), 0
        began = time.monotonic()
        while it.progress()["bulk"]["ok"] < self.streams and not it.progress()["bulk"]["failed"]:
            actions.good_reload(self.portal)
            if count % 3 == 0:
                actions.replace_broker(self.portal)
            count += 1
            self.assertLess(time.monotonic() - began, self.limit_s - 60)
        result = self.expect(it)
        self.assertEqual(result["bulk"]["failed"], 0, result["bulk"]["failures"])
        self.assertEqual(result["bulk"]["ok"], self.streams)
        self.finish(descriptors=False)

    @scenario.full_only
    def test_baseline_without_any_event(self):
        self.start_stack(bridge_extra={"bridges": {"bridge": {"minTunnels": 8}}})
        wait.until("8 tunnels", lambda: len(self.portal.tunnels()) >= 8, 10)
        it = self.load(100, seconds=2, long=10, bulk_bytes=(128 << 20) // self.streams, bulk_streams=self.streams)
        result = self.expect(it)
        self.assertEqual(result["bulk"]["failed"], 0, result["bulk"]["failures"])
        self.assertEqual(result["bulk"]["ok"], self.streams)
        self.finish()
