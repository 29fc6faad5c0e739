"""The binary is replaced under load: T08, T09, T10, T22."""

import os
import random
import signal
import threading
import time
import unittest

from ebbtest import procfs, programs, wait

from . import actions, generator, scenario


class Upgrade(scenario.Scenario):
    def start_upgradable(self, **timers) -> None:
        self.make_stack(**timers)
        self.portal.own_binary()
        if self.bridge.kind == "ours":
            self.bridge.own_binary()
        self.start_services()

    def script(self, text: str) -> str:
        path = os.path.join(self.directory, "program")
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, 0o755)
        return path

    def one_supervisor(self) -> None:
        wait.until("one supervisor is left", lambda: len(self.portal.supervisors()) == 1, 15)


class T08Upgrade(Upgrade):
    rate, most = 3000, 40
    seconds = 40.0 if scenario.FULL else 2.0  # each waits until bridges have moved

    def test_same_binary(self):
        self.start_upgradable()
        actions.good_upgrade(self.portal)
        it, count = self.load(self.rate), 0
        while it.going_on() and count < self.most:
            actions.good_upgrade(self.portal)
            if self.bridge.kind == "ours":
                actions.good_upgrade(self.bridge)
            count += 1
        self.note(f"{count} upgrades")
        self.expect(it)
        self.assertGreaterEqual(count, 2)
        self.one_supervisor()
        self.finish(descriptors=False)


@scenario.full_only
class T08UpgradeV2RayBridge(T08Upgrade):
    bridge_kind, rate = "v2ray", 500


@scenario.full_only
class T31SynCookiesUpgrade(T08Upgrade):
    sysctls = {"tcp_syncookies": "2"}


@scenario.full_only
class T31IPv6Upgrade(T08Upgrade):
    host, rate = "[::1]", 2000


class T09BrokenBinary(Upgrade):
    def test_old_one_stays(self):
        self.start_upgradable(ready="1s", probation="1s")
        actions.good_upgrade(self.portal)
        real = programs.ebbgate_binary()
        wrong = {"exits": "exit 1", "hangs": "exec sleep 1000",
                 "crashes after READY": f"(sleep 0.4; kill -9 $$) & exec {real} \"$@\""}
        text = os.path.join(self.directory, "text")
        with open(text, "w", encoding="utf-8") as f:
            f.write("This is no program.\n")
        pid, it, done = self.portal.main(), self.load(3000, seconds=max(self.seconds, 7)), []
        for name in ("exits", "text", "hangs", "crashes after READY"):
            self.portal.put_binary(text if name == "text" else self.script(wrong[name]))
            answer = actions.upgrade(self.portal)
            self.assertNotEqual(answer.returncode, 0, f"{name}: {answer.stdout}{answer.stderr}")
            self.assertEqual(self.portal.main(), pid, name)
            self.one_supervisor()
            done.append(name)
        self.portal.put_binary(real)
        actions.good_upgrade(self.portal)
        self.note(", ".join(done))
        self.expect(it)
        self.finish(descriptors=False)


class T10KilledInProbation(Upgrade):
    def test_old_one_stays(self):
        self.start_upgradable(probation="1s")
        actions.good_upgrade(self.portal)
        self.one_supervisor()  # the retired one is gone: whoever comes next is the new one
        it, count, chance = self.load(3000), 0, random.Random(10)
        while it.going_on():
            pid, workers = self.portal.main(), set(self.portal.role("worker"))
            asked = threading.Thread(target=self.portal.ctl, args=("upgrade",))
            asked.start()
            fresh = wait.until("a new supervisor",
                               lambda pid=pid: [p for p in self.portal.supervisors() if p != pid], 5, step=0.002)
            wait.until("new workers", lambda: set(self.portal.role("worker")) - workers, 5, step=0.002)
            time.sleep(chance.uniform(0, 0.2))
            os.kill(fresh[0], signal.SIGKILL)
            asked.join(30)
            self.assertEqual(self.portal.main(), pid)
            wait.until("its workers have left", lambda: set(self.portal.role("worker")) <= workers, 10)
            count += 1
        self.note(f"{count} times")
        self.expect(it)
        self.assertGreater(count, 0)
        self.one_supervisor()
        self.finish(descriptors=False)


class OldOneKilledInProbation(Upgrade):
    """Not in the table: then the new one is the only one, and takes the old one's processes over."""

    def test_new_one_takes_over(self):
        self.start_upgradable(probation="1s")
        actions.good_upgrade(self.portal)
        self.one_supervisor()
        it, count, chance = self.load(3000), 0, random.Random(10)
        while it.going_on():
            pid, workers = self.portal.main(), set(self.portal.role("worker"))
            self.portal.signal(signal.SIGUSR2)
            wait.until("new workers", lambda workers=workers: len(set(self.portal.role("worker")) - workers) == 4, 5,
                       step=0.002)
            time.sleep(chance.uniform(0.2, 0.5))
            os.kill(pid, signal.SIGKILL)
            wait.until("the new one is in charge", lambda pid=pid: self.portal.main() != pid, 5)
            wait.until("the old one's workers have left",
                       lambda workers=workers: not set(self.portal.role("worker")) & workers, 10)
            count += 1
        self.note(f"{count} times")
        self.expect(it)
        self.one_supervisor()
        wait.until("one broker is left", lambda: len(self.portal.role("broker")) == 1, 20)
        self.finish(descriptors=False)


class T22OtherProtocol(Upgrade):
    """Between two programs whose IPC protocol numbers differ, and which are the same otherwise."""

    def test_there_and_back(self):
        other = generator.other_protocol_binary()
        if not os.path.exists(other):
            raise unittest.SkipTest(f"no binary with another protocol number: {other} was not built")
        self.start_upgradable()
        actions.good_upgrade(self.portal)
        it = self.load(2000, seconds=max(self.seconds, 10))
        for binary in (other, programs.ebbgate_binary()):
            old = self.portal.broker()
            self.portal.put_binary(binary)
            actions.good_upgrade(self.portal)
            wait.until("the old broker has left", lambda old=old: not procfs.alive(old), 60)
        self.expect(it)
        self.finish(descriptors=False)
