"""The handoff links between running processes: copies of their ends, what waits in them, and messages that break the rules
of ipc/PROTOCOL.md. Everything is done with copies from pidfd_getfd (root only); the processes know nothing of it."""

import array
import contextlib
import dataclasses
import os
import re
import shutil
import socket
import struct
import subprocess

from . import evidence

_SO_PEEK_OFF = 42
_HEADER = struct.Struct("=HBBHBBII")  # magic, protocol, flags, type, nfds, nrec, seq, length of the body
_RECORD_BYTES = 88                    # of OFFER
OFFER, TAKE, REFUSE, RECALL, RECALLED, CREDIT, TUNNELS, GOAWAY, FAULT = range(32, 41)
PING = 15
CRITICAL, MORE = 1, 2


def possible() -> str:
    """Why not; empty when it is."""
    if not evidence.possible():
        return "needs root and pidfd_getfd (Linux 5.6)"
    return "" if shutil.which("ss") else "needs ss, which tells who is at the other end of a link"


@dataclasses.dataclass(frozen=True)
class Link:
    worker: int  # pids and descriptors
    worker_fd: int
    broker: int
    broker_fd: int
    inode: int  # of the worker's end: names the link for good

    def end_of(self, pid: int) -> socket.socket:
        """A copy of this process's end."""
        return _copy(pid, self.worker_fd if pid == self.worker else self.broker_fd)


def _copy(pid: int, number: int) -> socket.socket:
    pidfd = os.pidfd_open(pid)
    try:
        copy = evidence.copy_of(pidfd, number)
    finally:
        os.close(pidfd)
    if copy < 0:
        raise OSError(f"descriptor {number} of {pid} could not be copied")
    return socket.socket(fileno=copy)


def between(workers: list[int], broker: int) -> list[Link]:
    """The links of these workers to this broker."""
    listing = subprocess.run(["ss", "-xpHna"], capture_output=True, text=True, check=True).stdout
    ends = {}
    for line in listing.splitlines():
        found = re.match(r"u_seq\s+ESTAB\s+\d+\s+\d+\s+\S+ (\d+)\s+\S+ (\d+)\s+users:.*?pid=(\d+),fd=(\d+)", line)
        if found:
            inode, peer, pid, fd = map(int, found.groups())
            ends[inode] = (peer, pid, fd)
    links = []
    for inode, (peer, pid, fd) in ends.items():
        there = ends.get(peer)
        if pid in workers and there and there[1] == broker:
            links.append(Link(pid, fd, broker, there[2], inode))
    return sorted(links, key=lambda it: (it.worker, it.inode))


def waiting(end: socket.socket) -> list[bytes]:
    """The messages that this end has not read yet. They stay where they are."""
    found = []
    end.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    try:
        while message := end.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            found.append(message)
    except BlockingIOError:
        pass
    finally:
        end.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, -1)
    return found


@dataclasses.dataclass
class Message:
    """A good GOAWAY, where nothing else is said. None: what is right."""
    type: int = GOAWAY
    body: bytes = bytes(8)
    nrec: int = 0
    flags: int = CRITICAL
    magic: int | None = None
    protocol: int | None = None
    seq: int | None = None
    length: int | None = None
    nfds: int | None = None   # as the header says
    fds: int = 0              # that really travel
    cut: int | None = None    # bytes of the whole message
    same_worker: bool = False  # the hid it begins with becomes one of the worker that sent the last

    def bytes_after(self, last: bytes) -> bytes:
        """As the next message of the direction whose last one is `last`."""
        magic, protocol, *_, seq, _ = _HEADER.unpack_from(last)
        body = self.body
        if self.same_worker:  # generation and worker id are the upper half of a hid, the counter is the lower
            body = body[:4] + last[_HEADER.size + 4:_HEADER.size + 8] + body[8:]

        def pick(own, right):
            return right if own is None else own
        head = _HEADER.pack(pick(self.magic, magic), pick(self.protocol, protocol), self.flags, self.type,
                            pick(self.nfds, self.fds), self.nrec, pick(self.seq, seq + 1),
                            pick(self.length, len(body)))
        return (head + body)[:self.cut]

    def send(self, end: socket.socket, last: bytes) -> None:
        with contextlib.ExitStack() as stack:
            fds = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(self.fds)])
            for fd in fds:
                stack.callback(os.close, fd)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
            end.sendmsg([self.bytes_after(last)], rights)


