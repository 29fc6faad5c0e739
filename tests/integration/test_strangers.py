"""Whoever does not know the id: whatever he sends to the tunnel port, he learns nothing and disturbs nobody.

spec/vmess.md 6.3: fewer than 16 bytes wait for the handshake deadline; from 16 bytes on the portal reads on to a fixed total
(54 + up to 3265 + up to 63 bytes), then closes; it never answers.
"""

import random
import socket
import time
import unittest

from ebbtest import case, origin, tap, visitors, wait

DRAIN_LIMIT = 54 + 3265 + 64


class Strangers(case.PairCase):
    handshake_s = 2

    def setUp(self):
        super().setUp()
        policy = {"policy": {"levels": {"0": {"handshake": self.handshake_s}}}}
        self.start_pair(tapped=True, portal_extra=policy)
        self.regular = self.open_echo(self.public)
        self.regular.exchange()

    def tearDown(self):
        """Nobody else notices: the regular visitor's stream lives, new ones come in, the tunnel is still the first."""
        self.assertLess(self.regular.exchange(), 1)
        self.assertTrue(visitors.fetches(self.public))
        self.assertEqual(len(self.tap.links), 1)
        self.assertTrue(self.tap.links[0].alive())

    def closed_after(self, sock: socket.socket, seconds: float) -> float:
        """Seconds until the portal closes; an answer of even one byte fails."""
        begin = time.monotonic()
        sock.settimeout(seconds)
        try:
            self.assertEqual(sock.recv(100), b"", "a stranger gets no byte")
        except ConnectionResetError:
            pass
        except TimeoutError:
            self.fail(f"still open after {seconds} s")
        return time.monotonic() - begin

    def test_silence_is_closed_at_the_handshake_deadline(self):
        for first in (b"", b"GET / HT"):
            sock = self.connect(self.tunnel)
            sock.sendall(first)
            seconds = self.closed_after(sock, self.handshake_s + 3)
            self.assertGreater(seconds, self.handshake_s - 0.5)

    def test_garbage_is_drained_then_closed(self):
        noise = random.Random(2).randbytes(8192)
        totals = []
        for _ in range(5):
            sock = self.connect(self.tunnel)
            sent, closed = 0, False
            while sent < len(noise) and not closed:
                try:
                    sock.sendall(noise[sent:sent + 16])
                    sent += 16
                    sock.settimeout(0.005)
                    closed = not sock.recv(1)
                except TimeoutError:
                    continue
                except OSError:
                    closed = True
            self.assertTrue(closed, "closed once the total is reached")
            totals.append(sent)
        for total in totals:
            self.assertGreaterEqual(total, 48, "not closed on the spot")
            self.assertLessEqual(total, DRAIN_LIMIT + 64)
        self.assertLessEqual(max(totals) - min(totals), 64 + 64, "the total is fixed but for up to 64 bytes")

    def test_less_than_the_drain_total_is_closed_at_the_deadline(self):
        sock = self.connect(self.tunnel)
        sock.sendall(random.Random(3).randbytes(50))
        self.assertGreater(self.closed_after(sock, self.handshake_s + 3), self.handshake_s - 0.5)

    def test_truncated_head_is_closed(self):
        opening = self.tap.links[0].opening
        self.assertGreater(len(opening), 60)
        for length in (15, 16, 17, 33, 34, 42, 59):
            sock = self.connect(self.tunnel)
            sock.sendall(opening[:length])
            sock.shutdown(socket.SHUT_WR)
            self.closed_after(sock, self.handshake_s + 3)

    def test_replayed_opening_is_refused(self):
        opening = self.tap.links[0].opening
        for _ in range(5):
            sock = self.connect(self.tunnel)
            sock.sendall(opening)
            self.closed_after(sock, self.handshake_s + 3)

    def test_flipped_bits_are_refused(self):
        opening = self.tap.links[0].opening
        for position in range(0, 60, 4):
            sock = self.connect(self.tunnel)
            sock.sendall(opening[:position] + bytes([opening[position] ^ 0x10]) + opening[position + 1:])
            sock.sendall(bytes(DRAIN_LIMIT))
            self.closed_after(sock, self.handshake_s + 3)

    def test_500_strangers_at_once(self):
        """Half-done handshakes are what a worker holds: a visitor still gets his page at once."""
        for number in range(500):
            self.connect(self.tunnel).sendall(bytes([number & 255]) * (number % 40))
        begin = time.monotonic()
        visitors.fetch(self.public)
        self.assertLess(time.monotonic() - begin, 1)


@case.beyond_v2ray
class Rude(case.PairCase):
    def test_visitors_that_come_and_go(self):
        """Reset before, while and after a request: nothing is left behind, the tunnel stays."""
        self.start_pair(tapped=True)
        chance = random.Random(4)
        for _ in range(300):
            sock = visitors.connect(self.public)
            if chance.random() < 0.7:
                sock.sendall(chance.choice((b"FLOOD\n", b"GET / HTTP/1.1\r\n\r\n", b"ECHO\nx", b"SINK 100000\nxxx")))
            if chance.random() < 0.5:
                origin.reset(sock)
            else:
                sock.close()
        wait.until("the origin is left alone", lambda: self.web.open_count() == 0, 10)
        self.assertTrue(visitors.fetches(self.public))
        self.assertEqual(len([link for link in self.tap.links if link.closed and link.closed_by == tap.UP]), 0)


if __name__ == "__main__":
    unittest.main()
