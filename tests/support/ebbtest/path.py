"""A long path for tests: two network namespaces joined by TUN devices and ebb_link. The test's own process is at the near
end; programs, listeners and visitors can be put at the far one."""

import ctypes
import fcntl
import json
import os
import struct
import subprocess
import threading

from . import programs

NEAR, FAR = "10.99.0.1", "10.99.0.2"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def link_binary() -> str:
    """EBB_LINK, else the one built beside the program under test."""
    beside = os.path.join(os.path.dirname(programs.ebbgate_binary()), "tests", "support", "ebb_link")
    return os.path.abspath(os.environ.get("EBB_LINK", beside))


def impossible(congestion: str = "") -> str:
    """Why there can be no such path here; "" when there can."""
    with open("/proc/sys/net/ipv4/tcp_allowed_congestion_control", encoding="ascii") as f:
        if congestion and congestion not in f.read().split():
            return f"may not use the congestion control {congestion} here"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "may not make network namespaces here"


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, _CLONE_NEWNET), "setns")


def _own_namespace() -> int:
    """Moves the calling thread into a fresh network namespace; a descriptor that keeps it alive."""
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(work):
    """What `work()` returns, from a thread of its own: a namespace entered there is left with it."""
    box = {}

    def run():
        try:
            box["value"] = work()
        except BaseException as error:  # handed to the caller
            box["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in box:
        raise box["error"]
    return box["value"]


class Path:
    """Moves the calling process into the near namespace for good, so only a test that has a process of its own may."""

    def __init__(self, delay_ms: float, rate: float, queue: int, mtu: int = 1500, congestion: str = ""):
        """`delay_ms`: one way. `rate`: bytes/s each way, heads of packets included. `queue`: bytes that wait at most.
        `congestion`: TCP's algorithm at both ends; "": the machine's."""
        self.rate, self._congestion = rate, congestion
        _own_namespace()
        near = self._furnish(NEAR, FAR, mtu)
        self._far = _in_thread(_own_namespace)
        far = self.far(lambda: self._furnish(FAR, NEAR, mtu))
        self._process = subprocess.Popen(
            [link_binary(), str(near), str(far), "--delay", str(delay_ms * 1000), "--rate", str(rate),
             "--queue", str(queue)], pass_fds=(near, far), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        # A path does not wait for its turn on a busy machine: what it adds would be taken for the program's.
        os.sched_setscheduler(self._process.pid, os.SCHED_RR, os.sched_param(1))
        os.close(near)
        os.close(far)

    def _furnish(self, own: str, other: str, mtu: int) -> int:
        """Loopback and one end of the path in the calling thread's namespace; the TUN device's descriptor."""
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"path", _IFF_TUN | _IFF_NO_PI))
        for words in ("link set lo up", f"link set path mtu {mtu} txqueuelen 10000 up",
                      f"addr add {own} peer {other} dev path"):
            subprocess.run(["ip", *words.split()], check=True)
        for name in ("tcp_rmem", "tcp_wmem"):  # room for what a long fat path holds; the default start values stay
            with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as f:
                least, start, _ = f.read().split()
            with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as f:
                f.write(f"{least} {start} {64 << 20}")
        if self._congestion:
            with open("/proc/sys/net/ipv4/tcp_congestion_control", "w", encoding="ascii") as f:
                f.write(self._congestion)
        return fd

    def far(self, work):
        """What `work()` returns. Sockets it makes, and threads and programs it starts, are at the far end."""
        def there():
            _setns(self._far)
            return work()
        return _in_thread(there)

    def enter_far(self) -> None:
        """For a program's `limits`, so between fork and exec."""
        _setns(self._far)

    def carried(self) -> dict:
        """{"out": {"packets", "bytes", "dropped"}, "back": ...} since the last question; out = from the near end."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        os.close(self._far)
