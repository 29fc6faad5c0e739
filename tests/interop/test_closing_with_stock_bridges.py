"""Our portal, stock bridges: what a visitor's end of stream does (spec/mux-cool.md 6.3). V2Ray 4.34 always; v2fly 5 and
Xray where the environment names them."""

import unittest

from ebbtest import carriage, case


@case.beyond_v2ray
class _OurPortal(carriage.Closing):
    portal_kind = "ours"
    # 2 s are promised, and they are whole seconds of timers, each of which starts a message later: 4.34's and v2fly's own, one
    # to two of a period of 1 s; with Xray our second of quiet, then its own. A busy machine adds to it.
    close_s = 2.0 + case.promised(0.05, case.SLACK_S)
    left_s = 3.0
    end_s = case.promised(0.005, 0.02)  # a third process that waits for its turn on a busy machine: the stock one's threads
    transfer_s = 3.0
    early_gap_ms = 700
    gap_ms = 700    # a longer silence ends the stream at such a bridge, and nobody can help that


class V2rayBridge(_OurPortal):
    bridge_kind = "v2ray"


class V2flyBridge(_OurPortal):
    bridge_kind = "v2fly"


class XrayBridge(_OurPortal):
    bridge_kind = "xray"


del _OurPortal

if __name__ == "__main__":
    unittest.main()
