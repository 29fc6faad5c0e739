"""T30: everything at random, but no broker is killed. The seed is printed; EBB_CHAOS_SEED plays it again."""

import json
import os
import random
import signal
import time
import unittest

from ebbtest import ports, procfs, service, wait

from . import actions, scenario


class T30Model(scenario.Scenario):
    limit_s = 900
    seconds = float(os.environ.get("EBB_CHAOS_SECONDS", 600 if scenario.FULL else 6))

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("EBB_CHAOS_SEED", random.SystemRandom().randrange(1 << 32)))
        self.chance = random.Random(self.seed)
        self.make_stack()
        self.portal.own_binary()
        self.bridge.own_binary()
        self.start_services()
        self.worker_kills = self.retired_kills = 0

    def both(self) -> service.Service:
        return self.chance.choice((self.portal, self.bridge))

    # ---- the actions; each leaves the service as it should be ----
    def hup(self):
        actions.good_reload(self.both())

    def broken(self):
        it = self.both()
        it.write("{ broken")
        assert it.ctl("reload", "--wait", socket=True).returncode == 23  # so that the supervisor reads it
        it.configure()

    def resize(self):
        actions.resize(self.portal, self.chance.choice((1, 2, 3, 4, 6, 8)))

    def upgrade(self):
        actions.good_upgrade(self.both())

    def replace(self):
        actions.replace_broker(self.both())

    def kill_worker(self):
        worker = self.portal.role("worker")
        if worker and service.signal_if_there(self.chance.choice(worker), signal.SIGKILL):
            self.worker_kills += 1

    def freeze_broker(self):
        broker = self.both().broker()
        actions.freeze(broker)
        time.sleep(self.chance.uniform(0, 0.2))
        os.kill(broker, signal.SIGCONT)

    def kill_supervisor(self):
        it = self.both()
        with_workers = it is self.portal and self.chance.random() < 0.3
        self.worker_kills += actions.kill_supervisor(it, with_workers) - 1
        actions.restart_supervisor(it, self.chance.uniform(0, 0.5))

    def kill_retired(self):
        """One of before an upgrade, that waits for its last process."""
        it = self.both()
        retired = sorted(set(it.supervisors()) - {it.main()})
        if retired:
            self.retired_kills += service.signal_if_there(self.chance.choice(retired), signal.SIGKILL)

    def reopen_logs(self):
        self.both().signal(signal.SIGUSR1)

    def test_random_actions(self):
        """All of them; those that the program cannot do yet are left out and named."""
        print(f"| T30Model: EBB_CHAOS_SEED={self.seed}", flush=True)
        choices = [self.kill_worker, self.freeze_broker]
        for needed, more in ((lambda: actions.good_reload(self.portal), [self.hup, self.broken, self.resize]),
                             (lambda: actions.need_signal(self.portal, signal.SIGUSR1), [self.reopen_logs]),
                             (lambda: actions.good_upgrade(self.portal), [self.upgrade, self.kill_retired]),
                             (lambda: actions.need_broker_replacement(self.portal), [self.replace]),
                             (self.try_adoption, [self.kill_supervisor])):
            try:
                needed()
                choices += more
            except unittest.SkipTest as why:
                self.note(str(why))
        self.play(choices, 3000)

    def try_adoption(self) -> None:
        """With a service of its own: one that cannot be adopted has gone afterwards."""
        port = ports.free_port()
        config = json.loads(json.dumps(self.portal.config))
        for inbound in config["inbounds"]:
            inbound["port"] = ports.free_port()
        config["inbounds"][0]["port"] = port
        spare = self.add_service("ours", "spare", config).start(listens=port)
        try:
            actions.need_adoption(spare)
        finally:
            self.services.remove(spare)
            self.programs.remove(spare)
            spare.kill()

    def play(self, choices: list, rate: float) -> None:
        it, story = self.load(rate), []
        while it.going_on(self.chance.uniform(0, 0.2)):
            action = self.chance.choice(choices)
            story.append(f"{time.monotonic():.3f} {action.__name__}")
            try:
                action()
            except AssertionError as failed:
                raise AssertionError(f"seed {self.seed}, last actions {story[-10:]}: {failed}") from failed
        allowed = scenario.poisson_limit(self.worker_kills / 500)
        failures = it.finish()["failures"]
        if len(failures) > allowed:
            first = min(f["started_us"] for f in failures) / 1e6
            near = [one for one in story if first - 3 < float(one.split()[0]) < first + 2]
            print(f"| the first was lost at {first:.3f}; around it: {near}", flush=True)
        self.note(f"{len(story)} actions of {len(choices)} kinds, {self.worker_kills} workers and {self.retired_kills} "
                  "retired supervisors killed")
        self.expect(it, lost=allowed)
        for one in self.services:
            try:
                wait.until("one supervisor is left", lambda one=one: len(one.supervisors()) == 1, 30)
            except AssertionError as stuck:
                who = [f"{p} {procfs.title(p)}" for p in one.tree()]
                raise AssertionError(f"{stuck}: {who}\n{json.dumps([x.status() for x in self.services], indent=1)}"
                                     ) from None
            self.assertTrue(procfs.alive(one.main()))
        self.finish(descriptors=False)
