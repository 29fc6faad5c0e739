"""Bulk data: a fixed pattern repeated, so that making it costs nothing and its SHA-256 is computed once."""

import functools
import hashlib
import os
import random

# A prime period: data moved by whole chunks, records or frames cannot line up with itself and hash the same.
_PERIOD = 1048573
BLOCK = memoryview(random.Random(1).randbytes(_PERIOD))
MIB = 1 << 20


def blocks(size: int):
    """The first `size` bytes of the endless pattern, as memoryviews."""
    while size > 0:
        part = BLOCK[:size]
        size -= len(part)
        yield part


@functools.lru_cache(maxsize=16)
def sha256(size: int) -> str:
    digest = hashlib.sha256()
    for part in blocks(size):
        digest.update(part)
    return digest.hexdigest()


def bulk(size: int) -> int:
    """`size`, or an eighth of it in a sanitizer build, which is that much slower."""
    return size // 8 if os.environ.get("EBB_PRESET") == "asan" else size
