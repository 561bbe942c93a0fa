"""A disk that fails when it is told to, around any other disk.

`FaultyDisk` counts every operation by kind and raises where a `Fault` says so: the k-th operation
of a kind, once or from then on. It goes around `MemoryDisk` and around the real `OsDisk` alike.

    disk = FaultyDisk(OsDisk(path), [Fault("write", 3, errno.ENOSPC)])
    log = Log(disk, "a", LogConfig.of({"background": False}))

Kinds of operations: "names", "size_of", "open", "create", "read", "size", "write", "truncate",
"allocate", "sync", "map", "lock", "rename", "link", "unlink",
"sync_directory". "short_write" counts with "write", and writes a part before it fails.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from segstore.disk import Disk, File, Mapping
from segstore.format.buffers import Buffer

KINDS = (
    "names",
    "size_of",
    "open",
    "create",
    "read",
    "size",
    "write",
    "short_write",
    "truncate",
    "allocate",
    "sync",
    "map",
    "lock",
    "rename",
    "link",
    "unlink",
    "sync_directory",
)


class Fault(NamedTuple):
    """What fails, and when.

    Attributes:
        kind: the kind of operation, one of `KINDS`, or "any" to count all but "size_of", "names"
            and "size" together.
        number: which one of that kind, from 1.
        errno: the error.
        is_lasting: whether every later one fails too.
        drops_data: for "sync" on a `MemoryDisk`: what was not synced stays in the
            cache and never reaches the device, as on ext4 and XFS after a failed fsync.
    """

    kind: str
    number: int
    errno: int
    is_lasting: bool = False
    drops_data: bool = False


_UNCOUNTED = frozenset(("names", "size_of", "size"))
Before = Callable[[str, str], None]


class FaultyDisk:
    """A disk that does what the one inside does, until a fault.

    Attributes:
        inner: the disk inside.
        faults: what is to fail; may be replaced at any time.
        counts: how many operations of each kind there were.
        failures: how many of them failed on purpose.
        before: called with the kind and the name before every operation.
    """

    def __init__(
        self, inner: Disk, faults: Iterable[Fault] = (), *, before: Before | None = None
    ) -> None:
        self.inner = inner
        self.path = inner.path
        self.faults = list(faults)
        self.counts: Counter[str] = Counter()
        self.failures = 0
        self.before = before
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """As inside, or a fault."""
        self.check("names", "")
        return self.inner.names()

    def size_of(self, name: str) -> int | None:
        """As inside, or a fault."""
        self.check("size_of", name)
        return self.inner.size_of(name)

    def is_named(self, file: File, name: str) -> bool:
        """As inside, or a fault of "size_of"."""
        self.check("size_of", name)
        return self.inner.is_named(file._inner if isinstance(file, FaultyFile) else file, name)

    def open(self, name: str, *, write: bool = False, create: bool = False) -> FaultyFile:
        """As inside, or a fault."""
        self.check("create" if create else "open", name)
        return FaultyFile(self, self.inner.open(name, write=write, create=create))

    def rename(self, name: str, new_name: str) -> None:
        """As inside, or a fault."""
        self.check("rename", name)
        self.inner.rename(name, new_name)

    def link(self, name: str, target: Disk) -> bool:
        """As inside, or a fault."""
        self.check("link", name)
        return self.inner.link(name, target.inner if isinstance(target, FaultyDisk) else target)

    def unlink(self, name: str) -> None:
        """As inside, or a fault."""
        self.check("unlink", name)
        self.inner.unlink(name)

    def sync_directory(self) -> None:
        """As inside, or a fault."""
        self.check("sync_directory", "")
        self.inner.sync_directory()

    def close(self) -> None:
        """As inside; closing never fails."""
        self.inner.close()

    def check(self, kind: str, name: str) -> None:
        """Count an operation, and raise if it is to fail."""
        fault = self.next_fault(kind, name)
        if fault is not None:
            raise _error(fault, name)

    def next_fault(self, kind: str, name: str) -> Fault | None:
        """Count an operation; the fault that hits it, if any."""
        if self.before is not None:
            self.before(kind, name)
        with self._lock:
            self.counts[kind] += 1
            if kind == "write":
                self.counts["short_write"] += 1
            if kind not in _UNCOUNTED:
                self.counts["any"] += 1
            for fault in self.faults:
                if fault.kind not in (kind, "any") and not (
                    fault.kind == "short_write" and kind == "write"
                ):
                    continue
                if fault.kind == "any" and kind in _UNCOUNTED:
                    continue
                count = self.counts[fault.kind]
                if count == fault.number or (fault.is_lasting and count > fault.number):
                    self.failures += 1
                    return fault
        return None


class FaultyFile:
    """A file of a `FaultyDisk`."""

    def __init__(self, disk: FaultyDisk, inner: File) -> None:
        self._disk = disk
        self._inner = inner
        self.name = inner.name
        self.descriptor = None

    def read(self, size_bytes: int, position: int) -> bytes:
        """As inside, or a fault."""
        self._disk.check("read", self.name)
        return self._inner.read(size_bytes, position)

    def write(self, parts: Sequence[Buffer], position: int) -> None:
        """As inside, or a fault, before which a short write takes half."""
        fault = self._disk.next_fault("write", self.name)
        if fault is None:
            self._inner.write(parts, position)
            return
        if fault.kind == "short_write":
            data = b"".join(parts)
            self._inner.write([data[: (len(data) + 1) // 2]], position)
        raise _error(fault, self.name)

    def size(self) -> int:
        """As inside, or a fault."""
        self._disk.check("size", self.name)
        return self._inner.size()

    def is_shared(self) -> bool:
        """As inside, or a fault of "size"."""
        self._disk.check("size", self.name)
        return self._inner.is_shared()

    def truncate(self, size_bytes: int) -> None:
        """As inside, or a fault."""
        self._disk.check("truncate", self.name)
        self._inner.truncate(size_bytes)

    def allocate(self, size_bytes: int) -> None:
        """As inside, or a fault."""
        self._disk.check("allocate", self.name)
        self._inner.allocate(size_bytes)

    def uncache(self, size_bytes: int, position: int) -> None:
        """As inside; it never fails."""
        self._inner.uncache(size_bytes, position)

    def sync(self, *, data_only: bool = False) -> None:
        """As inside, or a fault, which may drop what was to be synced."""
        fault = self._disk.next_fault("sync", self.name)
        if fault is None:
            self._inner.sync(data_only=data_only)
            return
        _drop(self._inner, fault)
        raise _error(fault, self.name)

    def map(self, size_bytes: int) -> FaultyMapping:
        """As inside, or a fault."""
        self._disk.check("map", self.name)
        return FaultyMapping(self._inner.map(size_bytes))

    def lock(self, *, shared: bool = False) -> None:
        """As inside, or a fault."""
        self._disk.check("lock", self.name)
        self._inner.lock(shared=shared)

    def close(self) -> None:
        """As inside; closing never fails."""
        self._inner.close()


class FaultyMapping:
    """A mapping of a `FaultyDisk`."""

    def __init__(self, inner: Mapping) -> None:
        self._inner = inner

    @property
    def view(self) -> memoryview:
        """As inside."""
        return self._inner.view

    def wait(self, at: int, value: int, timeout_s: float) -> None:
        """As inside."""
        self._inner.wait(at, value, timeout_s)

    def wake(self, at: int) -> None:
        """As inside."""
        self._inner.wake(at)

    def uncache(self) -> None:
        """As inside; it never fails."""
        self._inner.uncache()

    def close(self) -> None:
        """As inside; closing never fails."""
        self._inner.close()


def _drop(inner: File, fault: Fault) -> None:
    drop = getattr(inner, "drop_unsynced", None)
    if fault.drops_data and drop is not None:
        drop()


def _error(fault: Fault, name: str) -> OSError:
    return OSError(fault.errno, f"{os.strerror(fault.errno)} (on purpose)", name)
