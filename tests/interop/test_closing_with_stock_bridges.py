"""Our portal, stock bridges: what a visitor's end of stream does (spec/mux-cool.md 6.3). V2Ray 4.34 always; v2fly 5 and
Xray where the environment names them."""

import unittest

from ebbtest import carriage, case


@case.beyond_v2ray
class _OurPortal(carriage.Closing):
    portal_kind = "ours"
    close_s = 2.0 + case.SLACK_S  # Xray: our second of quiet, then its own
    left_s = 3.0
    end_s = 0.02
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
