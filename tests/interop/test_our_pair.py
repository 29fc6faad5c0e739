"""Ours on both ends, what V2Ray's protocol alone cannot give: spec/reverse.md 11 D."""

import socket
import time
import unittest

from ebbtest import case, pattern, visitors, wait


@case.beyond_v2ray
class Credit(case.PairCase):
    exclusive = True

    def test_D2_consumers_that_never_read_hold_up_nobody(self):
        self.start_pair()
        size = pattern.bulk(256 * pattern.MIB)
        begin = time.monotonic()
        visitors.download(self.public, size)
        alone = time.monotonic() - begin
        deaf = [self.connect(self.public) for _ in range(50)]
        for sock in deaf:
            sock.sendall(b"FLOOD\n")
        floods = wait.until("the origin serves them", lambda: (v := [
            v for v in self.web.visits if v.command == b"FLOOD"]) and len(v) == 50 and v, 5)
        begin = time.monotonic()
        self.assertEqual(visitors.download(self.public, size), pattern.sha256(size))
        self.assertLess(time.monotonic() - begin, 3 * alone + 1)
        self.assertEqual([v for v in floods if v.cut], [], "with credit none of them need be reset")

    def test_D2_uploads_to_an_origin_that_does_not_read(self):
        self.start_pair()
        for _ in range(10):
            sock = self.connect(self.public)
            sock.sendall(b"AFTER 20000 x\n")  # reads no more after its first line
            sock.settimeout(0.2)
            try:
                while True:
                    sock.send(pattern.BLOCK)
            except TimeoutError:
                pass
        begin = time.monotonic()
        for _ in range(20):
            visitors.fetch(self.public)
        self.assertLess(time.monotonic() - begin, 2)


@case.beyond_v2ray
class HalfClose(case.PairCase):
    def test_D3_late_answer_after_the_visitors_end(self):
        """The end of one direction travels: the origin sees it, and answers then."""
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"LATE 500 answer\n")
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(sock.recv(100), b"answer")
        self.assertEqual(visitors.ending(sock, 2), "fin")

    def test_D3_visitor_goes_on_after_the_origins_end(self):
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"FIN 1000\n")
        self.assertEqual(visitors.ending(sock, 3), "fin")
        sock.sendall(b"y" * 5000)
        sock.shutdown(socket.SHUT_WR)
        visit = self.web.visits[-1]
        wait.until("all of it arrived", lambda: visit.eof, 3)
        self.assertEqual(visit.received, len(b"FIN 1000\n") + 5000)


@case.beyond_v2ray
class Load(case.PairCase):
    exclusive = True

    def test_3000_short_connections(self):
        self.start_pair()
        self.assertEqual(visitors.short_connections(self.public, 3000, 50), [])

    def test_bulk_both_ways_at_once(self):
        self.start_pair()
        size = pattern.bulk(1 << 30)
        self.assertEqual(visitors.both_ways(self.public, size), (pattern.sha256(size),) * 2)


if __name__ == "__main__":
    unittest.main()
