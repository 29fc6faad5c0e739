"""A pair whose portal and bridge are operated on: reloaded, upgraded, adopted, drained. What those tests inherit."""

import json
import os
import signal

from . import case, procfs, programs, service, visitors, wait


class Operated(case.PairCase):
    """self.portal and self.bridge outlive their supervisors; self.config is the portal's, written by write()."""

    # The only shipped defaults that are not in force here, and why. How a stream is carried is never changed.
    probation = "100ms"  # 10 s: what happens in it has tests of its own, which set it; all others would wait for its end
    timers: dict = {}    # of one test's own, over these
    workers = 2  # one for each core: tests count them, and must find the same ones on every machine
    _TIMERS = {
        "respawnBackoff": 0,     # 1 s: a test that kills one process after another would measure the pauses between them
        "drainSpread": "100ms",  # 10 s: over how long tunnels move to a new broker; a test has one or two
        "stopGrace": "1s",       # 5 s: how long a stop waits for streams that a test leaves open on purpose
    }

    def program(self, kind: str, name: str, config: str, **options) -> service.Service:
        it = service.Service(programs.implementation(kind), name, self.directory, json.loads(config), **options)
        self.programs.append(it)
        self.addCleanup(self._end, it)
        return it

    def start_operated(self, env: dict | None = None, tapped: bool = False, **settings) -> None:
        """`env`: more of the portal's environment. `settings`: of the portal's ebbgate."""
        timers = {"probation": self.probation, **self._TIMERS, **self.timers}
        self.make_pair(tapped=tapped, portal_extra={"ebbgate": {"workers": self.workers, "timers": timers, **settings}},
                       bridge_extra={"ebbgate": {"timers": timers}})
        self.portal._env.update(env or {})
        self.config = self.portal.config
        self.start_portal()
        self.bridge.start()
        self.await_service(10)

    def write(self) -> None:
        self.portal.configure()

    def ctl(self, *words: str, status: int = 0, of: service.Service | None = None) -> str:
        it = of or self.portal
        done = it.ctl(*words)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr + it.tail())
        return done.stdout + done.stderr

    def ctl_by_socket(self, *words: str) -> tuple[int, str]:
        """As ctl(), where the configuration may be wrong or another one: (exit status, what was said)."""
        done = self.portal.ctl(*words, socket=True)
        return done.returncode, done.stdout + done.stderr

    def status(self, of: service.Service | None = None) -> dict:
        return json.loads(self.ctl("status", "--json", of=of))["result"]

    def states(self) -> dict:
        return {p["name"]: p["state"] for p in self.status()["processes"]}

    def tunnel_id(self, of: service.Service | None = None) -> int:
        """The id of the only tunnel; waits until it is the only one."""
        it = of or self.portal
        return wait.until("one tunnel", lambda: len(it.tunnels()) == 1 and it.tunnels(), 15, step=0.05)[0]["id"]

    def reload(self) -> None:
        self.write()
        self.ctl("reload", "--wait")

    def door(self, port: int, tag: str) -> dict:
        return {**self.config["inbounds"][0], "tag": tag, "port": port}

    def add_door(self, port: int, tag: str) -> None:
        """One more address for visitors; to be written."""
        self.config["inbounds"].append(self.door(port, tag))
        self.config["routing"]["rules"][0]["inboundTag"].append(tag)

    def settled(self) -> None:
        wait.until("nothing is going on", lambda: self.status()["reload"]["step"] == "idle", 15, step=0.05)

    def stream(self) -> visitors.Echo:
        """A visitor who stays, and has had an answer."""
        it = self.open_echo(self.public)
        it.exchange()
        return it

    def gone(self, pids, seconds: float = 10) -> None:
        wait.until("they have left", lambda: not any(procfs.alive(p) for p in pids), seconds)

    def all_gone(self, seconds: float) -> None:
        wait.until(f"no process is left\n{self.portal.tail()}", lambda: not self.portal.tree(), seconds)

    def kill_supervisor(self) -> None:
        """KILL, as the OOM killer would."""
        pid = self.portal.main()
        os.kill(pid, signal.SIGKILL)
        self.gone([pid], 5)

    def runtime(self) -> str:
        return self.portal.environment()["RUNTIME_DIRECTORY"]

    def log_says(self, text: str, seconds: float = 10) -> None:
        wait.until(f"the log says {text!r}", lambda: text in self.portal.log(), seconds)


class Orphaned(Operated):
    """The portal's supervisor dies, and another one starts."""

    def restart(self) -> None:
        self.portal.spawn()
        wait.until(f"the new supervisor answers\n{self.portal.tail()}",
                   lambda: self.portal.ctl("status", socket=True).returncode == 0, 10)

    def second(self) -> programs.Program:
        """Another start with the portal's configuration, of which an end is expected."""
        it = programs.Program("ours", "second", self.directory, "{}")
        it.config_path, it.environment = self.portal.config_path, self.portal.environment
        self.addCleanup(it.kill)
        return it.start()

    def files(self) -> set:
        return set(os.listdir(self.runtime()))

    def sockets(self) -> set:
        return {f for f in self.files() if f.endswith(".sock")}
