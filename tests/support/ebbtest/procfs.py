"""What /proc says about processes we started, and about listening ports (looking never touches the socket)."""

import ctypes
import os

_TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a grandchild whose parent dies becomes our child, so that nothing a test started can escape it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _stat(pid: int):
    try:
        with open(f"/proc/{pid}/stat") as f:
            text = f.read()
    except OSError:
        return None
    return text[text.rindex(")") + 2:].split()  # [0] state, [1] ppid, [11] utime, [12] stime, [13] cutime, [14] cstime


def state(pid: int) -> str:
    """One letter as in ps, or "" when there is no such process."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def alive(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


def started(pid: int) -> str:
    """Start time in ticks: with the pid it names a process for good, since pids are used again. "" when gone."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def session(pid: int) -> int:
    """Session id: children keep it whoever adopts them, unless they call setsid. 0 when gone."""
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def tree(root: int) -> list[int]:
    """`root` and all its descendants that are alive now, parents first."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(parent(int(name)), []).append(int(name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop(0)
        if alive(pid):
            found.append(pid)
        queue += children.get(pid, [])
    return found


def title(pid: int) -> str:
    """The command line as ps shows it; "" when the process is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def leak_checker(pid: int) -> bool:
    """Whether this is no process of its own: LeakSanitizer's check at exit runs in a clone that shares the memory, and
    so the title, of the process that ends."""
    mine = title(pid)
    return mine != "" and "supervisor" not in mine and title(parent(pid)) == mine


def cpu_seconds(root: int) -> float:
    """User plus system time of `root`, its living descendants and every child they already waited for."""
    ticks = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields:
            ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return ticks / _TICK


def cpu_ns(root: int) -> int:
    """CPU time of the threads that `root` and its descendants have now, to the nanosecond: for what hardly works at all.
    cpu_seconds() counts in ticks of 10 ms."""
    total = 0
    for pid in tree(root):
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
        except OSError:
            continue
    return total


def pss_bytes(root: int) -> int:
    """User-space memory of the tree: the proportional set size, shared pages counted once in total."""
    total = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except OSError:
            continue
    return total * 1024


def peak_bytes(pid: int) -> int:
    """The most memory a process has ever had resident; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return sum(int(line.split()[1]) for line in f if line.startswith("VmHWM:")) * 1024
    except OSError:
        return 0


def fd_count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def udp_addresses(pid: int) -> list[str]:
    """The local address of each UDP socket that a process has, as /proc/net writes it: as often as sockets share it."""
    own = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            own.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue  # closed meanwhile
    found = []
    for table in ("udp", "udp6"):
        with open(f"/proc/{pid}/net/{table}") as f:
            rows = [line.split() for line in f][1:]
        found += [f"{table} {row[1]}" for row in rows if f"socket:[{row[9]}]" in own]
    return found


def listening(port: int) -> bool:
    """Whether some TCP socket of this network namespace listens on `port`."""
    suffix = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as f:
                for line in f:
                    fields = line.split()
                    if fields[3] == "0A" and fields[1].endswith(suffix):
                        return True
        except OSError:
            continue
    return False