def type_of(message: bytes) -> int:
    return _HEADER.unpack_from(message)[3]


def offer(hid: int = 1, *, blob: bytes = b"", blob_length: int | None = None, role: int = 1, pad: int = 0) -> bytes:
    """A record of OFFER, and its blob."""
    length = len(blob) if blob_length is None else blob_length
    record = struct.pack("=QQQHHBBHIIIBBH16s16sH6s", hid, 1, 1, 0, 0, 1, role, 0, length, 0xFFFFFFFF, 0, 2, 1, 1,
                         bytes(16), bytes(16), 1, bytes([pad]) + bytes(5))
    assert len(record) == _RECORD_BYTES
    return record + blob


def hids(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}Q", *numbers)


# What is wrong, the message, and the fault that its reader finds (ipc/codec.cc, name_of).
FROM_EITHER = [
    ("half a header", Message(cut=8), "bad length"),
    ("another magic number", Message(magic=0x1234), "bad magic"),
    ("another protocol number", Message(protocol=199), "other protocol number"),
    ("a gap in the sequence", Message(seq=0xFFFFFF00), "gap in the sequence"),
    ("an old sequence number", Message(seq=0), "gap in the sequence"),
    ("a length that is not its own", Message(length=16), "bad length"),
    ("a body that is too short", Message(body=bytes(4)), "bad length"),
    ("a body that is too long", Message(body=bytes(16)), "bad length"),
    ("a body above the limit", Message(body=bytes(48 * 1024 + 8)), "bad length"),
    ("an unknown critical type", Message(type=999), "unknown type"),
    ("unknown flags", Message(flags=CRITICAL | 128), "bad value"),
    ("a chain of what is not chained", Message(flags=CRITICAL | MORE), "bad continuation"),
    ("a message of another link", Message(type=PING), "not allowed here and now"),
    ("a descriptor where none belongs", Message(fds=1), "wrong number of fds"),
    ("a descriptor that is not announced", Message(fds=1, nfds=0), "wrong number of fds"),
]
FROM_WORKER = FROM_EITHER + [
    ("a broker's message", Message(TAKE, hids(1), 1), "not allowed here and now"),
    ("an offer of nothing", Message(OFFER, b"", 0), "bad record count"),
    ("33 offers", Message(OFFER, offer() * 33, 33, fds=33), "bad record count"),
    ("an offer without its descriptor", Message(OFFER, offer(), 1, nfds=0), "wrong number of fds"),
    ("an offer with two descriptors", Message(OFFER, offer(), 1, fds=2), "wrong number of fds"),
    ("a blob cut short", Message(OFFER, offer(blob=bytes(50), blob_length=100), 1, fds=1), "bad value"),
    ("a blob of a second record", Message(OFFER, offer() + offer(2, blob=bytes(8)), 2, fds=2), "bad value"),
    ("a role that does not exist", Message(OFFER, offer(role=9), 1, fds=1), "bad value"),
    ("padding that is not zero", Message(OFFER, offer(pad=1), 1, fds=1), "bad value"),
    ("an offer of another worker", Message(OFFER, offer(0xFFFF_FFFF_FFFF_FFFF), 1, fds=1), "refers to something unknown"),
    ("a recall of nobody", Message(RECALL, hids(0), 1), "bad value"),
]
FROM_BROKER = FROM_EITHER + [
    ("a worker's message", Message(OFFER, offer(), 1, fds=1), "not allowed here and now"),
    ("a take of nothing", Message(TAKE, b"", 0), "bad record count"),
    ("65 takes", Message(TAKE, hids(*range(1, 66)), 65), "bad record count"),
    ("a take of nobody", Message(TAKE, hids(0), 1), "bad value"),
    ("a take of a stranger", Message(TAKE, hids(0xFFFF_FFFF_0000_0001), 1), "refers to something unknown"),
    ("a reason that does not exist", Message(REFUSE, hids(1, 99), 1), "bad value"),
    ("padded credit", Message(CREDIT, struct.pack("=II", 256, 1)), "bad value"),
]
# Fewer descriptors than announced is no fault of an offer: it is refused, and the worker wonders who that was.
LOST_DESCRIPTOR = ("an offer whose descriptor got lost",
                   Message(OFFER, offer(0xFFFF_FFFF), 1, nfds=1, same_worker=True), "refers to something unknown")
