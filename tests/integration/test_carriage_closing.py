"""Ends of streams between our own nodes, with shipped defaults: both directions end on their own, and at once."""

import socket
import time
import unittest

from ebbtest import carriage, case, origin, pattern, visitors, wait


@case.beyond_v2ray
class OursAndOurs(carriage.Closing):
    def test_D3_every_order_of_ends(self):
        """Visitor first, origin first, both at once: with data after the other's end of stream."""
        self.start_pair()
        sock, visit = self.asked(b"FIN 100000\n")  # the origin ends its side, and counts what still comes
        self.assertEqual(origin.take(sock, 100_000), pattern.sha256(100_000))
        self.assertEqual(sock.recv(1), b"")
        before = visit.received
        sock.sendall(bytes(pattern.BLOCK[:300_000]))
        sock.shutdown(socket.SHUT_WR)
        wait.until("the origin has all that came after its end", lambda: visit.eof, 5)
        self.assertEqual(visit.received - before, 300_000)
        sock, visit = self.asked(b"SINK 300000\n")
        sock.sendall(bytes(pattern.BLOCK[:300_000]))
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(sock.recv(100).strip().decode(), pattern.sha256(300_000))
        self.assertEqual(visitors.ending(sock, 2), "fin")

    @case.alone
    def test_a_reset_by_the_origin_passes_without_delay(self):
        self.start_pair()
        took = []
        for _ in range(11):
            sock, visit = self.asked(b"RST 1000\n")
            self.assertEqual(visitors.ending(sock, 5), "rst")
            took.append(self.since_end(visit))
        self.measured("the origin's reset at the visitor", took, self.end_s)


if __name__ == "__main__":
    unittest.main()
