"""ebbgate ctl kick and drain: tunnels, users, the broker. spec/processes.md 9.3, 11.2."""

import json
import os
import unittest

from ebbtest import case, configs, operated, procfs, visitors, wait

MAIL = "nas@home.test"


@case.beyond_v2ray
class Tunnels(operated.Operated):
    def another_tunnel(self, old: int, of=None) -> None:
        """The bridge has dialled again, and the old one has gone. Under load there may be more than one."""
        it = of or self.portal
        wait.until("another tunnel, and the old one gone",
                   lambda: (ids := [t["id"] for t in it.tunnels()]) and old not in ids, 10, step=0.05)

    def test_kick(self):
        """Its streams end at once; visitors who come then wait for the next one."""
        self.start_operated()
        stream, old = self.stream(), self.tunnel_id()
        self.assertIn("1 tunnel, 1 visitor", self.ctl("kick", "tunnel", str(old)))
        self.assertEqual(visitors.short_connections(self.public, 10, 5), [])
        self.assertIn(visitors.ending(stream.sock, 2), ("rst", "fin"))
        self.another_tunnel(old)
        self.assertIn("is connected", self.ctl("kick", "tunnel", str(old), status=1))

    def test_kick_at_the_bridge(self):
        self.start_operated()
        stream, old = self.stream(), self.tunnel_id(self.bridge)
        self.assertIn("1 tunnel, 1 visitor", self.ctl("kick", "tunnel", str(old), of=self.bridge))
        self.assertIn(visitors.ending(stream.sock, 2), ("rst", "fin"))
        self.await_service(10)
        self.another_tunnel(old, self.bridge)

    def test_drain(self):
        """Its streams go on, new visitors get another one; it ends with its last stream."""
        self.start_operated()
        stream, old = self.stream(), self.tunnel_id()
        with visitors.Load(self.public, rate=50) as load:
            self.assertIn("1 tunnel,", self.ctl("drain", "tunnel", str(old)))
            wait.until("another tunnel", lambda: [t for t in self.portal.tunnels() if t["id"] != old], 10, step=0.05)
            stream.exchange()
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 20, 5)
        self.assertEqual(load.failures, [])
        mine = {t["id"]: t for t in self.portal.tunnels()}
        self.assertEqual(mine[old]["streams"], 1)
        stream.exchange()
        stream.close()
        self.another_tunnel(old)

    def test_drain_at_the_bridge(self):
        self.start_operated()
        stream, old = self.stream(), self.tunnel_id(self.bridge)
        with visitors.Load(self.public, rate=50) as load:
            self.ctl("drain", "tunnel", str(old), of=self.bridge)
            wait.until("another tunnel", lambda: [t for t in self.bridge.tunnels() if t["id"] != old], 10, step=0.05)
            stream.exchange()
        self.assertEqual(load.failures, [])
        stream.close()
        self.another_tunnel(old, self.bridge)

    def test_users(self):
        self.start_operated()
        self.config["inbounds"][1]["settings"]["clients"][0]["email"] = MAIL
        self.reload()
        self.settled()
        first = self.tunnel_id()
        self.ctl("kick", "tunnel", str(first))  # the next one knows the address
        self.another_tunnel(first)
        for name in (MAIL, configs.UUID):
            with self.subTest(user=name):
                stream, old = self.stream(), self.tunnel_id()
                self.assertIn("1 tunnel,", self.ctl("drain", "user", name))
                wait.until("another tunnel", lambda: any(t["id"] != old for t in self.portal.tunnels()), 10, step=0.05)
                stream.exchange()
                stream.close()
                self.another_tunnel(old)
                stream, old = self.stream(), self.tunnel_id()
                self.assertIn("1 tunnel, 1 visitor", self.ctl("kick", "user", name))
                self.assertIn(visitors.ending(stream.sock, 2), ("rst", "fin"))
                self.await_service(10)
                self.another_tunnel(old)

    def test_answers_for_programs(self):
        self.start_operated()
        said = json.loads(self.ctl("drain", "tunnel", str(self.tunnel_id()), "--json"))
        self.assertEqual((said["ok"], said["exit"], said["error"], said["result"]["tunnels"]), (True, 0, None, 1))
        said = json.loads(self.ctl("kick", "user", configs.UUID, "--json"))
        self.assertGreaterEqual(said["result"]["tunnels"], 1)
        said = json.loads(self.ctl("kick", "tunnel", "123456789", "--json", status=1))
        self.assertEqual((said["ok"], said["exit"], said["result"]), (False, 1, None))
        self.assertIn("123456789", said["error"])

    def test_what_is_not_there(self):
        self.start_operated()
        for words in (("kick", "tunnel", "123456789"), ("drain", "tunnel", "18446744073709551615"),
                      ("kick", "user", "nobody@home.test"), ("drain", "user", configs.UUID[:-1] + "f")):
            self.assertIn(words[2], self.ctl(*words, status=1))
        self.assertEqual(len(self.portal.tunnels()), 1)

    def test_wrong_uses(self):
        self.start_operated()
        for words, said in ((("kick",), "kick what?"), (("kick", "tunnel"), "kick what?"),
                            (("kick", "broker"), "kick what?"), (("drain", "tunnel"), "or broker"),
                            (("drain", "broker", "1"), "drain what?"), (("drain", "door", "1"), "drain what?"),
                            (("upgrade", "now"), "takes no now"), (("status", "tunnel"), "takes no tunnel"),
                            (("restart",), "there is no ctl restart"), (("kick", "tunnel", "first"), "is no tunnel"),
                            (("drain", "tunnel", "-1"), "")):
            self.assertIn(said, self.ctl(*words, status=2), words)


