"""Ours on both ends: what a user notices under load."""

import time
import unittest

from ebbtest import case, pattern, visitors, wait


@case.beyond_v2ray
class Consumers(case.PairCase):
    exclusive = True

    def test_50_that_never_read_hold_up_no_newcomer(self):
        """Their tunnel takes no new streams while they stand still; another one is opened (spec/mux-cool.md 7)."""
        self.start_pair()
        alone = self.download()
        self.flood(50)
        self.served(50)
        self.assertLess(self.download(), 3 * alone + 1)

    def test_those_who_waited_for_the_first_tunnel_hold_up_nobody_either(self):
        """Their streams are older than the knowledge that both ends have credit."""
        self.start_pair()
        alone = self.download()
        self.bridge.stop()
        self.flood(12)
        self.bridge.start()
        self.served(12)
        for _ in range(3):
            self.assertLess(self.download(), 3 * alone + 1)

    def download(self) -> float:
        """Seconds."""
        size, begin = pattern.bulk(256 * pattern.MIB), time.monotonic()
        self.assertEqual(visitors.download(self.public, size), pattern.sha256(size))
        return time.monotonic() - begin

    def flood(self, count: int) -> None:
        """Visitors to whom the origin sends without end, and who do not read."""
        for sock in [self.connect(self.public) for _ in range(count)]:
            sock.sendall(b"FLOOD\n")

    def served(self, count: int) -> None:
        wait.until("the origin serves them",
                   lambda: sum(v.command == b"FLOOD" for v in self.web.visits) == count, 5)


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
