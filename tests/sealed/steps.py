"""A real directory behind a disk that counts what it is asked, and stops at the k-th change."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log.log import Log


class DiedError(BaseException):
    """The process died here: no handler for OSError gets to put anything right."""


class StepDisk(OsDisk):
    """Counts every change; at change number `stop_at` it dies, or fails.

    `dies`: this change and everything after it raises `DiedError`, a write having been done in
    part. Otherwise this one change (or with `for_ever` every one from it on) raises an OSError.
    """

    def __init__(self, path: str, *, create: bool = False) -> None:
        super().__init__(path, create=create)
        self.count = 0
        self.stop_at: int | None = None
        self.dies = True
        self.for_ever = False
        self.full = False
        self.reads: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()

    def step(self, what: str, half: Callable[[], Any] | None = None) -> None:
        self.count += 1
        if self.stop_at is None or self.count < self.stop_at:
            return
        if self.dies:
            if self.count == self.stop_at and half is not None:
                half()
            raise DiedError(what)
        if self.count == self.stop_at or self.for_ever:
            raise OSError(errno.EIO, f"injected at {what}")

    def open(self, name: str, *, write: bool = False, create: bool = False) -> Any:
        self.opened[name] += 1
        if create:
            self.step(f"create {name}")
        return StepFile(self, super().open(name, write=write, create=create))

    def is_named(self, file: Any, name: str) -> bool:
        return super().is_named(file._file, name)

    def rename(self, name: str, new_name: str) -> None:
        self.step(f"rename {name}")
        super().rename(name, new_name)

    def unlink(self, name: str) -> None:
        self.step(f"unlink {name}")
        super().unlink(name)

    def sync_directory(self) -> None:
        self.step("sync directory")
        super().sync_directory()


class StepFile:
    def __init__(self, disk: StepDisk, file: Any) -> None:
        self._disk = disk
        self._file = file
        self.name = file.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size_bytes: int, position: int) -> bytes:
        self._disk.reads[self.name] += 1
        data: bytes = self._file.read(size_bytes, position)
        return data

    def write(self, parts: Any, position: int) -> None:
        data = b"".join(parts)
        if self._disk.full and position + len(data) > self._file.size():
            raise OSError(errno.ENOSPC, "the disk is full")
        self._disk.step(
            f"write {self.name}", lambda: self._file.write([data[: len(data) // 20]], position)
        )
        self._file.write([data], position)

    def truncate(self, size_bytes: int) -> None:
        self._disk.step(f"truncate {self.name}")
        self._file.truncate(size_bytes)

    def allocate(self, size_bytes: int) -> None:
        if self._disk.full and size_bytes > self._file.size():
            raise OSError(errno.ENOSPC, "the disk is full")
        self._disk.step(f"allocate {self.name}")
        self._file.allocate(size_bytes)

    def sync(self, *, data_only: bool = False) -> None:
        self._disk.step(f"sync {self.name}")
        self._file.sync(data_only=data_only)


def open_on(disk: StepDisk, mode: str = "a", **options: Any) -> Log:
    """A log over that disk, without the background thread unless asked for."""
    options.setdefault("background", False)
    return Log(disk, mode, LogConfig.of(options, environment={}))  # type: ignore[arg-type]


@contextmanager
def dying_at(disk: StepDisk, steps_from_now: int, *, dies: bool = True) -> Iterator[list[bool]]:
    """Run a block on a disk that stops at a step from now; the list says whether it did."""
    stopped = [False]
    disk.dies = dies
    disk.stop_at = disk.count + steps_from_now
    try:
        yield stopped
    except DiedError:
        stopped[0] = True
    except OSError:
        if dies:
            raise
        stopped[0] = True
    # A step may have been passed whose failure was taken care of.
    stopped[0] = stopped[0] or disk.count >= disk.stop_at


def temporary_names(path: str) -> list[str]:
    return [name for name in os.listdir(path) if name.endswith(".tmp")]
