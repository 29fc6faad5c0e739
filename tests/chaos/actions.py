"""What is done to a service under load."""

import os
import signal
import subprocess
import time

from ebbtest import procfs, service, wait

def reload(it: service.Service) -> subprocess.CompletedProcess:
    """`ctl reload --wait`: the answer is the reload's outcome, probation included."""
    return it.ctl("reload", "--wait")


def good_reload(it: service.Service) -> None:
    done = reload(it)
    if done.returncode != 0:
        raise AssertionError(f"reload of {it.name}: {done.returncode}\n{done.stdout}{done.stderr}\n{it.tail()}")


def resize(it: service.Service, workers: int) -> None:
    it.configure(lambda c: c["ebbgate"].update(workers=workers))
    good_reload(it)


def upgrade(it: service.Service) -> subprocess.CompletedProcess:
    """`ctl upgrade`: the same as USR2, but answers when the new supervisor is in charge, or was rolled back."""
    return it.ctl("upgrade")


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
    """Tries it once without load."""
    old = it.broker()
    _other_loops(it)
    wait.until("another broker is there", lambda: it.broker() != old, 2)


def need_signal(it: service.Service, number: int) -> None:
    """Tries it once without load: it is not ignored."""
    name, before = signal.Signals(number).name[3:], len(it.log())
    it.signal(number)
    wait.holds("it is obeyed", lambda: f"{name} ignored" not in it.log()[before:], 0.5)


def kill_supervisor(it: service.Service, with_workers: bool = False) -> int:
    """SIGKILL, as the OOM killer would. How many processes were killed."""
    victims = [it.main()] + (it.role("worker") if with_workers else [])
    for pid in victims:
        service.signal_if_there(pid, signal.SIGKILL)
    wait.until("they are dead", lambda: not any(procfs.alive(p) for p in victims), 5, step=0.002)
    return len(victims)


def restart_supervisor(it: service.Service, delay: float = 0.3) -> None:
    """As the service manager does. Returns when the new one answers."""
    time.sleep(delay)
    it.spawn()
    wait.until(f"the new supervisor answers\n{it.tail()}", lambda: it.ctl("status", seconds=15).returncode == 0, 15)


def need_adoption(it: service.Service) -> None:
    """Tries it once without load: children that leave with their supervisor cannot be adopted."""
    broker = it.broker()
    kill_supervisor(it)
    wait.holds("its children stay", lambda: procfs.alive(broker), 1.5)
    restart_supervisor(it, 0)


def freeze(pid: int) -> float:
    """SIGSTOP; returns when the process stands still, with the time."""
    os.kill(pid, signal.SIGSTOP)
    wait.until("it stands still", lambda: procfs.state(pid) in "TZ", 2, step=0.001)
    return time.monotonic()
