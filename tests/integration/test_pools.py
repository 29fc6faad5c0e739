"""Several bridges of one portal, and several portals of one bridge. common/reverse/pool.h."""

import json
import socket
import unittest

from ebbtest import case, configs, ports, procfs, programs, service, visitors, wait

USERS = ["27848739-7e62-4138-9fd3-098a63964b6b", "5783a3e7-e373-51cd-8642-c83782b807c5"]


class PoolCase(case.ProgramCase):
    """self.portal, and self.bridges[i] with self.webs[i] behind it: each bridge is a user, each origin tells who served."""

    bridge_kinds = ("ours", "ours")

    def kinds(self) -> tuple:
        return ("ours", *self.bridge_kinds)

    def service(self, kind: str, name: str, config: dict) -> service.Service:
        it = service.Service(programs.implementation(kind), name, self.directory, config)
        self.programs.append(it)
        self.addCleanup(self._end, it)
        return it

    def make_pool(self, policy: str = "least", users=USERS) -> None:
        self.public, self.tunnel = ports.free_port(), ports.free_port()
        self.webs = [self.start_origin() for _ in self.bridge_kinds]
        portal = json.loads(configs.portal(self.public, self.tunnel, self.webs[0].port))
        portal["ebbgate"] = {"workers": 1, "portals": {"portal": {"policy": policy}}}
        portal["inbounds"][1]["settings"]["clients"] = [
            {"id": user, "email": f"bridge{i}@test"} for i, user in enumerate(dict.fromkeys(users))]
        self.portal = self.service("ours", "portal", portal)
        self.bridges = []
        for i, kind in enumerate(self.bridge_kinds):
            config = json.loads(configs.bridge(self.tunnel, self.webs[i].port))
            config["outbounds"][1]["settings"]["vnext"][0]["users"][0]["id"] = users[i]
            self.bridges.append(self.service(kind, f"bridge{i}", config))

    def start_pool(self, *arguments, **options) -> None:
        self.make_pool(*arguments, **options)
        self.start_made()

    def start_made(self) -> None:
        self.portal.start(listens=self.public)
        for it in self.bridges:
            it.start()
        self.await_bridges(len(self.bridges))
        visitors.fetch(self.public)

    def rows(self) -> list[dict]:
        return self.portal.status()["portals"][0]["bridges"]

    def await_bridges(self, count: int, seconds: float = 15) -> None:
        """That many serve, and have said who they are."""
        def settled():
            states = [t["state"] for t in self.portal.status()["portals"][0]["tunnels"]]
            return len(self.rows()) == count and states.count("active") >= count
        wait.until(f"{count} bridges are up\n{self.portal.tail(15)}", settled, seconds, step=0.1)

    def served(self, visits: int, parallel: int = 1) -> list[int]:
        """How many of so many visitors each bridge got; all of them must be served."""
        before = [len(web.visits) for web in self.webs]
        self.assertEqual(visitors.short_connections(self.public, visits, parallel), [])
        return [len(web.visits) - was for web, was in zip(self.webs, before)]

    def fetch_from(self, address: str) -> int:
        """A visitor with that address; the bridge who served him."""
        before = [len(web.visits) for web in self.webs]
        with socket.create_connection(("127.0.0.1", self.public), visitors.TIMEOUT, (address, 0)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            self.assertTrue(sock.recv(65536).startswith(b"HTTP/1.1 200"))
        return [len(web.visits) - was for web, was in zip(self.webs, before)].index(1)


@case.beyond_v2ray
class Shares(PoolCase):
    def test_two_equal_bridges_share_evenly(self):
        for policy in ("least", "roundrobin"):
            with self.subTest(policy=policy):
                self.start_pool(policy)
                for got in (self.served(100), self.served(100, parallel=10)):
                    self.assertTrue(all(40 <= each <= 60 for each in got), got)
                self.assertEqual(self.portal.stop(), 0)
                for it in self.bridges:
                    it.stop()

    def test_a_bridge_with_three_shares(self):
        """And back to one share by a reload of the bridge, on the tunnels that are there."""
        self.make_pool("roundrobin")
        self.heavy_first()
        got = self.served(200)
        self.assertTrue(145 <= got[0] <= 155, got)
        self.bridges[0].configure(lambda c: c.update(ebbgate={}))
        self.assertEqual(self.bridges[0].ctl("reload", "--wait").returncode, 0)
        wait.until("the portal knows", lambda: 45 <= self.served(100)[0] <= 55, 10, step=0.1)

    def test_visitors_who_stay_with_a_bridge_of_three_shares(self):
        self.make_pool("least")
        self.heavy_first()
        for _ in range(80):
            self.open_echo(self.public).exchange()
        held = [row["streams"] for row in self.rows()]
        self.assertTrue(55 <= held[0] <= 65, held)

    def heavy_first(self) -> None:
        self.bridges[0].configure(lambda c: c.update(ebbgate={"bridges": {"bridge": {"weight": 3}}}))
        self.start_made()

    def test_visitors_who_stay_are_shared_evenly(self):
        self.start_pool()
        streams = []
        for _ in range(100):  # each is answered: who has yet to show that he reaches the origin gets few at once
            streams.append(self.open_echo(self.public))
            streams[-1].exchange()
        held = [row["streams"] for row in self.rows()]
        self.assertEqual(sum(held), 100)
        self.assertTrue(all(45 <= each <= 55 for each in held), held)

    def test_bridges_of_one_user_are_two(self):
        self.start_pool(users=[USERS[0], USERS[0]])
        got = self.served(100)
        self.assertTrue(all(40 <= each <= 60 for each in got), got)

    def test_status_shows_the_bridges(self):
        self.start_pool("roundrobin")
        self.served(40)
        portal = self.portal.status()["portals"][0]
        self.assertEqual(portal["policy"], "roundrobin")
        self.assertEqual([row["user"] for row in portal["bridges"]], ["bridge0@test", "bridge1@test"])
        for row in portal["bridges"]:
            self.assertEqual(row["health"], "good")
            self.assertEqual(row["tunnels"], 1)
            self.assertTrue(45 <= row["share_percent"] <= 55, row)
        text = self.portal.ctl("status").stdout
        self.assertIn("policy roundrobin", text)
        self.assertIn("bridge1@test", text)


@case.beyond_v2ray
class Order(PoolCase):
    def test_the_first_user_of_the_file_is_the_primary(self):
        self.make_pool("order")
        self.portal.start(listens=self.public)
        self.bridges[1].start()
        self.await_bridges(1)
        self.assertEqual(self.served(10), [0, 10])
        self.bridges[0].start()
        self.await_bridges(2)
        self.assertEqual(self.served(10), [10, 0])
        self.bridges[0].kill()
        wait.until("it is missed", lambda: len(self.rows()) == 1, 5, step=0.05)
        self.assertEqual(self.served(10), [0, 10])
        self.bridges[0].start()
        self.await_bridges(2)
        self.assertEqual(self.served(10), [10, 0])

    def test_the_order_of_the_file_may_change(self):
        self.start_pool("order")
        self.assertEqual(self.served(5), [5, 0])
        self.portal.configure(lambda c: c["inbounds"][1]["settings"]["clients"].reverse())
        self.assertEqual(self.portal.ctl("reload", "--wait").returncode, 0)
        self.assertEqual(self.served(5), [0, 5])


@case.beyond_v2ray
class Hash(PoolCase):
    ADDRESSES = [f"127.0.1.{i}" for i in range(1, 25)]

    def test_a_visitor_keeps_his_bridge_over_its_restart(self):
        self.start_pool("hash")
        before = [self.fetch_from(address) for address in self.ADDRESSES]
        self.assertEqual(set(before), {0, 1})
        self.assertEqual([self.fetch_from(address) for address in self.ADDRESSES], before)
        self.bridges[0].kill()
        wait.until("it is missed", lambda: len(self.rows()) == 1, 5, step=0.05)
        self.assertEqual({self.fetch_from(address) for address in self.ADDRESSES}, {1})
        self.bridges[0].start()
        self.await_bridges(2)
        self.assertEqual([self.fetch_from(address) for address in self.ADDRESSES], before)


class DeadService(PoolCase):
    """One of two bridges has lost the service behind it."""

    most_failures = 1  # our bridge says so itself

    def failures(self, count: int) -> int:
        return sum(not visitors.fetches(self.public, 5) for _ in range(count))

    def check(self) -> None:
        self.webs[1].refuse()
        self.assertLessEqual(self.failures(20), self.most_failures)
        row = self.rows()[1]
        self.assertEqual((row["health"], row["failing_targets"]), ("failing", 1))
        self.assertIn("failing for 1 target", self.portal.ctl("status").stdout)
        self.webs[1].start()
        before = len(self.webs[1].visits)

        def back():
            self.assertTrue(visitors.fetches(self.public, 5))
            return len(self.webs[1].visits) > before + 1
        wait.until("it is taken back", back, 25, step=0.1)

    @case.beyond_v2ray
    def test_it_was_served_before(self):
        self.start_pool()
        self.served(10)
        self.check()

    @case.beyond_v2ray
    def test_it_was_never_served(self):
        self.make_pool()
        self.webs[1].refuse()
        self.portal.start(listens=self.public)
        for it in self.bridges:
            it.start()
        self.await_bridges(2)
        self.check()

    @case.beyond_v2ray
    def test_where_all_fail_nobody_is_avoided(self):
        self.start_pool()
        for web in self.webs:
            web.refuse()
        self.assertEqual(self.failures(4), 4)
        for web in self.webs:
            web.start()
        got = self.served(20)
        self.assertEqual(sum(got), 20)


@case.beyond_v2ray
class ResettingService(PoolCase):
    """The origins reset visitors before a byte of answer: they were reached."""

    def test_their_bridges_are_not_avoided(self):
        self.start_pool("roundrobin")
        self.served(10)
        before = [len(web.visits) for web in self.webs]
        for _ in range(20):
            sock = self.connect(self.public)
            sock.sendall(b"RST 0\n")
            self.assertEqual(visitors.ending(sock, 5), "rst")
        self.assertEqual([len(web.visits) - was for web, was in zip(self.webs, before)], [10, 10])
        self.assertEqual([row["health"] for row in self.rows()], ["good", "good"])
        self.assertIn("the other end reset the connection", self.portal.log())


@unittest.skipUnless(procfs.os.access(programs.V2RAY, procfs.os.X_OK), "needs a V2Ray")
class DeadServiceOfAStockBridge(DeadService):
    bridge_kinds = ("ours", "v2ray")
    most_failures = 2


@case.beyond_v2ray
class SeveralPortals(case.ProgramCase):
    def test_one_bridge_serves_two_portals(self):
        webs = [self.start_origin() for _ in range(2)]
        publics = [ports.free_port() for _ in webs]
        tunnels = [ports.free_port() for _ in webs]
        bridge = {"log": {"loglevel": "info"}, "reverse": {"bridges": []}, "outbounds": [], "routing": {"rules": []}}
        for i, web in enumerate(webs):
            text = configs.portal(publics[i], tunnels[i], web.port).replace("tunnel.test", f"tunnel{i}.test")
            self.program("ours", f"portal{i}", text).start(listens=publics[i])
            one = json.loads(configs.bridge(tunnels[i], web.port).replace("tunnel.test", f"tunnel{i}.test"))
            tag = f"bridge{i}"
            bridge["reverse"]["bridges"].append({"tag": tag, "domain": f"tunnel{i}.test"})
            for outbound in one["outbounds"]:
                bridge["outbounds"].append({**outbound, "tag": f"{outbound['tag']}{i}"})
            for rule in one["routing"]["rules"]:
                bridge["routing"]["rules"].append(
                    {**rule, "inboundTag": [tag], "outboundTag": f"{rule['outboundTag']}{i}"})
        self.program("ours", "bridge", json.dumps(bridge)).start()
        for public in publics:
            wait.until("it serves", lambda: visitors.fetches(public), 10, step=0.05)
        before = [len(web.visits) for web in webs]
        for _ in range(5):
            visitors.fetch(publics[0])
        self.assertEqual([len(web.visits) - was for web, was in zip(webs, before)], [5, 0])
        self.assertEqual(visitors.download(publics[1], 1 << 20), visitors.pattern.sha256(1 << 20))


if __name__ == "__main__":
    unittest.main()
