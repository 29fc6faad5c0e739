"""What the scenarios of spec/processes.md 15 inherit: the stack, the load, the counts, and a clean end."""

import json
import math
import os
import time

from ebbtest import case, configs, ports, procfs, programs, service, wait

from . import generator, namespace

FULL = os.environ.get("EBB_CHAOS") == "full"
ASAN = os.environ.get("EBB_PRESET") == "asan"
# Of the rates in the table. The short form shares its machine with a build server's other work; sanitizers are slow.
SCALE = float(os.environ.get("EBB_CHAOS_SCALE", 0.1 if ASAN else 1 if FULL else 0.5))

# The shipped defaults that a scenario does not use, and why: reloads, upgrades and crashes follow one another as fast as they
# can, so that many fall into seconds of load. How a stream is carried is never changed.
QUICK = {
    "probation": "100ms",   # 10 s: one reload would be all that fits in
    "respawnBackoff": 0,    # 1 s: a crash would be measured by the pause after it
    "drainSpread": "1s",    # 10 s: tunnels that move to a new broker do so within the load, not after it
    "stopGrace": "2s",      # 5 s: streams that stay are cut at the end of every scenario, and nothing is learnt by waiting
}


def full_only(what):
    """Marks a scenario, or a class of them, that is left out of the short form: it is long, or says little more."""
    what.full_only = True
    return what


def poisson_limit(expected: float, chance: float = 1e-3) -> int:
    """The count that is exceeded by chance in less than `chance` of the runs."""
    below, term, count = 0.0, math.exp(-expected), 0
    while below + term < 1 - chance:
        below += term
        count += 1
        term *= expected / count
    return count


