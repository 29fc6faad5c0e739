"""A TCP proxy between bridge and portal that notes when how many bytes went which way, without understanding them, and that
can be a bad path: cut, standing still, a black hole, refusing."""

import contextlib
import socket
import threading
import time

from . import origin, ports

UP, DOWN = "up", "down"  # bridge to portal, portal to bridge


class Link:
    """One tunnel as seen on the wire. `events`: (time.monotonic(), UP or DOWN, bytes; 0 = end of stream)."""

    def __init__(self, dialler: socket.socket, listener: socket.socket):
        self.opened, self.closed_by = time.monotonic(), ""  # UP: the bridge ended first; DOWN: the portal did
        self.closed = 0.0
        self.events: list[tuple[float, str, int]] = []
        self.openings = {UP: b"", DOWN: b""}  # the first 4 KiB each way
        self.black_hole = False  # nothing passes any more, the news of an end neither
        self.sockets = {UP: dialler, DOWN: listener}  # where bytes of that direction come from

    @property
    def opening(self) -> bytes:
        """What the bridge sent first, to be replayed."""
        return self.openings[UP]

    def total(self, way: str) -> int:
        return sum(n for _, w, n in list(self.events) if w == way)

    def times(self, way: str) -> list[float]:
        return [t for t, w, n in list(self.events) if w == way and n]

    def alive(self) -> bool:
        return not self.closed

    def ended_by_portal(self) -> bool:
        """The portal closed first, or its last bytes (VMess's end mark) came just before: V2Ray closes 1 s after them."""
        said, heard = self.times(DOWN), self.times(UP)
        if not self.closed:
            return False
        return self.closed_by == DOWN or bool(said and said[-1] > max(self.closed - 1.5, *heard[-1:], 0))

    def cut(self) -> None:
        """Ends both sides at once, as a broken path would."""
        for sock in self.sockets.values():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Tap:
    """Listens on `port`, dials `target` per connection. Down-stream bytes wait while `hold_down` is set."""

    def __init__(self, target: int):
        self.port, self.target = ports.free_port(), target
        self.links: list[Link] = []
        self._flow = threading.Event()
        self._flow.set()
        self.listen()

    def listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """No tunnel can be dialled until listen(); those that are there go on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(): a close alone would leave it listening
        self._listener.close()

    def hold_down(self) -> None:
        self._flow.clear()

    def release_down(self) -> None:
        self._flow.set()

    def alive(self) -> list[Link]:
        return [link for link in self.links if link.alive()]

    def stop(self) -> None:
        self._flow.set()
        self.refuse()
        for link in self.links:
            link.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                dialler, _ = listener.accept()
            except OSError:
                return
            try:
                portal = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                origin.reset(dialler)
                continue
            link = Link(dialler, portal)
            for sock in (dialler, portal):
                sock.settimeout(None)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.links.append(link)
            for way in (UP, DOWN):
                threading.Thread(target=self._pump, args=(link, way), daemon=True).start()

    def _pump(self, link: Link, way: str) -> None:
        source, sink = link.sockets[way], link.sockets[DOWN if way == UP else UP]
        buffer, ended_by = memoryview(bytearray(1 << 18)), way
        try:
            while got := source.recv_into(buffer):
                link.events.append((time.monotonic(), way, got))
                if way == DOWN:
                    self._flow.wait(60)
                if len(link.openings[way]) < 4096:
                    link.openings[way] += bytes(buffer[:got])
                if link.black_hole:
                    continue
                ended_by = DOWN if way == UP else UP  # when the write fails it is the reader that went away
                sink.sendall(buffer[:got])
                ended_by = way
        except OSError:
            pass
        if not link.closed:
            link.closed, link.closed_by = time.monotonic(), ended_by
        link.events.append((time.monotonic(), way, 0))
        if link.black_hole:
            return
        for sock in (sink, source):
            with contextlib.suppress(OSError):  # tunnels know no half-close: what one side ended is over
                sock.shutdown(socket.SHUT_RDWR if sock is source else socket.SHUT_WR)
