"""What visitors of the portal do. Each function opens its own connection to 127.0.0.1 and closes it."""

import concurrent.futures
import contextlib
import socket
import threading
import time

from . import origin, pattern

TIMEOUT = 30  # seconds without progress


def connect(port: int, timeout: float = TIMEOUT) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def fetch(port: int, timeout: float = TIMEOUT) -> bytes:
    """The origin's page over one short connection; OSError or ConnectionError when it is not what was served.

    Closes as soon as the page is complete, as HTTP clients do: with V2Ray on a side the end of stream is a second late.
    """
    with connect(port, timeout) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        answer = b""
        while not answer.endswith(origin.PAGE) and (more := sock.recv(65536)):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200") or body != origin.PAGE:
        raise ConnectionError(f"not the page: {len(answer)} bytes, {answer[:60]!r}")
    return body


def fetches(port: int, timeout: float = 2) -> bool:
    """Whether the page can be fetched now; for polling."""
    try:
        fetch(port, timeout)
        return True
    except OSError:
        return False


def download(port: int, size: int) -> str:
    """SHA-256 of `size` bytes from the origin; checks that the stream ends there."""
    with connect(port) as sock:
        sock.sendall(b"SOURCE %d\n" % size)
        digest = origin.take(sock, size)
        if sock.recv(1):
            raise ConnectionError("more bytes than were asked for")
    return digest


def upload(port: int, size: int) -> str:
    """Sends `size` bytes of the pattern; the SHA-256 that the origin computed."""
    with connect(port) as sock:
        sock.sendall(b"SINK %d\n" % size)
        for part in pattern.blocks(size):
            sock.sendall(part)
        return _line(sock)


def both_ways(port: int, size: int) -> tuple[str, str]:
    """`size` bytes each way at once: (hash of what came down, hash the origin computed of what went up)."""
    with connect(port) as sock:
        sock.sendall(b"BOTH %d\n" % size)

        def send():
            with contextlib.suppress(OSError):  # the reading side reports a broken stream
                for part in pattern.blocks(size):
                    sock.sendall(part)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        down = origin.take(sock, size)
        up = _line(sock)
        sender.join(TIMEOUT)
    return down, up


def _line(sock: socket.socket) -> str:
    answer = b""
    while not answer.endswith(b"\n"):
        more = sock.recv(4096)
        if not more:
            raise ConnectionError(f"stream ended after {answer!r}")
        answer += more
    return answer.decode().strip()


def short_connections(port: int, count: int, parallel: int) -> list[str]:
    """Fetches the page `count` times, `parallel` at a time. What went wrong, one line each; empty when nothing did."""
    failures = []

    def one(number: int):
        try:
            fetch(port)
        except OSError as error:
            failures.append(f"connection {number}: {error!r}")

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        list(pool.map(one, range(count)))
    return failures


class Echo:
    """A long-lived visitor: `exchange()` sends a line and expects it back on the same stream."""

    def __init__(self, port: int, timeout: float = TIMEOUT):
        self.sock = connect(port, timeout)
        self._number = 0
        self.sock.sendall(b"ECHO\n")

    def exchange(self) -> float:
        """Seconds it took; ConnectionError when the stream ended or somebody else's bytes came."""
        self._number += 1
        sent = b"%d-%d;" % (id(self), self._number)
        begin = time.monotonic()
        self.sock.sendall(sent)
        got = b""
        while len(got) < len(sent):
            more = self.sock.recv(4096)
            if not more:
                raise ConnectionError("stream ended")
            got += more
        if got != sent:
            raise ConnectionError(f"sent {sent!r}, got {got!r}")
        return time.monotonic() - begin

    def close(self) -> None:
        self.sock.close()


def ending(sock: socket.socket, seconds: float) -> str:
    """Reads until the stream ends: "fin", "rst", or "open" when it does not end within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            if not sock.recv(1 << 18):
                return "fin"
        except TimeoutError:
            return "open"
        except OSError:
            return "rst"
        if time.monotonic() > deadline:
            return "open"


class Load:
    """Visitors in the background: `rate` short connections a second, each fetching the page, until stopped."""

    def __init__(self, port: int, rate: float, parallel: int = 16, timeout: float = 10):
        self.done, self.failures = 0, []
        self._port, self._gap, self._timeout = port, parallel / rate, timeout
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(parallel)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)

    def _run(self) -> None:
        while not self._stop.wait(self._gap):
            begin = time.monotonic()
            try:
                fetch(self._port, self._timeout)
                self.done += 1
            except OSError as error:
                self.failures.append(f"after {time.monotonic() - begin:.2f} s: {error!r}")
