"""The programs of loadgen/: visitors, the origin, the naive server. Each is asked by lines and answers in JSON."""

import json
import os
import subprocess
import time

from ebbtest import programs


def loadgen_binary() -> str:
    """EBB_LOADGEN, else the one built beside the program under test."""
    beside = os.path.join(os.path.dirname(programs.ebbgate_binary()), "tests", "chaos", "ebb_loadgen")
    return os.path.abspath(os.environ.get("EBB_LOADGEN", beside))


def other_protocol_binary() -> str:
    """EBB_OTHER_PROTOCOL, else the one built beside the load generator: ebbgate with another IPC protocol number."""
    beside = os.path.join(os.path.dirname(loadgen_binary()), "ebbgate_other_protocol")
    return os.path.abspath(os.environ.get("EBB_OTHER_PROTOCOL", beside))


class _Asked:
    """A running ebb_loadgen. Every line it prints is one JSON object with one key."""

    def __init__(self, *words: str):
        self._process = subprocess.Popen([loadgen_binary(), *words], text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)
        self.result: dict | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def say(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self, key: str) -> dict:
        """The next line with that key. A "result" met on the way is kept."""
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise AssertionError(f"ebb_loadgen ended ({self._process.wait()}) instead of telling {key}")
            said = json.loads(line)
            if "result" in said:
                self.result = said["result"]
            if key in said:
                return said[key]

    def progress(self) -> dict:
        """Counts so far; the result when it is over already."""
        if self.result is not None:
            return self.result
        try:
            self.say("progress")
            return self.answer("progress")
        except (BrokenPipeError, AssertionError):
            if self.result is None:
                self.answer("result")  # it ended by itself: that was its last word
            return self.result

    def finish(self, *, at_once: bool = False) -> dict:
        """Waits for the result. `at_once`: starts nothing more; what is open is still waited for."""
        if at_once and self.result is None:
            try:
                self.say("stop")
            except BrokenPipeError:
                pass
        if self.result is None:
            self.answer("result")
        self.close()
        return self.result

    def close(self) -> None:
        if self._process.poll() is None and self.result is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        self._process.wait()


class Origin(_Asked):
    def __init__(self, port: int):
        super().__init__("--origin", str(port))
        self.port = port
        self.answer("ready")

    def seen(self, sequences: list[int]) -> list[int]:
        """How often each short connection came here."""
        self.say("seen " + " ".join(map(str, sequences[:5000])))
        return self.answer("seen")


class Naive(_Asked):
    def __init__(self, port: int, workers: int = 4, generation_ms: int = 35):
        super().__init__("--naive-server", str(port), "--workers", str(workers), "--generation-ms", str(generation_ms))
        self.answer("ready")

    def generations(self) -> int:
        self.say("stop")
        return self.answer("generations")


class Chopper(_Asked):
    """Passes connections on to `target`, their first `singles` bytes one by one."""

    def __init__(self, port: int, target: str, singles: int = 200):
        super().__init__("--chop", str(port), "--target", target, "--singles", str(singles))
        self.answer("ready")


class UdpOrigin(_Asked):
    """Echoes datagrams."""

    def __init__(self, port: int):
        super().__init__("--udp-origin", str(port))
        self.answer("ready")


class FlowLoad(_Asked):
    """`flows` UDP clients of `target`, `rate` datagrams a second of all together."""

    def __init__(self, target: str, flows: int, rate: float, seconds: float):
        super().__init__("--flows", str(flows), "--target", target, "--rate", f"{rate:g}", "--seconds", f"{seconds:g}")


class Load(_Asked):
    """L(rate) for `seconds`, with `long` streams that stay, against `targets` ("host:port")."""

    _next = 0

    def __init__(self, targets: list[str], rate: float, seconds: float, long: int = 50, reopen: bool = False,
                 bulk_bytes: int = 0, bulk_streams: int = 0, close_first: bool = False):
        Load._next += 1  # sequence numbers of their own: the origin counts over all loads of a scenario
        words = [w for t in targets for w in ("--target", t)]
        words += ["--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--long", str(long),
                  "--first", str(Load._next * 500_000), "--bulk", str(bulk_bytes),
                  "--bulk-streams", str(bulk_streams)]
        words += ["--reopen"] * reopen + ["--close-first"] * close_first
        self.rate, self.seconds = rate, seconds
        self.began = time.monotonic()
        super().__init__(*words)

    def left(self) -> float:
        """Seconds in which new connections are still started."""
        return self.began + self.seconds - time.monotonic()

    def going_on(self, pause: float = 0) -> bool:
        """For `while`: pauses, then says whether there is load for yet another action (and half a second after it)."""
        if pause:
            time.sleep(min(pause, max(0.0, self.left())))
        return self.left() > 0.5
