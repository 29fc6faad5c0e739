"""A bridge of a dialect no installed program speaks, as far as a portal can tell: frames without a protocol below.

The portal registers such a connection when it comes over loopback to a dokodemo-door whose address is the portal's domain.
What each dialect does with its own and with foreign control names was measured; common/reverse/portal_tunnel.cc probes by it.
"""

import socket
import struct
import threading
import time

NAMES = {"v2ray": "reverse.internal.v2ray.com", "v2fly": "reverse.internal.v2fly.org", "xray": "reverse"}
ALL_NAMES = {*NAMES.values(), "reverse.internal.example.com"}
_NEW, _KEEP, _END, _KEEP_ALIVE = 1, 2, 3, 4
_DATA, _ERROR = 1, 2
_WRONG_NAME_S = 1.0  # how long a V2Ray takes to end a stream whose name it cannot resolve, after the portal's End


class FakeBridge:
    """Connects to `port` and leads every TCP stream to 127.0.0.1:`origin`. `dialect`: "v2ray", "v2fly" or "xray".
    `address`: where it comes from, 127.x.x.x: a portal takes the stock tunnels of one address for those of one bridge."""

    def __init__(self, port: int, origin: int, dialect: str, address: str, silence_limit: float = 60):
        """`silence_limit`: an Xray bridge closes a tunnel that was told nothing under its own name for so long."""
        self.name, self._xray = NAMES[dialect], dialect == "xray"
        self._origin, self._silence_limit = origin, silence_limit
        self.beats = 0  # messages under our own name
        self.visits = 0
        self.drained = False
        self.closed_for_silence = False
        self._told = time.monotonic()
        self._streams = {}  # id -> the origin's socket, or the name of a UDP stream
        self._lock = threading.Lock()
        self._sock = socket.create_connection(("127.0.0.1", port), 10, (address, 0))
        self._sock.settimeout(1)
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def alive(self) -> bool:
        return not self._over.is_set()

    def close(self) -> None:
        self._over.set()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _send(self, stream: int, status: int, data: bytes | None = None, error: bool = False) -> None:
        options = (_DATA if data is not None else 0) | (_ERROR if error else 0)
        frame = struct.pack(">HHBB", 4, stream, status, options)
        if data is not None:
            frame += struct.pack(">H", len(data)) + data
        with self._lock:
            try:
                self._sock.sendall(frame)
            except OSError:
                self._over.set()

    def _take(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            try:
                more = self._sock.recv(count - len(out))
            except TimeoutError:
                if self._over.is_set():
                    raise ConnectionError from None
                if self._xray and time.monotonic() - self._told > self._silence_limit:
                    self.closed_for_silence = True
                    raise ConnectionError from None
                continue
            if not more:
                raise ConnectionError
            out += more
        return out

    def _run(self) -> None:
        try:
            while True:
                head = self._take(struct.unpack(">H", self._take(2))[0])
                data = self._take(struct.unpack(">H", self._take(2))[0]) if head[3] & _DATA else b""
                self._on_frame(struct.unpack(">H", head[:2])[0], head[2], head[3], head[4:], data)
        except OSError:
            pass
        self._over.set()
        self._sock.close()
        for each in list(self._streams.values()):
            if isinstance(each, socket.socket):
                each.close()

    def _on_frame(self, stream: int, status: int, options: int, target: bytes, data: bytes) -> None:
        if status == _NEW:
            self._open(stream, target)
        known = self._streams.get(stream)
        if status == _KEEP and known is None:
            self._send(stream, _END)  # however little it carries: so a portal asks whether anybody is there
        elif status in (_NEW, _KEEP) and data:
            if isinstance(known, str):
                self._on_control(known, data)
            elif known is not None:
                try:
                    known.sendall(data)
                except OSError:
                    pass
        if status == _END and known is not None:
            self._end(stream, known, bool(options & _ERROR))

    def _open(self, stream: int, target: bytes) -> None:
        if target[0] == 2:  # UDP
            self._streams[stream] = target[5:5 + target[4]].decode() if target[3] == 2 else ""
            return
        self.visits += 1
        try:
            origin = socket.create_connection(("127.0.0.1", self._origin), 10)
        except OSError:
            return self._send(stream, _END, error=True)
        self._streams[stream] = origin
        threading.Thread(target=self._pump, args=(stream, origin), daemon=True).start()

    def _on_control(self, name: str, message: bytes) -> None:
        if name != self.name:
            return
        self._told = time.monotonic()
        self.beats += 1
        self.drained = self.drained or message.startswith(b"\x08\x01")

    def _end(self, stream: int, known, error: bool) -> None:
        if isinstance(known, socket.socket):
            try:
                known.shutdown(socket.SHUT_RDWR if error else socket.SHUT_WR)
            except OSError:
                pass
            return
        del self._streams[stream]
        if self._xray:
            self._send(stream, _END, error=True)
        elif known != self.name:
            threading.Timer(_WRONG_NAME_S, self._send, (stream, _END), {"error": True}).start()

    def _pump(self, stream: int, origin: socket.socket) -> None:
        try:
            while data := origin.recv(8192):
                self._send(stream, _KEEP, data)
            self._send(stream, _END)
        except OSError:
            self._send(stream, _END, error=True)
        self._streams.pop(stream, None)
        origin.close()
