"""A supervisor dies: its processes serve on, and the next one takes them over. spec/processes.md 9.4, 11.1."""

import os
import re
import signal
import socket
import stat
import subprocess
import unittest

from ebbtest import case, operated, ports, procfs, service, tap, visitors, wait


@case.beyond_v2ray
class Adoption(operated.Orphaned):
    def test_nobody_notices(self):
        self.start_operated(tapped=True)
        stream, tunnel, broker = self.stream(), self.tunnel_id(), self.portal.role("broker")
        workers = set(self.portal.role("worker"))
        with visitors.Load(self.public, rate=100) as load:
            self.kill_supervisor()
            before = load.done
            wait.until("visitors come through without it", lambda: load.done > before + 50, 10)
            self.restart()
            stream.exchange()
            self.settled()
            wait.until("other workers", lambda: len(self.portal.role("worker")) == 2 and
                       not workers & set(self.portal.role("worker")), 10)
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 50, 10)
        self.assertEqual(load.failures, [])
        self.assertLess(stream.exchange(), 5)
        self.assertIn(tunnel, [t["id"] for t in self.portal.tunnels()])  # there may be more: they were many
        self.assertEqual(self.portal.role("broker"), broker)
        self.assertIn(self.tap.links[0], self.tap.alive(), "the bridge's connection")
        log = self.portal.log()
        for name in ("broker b1", "worker g1/0", "worker g1/1"):
            self.assertIn(f'process adopted name="{name}"', log)
        self.assertEqual(self.status()["generation"], 2)

    def test_adopted_ones_are_shown(self):
        self.probation = "30s"
        self.start_operated()
        before = {p["name"]: p["pid"] for p in self.status()["processes"] if p["role"] != "supervisor"}
        self.kill_supervisor()
        self.restart()
        wait.until("the reload is in probation", lambda: self.status()["reload"]["step"] == "probation", 10, step=0.05)
        now = {p["name"]: (p["pid"], p["state"], p["answered"]) for p in self.status()["processes"]}
        self.assertEqual({n: now[n] for n in before},
                         {n: (p, "paused" if n.startswith("worker") else "active", True) for n, p in before.items()})
        self.assertEqual(now["supervisor"][0], self.portal.main())
        self.assertEqual(len(now), 6)

    def test_of_the_bridge(self):
        self.start_operated(tapped=True)
        stream, main = self.stream(), self.bridge.main()
        os.kill(main, signal.SIGKILL)
        self.gone([main])
        self.assertTrue(visitors.fetches(self.public))
        self.bridge.spawn()
        wait.until("it answers", lambda: self.bridge.ctl("status").returncode == 0, 10)
        stream.exchange()
        self.assertEqual(len(self.tap.links), 1)
        self.ctl("reload", of=self.bridge)
        stream.exchange()
        self.assertTrue(visitors.fetches(self.public))

    def test_again_and_again(self):
        """Also in the middle of what the one before has begun."""
        self.start_operated()
        stream = self.stream()
        with visitors.Load(self.public, rate=50) as load:
            for _ in range(4):
                self.kill_supervisor()
                self.portal.spawn()
                wait.until("it is there", lambda: self.portal.signer() == self.portal.pid, 5)
            self.kill_supervisor()
            self.restart()
            stream.exchange()
        self.assertEqual(load.failures, [])
        self.settled()
        wait.until("two workers are left", lambda: len(self.portal.role("worker")) == 2, 10)
        self.assertEqual(len(self.portal.role("broker")), 1)

    def test_what_follows_works(self):
        self.start_operated()
        self.kill_supervisor()
        self.restart()
        stream = self.stream()
        with visitors.Load(self.public, rate=50) as load:
            os.kill(self.portal.role("worker")[0], signal.SIGKILL)
            self.reload()
            self.ctl("drain", "broker")
            self.ctl("upgrade")
            stream.exchange()
        self.assertLessEqual(len(load.failures), 1, load.failures)  # what the killed one had just accepted
        stream.close()

    def test_workers_died_as_well(self):
        """Clients wait in the queue, which the broker keeps."""
        self.start_operated()
        stream, workers = self.stream(), self.portal.role("worker")
        self.kill_supervisor()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        self.gone(workers)
        sock = self.connect(self.public)
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        stream.exchange()
        self.restart()
        self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200"))
        stream.exchange()

    def test_the_broker_died_as_well(self):
        self.start_operated()
        broker = self.portal.broker()
        self.kill_supervisor()
        os.kill(broker, signal.SIGKILL)
        self.gone([broker])
        self.restart()
        self.await_service(10)

    def test_term_ends_them_all(self):
        self.start_operated()
        self.kill_supervisor()
        self.restart()
        self.portal.signal(signal.SIGTERM)
        self.all_gone(5)
        self.assertEqual(self.portal.exit_status(1), 0)
        self.assertFalse(procfs.listening(self.public))

    def test_quit_lets_them_finish(self):
        self.start_operated()
        stream = self.stream()
        self.kill_supervisor()
        self.restart()
        self.portal.signal(signal.SIGQUIT)
        wait.until("nobody is let in", lambda: not procfs.listening(self.public), 10)
        stream.exchange()
        stream.close()
        self.all_gone(15)
        self.assertEqual(self.portal.exit_status(1), 0)


