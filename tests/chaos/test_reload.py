"""The configuration changes under load: T02 to T07, T25, T31."""

import errno
import itertools
import json
import signal
import socket
import time

from ebbtest import ports, wait

from . import actions, scenario, test_baseline


def refuses(port: int) -> bool:
    """Nobody listens there. (/proc/net/tcp takes half a second to read when so many connections have just ended.)"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


class T02Reload(scenario.Scenario):
    rate = 4000
    least = 3

    def test_back_to_back(self):
        self.start_stack()
        actions.good_reload(self.portal)
        it, count = self.load(self.rate), 0
        while it.going_on():
            actions.good_reload(self.portal)
            if self.bridge.kind == "ours":
                actions.good_reload(self.bridge)
            count += 1
        self.note(f"{count} reloads of each")
        self.expect(it)
        self.assertGreaterEqual(count, self.least)
        self.finish()


@scenario.full_only
class T02ReloadV2RayBridge(T02Reload):
    bridge_kind, rate = "v2ray", 500


class T03Resize(scenario.Scenario):
    rate = 4000
    sizes = (2, 8, 1, 3, 6, 4)

    def test_back_to_back(self):
        self.start_stack()
        actions.resize(self.portal, 4)
        it, count = self.load(self.rate), 0
        while it.going_on() or count % len(self.sizes):
            size = self.sizes[count % len(self.sizes)]
            actions.resize(self.portal, size)
            count += 1
            if not it.going_on() and size == self.workers:
                break
        self.note(f"{count} sizes")
        self.expect(it)
        self.assertGreaterEqual(count, 3)
        wait.until("as many as at first", lambda: len(self.portal.role("worker")) == self.workers, 10)
        self.finish()

    def test_by_signals(self):
        """TTIN adds a worker, TTOU takes one away."""
        self.start_stack()
        actions.need_signal(self.portal, signal.SIGTTIN)
        it, count = self.load(2000), self.workers + 1
        for more in itertools.cycle((True, False, False, True)):
            wait.until(f"{count} workers", lambda: len(self.portal.role("worker")) == count, 10)
            if not it.going_on():
                break
            self.portal.signal(signal.SIGTTIN if more else signal.SIGTTOU)
            count += 1 if more else -1
        self.expect(it)
        self.finish(descriptors=False)


@scenario.full_only
class T03ResizeV2RayBridge(T03Resize):
    bridge_kind, rate = "v2ray", 500
    test_by_signals = None


class T04BrokenConfiguration(scenario.Scenario):
    def broken(self) -> list[tuple[str, str]]:
        """(a faulty file, a word that its diagnosis must hold)"""
        good = self.portal.config
        twice = json.loads(json.dumps(good))
        twice["inbounds"][1]["tag"] = twice["inbounds"][0]["tag"]
        future = json.loads(json.dumps(good))
        future["inbounds"][1]["streamSettings"] = {"network": "kcp"}
        return [(json.dumps(good)[:-20], "json"), (json.dumps(twice), "tag"), (json.dumps(future), "kcp")]

    def test_between_good_ones(self):
        self.start_stack()
        actions.good_reload(self.portal)
        it, refused, done, cases = self.load(4000), 0, 0, self.broken()
        workers = self.portal.role("worker")
        while it.going_on() or refused < len(cases):
            text, word = cases[refused % len(cases)]
            self.portal.write(text)
            workers = self.portal.role("worker")
            # By the file's name `ctl` reads it, too, and refuses by itself; by the socket's the supervisor has to.
            answer = self.portal.ctl("reload", "--wait", socket=refused % 2 == 0)
            said = (answer.stdout + answer.stderr).lower()
            self.assertEqual(answer.returncode, 23, said)
            self.assertIn(word, said)
            self.assertLessEqual(set(self.portal.role("worker")), set(workers), "nothing was started")
            refused += 1
            self.portal.configure()
            actions.good_reload(self.portal)
            done += 1
        self.note(f"{refused} refused, {done} good")
        self.expect(it)
        self.finish()


class T05PortInUse(scenario.Scenario):
    def test_reload_is_rejected_as_a_whole(self):
        self.start_stack()
        actions.good_reload(self.portal)
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        free = ports.free_port()
        it, count = self.load(2000), 0
        good = json.dumps(self.portal.config)
        for port in (free, taken.getsockname()[1]):
            door = {**self.portal.config["inbounds"][0], "tag": f"more{port}", "port": port}
            self.portal.config["inbounds"].append(door)
        while it.going_on():
            self.portal.configure()
            answer = actions.reload(self.portal)
            self.assertNotEqual(answer.returncode, 0)
            self.assertIn(str(taken.getsockname()[1]), answer.stdout + answer.stderr)
            self.assertTrue(refuses(free), "nothing of a rejected configuration stays")
            count += 1
        self.note(f"{count} rejected")
        self.expect(it)
        self.portal.config = json.loads(good)
        self.finish()


class T06PortRemoved(scenario.Scenario):
    def test_those_connected_before_are_served(self):
        self.make_stack()
        second = ports.free_port()
        door = {**self.portal.config["inbounds"][0], "tag": "second", "port": second}
        rule = {"type": "field", "inboundTag": ["second"], "outboundTag": "portal"}
        self.portal.config["inbounds"].append(door)
        self.portal.config["routing"]["rules"].append(rule)
        self.portal.configure()
        self.start_services()
        actions.good_reload(self.portal)
        gone = f"127.0.0.1:{second}"
        it = self.load(2000, targets=[self.target, gone])
        time.sleep(1)

        def remove(config):
            config["inbounds"].remove(door)
            config["routing"]["rules"].remove(rule)
        began = time.monotonic()
        self.portal.configure(remove)
        actions.good_reload(self.portal)
        self.note(f"the reload took {self.seconds_since(began)}")
        it.say(f"drop {gone}")
        self.expect(it, lost=lambda f: (f["target"], f["kind"]) == (gone, "connect") and f["started_us"] / 1e6 > began)
        wait.until("nobody listens there", lambda: refuses(second), 5)
        self.before = {}  # one address less
        self.finish(descriptors=False)


class T07PortAdded(scenario.Scenario):
    def test_served_from_the_answer_on(self):
        self.start_stack()
        actions.good_reload(self.portal)
        it, added = self.load(2000), 0
        while it.going_on() and added < 8:
            port = ports.free_port()

            def add(config, port=port):
                config["inbounds"].append({**config["inbounds"][0], "tag": f"more{port}", "port": port})
                config["routing"]["rules"][0]["inboundTag"] = [
                    i["tag"] for i in config["inbounds"] if i["protocol"] == "dokodemo-door"]
            self.portal.configure(add)
            actions.good_reload(self.portal)
            it.say(f"add 127.0.0.1:{port}")
            added += 1
        self.note(f"{added} ports added")
        self.expect(it)
        self.assertGreater(added, 0)
        self.finish(descriptors=False)


class T25OldGenerations(test_baseline.T25Direct):
    """Connections that workers carry themselves bind their generation; only so many generations may live."""

    test_baseline = None
    most = 3

    def test_only_the_oldest_is_cut(self):
        self.make_direct(maxGenerations=self.most)
        actions.good_reload(self.portal)
        streams = 10
        loads = []  # one per generation
        for _ in range(self.most + 2):
            loads.append(self.load(0, seconds=600, long=streams))
            wait.until("its streams run", lambda: loads[-1].progress()["long"]["exchanges"] > streams, 10)
            actions.good_reload(self.portal)
            cut = max(0, len(loads) + 1 - self.most)
            for number, it in enumerate(loads):
                want = streams if number < cut else 0
                wait.until(f"{want} of generation {number} of {len(loads)} are cut",
                           lambda it=it, want=want: it.progress()["long"]["lost"] == want, 10)
        self.assertRegex(self.portal.log(), "cut")
        for it in loads:
            it.finish(at_once=True)
        self.finish(descriptors=False)


@scenario.full_only
class T31SynCookies(T02Reload):
    sysctls = {"tcp_syncookies": "2"}


@scenario.full_only
class T31SynCookiesResize(T03Resize):
    sysctls = {"tcp_syncookies": "2"}
    test_by_signals = None


@scenario.full_only
class T31IPv6(T02Reload):
    host, rate = "[::1]", 2000  # one source address, so only its ports


@scenario.full_only
class T31IPv6Resize(T03Resize):
    host, rate = "[::1]", 2000
    test_by_signals = None
