"""The service behind the bridge: one port, and the first line a visitor sends chooses what happens.

    GET ...                an HTTP page of 1 KiB; keep-alive unless "Connection: close" is asked for
    ECHO                   everything comes back until the visitor's end of stream
    SINK <n>               takes n bytes, answers their SHA-256 in hex and a newline, closes
    DROP <n>               takes n bytes unseen, answers "ok" and a newline, closes (for measuring)
    SOURCE <n>             sends n bytes of the pattern, then ends the stream
    BOTH <n>               SINK and SOURCE at once: n bytes out, then the hash of the n bytes in and a newline
    AFTER <ms> <text>      answers <text> after <ms>, whatever the visitor does meanwhile, and closes
    FIN <n>                sends n bytes and half-closes, then counts what still comes in
    RST <n>                sends n bytes and resets
    PROXY ...              a PROXY header of version 1: noted, then the next line chooses
    FLOOD                  sends the pattern until it is cut; `cut` says when
    PIECES <n> <ms> <size> n pieces of size bytes of the pattern, each <ms> after the one before (the first too), and closes
    STORE <name>           takes what comes until the visitor's end of stream: a transfer
    STORED <name>          answers "226 <bytes>" and a newline as soon as the transfer of that name has ended

Every connection leaves a Visit, so a test can ask when its target was dialled, closed or reset.
"""

import hashlib
import socket
import struct
import threading
import time

from . import pattern, ports

_LINE_LIMIT = 4096
_TIMEOUT = 60  # seconds without progress; a stuck visitor must not keep a thread for ever
BUFFER = 1 << 20
PAGE = (b"<!doctype html><title>ebbgate</title><p>behind the bridge</p>" + b"." * 1024)[:1024]


class Visit:
    """One accepted connection. Times are time.monotonic(); 0 = has not happened."""

    def __init__(self):
        self.accepted = time.monotonic()
        self.first_byte = self.eof = self.cut = 0.0
        self.ended = 0.0  # when we ended the stream ourselves
        self.received = self.sent = 0  # bytes; sent: by FLOOD, when a block of 1 MiB has gone into the kernel
        self.command = b""
        self.headers: list[bytes] = []  # PROXY lines in front of it

    @property
    def proxy(self) -> bytes:
        """The only PROXY line; b"": there was none."""
        assert len(self.headers) < 2, self.headers
        return b"".join(self.headers)


