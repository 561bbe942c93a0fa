"""A disk in memory that knows what a power cut would leave of it.

Every file has two contents: what processes see (the page cache) and what the device holds. A
write, a store into a mapping, a new size or a new name reaches the device when it is synced, and
until then a power cut keeps it, loses it or tears it.

What a power cut may do, sector by sector and name by name (the model of POSIX, which promises
less than any one file system does):
1. A sector of 512 bytes that was written since the last sync of its file holds the old bytes, the
   bytes after any one of the writes, or a mix of two of these, cut at any byte.
2. The size of a file is the synced one, the newest, or any in between; bytes that never arrived
   read as zeros.
3. Names that were created, renamed or removed since the last sync of the directory are as they
   were or as they should be, each for itself; a rename happens whole or not at all.
4. What was synced is there.

A failed sync may leave the device with the old bytes and the cache with the new ones, marked
clean, so that no later sync brings them (`MemoryFile.drop_unsynced`): that is what ext4 and XFS
do. A page counts as dirty again once it is written again; and `uncache` has the cache forget
clean ones that nobody has mapped, so that they are as on the device.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import NamedTuple

from segstore.disk import Disk, File, LockHeldError
from segstore.format.buffers import Buffer

SECTOR_BYTES = 512
PAGE_BYTES = 4096


class Event(NamedTuple):
    """A change that is about to be made to a disk.

    Attributes:
        kind: "write", "truncate", "allocate", "sync", "create", "rename", "unlink" or
            "sync directory".
        name: the file; empty for the directory.
        position: of a write, or the new size.
        data: of a write.
    """

    kind: str
    name: str
    position: int = 0
    data: bytes = b""


Watch = Callable[["MemoryDisk", Event], None]


class _Change(NamedTuple):
    """An unsynced change to a file: `data` at `position`, and the size afterwards."""

    position: int
    data: bytes
    size_bytes: int


class _Node:
    """A file without a name."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.device = bytearray(data)
        self.unsynced: list[_Change] = []
        self.dropped_pages: set[int] = set()
        self.locks: dict[MemoryFile, bool] = {}  # whether it is shared, by who holds it
        self.map_count = 0
        self.idle_maps: set[MemoryMapping] = set()  # that nobody looks into for now
        self.seen = b""  # the mapped bytes at the last look, while map_count is above 0

    def copy(self) -> _Node:
        other = _Node()
        other.data, other.device = bytearray(self.data), bytearray(self.device)
        other.unsynced = list(self.unsynced)
        other.dropped_pages = set(self.dropped_pages)
        return other

    def note(self, position: int, data: bytes) -> None:
        """Remember a change that was made to `data`."""
        if self.dropped_pages and data:
            first, last = position // PAGE_BYTES, (position + len(data) - 1) // PAGE_BYTES
            touched = self.dropped_pages.intersection(range(first, last + 1))
            if touched:  # a dirty page is written whole
                self.dropped_pages -= touched
                start = min(position, min(touched) * PAGE_BYTES)
                end = max(position + len(data), (max(touched) + 1) * PAGE_BYTES)
                position, data = start, bytes(self.data[start:end])
        self.unsynced.append(_Change(position, data, len(self.data)))

    def look(self) -> None:
        """Find what was stored into the mapping since the last look."""
        if not self.map_count or self.data == self.seen:
            return
        now = bytes(self.data)
        start = None
        for at in range(0, len(now) + SECTOR_BYTES, SECTOR_BYTES):
            end = at + SECTOR_BYTES
            if at < len(now) and now[at:end] != self.seen[at:end]:
                start = at if start is None else start
            elif start is not None:
                self.note(start, now[start:at])
                start = None
        self.seen = now

    def sync(self) -> None:
        for change in self.unsynced:
            _apply(self.device, change)
        self.unsynced = []

    def drop(self) -> None:
        for change in self.unsynced:
            if change.data:
                first = change.position // PAGE_BYTES
                last = (change.position + len(change.data) - 1) // PAGE_BYTES
                self.dropped_pages.update(range(first, last + 1))
            _resize(self.device, change.size_bytes)
        self.unsynced = []

    def forget(self, size_bytes: int, position: int) -> None:
        """What is clean is read from the device again, unless somebody looks into it."""
        if len(self.idle_maps) == self.map_count:
            for page in sorted(self.dropped_pages):
                at = page * PAGE_BYTES
                end = min(at + PAGE_BYTES, len(self.device))
                if position <= at and end <= position + size_bytes:
                    self.data[at:end] = self.device[at:end]
                    self.dropped_pages.remove(page)
            if self.map_count:
                self.seen = bytes(self.data)
        self.idle_maps.clear()


