"""T0: the harness proves itself: every bug that is put in on purpose is found by a campaign."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from segstore.disk import OsDisk
from segstore.errors import LogLockedError, SyncFailedError
from segstore.format import frame as frame_module
from segstore.format.checkpoint import Checkpoint, encode_slot, slot_position
from segstore.log import log as log_module
from segstore.log import opening, starting
from segstore.log import writer as writer_module
from segstore.log.manager import SegmentManager
from segstore.segment import reader as reader_module
from segstore.segment import writer as segment_writer_module
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.tail import Tail
from segstore.testing import faulty, memory
from segstore.testing.faulty import Fault
from segstore.testing.memory import MemoryDisk
from tests.torture import (
    bugs_beside_others,
    bugs_of_recovery,
    t02_power_loss,
    t04_damage,
    t05_failing_calls,
    t06_stacked,
    t15_threads,
)
from tests.torture.campaign import BrokenError, Budget, Run
from tests.torture.workload import small_config

Hunt = Callable[[Run], None]


def power_loss(run: Run) -> None:
    t02_power_loss.run_level(run, "written", 150)
    t02_power_loss.run_level(run, "durable", 150)


def power_loss_of_consumers(run: Run) -> None:
    t02_power_loss.run_level(run, "written", 600)


def power_loss_of_large_frames(run: Run) -> None:
    t02_power_loss.run_level(run, "written", 900, **t02_power_loss.LARGE_FRAMES)


def damage(run: Run) -> None:
    t04_damage.run(run)


def damage_to_a_large_frame(run: Run) -> None:
    t04_damage.run(run, only_large=True)


def failing(*kinds: str, drops_data: bool = False) -> Hunt:
    def hunt(run: Run) -> None:
        for kind in kinds:
            for seed in range(3):
                at = 1
                while not run.is_over:
                    fault = Fault(kind, at, 5, drops_data=drops_data)
                    if not t05_failing_calls.run_one(run, seed, fault):
                        break
                    at += 1

    return hunt


def threads(run: Run) -> None:
    t15_threads.run_lives(run, 500)


def stacked(run: Run) -> None:
    t06_stacked.run_states(run, 3000)


def busy_threads(run: Run) -> None:
    t15_threads.run_lives(run, 1500, is_busy=True)


def second_writer(run: Run) -> None:
    disk, config = MemoryDisk(), small_config()
    first = log_module.Log(disk, "a", config)
    try:
        log_module.Log(disk, "a", config).close()
    except LogLockedError:
        return
    finally:
        first.close()
    raise BrokenError("a second writer got in")


def forked_child(run: Run) -> None:
    log = log_module.Log(MemoryDisk(), "a", small_config())
    with patch.object(os, "getpid", lambda: -1):
        try:
            log.append_many([b"from the child, by the slow way"] * 600)
        except log_module.LogClosedError:
            return
    raise BrokenError("a forked child appends")


def listings_together(run: Run) -> None:
    """What retention asks before it deletes: who is registered, while others ask as well."""
    counts: set[int] = set()
    with (
        tempfile.TemporaryDirectory(prefix="segstore-") as path,
        log_module.Log(OsDisk(path), "a", small_config()) as log,
        ThreadPoolExecutor(4) as pool,
    ):
        for number in range(20):
            log.consumer(f"{number}").close()
        for _ in range(10):
            found = pool.map(lambda _: len(log.consumers()), range(400))
            counts.update(found)
            if counts != {20}:
                raise BrokenError(f"20 consumers are registered, and {counts} were found")
    run.count("listings", 4000)


@contextmanager
def _acknowledge_before_sync() -> Iterator[None]:
    with patch.object(segment_writer_module.SegmentWriter, "sync", lambda *_, **__: None):
        yield


@contextmanager
def _no_directory_sync() -> Iterator[None]:
    with patch.object(MemoryDisk, "sync_directory", lambda _: None):
        yield


@contextmanager
def _unsynced_seal() -> Iterator[None]:
    real = memory.MemoryFile.sync

    def sync(self: Any, **options: Any) -> None:
        if not self.name.endswith(".tmp"):
            real(self, **options)

    with patch.object(memory.MemoryFile, "sync", sync):
        yield


@contextmanager
def _trusted_index() -> Iterator[None]:
    def events(self: Any, index: Any, slot: int, end: int, first_bytes: int | None = None) -> Any:
        if slot < 0:
            return self.scan_from(64, self.base_offset, end, first_bytes)
        relative_offset, position, _ = index[slot]
        return self.scan_from(position, self.base_offset + relative_offset, end, first_bytes)

    with patch.object(reader_module.SegmentReader, "_events_from", events):
        yield


@contextmanager
def _retried_fsync() -> Iterator[None]:
    def failed(self: Any, error: OSError) -> SyncFailedError:
        self._failure = None
        return SyncFailedError(error.errno, "try again")

    with patch.object(writer_module.LogWriter, "_sync_failed", failed):
        yield


@contextmanager
def _ignored_short_write() -> Iterator[None]:
    real = faulty.FaultyFile.write

    def write(self: Any, parts: Any, position: int) -> None:
        try:
            real(self, parts, position)
        except OSError:
            if not any(fault.kind == "short_write" for fault in self._disk.faults):
                raise

    with patch.object(faulty.FaultyFile, "write", write):
        yield


@contextmanager
def _unchecked_frame() -> Iterator[None]:
    class Anything(int):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    real = frame_module.crc32c
    with patch.object(frame_module, "crc32c", lambda *data: Anything(real(*data))):
        yield


@contextmanager
def _unchecked_blocks() -> Iterator[None]:
    with patch.object(frame_module, "find_holes", lambda batch: batch):
        yield


@contextmanager
def _torn_frame_kept_in_part() -> Iterator[None]:
    real = opening.scan_segment

    def scan_segment(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        return found._replace(damage=[damage for damage in found.damage if not damage.parts])

    with patch.object(opening, "scan_segment", scan_segment):
        yield


@contextmanager
def _no_tail_trim() -> Iterator[None]:
    with patch.object(starting, "cut_torn", lambda *_: []):
        yield


@contextmanager
def _unlink_before_the_commit() -> Iterator[None]:
    real_rename = MemoryDisk.rename

    def rename(self: MemoryDisk, name: str, new_name: str) -> None:
        if new_name.endswith(".log.lz4"):
            for suffix in (".log", ".index"):
                if self.size_of(new_name[:20] + suffix) is not None:
                    self.unlink(new_name[:20] + suffix)
            real_rename(self, name, new_name)
            for suffix in (".log", ".index"):  # for the unlink that comes where it should
                self.open(new_name[:20] + suffix, write=True, create=True).close()
            return
        real_rename(self, name, new_name)

    with patch.object(MemoryDisk, "rename", rename):
        yield


@contextmanager
def _no_fork_guard() -> Iterator[None]:
    with patch.object(writer_module.LogWriter, "_is_foreign", lambda _: False):
        yield


@contextmanager
def _no_lock() -> Iterator[None]:
    with patch.object(memory.MemoryFile, "lock", lambda _, **_options: None):
        yield


@contextmanager
def _tail_not_voided() -> Iterator[None]:
    with patch.object(Tail, "void", lambda *_: None):
        yield


@contextmanager
def _consumers_not_held_back() -> Iterator[None]:
    with patch.object(starting, "hold_back", lambda *_, **__: None):
        yield


@contextmanager
def _commit_before_sync() -> Iterator[None]:
    def move(self: Any, value: int, time: int, *, lost_count: int | None = None) -> None:
        lost = self.current.lost_count if lost_count is None else lost_count
        self.current = Checkpoint(self.current.sequence + 1, value, time, lost)
        self._file.write([encode_slot(self.current)], slot_position(self.current.sequence))

    with patch.object(CheckpointFile, "move", move):
        yield


@contextmanager
def _shared_listing() -> Iterator[None]:
    def names(self: Any) -> list[str]:
        return os.listdir(self._in_use().descriptor)

    with patch.object(OsDisk, "names", names):
        yield


@contextmanager
def _sealed_with_the_others() -> Iterator[None]:
    real = SegmentManager.release_rolled

    def release_rolled(self: Any, count: int) -> Any:
        return real(self, self.unsealed_count)  # also what was rolled since the sync

    with patch.object(SegmentManager, "release_rolled", release_rolled):
        yield


@contextmanager
def _turn_that_frees_all() -> Iterator[None]:
    real = writer_module.LogWriter.sync

    def sync(self: Any, offset: int | None = None, *, with_tail: bool = False) -> int:
        turn = self._sync_turn
        try:
            if turn._owner is None or turn.take(0):
                return real(self, offset, with_tail=with_tail)
        finally:
            turn.pass_on(0)
        reached: int = self._durable_offset  # by a sync that had begun before
        return reached

    with patch.object(writer_module.LogWriter, "sync", sync):
        yield


@contextmanager
def _unsynced_tail() -> Iterator[None]:
    with patch.object(Tail, "sync", lambda _: None):
        yield


@contextmanager
def _tail_used_too_early() -> Iterator[None]:
    real = writer_module.LogWriter._restart_tail

    def restart(self: Any) -> None:
        durable_offset, self._durable_offset = self._durable_offset, 0
        real(self)
        self._durable_offset = durable_offset

    with patch.object(writer_module.LogWriter, "_restart_tail", restart):
        yield


@contextmanager
def _tail_not_parked() -> Iterator[None]:
    with patch.object(writer_module.LogWriter, "park_tail", lambda _: None):
        yield


@contextmanager
def _frames_that_vouch_for_the_tail() -> Iterator[None]:
    real = writer_module.LogWriter._sync_tail

    def sync_tail(self: Any, **options: Any) -> bool:
        is_synced = real(self, **options)
        if is_synced:
            self.buffer.segments_durable_offset = self._durable_offset
        return is_synced

    with patch.object(writer_module.LogWriter, "_sync_tail", sync_tail):
        yield


BUGS: dict[str, tuple[Callable[[], Any], Hunt]] = {
    "acknowledge before sync": (_acknowledge_before_sync, power_loss),
    "no directory sync": (_no_directory_sync, power_loss),
    "unsynced seal": (_unsynced_seal, power_loss),
    "trusted index": (_trusted_index, power_loss),
    "retried fsync": (_retried_fsync, failing("sync", drops_data=True)),
    "ignored short write": (_ignored_short_write, failing("short_write")),
    "unchecked frame": (_unchecked_frame, damage),
    "unchecked blocks": (_unchecked_blocks, damage_to_a_large_frame),
    "torn frame kept in part": (_torn_frame_kept_in_part, power_loss_of_large_frames),
    "no tail trim": (_no_tail_trim, power_loss),
    "unlink before the commit": (_unlink_before_the_commit, power_loss),
    "no fork guard": (_no_fork_guard, forked_child),
    "no lock": (_no_lock, second_writer),
    "tail not voided": (_tail_not_voided, power_loss),
    "consumers not held back": (_consumers_not_held_back, power_loss_of_consumers),
    "shared listing": (_shared_listing, listings_together),
    "commit before sync": (_commit_before_sync, power_loss_of_consumers),
    "sealed with the others": (_sealed_with_the_others, threads),
    "turn that frees all": (_turn_that_frees_all, threads),
    "unsynced tail": (_unsynced_tail, power_loss),
    "tail used too early": (_tail_used_too_early, threads),
    "tail not parked": (_tail_not_parked, stacked),
    "frames that vouch for the tail": (_frames_that_vouch_for_the_tail, threads),
    **bugs_of_recovery.BUGS,
    **{name: (bug, busy_threads) for name, bug in bugs_beside_others.BUGS.items()},
}


# So many of them, others each time, are looked for where not all are.
PART_COUNT = 12


def check_finding(name: str, error: BaseException) -> None:
    """A broken promise is a finding; a bug that no longer fits the code it replaces is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TypeError | AttributeError | NameError | ImportError):
            raise BrokenError(f"the seeded bug {name!r} does not run: {cause!r}") from error
        cause = cause.__cause__


def run(run: Run) -> None:
    """With a bug a hunt must not pass, and with the same seed and as much time without it must."""
    missed = []
    names = list(BUGS)
    if run.budget.scale < 1:
        names = run.random.sample(sorted(BUGS.keys() - bugs_beside_others.RARE), PART_COUNT)
    for name in names:
        bug, hunt = BUGS[name]
        run.count("bugs")
        seed = run.random.getrandbits(32)
        inner = Run("T0", seed, Budget(0.01, 120.0))
        try:
            with bug():
                hunt(inner)
        except Exception as error:
            check_finding(name, error)
            run.count("found")
            run.notes.append(f"{name}: {str(error)[:100]}")
        else:
            missed.append(name)
        control = Run("T0", seed, Budget(0.01, max(0.5, inner.seconds)))
        try:
            hunt(control)
        except Exception as error:
            raise BrokenError(
                f"without the bug ({name}) the hunt fails as well: {error}"
            ) from error
        run.count("controls passed")
    if missed:
        raise BrokenError(f"not found: {', '.join(missed)}")
