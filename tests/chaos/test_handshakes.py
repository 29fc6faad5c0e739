"""Handshakes cut into bytes while generations change (T23), and replays (T24)."""

import json
import os
import signal
import socket
import time

from ebbtest import configs, ports, procfs, tap, wait

from . import actions, generator, scenario

GUEST = "6d1a7d0c-9a3c-4d0e-8f0e-0b6b8c1c2f11"


class T23Pieces(scenario.Scenario):
    """visitors -> client (dokodemo-door, VMess out) -> one byte at a time -> portal (VMess in) == bridge -> origin."""

    def start_with_client(self) -> None:
        self.make_stack()
        guests, chopped, door = (ports.free_port() for _ in range(3))
        portal = self.portal.config
        portal["inbounds"].append({"tag": "guests", "listen": "127.0.0.1", "port": guests, "protocol": "vmess",
                                   "settings": {"clients": [{"id": GUEST}]}})
        portal["routing"]["rules"].append({"type": "field", "inboundTag": ["guests"], "outboundTag": "portal"})
        self.portal.configure()
        chopper = generator.Chopper(chopped, f"127.0.0.1:{guests}")
        self.addCleanup(chopper.close)
        self.client = self.add_service("ours", "client", {
            "log": {"loglevel": "warning", "access": "none"},
            "inbounds": [{"tag": "door", "listen": "127.0.0.1", "port": door, "protocol": "dokodemo-door",
                          "settings": {"address": "127.0.0.1", "port": self.origin.port, "network": "tcp"}}],
            "outbounds": [{"tag": "out", "protocol": "vmess", "settings": {"vnext": [
                {"address": "127.0.0.1", "port": chopped, "users": [{"id": GUEST, "security": "aes-128-gcm"}]}]}}],
            "ebbgate": {"workers": 1, "timers": dict(scenario.QUICK)}})
        self.client.start(listens=door)
        self.target = f"127.0.0.1:{door}"
        self.start_services()

    @scenario.full_only
    def test_vmess_visitors(self):
        self.start_with_client()
        result = self.expect(self.load(300))
        self.assertGreater(result["p50_us"], 50_000, "their bytes came one by one")
        self.finish()

    def test_vmess_visitors_while_reloading(self):
        self.start_with_client()
        actions.good_reload(self.portal)
        it, count = self.load(300), 0
        while it.going_on():
            actions.good_reload(self.portal)
            count += 1
        self.note(f"{count} reloads")
        self.expect(it)
        self.finish()


class T24Replays(scenario.Scenario):
    """One captured VMess opening is served once: whichever worker gets it again says nothing."""

    def capture(self) -> bytes:
        """The first bytes of a real tunnel, which was accepted: the portal answered."""
        between = tap.Tap(self.tunnel)
        self.addCleanup(between.stop)
        spy = self.add_service("ours", "spy", {**json.loads(configs.bridge(between.port, self.origin.port)),
                                               "ebbgate": {"timers": dict(scenario.QUICK)}})
        # After an upgrade the bridge's own may still be under way to the new broker.
        before = wait.until("the bridge's tunnel is there", lambda: len(self.portal.tunnels()), 10)
        spy.start()
        link = wait.until("a tunnel that was answered",
                          lambda: next((x for x in between.links if x.total(tap.DOWN) > 0), None), 10)
        opening = bytes(link.opening)
        spy.stop()
        self.services.remove(spy)
        wait.until("the portal has forgotten it", lambda: len(self.portal.tunnels()) <= before, 5)
        self.assertGreater(len(opening), 60)
        return opening

    def replay(self, opening: bytes, times: int = 64) -> None:
        """From many addresses, so that every slot and worker gets some; nobody may be answered."""
        sockets = []
        for i in range(times):
            sock = socket.socket()
            self.addCleanup(sock.close)
            sock.bind((f"127.77.{i}.1", 0))
            sock.connect(("127.0.0.1", self.tunnel))
            sock.sendall(opening)
            sock.setblocking(False)
            sockets.append(sock)
        deadline, answered = time.monotonic() + 1.5, 0
        while sockets and time.monotonic() < deadline:
            for sock in list(sockets):
                try:
                    answered += bool(sock.recv(100))
                    sockets.remove(sock)
                except BlockingIOError:
                    continue
                except OSError:
                    sockets.remove(sock)
            time.sleep(0.02)
        for sock in sockets:
            sock.close()
        self.replays += times
        self.assertEqual(answered, 0, f"{answered} of {times} replays were answered")

    def setUp(self):
        super().setUp()
        self.replays = 0
        self.make_stack()
        self.portal.own_binary()
        self.start_services()

    def done(self, it) -> None:
        self.note(f"{self.replays} replays, none accepted")
        self.expect(it)
        self.finish(descriptors=False)

    def test_to_every_worker(self):
        opening = self.capture()
        it = self.load(1000)
        self.replay(opening)
        self.done(it)

    @scenario.full_only
    def test_after_all_workers_were_killed(self):
        opening = self.capture()
        it = self.load(1000, long=0)
        old = self.portal.role("worker")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait.until("new workers", lambda: len(set(self.portal.role("worker")) - set(old)) == self.workers, 5)
        self.replay(opening)
        self.note(f"{self.replays} replays, none accepted")
        self.expect(it, lost=len(old))
        self.finish(descriptors=False)

    def test_across_a_reload(self):
        actions.good_reload(self.portal)
        opening = self.capture()
        it = self.load(1000)
        actions.good_reload(self.portal)
        self.replay(opening)
        self.done(it)

    def test_across_an_upgrade(self):
        actions.good_upgrade(self.portal)
        opening = self.capture()
        it = self.load(1000)
        actions.good_upgrade(self.portal)
        self.replay(opening)
        self.done(it)

    def test_across_an_adoption(self):
        actions.need_adoption(self.portal)
        opening = self.capture()
        it = self.load(1000)
        actions.kill_supervisor(self.portal)
        actions.restart_supervisor(self.portal)
        self.replay(opening)
        self.done(it)

    @scenario.full_only
    def test_across_an_adoption_with_new_workers_and_broker(self):
        actions.need_adoption(self.portal)
        opening = self.capture()
        actions.kill_supervisor(self.portal, with_workers=True)
        actions.restart_supervisor(self.portal)
        actions.replace_broker(self.portal)
        wait.until("the adopted ones have left", lambda: len(self.portal.role("broker")) == 1, 20)
        self.assertTrue(procfs.alive(self.portal.main()))
        it = self.load(1000)
        self.replay(opening)
        self.done(it)
