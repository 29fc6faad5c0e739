"""What is done to a service under load. Each asks the program itself whether it can; a scenario is skipped when not."""

import os
import signal
import subprocess
import time
import unittest

from ebbtest import procfs, service, wait

_NOT_BUILT = "not built yet"


def _need(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    said = (done.stderr + done.stdout).strip()
    if done.returncode == 2 and (_NOT_BUILT in said or "not expected: --wait" in said):  # unknown to the command line
        raise unittest.SkipTest(f"{' '.join(done.args[1:-2])}: {said.splitlines()[0]}")
    return done


def reload(it: service.Service) -> subprocess.CompletedProcess:
    """`ctl reload --wait`: the answer is the reload's outcome, probation included."""
    return _need(it.ctl("reload", "--wait"))


def good_reload(it: service.Service) -> None:
    done = reload(it)
    if done.returncode != 0:
        raise AssertionError(f"reload of {it.name}: {done.returncode}\n{done.stdout}{done.stderr}\n{it.tail()}")


def resize(it: service.Service, workers: int) -> None:
    it.configure(lambda c: c["ebbgate"].update(workers=workers))
    good_reload(it)


def upgrade(it: service.Service) -> subprocess.CompletedProcess:
    """`ctl upgrade`: the same as USR2, but answers when the new supervisor is in charge, or was rolled back."""
    return _need(it.ctl("upgrade"))


def good_upgrade(it: service.Service) -> None:
    old = it.main()
    done = upgrade(it)
    if done.returncode != 0 or it.main() == old:
        raise AssertionError(f"upgrade of {it.name}: {done.returncode}\n{done.stdout}{done.stderr}\n{it.tail()}")


def replace_broker(it: service.Service) -> None:
    """A reload that changes what a broker cannot change in place (spec/processes.md 9.1 step 3): its loop count."""
    old = it.broker()
    _other_loops(it)
    wait.until(f"another broker of {it.name} is there", lambda: it.broker() != old, 10)


def _other_loops(it: service.Service) -> None:
    def change(config):
        config["ebbgate"].setdefault("broker", {})
        config["ebbgate"]["broker"]["loops"] = 3 - config["ebbgate"]["broker"].get("loops", 1)

    it.configure(change)
    good_reload(it)


def need_broker_replacement(it: service.Service) -> None:
    """Skips the scenario when such a reload leaves the broker in its place."""
    old = it.broker()
    _other_loops(it)
    try:
        wait.until("another broker is there", lambda: it.broker() != old, 2)
    except AssertionError:
        raise unittest.SkipTest("broker replacement is not built yet: another broker.loops keeps the broker") from None


def need_signal(it: service.Service, number: int) -> None:
    """Skips the scenario when the program answers that signal with "not built yet"."""
    name, before = signal.Signals(number).name[3:], len(it.log())
    it.signal(number)
    try:
        wait.until("an answer", lambda: f"{name} ignored" in it.log()[before:], 0.5)
    except AssertionError:
        return
    line = next(x for x in it.log()[before:].splitlines() if f"{name} ignored" in x)
    raise unittest.SkipTest(line[line.index(f"{name} ignored"):])


def kill_supervisor(it: service.Service, with_workers: bool = False) -> None:
    """SIGKILL, as the OOM killer would."""
    victims = [it.main()] + (it.role("worker") if with_workers else [])
    for pid in victims:
        service.signal_if_there(pid, signal.SIGKILL)
    wait.until("they are dead", lambda: not any(procfs.alive(p) for p in victims), 5, step=0.002)


def restart_supervisor(it: service.Service, delay: float = 0.3) -> None:
    """As the service manager does. Returns when the new one answers."""
    time.sleep(delay)
    it.spawn()
    wait.until(f"the new supervisor answers\n{it.tail()}", lambda: it.ctl("status", seconds=15).returncode == 0, 15)


def need_adoption(it: service.Service) -> None:
    """Tries it once without load: children that leave with their supervisor cannot be adopted."""
    broker = it.broker()
    kill_supervisor(it)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        if not procfs.alive(broker):
            wait.until("its children are gone", lambda: not it.tree(), 10)
            raise unittest.SkipTest("adoption is not built yet: children leave when their supervisor dies")
        time.sleep(0.05)
    restart_supervisor(it, 0)


def freeze(pid: int) -> float:
    """SIGSTOP; returns when the process stands still, with the time."""
    os.kill(pid, signal.SIGSTOP)
    wait.until("it stands still", lambda: procfs.state(pid) in "TZ", 2, step=0.001)
    return time.monotonic()
