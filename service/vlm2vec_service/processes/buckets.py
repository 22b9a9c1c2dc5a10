"""Token buckets in memory that several processes share: a caller has one quota, not one a process.

A file of fixed size, mapped by each member; a lock on it is held for a microsecond at a time.
"""

import contextlib
import fcntl
import mmap
import struct
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from vlm2vec_service.frontend.auth.quota import Bucket

SLOT = struct.Struct("<16sdd")
"""A bucket: the digest of its name, its balance, and when that was true."""
SLOTS = 32_768
PROBES = 16
"""Slots that a bucket may lie in; of those that are taken it pushes out the one longest unused,
which will mostly be full again."""


class SharedBuckets:
    """The buckets in the file ``path``, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        with self._locked():
            if path.stat().st_size < SLOT.size * SLOTS:
                self._file.truncate(SLOT.size * SLOTS)
        self._memory = mmap.mmap(self._file.fileno(), SLOT.size * SLOTS)

    def bucket(self, name: str, rate: float, capacity: float) -> "SharedBucket":
        """The bucket called ``name``, which gives ``rate`` a second and at most ``capacity`` at
        once; full where there was none."""
        return SharedBucket(self, blake2b(name.encode(), digest_size=16).digest(), rate, capacity)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def take(self, bucket: "SharedBucket", amount: float) -> float:
        """What `Bucket.take` does, for all processes."""
        with self._locked():
            offset, now = self._find(bucket.key), time.monotonic()
            key, balance, at = SLOT.unpack_from(self._memory, offset)
            if key != bucket.key:
                balance, at = bucket.capacity, now
            balance = bucket.filled(balance, max(0.0, now - at)) - amount
            SLOT.pack_into(self._memory, offset, bucket.key, balance, now)
        return balance

    def _find(self, key: bytes) -> int:
        """The offset of the slot of ``key``, or of the one that it may have."""
        first = int.from_bytes(key[:4]) % SLOTS
        offsets = [SLOT.size * ((first + i) % SLOTS) for i in range(PROBES)]
        slots = [(SLOT.unpack_from(self._memory, offset), offset) for offset in offsets]
        for (other, _, _), offset in slots:
            if other == key:
                return offset
        return min(slots, key=lambda slot: slot[0][2])[1]


class SharedBucket(Bucket):
    """A token bucket whose balance other processes have as well."""

    def __init__(self, table: SharedBuckets, key: bytes, rate: float, capacity: float) -> None:
        super().__init__(rate, capacity)
        self.key = key
        self._table = table

    def take(self, amount: float) -> float:
        """Takes ``amount`` out, even if the balance is less, and returns what that leaves."""
        return self._table.take(self, amount)
