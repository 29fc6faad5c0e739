"""A process of ours dies. spec/processes.md 1: what may be lost, and what may not."""

import os
import signal
import time
import unittest

from ebbtest import case, procfs, tap, visitors, wait

AT_ONCE = {"ebbgate": {"timers": {"respawnBackoff": 0}}}  # or the sixth kill in 10 s would pause for a second


@case.beyond_v2ray
class WorkerKilled(case.PairCase):
    exclusive = True
    kills = 20

    def test_nothing_that_was_handed_over_is_lost(self):
        """New visitors: at most the one a worker held between accept and handing over (2 in 1,583 kills measured)."""
        self.start_pair(portal_extra=AT_ONCE)
        streams = [self.open_echo(self.public) for _ in range(20)]
        for stream in streams:
            stream.exchange()
        with visitors.Load(self.public, rate=200) as load:
            for kill in range(self.kills):
                wait.until("visitors come through", lambda: load.done >= 20 * kill, 10)
                worker = wait.until("a worker", lambda: self.portal.role("worker"), 5)[0]
                os.kill(worker, signal.SIGKILL)
                wait.until("it is replaced", lambda: worker not in self.portal.role("worker") and
                           self.portal.role("worker"), 5)
                for stream in streams:
                    self.assertLess(stream.exchange(), 5)
        self.assertLessEqual(len(load.failures), 1, load.failures)
        self.assertTrue(self.portal.running())

    def test_all_workers_at_once(self):
        """Clients wait in the queue until a new worker takes them."""
        self.start_pair(portal_extra=AT_ONCE)
        old = self.portal.role("worker")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        visitors.fetch(self.public)
        self.assertFalse(set(old) & set(self.portal.role("worker")))


@case.beyond_v2ray
class BrokerKilled(case.PairCase):
    recovery_s = 5

    def kill_broker(self, program) -> float:
        broker = wait.until("a broker", lambda: program.role("broker"), 5)[0]
        os.kill(broker, signal.SIGKILL)
        return time.monotonic()

    def test_of_the_portal(self):
        self.make_pair()
        self.recovers(self.portal)

    def test_of_the_bridge(self):
        self.make_pair()
        self.recovers(self.bridge)

    def recovers(self, program) -> None:
        self.start_portal()
        self.bridge.start()
        self.await_service(10)
        stream = self.open_echo(self.public)
        stream.exchange()
        killed = self.kill_broker(program)
        self.assertIn(visitors.ending(stream.sock, 2), ("rst", "fin"), "its streams end, they do not hang")
        self.await_service(killed + self.recovery_s - time.monotonic())
        self.assertEqual(visitors.short_connections(self.public, 50, 5), [])

    def test_visitors_that_come_meanwhile_wait(self):
        """At the portal: new ones lose nothing, they wait up to 5 s for a tunnel."""
        self.start_pair()
        self.kill_broker(self.portal)
        self.assertEqual(visitors.short_connections(self.public, 20, 20), [])


@case.beyond_v2ray
class BrokerKilledV2RayBridge(case.PairCase):
    bridge_kind = "v2ray"

    def test_v2ray_dials_again(self):
        self.start_pair()
        os.kill(self.portal.role("broker")[0], signal.SIGKILL)
        self.await_service(5)


@case.beyond_v2ray
class BrokerKilledV2RayPortal(case.PairCase):
    portal_kind = "v2ray"
    limit_s = 150

    def test_tunnel_is_up_again_at_once(self):
        """V2Ray's portal keeps the dead tunnel in its list for up to 30 s (spec/reverse.md 4.3): visitors may fail so long."""
        self.start_pair(tapped=True)
        os.kill(self.bridge.role("broker")[0], signal.SIGKILL)
        link = wait.until("a new tunnel", lambda: len(self.tap.links) > 1 and self.tap.links[-1], 5)
        wait.until("V2Ray's heartbeats on it", lambda: len(link.times(tap.DOWN)) >= 2, 5)
        self.await_service(31)


@case.beyond_v2ray
class TunnelCut(case.PairCase):
    def test_path_breaks(self):
        self.start_pair(tapped=True)
        for _ in range(3):
            stream = self.open_echo(self.public)
            stream.exchange()
            for link in self.tap.alive():
                link.cut()
            self.assertIn(visitors.ending(stream.sock, 2), ("rst", "fin"))
            self.await_service(3)
        self.assertEqual([p for p in (self.portal, self.bridge) if not p.running()], [])

    def test_bridge_host_vanishes(self):
        """Stopped, not closed: the portal notices by the unanswered ping (three times 5 s) and resets the streams."""
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        stopped = self.bridge.tree()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            self.assertIn(visitors.ending(stream.sock, 30), ("rst", "fin"))
        finally:
            for pid in stopped:
                if procfs.alive(pid):
                    os.kill(pid, signal.SIGCONT)
        self.await_service(10)


if __name__ == "__main__":
    unittest.main()
