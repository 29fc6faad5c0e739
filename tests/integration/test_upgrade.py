"""The binary is replaced while it serves (USR2, ebbgate ctl upgrade): spec/processes.md 9.2, 10, 11.

Broken binaries under load: chaos/test_upgrade.py.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import unittest

from ebbtest import case, configs, operated, ports, procfs, programs, visitors, wait

UNTIL_ASKED = "30s"  # a probation in which a test has its time


class Upgraded(operated.Operated):
    def upgraded(self, old: int) -> None:
        wait.until(f"another supervisor is in charge\n{self.portal.tail()}",
                   lambda: self.portal.main() != old and self.portal.ctl("status", socket=True).returncode == 0, 15)

    def step(self, name: str) -> None:
        wait.until(f"step {name}\n{self.portal.tail()}", lambda: self.status()["reload"]["step"] == name, 15, step=0.05)

    def begin(self) -> int:
        """USR2, up to the probation. Returns the pid of the supervisor that is to be replaced."""
        old = self.portal.main()
        self.portal.signal(signal.SIGUSR2)
        self.step("upgrade in probation")
        self.assertEqual(self.portal.main(), old)
        return old

    def alone(self) -> None:
        wait.until("one supervisor is left", lambda: len(self.portal.supervisors()) == 1, 10)


@case.beyond_v2ray
class KilledWhileTakingOver(Upgraded):
    """The new supervisor dies after it has signed the lock, before it can tell the old one."""

    probation = UNTIL_ASKED

    def test_the_old_one_takes_everything_back(self):
        self.start_operated()
        old, before = self.begin(), set(self.portal.supervisors())
        new = next(p for p in before if p != old)
        folder = self.portal.environment()["RUNTIME_DIRECTORY"]
        with open(os.path.join(folder, "lock"), "w", encoding="ascii") as f:  # what it would have done by then
            f.write(f"{new}\n")
        os.unlink(os.path.join(folder, "ctl.sock"))
        os.kill(new, signal.SIGKILL)
        wait.until(f"the old one has signed again\n{self.portal.tail()}", lambda: self.portal.main() == old, 10)
        wait.until("it answers", lambda: self.portal.ctl("status", socket=True).returncode == 0, 10)
        self.alone()
        self.assertTrue(visitors.fetches(self.public))


@case.beyond_v2ray
class Upgrade(Upgraded):
    def test_nobody_notices(self):
        """And somebody answers at the admin socket at any moment."""
        self.start_operated()
        stream, old, silent, over = self.stream(), self.portal.main(), [], threading.Event()

        def ask():
            while not over.is_set():
                done = self.portal.ctl("status", "--json")
                if done.returncode != 0:
                    silent.append(done.stderr)
        asking = threading.Thread(target=ask)
        asking.start()
        with visitors.Load(self.public, rate=100) as load:
            self.assertEqual(self.ctl("upgrade"), "")
            self.assertNotEqual(self.portal.main(), old)
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 50, 10)
            stream.exchange()
        over.set()
        asking.join()
        self.assertEqual((load.failures, silent), ([], []))
        seen = [p for p in self.status()["processes"] if p["role"] == "supervisor"]
        self.assertEqual({p["pid"] for p in seen}, {old, self.portal.main()})
        self.assertEqual({p["state"] for p in seen}, {"active", "draining"})
        self.assertIn(f"supervisor {old}", self.ctl("status"))
        stream.exchange()
        self.assertTrue(procfs.alive(old), "its broker carries a stream")
        stream.close()
        self.gone([old])
        self.assertEqual(self.portal.exit_status(1), 0)
        self.assertEqual({p["pid"] for p in self.status()["processes"]}, set(self.portal.tree()))

    def test_of_the_bridge(self):
        self.start_operated()
        stream, old = self.stream(), self.bridge.main()
        with visitors.Load(self.public, rate=100) as load:
            self.ctl("upgrade", of=self.bridge)
            wait.until("the new one has a tunnel", lambda: len(self.bridge.tunnels()) == 1, 10, step=0.05)
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 50, 10)
            stream.exchange()
        self.assertEqual(load.failures, [])
        stream.close()
        self.gone([old], 15)
        self.assertTrue(visitors.fetches(self.public))

    def test_usr2_does_the_same_and_again(self):
        self.start_operated()
        stream = self.stream()
        for _ in range(3):
            old = self.portal.main()
            self.portal.signal(signal.SIGUSR2)
            self.upgraded(old)
        self.reload()
        stream.exchange()
        self.assertEqual(len([p for p in self.status()["processes"] if p["role"] == "supervisor"]), 4,
                         "who is in charge knows all before it")
        stream.close()
        self.alone()
        self.assertTrue(visitors.fetches(self.public))

    def test_answers_for_programs(self):
        self.start_operated()
        said = json.loads(self.ctl("upgrade", "--json"))
        self.assertEqual((said["ok"], said["exit"], said["error"], said["result"]), (True, 0, None, {}))

    def test_no_wait(self):
        self.probation = "1s"
        self.start_operated()
        old = self.portal.main()
        self.assertEqual(self.ctl("upgrade", "--no-wait"), "")
        self.assertEqual(self.portal.main(), old)
        self.upgraded(old)

    def test_one_at_a_time(self):
        self.probation = UNTIL_ASKED
        self.start_operated()
        old = self.begin()
        self.assertIn("an upgrade is under way", self.ctl("upgrade", status=1))
        self.assertIn("the binary is being replaced", self.ctl("reload", status=1))
        self.ctl("reopen")
        self.portal.signal(signal.SIGHUP)
        self.assertEqual(self.portal.main(), old)
        self.assertTrue(visitors.fetches(self.public))

    def test_after_a_reload_that_runs(self):
        self.probation = "1s"
        self.start_operated()
        old = self.portal.main()
        self.reload()
        self.ctl("upgrade")
        self.assertNotEqual(self.portal.main(), old)

    def test_a_new_worker_dies_in_probation(self):
        self.probation = UNTIL_ASKED
        self.start_operated()
        workers = set(self.portal.role("worker"))
        old, stream = self.begin(), self.stream()
        os.kill((set(self.portal.role("worker")) - workers).pop(), signal.SIGKILL)
        self.step("idle")
        self.assertEqual(self.portal.main(), old)
        self.alone()
        self.assertEqual(set(self.portal.role("worker")), workers)
        self.assertEqual(visitors.short_connections(self.public, 20, 5), [])
        stream.exchange()
        self.log_says("upgrade failed, this supervisor and its processes serve on")


@case.beyond_v2ray
class Configuration(Upgraded):
    """The new supervisor reads it afresh."""

    def refused(self, said: str, exit_status: int = 1) -> None:
        old, workers = self.portal.main(), self.portal.role("worker")
        status, words = self.ctl_by_socket("upgrade")
        self.assertEqual(status, exit_status, words)
        self.assertIn(said, words)
        self.portal.signal(signal.SIGUSR2)
        wait.until("a second refusal", lambda: self.portal.log().count("upgrade failed") == 2, 10)
        self.assertEqual((self.portal.main(), self.portal.role("worker")), (old, workers))
        self.assertTrue(visitors.fetches(self.public))

    def test_is_wrong(self):
        self.start_operated()
        self.config["inbounds"][0]["protocol"] = "nosuch"
        self.write()
        self.refused('unknown inbound protocol "nosuch"', 23)
        self.assertIn("nosuch", self.portal.log())
        self.config["inbounds"][0]["protocol"] = "dokodemo-door"
        self.write()
        self.ctl("upgrade")

    def test_port_in_use(self):
        self.start_operated()
        with socket.create_server(("127.0.0.1", 0)) as holder:
            self.add_door(holder.getsockname()[1], "second")
            self.write()
            self.refused(f"process {os.getpid()}")
            self.assertIn(f"process {os.getpid()}", self.portal.log())
        self.ctl("upgrade")  # it is free by now
        wait.until("it is served", lambda: visitors.fetches(self.config["inbounds"][2]["port"]), 5)

    def test_port_added_and_removed(self):
        self.start_operated()
        second = ports.free_port()
        self.add_door(second, "second")
        self.write()
        with visitors.Load(self.public, rate=50) as load:
            self.ctl("upgrade")
            visitors.fetch(second)
            self.config["inbounds"].pop()
            self.config["routing"]["rules"][0]["inboundTag"].pop()
            self.write()
            self.ctl("upgrade")
            wait.until("nobody listens there", lambda: not procfs.listening(second), 5)
        self.assertEqual(load.failures, [])
        self.assertEqual(len(self.status()["listeners"]), 2)

    def test_another_port(self):
        self.start_operated()
        old, self.public = self.public, ports.free_port()
        stream = self.open_echo(old)
        stream.exchange()
        self.config["inbounds"][0]["port"] = self.public
        self.write()
        self.ctl("upgrade")
        visitors.fetch(self.public)
        wait.until("nobody listens at the old one", lambda: not procfs.listening(old), 5)
        stream.exchange()

    def test_other_users_and_workers(self):
        self.start_operated()
        self.config["ebbgate"]["workers"] = 3
        self.config["inbounds"][1]["settings"]["clients"].append({"id": configs.UUID[:-1] + "f"})
        self.write()
        self.ctl("upgrade")
        workers = [p for p in self.status()["processes"] if p["role"] == "worker"]
        self.assertEqual(len(workers), 3)
        self.assertEqual(visitors.short_connections(self.public, 20, 5), [])

    def test_another_admin_socket(self):
        """The new supervisor has it, and nobody is left at the old one."""
        self.start_operated()
        path = os.path.join(self.directory, "admin.sock")
        self.config["ebbgate"]["admin"] = {"socket": path}
        self.write()
        status, words = self.ctl_by_socket("upgrade")
        self.assertEqual((status, words), (0, ""))
        self.assertEqual(self.status()["processes"][0]["pid"], self.portal.main())
        self.assertEqual(self.ctl_by_socket("status")[0], 1)
        self.assertFalse(os.path.exists(os.path.join(self.runtime(), "ctl.sock")))
        del self.config["ebbgate"]["admin"]
        self.write()
        done = subprocess.run([programs.ebbgate_binary(), "ctl", "upgrade", "--socket", path], text=True, timeout=60,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.status()
        self.assertFalse(os.path.exists(path))

    def test_another_runtime_directory(self):
        """Takes effect at the next restart: a lock that two supervisors hold cannot move. It is said."""
        self.start_operated()
        old = self.portal.main()
        self.config["ebbgate"]["runtimeDir"] = os.path.join(self.directory, "elsewhere")
        self.write()
        self.assertEqual(self.ctl_by_socket("upgrade"), (0, ""))
        self.log_says("runtimeDir takes effect at the next restart")
        self.assertNotEqual(self.portal.main(), old)
        self.assertEqual(self.ctl_by_socket("status")[0], 0)
        self.assertFalse(os.path.exists(self.config["ebbgate"]["runtimeDir"]))
        self.assertTrue(visitors.fetches(self.public))

    def test_came_from_standard_input(self):
        self.make_pair()
        self.portal.command = lambda: ["sh", "-c", f"exec {self.portal.binary} run -c stdin: < {self.portal.config_path}"]
        self.start_portal()
        self.bridge.start()
        self.await_service(10)
        old = self.portal.main()
        status, words = self.ctl_by_socket("upgrade")
        self.assertEqual(status, 1)
        self.assertIn("standard input", words)
        self.portal.signal(signal.SIGUSR2)
        self.portal.signal(signal.SIGHUP)
        self.log_says("reload refused")
        status, words = self.ctl_by_socket("reload")
        self.assertEqual(status, 1)
        self.assertIn("standard input", words)
        self.assertEqual(self.portal.main(), old)
        self.assertTrue(visitors.fetches(self.public))


@case.beyond_v2ray
class ServiceManager(Upgraded):
    """We play systemd with NotifyAccess=main."""

    def setUp(self):
        super().setUp()
        path = os.path.join(self.directory, "notify")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.manager.bind(path)
        self.addCleanup(self.manager.close)
        self.heard: list[tuple[int, str]] = []  # (who, what), the watchdog's left out
        self.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"}
        self.main_pid = 0
        self.fed: set[int] = set()

    def listen(self) -> list[tuple[int, str]]:
        """All that was said; each by whom the manager takes for the main process then."""
        while True:
            try:
                words, control, _, _ = self.manager.recvmsg(4096, 128)
            except BlockingIOError:
                return self.heard
            who = int.from_bytes(control[0][2][:4], "little")
            self.main_pid = self.main_pid or who
            self.assertEqual(who, self.main_pid, f"{words!r} by one who is not the main process, after {self.heard}")
            if words == b"WATCHDOG=1":
                self.fed.add(who)
                continue
            self.heard.append((who, words.decode()))
            for line in words.decode().splitlines():
                if line.startswith("MAINPID="):
                    self.main_pid = int(line[8:])

    def said(self, pid: int, text: str):
        return wait.until(f"{pid} says {text!r}: {self.listen()}",
                          lambda: [w for who, w in self.listen() if who == pid and text in w], 10)

    def test_changes_hands(self):
        self.start_operated(self.environment)
        old = self.portal.main()
        self.said(old, "READY=1")
        self.ctl("upgrade")
        new = self.portal.main()
        self.said(new, "READY=1")
        self.gone([old])
        wait.until("the new one feeds the watchdog", lambda: self.listen() and new in self.fed, 5)
        words = [w.split("\n", maxsplit=1)[0] for who, w in self.listen() if who == old]
        self.assertEqual(words, ["READY=1", "RELOADING=1", f"MAINPID={new}"])
        mine = [w for who, w in self.listen() if who == new]
        self.assertRegex(mine[0], r"^READY=1\nSTATUS=generation \d+, 2 workers$")
        self.assertEqual(len(mine), 1)
        self.reload()
        self.said(new, "RELOADING=1")
        self.portal.stop()
        self.said(new, "STOPPING=1")

    def test_failure_is_told(self):
        self.start_operated(self.environment)
        old = self.portal.main()
        self.config["inbounds"][0]["protocol"] = "nosuch"
        self.write()
        self.ctl_by_socket("upgrade")
        wait.until("READY comes back", lambda: [w for _, w in self.listen()][-1].startswith("READY=1"), 5)
        self.assertEqual({who for who, _ in self.heard}, {old})
        self.assertEqual([w.split("\n", maxsplit=1)[0] for _, w in self.heard], ["READY=1", "RELOADING=1", "READY=1"])


@case.beyond_v2ray
class Stopped(Upgraded):
    probation = UNTIL_ASKED

    def test_term_and_int(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                self.start_operated()
                self.begin()
                stream = self.stream()
                self.portal.signal(number)
                self.all_gone(5)
                self.assertEqual(self.portal.exit_status(1), 0)
                self.assertIn(visitors.ending(stream.sock, 1), ("rst", "fin"))
                self.bridge.stop()

    def test_quit_lets_streams_finish(self):
        self.start_operated()
        before = self.stream()
        self.begin()
        during = self.stream()
        self.portal.signal(signal.SIGQUIT)
        wait.until("one supervisor is left", lambda: len(self.portal.supervisors()) == 1, 10)
        wait.until("nobody is let in", lambda: not procfs.listening(self.public), 10)
        for stream in (before, during):
            stream.exchange()
            stream.close()
        self.all_gone(15)
        self.assertEqual(self.portal.exit_status(1), 0)

    def test_term_to_the_new_one(self):
        """It gives up, the old one serves on."""
        self.start_operated()
        old = self.begin()
        new = (set(self.portal.supervisors()) - {old}).pop()
        with visitors.Load(self.public, rate=50) as load:
            os.kill(new, signal.SIGTERM)
            self.step("idle")
            self.gone([new])
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 20, 5)
        self.assertEqual(load.failures, [])
        self.assertEqual(self.portal.main(), old)

    def test_the_old_one_is_killed_in_probation(self):
        """The new one is all there is: it takes over."""
        self.start_operated()
        old = self.begin()
        stream = self.stream()
        os.kill(old, signal.SIGKILL)
        self.upgraded(old)
        stream.exchange()
        self.assertEqual(visitors.short_connections(self.public, 20, 5), [])

    def test_stop_while_the_old_one_still_leaves(self):
        for number, waits in ((signal.SIGTERM, False), (signal.SIGQUIT, True)):
            with self.subTest(signal=number):
                self.probation = "100ms"
                self.start_operated()
                stream, old = self.stream(), self.portal.main()
                self.ctl("upgrade")
                self.portal.signal(number)
                if waits:
                    wait.until("nobody is let in", lambda: not procfs.listening(self.public), 10)
                    stream.exchange()
                    stream.close()
                self.all_gone(10)
                self.assertFalse(procfs.alive(old))
                self.bridge.stop()

    def test_term_to_the_old_one_that_leaves(self):
        """Its streams have stopGrace; the service is the other one's."""
        self.probation = "100ms"
        self.start_operated()
        stream, old = self.stream(), self.portal.main()
        self.ctl("upgrade")
        with visitors.Load(self.public, rate=50) as load:
            wait.until("the tunnel has moved", lambda: len(self.portal.tunnels()) == 1, 10, step=0.05)
            os.kill(old, signal.SIGTERM)
            self.gone([old], 5)
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 20, 5)
        self.assertEqual(load.failures, [])
        self.assertIn(visitors.ending(stream.sock, 1), ("rst", "fin"))


if __name__ == "__main__":
    unittest.main()
