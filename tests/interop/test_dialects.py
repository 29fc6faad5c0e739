"""All dialects at once (spec/reverse.md 11 C): V2Ray 4.34, v2fly 5, Xray up to 26.4.24, and ours, in one pool. The middle
two where EBB_V2FLY and EBB_XRAY name them."""

import time
import unittest

from ebbtest import case, configs, operated, pattern, ports, visitors, wait

SIZE = pattern.bulk(64 * pattern.MIB)


@case.beyond_v2ray
class C1OnePool(operated.Operated):
    """Every bridge has an origin of its own, so it is known who served."""

    limit_s = 240
    everybody = ("ours", "v2ray", "v2fly", "xray")

    def kinds(self):
        return self.everybody

    def start_pool(self) -> None:
        self.public, tunnel = ports.free_port(), ports.free_port()
        self.portal = self.program("ours", "portal", configs.portal(self.public, tunnel, 1))
        self.portal.start(listens=self.public)
        self.webs, self.bridges = {}, {}
        for kind in self.everybody:
            self.webs[kind] = self.start_origin()
            self.bridges[kind] = self.program(kind, f"bridge-{kind}", configs.bridge(tunnel, self.webs[kind].port))
            self.bridges[kind].start()
        wait.until("a tunnel of each", lambda: len(self.portal.tunnels()) >= len(self.everybody), 20, step=0.2)
        wait.until("every dialect is known", lambda: "unknown" not in self.dialects(), 20, step=0.2)

    def dialects(self) -> list[str]:
        return sorted(t["dialect"] for t in self.portal.tunnels())

    def all_serve(self) -> None:
        before = {kind: len(web.visits) for kind, web in self.webs.items()}
        streams = [self.open_echo(self.public) for _ in range(4 * len(self.everybody))]
        for stream in streams:
            stream.exchange()
        for stream in streams:
            stream.close()
        self.assertEqual(visitors.short_connections(self.public, 200, 8), [])
        for kind, web in self.webs.items():
            self.assertGreater(len(web.visits), before[kind], f"the bridge of {kind} served nobody")

    def test_C1_all_serve(self):
        self.start_pool()
        self.assertEqual(len(set(self.dialects())), len(self.everybody), self.dialects())
        self.all_serve()

    @case.nightly
    def test_C1_tunnels_older_than_130_s(self):
        """An Xray bridge ends a tunnel 60 to 120 s after the last control message."""
        self.start_pool()
        ids = {t["id"] for t in self.portal.tunnels()}
        begin = time.monotonic()
        wait.holds("visitors are served", lambda: visitors.fetches(self.public, 5), 130, step=2)
        self.assertGreater(time.monotonic() - begin, 129)
        self.assertLessEqual(ids, {t["id"] for t in self.portal.tunnels()}, "all of them live")
        self.all_serve()


@case.beyond_v2ray
class _C2OurBridge(case.PairCase):
    """Our bridge recognises the control stream of each: nothing strays, and everything is carried."""

    exclusive = True  # moves bulk data

    def test_C2_control_recognised(self):
        self.make_pair(tapped=True)
        strays = self.watch_udp(self.web.port)
        self.start_portal()
        self.bridge.start()
        self.await_service(10)
        link = self.tap.links[0]
        self.assertEqual(visitors.download(self.public, SIZE), pattern.sha256(SIZE))
        self.assertEqual(visitors.upload(self.public, SIZE), pattern.sha256(SIZE))
        heard = len(link.times("down"))
        wait.until("a heartbeat", lambda: len(link.times("down")) > heard, 12 + case.SLACK_S)
        self.assertEqual(strays.datagrams, [])
        self.assertEqual(visitors.short_connections(self.public, 200, 16), [])


class C2V2fly(_C2OurBridge):
    portal_kind = "v2fly"


class C2Xray(_C2OurBridge):
    portal_kind = "xray"


class C2V2ray(_C2OurBridge):
    portal_kind = "v2ray"


class C2Ours(_C2OurBridge):
    portal_kind = "ours"


@case.beyond_v2ray
class V2flyBridge(case.PairCase):
    """Our portal, v2fly's bridge: as test_seeds.py does with 4.34."""

    exclusive = True  # moves bulk data
    bridge_kind = "v2fly"

    def test_small_pair(self):
        self.start_pair()
        self.assertEqual(visitors.download(self.public, SIZE), pattern.sha256(SIZE))
        self.assertEqual(visitors.upload(self.public, SIZE), pattern.sha256(SIZE))
        self.assertEqual(visitors.short_connections(self.public, 500, 25), [])


del _C2OurBridge

if __name__ == "__main__":
    unittest.main()
