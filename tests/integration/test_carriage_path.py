"""What a long path does to streams, and they to each other, between our own nodes with shipped defaults: visitors and portal
at the near end, bridge and origin at the far one."""

import json
import socket
import time
import unittest

from ebbtest import carriage, case, configs, origin, path, pattern, ports, visitors, wait


@case.beyond_v2ray
@case.nightly
class LongPath(carriage.Story):
    exclusive = True  # measures time
    limit_s = 180

    def start(self, **options) -> None:
        if why := path.impossible(options.get("congestion", "")):
            self.skipTest(why)
        self.path = path.Path(**options)
        self.addCleanup(self.path.close)
        self.web = self.path.far(lambda: origin.Origin(host="127.0.0.1").start())
        self.addCleanup(self.web.stop)
        self.plain = self.path.far(lambda: origin.Origin(host=path.FAR).start())  # reached without us
        self.addCleanup(self.plain.stop)
        self.public, self.tunnel = ports.free_port(), ports.free_port()
        portal = json.loads(configs.portal(self.public, self.tunnel, self.web.port))
        bridge = json.loads(configs.bridge(self.tunnel, self.web.port))
        for inbound in portal["inbounds"]:
            inbound["listen"] = "0.0.0.0"
        for outbound in bridge["outbounds"]:
            for server in outbound.get("settings", {}).get("vnext", []):
                server["address"] = path.NEAR
        self.portal = self.program("ours", "portal", json.dumps(portal))
        self.bridge = self.program("ours", "bridge", json.dumps(bridge), limits=self.path.enter_far)
        self.start_portal()
        self.bridge.start()
        self.await_service(10)

    def test_small_requests_beside_a_download(self):
        """40 ms, 25 MB/s, whatever TCP's congestion control is here."""
        self.small_requests()

    def test_small_requests_beside_a_download_with_cubic(self):
        self.small_requests(congestion="cubic")

    def small_requests(self, **options) -> None:
        link = 25e6
        self.start(delay_ms=20, rate=link, queue=1_000_000, **options)
        bulk = self.connect(self.public)
        bulk.sendall(b"FLOOD\n")
        origin.discard(bulk, 60 * pattern.MIB)  # past slow start
        with carriage.Readers([bulk]) as reader:
            self.path.carried()
            took, begin, before = [], time.monotonic(), reader.bytes
            # BBR leaves the path empty for some 0.3 s every 10 s to measure it (PROBE_RTT), and whoever asks then waits for
            # that. It is one request each time: of those of 30 s, some 500, the 99th percentile sees none of them.
            while time.monotonic() < begin + 30:
                asked = time.monotonic()
                visitors.fetch(self.public, 10)
                took.append(time.monotonic() - asked)
                time.sleep(0.005)  # the pace of the small ones
            elapsed = time.monotonic() - begin
            got, carried = reader.bytes - before, self.path.carried()["back"]
        self.say(f"download: {got / elapsed / 1e6:.2f} MB/s, {100 * carried['bytes'] / elapsed / link:.1f} % of the link full, "
                 f"{carried['dropped']} packets dropped")
        print(carriage.told("small requests", took), flush=True)
        self.assertLessEqual(carriage.percentile(took, 0.5), 0.095)
        self.assertLessEqual(carriage.percentile(took, 0.99), 0.150)
        self.assertGreaterEqual(carried["bytes"] / elapsed, 0.95 * link)

    def rate(self, port: int, host: str, seconds: float) -> float:
        """Of one download, once it has reached it."""
        sock = socket.create_connection((host, port), 10) if host else self.connect(port)
        with sock:
            sock.sendall(b"FLOOD\n")
            with carriage.Readers([sock]) as reader:
                reader.rate_over(6)
                return reader.rate_over(seconds)

    def test_one_stream_on_a_long_fat_path(self):
        """200 ms, 1 Gbit/s: beside plain TCP of the same path, in turns."""
        self.one_stream()

    def test_one_stream_on_a_long_fat_path_with_cubic(self):
        self.one_stream(congestion="cubic")

    def one_stream(self, **options) -> None:
        self.start(delay_ms=100, rate=125e6, queue=25_000_000, **options)
        plain, ours = [], []
        for _ in range(2):
            plain.append(self.rate(self.plain.port, path.FAR, 4))
            ours.append(self.rate(self.public, "", 4))
        share = sum(ours) / sum(plain)
        self.say(f"plain {[round(r / 1e6) for r in plain]} MB/s, ours {[round(r / 1e6) for r in ours]}: {100 * share:.0f} %")
        self.assertGreaterEqual(share, 0.8)


if __name__ == "__main__":
    unittest.main()
