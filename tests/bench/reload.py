#!/usr/bin/env python3
"""How long a reload of a large configuration takes, what it costs and whether anything is lost.

A portal with many routing rules and many VMess users gets HUP, again and again, each time with one rule changed, while a
bridge holds its tunnel and visitors hold streams through it. Measured from outside: the time from HUP until the supervisor's
log says that the last new worker serves (the log is read every millisecond), and the CPU time of everybody until then.

    EBBGATE_BIN=build/release/ebbgate python3 tests/bench/reload.py [--rules N] [--users N] [--workers N ...] [--reloads N]
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

from ebbtest import configs, origin, ports, procfs, programs, visitors, wait  # noqa: E402

STREAMS = 8
_TICK = os.sysconf("SC_CLK_TCK")


# ---- the configuration ---------------------------------------------------------------------------------------------
def rule(number: int, users: int) -> dict:
    """One of a mix as people write it: mostly names, then addresses, users, ports and inbounds, a few expressions."""
    name, kind = f"service-{number}.example", number % 20
    out = "direct" if number % 3 else "block"
    if kind < 7:
        what = {"domain": [f"full:{name}", f"domain:cdn-{number}.test", f"domain:img-{number}.test"]}
    elif kind < 9:
        what = {"domain": [f"word{number}x", f"keyword:part-{number}", f"domain:{name}"]}
    elif kind == 9:
        what = {"domain": [rf"regexp:^api[0-9]+\.zone{number}\.(com|net)$"] if number % 100 == 9 else [f"plain-{number}.test"]}
    elif kind < 14:
        a, b = number >> 8, number & 255
        what = {"ip": [f"10.{a}.{b}.0/24", f"172.16.{b}.{a}", f"2001:db8:{number:x}::/48"]}
    elif kind < 16:
        # Above the ports of tests: these rules stand before those of the portal.
        what = {"port": f"{40000 + number},{50000 + number}-{50010 + number}", "network": "tcp"}
    elif kind < 18:
        what = {"inboundTag": ["interconn"], "domain": [f"full:inner-{number}.test"], "port": 443}
    else:
        what = {"user": [f"user{(number * 7 + i) % users}@example.test" for i in range(5)], "port": 8000 + number}
    return {"type": "field", **what, "outboundTag": out}


def portal(public: int, tunnel: int, web: int, args, workers: int, turn: int) -> str:
    """The portal of configs.py, grown; `turn` changes one rule, as an edit would."""
    config = json.loads(configs.portal(public, tunnel, web, {"log": {"loglevel": "debug", "access": "none"}}))
    config["inbounds"][1]["settings"]["clients"] += [
        {"id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"user{i}")), "alterId": 0, "email": f"user{i}@example.test"}
        for i in range(args.users - 1)]
    config["outbounds"] = [{"tag": "direct", "protocol": "freedom"}, {"tag": "block", "protocol": "blackhole"}]
    own = config["routing"]["rules"]
    own[1]["domain"] = ["full:tunnel.test"]
    config["routing"]["rules"] = (
        [rule(i, args.users) for i in range(args.rules - len(own) - 1)] +
        [{"type": "field", "domain": [f"full:turn-{turn}.test"], "outboundTag": "block"}] + own)
    config["ebbgate"] = {"workers": workers, "timers": {"probation": "100ms", "respawnBackoff": 0}}
    return json.dumps(config, indent=2)


# ---- looking from outside ------------------------------------------------------------------------------------------
def cpu(pid: int) -> float:
    """Seconds of all threads of a living process, to the nanosecond: its clock (clock_getcpuclockid)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def cpu_of_ended_children(pid: int) -> float:
    """In ticks only (10 ms): a mean over many reloads is right, one is not."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICK


class Log:
    """What a program adds to its log, with the time at which we saw it."""

    def __init__(self, path: str):
        self._file = open(path, encoding="utf-8", errors="replace")  # pylint: disable=consider-using-with
        self._file.seek(0, os.SEEK_END)
        self._rest = ""

    def lines(self):
        """Complete lines that are new, each with seconds of the monotonic clock."""
        text = self._rest + self._file.read()
        now = time.monotonic()
        *lines, self._rest = text.split("\n")
        return [(now, line) for line in lines]

    def close(self) -> None:
        self._file.close()


class Bench:
    """The pair under test, with its tunnel up and its visitors connected."""

    def __init__(self, args, workers: int):
        self.args, self.workers = args, workers
        self.directory = tempfile.mkdtemp(prefix="ebbbench-")
        self.web = origin.Origin().start()
        self.public, self.tunnel = ports.free_port(), ports.free_port()
        quiet = {"log": {"loglevel": "warning", "access": "none"}}
        self.portal = programs.Program("ours", "portal", self.directory, self.config(0))
        self.bridge = programs.Program("ours", "bridge", self.directory, configs.bridge(self.tunnel, self.web.port, quiet))
        self.streams, self.lost = [], 0

    def config(self, turn: int) -> str:
        return portal(self.public, self.tunnel, self.web.port, self.args, self.workers, turn)

    def __enter__(self) -> "Bench":
        self.portal.start(listens=self.public)
        self.bridge.start()
        wait.until(f"the page\n{self.portal.tail()}", lambda: visitors.fetches(self.public), 20)
        self.streams = [visitors.Echo(self.public) for _ in range(STREAMS)]
        return self

    def __exit__(self, *_) -> None:
        for stream in self.streams:
            stream.close()
        for side in (self.bridge, self.portal):
            side.stop()
        self.web.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def status(self) -> dict:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(os.path.join(self.portal.environment()["RUNTIME_DIRECTORY"], "ctl.sock"))
            sock.sendall(b'{"command":"status"}\n')
            answer = b""
            while more := sock.recv(65536):
                answer += more
        return json.loads(answer)["result"]

    def settled(self) -> bool:
        now = self.status()
        return now["reload"]["step"] == "idle" and sum(p["role"] == "worker" for p in now["processes"]) == self.workers

    def tunnels(self) -> dict:
        return {t["id"]: t["age_s"] for p in self.status()["portals"] for t in p["tunnels"]}

    def await_start(self, log: Log) -> tuple[dict, dict]:
        """Until all new workers serve: when each process was started and its pid, and when each served."""
        started, serving, deadline = {}, {}, time.monotonic() + 30
        while len(serving) < self.workers:
            for now, line in log.lines():
                if found := re.search(r'process started.* name="?(worker [^ "]+).* pid=(\d+)', line):
                    started[found[1]] = (now, int(found[2]))
                elif found := re.search(r'process serves.* name="?(worker [^ "]+)', line):
                    serving[found[1]] = now
                elif "[Error]" in line:
                    raise AssertionError(line)
            if time.monotonic() > deadline:
                raise AssertionError("no START within 30 s\n" + self.portal.tail())
            time.sleep(0.001)  # the interval of the measurement
        return started, serving

    def exchange(self) -> None:
        for stream in list(self.streams):
            try:
                stream.exchange()
            except OSError:
                self.lost += 1
                self.streams.remove(stream)

    def reload(self, turn: int) -> dict:
        """One HUP; milliseconds."""
        with open(self.portal.config_path, "w", encoding="utf-8") as f:
            f.write(self.config(turn))
        log, supervisor, broker = Log(self.portal.log_path), self.portal.pid, self.portal.role("broker")[0]
        before = {pid: cpu(pid) for pid in (supervisor, broker)}
        ended, begin = cpu_of_ended_children(supervisor), time.monotonic()
        self.portal.signal(signal.SIGHUP)
        started, serving = self.await_start(log)
        spent = {"checker": cpu_of_ended_children(supervisor) - ended,
                 "supervisor": cpu(supervisor) - before[supervisor], "broker": cpu(broker) - before[broker],
                 "each worker": sum(cpu(pid) for _, pid in started.values()) / self.workers}
        log.close()
        self.exchange()
        wait.until(f"the reload is over\n{self.portal.tail()}", self.settled, 20)
        return {"time: HUP to START": (max(serving.values()) - begin) * 1e3,
                "time: HUP to the first new worker": (min(now for now, _ in started.values()) - begin) * 1e3,
                **{f"CPU: {who}": seconds * 1e3 for who, seconds in spent.items()}}


def report(bench: Bench, results: list[dict], before: dict, after: dict) -> dict:
    """Prints the table; the figures as they are printed."""
    print(f"\n{bench.args.rules} rules, {bench.args.users} users, {bench.workers} workers, {len(results)} reloads"
          f"\n{'ms':34}{'min':>9}{'median':>9}{'max':>9}{'mean':>9}")
    figures = {}
    for name in results[0]:
        values = [one[name] for one in results]
        figures[name] = (min(values), statistics.median(values), max(values), statistics.fmean(values))
        ticks = name == "CPU: checker"  # counted in ticks: only the mean says something
        cells = [f"{value:9.1f}" if not ticks or i == 3 else f"{'':9}" for i, value in enumerate(figures[name])]
        print(f"{name:34}{''.join(cells)}")
    kept = sum(1 for one, age in before.items() if after.get(one, -1) >= age)
    print(f"tunnels kept: {kept} of {len(before)}; streams lost: {bench.lost} of {STREAMS}")
    return {**figures, "tunnels": (kept, len(before)), "streams lost": bench.lost}


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--rules", type=int, default=1000)
    args.add_argument("--users", type=int, default=1000)
    args.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    args.add_argument("--reloads", type=int, default=20)
    args.add_argument("--json", help="write the figures there too")
    args = args.parse_args()
    os.environ.setdefault("EBBGATE_BIN", os.path.join(configs.ROOT, "build", "release", "ebbgate"))
    procfs.adopt_orphans()
    figures, lost = {}, False
    for workers in args.workers:
        with Bench(args, workers) as bench:
            before = bench.tunnels()
            results = [bench.reload(turn + 1) for turn in range(args.reloads)]
            figures[workers] = report(bench, results, before, bench.tunnels())
            lost = lost or bench.lost > 0 or figures[workers]["tunnels"][0] != len(before)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(figures, f, indent=1)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