@case.beyond_v2ray
class Configurations(operated.Orphaned):
    """They may be other ones at the restart."""

    def test_wrong_then_mended(self):
        self.start_operated()
        stream, tunnel, pids = self.stream(), self.tunnel_id(), self.portal.role("worker")
        self.kill_supervisor()
        self.config["inbounds"][0]["protocol"] = "nosuch"
        self.write()
        self.portal.spawn()
        self.assertEqual(self.portal.exit_status(10), 23)
        stream.exchange()
        self.assertTrue(visitors.fetches(self.public))
        self.assertEqual(self.portal.role("worker"), pids)
        self.config["inbounds"][0]["protocol"] = "dokodemo-door"
        self.write()
        self.restart()
        stream.exchange()
        self.assertEqual(self.tunnel_id(), tunnel)

    def test_port_in_use(self):
        """The orphans are adopted; it is their replacement that is refused."""
        self.start_operated()
        self.kill_supervisor()
        taken = ports.free_port()
        holder = self.start_origin(port=taken)
        self.add_door(taken, "second")
        self.write()
        self.restart()
        self.log_says("reload refused")
        self.assertIn(str(taken), self.ctl("status"))
        self.assertTrue(visitors.fetches(self.public))
        self.assertEqual(self.status()["generation"], 1)
        holder.stop()
        wait.until("the port is free", lambda: not procfs.listening(taken), 5)
        self.ctl("reload")
        visitors.fetch(taken)

    def test_other_ports(self):
        self.start_operated()
        self.kill_supervisor()
        old, self.public = self.public, ports.free_port()
        self.config["inbounds"][0]["port"] = self.public
        self.config["ebbgate"]["workers"] = 3
        self.write()
        self.restart()
        wait.until("the new port", lambda: procfs.listening(self.public), 10)
        self.await_service(5)
        wait.until("not the old one", lambda: not procfs.listening(old), 10)
        self.settled()
        self.assertEqual(len(self.portal.role("worker")), 3)


