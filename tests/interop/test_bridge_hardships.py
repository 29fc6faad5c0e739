"""Our bridge behind V2Ray's portal in trouble: what of spec/reverse.md 11 B takes long, or reloads us."""

import unittest

from ebbtest import case, operated, visitors, wait

SLACK = case.SLACK_S


@case.beyond_v2ray
class Replaced(operated.Operated):
    portal_kind, bridge_kind = "v2ray", "ours"

    def test_B5_reload_costs_nothing(self):
        self.start_pair(tapped=True)
        with visitors.Load(self.public, rate=50, parallel=4) as load:
            wait.until("it is under way", lambda: load.done > 0, 5, step=0.01)
            for level in ("warning", "info"):
                self.bridge.configure(lambda c, level=level: c["log"].update(loglevel=level))
                self.ctl("reload", "--wait", of=self.bridge)
        self.assertEqual(load.failures, [])
        self.assertGreater(load.done, 0)
        self.assertEqual(len(self.tap.links), 1, "the tunnel outlived the reloads")

    def test_B5_restart_is_over_when_V2Ray_lets_it_be(self):
        """4.34 refuses visitors for up to 30 s after it lost a tunnel (spec/reverse.md 4.3); then all is well."""
        self.start_pair()
        self.bridge.stop()
        self.bridge.start()
        self.await_service(30 + 5 + SLACK)
        for _ in range(30):
            visitors.fetch(self.public, 5)


@case.beyond_v2ray
class Wrapping(case.PairCase):
    portal_kind, bridge_kind = "v2ray", "ours"
    limit_s = 900

    @case.nightly
    def test_B12_ids_that_come_round_again(self):
        """66,000 connections over one tunnel with a held stream. 4.34 drains it after 256 and goes on with it as long as no
        other is offered, so none is: a bridge that may dial does so, whatever maxTunnels says of the active ones. 4.34's
        ids are 16 bits and wrap onto the held stream: we end that one, and no byte of one stream comes out of another."""
        self.start_pair(tapped=True)
        held = self.open_echo(self.public)
        held.exchange()
        stayed = next(v for v in self.web.visits if v.command == b"ECHO")
        self.tap.refuse()
        failures = visitors.short_connections(self.public, 66_000, 16)
        self.assertLessEqual(len(failures), 5, failures[:10])
        self.assertEqual([(len(self.tap.links), link.closed_by) for link in self.tap.links], [(1, "")])
        self.assertTrue(stayed.eof or stayed.cut, "its id was given out again: the origin of the held stream is told")
        try:
            held.exchange()
        except ConnectionError as error:  # ended: as it should; other bytes: never
            self.assertNotIn("got", str(error))
        except OSError:
            pass
        self.tap.listen()
        wait.until("visitors are served", lambda: visitors.fetches(self.public), 5)


if __name__ == "__main__":
    unittest.main()
