"""WINCH: the workers leave and the queues stay; HUP ends it. spec/processes.md 10."""

import signal
import unittest

from ebbtest import case, operated, procfs, visitors, wait


@case.beyond_v2ray
class Maintenance(operated.Operated):
    def begin(self) -> None:
        self.portal.signal(signal.SIGWINCH)
        wait.until("the workers have left", lambda: not self.portal.role("worker"), 10)

    def waiting(self):
        """A client in the queue: connected, has asked, gets nothing yet."""
        sock = self.connect(self.public)
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        return sock

    def answered(self, sock) -> None:
        self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200"))

    def test_clients_wait_until_hup(self):
        self.start_operated()
        stream, tunnel = self.stream(), self.tunnel_id()
        self.begin()
        clients = [self.waiting() for _ in range(20)]
        clients[0].setblocking(False)
        wait.holds("nobody answers", lambda: self.silent(clients[0]), 0.5)
        clients[0].settimeout(visitors.TIMEOUT)
        stream.exchange()
        self.assertEqual(self.states(), {"supervisor": "active", "broker b1": "active"})
        self.portal.signal(signal.SIGHUP)
        for client in clients:
            self.answered(client)
        stream.exchange()
        self.assertIn(tunnel, [t["id"] for t in self.portal.tunnels()])
        self.assertEqual(len(self.portal.role("worker")), 2)

    @staticmethod
    def silent(sock) -> bool:
        try:
            sock.recv(1)
            return False
        except BlockingIOError:
            return True

    def test_a_reload_that_is_refused_leaves_it_as_it_is(self):
        self.start_operated()
        self.begin()
        client = self.waiting()
        self.config["inbounds"][0]["protocol"] = "nosuch"
        self.write()
        self.assertEqual(self.ctl_by_socket("reload")[0], 23)
        self.assertEqual(self.portal.role("worker"), [])
        self.config["inbounds"][0]["protocol"] = "dokodemo-door"
        self.write()
        self.ctl("reload")
        self.answered(client)

    def test_an_upgrade_ends_it_too(self):
        self.start_operated()
        self.begin()
        client = self.waiting()
        self.ctl("upgrade")
        self.answered(client)

    def test_a_dead_supervisor_ends_it_too(self):
        """The next one starts with a reload."""
        self.start_operated()
        self.begin()
        client = self.waiting()
        self.kill_supervisor()
        self.portal.spawn()
        self.answered(client)

    def test_is_refused_during_a_reload(self):
        self.probation = "20s"
        self.start_operated()
        self.reload()
        self.portal.signal(signal.SIGWINCH)
        self.log_says("WINCH refused")
        self.assertTrue(visitors.fetches(self.public))

    def test_a_bridge_has_no_workers(self):
        self.start_operated()
        self.bridge.signal(signal.SIGWINCH)
        wait.until("it says so", lambda: "WINCH refused" in self.bridge.log(), 5)

    def test_stops(self):
        for number in (signal.SIGTERM, signal.SIGQUIT):
            with self.subTest(signal=number):
                self.start_operated()
                self.begin()
                self.portal.signal(number)
                self.all_gone(15)
                self.assertEqual(self.portal.exit_status(1), 0)
                self.assertFalse(procfs.listening(self.public))
                self.bridge.stop()


if __name__ == "__main__":
    unittest.main()
