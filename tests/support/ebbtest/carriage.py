"""Stories about how streams are carried that hold for every peer; a test says which peers, and how long things may take."""

import os
import socket
import statistics
import threading
import time

from . import case, origin, pattern, procfs, programs, visitors, wait

TIMES = 10 if os.environ.get("EBB_PRESET") == "asan" else 1  # a sanitizer build may take that much longer


def median_ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def percentile(seconds: list[float], share: float) -> float:
    """Of fewer than 100, the 99th is the largest."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))]


def told(name: str, seconds: list[float]) -> str:
    """A line for the runner's report: the spread of what was measured."""
    at = [1000 * percentile(seconds, share) for share in (0.5, 0.99)]
    return f"| {name}: p50 {at[0]:.1f} ms, p99 {at[1]:.1f} ms, most {1000 * max(seconds):.1f} ms of {len(seconds)}"


class Story(case.PairCase):
    """A pair with shipped defaults."""

    def say(self, text: str) -> None:
        print(f"| {text}", flush=True)

    def measured(self, name: str, seconds: list[float], most_s: float, everyday_s: float = 0) -> None:
        """In the nightly form `most_s`, which is promised, holds for nine of ten: milliseconds are the machine's own now and
        then. Every day the median keeps it, of which a busy machine does not tell lies, or `everyday_s`."""
        print(told(name, seconds), flush=True)
        reached = percentile(seconds, case.promised(0.9, 0.5))
        self.assertLessEqual(reached, TIMES * case.promised(most_s, everyday_s or most_s), name)

    def flooded(self) -> socket.socket:
        """A visitor to whom the origin sends without end, once it does; he may have to wait for a tunnel."""
        known = len(self.web.visits)
        sock = self.connect(self.public)
        sock.sendall(b"FLOOD\n")
        wait.until("the origin serves him", lambda: any(v.command == b"FLOOD" for v in self.web.visits[known:]), 15)
        return sock

    def asked(self, command: bytes) -> tuple[socket.socket, origin.Visit]:
        """A visitor who has said `command`, and his connection as the origin sees it."""
        known = len(self.web.visits)
        sock = self.connect(self.public)
        sock.sendall(command)
        wait.until("the origin serves him",
                   lambda: any(v.command for v in self.web.visits[known:]), 5 + case.SLACK_S, step=0.002)
        return sock, next(v for v in self.web.visits[known:] if v.command)


