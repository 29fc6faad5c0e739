"""Flows of UDP over what an operator does, at their bound, and when nobody sends: spec/processes.md 3.6."""

import json
import resource

from ebbtest import case, datagrams, operated, ports, visitors, wait


@case.beyond_v2ray
class Operations(datagrams.UdpPair, operated.Operated):
    def test_flows_survive_a_reload_and_a_resize(self):
        """The same socket at the origin before and after: no flow began anew, and no datagram was lost."""
        self.start_operated()
        clients = [self.client() for _ in range(20)]
        for client in clients:
            client.ask_until(b"hello")
        peers = set(self.service.peers)
        for workers in (2, 3, 1):
            self.config["ebbgate"]["workers"] = workers
            self.reload()
            for turn in range(10):
                for client in clients:
                    client.send(b"turn %d" % turn)
                for client in clients:
                    answer = client.receive()
                    while answer == b"hello":
                        answer = client.receive()
                    self.assertEqual(answer, b"turn %d" % turn)
            self.settled()
        self.assertEqual(self.service.peers, peers)

    def test_a_reload_opens_and_closes_udp(self):
        self.network = "tcp"
        self.start_operated()
        client = self.client()
        self.assertIsNone(client.ask(b"too early", 0.3))
        for _ in range(2):
            self.config["inbounds"][0]["settings"]["network"] = "tcp,udp"
            self.reload()
            self.assertEqual(client.ask_until(b"open"), b"open")
            self.settled()
            self.config["inbounds"][0]["settings"]["network"] = "tcp"
            self.reload()
            self.settled()
            while client.receive(0.2) is not None:
                pass  # asked twice
            self.assertIsNone(client.ask(b"closed", 0.3))
            self.assertGreater(len(visitors.fetch(self.public)), 0)

    def test_another_target_is_in_force_at_once(self):
        """A flow may never be idle: it must not keep the old target."""
        self.start_operated()
        other = datagrams.Service(0)
        self.addCleanup(other.stop)
        self.bridge.config["outbounds"][0]["settings"] = {}
        self.bridge.configure()
        self.ctl("reload", "--wait", of=self.bridge)
        client = self.client()
        client.ask_until(b"old")
        before = self.service.received
        self.config["inbounds"][0]["settings"]["port"] = other.socket.getsockname()[1]
        self.reload()
        client.ask_until(b"new")
        self.assertGreater(other.received, 0)
        self.assertEqual(self.service.received, before)

    def test_an_upgrade_takes_the_address_along(self):
        self.start_operated()
        client = self.client()
        client.ask_until(b"before")
        for _ in range(2):
            self.ctl("upgrade", "--wait")
            self.assertEqual(client.ask_until(b"after", 15), b"after")


@case.beyond_v2ray
class Bounds(datagrams.UdpPair, case.PairCase):
    def test_idle_flows_end_and_begin_anew(self):
        self.start_pair(portal_extra={"ebbgate": {"timers": {"udpIdle": "1s"}}})  # 120 s by default: the test's patience
        client = self.client()
        client.ask_until(b"one")
        first = set(self.service.peers)
        wait.until("an idle flow begins anew", lambda: client.receive(2.5) is None and
                   client.ask_until(b"two") and self.service.peers - first, 20)

    def test_the_oldest_flow_leaves_a_full_table(self):
        """Half of the descriptors are for flows: with 1024, the 513th takes the place of the first."""
        self.make_pair()
        self.portal._limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        self.start_portal()
        self.bridge.start()
        self.await_service(10)
        first = self.client()
        first.ask_until(b"first")
        began = self.service.last
        for i in range(600):
            client = datagrams.Client(self.public)
            self.assertEqual(client.ask_until(b"%d" % i), b"%d" % i)
            client.close()
        self.assertEqual(first.ask_until(b"again"), b"again")
        # Not a peer nobody has been before: the kernel gives the ports of flows that left to others.
        self.assertNotEqual(self.service.last, began, "the first one's flow had left, and began anew")

    def test_a_port_in_use_is_named_with_its_holder(self):
        self.make_pair()
        with open(self.portal.config_path, encoding="utf-8") as f:
            config = json.load(f)
        config["inbounds"][0]["port"] = self.web.port  # the service's UDP port
        config["inbounds"][0]["settings"]["network"] = "udp"
        with open(self.portal.config_path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.portal.start()
        self.assertEqual(self.portal.exit_status(10), 1)
        self.assertIn(f"udp 127.0.0.1:{self.web.port}: the port is in use by process", self.portal.log())
