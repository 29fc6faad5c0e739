"""Who the visitor is: told by a proxy in front of the portal, told to the origin behind the bridge."""

import json
import os
import shutil
import socket
import subprocess
import time
import unittest

from ebbtest import case, configs, datagrams, ports, procfs, visitors, wait

CLIENT = "203.0.113.7"
HEADER = f"PROXY TCP4 {CLIENT} 198.51.100.1 51234 443\r\n".encode()
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
NGINX = os.environ.get("EBB_NGINX") or shutil.which("nginx") or "/usr/sbin/nginx"


class AddressCase(case.PairCase):
    """A pair with one more public port, self.proxied, where a proxy in front is expected."""

    def make_address_pair(self, portal: dict | None = None, bridge: dict | None = None, rules=(), outbounds=(),
                          **options) -> None:
        """`portal`, `bridge`: their ebbgate objects. `rules`, `outbounds`: more of the bridge's, in front."""
        self.make_pair(portal_extra={"ebbgate": portal or {}}, bridge_extra={"ebbgate": bridge or {}}, **options)
        self.proxied = ports.free_port()
        with self.edited(self.portal) as config:
            door = {**config["inbounds"][0], "tag": "proxied", "port": self.proxied,
                    "streamSettings": {"sockopt": {"acceptProxyProtocol": True}}}
            config["inbounds"].append(door)
            config["routing"]["rules"][0]["inboundTag"].append("proxied")
        with self.edited(self.bridge) as config:
            config["routing"]["rules"][1:1] = rules
            config["outbounds"] += outbounds

    def edited(self, program):
        class Editing:
            def __enter__(self):
                with open(program.config_path, encoding="utf-8") as f:
                    self.config = json.load(f)
                return self.config

            def __exit__(self, *_):
                with open(program.config_path, "w", encoding="utf-8") as f:
                    json.dump(self.config, f, indent=2)
        return Editing()

    def start_address_pair(self, **options) -> None:
        self.make_address_pair(**options)
        self.start_portal()
        self.bridge.start()
        self.await_service(10)
        self.web.visits.clear()

    def visit(self, port: int, first: bytes = b"") -> tuple[str, bytes, int]:
        """A page's first line, as asked for behind `first`; what the origin read in front of it; our own port."""
        before = len(self.web.visits)  # our portal's header reaches the origin before we have said a word
        with visitors.connect(port) as sock:
            own = sock.getsockname()[1]
            sock.sendall(first + b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            status = sock.makefile("rb").readline().decode()
        wait.until("the origin was asked", lambda: len(self.web.visits) > before, 5)
        return status, self.web.visits[-1].proxy, own


class BridgeTells(AddressCase):
    def test_D4_origin_reads_who_visits(self):
        self.start_address_pair(bridge={"bridges": {"bridge": {"proxyProtocol": 1}}})
        status, header, own = self.visit(self.public)
        self.assertIn("200", status)
        self.assertEqual(header.decode(), f"PROXY TCP4 127.0.0.1 127.0.0.1 {own} {self.public}")

    def test_a_proxy_in_front_is_believed(self):
        self.start_address_pair(bridge={"bridges": {"bridge": {"proxyProtocol": 1}}})
        status, header, _ = self.visit(self.proxied, HEADER)
        self.assertIn("200", status)
        self.assertEqual(header + b"\r\n", HEADER)
        for log in (self.portal, self.bridge):
            wait.until(f"{log.name} writes the client's address", lambda: f"{CLIENT}:51234 accepted" in log.log(), 5)

    def test_nobody_else_is(self):
        """A header from a source that is not listed is payload: the origin gets it behind the one that is true."""
        self.start_address_pair(portal={"trustedProxies": ["192.0.2.1"]},
                                bridge={"bridges": {"bridge": {"proxyProtocol": 1}}})
        with visitors.connect(self.proxied) as sock:
            own = sock.getsockname()[1]
            sock.sendall(HEADER + b"AFTER 0 hello\n")
            self.assertEqual(sock.recv(100), b"hello")
        self.assertEqual([h.decode() for h in self.web.visits[-1].headers],
                         [f"PROXY TCP4 127.0.0.1 127.0.0.1 {own} {self.proxied}", HEADER.decode().strip()])
        self.assertNotIn(f"{CLIENT}:51234 accepted", self.portal.log() + self.bridge.log())

    def test_nothing_is_written_unless_asked_for(self):
        self.start_address_pair()
        self.assertEqual(self.visit(self.public)[1], b"")
        self.assertEqual(self.visit(self.proxied, HEADER)[1], b"")


class SourceRules(AddressCase):
    def test_D4_rules_of_the_bridge_match_the_client(self):
        other = self.start_origin()
        rules = [{"type": "field", "inboundTag": ["bridge"], "source": ["203.0.113.0/24"], "outboundTag": "other"}]
        out = {"tag": "other", "protocol": "freedom", "settings": {"redirect": f"127.0.0.1:{other.port}"}}
        self.start_address_pair(rules=rules, outbounds=[out])
        with visitors.connect(self.proxied) as sock:
            sock.sendall(HEADER + b"AFTER 0 hello\n")
            self.assertEqual(sock.recv(100), b"hello")
        self.assertEqual((len(other.visits), len(self.web.visits)), (1, 0))
        self.assertIn("200", self.visit(self.public)[0])
        self.assertEqual(len(other.visits), 1)


class BadProxies(AddressCase):
    def test_no_good_header_is_closed_and_said_once(self):
        # One worker says it once a second; the silent proxy shall not take a minute.
        self.start_address_pair(portal={"workers": 1, "timers": {"handshake": "1s"}})
        begin = time.monotonic()
        for first in (b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n") * 5:
            with visitors.connect(self.proxied) as sock:
                sock.sendall(first)
                self.assertIn(visitors.ending(sock, 5), ("fin", "rst"))
        said = self.portal.log().count("trusted proxy sent no good PROXY header")
        self.assertGreaterEqual(said, 1)
        self.assertLessEqual(said, 1 + int(time.monotonic() - begin))
        with visitors.connect(self.proxied) as sock:
            begin = time.monotonic()
            sock.sendall(HEADER[:10])
            self.assertIn(visitors.ending(sock, 5), ("fin", "rst"))
            self.assertGreater(time.monotonic() - begin, 0.5)
        self.assertIn("200", self.visit(self.proxied, HEADER)[0])


class StockBridge(AddressCase):
    """V2Ray's bridge knows nothing of the visitor: our portal tells the origin past it."""

    bridge_kind = "v2ray"

    def start_stock_pair(self, version: int) -> None:
        self.make_address_pair(portal={"portals": {"portal": {"proxyProtocol": version}}})
        self.start_portal()
        self.bridge.start()

    def test_origin_reads_who_visits(self):
        self.start_stock_pair(1)
        self.await_service(10)
        self.web.visits.clear()
        status, header, own = self.visit(self.public)
        self.assertIn("200", status)
        self.assertEqual(header.decode(), f"PROXY TCP4 127.0.0.1 127.0.0.1 {own} {self.public}")
        self.assertEqual(self.visit(self.proxied, HEADER)[1] + b"\r\n", HEADER)


class FlowCase(datagrams.UdpPair, AddressCase):
    """The same for UDP: the header is in front of the first datagram of a flow."""

    def start_flows(self, **settings) -> None:
        self.make_address_pair(**settings)
        self.service.keeps = True
        self.start_portal()

    def header_of(self, client: datagrams.Client) -> bytes:
        addresses = [client.socket.getsockname(), client.socket.getpeername()]
        return (SIGNATURE + b"\x21\x12\x00\x0c" + b"".join(socket.inet_aton(ip) for ip, _ in addresses) +
                b"".join(port.to_bytes(2) for _, port in addresses))

    def one_header_each(self, flows: list[tuple[datagrams.Client, bytes]]) -> None:
        """Each client said `first` and then more: his flow at the service begins with header and `first`."""
        seen = list(self.service.datagrams.values())
        self.assertEqual(len(seen), len(flows))
        self.assertCountEqual([each[0] for each in seen], [self.header_of(client) + first for client, first in flows])
        for each in seen:
            self.assertEqual([datagram for datagram in each[1:] if SIGNATURE in datagram], [])

    def tell_and_count(self) -> None:
        early = self.client()
        early.send(b"early")  # waits in the kernel, and begins with the first tunnel: the bridge is not known yet
        self.bridge.start()
        self.assertEqual(early.receive(15), self.header_of(early) + b"early", "an answer is left as it is")
        flows = [(early, b"early")]
        for i in range(5):
            client = self.client(own=f"127.0.0.{i + 2}")
            first = b"first %d" % i
            self.assertEqual(client.ask(first), self.header_of(client) + first)
            flows.append((client, first))
        for client, _ in flows:
            for turn in range(3):
                self.assertEqual(client.ask(b"turn %d" % turn), b"turn %d" % turn)
        self.one_header_each(flows)


class BridgeTellsOfFlows(FlowCase):
    def test_one_header_a_flow(self):
        self.start_flows(bridge={"bridges": {"bridge": {"proxyProtocol": 2}}})
        self.tell_and_count()
        own = self.client(own="127.0.0.9")
        self.assertIsNotNone(own.ask(b"hello"))
        line = f"127.0.0.9:{own.socket.getsockname()[1]} accepted udp:"
        for log in (self.portal, self.bridge):
            wait.until(f"{log.name} writes the client's address", lambda: line in log.log(), 5)

    def test_visitors_of_vmess(self):
        """Their flows come over TCP, and their address is that connection's."""
        self.start_flows(bridge={"bridges": {"bridge": {"proxyProtocol": 2}}})
        self.bridge.start()
        door, server = ports.free_port(), {"address": "127.0.0.1", "port": self.tunnel, "users": [{"id": configs.UUID}]}
        visitor = self.program("v2ray", "visitor", json.dumps({
            "inbounds": [{"listen": "127.0.0.1", "port": door, "protocol": "dokodemo-door",
                          "settings": {"address": "127.0.0.1", "port": self.web.port, "network": "udp"}}],
            "outbounds": [{"protocol": "vmess", "settings": {"vnext": [server]}}]}))
        self.client().ask_until(b"the tunnel is there")
        self.service.datagrams.clear()
        visitor.start()
        client = self.client(door)
        client.ask_until(b"hello")
        client.ask_until(b"more")
        (seen,) = self.service.datagrams.values()
        arrival = socket.inet_aton("127.0.0.1") * 2
        self.assertEqual(seen[0][:24], SIGNATURE + b"\x21\x12\x00\x0c" + arrival)
        self.assertEqual(seen[0][26:], self.tunnel.to_bytes(2) + b"hello")
        self.assertEqual([datagram for datagram in seen[1:] if SIGNATURE in datagram], [])

    def test_version_1_has_none(self):
        self.start_flows(bridge={"bridges": {"bridge": {"proxyProtocol": 1}}})
        self.bridge.start()
        self.assertEqual(self.client().ask_until(b"hello"), b"hello")

    def test_rules_of_the_bridge_match_the_client(self):
        other = datagrams.Service(0)
        self.addCleanup(other.stop)
        rules = [{"type": "field", "inboundTag": ["bridge"], "source": ["127.0.0.9"], "outboundTag": "other"}]
        redirect = f"127.0.0.1:{other.socket.getsockname()[1]}"
        self.start_flows(rules=rules, outbounds=[{"tag": "other", "protocol": "freedom",
                                                  "settings": {"redirect": redirect}}])
        self.bridge.start()
        self.client().ask_until(b"hello")
        self.assertEqual(other.received, 0)
        before = self.service.received
        self.client(own="127.0.0.9").ask_until(b"hello")
        self.assertEqual((other.received > 0, self.service.received), (True, before))


class StockBridgeTellsOfFlows(FlowCase):
    bridge_kind = "v2ray"

    def test_one_header_a_flow(self):
        self.start_flows(portal={"portals": {"portal": {"proxyProtocol": 2}}})
        self.tell_and_count()

    def test_what_is_too_large_behind_it_is_dropped(self):
        """A stock bridge ends the tunnel for 2049 bytes."""
        self.start_flows(portal={"portals": {"portal": {"proxyProtocol": 2}}})
        self.bridge.start()
        self.client().ask_until(b"hello")
        client = self.client()
        client.send(bytes(2048))
        self.assertEqual(client.ask(b"fits"), self.header_of(client) + b"fits")
        self.assertEqual(client.ask(bytes(2048)), bytes(2048))


class V2flyBridgeTellsOfFlows(StockBridgeTellsOfFlows):
    bridge_kind = "v2fly"


class XrayBridgeTellsOfFlows(FlowCase):
    bridge_kind = "xray"

    def test_one_header_a_flow(self):
        self.start_flows(portal={"portals": {"portal": {"proxyProtocol": 2}}})
        self.tell_and_count()


class NginxCase(AddressCase):
    """What users put behind their bridge. Both versions; the access log has the client's address."""

    def start_nginx(self) -> None:
        if not os.access(NGINX, os.X_OK):
            self.skipTest("needs nginx (EBB_NGINX, or the package nginx-light)")
        base = os.path.join(self.directory, "nginx")
        os.makedirs(base)
        self.access_log = os.path.join(base, "access.log")
        temps = "".join(f"{n}_temp_path {base}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(os.path.join(base, "nginx.conf"), "w", encoding="utf-8") as f:
            f.write(f"""daemon off; master_process off; pid {base}/pid; error_log {base}/error.log;
                events {{}}
                http {{ {temps} log_format who '$proxy_protocol_addr'; access_log {self.access_log} who;
                       server {{ listen 127.0.0.1:{self.web.port} proxy_protocol; return 200 ok; }} }}""")
        self.web.stop()
        process = subprocess.Popen([NGINX, "-p", base, "-c", os.path.join(base, "nginx.conf"), "-e",
                                    os.path.join(base, "error.log")], stdin=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        wait.until("nginx listens", lambda: procfs.listening(self.web.port), 10)

    def addresses(self) -> list[str]:
        try:
            with open(self.access_log, encoding="utf-8") as f:
                return f.read().split()
        except FileNotFoundError:
            return []

    def answered(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.proxied), 5) as sock:
                sock.sendall(HEADER + b"GET / HTTP/1.0\r\n\r\n")
                return b"200 OK" in sock.recv(1000)
        except OSError:
            return False

    def logs_the_client(self, **settings) -> None:
        self.make_address_pair(**settings)
        self.start_nginx()
        self.start_portal()
        self.bridge.start()
        wait.until(f"nginx answers\n{self.portal.tail()}\n{self.bridge.tail()}", self.answered, 15)
        wait.until("the log has the client", lambda: CLIENT in self.addresses(), 5)
        self.assertEqual(set(self.addresses()), {CLIENT})


class NginxBehindOurBridge(NginxCase):
    def test_version_2(self):
        self.logs_the_client(bridge={"bridges": {"bridge": {"proxyProtocol": 2}}})

    def test_version_1(self):
        self.logs_the_client(bridge={"bridges": {"bridge": {"proxyProtocol": 1}}})


class NginxBehindStockBridge(NginxCase):
    bridge_kind = "v2ray"

    def test_version_2(self):
        self.logs_the_client(portal={"portals": {"portal": {"proxyProtocol": 2}}})


if __name__ == "__main__":
    unittest.main()