def _resize(data: bytearray, size_bytes: int) -> None:
    del data[size_bytes:]
    data.extend(bytes(size_bytes - len(data)))


def _apply(data: bytearray, change: _Change) -> None:
    end = change.position + len(change.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[change.position : end] = change.data
    _resize(data, change.size_bytes)


class MemoryMapping:
    """A shared mapping: stores into it are seen by all at once and are not synced."""

    def __init__(self, disk: MemoryDisk, node: _Node, size_bytes: int, *, write: bool) -> None:
        self._disk = disk
        self._node = node
        self._is_open = True
        node.look()
        if node.map_count == 0:
            node.seen = bytes(node.data)
        node.map_count += 1
        view = memoryview(node.data)[:size_bytes]
        self.view = view if write else view.toreadonly()

    def wait(self, at: int, value: int, timeout_s: float) -> None:  # noqa: ARG002
        """Sleep shortly: there are no other processes."""
        time.sleep(min(timeout_s, 0.001))

    def wake(self, at: int) -> None:
        """Nobody sleeps for long."""

    def uncache(self) -> None:
        """Until the cache was asked to forget."""
        if self._is_open:
            self._node.idle_maps.add(self)

    def close(self) -> None:
        """Give the view back."""
        if not self._is_open:
            return
        self._is_open = False
        self._node.look()
        self._node.map_count -= 1
        self._node.idle_maps.discard(self)
        with suppress(BufferError):  # somebody still looks into it
            self.view.release()


class MemoryFile:
    """An open file of a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, node: _Node, name: str, *, write: bool) -> None:
        self._disk = disk
        self._node: _Node | None = node
        self._is_writable = write
        self.name = name
        self.descriptor = None
        disk.open_file_count += 1

    def read(self, size_bytes: int, position: int) -> bytes:
        """From what processes see."""
        return bytes(self._open_node().data[position : position + size_bytes])

    def write(self, parts: Sequence[Buffer], position: int) -> None:
        """All of `parts`; unsynced."""
        node = self._writable_node()
        data = b"".join(parts)
        self._disk.tell(Event("write", self.name, position, data))
        end = position + len(data)
        if len(node.data) < end:
            node.data.extend(bytes(end - len(node.data)))
        node.data[position:end] = data
        if node.map_count:
            node.seen = bytes(node.data)
        node.note(position, data)

    def size(self) -> int:
        """As processes see it."""
        return len(self._open_node().data)

    def is_shared(self) -> bool:
        """Never, as it links nothing."""
        return False

    def truncate(self, size_bytes: int) -> None:
        """Set the size; unsynced."""
        node = self._writable_node()
        self._disk.tell(Event("truncate", self.name, size_bytes))
        cut = len(node.data) - size_bytes
        _resize(node.data, size_bytes)  # a mapped file can't be resized: BufferError, as it should
        if cut > 0:
            # Bytes behind a cut never come back, so a later growth finds zeros there.
            node.unsynced.append(_Change(size_bytes, bytes(cut), size_bytes))
        else:
            node.note(size_bytes, b"")

    def allocate(self, size_bytes: int) -> None:
        """Grow the file; unsynced."""
        node = self._writable_node()
        self._disk.tell(Event("allocate", self.name, size_bytes))
        if size_bytes > len(node.data):
            _resize(node.data, size_bytes)
            node.note(size_bytes, b"")

    def uncache(self, size_bytes: int, position: int) -> None:
        """Of what is unsynced a power cut may keep any part anyway; what is clean is forgotten."""
        node = self._open_node()
        node.look()
        node.forget(size_bytes, position)

    def sync(self, *, data_only: bool = False) -> None:  # noqa: ARG002
        """Bring data, stores into mappings, and size to the device."""
        node = self._open_node()
        self._disk.tell(Event("sync", self.name))
        node.sync()

    def drop_unsynced(self) -> None:
        """What a failed fsync may do: the cache keeps the bytes, and no later sync brings them."""
        node = self._open_node()
        node.look()
        node.drop()

    def map(self, size_bytes: int) -> MemoryMapping:
        """Map the first `size_bytes`."""
        node = self._open_node()
        if size_bytes > len(node.data):
            raise OSError(errno.EINVAL, "the file is shorter than its mapping", self.name)
        return MemoryMapping(self._disk, node, size_bytes, write=self._is_writable)

    def lock(self, *, shared: bool = False) -> None:
        """Lock until closed."""
        node = self._open_node()
        others = [is_shared for file, is_shared in node.locks.items() if file is not self]
        if others and not (shared and all(others)):
            raise LockHeldError(bytes(node.data[:200]).decode("ascii", "replace") or "a writer")
        node.locks[self] = shared

    def close(self) -> None:
        """Close, and let go of the lock."""
        node, self._node = self._node, None
        if node is not None:
            self._disk.open_file_count -= 1
            node.locks.pop(self, None)

    def __del__(self) -> None:
        self.close()

    def _open_node(self) -> _Node:
        if self._node is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.name)
        return self._node

    def _writable_node(self) -> _Node:
        if not self._is_writable:
            raise OSError(errno.EBADF, "not open for writing", self.name)
        return self._open_node()


class _NameChange(NamedTuple):
    """An unsynced change of names: `node` appears as `name` and `old_name` goes."""

    name: str | None
    node: _Node | None
    old_name: str | None


class MemoryDisk:
    """A directory in memory.

    Not for several threads at once: it is made to be deterministic.

    Attributes:
        path: what it is called in messages.
        watch: called with every `Event` before it happens; it may raise, and the change is not
            made then.
        open_file_count: how many files are open.
    """

    def __init__(self, path: str = "memory", *, watch: Watch | None = None) -> None:
        self.path = path
        self.watch = watch
        self.open_file_count = 0
        self._names: dict[str, _Node] = {}
        self._device_names: dict[str, _Node] = {}
        self._unsynced: list[_NameChange] = []

    # The seam

    def names(self) -> list[str]:
        """The names as processes see them."""
        return list(self._names)

    def size_of(self, name: str) -> int | None:
        """The size, or None."""
        node = self._names.get(name)
        return None if node is None else len(node.data)

    def is_named(self, file: File, name: str) -> bool:
        """By the node."""
        return isinstance(file, MemoryFile) and self._names.get(name) is file._open_node()

    def open(self, name: str, *, write: bool = False, create: bool = False) -> MemoryFile:
        """Open a file, or make one."""
        if create:
            if name in self._names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self.tell(Event("create", name))
            node = self._names[name] = _Node()
            self._unsynced.append(_NameChange(name, node, None))
            return MemoryFile(self, node, name, write=True)
        return MemoryFile(self, self._named(name), name, write=write)

    def rename(self, name: str, new_name: str) -> None:
        """Give a file a new name; unsynced."""
        node = self._named(name)
        self.tell(Event("rename", name))
        del self._names[name]
        self._names[new_name] = node
        self._unsynced.append(_NameChange(new_name, node, name))

    def link(self, name: str, target: Disk) -> bool:  # noqa: ARG002
        """Never: a file here has one name, so that a power cut decides about each for itself."""
        self._named(name)
        return False

    def unlink(self, name: str) -> None:
        """Remove a name; unsynced."""
        self._named(name)
        self.tell(Event("unlink", name))
        del self._names[name]
        self._unsynced.append(_NameChange(None, None, name))

    def sync_directory(self) -> None:
        """Bring the names to the device."""
        self.tell(Event("sync directory", ""))
        self._device_names = dict(self._names)
        self._unsynced = []

    def close(self) -> None:
        """Nothing: memory needs no closing."""

    # What only this disk can do

    def tell(self, event: Event) -> None:
        """Take note of stores into mappings, then tell the watcher what comes."""
        self.look()
        if self.watch is not None:
            self.watch(self, event)

    def look(self) -> None:
        """Take note of what was stored into mappings; every event does it as well."""
        for node in self._names.values():
            if node.map_count:
                node.look()

    def after_kill(self) -> MemoryDisk:
        """A copy as the next process finds it: all that was written, no locks, nothing open."""
        self.look()
        copies: dict[int, _Node] = {}

        def copy(node: _Node) -> _Node:
            if id(node) not in copies:
                copies[id(node)] = node.copy()
            return copies[id(node)]

        other = MemoryDisk(self.path)
        other._names = {name: copy(node) for name, node in self._names.items()}
        other._device_names = {name: copy(node) for name, node in self._device_names.items()}
        other._unsynced = [
            change._replace(node=None if change.node is None else copy(change.node))
            for change in self._unsynced
        ]
        return other

    def drop_caches(self) -> None:
        """Have the cache forget what is clean, as it may at any time; it is then as on the device.

        A difference only behind a failed sync (`Fault.drops_data`), and for files nobody has open.
        """
        self.look()
        for node in self._names.values():
            node.forget(len(node.data), 0)

    def unsynced(self) -> Unsynced:
        """What a power cut at this moment decides about; take any number of samples from it."""
        self.look()
        return Unsynced(self.path, self._device_names, self._unsynced)

    def contents(self) -> dict[str, bytes]:
        """Every name with its bytes, as processes see them."""
        return {name: bytes(node.data) for name, node in sorted(self._names.items())}

    @classmethod
    def of(cls, contents: dict[str, bytes], path: str = "memory") -> MemoryDisk:
        """A disk that holds these files, all synced."""
        disk = cls(path)
        disk._names = {name: _Node(data) for name, data in contents.items()}
        disk._device_names = dict(disk._names)
        return disk

    def _named(self, name: str) -> _Node:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._names[name]


class Unsynced:
    """All that the device may hold after a power cut, to take samples from."""

    def __init__(
        self, path: str, names: dict[str, _Node], name_changes: Sequence[_NameChange]
    ) -> None:
        self._path = path
        self._names = dict(names)
        self._name_changes = list(name_changes)
        nodes = [*names.values(), *(c.node for c in name_changes if c.node is not None)]
        self._files = {id(node): _UnsyncedFile(node) for node in nodes}

    def sample(self, random: Random) -> MemoryDisk:
        """The disk after a power cut, one of all that are possible."""
        names = dict(self._names)
        for change in _kept(self._name_changes, random):
            if change.old_name is not None:
                names.pop(change.old_name, None)
            if change.name is not None and change.node is not None:
                names[change.name] = change.node
        # One mood for all files now and then: the far ends are where mistakes hide.
        mood = random.choice(("none", "all", "mix", "mix", "mix"))
        contents = {
            name: self._files[id(node)].sample(random, mood) for name, node in names.items()
        }
        return MemoryDisk.of(contents, self._path)


class _UnsyncedFile:
    def __init__(self, node: _Node) -> None:
        self._device = bytes(node.device)
        self._sizes = [len(node.device), *(change.size_bytes for change in node.unsynced)]
        self._newest = bytearray(node.device)
        self._versions: dict[int, list[bytes]] = {}
        for change in node.unsynced:
            end = change.position + len(change.data)
            if len(self._newest) < end:
                self._newest.extend(bytes(end - len(self._newest)))
            for sector in range(change.position // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
                if change.data and sector not in self._versions:
                    self._versions[sector] = [self._sector(sector)]
            self._newest[change.position : end] = change.data
            if change.data:
                for sector in range(change.position // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
                    self._versions[sector].append(self._sector(sector))

    def sample(self, random: Random, mood: str) -> bytes:
        if not self._versions and len(self._sizes) == 1:
            return self._device
        if mood == "none":
            return self._device
        if mood == "all":
            return bytes(self._newest[: self._sizes[-1]])
        size_bytes = random.choice((self._sizes[0], self._sizes[-1], random.choice(self._sizes)))
        if random.random() < 0.25:
            size_bytes = random.randint(min(self._sizes), max(self._sizes))
        data = bytearray(self._device)
        _resize(data, max(size_bytes, len(self._newest)))
        kept = random.choice((0.1, 0.5, 0.9))
        for sector, versions in self._versions.items():
            at = sector * SECTOR_BYTES
            data[at : at + SECTOR_BYTES] = _one_of(versions, kept, random)
        return bytes(data[:size_bytes])

    def _sector(self, sector: int) -> bytes:
        at = sector * SECTOR_BYTES
        return bytes(self._newest[at : at + SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")


def _one_of(versions: list[bytes], kept: float, random: Random) -> bytes:
    choice = random.random()
    if choice < 0.1:  # torn
        first, second = random.choice(versions), random.choice(versions)
        cut = random.randrange(SECTOR_BYTES + 1)
        return first[:cut] + second[cut:]
    if choice < 0.2:
        return random.choice(versions)
    return versions[-1] if random.random() < kept else versions[0]


def _kept(changes: Sequence[_NameChange], random: Random) -> Iterator[_NameChange]:
    """Which changes of names survive: all, none, the first few (a journal), or any."""
    mood = random.choice(("any", "any", "first", "all", "none"))
    if mood == "first":
        yield from changes[: random.randint(0, len(changes))]
    else:
        share = {"any": 0.5, "all": 1.0, "none": 0.0}[mood]
        yield from (change for change in changes if random.random() < share)
