"""Starting, being asked to stop, and what an operator sees meanwhile: spec/processes.md 10, spec/config.md 2.3."""

import os
import resource
import signal
import socket
import time
import unittest

from ebbtest import case, configs, origin, ports, procfs, visitors, wait


@case.beyond_v2ray
class Starting(case.PairCase):
    def test_portal_first(self):
        self.make_pair()
        self.start_portal()
        self.bridge.start()
        self.await_service(3)

    def test_bridge_first(self):
        self.make_pair()
        self.bridge.start()
        wait.holds("the bridge waits for its portal", self.bridge.running, 3)
        self.start_portal()
        self.await_service(3)

    def test_visitor_that_is_early_waits_for_the_tunnel(self):
        """tunnelWait: 5 s. The page comes as soon as the bridge is there."""
        self.make_pair()
        self.start_portal()
        sock = self.connect(self.public)
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.bridge.start()
        self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200"))

    def test_visitor_without_any_tunnel_is_let_go(self):
        self.make_pair(portal_extra={"ebbgate": {"timers": {"tunnelWait": "1s"}}})
        self.start_portal()
        begin = time.monotonic()
        sock = self.connect(self.public)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertIn(visitors.ending(sock, 5), ("rst", "fin"))
        self.assertGreater(time.monotonic() - begin, 0.5)

    def test_port_in_use_is_named_with_its_holder(self):
        taken = ports.free_port()
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", taken))
            holder.listen(1)
            portal = self.program("ours", "portal", configs.portal(taken, ports.free_port(), 1)).start()
            self.assertEqual(portal.exit_status(10), 1)
            self.assertIn(str(taken), portal.log())
            self.assertIn(f"process {os.getpid()}", portal.log())

    def test_second_start_names_the_first(self):
        self.make_pair()
        self.start_portal()
        second = self.program("ours", "second", "{}")
        second.config_path, second.environment = self.portal.config_path, self.portal.environment
        second.start()
        self.assertEqual(second.exit_status(10), 1)
        self.assertIn(str(self.portal.pid), second.log())
        self.assertTrue(procfs.listening(self.public))

    def test_titles_tell_roles(self):
        self.start_pair(portal_extra={"ebbgate": {"workers": 2}})
        wait.until("workers and a broker", lambda: len(self.portal.role("worker")) == 2 and self.portal.role("broker"), 3)
        self.assertRegex(procfs.title(self.portal.pid), "^ebbgate.*supervisor")
        self.assertEqual(len(self.portal.role("broker")), 1)
        for pid in self.portal.tree()[1:]:
            self.assertRegex(procfs.title(pid), "^ebbgate.*(worker|broker)")
            with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                self.assertIn("ebb", f.read())
        self.assertEqual(self.bridge.role("worker"), [], "a pure bridge needs no workers")


@case.beyond_v2ray
class Stopping(case.PairCase):
    def gone(self, program, seconds: float) -> None:
        tree = program.tree()
        self.assertEqual(program.exit_status(seconds), 0)
        wait.until("no process is left", lambda: not any(procfs.alive(p) for p in tree), 2)

    def test_term_idle(self):
        self.start_pair()
        for program in (self.bridge, self.portal):
            program.signal(signal.SIGTERM)
            self.gone(program, 7.5)
        self.assertFalse(procfs.listening(self.public))

    def test_term_cuts_what_does_not_end(self):
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        self.portal.signal(signal.SIGTERM)
        self.gone(self.portal, 7.5)
        self.assertIn(visitors.ending(stream.sock, 1), ("rst", "fin"))

    def test_second_term_means_now(self):
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        self.portal.tree()
        self.portal.signal(signal.SIGTERM)
        wait.holds("the first TERM drains", lambda: True, 0.3)
        self.portal.signal(signal.SIGTERM)
        self.gone(self.portal, 1.5)

    def test_int_is_term(self):
        """Also outside a terminal, where it once waited for the last stream."""
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        self.portal.signal(signal.SIGINT)
        self.gone(self.portal, 7.5)
        self.assertIn(visitors.ending(stream.sock, 1), ("rst", "fin"))

    def test_quit_finishes_what_is_open(self):
        self.start_pair()
        stream = self.open_echo(self.public)
        stream.exchange()
        self.portal.signal(signal.SIGQUIT)
        wait.until("no new connections", lambda: not procfs.listening(self.public), 5)
        wait.holds("the stream goes on", lambda: stream.exchange() < 1, 2, step=0.2)
        stream.close()
        self.gone(self.portal, 15)

    def test_stop_in_the_middle_of_starting(self):
        for delay in (0.0, 0.01, 0.03, 0.1):
            self.make_pair()
            self.portal.start()
            deadline = time.monotonic() + delay
            wait.until("the moment has come", lambda: time.monotonic() >= deadline, 1, step=0.005)
            self.portal.signal(signal.SIGTERM)
            status = self.portal.exit_status(8)
            self.assertIn(status, (0, -signal.SIGTERM), "TERM before the program set up its signals is the kernel's")


@case.beyond_v2ray
class Limits(case.PairCase):
    exclusive = True

    def test_fd_table_full_clients_wait_in_the_kernel_queue(self):
        self.make_pair()
        self.portal._limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (712, 712))
        self.start_portal()
        self.bridge.start()
        self.await_service(10)
        waiting = []
        for _ in range(1000):
            sock = self.connect(self.public)
            sock.sendall(b"ECHO\nx")
            waiting.append(sock)
        served = self.served(waiting)
        self.assertGreater(len(served), 50)
        self.assertLess(len(served), 1000, "the limit was reached, or this proves nothing")
        while waiting:
            self.assertTrue(served, "those who wait are served once others are gone")
            for sock in served:
                waiting.remove(sock)
                origin.reset(sock)
            if waiting:
                served = self.served(waiting)
        self.assertTrue(visitors.fetches(self.public))

    def served(self, socks: list) -> list:
        """Those that have their echo, once no more get it (0.7 s; 5 s for the first). A closed or reset one fails the test."""
        found, left = [], list(socks)
        deadline = time.monotonic() + 5
        while left and time.monotonic() < deadline:
            for sock in list(left):
                sock.setblocking(False)
                try:
                    got = sock.recv(1)
                except BlockingIOError:
                    continue
                self.assertEqual(got, b"x", "a waiting client was turned away")
                left.remove(sock)
                found.append(sock)
                deadline = time.monotonic() + 0.7
            time.sleep(0.05)
        return found

    def test_no_descriptor_is_left_behind(self):
        self.start_pair()
        self.assertEqual(visitors.short_connections(self.public, 50, 10), [])
        wait.until("quiet", lambda: self.web.open_count() == 0, 5)
        every = [*self.portal.tree(), *self.bridge.tree()]
        before = {pid: procfs.fd_count(pid) for pid in every}
        self.assertEqual(visitors.short_connections(self.public, 1000, 25), [])
        wait.until("quiet", lambda: self.web.open_count() == 0, 5)
        wait.until("as many descriptors as before, but for a few tunnels",
                   lambda: all(procfs.fd_count(pid) <= before[pid] + 8 for pid in every), 10)


if __name__ == "__main__":
    unittest.main()
