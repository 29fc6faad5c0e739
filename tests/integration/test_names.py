"""Names with several addresses, of which the first is dead: nobody waits for it. RFC 8305."""

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
import unittest

from ebbtest import case, configs, ports, visitors, wait

_CLONE_NEWNS, _MS_BIND, _MS_PRIVATE_ALL = 0x20000, 0x1000, 0x44000
_libc = ctypes.CDLL(None, use_errno=True)


def see_hosts(path: str):
    """For a process before it execs: /etc/hosts is this file, for it and its children alone."""
    def enter():
        for failed in (lambda: _libc.unshare(_CLONE_NEWNS), lambda: _libc.mount(b"none", b"/", None, _MS_PRIVATE_ALL, None),
                       lambda: _libc.mount(path.encode(), b"/etc/hosts", None, _MS_BIND, None)):
            if failed() != 0:
                raise OSError(ctypes.get_errno(), "own /etc/hosts")
    return enter


def silence(port: int) -> list[socket.socket]:
    """127.0.0.2:`port` answers no SYN: a full accept queue is the nearest to a dead address that loopback has."""
    listener = socket.socket()
    listener.bind(("127.0.0.2", port))
    listener.listen(0)
    held = [listener]
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.2", port))
        held.append(filler)
    return held


@case.beyond_v2ray
class DeadFirstAddress(case.ProgramCase):
    def test_portal_and_origin_are_reached_in_half_a_second(self):
        hosts = os.path.join(self.directory, "hosts")
        with open(hosts, "w", encoding="ascii") as f:
            for name in ("portal.test", "origin.test"):
                f.write(f"127.0.0.2 {name}\n127.0.0.1 {name}\n")
        probe = subprocess.run([sys.executable, "-c", "import socket; print(len(socket.getaddrinfo('portal.test', 1, 2, 1)))"],
                               capture_output=True, text=True, preexec_fn=self.try_hosts(hosts), timeout=20, check=False)
        if probe.stdout.strip() != "2":
            self.skipTest(f"needs a mount namespace, as root: {probe.stdout}{probe.stderr}")
        web, public, tunnel = self.start_origin(), ports.free_port(), ports.free_port()
        for port in (tunnel, web.port):
            for each in silence(port):
                self.addCleanup(each.close)
        portal = self.program("ours", "portal", configs.portal(public, tunnel, web.port)).start(listens=public)
        config = json.loads(configs.bridge(tunnel, web.port))
        config["outbounds"][0]["settings"]["redirect"] = f"origin.test:{web.port}"
        config["outbounds"][1]["settings"]["vnext"][0]["address"] = "portal.test"
        bridge = self.program("ours", "bridge", json.dumps(config), limits=see_hosts(hosts))
        bridge.start()
        # A dead address alone takes 10 s to be given up; how long a bridge takes to start is another story.
        wait.until(f"the portal is reached\n{bridge.tail()}", lambda: "tunnel opened" in portal.log(), 5, step=0.01)
        took = []
        for _ in range(5):
            begin = time.monotonic()
            visitors.fetch(public)
            took.append(time.monotonic() - begin)
        self.assertLess(min(took), 0.5, took)
        if min(took) < 0.2:
            self.skipTest("the resolver of this machine puts the living address first: nothing was tested")

    @staticmethod
    def try_hosts(path: str):
        enter = see_hosts(path)

        def quietly():
            try:
                enter()
            except OSError:
                pass
        return quietly


if __name__ == "__main__":
    unittest.main()
