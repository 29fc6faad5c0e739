"""Xray up to 26.4.24, which still has the classic reverse, on either end. Only where EBB_XRAY names one."""

import time
import unittest

from ebbtest import case, pattern, visitors

SIZE = pattern.bulk(256 * pattern.MIB)


class _WithXray(case.PairCase):
    exclusive = True  # moves bulk data
    limit_s = 300

    def test_seed_003(self):
        self.start_pair("003")
        self.everything_works()

    def test_small_pair(self):
        self.start_pair()
        self.everything_works()

    def everything_works(self) -> None:
        self.assertEqual(visitors.download(self.public, SIZE), pattern.sha256(SIZE), "256 MiB down")
        self.assertEqual(visitors.upload(self.public, SIZE), pattern.sha256(SIZE), "256 MiB up")
        failures = visitors.short_connections(self.public, 500, 25)
        self.assertEqual(failures, [], "500 short connections, 25 in parallel")

    def test_stream_outlives_the_control_limit(self):
        """An Xray bridge ends a tunnel 60 to 120 s after the last control message (spec/reverse.md 3.1)."""
        self.start_pair()
        stream = self.open_echo(self.public)
        end = time.monotonic() + 130
        while time.monotonic() < end:
            stream.exchange()
            self.assertTrue(visitors.fetches(self.public))
            time.sleep(2)


class OurPortalXrayBridge(_WithXray):
    portal_kind, bridge_kind = "ours", "xray"


class XrayPortalOurBridge(_WithXray):
    portal_kind, bridge_kind = "xray", "ours"


del _WithXray  # only its two pairings are tests

if __name__ == "__main__":
    unittest.main()
