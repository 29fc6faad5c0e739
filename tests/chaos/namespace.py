"""A network and a pid namespace for one scenario: settings of its own, nobody else's ports, nothing stays behind."""

import os
import subprocess
import sys

_INSIDE = "EBB_CHAOS_INSIDE"
_UNSHARE = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]


def enter() -> None:
    """Starts this Python program again inside new namespaces. Where that is not allowed everything runs as it is."""
    if inside() or os.environ.get(_INSIDE) == "no" or os.geteuid() != 0:
        return
    if subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode != 0:
        os.environ[_INSIDE] = "no"
        return
    os.environ[_INSIDE] = "yes"
    sys.stdout.flush()
    os.execvp(_UNSHARE[0], [*_UNSHARE, sys.executable, *sys.argv])


def inside() -> bool:
    return os.environ.get(_INSIDE) == "yes"


def prepare(**sysctls: str) -> None:
    """Brings the loopback up, with room for many short connections; `sysctls`: of net.ipv4, by their last name."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in {"ip_local_port_range": "33000 65000", **sysctls}.items():
        with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as f:
            f.write(value)
