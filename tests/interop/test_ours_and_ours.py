"""Ours on both ends, spec/reverse.md 11 D: what they say to each other, a path that swallows all, and a stock program that takes
the place of either. D2 to D4 need no other program and are in integration/: README.md says where."""

import socket
import time
import unittest

from ebbtest import case, configs, operated, pattern, ports, tap, visitors, wait

SLACK = case.SLACK_S
SIZE = pattern.bulk(64 * pattern.MIB)
FEATURES = 0x3f  # credit, half-close, source address, ping, per-packet address, abort reason


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """(stream, status, payload) of every whole mux frame."""
    out, at = [], 0
    while at + 6 <= len(data):
        meta = int.from_bytes(data[at:at + 2], "big")
        stream, status, options = int.from_bytes(data[at + 2:at + 4], "big"), data[at + 4], data[at + 5]
        at += 2 + meta
        size = 0
        if options & 1:
            size = int.from_bytes(data[at:at + 2], "big")
            at += 2
        if at + size > len(data):
            break
        out.append((stream, status, data[at:at + size]))
        at += size
    return out


def fields(message: bytes) -> dict[int, int | bytes]:
    """Of a protobuf message whose fields are numbers and bytes."""
    out, at = {}, 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            out[tag >> 3] = number()
        elif tag & 7 == 1:
            out[tag >> 3], at = message[at:at + 8], at + 8
        else:
            size = number()
            out[tag >> 3], at = message[at:at + size], at + size
    return out


def hello(opening: bytes) -> dict[int, int | bytes]:
    """Fields of the first hello in what one side sent; {}: there is none."""
    for _, status, payload in frames(opening):
        if status in (1, 2) and payload and 1000 in (control := fields(payload)):
            return fields(control[1000])
    return {}


@case.beyond_v2ray
class D1Hello(operated.Operated):
    """The bridge registers over a plain door, which loopback may, so the frames can be read on their way."""

    def test_D1_hello_within_a_round_trip_and_the_same_features(self):
        self.make_pair(tapped=True)
        plain = ports.free_port()
        self.portal.configure(lambda config: self.add_plain(config, plain))
        self.tap.target = plain
        self.bridge.configure(lambda config: config["outbounds"].__setitem__(1, {
            "tag": "interconn", "protocol": "freedom", "settings": {"redirect": f"127.0.0.1:{self.tap.port}"}}))
        self.portal.start(listens=plain)
        self.bridge.start()
        for side in (self.portal, self.bridge):
            wait.until(f"{side.name} knows the other one's kind\n{side.tail()}",
                       lambda side=side: [t["dialect"] for t in side.tunnels()] == ["ebbgate"], 5, step=0.05)
        link = self.tap.links[0]
        said = {way: hello(link.openings[way]) for way in (tap.UP, tap.DOWN)}
        for way in said:
            self.assertEqual((said[way].get(1), said[way].get(2)), (1, FEATURES), f"{way}: version, features")
        # Probe, the bridge's hello, the portal's: nobody waited for anything else.
        self.assertEqual([way for _, way, count in link.events[:3] if count], [tap.DOWN, tap.UP, tap.DOWN])
        began, ended = link.events[0][0], link.events[2][0]
        self.assertLess(ended - began, 0.1 + SLACK)
        self.await_service(5)

    @staticmethod
    def add_plain(config: dict, port: int) -> None:
        config["inbounds"].append({"tag": "plain", "listen": "127.0.0.1", "port": port, "protocol": "dokodemo-door",
                                   "settings": {"address": "tunnel.test", "port": 1, "network": "tcp"}})
        config["routing"]["rules"][1]["inboundTag"].append("plain")


