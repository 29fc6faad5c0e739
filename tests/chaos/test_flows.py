"""UDP flows: over reloads back to back (T32), and ten thousand of them at once, with V2Ray at either end a thousand."""

from ebbtest import case, datagrams, ports, procfs

from . import actions, generator, scenario


class T32Reloads(scenario.Scenario):
    """200 flows, half of them through the bridge, half served by the portal's workers."""

    flows, rate = 100, 10_000  # of each half: 100 datagrams a second and flow
    seconds = 12.0 if scenario.FULL else 4.0

    def test_back_to_back(self):
        self.make_stack()
        echo = generator.UdpOrigin(self.origin.port)
        self.addCleanup(echo.close)
        direct = ports.free_port()
        self.portal.configure(lambda config: self.open_udp(config, direct))
        self.start_services()
        actions.good_reload(self.portal)
        loads = [generator.FlowLoad(f"127.0.0.1:{port}", self.flows, self.rate * scenario.SCALE, self.seconds)
                 for port in (self.public, direct)]
        for load in loads:
            self.addCleanup(load.close)
        count = 0
        while all(load.running() for load in loads):
            actions.good_reload(self.portal)
            actions.good_reload(self.bridge)
            count += 1
        for name, result in zip(("through the bridge", "by the workers"), (load.finish() for load in loads)):
            lost = 1 - result["answered"] / result["sent"]
            print(f"| {name}: sent {result['sent']}, lost {lost:.4%}, {count} reloads of each end", flush=True)
            self.assertEqual((result["foreign"], result["doubled"]), (0, 0), result)
            self.assertLessEqual(lost, 0.001, result)
        self.assertGreaterEqual(count, 1 if scenario.ASAN else 3)  # each waits for four new workers, which are slow there
        self.finish(descriptors=False)  # the flows are idle, and stay for 120 s

    def open_udp(self, config: dict, direct: int) -> None:
        door = config["inbounds"][0]
        door["settings"]["network"] = "tcp,udp"
        config["inbounds"].append({**door, "tag": "direct", "port": direct})
        config["outbounds"] = [{"tag": "out", "protocol": "freedom"}]
        config["routing"]["rules"].insert(0, {"type": "field", "inboundTag": ["direct"], "outboundTag": "out"})


class Flows(datagrams.UdpPair, case.PairCase):
    """10,000 flows, 20,000 datagrams a second of both directions together: the table, every socket, one tunnel."""

    exclusive = True
    limit_s = 180
    flows, rate, seconds = 1000, 2000, 5

    def make_pair(self, *args, **options) -> None:
        super().make_pair(*args, **options)
        self.service.stop()
        self.origin = generator.UdpOrigin(self.web.port)
        self.addCleanup(self.origin.close)

    def carry(self, most_lost: float) -> dict:
        load = generator.FlowLoad(f"127.0.0.1:{self.public}", self.flows, self.rate, self.seconds)
        self.addCleanup(load.close)
        result = load.finish()
        self.assertGreater(result["sent"], 0)
        foreign = result["foreign"]
        lost = 1 - (result["answered"] + foreign) / result["sent"]
        print(f"{self.flows} flows, {2 * self.rate}/s: sent {result['sent']}, lost {lost:.4%}, foreign {foreign}")
        self.assertEqual((result["disordered"], result["doubled"]), (0, 0), result)
        self.assertLessEqual(foreign, self.foreign_at_most(result["sent"]), result)
        self.assertLessEqual(lost, most_lost, result)
        return result

    def foreign_at_most(self, sent: int) -> int:
        """How many answers may come to another flow without our doing."""
        return 0

    def test_a_thousand_flows(self):
        self.start_pair()
        self.carry(0.001)

    @case.nightly
    def test_ten_thousand_flows(self):
        self.flows, self.rate, self.seconds = 10_000, 10_000, 30
        self.start_pair()
        self.carry(0.001)
        # Beside the flows' sockets: a tunnel for 128 flows (kLighter times 16), and some twenty of a broker's own. When
        # flows counted like a stock portal's streams it was one for 16, so as many as a bridge may have: 256.
        for it in (self.portal, self.bridge):
            self.assertLessEqual(max(map(procfs.fd_count, it.role("broker"))), 10_000 + 200)


class FlowsToV2rayBridge(Flows):
    """A stock bridge dials one tunnel after the other: none of ours carries more than 256 streams to it."""

    bridge_kind = "v2ray"

    @case.nightly
    def test_a_thousand_flows(self):
        self.carry_a_thousand()

    def foreign_at_most(self, sent: int) -> int:
        """V2Ray sets SO_REUSEPORT on a flow's socket and binds it to port 0. Where all do, the kernel gives a port out
        twice (18 of 1,000 times, by the range's size), and one of those that share it gets the answers of all."""
        addresses = procfs.udp_addresses(self.bridge.pid)
        shared = len(addresses) - len(set(addresses))
        print(f"{len(addresses)} sockets of the bridge, {shared} at an address that another one has already")
        return shared * -(-sent // self.flows)

    def carry_a_thousand(self):
        self.rate = 500
        self.start_pair()
        self.carry(0.001)

    test_ten_thousand_flows = None


class FlowsFromV2rayPortal(FlowsToV2rayBridge):
    portal_kind, bridge_kind = "v2ray", "ours"
    foreign_at_most = Flows.foreign_at_most

    def test_a_thousand_flows(self):
        self.carry_a_thousand()