def reset(sock: socket.socket) -> None:
    """Closes with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Origin:
    """Threads in the test's own process: what costs CPU time there is never counted for the program under test."""

    def __init__(self, port: int = 0, greeting: bytes = b"", host: str = "127.0.0.1"):
        self.port, self._host = port or ports.free_port(), host
        self.visits: list[Visit] = []
        self._greeting = greeting
        self._open: set[socket.socket] = set()
        self._stores: dict[bytes, threading.Event] = {}
        self._sizes: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._listener = None

    def start(self) -> "Origin":
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self.port))
        listener.listen(1024)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def refuse(self) -> None:
        """Refuses from now on; what is open goes on."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(): a close alone would leave it listening
            self._listener.close()
            self._listener = None

    def stop(self) -> None:
        """Refuses from now on and ends what is open."""
        self.refuse()
        with self._lock:
            for sock in list(self._open):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def open_count(self) -> int:
        with self._lock:
            return len(self._open)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            visit = Visit()
            with self._lock:
                self.visits.append(visit)
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock, visit), daemon=True).start()

    def _serve(self, sock: socket.socket, visit: Visit) -> None:
        try:
            sock.settimeout(_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._greeting:
                sock.sendall(self._greeting)
            line, rest = self._line(sock, visit)
            while line:
                visit.command = line
                words = line.split()
                action = getattr(self, "_" + words[0].decode("ascii", "replace").lower(), None) if words else None
                if not action:
                    return
                rest = action(sock, visit, words, rest)
                if rest is None:
                    return
                line, rest = self._line(sock, visit, rest)
        except OSError:
            visit.cut = time.monotonic()
        finally:
            with self._lock:
                self._open.discard(sock)
            visit.ended = time.monotonic()
            sock.close()

    @staticmethod
    def _line(sock, visit, data: bytes = b"") -> tuple[bytes, bytes]:
        while b"\n" not in data and len(data) < _LINE_LIMIT:
            more = sock.recv(65536)
            if not more:
                visit.eof = time.monotonic()
                return b"", b""
            visit.first_byte = visit.first_byte or time.monotonic()
            visit.received += len(more)
            data += more
        line, _, rest = data.partition(b"\n")
        return line.rstrip(b"\r"), rest

    def _get(self, sock, visit, words, rest):
        close = False
        while True:
            line, rest = self._line(sock, visit, rest)
            if not line:
                break
            close |= line.lower() == b"connection: close"
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n%s\r\n" %
                     (len(PAGE), b"Connection: close\r\n" if close else b"") + PAGE)
        return None if close else rest

    def _proxy(self, sock, visit, words, rest):
        visit.headers.append(visit.command)
        return rest

    def _echo(self, sock, visit, words, rest):
        while True:
            if rest:
                sock.sendall(rest)
            rest = sock.recv(65536)
            visit.received += len(rest)
            if not rest:
                visit.eof = time.monotonic()
                return None

    def _sink(self, sock, visit, words, rest):
        sock.sendall(take(sock, int(words[1]), rest).encode() + b"\n")
        return None

    def _drop(self, sock, visit, words, rest):
        discard(sock, int(words[1]) - len(rest))
        sock.sendall(b"ok\n")
        return None

    def _source(self, sock, visit, words, rest):
        for part in pattern.blocks(int(words[1])):
            sock.sendall(part)
        return None

    def _both(self, sock, visit, words, rest):
        size, digest = int(words[1]), []
        taker = threading.Thread(target=lambda: digest.append(take(sock, size, rest)), daemon=True)
        taker.start()
        self._source(sock, visit, words, b"")
        taker.join()
        if digest:
            sock.sendall(digest[0].encode() + b"\n")
        return None

    def _after(self, sock, visit, words, rest):
        threading.Event().wait(int(words[1]) / 1000)
        sock.sendall(b" ".join(words[2:]))
        return None

    def _fin(self, sock, visit, words, rest):
        self._source(sock, visit, words, rest)
        sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65536):
            visit.received += len(more)
        visit.eof = time.monotonic()
        return None

    def _rst(self, sock, visit, words, rest):
        self._source(sock, visit, words, rest)
        reset(sock)
        return None

    def _pieces(self, sock, visit, words, rest):
        for _ in range(int(words[1])):
            threading.Event().wait(int(words[2]) / 1000)
            self._source(sock, visit, [b"", words[3]], b"")
        return None

    def _transfer(self, name: bytes) -> threading.Event:
        with self._lock:
            return self._stores.setdefault(name, threading.Event())

    def _store(self, sock, visit, words, rest):
        size = len(rest)
        while more := sock.recv(1 << 18):
            size += len(more)
        visit.eof = time.monotonic()
        self._sizes[words[1]] = size
        self._transfer(words[1]).set()
        return None

    def _stored(self, sock, visit, words, rest):
        self._transfer(words[1]).wait(_TIMEOUT)
        sock.sendall(b"226 %d\n" % self._sizes.get(words[1], -1))
        return rest

    def _flood(self, sock, visit, words, rest):
        while True:
            sock.sendall(pattern.BLOCK)
            visit.sent += len(pattern.BLOCK)


def take(sock: socket.socket, size: int, first: bytes = b"") -> str:
    """Reads exactly `size` bytes and returns their SHA-256; ConnectionError when the stream ends early."""
    digest = hashlib.sha256(first)
    left, buffer = size - len(first), memoryview(bytearray(BUFFER))
    while left > 0:
        got = sock.recv_into(buffer, min(left, BUFFER))
        if not got:
            raise ConnectionError(f"stream ended {left} bytes early")
        digest.update(buffer[:got])
        left -= got
    return digest.hexdigest()


def discard(sock: socket.socket, size: int) -> None:
    """Reads `size` bytes without having them copied; ConnectionError when the stream ends early."""
    buffer = bytearray(BUFFER)
    while size > 0:
        got = sock.recv_into(buffer, min(size, BUFFER), socket.MSG_TRUNC)
        if not got:
            raise ConnectionError(f"stream ended {size} bytes early")
        size -= got


class UdpListener:
    """A UDP socket that records every datagram and never answers."""

    def __init__(self, port: int):
        self.datagrams: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                return
            if self._socket.fileno() < 0:
                return
            self.datagrams.append(data)

    def stop(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes recvfrom()
        except OSError:
            pass
        self._socket.close()
