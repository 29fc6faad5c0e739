"""The tests' own emulated path is as long and as wide as it says: what is measured over it stands on this."""

import socket
import time
import unittest

from ebbtest import origin, path, pattern, wait


class EmulatedPath(unittest.TestCase):
    exclusive = True  # measures time

    def setUp(self):
        if why := path.impossible():
            self.skipTest(why)

    def start(self, **options) -> None:
        self.path = path.Path(**options)
        self.addCleanup(self.path.close)
        self.web = self.path.far(lambda: origin.Origin(host=path.FAR).start())
        self.addCleanup(self.web.stop)

    def connect(self) -> socket.socket:
        sock = socket.create_connection((path.FAR, self.web.port), 10)
        self.addCleanup(sock.close)
        return sock

    def test_round_trip_and_rate(self):
        self.start(delay_ms=20, rate=25e6, queue=1_000_000)
        sock = self.connect()
        sock.sendall(b"ECHO\n")
        trips = []
        for _ in range(20):
            begin = time.monotonic()
            sock.sendall(b"x")
            self.assertEqual(sock.recv(1), b"x")
            trips.append(time.monotonic() - begin)
        trips.sort()
        self.assertGreaterEqual(trips[0], 0.040)
        self.assertLess(trips[0], 0.045)
        down = self.connect()
        down.sendall(b"FLOOD\n")
        origin.discard(down, 8 * pattern.MIB)  # past slow start
        size, begin = 50_000_000, time.monotonic()
        origin.discard(down, size)
        rate = size / (time.monotonic() - begin)
        print(f"| round trip {1000 * trips[10]:.1f} ms, {rate / 1e6:.1f} MB/s of 25; {self.path.carried()}")
        self.assertLess(rate, 1.05 * 25e6)
        self.assertGreater(rate, 0.85 * 25e6)

    def test_a_full_queue_drops(self):
        self.start(delay_ms=1, rate=1e6, queue=20_000)
        down = self.connect()
        down.sendall(b"FLOOD\n")
        origin.discard(down, 500_000)
        wait.until("something was dropped", lambda: self.path.carried()["back"]["dropped"] > 0, 5)


if __name__ == "__main__":
    unittest.main()
