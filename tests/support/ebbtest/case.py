"""What tests inherit: a directory per test, programs that are always ended, logs shown when something fails."""

import os
import shutil
import sys
import tempfile
import unittest

from . import configs, origin, ports, procfs, programs, tap, visitors, wait


# What a measured number is allowed on top (spec/reverse.md 11), and in a sanitizer build.
SLACK_S = 1.5 if os.environ.get("EBB_PRESET") == "asan" else 0.5

def alone(test):
    """Marks one test that the runner starts alone, in a class whose others wait most of the time."""
    test.exclusive = True
    return test


NIGHTLY = os.environ.get("EBB_NIGHTLY") == "1"

# Minutes long: part of `./dev test --nightly` only.
nightly = unittest.skipUnless(NIGHTLY, "a long one: ./dev test --nightly")


def promised(figure, everyday):
    """`figure`, what is promised, in the nightly form, which has the machine for itself; else `everyday`, which a machine that
    others share can keep as well: the reason for it stands beside."""
    return figure if NIGHTLY else everyday

# What V2Ray itself does not manage (spec/reverse.md 10): asked of our program only, not of a self-check of the harness.
beyond_v2ray = unittest.skipIf(programs.SELF_CHECK, "V2Ray itself does not do this")


class ProgramCase(unittest.TestCase):
    """Starts programs and ends them; a sanitizer's report in any log fails the test."""

    maxDiff = None  # a sanitizer report is shown whole
    exclusive = False  # the runner starts such a class alone: it measures time under load or moves bulk data
    longMessage = True

    def setUp(self):
        for kind in self.kinds():
            variable, path = programs.NEEDED.get(kind, ("", "given"))
            if not path:
                self.skipTest(f"needs {variable}, the path of such a program")
        procfs.adopt_orphans()
        self.directory = tempfile.mkdtemp(prefix="ebbtest-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.programs: list[programs.Program] = []
        if "ours" in self.kinds() and not programs.SELF_CHECK:
            self.assertTrue(os.access(programs.ebbgate_binary(), os.X_OK),
                            f"{programs.ebbgate_binary()} is not there: build it or set EBBGATE_BIN")

    def kinds(self) -> tuple:
        """Which implementations this test starts."""
        return ("ours",)

    def run(self, result=None):
        result = result or self.defaultTestResult()
        before = len(result.failures) + len(result.errors)
        self._show = lambda: len(result.failures) + len(result.errors) > before
        return super().run(result)

    def program(self, kind: str, name: str, config: str, **options) -> programs.Program:
        """A program that is stopped (or killed) at the end of the test; it is not started yet."""
        it = programs.Program(programs.implementation(kind), name, self.directory, config, **options)
        self.programs.append(it)
        self.addCleanup(self._end, it)
        return it

    def _end(self, it: programs.Program) -> None:
        try:
            if it.running():
                status = it.stop()
                if it.kind == "ours":
                    self.assertEqual(status, 0, f"exit status of {it.name} after TERM\n{it.tail()}")
            else:
                it.kill()  # what it may have left behind
            self.assertEqual(it.sanitizer_report(), "")
        finally:
            if self._show():
                print(it.tail(), file=sys.stderr)

    def start_origin(self, **options) -> origin.Origin:
        it = origin.Origin(**options).start()
        self.addCleanup(it.stop)
        return it

    def watch_udp(self, port: int) -> origin.UdpListener:
        it = origin.UdpListener(port)
        self.addCleanup(it.stop)
        return it

    def open_echo(self, port: int) -> visitors.Echo:
        it = visitors.Echo(port)
        self.addCleanup(it.close)
        return it

    def connect(self, port: int):
        sock = visitors.connect(port)
        self.addCleanup(sock.close)
        return sock


class PairCase(ProgramCase):
    """A portal and a bridge with a web page behind it. `portal_kind` and `bridge_kind`: "ours", "v2ray", "v2fly" or "xray"."""

    portal_kind = bridge_kind = "ours"

    def kinds(self) -> tuple:
        return (self.portal_kind, self.bridge_kind)

    def make_pair(self, seed: str = "", tapped: bool = False, portal_extra: dict | None = None,
                  bridge_extra: dict | None = None, redirect: bool = True, **origin_options) -> None:
        """Makes self.web, self.portal and self.bridge (and self.tap between them), nothing but the web page started.

        `seed`: number of a seed pair; "" = the small pair of configs.py.
        """
        self.web = self.start_origin(**origin_options)
        self.public, self.tunnel = ports.free_port(), ports.free_port()
        dial = self.tunnel
        if tapped:
            self.tap = tap.Tap(self.tunnel)
            self.addCleanup(self.tap.stop)
            dial = self.tap.port
        kinds = [programs.implementation(k) for k in (self.portal_kind, self.bridge_kind)]
        if seed:
            texts = [configs.seed(seed, role, self.public, port, self.web.port, kind in ("v2ray", "v2fly"))
                     for role, port, kind in (("portal", self.tunnel, kinds[0]), ("bridge", dial, kinds[1]))]
        else:
            texts = [configs.portal(self.public, self.tunnel, self.web.port, portal_extra),
                     configs.bridge(dial, self.web.port if redirect else 0, bridge_extra)]
        self.portal = self.program(self.portal_kind, "portal", texts[0])
        self.bridge = self.program(self.bridge_kind, "bridge", texts[1])

    def start_portal(self) -> None:
        self.portal.start(listens=self.public)
        wait.until("the tunnel port is bound", lambda: procfs.listening(self.tunnel), 5)

    def start_pair(self, seed: str = "", **options) -> None:
        """make_pair, both started, page reachable."""
        self.make_pair(seed, **options)
        self.start_portal()
        self.bridge.start()
        self.await_service(10)

    def await_service(self, seconds: float) -> None:
        wait.until(f"the page is served\n{self.portal.tail(15)}\n{self.bridge.tail(15)}",
                   lambda: visitors.fetches(self.public), seconds, step=0.05)
