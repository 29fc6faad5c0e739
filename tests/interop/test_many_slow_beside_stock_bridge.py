"""Slow visitors beside a stock bridge, which knows no credit, one after the other: each holds up the tunnel he is put on, and
nobody may be shut out by it."""

import contextlib
import time
import unittest

from ebbtest import carriage, case, visitors, wait


@case.beyond_v2ray
class V2rayBridge(carriage.Story):
    bridge_kind = "v2ray"
    limit_s = 180

    def held_up(self) -> int:
        return self.portal.log().count("holds up its tunnel")

    def test_twelve_that_come_one_after_another(self):
        """Each reads half a megabyte a second, eight times what is asked of the slowest, so none of them is reset."""
        self.start_pair()
        with contextlib.ExitStack() as readers:
            for n in range(12):
                readers.enter_context(carriage.Readers([self.flooded()], rate=0.5e6))
                begin = time.monotonic()  # he may be put on one that is held up already
                wait.until("he holds up a tunnel", lambda n=n, begin=begin: self.held_up() > n or time.monotonic() > begin + 4,
                           5, step=0.02)
            begin = time.monotonic()
            visitors.fetch(self.public, 15)
            took = time.monotonic() - begin
        self.say(f"{self.held_up()} tunnels were held up; a page beside twelve slow visitors after {took:.2f} s")
        self.assertLess(took, 3 + case.SLACK_S)


if __name__ == "__main__":
    unittest.main()
