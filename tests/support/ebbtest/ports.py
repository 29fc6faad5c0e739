"""Ports for tests that run at the same time: each is claimed for the life of the calling process."""

import os
import random
import socket
import time

_FIRST, _LAST = 20000, 32000  # below the kernel's ephemeral range, so an outgoing connection never sits on one
_claims = []  # abstract Unix sockets: the kernel frees a claim when the process ends, however it ends
_random = random.Random(os.getpid() ^ time.monotonic_ns())


def _bindable(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True


def free_port() -> int:
    """A TCP and UDP port nobody uses and no other test process will get. Raises RuntimeError after 200 tries."""
    for _ in range(200):
        port = _random.randrange(_FIRST, _LAST)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0ebbtest-port-{port}")
        except OSError:
            claim.close()
            continue
        if _bindable(port):
            _claims.append(claim)
            return port
        claim.close()
    raise RuntimeError("no free port found")
