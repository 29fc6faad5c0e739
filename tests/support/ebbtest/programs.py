"""Starting, watching and ending the programs under test: each runs in its own directory, with its own log."""

import os
import shutil
import signal
import subprocess
import time

from . import configs, procfs, wait

V2RAY = os.environ.get("EBB_V2RAY", "/usr/bin/v2ray")
XRAY = os.environ.get("EBB_XRAY", "")  # a version with the classic reverse, so up to 26.4.24; no package has one
V2FLY = os.environ.get("EBB_V2FLY", "")  # v2fly's v2ray-core 5, which has another control name than Debian's 4.34
# What a test of such a peer needs; it is skipped where that is not given.
NEEDED = {"xray": ("EBB_XRAY", XRAY), "v2fly": ("EBB_V2FLY", V2FLY)}
SELF_CHECK = os.environ.get("EBB_SELF_CHECK") == "1"  # V2Ray plays our part too: proves the harness, not the program


def ebbgate_binary() -> str:
    """EBBGATE_BIN, else the dev build's."""
    return os.path.abspath(os.environ.get("EBBGATE_BIN", os.path.join(configs.ROOT, "build", "dev", "ebbgate")))


def _sanitizers() -> dict:
    """Leaks are reported by every process that ends by itself. Our children have no PATH, so they are told the symbolizer's."""
    tool = shutil.which("llvm-symbolizer-19") or shutil.which("llvm-symbolizer")
    symbols = f":external_symbolizer_path={tool}" if tool else ""
    return {"ASAN_OPTIONS": "detect_leaks=1" + symbols, "UBSAN_OPTIONS": "print_stacktrace=1" + symbols}


def implementation(name: str) -> str:
    """"ours", "v2ray", "v2fly" or "xray"; in a self-check V2Ray plays our part."""
    return "v2ray" if SELF_CHECK and name == "ours" else name


class Program:
    """One started process and everything it starts itself.

    `kind` is "ours", "v2ray", "v2fly" or "xray"; `directory` gets NAME.json, NAME.log and, for ours, a private runtime directory.
    """

    def __init__(self, kind: str, name: str, directory: str, config: str, env: dict | None = None, limits=None):
        self.kind, self.name, self.directory = kind, name, directory
        self.config_path = os.path.join(directory, f"{name}.json")
        self.log_path = os.path.join(directory, f"{name}.log")
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config)
        self._env, self._limits = env or {}, limits
        self._process = None
        self._seen = {}  # pid -> start time of all of the tree we ever looked at: what stop() must see gone

    def environment(self) -> dict:
        runtime = os.path.join(self.directory, f"{self.name}.run")
        os.makedirs(runtime, mode=0o700, exist_ok=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("V2RAY_", "XRAY_", "NOTIFY_", "LISTEN_"))}
        return {**clean, "RUNTIME_DIRECTORY": runtime, **_sanitizers(), **self._env}

    def command(self) -> list[str]:
        if self.kind == "v2ray":
            return [V2RAY, "-config", self.config_path]
        if self.kind in NEEDED:
            return [NEEDED[self.kind][1], "run", "-config", self.config_path]
        return [ebbgate_binary(), "run", "-c", self.config_path]

    def start(self, listens: int = 0, seconds: float = 15) -> "Program":
        """Starts it and, when `listens` is given, waits until that TCP port is bound."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             cwd=self.directory, env=self.environment(), preexec_fn=self._limits)
        self._note([self.pid])
        if listens:
            wait.until(f"{self.name} listens on {listens}\n{self.tail()}",
                       lambda: procfs.listening(listens) or self._ended(), seconds)
        return self

    def _ended(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self._process.returncode}\n{self.tail()}")
        return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tree(self) -> list[int]:
        """Living pids, this process first."""
        pids = procfs.tree(self.pid)
        self._note(pids)
        return pids

    def _note(self, pids) -> None:
        for pid in pids:
            self._seen.setdefault(pid, procfs.started(pid))

    def _left(self) -> list[int]:
        return [p for p, start in self._seen.items() if procfs.alive(p) and procfs.started(p) == start]

    def role(self, role: str) -> list[int]:
        """Pids of the children whose title names `role` ("worker", "broker", ...), oldest first."""
        return sorted(p for p in self.tree()
                      if p != self.pid and role in procfs.title(p) and not procfs.leak_checker(p))

    def exit_status(self, seconds: float) -> int:
        """Waits for the end. AssertionError when it still runs then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds:g} s\n{self.tail()}") from None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Everything at once, as a power cut would: SIGKILL to the whole tree, then waits until it is gone."""
        if self._process is None:
            return
        self.tree()
        for pid in self._left():
            _kill(pid)
        self._gone(5)

    def stop(self) -> int:
        """TERM, once more after a second (which means: now), KILL after 9 s. The exit status."""
        if self._process is None:
            return 0
        self.tree()
        for attempt, seconds in enumerate((1, 8)):
            if self._process.poll() is None:
                self._process.terminate()
            try:
                self._process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                if attempt:
                    self.kill()
                    raise AssertionError(f"{self.name} did not obey TERM within 9 s\n{self.tail()}") from None
        self._gone(2)
        return self._process.returncode

    def _gone(self, seconds: float) -> None:
        self._process.poll()
        deadline = time.monotonic() + seconds
        left = self._left()
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = self._left()
        titles = [f"{p} {procfs.title(p)}" for p in left]
        for pid in left:
            _kill(pid)
        if self._process.poll() is None:
            self._process.wait(5)
        self._seen.clear()
        if left:
            raise AssertionError(f"{self.name} left processes behind: {titles}")

    def log(self) -> str:
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def tail(self, lines: int = 25) -> str:
        """The end of the log, for a failure message."""
        return f"--- {self.name} ({self.kind}) ---\n" + "\n".join(self.log().splitlines()[-lines:])

    def sanitizer_report(self) -> str:
        """The first report of a sanitizer in the log, or ""."""
        text = self.log()
        at = min((i for i in (text.find("Sanitizer:"), text.find("runtime error:")) if i >= 0), default=-1)
        return text[max(0, at - 200):at + 4000] if at >= 0 else ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