@case.beyond_v2ray
class Instances(operated.Orphaned):
    def test_a_second_one_is_refused(self):
        self.start_operated()
        for what in (lambda: None, lambda: self.ctl("upgrade"), self.killed_and_back):
            what()
            second = self.second()
            self.assertEqual(second.exit_status(10), 1)
            self.assertIn(f"already running as process {self.portal.main()},", second.log())
            os.unlink(second.log_path)
        self.assertTrue(visitors.fetches(self.public))

    def killed_and_back(self) -> None:
        self.kill_supervisor()
        self.restart()

    def test_a_third_one_while_the_first_still_leaves(self):
        self.start_operated()
        stream, old = self.stream(), self.portal.main()
        self.ctl("upgrade")
        self.kill_supervisor()
        self.assertTrue(procfs.alive(old))
        self.restart()
        self.assertNotEqual(self.portal.main(), old)
        self.await_service(10)
        stream.exchange()
        stream.close()
        self.gone([old])

    def test_orphans_do_not_talk_much(self):
        """Once when it happens, then about once a minute; without a supervisor nobody reads a flood."""
        self.start_operated()
        before, pids = len(self.portal.log()), len(self.portal.tree()) - 1
        self.kill_supervisor()

        def lines():
            return [x for x in self.portal.log()[before:].splitlines() if "supervisor" in x]
        wait.until("each says it", lambda: len(lines()) >= pids, 5)
        wait.holds("no more", lambda: len(lines()) == pids, 2)
        self.restart()

    def test_files(self):
        self.start_operated()
        children = len(self.portal.tree()) - 1
        self.assertEqual(len(self.sockets()), children + 1)
        for name in self.files():
            mode = os.stat(os.path.join(self.runtime(), name)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600, name)
        self.assertEqual(stat.S_IMODE(os.stat(self.runtime()).st_mode), 0o700)
        for _ in range(2):
            self.reload()
            self.settled()
        self.ctl("upgrade")
        wait.until("only those of living processes", lambda: len(self.sockets()) == children + 1, 10)
        self.kill_supervisor()
        self.restart()
        self.settled()
        wait.until("only those of living processes", lambda: len(self.sockets()) == children + 1, 10)
        self.portal.signal(signal.SIGTERM)
        self.all_gone(5)
        self.assertEqual(self.files(), {"lock", "instance", "registry"})

    def test_a_stale_registry_is_harmless(self):
        """Processes that are gone, and one whose pid is somebody else's by now."""
        self.start_operated()
        for pid in self.portal.tree():
            service.signal_if_there(pid, signal.SIGKILL)
        self.all_gone(5)
        other = subprocess.Popen(["sleep", "60"])
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        path = os.path.join(self.runtime(), "registry")
        with open(path, encoding="ascii") as f:
            text = f.read()
        self.assertEqual(text.count("\nchild "), 3)
        with open(path, "w", encoding="ascii") as f:
            f.write(re.sub(r"(?m)^(child \d+ broker \d+ \d+) \d+ ", rf"\1 {other.pid} ", text))
        self.restart()
        self.await_service(10)
        self.assertIsNone(other.poll())
        self.assertNotIn("adopted", self.portal.log())

    def test_a_registry_of_nonsense_is_harmless(self):
        for text in ("", "ebbgate-registry 1\n", "ebbgate-registry 1\nnumbers 1 1 1 1\nchild x\nchild 1 broker 1 0 1 1 ../x\n",
                     "ebbgate-registry 9\nnumbers", "\0" * 10000):
            with self.subTest(text=text[:60]):
                self.start_operated()
                self.portal.stop()
                with open(os.path.join(self.runtime(), "registry"), "w", encoding="ascii") as f:
                    f.write(text)
                self.restart()
                self.await_service(10)
                self.portal.stop()
                self.bridge.stop()

    def test_strangers_at_an_adoption_socket(self):
        """As long as there is a supervisor nobody is let in; and then nobody who does not say ADOPT."""
        self.start_operated()
        self.kill_supervisor()
        for name in self.sockets() - {"ctl.sock"}:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                stranger.connect(os.path.join(self.runtime(), name))
                stranger.send(b"\x00" * 32)
                stranger.settimeout(5)
                try:
                    while stranger.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
        self.assertTrue(visitors.fetches(self.public))
        self.restart()
        self.assertIn('process adopted name="broker b1"', self.portal.log())


@case.beyond_v2ray
class AdoptionV2RayBridge(operated.Orphaned):
    bridge_kind = "v2ray"

    def test_stock_bridge_keeps_its_tunnel(self):
        self.start_operated(tapped=True)
        stream = self.stream()
        self.kill_supervisor()
        self.restart()
        self.settled()
        link = self.tap.links[0]
        heard = len(link.times(tap.DOWN))
        wait.until("the heartbeat goes on", lambda: len(link.times(tap.DOWN)) > heard + 1, 8)
        stream.exchange()
        self.assertEqual(len(self.tap.links), 1)


if __name__ == "__main__":
    unittest.main()