@case.beyond_v2ray
class Broker(operated.Operated):
    def brokers(self, of=None) -> dict:
        return {p["name"]: p["state"] for p in self.status(of)["processes"] if p["role"] == "broker"}

    def replaced_without_a_loss(self, it) -> None:
        stream, old = self.stream(), it.broker()
        with visitors.Load(self.public, rate=100) as load:
            said = json.loads(self.ctl("drain", "broker", "--json", of=it))
            self.assertEqual(said["result"], {"broker": 2})
            self.assertNotEqual(it.broker(), old)
            self.assertEqual(self.brokers(it), {"broker b1": "draining", "broker b2": "active"})
            wait.until("the tunnel has moved", lambda: any(t["age_s"] < 5 and t["state"] != "draining"
                                                           for t in it.tunnels()), 10, step=0.05)
            before = load.done
            wait.until("visitors come through", lambda: load.done > before + 50, 10)
            stream.exchange()
        self.assertEqual(load.failures, [])
        self.assertTrue(procfs.alive(old), "it carries a stream")
        stream.close()
        self.gone([old])
        self.assertEqual(self.brokers(it), {"broker b2": "active"})
        self.assertTrue(visitors.fetches(self.public))

    def test_of_the_portal(self):
        self.start_operated()
        self.replaced_without_a_loss(self.portal)

    def test_of_the_bridge(self):
        self.start_operated()
        self.replaced_without_a_loss(self.bridge)

    def test_status_shows_the_tunnels_of_both(self):
        self.start_operated()
        stream, old = self.stream(), self.tunnel_id()
        self.ctl("drain", "broker")
        both = wait.until("two tunnels", lambda: (t := self.portal.tunnels()) and len(t) == 2 and t, 10, step=0.05)
        self.assertEqual(len({t["id"] for t in both}), 2)
        self.assertIn(old, [t["id"] for t in both])
        text = self.ctl("status")
        for word in ("broker b1", "broker b2", "draining", *(str(t["id"]) for t in both)):
            self.assertIn(word, text)
        self.ctl("kick", "tunnel", str(old))  # the old broker is asked as well
        self.assertIn(visitors.ending(stream.sock, 2), ("rst", "fin"))

    def test_twice_at_once_and_again(self):
        self.start_operated()
        with visitors.Load(self.public, rate=50) as load:
            self.assertEqual(self.ctl("drain", "broker", "--no-wait"), "")
            self.ctl("drain", "broker")
            self.ctl("drain", "broker")
            wait.until("one is left", lambda: len(self.portal.role("broker")) == 1, 15)
        self.assertEqual(load.failures, [])
        self.await_service(5)

    def test_the_new_one_dies(self):
        """Before the tunnels have moved: the old one serves on, or a third."""
        self.start_operated()
        stream, old = self.stream(), self.portal.broker()
        self.ctl("drain", "broker")
        os.kill(self.portal.broker(), 9)
        self.await_service(10)
        stream.exchange()
        self.assertTrue(procfs.alive(old))
        self.assertIn("active", self.brokers().values())


@case.beyond_v2ray
class BrokerV2RayBridge(operated.Operated):
    bridge_kind = "v2ray"

    def test_stock_bridge_moves(self):
        self.start_operated()
        stream, old = self.stream(), self.portal.broker()
        with visitors.Load(self.public, rate=50) as load:
            self.ctl("drain", "broker")
            before = load.done
            wait.until("another tunnel", lambda: len(self.portal.tunnels()) > 1, 10, step=0.05)
            wait.until("visitors come through", lambda: load.done > before + 20, 5)
            stream.exchange()
        self.assertEqual(load.failures, [])
        stream.close()
        self.gone([old], 15)


if __name__ == "__main__":
    unittest.main()