class Scenario(case.ProgramCase):
    """visitors -> portal (dokodemo-door) == VMess tunnels == bridge -> origin; each connection with its own id."""

    exclusive = True
    limit_s = 240
    seconds = 12.0 if FULL else 2.0
    workers = 4  # one for each core: with more of them than cores they take turns in every order, and scenarios count them
    portal_kind = bridge_kind = "ours"
    sysctls: dict = {}
    quick = QUICK  # timers; {}: the shipped ones
    host = "127.0.0.1"

    def kinds(self):
        return (self.portal_kind, self.bridge_kind)

    def setUp(self):
        method = getattr(self, self._testMethodName)
        if not FULL and (getattr(self, "full_only", False) or getattr(method, "full_only", False)):
            self.skipTest("part of the full form: ./dev test --chaos")
        namespace.enter()
        super().setUp()
        if namespace.inside():
            namespace.prepare(**self.sysctls)
        elif self.sysctls:
            self.skipTest("needs a network namespace of its own, so root")
        self.services: list[service.Service] = []
        self.loads: list[generator.Load] = []
        self.notes: list[str] = []

    # ---- the stack ----
    def add_service(self, kind: str, name: str, config: dict, open_files: int = 0) -> service.Service:
        it = service.Service(programs.implementation(kind), name, self.directory, config, open_files)
        self.programs.append(it)
        self.services.append(it)
        self.addCleanup(self._end, it)
        return it

    def make_stack(self, workers: int = 0, bridge_extra: dict | None = None, open_files: int = 0, **timers) -> None:
        """Origin, portal and bridge, the origin started. `timers`: of ebbgate.timers, over `quick`. `open_files`: limit
        of each of the portal's processes."""
        self.origin = generator.Origin(ports.free_port())
        self.addCleanup(self.origin.close)
        self.public, self.tunnel = ports.free_port(), ports.free_port()
        quiet = {"log": {"loglevel": "warning", "access": "none"}}
        own = {"timers": {**self.quick, **timers}}
        portal = json.loads(configs.portal(self.public, self.tunnel, self.origin.port, extra=quiet))
        portal["inbounds"][0]["listen"] = self.host.strip("[]")
        bridge = json.loads(configs.bridge(self.tunnel, self.origin.port, extra=quiet))
        if self.portal_kind == "ours":
            portal["ebbgate"] = {"workers": workers or self.workers, **own}
        if self.bridge_kind == "ours":
            bridge["ebbgate"] = {**own, **(bridge_extra or {})}
        self.portal = self.add_service(self.portal_kind, "portal", portal, open_files)
        self.bridge = self.add_service(self.bridge_kind, "bridge", bridge)
        self.target = f"{self.host}:{self.public}"

    def start_stack(self, **options) -> None:
        """make_stack, both started, warm: every path was used once, so what is opened lazily is open."""
        self.make_stack(**options)
        self.start_services()

    def start_services(self) -> None:
        self.portal.start(listens=self.public)
        wait.until("the tunnel port is bound", lambda: procfs.listening(self.tunnel), 5)
        self.bridge.start()
        self.warm_up()

    def warm_up(self) -> None:
        warm = generator.Load([self.target], rate=100, seconds=0.3, long=0)
        self.addCleanup(warm.close)
        result = warm.finish()
        self.assertEqual(result["failed"], 0, f"before any load\n{self.portal.tail()}\n{self.bridge.tail()}")
        self.warm_ids = result["ok"]
        self.settle()
        self.before = {s.name: s.descriptors() for s in self.services if s.kind == "ours"}

    def settle(self) -> None:
        """Waits until no stream is left at either end."""
        for it in self.services:
            if it.kind == "ours":
                wait.until(f"{it.name} has no streams left",
                           lambda it=it: all(t["streams"] == 0 for t in it.tunnels()), 12, step=0.1)

    # ---- the load ----
    def load(self, rate: float, seconds: float = 0, targets: list[str] | None = None, **options) -> generator.Load:
        """L(rate), scaled, under way: at least one answer came already."""
        it = generator.Load(targets or [self.target], rate * SCALE, seconds or self.seconds, **options)
        self.addCleanup(it.close)
        self.loads.append(it)
        if rate:
            wait.until("the load runs", lambda: it.progress()["ok"] > 0 or it.progress()["failed"] > 0, 10)
        return it

    def note(self, text: str) -> None:
        """For the line that the scenario prints."""
        self.notes.append(text)

    def expect(self, it: generator.Load, lost=0, long_lost=0) -> dict:
        """Waits for the end of the load and checks its counts. `lost`: a number, or a function of one failure that says
        whether the promises allow it."""
        result = it.finish()
        failures, long = result["failures"], result["long"]
        allowed = [f for f in failures if callable(lost) and lost(f)]
        unexpected = [f for f in failures if f not in allowed] if callable(lost) else failures
        self.say(it, result, len(allowed))
        story = json.dumps({"failures": unexpected[:20], "long": long["failures"][:20]}, indent=1)
        self.assertGreater(result["ok"], 0)
        self.assertGreater(result["started"], 0.5 * it.rate * it.seconds, "the machine is too busy for this rate")
        self.assertEqual(result["by_kind"].get("ours", 0), 0, "the generator itself ran out of something\n" + story)
        self.assertEqual(result["by_kind"].get("wrong_echo", 0) + long["by_kind"].get("wrong_echo", 0), 0, story)
        self.assertLessEqual(len(unexpected), 0 if callable(lost) else lost, story)
        self.assertLessEqual(long["lost"], long_lost, story)
        return result

    def say(self, it: generator.Load, result: dict, allowed: int) -> None:
        long, name = result["long"], type(self).__name__
        text = (f"{name}.{self._testMethodName}: L({it.rate:g}) {it.seconds:g} s: {result['started']} started, "
                f"{result['failed']} lost{f' ({allowed} of them allowed)' if allowed else ''} "
                f"{result['by_kind'] or ''}, slowest {result['slowest_ms']} ms, p99 {result['p99_us'] / 1000:g} ms; "
                f"long {long['streams']}: {long['lost']} lost, {long['exchanges']} exchanges")
        print("| " + "; ".join([text, *self.notes]), flush=True)

    def finish(self, descriptors: bool = True) -> None:
        """The clean end: nothing came twice, no zombie, no descriptor left over, all processes leave."""
        seen = self.origin.finish(at_once=True)
        self.assertEqual(seen["duplicates"], 0, f"came twice: {seen['duplicate_sequences']}")
        self.assertEqual(seen["no_id"], 0, "bytes came that nobody sent")
        for it in self.services:
            if it.kind != "ours":
                continue
            wait.until(f"no zombie of {it.name}", lambda it=it: not it.zombies(), 3)
            if descriptors:
                self.no_descriptor_left(it)
        for it in self.services:
            self.assertEqual(it.stop(), 0, it.tail())

    def no_descriptor_left(self, it: service.Service, slack: int = 1) -> None:
        """`slack`: a tunnel may come or go between the two questions that are asked."""
        before = self.before[it.name]

        def same():
            now = it.descriptors()
            return all(now.get(role, 0) <= count + slack for role, count in before.items())
        wait.until(f"{it.name} has closed what it opened: {before} at first, now {it.descriptors()}", same, 8, step=0.2)

    def seconds_since(self, begin: float) -> str:
        return f"{time.monotonic() - begin:.1f} s"