@case.beyond_v2ray
class D5BlackHole(case.PairCase):
    def test_D5_ping_finds_a_black_holed_path(self):
        """Nothing passes any more, and nobody closes anything. Each end finds out by itself, in 15 to 20 s."""
        self.start_pair(tapped=True)
        held = self.open_echo(self.public)
        held.exchange()
        visit = next(v for v in self.web.visits if v.command == b"ECHO")
        link = self.tap.links[0]
        began = time.monotonic()
        link.black_hole = True
        self.assertEqual(visitors.ending(held.sock, 20 + SLACK), "rst")
        at_portal = time.monotonic() - began
        wait.until("the bridge has ended it, too", lambda: visit.cut or visit.eof, 20 + SLACK - at_portal)
        at_bridge = (visit.cut or visit.eof) - began
        print(f"| ended by the portal after {at_portal:.1f} s, by the bridge after {at_bridge:.1f} s", flush=True)
        self.assertGreater(min(at_portal, at_bridge), 15 - SLACK)
        self.await_service(2 + SLACK)
        self.assertEqual(visitors.short_connections(self.public, 50, 8), [])
        self.assertGreater(len(self.tap.links), 1, "another tunnel")


@case.beyond_v2ray
class D6LegacyHop(case.PairCase):
    """A stock program takes the place of one of ours in mid-test, so whatever of the extension was under way is lost; then ours
    comes back."""

    stock = "v2ray"

    def kinds(self):
        return ("ours", self.stock)

    def under_way(self) -> list[socket.socket]:
        """Streams in states that only the extension knows: half-closed with the answer to come, out of credit."""
        echo = self.open_echo(self.public)
        echo.exchange()
        waits = self.connect(self.public)
        waits.sendall(b"PIECES 1 60000 1\n")
        waits.shutdown(socket.SHUT_WR)
        deaf = self.connect(self.public)
        deaf.sendall(b"FLOOD\n")
        wait.until("all are served", lambda: {b"ECHO", b"PIECES", b"FLOOD"} <= {
            word for visit in self.web.visits for word in visit.command.split()[:1]}, 5)
        return [echo.sock, waits, deaf]

    def all_end(self, streams: list[socket.socket]) -> None:
        for sock in streams:
            self.assertNotEqual(visitors.ending(sock, 1 + SLACK), "open", "a stream hangs")

    def everything_works(self) -> None:
        self.assertEqual(visitors.download(self.public, SIZE), pattern.sha256(SIZE))
        self.assertEqual(visitors.upload(self.public, SIZE), pattern.sha256(SIZE))
        self.assertEqual(visitors.short_connections(self.public, 200, 8), [])

    def test_D6_bridge_replaced(self):
        self.start_pair()
        theirs = self.program(self.stock, "bridge-stock", configs.bridge(self.tunnel, self.web.port))
        streams = self.under_way()
        self.bridge.kill()
        self.all_end(streams)
        theirs.start()
        self.await_service(3 + SLACK)
        self.everything_works()
        stream = self.open_echo(self.public)
        stream.exchange()
        theirs.kill()
        self.all_end([stream.sock])
        self.bridge.start()
        self.await_service(3 + SLACK)
        self.everything_works()
        self.half_close_is_back()

    def test_D6_portal_replaced(self):
        self.start_pair()
        theirs = self.program(self.stock, "portal-stock", configs.portal(self.public, self.tunnel, self.web.port))
        streams = self.under_way()
        self.portal.kill()
        self.all_end(streams)
        wait.until("nothing is left at the origin but who waits there", lambda: self.web.open_count() <= 1, 5)
        theirs.start(listens=self.public)
        self.await_service(3 + SLACK)
        self.everything_works()
        theirs.kill()
        self.start_portal()
        self.await_service(3 + SLACK)
        self.everything_works()
        self.half_close_is_back()

    def half_close_is_back(self) -> None:
        """What only the extension can do."""
        sock = self.connect(self.public)
        sock.sendall(b"PIECES 1 2000 5\n")
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(len(sock.recv(100)), 5)


class D6V2fly(D6LegacyHop):
    stock = "v2fly"


class D6Xray(D6LegacyHop):
    stock = "xray"


if __name__ == "__main__":
    unittest.main()
