"""UDP: a service behind the bridge, and clients of the portal's door. What tests of flows share."""

import json
import socket
import threading
import time


class Service:
    """Echoes every datagram to who sent it; "give N" is answered with N bytes. Counts what comes."""

    def __init__(self, port: int):
        self.received = 0
        self.largest = 0
        self.peers: set = set()
        self.last = None  # whom the last datagram came from
        self.datagrams: dict = {}  # by peer, in the order in which they came; kept on demand
        self.keeps = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                data, peer = self.socket.recvfrom(65536)
            except OSError:
                return
            if self.socket.fileno() < 0 or not peer:
                return
            self.received += 1
            self.largest = max(self.largest, len(data))
            self.peers.add(peer)
            self.last = peer
            if self.keeps:
                self.datagrams.setdefault(peer, []).append(data)
            answer = bytes(int(data[5:])) if data.startswith(b"give ") else data
            try:
                self.socket.sendto(answer, peer)
            except OSError:
                pass  # that one has gone

    def stop(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes recvfrom()
        except OSError:
            pass
        self._thread.join(5)  # it holds the port while it is in recvfrom()
        self.socket.close()


class Client:
    """One flow: what it sends comes from one address."""

    def __init__(self, port: int, own: str = ""):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((own, 0))
        self.socket.connect(("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def receive(self, seconds: float = 5) -> bytes | None:
        """The next datagram; None when none comes in time."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(65536)
        except (TimeoutError, ConnectionRefusedError):
            return None

    def ask(self, data: bytes, seconds: float = 5) -> bytes | None:
        self.send(data)
        return self.receive(seconds)

    def ask_until(self, data: bytes, seconds: float = 10) -> bytes:
        """Asks again and again, as a client of a protocol over UDP does; AssertionError when nobody answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (answer := self.ask(data, 0.25)) is not None:
                return answer
        raise AssertionError(f"no answer within {seconds:g} s")

    def close(self) -> None:
        self.socket.close()


class UdpPair:
    """Beside case.PairCase: the portal's door is open for UDP, too, and a Service has the web page's port."""

    network = "tcp,udp"

    def make_pair(self, *args, **options) -> None:
        super().make_pair(*args, **options)
        config = getattr(self.portal, "config", None)
        if config is not None:  # an operated service writes its configuration itself
            config["inbounds"][0]["settings"]["network"] = self.network
            self.portal.configure()
        else:
            with open(self.portal.config_path, encoding="utf-8") as f:
                config = json.load(f)
            config["inbounds"][0]["settings"]["network"] = self.network
            with open(self.portal.config_path, "w", encoding="utf-8") as f:
                json.dump(config, f)
        self.service = Service(self.web.port)
        self.addCleanup(self.service.stop)

    def client(self, port: int = 0, own: str = "") -> Client:
        it = Client(port or self.public, own)
        self.addCleanup(it.close)
        return it
