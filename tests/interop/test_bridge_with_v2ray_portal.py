"""V2Ray's portal, our bridge: spec/reverse.md 11 B."""

import socket
import time
import unittest

from ebbtest import case, origin, pattern, programs, tap, visitors, wait

GIB = pattern.bulk(1 << 30)
SLACK = case.SLACK_S


class BridgeBase(case.PairCase):
    portal_kind, bridge_kind = "v2ray", "ours"


class Control(BridgeBase):
    def test_B1_B11_heartbeats_arrive_and_go_nowhere(self):
        """A bridge that did not recognise the control stream would send it to the redirect's UDP port, or dial."""
        self.make_pair(tapped=True)
        strays = self.watch_udp(self.web.port)
        self.start_portal()
        self.bridge.start()
        link = wait.until("a tunnel", lambda: self.tap.links and self.tap.links[0], 3)
        wait.until("the first heartbeat", lambda: link.times(tap.DOWN), 3)
        silent_from = link.total(tap.UP)
        wait.until("five heartbeats", lambda: len(link.times(tap.DOWN)) >= 5, 20)
        beats = link.times(tap.DOWN)
        gaps = [b - a for a, b in zip(beats, beats[1:]) if b - a > 0.2]
        self.assertTrue(all(g < 6 + SLACK for g in gaps), f"a beat every 2 s, rarely one left out: {gaps}")
        self.assertTrue(any(abs(g - 2) < SLACK for g in gaps), gaps)
        self.assertEqual(strays.datagrams, [])
        self.assertEqual(self.web.visits, [])
        # 8.4: a ping (8 to 10 bytes a frame, sealed) only after 10 s of silence, so beats keep it quiet.
        self.assertLess(link.total(tap.UP) - silent_from, 200, "control stream bytes from the bridge: none")
        self.await_service(3)

    def test_B2_silent_visitor_makes_the_bridge_dial(self):
        self.start_pair(greeting=b"220 ready\r\n")
        for _ in range(3):
            known, begin = len(self.web.visits), time.monotonic()
            sock = self.connect(self.public)
            self.assertEqual(sock.recv(100), b"220 ready\r\n")
            self.assertLess(time.monotonic() - begin, 0.1 + SLACK)
            self.assertEqual(len(self.web.visits), known + 1)

    def await_service(self, seconds):
        if self.web._greeting:
            return wait.until("the tunnel serves", self.greeted, seconds, step=0.1)
        return super().await_service(seconds)

    def greeted(self):
        try:
            with visitors.connect(self.public, 2) as sock:
                return sock.recv(100)
        except OSError:
            return b""


class Pool(BridgeBase):
    def test_B3_16_streams_open_a_second_tunnel(self):
        self.start_pair(tapped=True)
        streams = [self.open_echo(self.public) for _ in range(16)]
        for stream in streams:
            stream.exchange()
        wait.until("a second tunnel", lambda: len(self.tap.alive()) == 2, 2.5 + SLACK)

    def test_B3_15_streams_do_not(self):
        self.start_pair(tapped=True)
        streams = [self.open_echo(self.public) for _ in range(15)]
        for stream in streams:
            stream.exchange()
        wait.holds("one tunnel", lambda: len(self.tap.links) == 1, 5)

    def test_B4_drained_after_256_connections(self):
        self.start_pair(tapped=True)
        first = self.tap.links[0]
        held = self.open_echo(self.public)
        held.exchange()
        self.assertEqual(visitors.short_connections(self.public, 257, 1), [])
        # DRAIN comes at one of V2Ray's 2 s beats; our bridge answers with a new tunnel within 1 s (V2Ray's: 2 s).
        answer_s = 2 if programs.SELF_CHECK else 1
        wait.until("a second tunnel", lambda: len(self.tap.links) == 2, 2 + answer_s + SLACK)
        held.exchange()
        self.assertTrue(visitors.fetches(self.public))
        wait.holds("the old tunnel serves what it has",
                   lambda: held.exchange() < 1 and first.alive(), 17, step=0.5)
        held.close()
        wait.until("V2Ray closes the old tunnel", lambda: first.closed, 34 + SLACK)
        self.assertTrue(first.ended_by_portal(), first.events[-5:])
        self.assertEqual(visitors.short_connections(self.public, 20, 2), [])


class Losing(BridgeBase):
    def test_B6_portal_restarted(self):
        self.start_pair()
        for _ in range(2):
            self.portal.kill()
            self.start_portal()
            self.await_service(2 + SLACK)

    def test_B6_portal_down_for_long(self):
        """Retries go on every 2 s (± 20 %), however long it takes."""
        self.start_pair()
        self.portal.kill()
        wait.holds("the bridge stays", self.bridge.running, 12)
        self.start_portal()
        self.await_service(2.4 + SLACK)


class Endings(BridgeBase):
    def test_B7_visitors_end_reaches_the_target(self):
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"ECHO\nhello")
        self.assertEqual(sock.recv(100), b"hello")
        sock.close()
        visit = self.web.visits[-1]
        wait.until("the target sees the end", lambda: visit.eof or visit.cut, 1 + SLACK)

    @case.beyond_v2ray
    def test_B8_visitors_reset_reaches_the_target(self):
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"FLOOD\n")
        origin.take(sock, pattern.MIB)
        origin.reset(sock)
        visit = self.web.visits[-1]
        wait.until("the target is cut", lambda: visit.cut, 2 + SLACK)

    def test_B9_target_half_closes_first(self):
        """All bytes reach the visitor, then the end of stream."""
        self.start_pair()
        for size in (1, 100_000, 8 * pattern.MIB):
            sock = self.connect(self.public)
            sock.sendall(b"FIN %d\n" % size)
            self.assertEqual(origin.take(sock, size), pattern.sha256(size))
            self.assertEqual(visitors.ending(sock, 2 + SLACK), "fin")


class Bulk(BridgeBase):
    exclusive = True

    def test_B10_1_GiB_down_up_and_both_at_once(self):
        self.start_pair()
        self.assertEqual(visitors.download(self.public, GIB), pattern.sha256(GIB))
        self.assertEqual(visitors.upload(self.public, GIB), pattern.sha256(GIB))
        self.assertEqual(visitors.both_ways(self.public, GIB), (pattern.sha256(GIB),) * 2)


del BridgeBase

if __name__ == "__main__":
    unittest.main()
