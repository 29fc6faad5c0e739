#!/usr/bin/env python3
"""Compares ebbgate with V2Ray, or with an earlier ebbgate, in one run: portal and bridge of one against both of the other.

CPU time is that of all processes of both sides, from /proc; what makes the load is not counted. The two take turns, and
medians and ratios are what to read: absolute numbers belong to this machine and this hour.

    EBBGATE_BIN=build/release/ebbgate python3 tests/bench/compare.py [--quick] [--rounds N] [--only PART ...] [--json FILE]
                                                                   [--before EARLIER_BINARY]
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

from ebbtest import configs, origin, pattern, ports, procfs, programs, visitors, wait  # noqa: E402

GIB = 1 << 30
FLOOR = os.path.join(configs.ROOT, "build", "bench", "tests", "bench", "bench_floor")


def _serve(port: int) -> None:
    origin.Origin(port).start()
    threading.Event().wait()


class Pair:
    """Portal and bridge of one implementation, running, with a web page in a process of its own behind them."""

    def __init__(self, kind: str, binary: str = ""):
        if binary:
            os.environ["EBBGATE_BIN"] = binary  # every program started from here on
        self.directory = tempfile.mkdtemp(prefix="ebbbench-")
        self.web_port, self.public, tunnel = (ports.free_port() for _ in range(3))
        self.web = multiprocessing.get_context("fork").Process(target=_serve, args=(self.web_port,), daemon=True)
        self.web.start()
        quiet = {"log": {"loglevel": "warning", "access": "none"}}
        self.sides = [
            programs.Program(kind, "portal", self.directory, configs.portal(self.public, tunnel, self.web_port, quiet)),
            programs.Program(kind, "bridge", self.directory, configs.bridge(tunnel, self.web_port, quiet))]

    def __enter__(self) -> "Pair":
        self.sides[0].start(listens=self.public)
        self.sides[1].start()
        wait.until("the page", lambda: visitors.fetches(self.public), 10)
        return self

    def __exit__(self, *_) -> None:
        for side in reversed(self.sides):
            side.stop()
        self.web.terminate()
        self.web.join()
        shutil.rmtree(self.directory, ignore_errors=True)

    def cpu(self) -> float:
        return sum(procfs.cpu_ns(side.pid) for side in self.sides) / 1e9

    def memory(self) -> int:
        """PSS of all processes once it stands still (within 1 % over half a second, at most 5 s)."""
        deadline, last = time.monotonic() + 5, 0
        while time.monotonic() < deadline:
            now = sum(procfs.pss_bytes(side.pid) for side in self.sides)
            if abs(now - last) < now / 100:
                return now
            last = now
            time.sleep(0.5)  # the interval of the measurement
        return last


def _parallel(count: int, work) -> None:
    errors = []

    def run():
        try:
            work()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def measure_memory(pair: Pair, scale: float) -> dict:
    count = int(500 * scale)
    before = pair.memory()
    idle = [visitors.Echo(pair.public) for _ in range(count)]
    for stream in idle:
        stream.exchange()
    after = pair.memory()
    for stream in idle:
        stream.close()
    return {"memory, started": (before / 1048576, "MiB"), "memory per idle connection": ((after - before) / count / 1024, "KiB")}


def measure_bulk(pair: Pair, scale: float) -> dict:
    result = {}
    for streams in (1, 8):
        size = int(GIB * scale) // streams

        def down():
            with visitors.connect(pair.public) as sock:
                sock.sendall(b"SOURCE %d\n" % size)
                origin.discard(sock, size)

        def up():
            with visitors.connect(pair.public) as sock:
                sock.sendall(b"DROP %d\n" % size)
                for part in pattern.blocks(size):
                    sock.sendall(part)
                sock.recv(10)

        for name, work in (("down", down), ("up", up)):
            cpu, begin = pair.cpu(), time.monotonic()
            _parallel(streams, work)
            seconds, used = time.monotonic() - begin, pair.cpu() - cpu
            gib = size * streams / GIB
            result[f"{name}, {streams} stream{'s' * (streams > 1)}: CPU"] = (used / gib, "s/GiB")
            result[f"{name}, {streams} stream{'s' * (streams > 1)}: speed"] = (gib * 1024 / seconds, "MiB/s")
    return result


def measure_connections(pair: Pair, scale: float) -> dict:
    count = int(2000 * scale)
    cpu = pair.cpu()
    failures = visitors.short_connections(pair.public, count, 25)
    return {"new connection: CPU": ((pair.cpu() - cpu) / count * 1e3, "ms"),
            "new connections that failed": (len(failures), "")}


def measure_requests(pair: Pair, scale: float) -> dict:
    """Small keep-alive requests, one at a time, in turn over eight connections."""
    count, socks = int(8000 * scale), [visitors.connect(pair.public) for _ in range(8)]
    request, times = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", []
    cpu = pair.cpu()
    for number in range(count):
        sock = socks[number % 8]
        begin = time.perf_counter()
        sock.sendall(request)
        answer = b""
        while not answer.endswith(origin.PAGE):
            more = sock.recv(65536)
            if not more:
                raise ConnectionError("stream ended")
            answer += more
        times.append(time.perf_counter() - begin)
    used = pair.cpu() - cpu
    for sock in socks:
        sock.close()
    cuts = statistics.quantiles(times, n=100)
    return {"keep-alive request: CPU": (used / count * 1e6, "us"), "keep-alive request: p50": (cuts[49] * 1e6, "us"),
            "keep-alive request: p99": (cuts[98] * 1e6, "us")}


PARTS = {"memory": measure_memory, "connections": measure_connections, "requests": measure_requests, "bulk": measure_bulk}


def floor() -> None:
    """What the machine itself costs: the relays without a protocol, if they were built."""
    if not os.access(FLOOR, os.X_OK):
        print("\nno floor: build/bench has no bench_floor")
        return
    print("\nfloor (bench_floor):", flush=True)
    subprocess.run([FLOOR], check=False, timeout=300, cwd=configs.ROOT)


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--quick", action="store_true", help="an eighth of the load, one round")
    args.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args.add_argument("--json", help="write the medians there too")
    args.add_argument("--before", metavar="BINARY", help="compare with this ebbgate instead of V2Ray")
    args = args.parse_args()
    procfs.adopt_orphans()
    scale, rounds = (0.125, 1) if args.quick else (1.0, args.rounds)
    other = "before" if args.before else "v2ray"
    who = {other: ("ours" if args.before else "v2ray", args.before or ""), "ours": ("ours", programs.ebbgate_binary())}
    kinds, seen = list(who), {name: {} for name in who}
    units = {}
    for turn in range(rounds):
        for kind in kinds if turn % 2 == 0 else reversed(kinds):
            implementation, binary = who[kind]
            with Pair(programs.implementation(implementation), binary) as pair:
                for part in args.only:
                    for name, (value, unit) in PARTS[part](pair, scale).items():
                        seen[kind].setdefault(name, []).append(value)
                        units[name] = unit
            print(f"round {turn + 1} of {rounds}: {kind} done", file=sys.stderr, flush=True)
    medians = {kind: {name: statistics.median(values) for name, values in seen[kind].items()} for kind in kinds}
    print(f"\n{'':34}{other:>12}{'ebbgate':>12}   ebbgate / {other}")
    for name, theirs in medians[other].items():
        ours = medians["ours"][name]
        ratio = f"{ours / theirs:8.2f}" if theirs else "        "
        print(f"{name:34}{theirs:12.2f}{ours:12.2f}   {ratio}   {units[name]}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"rounds": rounds, "scale": scale, "units": units, "medians": medians}, f, indent=1)
    floor()
    return 0


if __name__ == "__main__":
    sys.exit(main())
