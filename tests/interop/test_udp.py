"""UDP through dokodemo-door, portal, bridge and freedom: spec/reverse.md 11, A15 and B10, and the same with our own."""

from ebbtest import case, datagrams, visitors, wait


class UdpBase(datagrams.UdpPair, case.PairCase):
    largest = 2048  # bytes a datagram may have between these two
    service_cuts = False  # a stock bridge reads at most 2048 bytes of an answer

    def exchange_sizes(self) -> None:
        client = self.client()
        for size in (1, 512, self.largest):
            question = bytes([size % 251]) * size
            self.assertEqual(client.ask_until(question), question, f"{size} bytes")
            answer = client.ask_until(b"give %d" % size)
            while answer is not None and len(answer) != size:  # an echo asked for twice
                answer = client.receive(2)
            self.assertIsNotNone(answer, f"an answer of {size} bytes")

    def flows_before_the_bridge_is_known(self) -> None:
        """They wait in the kernel, and begin with the first tunnel. Their New tells our own who asks."""
        self.make_pair()
        self.start_portal()
        clients = [self.client() for _ in range(5)]
        for i, client in enumerate(clients):
            client.send(b"early %d" % i)
        self.bridge.start()
        for i, client in enumerate(clients):
            self.assertEqual(client.receive(15), b"early %d" % i)
            self.assertEqual(client.ask(b"more"), b"more")
        self.assertEqual(len(self.service.peers), len(clients))

    def survives_a_larger_one(self) -> None:
        client = self.client()
        client.ask_until(b"before")
        links = len(self.tap.alive())
        client.send(bytes(2049))
        self.assertEqual(client.ask_until(b"after"), b"after")
        self.assertLessEqual(self.service.largest, self.largest)
        if not self.service_cuts:
            client.send(b"give 2049")
            self.assertEqual(client.ask_until(b"then"), b"then")
        self.assertGreater(len(visitors.fetch(self.public)), 0)
        self.assertEqual(len(self.tap.alive()), links, "no tunnel was lost")
        self.assertEqual(len(self.tap.links), links, "and none was dialled in its place")

    def do_not_mix(self, count: int) -> None:
        clients = [self.client() for _ in range(count)]
        for i, client in enumerate(clients):
            self.assertEqual(client.ask_until(b"hello %d" % i), b"hello %d" % i)
        for turn in range(10):
            for i, client in enumerate(clients):
                client.send(b"%d/%d" % (i, turn))
            for i, client in enumerate(clients):
                answer = client.receive()
                while answer is not None and answer.startswith(b"hello"):
                    answer = client.receive()  # asked twice for the first answer
                self.assertEqual(answer, b"%d/%d" % (i, turn))
        self.assertGreaterEqual(len(self.service.peers), count)


class OursWithV2rayBridge(UdpBase):
    bridge_kind = "v2ray"
    service_cuts = True

    def test_A15_sizes(self):
        self.start_pair()
        self.exchange_sizes()

    def test_A15_a_larger_one_is_dropped_and_the_tunnel_survives(self):
        self.start_pair(tapped=True)
        self.survives_a_larger_one()

    def test_A15_clients_do_not_mix(self):
        self.start_pair()
        self.do_not_mix(20)

    @case.beyond_v2ray
    def test_flows_before_the_bridge_is_known(self):
        self.flows_before_the_bridge_is_known()


class OursWithV2flyBridge(UdpBase):
    bridge_kind = "v2fly"

    @case.beyond_v2ray
    def test_flows_before_the_bridge_is_known(self):
        self.flows_before_the_bridge_is_known()


class OursWithXrayBridge(OursWithV2flyBridge):
    bridge_kind = "xray"


class OursWithV2rayPortal(UdpBase):
    portal_kind = "v2ray"

    def test_B10_sizes(self):
        self.start_pair()
        self.exchange_sizes()

    def test_B10_a_larger_answer_is_dropped_and_the_tunnel_survives(self):
        self.start_pair(tapped=True)
        client = self.client()
        client.ask_until(b"before")
        links = len(self.tap.alive())
        client.send(b"give 2049")
        self.assertEqual(client.ask_until(b"after"), b"after")
        self.assertEqual(len(self.tap.alive()), links)
        self.assertGreater(len(visitors.fetch(self.public)), 0)

    def test_B10_clients_do_not_mix(self):
        self.start_pair()
        self.do_not_mix(20)


class OurPair(UdpBase):
    largest = 60000

    @case.beyond_v2ray
    def test_large_datagrams_between_our_own(self):
        self.start_pair()
        self.exchange_sizes()

    def test_clients_do_not_mix(self):
        self.start_pair()
        self.do_not_mix(50)

    @case.beyond_v2ray
    def test_flows_before_the_bridge_is_known(self):
        self.flows_before_the_bridge_is_known()

    @case.beyond_v2ray
    def test_a_flow_survives_a_tunnel(self):
        """Its tunnel is gone: the next datagram finds another one, as a new flow."""
        self.start_pair(tapped=True)
        client = self.client()
        client.ask_until(b"before")
        for link in self.tap.alive():
            link.cut()
        self.assertEqual(client.ask_until(b"after", 15), b"after")

    def test_udp_alone(self):
        self.network = "udp"
        self.make_pair()
        self.portal.start()
        self.bridge.start()
        self.assertEqual(self.client().ask_until(b"hello", 15), b"hello")
        with self.assertRaises(OSError):
            visitors.connect(self.public)

    def test_every_datagram_arrives_in_order(self):
        self.start_pair()
        client = self.client()
        client.ask_until(b"first")
        while client.receive(0.3) is not None:
            pass
        for start in range(0, 2000, 100):
            for i in range(start, start + 100):
                client.send(b"%d" % i)
            for i in range(start, start + 100):
                self.assertEqual(client.receive(), b"%d" % i)
        wait.until("all were seen", lambda: self.service.received >= 2001, 5)
