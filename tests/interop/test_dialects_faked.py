"""Bridges of every dialect in one pool of our portal, at the same time; those no package has are told apart by fakes.

With the real programs: test_dialects.py."""

import json
import unittest

from ebbtest import case, configs, fake_bridge, ports, programs, service, visitors, wait


class DialectCase(case.ProgramCase):
    def kinds(self) -> tuple:
        return ("ours", "v2ray")

    def start_pool(self) -> None:
        public, tunnel, plain = (ports.free_port() for _ in range(3))
        self.public = public
        self.webs = {name: self.start_origin() for name in ("ebbgate", "v2ray", "v2fly", "xray")}
        portal = json.loads(configs.portal(public, tunnel, self.webs["v2ray"].port))
        portal["inbounds"].append(
            {"tag": "plain", "listen": "127.0.0.1", "port": plain, "protocol": "dokodemo-door",
             "settings": {"address": "tunnel.test", "port": 1, "network": "tcp"}})
        portal["routing"]["rules"].append({"type": "field", "inboundTag": ["plain"], "outboundTag": "portal"})
        portal["ebbgate"] = {"portals": {"portal": {"policy": "roundrobin"}}}
        self.portal = service.Service("ours", "portal", self.directory, portal)
        self.programs.append(self.portal)
        self.addCleanup(self._end, self.portal)
        self.portal.start(listens=public)
        for kind, name in (("ours", "ebbgate"), ("v2ray", "v2ray")):
            self.program(kind, f"bridge-{name}", configs.bridge(tunnel, self.webs[name].port)).start()
        self.fakes = {}
        for name, address in (("v2fly", "127.0.2.1"), ("xray", "127.0.2.2")):
            self.fakes[name] = fake_bridge.FakeBridge(plain, self.webs[name].port, name, address)
            self.addCleanup(self.fakes[name].close)

    def dialects(self) -> set:
        return {t["dialect"] for t in self.portal.status()["portals"][0]["tunnels"] if t["state"] == "active"}


@case.beyond_v2ray
class Dialects(DialectCase):
    def test_C1_all_serve_in_one_pool(self):
        self.start_pool()
        wait.until(f"each dialect is known\n{self.portal.tail(15)}",
                   lambda: self.dialects() == {"ebbgate", "v2ray", "v2fly", "xray"}, 20, step=0.1)
        before = {name: len(web.visits) for name, web in self.webs.items()}
        self.assertEqual(visitors.short_connections(self.public, 80, 4), [])
        got = {name: len(web.visits) - before[name] for name, web in self.webs.items()}
        self.assertTrue(all(got.values()), got)
        for name, fake in self.fakes.items():
            beats = fake.beats
            wait.until(f"the {name} bridge is told under its own name", lambda: fake.beats > beats, 15)
            self.assertTrue(fake.alive())


@case.beyond_v2ray
@case.nightly
class LongDialects(DialectCase):
    limit_s = 300

    def test_C1_an_xray_tunnel_lives_on(self):
        """It would have closed a tunnel after 60 s that nobody talks to under its name."""
        self.start_pool()
        wait.until("each dialect is known", lambda: len(self.dialects()) == 4, 20, step=0.1)
        xray = self.fakes["xray"]
        wait.holds("the Xray tunnel is up", xray.alive, 130)
        self.assertEqual(visitors.short_connections(self.public, 40, 4), [])
        self.assertFalse(xray.closed_for_silence)


if __name__ == "__main__":
    unittest.main()
