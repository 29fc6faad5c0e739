"""Nothing happens (T01), somebody waits for a bridge (T27), and the proof that losses are seen (self-test)."""

import json
import time

from ebbtest import ports, wait

from . import generator, scenario


class T01Baseline(scenario.Scenario):
    def test_nothing_happens(self):
        self.start_stack()
        result = self.expect(self.load(4000))
        self.assertEqual(result["bad_ends"], {})
        self.assertEqual(self.origin.progress()["ids"], result["ok"] + self.warm_ids)
        self.finish()


class SelfTestNaive(scenario.Scenario):
    """A server that restarts as most do: if no loss is seen here, none would be seen anywhere."""

    def test_losses_are_seen(self):
        port = ports.free_port()
        naive = generator.Naive(port)
        self.addCleanup(naive.close)
        it = self.load(4000, targets=[f"127.0.0.1:{port}"])
        result = it.finish()
        self.note(f"{naive.generations()} generations")
        self.say(it, result, result["failed"])
        self.assertGreater(result["failed"], 0, "the harness is blind")
        self.assertGreater(result["by_kind"].get("reset", 0), 0)


class T25Direct(scenario.Scenario):
    """dokodemo-door -> freedom: carried by the workers themselves."""

    def make_direct(self, open_files: int = 0, **settings) -> None:
        self.origin = generator.Origin(ports.free_port())
        self.addCleanup(self.origin.close)
        self.public = ports.free_port()
        self.target = f"127.0.0.1:{self.public}"
        self.portal = self.add_service("ours", "portal", {
            "log": {"loglevel": "warning", "access": "none"},
            "inbounds": [{"tag": "door", "listen": "127.0.0.1", "port": self.public, "protocol": "dokodemo-door",
                          "settings": {"address": "127.0.0.1", "port": self.origin.port, "network": "tcp"}}],
            "outbounds": [{"tag": "out", "protocol": "freedom"}],
            "ebbgate": {"workers": self.workers, "timers": dict(scenario.QUICK), **settings}}, open_files)
        self.portal.start(listens=self.public)
        warm = generator.Load([self.target], rate=100, seconds=0.3, long=0)
        self.addCleanup(warm.close)
        self.assertEqual(warm.finish()["failed"], 0, self.portal.tail())
        self.before = {"portal": self.portal.descriptors()}

    @scenario.full_only
    def test_baseline(self):
        self.make_direct()
        result = self.expect(self.load(2000))
        self.assertEqual(result["bad_ends"], {})
        self.finish()


class T27NoBridgeYet(scenario.Scenario):
    def test_visitors_wait_for_the_first_tunnel(self):
        self.make_stack()
        self.portal.start(listens=self.public)
        it = generator.Load([self.target], rate=200, seconds=max(self.seconds, 5), long=0)
        self.addCleanup(it.close)
        time.sleep(3)  # the scenario's own measure: visitors wait up to 5 s
        self.assertEqual(it.progress()["ok"], 0)
        self.bridge.start()
        result = self.expect(it)
        self.assertGreater(result["slowest_ms"], 2000)
        self.finish(descriptors=False)

    @scenario.full_only
    def test_visitors_are_closed_after_the_wait(self):
        """Nobody comes: closed after tunnelWait, 5 s, not before, and none hangs."""
        self.make_stack()
        self.portal.start(listens=self.public)
        it = generator.Load([self.target], rate=50, seconds=2, long=0)
        self.addCleanup(it.close)
        result = it.finish()
        self.say(it, result, result["failed"])
        self.assertEqual(result["ok"], 0)
        self.assertEqual(result["by_kind"].get("timeout", 0), 0, json.dumps(result["failures"][:5]))
        waited = [f["took_us"] / 1e6 for f in result["failures"]]
        self.assertGreater(min(waited), 4.9)
        self.assertLess(max(waited), 6.5)
        wait.until("nothing is kept",
                   lambda: all(p.get("connections", 0) == 0 for p in self.portal.status()["processes"]), 5)
        self.finish(descriptors=False)
