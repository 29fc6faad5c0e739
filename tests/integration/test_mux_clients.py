"""Hostile clients of a VMess inbound who use mux: what they open and never read costs one worker a bounded amount, and
nobody else notices. A stock V2Ray speaks for them; the worker has shipped defaults but for what a test says."""

import json
import os
import select
import socket
import threading
import time
import unittest

from ebbtest import case, pattern, ports, procfs, service, visitors, wait

_USER = "b831381d-6324-4d53-ad4f-8cda48b30811"


def _server(tunnel: int, public: int, origin: int, settings: dict) -> dict:
    return {
        "log": {"loglevel": "warning"},
        "inbounds": [
            {"tag": "mux", "listen": "127.0.0.1", "port": tunnel, "protocol": "vmess",
             "settings": {"clients": [{"id": _USER, "alterId": 0}]}},
            {"tag": "public", "listen": "127.0.0.1", "port": public, "protocol": "dokodemo-door",
             "settings": {"address": "127.0.0.1", "port": origin, "network": "tcp"}}],
        "outbounds": [{"tag": "out", "protocol": "freedom"}],
        "ebbgate": {"workers": 1, **settings}}


def _client(tunnel: int, doors: dict[int, int], concurrency: int) -> str:
    """`doors`: port -> the port it leads to, through mux connections of `concurrency` streams; each door has its own."""
    out = [{"tag": f"to-{port}", "protocol": "vmess", "mux": {"enabled": True, "concurrency": concurrency},
            "settings": {"vnext": [{"address": "127.0.0.1", "port": tunnel,
                                    "users": [{"id": _USER, "alterId": 0, "security": "aes-128-gcm"}]}]}}
           for port in doors]
    return json.dumps({
        "log": {"loglevel": "error"},
        "inbounds": [{"tag": f"door-{port}", "listen": "127.0.0.1", "port": port, "protocol": "dokodemo-door",
                      "settings": {"address": "127.0.0.1", "port": to, "network": "tcp"}}
                     for port, to in doors.items()],
        "outbounds": out,
        "routing": {"rules": [{"type": "field", "inboundTag": [f"door-{port}"], "outboundTag": f"to-{port}"}
                              for port in doors]}})


class Deaf:
    """A service that takes every connection and reads nothing."""

    def __init__(self):
        self.port = ports.free_port()
        self.taken: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.taken.append(self._listener.accept()[0])
            except OSError:
                return

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in [self._listener, *self.taken]:
            sock.close()


class Pushers(threading.Thread):
    """Send without end on all of `socks`, as much as each takes."""

    def __init__(self, socks: list[socket.socket]):
        super().__init__(daemon=True)
        self.sent, self._socks, self._over = 0, set(socks), threading.Event()
        for sock in socks:
            sock.setblocking(False)

    def run(self) -> None:
        while not self._over.is_set() and self._socks:
            _, writable, _ = select.select([], list(self._socks), [], 0.1)
            for sock in writable:
                try:
                    self.sent += sock.send(pattern.BLOCK)
                except BlockingIOError:
                    pass
                except OSError:
                    self._socks.discard(sock)

    def stop(self) -> None:
        self._over.set()
        self.join(5)


