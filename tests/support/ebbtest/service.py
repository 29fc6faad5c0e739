"""One ebbgate under test, over restarts of its supervisor, upgrades and adoptions."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time

from . import procfs, programs, wait


class Service(programs.Program):
    """All its processes keep the session of the supervisor that started them, so orphans stay ours."""

    def __init__(self, kind: str, name: str, directory: str, config: dict, open_files: int = 0):
        """`open_files`: limit of every process; 0 = as it is."""
        def before_exec():
            os.setsid()
            if open_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        self.config = config
        self._sessions: set[int] = set()
        self.binary = programs.ebbgate_binary()
        super().__init__(kind, name, directory, json.dumps(config, indent=1), limits=before_exec)

    def own_binary(self) -> str:
        """From now on a copy is run, which may be replaced: for upgrades."""
        path = os.path.join(self.directory, f"{self.name}.bin")
        shutil.copy(programs.ebbgate_binary(), path)
        self.binary = path
        return path

    def put_binary(self, source: str) -> None:
        """Puts another program in the place of the own binary, as a package manager does: atomically."""
        fresh = self.binary + ".new"
        shutil.copy(source, fresh)
        os.chmod(fresh, 0o755)
        os.rename(fresh, self.binary)

    def command(self) -> list[str]:
        return [self.binary, "run", "-c", self.config_path] if self.kind == "ours" else super().command()

    def start(self, listens: int = 0, seconds: float = 15) -> "Service":
        self.spawn()
        if listens:
            wait.until(f"{self.name} listens on {listens}\n{self.tail()}",
                       lambda: procfs.listening(listens) or self._ended(), seconds)
        return self

    def spawn(self) -> None:
        super().start()
        self._sessions.add(self.pid)

    # ---- processes ----
    def tree(self) -> list[int]:
        pids = [int(n) for n in os.listdir("/proc") if n.isdigit()]
        mine = [p for p in pids if procfs.session(p) in self._sessions and procfs.alive(p)]
        self._note(mine)
        return sorted(mine)

    def zombies(self) -> list[int]:
        pids = [int(n) for n in os.listdir("/proc") if n.isdigit()]
        return [p for p in pids if procfs.session(p) in self._sessions and procfs.state(p) == "Z"
                and procfs.parent(p) != os.getpid()]

    def main(self) -> int:
        """The supervisor in charge, who holds the lock: after an upgrade another one than we started."""
        if self.kind != "ours":
            return self.pid
        pid = self.signer()
        return pid if procfs.session(pid) in self._sessions else self.pid

    def signer(self) -> int:
        """Who has written the lock, alive or not. 0: nobody."""
        try:
            with open(os.path.join(self.environment()["RUNTIME_DIRECTORY"], "lock"), encoding="ascii") as f:
                return int(f.read().split()[0])
        except (OSError, ValueError, IndexError):
            return 0

    def supervisors(self) -> list[int]:
        return [p for p in self.tree() if "supervisor" in procfs.title(p)]

    def role(self, role: str) -> list[int]:
        mine = [p for p in self.tree() if role in procfs.title(p) and not procfs.leak_checker(p)]
        return sorted(mine, key=lambda p: (int(procfs.started(p) or 0), p))

    def broker(self) -> int:
        """The newest one."""
        return wait.until(f"a broker of {self.name}", lambda: self.role("broker"), 10, step=0.002)[-1]

    def running(self) -> bool:
        return self._process is not None and bool(self.tree())

    def signal(self, number: int) -> None:
        os.kill(self.main(), number)

    def stop(self) -> int:
        """TERM to the supervisor in charge; all must be gone within 7 s. The exit status; 0 where it is not known."""
        if self._process is None or not self.tree():
            return 0
        if self.kind == "ours" and self._process.poll() is None and not self.supervisors():
            self.kill()
            raise AssertionError(f"{self.name} runs without a supervisor\n{self.tail()}")
        main = self.main()
        begin = time.monotonic()
        if procfs.alive(main):
            os.kill(main, signal.SIGTERM)
        try:
            wait.until(f"all of {self.name} gone after TERM", lambda: not self.tree(), 7)
        except AssertionError as late:
            titles = [f"{p} {procfs.title(p)}" for p in self.tree()]
            self.kill()
            raise AssertionError(f"{late}: {titles}\n{self.tail()}") from None
        self.stop_seconds = time.monotonic() - begin
        status = self._process.wait(5)
        return status if main == self.pid else 0

    def kill(self) -> None:
        if self._process is None:
            return
        for pid in self.tree():
            signal_if_there(pid, signal.SIGKILL)
        wait.until(f"{self.name} killed", lambda: not self.tree(), 5)
        self._process.wait(5)

    # ---- what an operator does ----
    def ctl(self, *words: str, seconds: float = 90, socket: bool = False) -> subprocess.CompletedProcess:
        """`socket`: by the socket's path, whatever the configuration says by now."""
        where = ["--socket", os.path.join(self.environment()["RUNTIME_DIRECTORY"], "ctl.sock")]
        command = [programs.ebbgate_binary(), "ctl", *words, *(where if socket else ["-c", self.config_path])]
        return subprocess.run(command, text=True, timeout=seconds, capture_output=True, check=False,
                              env=self.environment())

    def status(self) -> dict:
        done = self.ctl("status", "--json", seconds=15)
        if done.returncode != 0:
            raise AssertionError(f"ctl status: {done.returncode} {done.stderr}")
        answer = json.loads(done.stdout)
        return answer.get("result", answer)

    def tunnels(self) -> list[dict]:
        status = self.status()
        return [t for p in status["portals"] + status["bridges"] for t in p["tunnels"]]

    def write(self, text: str) -> None:
        """Replaces the configuration file, atomically."""
        with open(self.config_path + ".new", "w", encoding="utf-8") as f:
            f.write(text)
        os.rename(self.config_path + ".new", self.config_path)

    def configure(self, change=None) -> None:
        """`change(config)` edits the configuration in place; then it is written."""
        if change:
            change(self.config)
        self.write(json.dumps(self.config, indent=1))

    def descriptors(self) -> dict[str, int]:
        """Open files per role, without tunnels: the most of its processes."""
        tunnels, found = len(self.tunnels()), {}
        for role in ("supervisor", "worker", "broker"):
            counts = [procfs.fd_count(p) for p in self.role(role)]
            if counts:
                found[role] = max(counts) - (tunnels if role == "broker" else 0)
        return found


def signal_if_there(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False
