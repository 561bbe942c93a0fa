"""Snapshots taken while others are at work, and what has to hold of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from unittest.mock import patch

from segstore.log import snapshot as snapshot_module
from segstore.log.log import Log
from segstore.log.snapshot import SnapshotReport
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError
from tests.torture.expected import Committed, check_all_committed, check_names, held_back
from tests.torture.scene import Scene


class Shelf:
    """Directories in memory, beside the log, where snapshots go."""

    def __init__(self) -> None:
        self._disks: dict[str, MemoryDisk] = {}

    @contextmanager
    def in_place(self, before: Callable[[str, str], None]) -> Iterator[None]:
        """Instead of real ones; `before` is as of `FaultyDisk`."""
        # What a killed process was building is still there.
        self._disks = {path: disk.after_kill() for path, disk in self._disks.items()}

        def make(path: str, create: bool = False) -> FaultyDisk:
            if not create and path not in self._disks:
                raise FileNotFoundError(path)
            return FaultyDisk(self._disks.setdefault(path, MemoryDisk(path)), before=before)

        def publish(path: str, new_path: str) -> None:
            self._disks[new_path] = self._disks.pop(path)

        def remove(path: str) -> None:
            if path in self._disks and not self._disks[path].names():
                del self._disks[path]

        with patch.multiple(
            snapshot_module,
            OsDisk=make,
            publish_directory=publish,
            remove_directory=remove,
        ):
            yield

    def take(self, path: str) -> MemoryDisk:
        """A snapshot that was made, which nobody needs here any more."""
        return self._disks.pop(path)


class Copying:
    """The step; `alone` has nobody else go on meanwhile."""

    def __init__(
        self, scene: Scene, shelf: Shelf, alone: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._scene = scene
        self._shelf = shelf
        self._alone = alone

    def copy(self, name: str, random: Random) -> None:
        scene, moments = self._scene, self._scene.ledger.moments
        with scene.some_handle(random) as log, scene.consumers.watched() as seen:
            since, first = moments.begin(), log.start_offset
            report = log.snapshot(name)
            starts = range(first, log.start_offset + 1)
            scene.consumers.add_skips(seen)
        disk = self._shelf.take(name)
        power_cut = disk.unsynced().sample(Random(random.getrandbits(32)))
        if report.start_offset not in starts:
            raise BrokenError(f"C5: {report} starts outside {starts}")
        with self._alone():
            for copy in (power_cut, disk):
                for mode in ("r", "a"):
                    self._check(copy, mode, report, since, seen)
        scene.run.count("snapshots")

    def _check(
        self, disk: MemoryDisk, mode: str, report: SnapshotReport, since: int, seen: Committed
    ) -> None:
        scene = self._scene
        start, end = report.start_offset, report.end_offset
        with Log(disk, mode, scene.config._replace(background=False)) as copy:  # type: ignore[arg-type]
            if (copy.start_offset, copy.end_offset) != (start, end):
                raise BrokenError(f"C5: {copy!r} is of {report}")
            if copy.recovery.lost or copy.recovery.cut or not copy.verify().is_intact:
                raise BrokenError(f"C5: a copy with damage: {copy.recovery} {copy.verify()}")
            found = copy.consumers()
            records = list(copy.read())
        if [record.offset for record in records] != list(range(start, end)):
            raise BrokenError(f"C5: {len(records)} records in {report}")
        scene.ledger.moments.check(records, end, since)
        if mode == "a":
            seen = {name: held_back(offsets, end) for name, offsets in seen.items()}
            check_names(disk)
        check_all_committed(found, seen)