@case.beyond_v2ray
class MuxClients(case.ProgramCase):
    exclusive = True  # moves bulk data
    limit_s = 180

    def kinds(self) -> tuple:
        return ("ours", "v2ray")

    def start(self, concurrency: int, doors: dict[int, int], open_files: int = 0, **settings) -> None:
        """self.server with one worker, and self.client with `doors` and one more, self.honest, that leads to the web page."""
        self.public, self.tunnel, self.honest = (ports.free_port() for _ in range(3))
        config = _server(self.tunnel, self.public, self.web.port, settings)
        self.server = service.Service("ours", "server", self.directory, config, open_files=open_files)
        self.programs.append(self.server)
        self.addCleanup(self._end, self.server)
        doors = {**doors, self.honest: self.web.port}
        self.client = self.program("v2ray", "client", _client(self.tunnel, doors, concurrency))
        self.server.start(listens=self.public)
        self.client.start(listens=self.honest)
        for port in doors:
            wait.until("the door is open", lambda port=port: procfs.listening(port), 5)
        self.assertTrue(visitors.fetches(self.public) and visitors.fetches(self.honest))

    def served(self) -> None:
        """Honest visitors of the same worker, with mux and without."""
        for port in (self.public, self.honest):
            begin = time.monotonic()
            visitors.fetch(port, 10)
            self.assertLess(time.monotonic() - begin, 1 + case.SLACK_S)

    @staticmethod
    def stands_still(value) -> None:
        seen = {"value": -1, "since": time.monotonic()}

        def still() -> bool:
            now = value()
            if now != seen["value"]:
                seen.update(value=now, since=time.monotonic())
            return time.monotonic() - seen["since"] > 1
        wait.until("everything that is to be filled is full", still, 60, step=0.1)

    def test_memory_of_those_who_never_read(self):
        """Downloads nobody reads and uploads nobody takes, on one mux connection each."""
        limit, count = 16 * pattern.MIB, 40
        self.web = self.start_origin()
        deaf = Deaf()
        self.addCleanup(deaf.stop)
        down, up = ports.free_port(), ports.free_port()
        self.start(1, {down: self.web.port, up: deaf.port}, limits={"memory": limit})
        worker = self.server.role("worker")[0]
        before = procfs.peak_bytes(worker)
        readers = [self.connect(down) for _ in range(count)]
        for sock in readers:
            sock.sendall(b"FLOOD\n")
        wait.until("all downloads run", lambda: sum(v.command == b"FLOOD" for v in self.web.visits) == count, 20)
        self.stands_still(lambda: sum(v.sent for v in self.web.visits))
        self.served()
        pushers = Pushers([self.connect(up) for _ in range(count)])
        self.addCleanup(pushers.stop)
        pushers.start()
        self.stands_still(lambda: pushers.sent)
        self.served()
        grown = procfs.peak_bytes(worker) - before
        print(f"| {2 * count} hostile mux connections: {grown / pattern.MIB:.1f} MiB at most, "
              f"{pushers.sent / pattern.MIB:.0f} MiB were taken of what nobody reads", flush=True)
        # Each has a block or two of its own, however little the process may have, and up to one read in flight. The address
        # sanitizer keeps 256 MiB of what was freed.
        freed = 256 * pattern.MIB if os.environ.get("EBB_PRESET") == "asan" else 0
        self.assertLess(grown, limit + 2 * count * (256 << 10) + 8 * pattern.MIB + freed)

    def test_a_flood_of_streams_keeps_nobody_out(self):
        """600 on one mux connection, of a worker that may have 1,024 descriptors: far fewer are served."""
        self.web = self.start_origin()
        deaf = Deaf()
        self.addCleanup(deaf.stop)
        door = ports.free_port()
        self.start(1024, {door: deaf.port}, open_files=1024)
        flood = [self.connect(door) for _ in range(600)]
        for sock in flood:
            sock.sendall(b"x")
        self.stands_still(lambda: len(deaf.taken))
        self.served()
        wait.until("each is served or refused", lambda: len(deaf.taken) + self.mux_refused() >= len(flood), 10)
        self.served()
        self.assertLessEqual(len(deaf.taken), 192)
        self.assertGreaterEqual(len(deaf.taken), 100, "what there is room for is served")
        said = [line for line in self.server.log().splitlines() if "too many connections" in line]
        self.assertTrue(said)
        self.assertLess(len(said), 10)
        self.assertEqual(self.counts()["mux_malformed"], 0, "he keeps to the rules")
        for sock in flood:
            sock.close()
        wait.until("they have left", lambda: self.counts()["connections"] < 10, 10)
        known = len(deaf.taken)
        self.connect(door).sendall(b"x")
        wait.until("there is room again", lambda: len(deaf.taken) > known, 10)

    def counts(self) -> dict:
        worker = next(p for p in self.server.status()["processes"] if p["role"] == "worker")
        return {"connections": worker["connections"], **worker["counts"]}

    def mux_refused(self) -> int:
        return self.counts().get("mux_streams_refused", 0)


if __name__ == "__main__":
    unittest.main()
