"""Configurations for tests: the users' seed files with other ports, and small ones written here."""

import json
import os
import re

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
SEEDS = os.path.join(ROOT, "tests", "vectors", "configs", "seeds")
SEED_NAMES = {"000": "seed-000-en", "001": "seed-001-ko", "002": "seed-002-zh", "003": "seed-003-xray",
              "004": "seed-004-guide"}
UUID = "27848739-7e62-4138-9fd3-098a63964b6b"


def seed(number: str, role: str, public: int, tunnel: int, origin: int, for_v2ray: bool) -> str:
    """The text of a `.local.json` seed, layout and comments untouched, its three ports replaced.

    Seed 003 is an Xray file: its rules lack "type", which V2Ray insists on, so V2Ray's copy gets it.
    """
    with open(os.path.join(SEEDS, f"{SEED_NAMES[number]}.{role}.local.json"), encoding="utf-8") as f:
        text = f.read()
    for old, new in (("21080", public), ("21024", tunnel), ("21683", tunnel), ("21081", origin)):
        text = re.sub(rf"\b{old}\b", str(new), text)
    if number == "003" and for_v2ray:
        text = text.replace('"inboundTag": [', '"type": "field", "inboundTag": [')
    return text


def portal(public: int, tunnel: int, origin: int, extra: dict | None = None) -> str:
    """A portal like seed 000; `extra` is merged into the top level."""
    inbounds = [
        {"tag": "external", "listen": "127.0.0.1", "port": public, "protocol": "dokodemo-door",
         "settings": {"address": "127.0.0.1", "port": origin, "network": "tcp"}},
        {"tag": "interconn", "listen": "127.0.0.1", "port": tunnel, "protocol": "vmess",
         "settings": {"clients": [{"id": UUID}]}}]
    tags = [i["tag"] for i in inbounds]
    return json.dumps({
        "log": {"loglevel": "info"},
        "reverse": {"portals": [{"tag": "portal", "domain": "tunnel.test"}]}, "inbounds": inbounds,
        "routing": {"rules": [{"type": "field", "inboundTag": [t], "outboundTag": "portal"} for t in tags]},
        **(extra or {})}, indent=2)


def bridge(tunnel: int, origin: int = 0, extra: dict | None = None) -> str:
    """A bridge like seed 000: everything goes to 127.0.0.1:`origin`; 0 = wherever the portal says (as seed 004)."""
    out = {"redirect": f"127.0.0.1:{origin}"} if origin else {}
    return json.dumps({
        "log": {"loglevel": "info"},
        "reverse": {"bridges": [{"tag": "bridge", "domain": "tunnel.test"}]},
        "outbounds": [
            {"tag": "out", "protocol": "freedom", "settings": out},
            {"tag": "interconn", "protocol": "vmess", "settings": {"vnext": [
                {"address": "127.0.0.1", "port": tunnel, "users": [{"id": UUID, "security": "aes-128-gcm"}]}]}}],
        "routing": {"rules": [
            {"type": "field", "inboundTag": ["bridge"], "domain": ["full:tunnel.test"], "outboundTag": "interconn"},
            {"type": "field", "inboundTag": ["bridge"], "outboundTag": "out"}]},
        **(extra or {})}, indent=2)
