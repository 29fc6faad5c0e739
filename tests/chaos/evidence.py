"""Who holds which connection at this moment: what was TAKEn by the broker is no longer in a worker's hands."""

import ctypes
import os
import socket

_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


def copy_of(pidfd: int, number: int) -> int:
    """A descriptor of our own for another process's; -1: not allowed, or not open there."""
    return _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)


def possible() -> bool:
    """Whether we may look into other processes' descriptors (root, kernel 5.6)."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        copy = copy_of(pidfd, 2)
        if copy >= 0:
            os.close(copy)
        return copy >= 0 and os.geteuid() == 0
    finally:
        os.close(pidfd)


def peers_held_by(pids: list[int]) -> set[str]:
    """Remote addresses ("127.1.2.3:4567") of all connected TCP sockets of these processes."""
    found = set()
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                found |= _peer(pidfd, int(name))
        except FileNotFoundError:
            pass
        finally:
            os.close(pidfd)
    return found


def _peer(pidfd: int, number: int) -> set[str]:
    copy = copy_of(pidfd, number)
    if copy < 0:
        return set()
    try:
        with socket.socket(fileno=copy) as it:
            if it.family not in (socket.AF_INET, socket.AF_INET6):
                return set()
            host, port = it.getpeername()[:2]
            return {f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    except OSError:
        try:
            os.close(copy)  # not a socket, so it was not taken over
        except OSError:
            pass  # a socket without a peer: closed already
        return set()


def private_kib(pid: int) -> int:
    """Memory that is this process's alone: what it shares with others changes when they come and go."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Private_"))
