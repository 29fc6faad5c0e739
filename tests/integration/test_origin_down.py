"""The service behind the bridge is not there, or goes away."""

import time
import unittest

from ebbtest import case, visitors, wait

GIVES_UP_S = 1.0  # the bridge dials five times in this time, as V2Ray does: spec/reverse.md 3.1


@case.beyond_v2ray
class OriginDown(case.PairCase):
    def test_refused_visitor_is_reset_within_a_second_of_giving_up(self):
        self.start_pair()
        self.web.stop()
        for first in (b"GET / HTTP/1.1\r\n\r\n", b""):
            begin = time.monotonic()
            sock = self.connect(self.public)
            sock.sendall(first)
            self.assertEqual(visitors.ending(sock, 10), "rst")
            self.assertLess(time.monotonic() - begin, GIVES_UP_S + 1)

    def test_portal_says_why_a_visitor_was_not_served(self):
        self.start_pair()
        self.web.refuse()
        sock = self.connect(self.public)
        sock.sendall(b"x")
        self.assertEqual(visitors.ending(sock, 5), "rst")
        line = wait.until("it is in the portal's log", lambda: next(
            (each for each in self.portal.log().splitlines() if "visitor was not served" in each), ""), 5)
        self.assertIn("origin refused the connection", line)
        self.assertNotIn("connect ", line, "the bridge's own words name addresses of its network")

    def test_origin_that_resets_in_mid_answer(self):
        """The visitor must not take half an answer for a whole one."""
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"RST 100000\n")
        self.assertEqual(visitors.ending(sock, 3), "rst")

    def test_other_visitors_go_on(self):
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        self.web.refuse()
        refused = self.connect(self.public)
        refused.sendall(b"x")
        self.assertEqual(visitors.ending(refused, 5), "rst")
        self.assertLess(stream.exchange(), 1)

    def test_origin_comes_back(self):
        self.start_pair()
        self.web.stop()
        self.assertFalse(visitors.fetches(self.public, 3))
        self.web.start()
        self.assertTrue(visitors.fetches(self.public))


if __name__ == "__main__":
    unittest.main()