class Closing(Story):
    """Ends of streams. Limits: what is promised between our own nodes."""

    close_s = 0.02      # from the visitor's close to the origin's end of stream
    transfer_s = 0.5    # an upload that is over when the visitor closes (FTP's STOR)
    end_s = 0.005       # from the origin's end of stream to the visitor's
    left_s = 2.0        # until nothing is left of visitors who have gone: those of a tunnel whose hello was under way need 1 s
    gap_ms = 10_000     # silence of a half-closed stream that is still worth waiting for
    early_gap_ms = 3000  # of one that began before its tunnel was known
    cancel_s = 2.0

    @case.alone  # milliseconds are measured
    def test_A12_a_visitors_close_reaches_the_origin(self):
        self.start_pair()
        took = []
        for _ in range(11):
            sock, visit = self.asked(b"ECHO\nhello")
            self.assertEqual(sock.recv(100), b"hello")
            begin = time.monotonic()
            sock.close()
            wait.until("the origin sees it", lambda visit=visit: visit.eof or visit.cut, 5, step=0.0005)
            took.append((visit.eof or visit.cut) - begin)
        self.measured("close seen by the origin", took, self.close_s)

    def test_an_upload_that_ends_with_a_close(self):
        """FTP's STOR: the answer comes on another connection once the origin has seen the end of this one."""
        self.start_pair()
        took = []
        for number in range(3):
            control = self.connect(self.public)
            control.sendall(b"STORED %d\n" % number)
            data = self.connect(self.public)
            begin = time.monotonic()
            data.sendall(b"STORE %d\n" % number)
            data.sendall(bytes(pattern.BLOCK[:100_000]))
            data.close()
            self.assertEqual(control.recv(100), b"226 100000\n")
            took.append(time.monotonic() - begin)
        self.measured("STOR", took, self.transfer_s)

    def test_150_clients_of_a_database_leave_nothing(self):
        self.start_pair()
        clients = [self.open_echo(self.public) for _ in range(150)]
        for client in clients:
            client.exchange()
        self.assertGreaterEqual(self.web.open_count(), 150)
        begin = time.monotonic()
        for client in clients:
            client.close()
        wait.until("no connection is left at the origin", lambda: self.web.open_count() == 0, 10, step=0.005)
        took = time.monotonic() - begin
        self.say(f"the last of 150 was gone after {1000 * took:.0f} ms")
        self.assertLess(took, TIMES * self.left_s + case.SLACK_S)

    def test_A12_half_closed_visitor_gets_all_pieces(self):
        self.start_pair()
        sock = self.connect(self.public)
        sock.sendall(b"PIECES 5 700 50000\n")
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(self._all_of(sock), 250_000)

    def test_A12_half_closed_visitor_waits_for_an_answer(self):
        """It begins `gap_ms` after his end of stream."""
        self.start_pair()
        sock, visit = self.asked(b"PIECES 1 %d 100000\n" % self.gap_ms)
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(self._all_of(sock), 100_000)

    def test_half_closed_before_there_was_a_tunnel(self):
        """His stream is older than the knowledge of who is at the other end; his answer begins `early_gap_ms` later."""
        self.start_pair()
        self.bridge.stop()
        sock = self.connect(self.public)
        sock.sendall(b"PIECES 1 %d 100000\n" % self.early_gap_ms)
        sock.shutdown(socket.SHUT_WR)
        self.bridge.start()
        self.assertEqual(self._all_of(sock), 100_000)

    @staticmethod
    def _all_of(sock: socket.socket) -> int:
        size = 0
        while more := sock.recv(1 << 16):
            size += len(more)
        return size

    @case.alone
    def test_the_origins_end_passes_without_delay(self):
        self.start_pair()
        took = []
        for _ in range(11):
            sock, visit = self.asked(b"AFTER 50 answer\n")
            self.assertEqual(sock.recv(100), b"answer")
            self.assertEqual(sock.recv(100), b"")
            took.append(self.since_end(visit))
        self.measured("the origin's end at the visitor", took, self.end_s)

    @case.alone
    def test_cancelled_download_costs_nothing(self):
        """Endless, cancelled after 4 MiB by a close or a reset: the origin is cut, and nobody works on for it."""
        self.start_pair()
        for how in (socket.socket.close, origin.reset):
            with self.subTest(how=how.__name__):
                sock, visit = self.asked(b"FLOOD\n")
                origin.discard(sock, 4 * pattern.MIB)
                begin = time.monotonic()
                how(sock)
                wait.until("the origin is cut", lambda visit=visit: visit.cut,
                           self.cancel_s + case.promised(0, case.SLACK_S), step=0.005)
                self.say(f"{how.__name__}: the origin was cut after {1000 * (visit.cut - begin):.0f} ms")
                wait.until("2 s have passed", lambda begin=begin: time.monotonic() > begin + 2, 3)
                for side in self.ours():
                    self.idle(side)

    @staticmethod
    def since_end(visit: origin.Visit) -> float:
        """Seconds since the origin ended the stream; 0 where the news was faster than its own note."""
        now = time.monotonic()
        return max(0.0, now - visit.ended) if visit.ended else 0.0

    def ours(self) -> list:
        return [side for side in (self.portal, self.bridge) if side.kind == "ours"]

    def idle(self, side: programs.Program, seconds: float = 2.0) -> None:
        before, begin = procfs.cpu_ns(side.pid), time.monotonic()
        wait.until("it was watched", lambda: time.monotonic() > begin + seconds, seconds + 1, step=0.25)
        busy = (procfs.cpu_ns(side.pid) - before) / 1e9 / (time.monotonic() - begin)
        self.say(f"{side.name}: {busy:.4f} of a core busy afterwards")
        self.assertLessEqual(busy, TIMES * 0.01, f"{side.name} goes on working")


class Readers(threading.Thread):
    """Reads all of `socks` in turn, `rate` bytes/s each (0: as fast as it goes), until stopped; counts what came."""

    def __init__(self, socks: list[socket.socket], rate: float = 0):
        super().__init__(daemon=True)
        self.bytes, self.ended = 0, 0
        self._socks, self._rate, self._over = list(socks), rate, threading.Event()
        for sock in self._socks:
            sock.setblocking(False)

    def __enter__(self) -> "Readers":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        self.join(5)

    def run(self) -> None:
        most = int(self._rate / 20) if self._rate else origin.BUFFER
        buffer, socks = bytearray(most), set(self._socks)
        while not self._over.is_set() and socks:
            got_any = False
            for sock in list(socks):
                try:
                    got = sock.recv_into(buffer, most, socket.MSG_TRUNC)
                except BlockingIOError:
                    continue
                except OSError:
                    got = 0
                if not got:
                    socks.discard(sock)
                    self.ended += 1
                self.bytes += got
                got_any = True
            if self._rate:
                self._over.wait(0.05)  # a twentieth of a second's worth was read
            elif not got_any:
                self._over.wait(0.001)

    def rate_over(self, seconds: float) -> float:
        """Bytes/s that come in the next `seconds`."""
        before, begin = self.bytes, time.monotonic()
        time.sleep(seconds)  # the interval of the measurement
        return (self.bytes - before) / (time.monotonic() - begin)
