"""Our portal, V2Ray's bridge: spec/reverse.md 11 A. Numbers there were measured with V2Ray on both sides, + 0.5 s here."""

import socket
import time
import unittest

from ebbtest import case, origin, pattern, tap, visitors, wait

GIB = pattern.bulk(1 << 30)
SLACK = case.SLACK_S


class PortalBase(case.PairCase):
    portal_kind, bridge_kind = "ours", "v2ray"


class Starting(PortalBase):
    def test_A1_portal_first(self):
        self.make_pair()
        self.start_portal()
        self.bridge.start()
        self.await_service(3)

    def test_A1_bridge_first(self):
        self.make_pair()
        self.bridge.start()
        wait.holds("the bridge waits for its portal", self.bridge.running, 1)
        self.start_portal()
        self.await_service(3)

    def test_A2_bridge_is_silent_until_our_first_frame(self):
        """The tap keeps our bytes back: all the bridge says by then is its VMess request head."""
        self.make_pair(tapped=True)
        self.tap.hold_down()
        self.start_portal()
        self.bridge.start()
        link = wait.until("our portal wrote its first frame", lambda: self.tap.links and
                          self.tap.links[0].times(tap.DOWN) and self.tap.links[0], 5)
        wait.until("the bridge sent its request head", lambda: link.total(tap.UP), 1)
        head = link.total(tap.UP)
        self.assertLess(head, 256, "a request head, no frames")
        wait.holds("the bridge stays silent", lambda: link.total(tap.UP) == head and link.alive(), 1.5)
        self.tap.release_down()
        self.await_service(3)
        self.assertEqual(len(self.tap.links), 1)

    def test_A3_probe_reaches_no_udp_service(self):
        """A redirect sends unknown UDP to the web page's port: while our portal finds the dialect nothing arrives."""
        self.make_pair()
        strays = self.watch_udp(self.web.port)
        self.start_portal()
        self.bridge.start()
        self.await_service(3)
        wait.holds("the UDP port stays silent", lambda: not strays.datagrams, 5)


class Pool(PortalBase):
    limit_s = 150

    def streams(self, count: int) -> list[visitors.Echo]:
        open_streams = [self.open_echo(self.public) for _ in range(count)]
        for stream in open_streams:
            stream.exchange()
        return open_streams

    def test_A5_15_streams_keep_one_tunnel(self):
        self.start_pair(tapped=True)
        streams = self.streams(15)
        wait.holds("one tunnel", lambda: len(self.tap.links) == 1, 5)
        for stream in streams:
            stream.exchange()

    def test_A5_16_streams_get_a_second_tunnel_that_takes_new_ones(self):
        self.start_pair(tapped=True)
        self.streams(16)
        wait.until("a second tunnel", lambda: len(self.tap.alive()) == 2, 2.5 + SLACK)
        second = self.tap.links[1]
        # A tunnel is chosen once our portal knows its dialect (at most 2 s): then a stream more moves a page's bytes there.
        def used():
            before = second.total(tap.UP)
            self.open_echo(self.public).exchange()
            with visitors.connect(self.public) as sock:
                sock.sendall(b"SOURCE 65536\n")
                origin.take(sock, 65536)
            return second.total(tap.UP) - before > 60000
        wait.until("new streams use the second tunnel", used, 4, step=0.3)

    @case.beyond_v2ray
    def test_A6_drained_after_256_connections(self):
        self.start_pair(tapped=True)
        first = self.tap.links[0]
        self.assertEqual(visitors.short_connections(self.public, 257, 1), [])
        wait.until("DRAIN within 2.5 s, a replacement within 2.5 s more", lambda: len(self.tap.links) == 2, 5 + SLACK)
        with visitors.Load(self.public, rate=20, parallel=2) as load:
            wait.until("the drained tunnel is closed once empty", lambda: first.closed, 34 + SLACK)
        self.assertEqual(load.failures, [])
        self.assertTrue(first.ended_by_portal())

    @case.beyond_v2ray
    def test_A7_3000_short_connections(self):
        self.start_pair(tapped=True)
        self.assertEqual(visitors.short_connections(self.public, 3000, 50), [])


class Losing(PortalBase):
    @case.beyond_v2ray
    def test_A8_bridge_killed_and_started_again(self):
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        self.bridge.kill()
        self.assertIn(visitors.ending(stream.sock, 1 + SLACK), ("rst", "fin"))
        self.bridge.start()
        self.await_service(3 + SLACK)
        for number in range(50):
            self.assertTrue(visitors.fetches(self.public), f"request {number} after the first success")

    @case.beyond_v2ray
    def test_A11_cancelled_download_stops_at_the_origin(self):
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"FLOOD\n")
        origin.take(sock, 4 * pattern.MIB)
        origin.reset(sock)
        cancelled = time.monotonic()
        flood = next(v for v in self.web.visits if v.command == b"FLOOD")
        wait.until("the origin is cut", lambda: flood.cut, 2 + SLACK)
        self.assertLess(flood.cut - cancelled, 2 + SLACK)

    @case.beyond_v2ray
    def test_A12_half_closed_visitor_gets_a_late_answer(self):
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"AFTER 700 answer\n")
        sock.shutdown(socket.SHUT_WR)  # End goes out at once, and V2Ray still delivers what comes without a pause of 1 s
        self.assertEqual(sock.recv(100), b"answer")

    @case.beyond_v2ray
    def test_A13_refusing_origin_resets_the_visitor(self):
        self.start_pair()
        self.web.stop()
        begin = time.monotonic()
        sock = self.connect(self.public)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(visitors.ending(sock, 4), "rst")
        self.assertLess(time.monotonic() - begin, 1.01 + 1 + SLACK)  # V2Ray's five attempts take 1 s


class Consumers(PortalBase):
    exclusive = True

    @case.beyond_v2ray
    def test_A16_one_that_never_reads_stops_another_for_10_s_at_most(self):
        self.start_pair()
        size = pattern.bulk(256 * pattern.MIB)
        begin = time.monotonic()
        visitors.download(self.public, size)
        alone = time.monotonic() - begin
        deaf = self.connect(self.public)
        deaf.sendall(b"FLOOD\n")
        begin = time.monotonic()
        self.assertEqual(visitors.download(self.public, size), pattern.sha256(size))
        # What the download takes by itself is no standstill, and it may share the machine with the flood.
        self.assertLess(time.monotonic() - begin, 10 + max(5, 2 * alone) + SLACK)
        deaf.close()


class Bulk(PortalBase):
    exclusive = True

    def test_A10_1_GiB_down_up_and_both_at_once(self):
        self.start_pair()
        self.assertEqual(visitors.download(self.public, GIB), pattern.sha256(GIB))
        self.assertEqual(visitors.upload(self.public, GIB), pattern.sha256(GIB))
        self.assertEqual(visitors.both_ways(self.public, GIB), (pattern.sha256(GIB),) * 2)


del PortalBase

if __name__ == "__main__":
    unittest.main()
