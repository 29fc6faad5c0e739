#!/usr/bin/env python3
"""Runs the tests that start real programs: each test in a process of its own, harmless ones side by side.

    python3 tests/support/run.py [--jobs N] [--self-check] [--list] [FILTER ...]

FILTER: part of a test's name (`interop.test_seeds`, `A5`); several = any of them. EBBGATE_BIN names the binary.
--self-check lets V2Ray play our part as well, which proves the harness. Exit status: 0 all passed, 1 not, 2 none found.
"""

import argparse
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

SUPPORT = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(SUPPORT)
sys.path[:0] = [SUPPORT, TESTS]

from ebbtest import procfs  # noqa: E402

_LIMIT_S = 120  # for one test; a class with a longer story says so in `limit_s`


def _flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def discover() -> list[unittest.TestCase]:
    """Every test, in file order. A file that cannot be imported ends the run: it must not pass unseen."""
    loader, found = unittest.TestLoader(), []
    for folder in ("integration", "interop", "chaos"):
        for name in sorted(os.listdir(os.path.join(TESTS, folder))):
            if name.startswith("test_") and name.endswith(".py"):
                found += _flatten(loader.loadTestsFromName(f"{folder}.{name[:-3]}"))
    if loader.errors:
        sys.exit("\n".join(loader.errors))
    return found


def _exclusive(test: unittest.TestCase) -> bool:
    """`exclusive` of the test itself, else of its class."""
    return getattr(getattr(test, test._testMethodName), "exclusive", getattr(test, "exclusive", False))


class Gate:
    """Most tests wait most of the time, so many can run at once; but not so many that they wait for the machine. `sure` run
    whatever happens, more while a third of the machine is idle."""

    IDLE = 0.33
    SAMPLE_S = 0.4  # a test that has just started shows in the next sample

    def __init__(self, sure: int):
        self._sure, self._running = sure, 0
        self._turn = threading.Lock()  # one is let in after another
        self._lock = threading.Lock()

    @staticmethod
    def _ticks() -> tuple[int, int]:
        """Idle ones, and all, of every core since boot."""
        with open("/proc/stat", encoding="ascii") as f:
            fields = [int(n) for n in f.readline().split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    def _idle(self) -> bool:
        idle, all_of_it = self._ticks()
        time.sleep(self.SAMPLE_S)
        idle_then, all_then = self._ticks()
        return idle_then - idle > self.IDLE * max(1, all_then - all_of_it)

    def __enter__(self):
        with self._turn:
            while self._running >= self._sure and not self._idle():
                pass
            with self._lock:
                self._running += 1

    def __exit__(self, *_):
        with self._lock:
            self._running -= 1


class Standstills(threading.Thread):
    """Notes when nothing ran here, this program neither: a virtual machine may be paused for seconds. Whatever has
    deadlines then fails without having done anything wrong."""

    LONG_S = 2.0  # a busy machine is late by tens of milliseconds

    def __init__(self):
        super().__init__(daemon=True)
        self._noted: list[tuple[float, float]] = []  # when, how long

    def run(self):
        last = time.monotonic()
        while True:
            time.sleep(0.1)
            now = time.monotonic()
            if now - last > self.LONG_S:
                self._noted.append((last, now - last))
            last = now

    def longest_since(self, begin: float) -> float:
        """Seconds; 0 = there was none."""
        return max((length for when, length in self._noted if when + length >= begin), default=0.0)


def run_one(name: str) -> int:
    suite = unittest.TestLoader().loadTestsFromName(name)
    result = unittest.TextTestRunner(verbosity=0, stream=sys.stderr).run(suite)
    if result.skipped and not result.failures and not result.errors:
        print("skipped:", result.skipped[0][1], file=sys.stderr)
        return 77
    return 0 if result.wasSuccessful() and result.testsRun else 1


def _let_in(test: unittest.TestCase, standstills: Standstills, gate: Gate) -> tuple[str, int, float, str]:
    with gate:
        return _judge(test, standstills)


def _judge(test: unittest.TestCase, standstills: Standstills) -> tuple[str, int, float, str]:
    """One that failed while the machine stood still is run again, once, and both runs are told."""
    begin = time.monotonic()
    outcome = _job(test)
    stood = standstills.longest_since(begin)
    if outcome[1] in (0, 77) or stood == 0:
        return outcome
    name, status, seconds, output = _job(test)
    first = "".join(f"| {line}\n" for line in outcome[3].splitlines())
    return name, status, seconds, (f"{first}| the machine stood still for {stood:.1f} s during what is above: run again\n"
                                   f"{output}")


def _job(test: unittest.TestCase) -> tuple[str, int, float, str]:
    begin = time.monotonic()
    limit = getattr(test, "limit_s", _LIMIT_S)
    job = subprocess.Popen([sys.executable, __file__, "--one", test.id()], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        output = job.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        for pid in procfs.tree(job.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        output = job.communicate()[0] + f"\nstopped after {limit} s\n".encode()
    return test.id(), job.returncode, time.monotonic() - begin, output.decode(errors="replace")


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1),
                      help="tests side by side however busy the machine is; four times as many while it is idle")
    args.add_argument("--self-check", action="store_true")
    args.add_argument("--list", action="store_true")
    args.add_argument("--one", help=argparse.SUPPRESS)
    args.add_argument("filters", nargs="*")
    args = args.parse_args()
    if args.self_check:
        os.environ["EBB_SELF_CHECK"] = "1"
    if args.one:
        return run_one(args.one)
    tests = [t for t in discover() if not args.filters or any(f in t.id() for f in args.filters)]
    if args.list or not tests:
        print("\n".join(t.id() for t in tests) or "no such test")
        return 0 if tests else 2
    begin, failed, skipped = time.monotonic(), [], 0
    standstills = Standstills()
    standstills.start()

    def report(outcome):
        nonlocal skipped
        name, status, seconds, output = outcome
        word = {0: "ok  ", 77: "skip"}.get(status, "FAIL")
        print(f"{word} {seconds:6.1f} s  {name}", flush=True)
        skipped += status == 77
        if word == "ok  ":  # what a test has to tell although it passed: its counts
            print("".join(f"    {line}\n" for line in output.splitlines() if line.startswith("| ")), end="", flush=True)
        if word == "FAIL":
            failed.append(name)
            print("    " + output.replace("\n", "\n    "), flush=True)

    side_by_side = [t for t in tests if not _exclusive(t)]
    side_by_side.sort(key=lambda t: -getattr(t, "limit_s", _LIMIT_S))  # the long waits first
    gate = Gate(max(1, args.jobs))
    with concurrent.futures.ThreadPoolExecutor(4 * max(1, args.jobs)) as pool:
        for done in concurrent.futures.as_completed([pool.submit(_let_in, t, standstills, gate) for t in side_by_side]):
            report(done.result())
    for test in tests:
        if _exclusive(test):
            report(_judge(test, standstills))
    passed = len(tests) - len(failed) - skipped
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped in {time.monotonic() - begin:.0f} s")
    for name in failed:
        print("failed:", name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
