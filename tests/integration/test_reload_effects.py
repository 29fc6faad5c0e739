"""What a reload leaves alone, changes in place and ends, seen by visitors and tunnels. spec/processes.md 9.1."""

import json
import os
import signal
import subprocess

from ebbtest import case, configs, programs, visitors, wait

QUICK = {"ebbgate": {"timers": {"probation": "100ms"}}}
SECOND_USER = "c5a1b0ce-0000-4000-8000-000000000002"
ENDS_S = 1 + case.SLACK_S  # what a reload removes is gone within a second


@case.beyond_v2ray
class Effects(case.PairCase):
    def setUp(self):
        super().setUp()
        self.start_pair(portal_extra=QUICK, bridge_extra=QUICK)

    def ctl(self, program, *words) -> str:
        done = subprocess.run([programs.ebbgate_binary(), "ctl", *words, "-c", program.config_path],
                              env=program.environment(), capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + program.tail())
        return done.stdout

    def reload(self, program, change) -> None:
        """Rewrites the file and waits for the outcome, which has to be a good one."""
        with open(program.config_path, encoding="utf-8") as f:
            config = json.load(f)
        change(config)
        with open(program.config_path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.ctl(program, "reload", "--wait")

    def tunnel_ids(self, program, kind: str) -> list:
        status = json.loads(self.ctl(program, "status", "--json"))
        status = status.get("result", status)
        return [tunnel["id"] for each in status[kind] for tunnel in each["tunnels"]]

    def test_nothing_changes(self):
        """The same file: other workers, the same broker, the same tunnels and streams."""
        streams = [self.open_echo(self.public) for _ in range(5)]
        for stream in streams:
            stream.exchange()
        for program, kind in ((self.portal, "portals"), (self.bridge, "bridges")):
            workers, broker = program.role("worker"), program.role("broker")
            tunnels = self.tunnel_ids(program, kind)
            for _ in range(3):
                self.reload(program, lambda config: None)
            wait.until("the old workers are gone", lambda: not set(workers) & set(program.role("worker")), 15)
            self.assertEqual(program.role("broker"), broker)
            self.assertEqual(self.tunnel_ids(program, kind), tunnels)
            visitors.fetch(self.public)
        for stream in streams:
            self.assertLess(stream.exchange(), 5)

    def test_users_come_and_go(self):
        def users(*ids):
            def change(config):
                config["inbounds"][1]["settings"]["clients"] = [{"id": each} for each in ids]
            return change

        stream = self.open_echo(self.public)
        stream.exchange()
        self.reload(self.portal, users(SECOND_USER, configs.UUID))  # the bridge's user gets another number
        self.reload(self.portal, users(configs.UUID))
        self.assertLess(stream.exchange(), 5)
        self.reload(self.portal, users(SECOND_USER))
        self.assertEqual(visitors.ending(stream.sock, ENDS_S), "rst")
        self.assertEqual(self.tunnel_ids(self.portal, "portals"), [])
        self.reload(self.portal, users(configs.UUID))
        # The bridge dials again at once, while its user is unknown: strangers are drained in silence (spec/vmess.md 6.3),
        # so it learns of it only when a tunnel without a single byte is given up, after 25 s.
        self.await_service(30)

    def test_portal_goes(self):
        stream = self.open_echo(self.public)
        stream.exchange()

        def rename(config):
            config["reverse"]["portals"][0]["domain"] = "elsewhere.test"

        self.reload(self.portal, rename)
        self.assertEqual(visitors.ending(stream.sock, ENDS_S), "rst")

    def test_portal_comes_beside_another(self):
        stream = self.open_echo(self.public)
        stream.exchange()
        self.reload(self.portal, lambda config: config["reverse"]["portals"].insert(
            0, {"tag": "first", "domain": "first.test"}))  # the old one gets another number
        self.assertLess(stream.exchange(), 5)
        visitors.fetch(self.public)

    def test_bridge_changes(self):
        """Its streams end; the new one dials at once."""
        stream = self.open_echo(self.public)
        stream.exchange()

        def other_tag(config):
            config["reverse"]["bridges"][0]["tag"] = "other"
            for rule in config["routing"]["rules"]:
                rule["inboundTag"] = ["other"]

        self.reload(self.bridge, other_tag)
        self.assertEqual(visitors.ending(stream.sock, ENDS_S), "rst")
        self.await_service(5)

    def test_ways_of_new_streams(self):
        """A bridge that stays the same keeps its tunnels, and sends new streams where the new outbound says."""
        other = self.start_origin()

        def redirect(config):
            config["outbounds"][0]["settings"]["redirect"] = f"127.0.0.1:{other.port}"

        tunnels = self.tunnel_ids(self.bridge, "bridges")
        self.reload(self.bridge, redirect)
        self.assertEqual(self.tunnel_ids(self.bridge, "bridges"), tunnels)
        self.web.stop()
        visitors.fetch(self.public)

    def test_quit_drains_one_worker(self):
        """QUIT to a single worker: it leaves in order, and another one comes."""
        stream = self.open_echo(self.public)
        stream.exchange()
        worker = self.portal.role("worker")[0]
        os.kill(worker, signal.SIGQUIT)
        wait.until("it is gone", lambda: worker not in self.portal.role("worker"), 10)
        self.assertLess(stream.exchange(), 5)
        visitors.fetch(self.public)
