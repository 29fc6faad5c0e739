"""ebbgate ctl: spec/processes.md 11.2."""

import json
import subprocess
import unittest

from ebbtest import case, programs, wait


@case.beyond_v2ray
class Ctl(case.PairCase):
    def ctl(self, program, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run([programs.ebbgate_binary(), "ctl", *words, "-c", program.config_path], text=True, timeout=15,
                              capture_output=True, env=program.environment(), check=False)

    def status(self, program) -> dict:
        done = self.ctl(program, "status", "--json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        answer = json.loads(done.stdout)
        return answer.get("result", answer)

    def test_portal_with_a_tunnel_and_streams(self):
        self.start_pair()
        for _ in range(3):
            self.open_echo(self.public).exchange()
        seen = wait.until("the status shows the streams", lambda: self.with_streams(3), 5, step=0.1)
        self.assertEqual({p["role"] for p in seen["processes"]}, {"supervisor", "worker", "broker"})
        self.assertEqual({p["pid"] for p in seen["processes"]}, set(self.portal.tree()))
        self.assertEqual(seen["generation"], 1)
        portal = seen["portals"][0]
        self.assertEqual((portal["tag"], portal["domain"]), ("portal", "tunnel.test"))
        tunnel = portal["tunnels"][0]
        self.assertTrue(tunnel["peer"].startswith("127.0.0.1"), tunnel)
        self.assertGreaterEqual(tunnel["age_s"], 0)
        self.assertGreater(tunnel["bytes_in"], 0)
        self.assertGreater(tunnel["bytes_out"], 0)
        self.assertEqual(len(seen["listeners"]), 2)

    def with_streams(self, count: int):
        seen = self.status(self.portal)
        tunnels = [t for p in seen["portals"] for t in p["tunnels"]]
        return seen if sum(t["streams"] for t in tunnels) >= count else None

    def test_bridge(self):
        self.start_pair()
        seen = wait.until("the bridge's tunnel", lambda: (s := self.status(self.bridge))["bridges"][0]["tunnels"] and s, 5,
                          step=0.1)
        self.assertEqual((seen["bridges"][0]["tag"], seen["bridges"][0]["domain"]), ("bridge", "tunnel.test"))
        self.assertEqual(seen["portals"], [])

    def test_words_for_people(self):
        self.start_pair()
        text = self.ctl(self.portal, "status").stdout
        for word in ("portal", "tunnel.test", "worker", "broker", str(self.portal.pid)):
            self.assertIn(word, text)

    def test_no_tunnel_is_said(self):
        self.make_pair()
        self.start_portal()
        self.assertEqual(self.status(self.portal)["portals"][0]["tunnels"], [])

    def test_nobody_there(self):
        self.make_pair()
        done = self.ctl(self.portal, "status")
        self.assertNotEqual(done.returncode, 0)
        self.assertTrue(done.stderr or done.stdout)


class CtlV2RayBridge(case.PairCase):
    bridge_kind = "v2ray"

    @case.beyond_v2ray
    def test_dialect_is_told(self):
        self.start_pair()

        def dialect():
            done = subprocess.run([programs.ebbgate_binary(), "ctl", "status", "--json", "-c", self.portal.config_path],
                                  text=True, timeout=15, capture_output=True, env=self.portal.environment(), check=True)
            answer = json.loads(done.stdout)
            return "v2ray" in json.dumps(answer.get("result", answer)["portals"][0].get("dialect", ""))
        wait.until("the status says v2ray", dialect, 5, step=0.2)


if __name__ == "__main__":
    unittest.main()
