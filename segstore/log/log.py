"""`Log`, the thin front: it checks the mode, and hands on to the writer or the reader."""

from __future__ import annotations

import errno
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeAlias

from segstore.config import Durability, LogConfig
from segstore.disk import Disk, File, Handle, LockHeldError, OsDisk, is_directory
from segstore.errors import (
    ConfigError,
    ConsumerLockedError,
    LogClosedError,
    LogNotFoundError,
    OffsetOutOfRangeError,
    ReadOnlyError,
    SegstoreError,
    StorageError,
    in_words,
    storage_errors,
)
from segstore.format import checksum, kernel
from segstore.format.batch import Record, RecordBatch
from segstore.format.buffers import AnyBuffer, as_bytes, as_int, as_offset, keep_freed_memory
from segstore.format.fileheader import log_tag
from segstore.format.names import consumer_file
from segstore.log.arguments import checked_timestamp
from segstore.log.compression import Compressor, nothing
from segstore.log.lock import is_in_place, leave_lock, take_lock
from segstore.log.maintenance import Maintenance
from segstore.log.opening import lost_ranges, refuse_strangers, report_of, torn
from segstore.log.reading import LogReader, OnDamage
from segstore.log.report import RecoveryReport, SegmentInfo, SegmentStatus, Stats
from segstore.log.retention import RetentionSweeper
from segstore.log.starting import start_writer, truncate
from segstore.log.startoffset import HeldStart
from segstore.log.view import FileView, LogView, WriterView
from segstore.log.writer import LogWriter
from segstore.mutex import new_recursive_mutex, take_at_once
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.doorbell import Doorbell
from segstore.segment.keys import pause
from segstore.segment.state import NO_MAX

# What most programs never call is imported where it is called: importing is a cost of each start.
# It takes descriptors, which may be short by then.
if TYPE_CHECKING:
    from typing import Unpack

    from segstore.config import LogOptions
    from segstore.log.compression import Progress
    from segstore.log.consumer import Consumer, ConsumerInfo, Start
    from segstore.log.follow import Follower, OnLost
    from segstore.log.repair import RepairReport
    from segstore.log.report import VerifyReport
    from segstore.log.retention import SweepReport
    from segstore.log.snapshot import SnapshotReport

Mode = Literal["a", "r"]
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# How often a writer looks for work at most, and at least.
MAINTENANCE_INTERVAL_S_MIN = 0.005
MAINTENANCE_INTERVAL_S_MAX = 60.0


def open_log(
    path: Path,
    mode: Mode = "a",
    config: LogConfig | str | os.PathLike[str] | None = None,
    **options: Unpack[LogOptions],
) -> Log:
    """Open the log in a directory, for one writer or any number of readers.

    Args:
        path: the directory of the log; mode "a" creates it if there is none.
        mode: "a" opens the one writer, which reads as well; "r" opens a reader, which keeps no
            lock and changes no file but those of consumers and the bell for followers, also while
            a writer is at work.
        config: a `LogConfig`, or the path of a TOML file with options.
        options: single options by name (see `LogConfig`); they win over everything else.

    Raises:
        ConfigError: an option is unknown or has a value that can't be used.
        LogLockedError: another writer has the log.
        LogNotFoundError: mode "r", and there is no log.
        UnsupportedFormatError: the log is of a later format version.
        StorageError: the directory or a file can't be read or written.
    """
    if mode not in ("a", "r"):
        raise ConfigError(f"mode is 'a' (write and read) or 'r' (read), not {mode!r}")
    path = os.fsdecode(path)
    if not path:  # of a variable that was never set
        raise ConfigError("the path of the log is empty; '.' is the current directory")
    if isinstance(config, LogConfig):
        # An argument like any other, whole: nothing of it gives way to the environment.
        resolved = LogConfig.of({**config._asdict(), **options})
    elif config is None or isinstance(config, str | os.PathLike):
        resolved = LogConfig.of(options, toml=config)
    else:
        raise ConfigError(
            f"config is a LogConfig or the path of a TOML file, not {type(config).__name__}; "
            "single options are arguments of their own"
        )
    hint = ""
    if mode == "a" and os.path.isdir(path):
        hint = "it may still be open to reading (mode='r')"
    with storage_errors(f"{path} can't be opened", if_denied=hint):
        if mode == "r" and not is_directory(path):
            raise LogNotFoundError(f"{path} is no directory, so there is no log to read")
        disk = OsDisk(path, create=mode == "a")
        try:
            return Log(disk, mode, resolved)
        except BaseException:
            disk.close()
            raise


class Log(Handle):
    """A segmented append-only log. `segstore.open` makes one.

    Every method may be called from any number of threads. A log is a context manager that closes
    itself, ``len(log)`` is how many records can be read, ``log[offset]`` is one of them, and
    iterating gives all there are at that moment.
    """

    def __init__(self, disk: Disk, mode: Mode, config: LogConfig) -> None:
        """Open the log in `disk`; `segstore.open` is the usual way.

        Raises:
            LogLockedError, LogNotFoundError, UnsupportedFormatError, OSError: see `segstore.open`.
        """
        keep_freed_memory()
        self._disk = disk
        self._mode = mode
        self._config = config
        self._is_closed = False
        self._is_let_go = False
        # Of compressing, sweeping, trimming and truncating: one of them at a time, and none while
        # the log is being closed, whose files would go under its hands.
        self._housekeeping = new_recursive_mutex()
        self._lock_file: File | None = None
        self._writer: LogWriter | None = None
        self._maintenance: Maintenance | None = None
        if mode == "a":
            refuse_strangers(disk)
            self._lock_file = take_lock(disk)
        try:
            self._open()
        except BaseException:
            self._is_let_go = True  # nothing is left for `close` to do
            try:
                if self._maintenance is not None:
                    self._maintenance.stop()
            finally:
                if self._lock_file is not None:  # which whoever has the error would keep
                    leave_lock(self._lock_file)
            raise

    def _open(self) -> None:
        disk, config = self._disk, self._config
        view: LogView
        if self._mode == "a":
            started = start_writer(disk, config, time.time_ns())
            self._started = started
            self._writer = started.writer
            lock_file = self._lock_file
            assert lock_file is not None
            started.writer.manager.is_in_place = lambda: is_in_place(disk, lock_file)
            self._log_id: bytes | None = started.log_id
            self._bell = started.bell
            self._recovery = started.recovery
            self._compressor = Compressor(
                disk,
                started.writer.manager,
                started.log_id,
                time.time_ns(),
                batch_size_bytes=config.batch_size,
            )
            self._sweeper = RetentionSweeper(
                disk,
                started.writer.manager,
                started.start,
                started.clock,
                lambda: _committed_offsets(disk),
                lambda: started.writer.segments_durable_offset,
                started.writer.drop_rolled,
                age_s=config.retention_age,
                size_bytes=config.retention_size,
                record_count=config.retention_records,
                waits_for_consumers=config.retention_waits_for_consumers,
                hard_size_bytes=config.retention_hard_size,
            )
            view = WriterView(
                disk, started.writer, log_tag(started.log_id), started.tail_reader, started.start
            )
            if config.durability == "written":
                # The plain append goes straight to the tail, without this class in between.
                started.writer.owner = self
                vars(self)["append"] = started.writer.buffer.append
                vars(self)["append_many"] = started.writer.buffer.append_many
        else:
            view = FileView(disk, index_interval_bytes=config.index_interval)
            if view.found.log_id is None and not len(view.catalog):
                raise LogNotFoundError(f"{disk.path} holds no log")
            found = view.found
            self._log_id = found.log_id
            self._bell = Doorbell.open(disk)
            self._recovery = report_of(
                found, torn(disk, found), lost_ranges(disk, found), [], view.end_offset()
            )
        self._reader = LogReader(view)
        if self._writer is not None and config.background:
            self._maintenance = Maintenance(self._maintain_beside, _interval(config), "segstore")
            self._writer.wake = self._maintenance.wake
            try:
                self._maintenance.start()
            except RuntimeError as error:
                self.close()
                raise StorageError(
                    errno.EAGAIN, f"{error}; open the log with background=False"
                ) from error
        _OPEN_LOGS.add(self)

    # Positions

    @property
    def path(self) -> str:
        """The directory of the log."""
        return self._disk.path

    @property
    def mode(self) -> Mode:
        """How it was opened: "a" or "r"."""
        return self._mode

    @property
    def config(self) -> LogConfig:
        """The options in force."""
        return self._config

    @property
    def start_offset(self) -> int:
        """The log start offset: the first that can be read."""
        return self._view().start_offset()

    @property
    def end_offset(self) -> int:
        """The log end offset: one past the last acknowledged record, and the next to be given."""
        return self._view().end_offset()

    @property
    def durable_offset(self) -> int:
        """Every record below it survives power loss."""
        return self._view().durable_offset()

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found and did."""
        return self._recovery

    def __len__(self) -> int:
        view = self._view()
        return max(0, view.end_offset() - view.start_offset())

    # Appending

    def append(
        self,
        value: AnyBuffer,
        *,
        key: AnyBuffer | None = None,
        timestamp: SupportsIndex | None = None,
        durability: Durability | None = None,
    ) -> int:
        """Append one record and return its offset.

        When this returns, the record survives the process ("written"), or power loss as well
        ("durable"). If it raises, the record was not acknowledged.

        Args:
            value: any buffer of bytes; empty is fine. Text has to be encoded first.
            key: any buffer, or None for no key (which is not the same as an empty one).
            timestamp: ns since the epoch; the wall clock if left out.
            durability: "written" or "durable"; the log's option if left out.

        Raises:
            TypeError: `value` or `key` is no buffer, or `timestamp` no int.
            RecordTooLargeError: key and value are over 16 MiB together.
            StorageError: the disk is full or failed; the log stays readable.
            SyncFailedError: a sync failed; see there.
            ReadOnlyError, LogClosedError: the log can't be written through this handle.
        """
        return self._appending().append(value, key=key, timestamp=timestamp, durability=durability)

    def append_many(
        self,
        values: Iterable[AnyBuffer],
        *,
        keys: Iterable[AnyBuffer | None] | None = None,
        timestamps: Iterable[SupportsIndex] | None = None,
        durability: Durability | None = None,
    ) -> range:
        """Append records one after another, and return their offsets.

        All are appended or, when it raises, none. After a crash in the middle a part of them,
        from the first on, may be there.

        Args:
            values: buffers of bytes; any iterable that fits into memory.
            keys: one key or None for each value, or None for no keys at all.
            timestamps: ns since the epoch, one for each value; the wall clock if left out.
            durability: as for `append`.

        Raises:
            ValueError: there are not as many keys or timestamps as values.
            TypeError, RecordTooLargeError, StorageError, SyncFailedError, ReadOnlyError,
            LogClosedError: as for `append`.
        """
        return self._appending().append_many(
            values, keys=keys, timestamps=timestamps, durability=durability
        )

    def sync(self) -> int:
        """Make everything appended so far durable; the durable offset reached.

        Raises:
            StorageError, SyncFailedError, ReadOnlyError, LogClosedError: as for `append`.
        """
        return self._appending().sync()

    def roll(self) -> bool:
        """Start a new segment, unless the active one is empty; True if it did.

        Raises:
            StorageError, SyncFailedError, ReadOnlyError, LogClosedError: as for `append`.
        """
        writer = self._appending()
        rolled = writer.roll()
        if rolled and self._maintenance is None:
            writer.seal_rolled()
        self._wake_maintenance()
        return rolled

    # Housekeeping

    def maintain(self) -> None:
        """Do now what the background thread does every so often.

        That is: sync, roll by age, seal, sweep if there is a retention policy, compress if
        `compression` is set. Retention so counts plain bytes of what was not compressed yet.

        Raises:
            StorageError, SyncFailedError, ReadOnlyError, LogClosedError: as for `append`.
        """
        self._maintain(lambda step: step())

    def _maintain_beside(self) -> None:
        """The same, without waiting for a `compress` or a `snapshot` of another thread.

        The next sync would be late by as long, and `close` could not be called from there, which
        waits for this round. What has to wait is for a later one.
        """
        self._maintain(self._unless_kept)

    def _unless_kept(self, step: Callable[[], Any]) -> Any:
        if not take_at_once(self._housekeeping):
            return None
        try:
            return step()
        finally:
            self._housekeeping.__exit__(None, None, None)

    def _maintain(self, keep: Callable[[Callable[[], Any]], Any]) -> None:
        writer = self._appending()
        next_tick = time.monotonic() + _interval(self._config)

        def tick_when_due() -> None:  # one segment may take longer than the sync can wait
            nonlocal next_tick
            pause()
            if time.monotonic() >= next_tick:
                with suppress(StorageError):  # the next round meets it again, and says so
                    writer.tick()
                next_tick = time.monotonic() + _interval(self._config)

        steps: list[Callable[[], Any]] = [writer.tick, lambda: writer.seal_rolled(tick_when_due)]
        if self._sweeper.has_work:
            steps.append(lambda: keep(self.sweep))
        if self._config.compression is not None:
            steps.append(lambda: self._compress_in_bites(keep, tick_when_due))
        failure: StorageError | None = None
        for step in steps:
            # A full disk must not stop the retention that would free it.
            try:
                step()
            except StorageError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def compress(self, progress: Progress | None = None) -> int:
        """Compress every sealed segment now; how many were.

        Works whatever `compression` says (None counts as "lz4" here). A damaged segment stays as
        it is. `progress` is called with the number of segments done and in all.

        Raises:
            StorageError: the disk is full or failed; the segment under work is as it was.
            ReadOnlyError, LogClosedError: as for `append`.
        """
        self._appending().seal_rolled()
        self._compressor.refused.clear()  # whoever asks may know that it can be done by now
        return self._compress(progress)

    def sweep(self, *, dry_run: bool = False) -> SweepReport:
        """Remove what the retention policies let go, and say what went and why.

        Only whole segments go, from the head, and never the active one, which is rolled first if
        its last record is over `retention_age`.

        Args:
            dry_run: change nothing, and say what would go.

        Raises:
            StorageError: a file can't be removed; it goes in the next pass.
            ReadOnlyError, LogClosedError: as for `append`.
        """
        with self._housekeeping, storage_errors(f"{self.path}: retention stopped"):
            writer = self._keeping_house()
            writer.check()
            # What is only staged is newer than anything in the active segment.
            is_staged = writer.written_end < writer.end_offset
            expires = not is_staged and self._sweeper.is_active_expired()
            if expires and not dry_run:
                with suppress(StorageError):  # on a full disk the sealed ones can go all the same
                    if writer.roll():
                        writer.seal_rolled()
            return self._sweep(dry_run=dry_run, as_if_rolled=expires and dry_run)

    def trim(self, before: SupportsIndex) -> None:
        """Remove every record before an offset, at once and durably.

        The log start offset becomes `before`, also in the middle of a segment; whole segments
        below it are deleted. (`offset_for_time` gives None where every record is older than a
        time: ``log.end_offset`` then removes them all.)

        Raises:
            OffsetOutOfRangeError: `before` is outside the log.
            TypeError: it is not an int.
            StorageError: the new start can't be stored, and the log starts where it did; or a
                file can't be removed, and goes in the next pass of retention.
            ReadOnlyError, LogClosedError: as for `append`.
        """
        with self._housekeeping, storage_errors(f"{self.path}: the log can't be trimmed"):
            writer = self._keeping_house()
            before = self._reading().bounds(as_offset(before), None).start
            # The start must never be ahead of what survives a power cut.
            writer.sync_segments(before)
            self._started.start.move(before, time.time_ns())
            self._sweep()

    def truncate(self, after: SupportsIndex) -> None:
        """Remove every record after an offset; that one stays, and the next append follows it.

        For callers that use the log as a write-ahead log. All or nothing, whenever it is
        interrupted. ``truncate(log.start_offset - 1)`` removes everything. Offsets are given out
        again; do not truncate what somebody else may have read. Consumers are moved back with it.

        Raises:
            OffsetOutOfRangeError: `after` is outside the log.
            TypeError: it is not an int.
            StorageError, SyncFailedError, ReadOnlyError, LogClosedError: as for `append`.
        """
        with self._housekeeping, storage_errors(f"{self.path}: the log can't be truncated"):
            writer = self._keeping_house()
            view = self._view()
            start, after = view.start_offset(), as_offset(after)
            end_offset = after + 1
            if not start <= end_offset <= view.end_offset():
                raise OffsetOutOfRangeError(after, start, view.end_offset())
            writer.sync_segments()
            writer.vouch()  # for the segment that is cut, which has no seal then
            with HeldStart(self._disk) as held, held:
                writer.exclusively(lambda: self._cut_back(end_offset))
            self._compressor.forget()
            self._bell.ring()

    # Reading

    def read(
        self,
        start: SupportsIndex | None = None,
        stop: SupportsIndex | None = None,
        *,
        errors: OnDamage = "raise",
    ) -> Iterator[Record]:
        """The records from `start` to below `stop`, in order.

        Args:
            start: the log start offset if left out.
            stop: the log end offset at the time of the call if left out; one behind the end means
                the end.
            errors: "raise" a CorruptionError at damage, or "skip" the records it took (`stats`
                counts them).

        Raises:
            OffsetOutOfRangeError: `start` is outside the log; or, while reading, retention or a
                truncation has overtaken the reader.
            CorruptionError: while reading; go on at its ``offsets.stop``.
            LogClosedError: the log was closed.
        """
        reader = self._reading()
        return reader.records(reader.bounds(start, stop), errors)

    def values(
        self,
        start: SupportsIndex | None = None,
        stop: SupportsIndex | None = None,
        *,
        errors: OnDamage = "raise",
    ) -> Iterator[bytes]:
        """The values from `start` to below `stop`, in order; as `read`, and faster."""
        reader = self._reading()
        return reader.values(reader.bounds(start, stop), errors)

    def batches(
        self,
        start: SupportsIndex | None = None,
        stop: SupportsIndex | None = None,
        *,
        errors: OnDamage = "raise",
    ) -> Iterator[RecordBatch]:
        """The records from `start` to below `stop` as columns, a batch at a time, without copies.

        As `read`, and fastest: what a batch's columns view was read and checked once.
        """
        reader = self._reading()
        return reader.batches(reader.bounds(start, stop), errors)

    def __getitem__(self, offset: SupportsIndex) -> Record:
        if type(offset) is not int:
            what = "read(start, stop) reads a range; log[...] takes one offset, an int"
            offset = as_int(offset, what)
        return self._reader.record(offset)

    def __iter__(self) -> Iterator[Record]:
        return self.read()

    # By the length and `log[offset]` Python would look below the log start offset.
    __reversed__ = None

    def snapshot(self, path: Path) -> SnapshotReport:
        """Copy the log to a new directory, consistently, while it is read and written.

        Holds everything acknowledged before the call, and is durable when it returns. Sealed
        segments are hard links, which cost no space (a copy on another file system); the rest is
        copied. The copy is a log of its own, with the committed offsets of the consumers. Works
        in both modes.

        Args:
            path: a directory that must not exist yet.

        Raises:
            ConfigError: `path` is empty.
            StorageError: `path` exists, or a file can't be read or written.
            LogClosedError: the log was closed.
        """
        path = os.fsdecode(path)
        if not path:
            raise ConfigError("the path of the snapshot is empty")
        with self._housekeeping, storage_errors("the snapshot failed"):
            from segstore.log.snapshot import take_snapshot

            view = self._view()
            if self._writer is not None:
                self._writer.check()
            return take_snapshot(view, path, self._log_id or b"", time.time_ns())

    def repair(self, *, dry_run: bool = False) -> RepairReport:
        """Make missing or damaged indexes anew, and take damaged bytes out of sealed segments.

        Damaged bytes are set aside in files of their own first. What can be read stays readable,
        and offsets that are lost stay lost.

        Args:
            dry_run: change nothing, and say what would be done.

        Raises:
            StorageError: a step failed; what could be read still can, and the next call goes on.
            SyncFailedError, ReadOnlyError, LogClosedError: as for `append`.
        """
        with self._housekeeping, storage_errors(f"{self.path}: the log can't be repaired"):
            writer = self._keeping_house()
            from segstore.log.repair import repair

            writer.check()
            if not dry_run:
                writer.seal_rolled()
            try:
                return repair(
                    self._disk,
                    writer.manager,
                    self._started.log_id,
                    writer.vouch,
                    index_interval_bytes=self._config.index_interval,
                    dry_run=dry_run,
                )
            finally:
                self._compressor.forget()

    def follow(
        self,
        start: Start = "end",
        *,
        timeout: float | None = None,
        errors: OnDamage = "raise",
        on_lost: OnLost = "raise",
    ) -> Follower:
        """Records from `start` on, as they come; works across processes.

        Args:
            start: "end", "start" or an offset.
            timeout: end when no record came for so many seconds; None waits for ever.
            errors: as for `read`.
            on_lost: "raise" an OffsetOutOfRangeError when retention overtakes the follower, or
                "continue" at the new log start offset and count what was lost.

        Raises:
            ConfigError: `errors` or `on_lost` is another word.
            OffsetOutOfRangeError: the offset is outside the log; or, while following, see above.
            CorruptionError: while following; set ``follower.position`` to its ``offsets.stop``.
            LogClosedError: the log was closed.
        """
        with storage_errors(f"{self.path} can't be followed"):
            from segstore.log.follow import Follower

        return Follower(self._reading(), self._bell, start, timeout, errors, on_lost)

    def consumer(self, name: str, start: Start = "start") -> Consumer:
        """The consumer of that name: a position in the log that survives its program.

        Works in both modes; the consumer's own file is the only one it writes.

        Args:
            name: 1 to 100 ASCII letters, digits, ".", "_" and "-", the first a letter or digit.
            start: where a new consumer begins: "start", "end" or an offset.

        Raises:
            ConsumerLockedError: somebody else holds the name.
            ValueError: `name` is not a valid one.
            OffsetOutOfRangeError: `start` is outside the log.
            StorageError: its file can't be made or read.
            LogClosedError: the log was closed.
        """
        from segstore.log.consumer import Consumer, resolve_start

        reader = self._reading()
        with (
            storage_errors(
                f"consumer {name!r} of {self.path} can't be opened",
                if_denied="a consumer writes to the directory of the log; who may only read keeps "
                "the next offset elsewhere, and starts read() or follow() there",
            ),
            HeldStart(self._disk, shared=True) as held,
            held,
        ):
            position = resolve_start(reader, start)
            return Consumer(self._disk, reader, self._bell, name, self._log_id or b"", position)

    def consumers(self) -> tuple[ConsumerInfo, ...]:
        """The registered consumers.

        Raises:
            LogClosedError: the log was closed.
        """
        from segstore.log.consumer import ConsumerInfo, lag, lost_count, registered

        view = self._view()
        end, start = view.end_offset(), view.start_offset()
        with storage_errors("the consumers can't be read"):
            return tuple(
                ConsumerInfo(
                    name,
                    committed,
                    lag(committed, start, end),
                    lost_count(counted, committed, start),
                )
                for name, (committed, counted) in sorted(registered(self._disk).items())
            )

    def remove_consumer(self, name: str) -> bool:
        """Forget a consumer, so that retention no longer waits for it; True if there was one.

        Works in both modes, also while another process writes: its next pass of retention finds
        the consumer gone.

        Raises:
            ConsumerLockedError: somebody holds it.
            ValueError: `name` is not a valid one.
            StorageError: its file can't be removed.
            LogClosedError: the log was closed.
        """
        self._reading()
        file_name = consumer_file(name)
        with storage_errors(
            f"consumer {name!r} of {self.path} can't be removed",
            if_denied="that takes the right to write to the directory of the log",
        ):
            try:
                return CheckpointFile.remove(self._disk, file_name)
            except LockHeldError:
                raise ConsumerLockedError(name) from None

    def find(
        self,
        key: AnyBuffer,
        start: SupportsIndex | None = None,
        stop: SupportsIndex | None = None,
        *,
        errors: OnDamage = "raise",
    ) -> Iterator[Record]:
        """The records with that key, in order; sealed segments without it are not read.

        Args:
            key: any buffer of bytes.
            start, stop, errors: as for `read`.

        Raises:
            OffsetOutOfRangeError, CorruptionError, LogClosedError: as for `read`.
            TypeError: `key` is no buffer.
        """
        with storage_errors(f"{self.path} can't be searched"):
            from segstore.log.finding import find_key

        reader = self._reading()
        return find_key(reader, as_bytes(key, "key"), reader.bounds(start, stop), errors)

    def offset_for_time(self, timestamp: SupportsIndex) -> int | None:
        """The first offset whose record has `timestamp` (ns since the epoch) or a later one.

        None if there is no such record. Damaged records are passed over.

        Raises:
            TypeError: `timestamp` is not an int.
            ValueError: it does not fit 64 bits.
            LogClosedError: the log was closed.
            StorageError: a file can't be read.
        """
        time_ns = checked_timestamp(timestamp)
        with storage_errors(f"{self.path} can't be read"):
            return self._reading().offset_for_time(time_ns)

    # Looking at the log itself

    def segments(self) -> tuple[SegmentInfo, ...]:
        """The segments, oldest first.

        Raises:
            LogClosedError: the log was closed.
            StorageError: the directory can't be read.
        """
        view = self._view()
        view.refresh()
        catalog = view.catalog
        infos = []
        for number, segment in enumerate(catalog.segments):
            stamp = segment.stamp
            times: tuple[int | None, int | None] = None, None
            # Of a segment in which nothing can be read both are as they were to begin with, and the
            # stamp of one that was opened again may not know the first.
            if stamp is not None and stamp.min_timestamp <= stamp.max_timestamp:
                first = None if stamp.min_timestamp == NO_MAX else stamp.min_timestamp
                times = first, stamp.max_timestamp
            end = catalog.end_offset(number)
            state: SegmentStatus
            if segment.is_sealed:
                state = "compressed" if segment.is_compressed else "sealed"
            else:
                state = "rolled" if number + 1 < len(catalog) else "active"
            size = segment.data_bytes
            if not segment.is_sealed:  # only these grow; not one look a segment, of thousands
                with storage_errors(f"the size of {segment.data_name} can't be read"):
                    found = self._disk.size_of(segment.data_name)
                size = size if found is None else found  # it went since the listing
            infos.append(
                SegmentInfo(
                    segment.base_offset,
                    view.end_offset() if end is None else end,
                    state,
                    size,
                    size if stamp is None else stamp.raw_bytes,
                    *times,
                    os.path.join(self.path, segment.data_name),
                )
            )
        return tuple(infos)

    def verify(self) -> VerifyReport:
        """Check every byte of every segment; nothing is changed.

        Raises:
            LogClosedError: the log was closed.
            StorageError: a file can't be read.
        """
        view = self._view()
        with storage_errors("the log can't be verified"):
            from segstore.log.verify import verify

            while True:
                epoch = view.epoch()
                report = verify(view, self._recovery if self._mode == "r" else RecoveryReport())
                view.refresh()  # which waits for a truncation under way here
                if view.epoch() == epoch:
                    return report

    def stats(self) -> Stats:
        """Counters and facts of this handle."""
        view = self._view()
        writer = self._writer
        maintenance = self._maintenance
        return Stats(
            start_offset=view.start_offset(),
            end_offset=view.end_offset(),
            durable_offset=view.durable_offset(),
            segment_count=len(view.catalog),
            size_bytes=sum(info.size_bytes for info in self.segments()),
            checksum=checksum.PROVIDER,
            kernel=kernel.PROVIDER,
            tail=view.tail is not None,
            syncs=0 if writer is None else writer.sync_count,
            rolls=0 if writer is None else writer.manager.roll_count,
            damaged_records=self._reader.damaged_record_count,
            background_error=None if maintenance is None else maintenance.error,
        )

    # Closing

    def close(self) -> None:
        """Sync everything and let go of the log; a second call does nothing.

        Waits for a `compress`, `sweep`, `trim`, `truncate`, `repair` or `snapshot` under way in
        another thread. After Ctrl-C in the middle, call it again.

        Raises:
            StorageError, SyncFailedError: the last sync failed. The log is closed all the same,
                and opening it again goes on from what reached the disk.
        """
        if self._is_let_go:
            return
        self._is_closed = True
        self._reader.refusal = LogClosedError()
        for name in ("append", "append_many"):
            vars(self).pop(name, None)
        if self._maintenance is not None:
            self._maintenance.stop()
        with self._housekeeping:
            self._let_go()

    def _let_go(self) -> None:
        try:
            if self._writer is not None:
                try:
                    # The drain may roll, for which the first seal may give descriptors back.
                    for step in (
                        self._writer.seal_rolled,
                        self._writer.drain,
                        self._writer.seal_rolled,
                    ):
                        with suppress(SegstoreError):  # `close` below says what is wrong
                            step()
                    self._writer.close()
                finally:
                    # Whatever came between (a MemoryError, Ctrl-C): nothing may be appended
                    # without the lock. A second call does nothing.
                    self._writer.close()
        finally:
            if self._lock_file is not None:
                leave_lock(self._lock_file)
            if self._writer is not None:
                self._started.start.close()
            self._reader.close()
            self._bell.close()
            self._disk.close()
            self._is_let_go = True

    def __enter__(self) -> Self:
        if self._is_closed:
            raise LogClosedError()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            held = in_words(self.start_offset, self.end_offset)
        except SegstoreError as error:  # closed, for one
            held = str(error)
        return f"<segstore.Log {self.path!r}, {held}>"

    def _compress_in_bites(
        self, keep: Callable[[Callable[[], Any]], Any], between_bites: Callable[[], None]
    ) -> None:
        """One segment at a time, so that no sync, seal or sweep is far behind its time.

        Under a fast writer there is always one more to compress, and the log would outgrow its
        retention meanwhile.
        """
        writer = self._appending()
        while not self._is_closed and keep(
            lambda: self._compress(limit=1, between_chunks=between_bites)
        ):
            writer.tick()
            writer.seal_rolled(between_bites)
            if self._sweeper.has_work:
                keep(self.sweep)

    def _compress(
        self,
        progress: Progress | None = None,
        limit: int | None = None,
        between_chunks: Callable[[], None] = nothing,
    ) -> int:
        codec = self._config.compression or "lz4"
        with self._housekeeping, storage_errors(f"{self.path}: a segment can't be compressed"):
            writer = self._keeping_house()
            writer.check()
            try:
                return self._compressor.run(codec, progress, limit, between_chunks)
            finally:
                self._reader.forget_removed()

    def _wake_maintenance(self) -> None:
        if self._maintenance is not None:
            self._maintenance.wake()

    def _sweep(self, *, dry_run: bool = False, as_if_rolled: bool = False) -> SweepReport:
        try:
            return self._sweeper.sweep(dry_run=dry_run, as_if_rolled=as_if_rolled)
        finally:
            self._reader.forget_removed()

    def _cut_back(self, end_offset: int) -> None:
        writer = self._started.writer
        if writer.end_offset <= end_offset:
            return
        interval = self._config.index_interval
        try:
            truncate(self._disk, self._started, end_offset, time.time_ns(), interval)
        finally:
            # Behind the commit point nothing here is what the log is to become.
            self._reader.refusal = writer.failure

    def _keeping_house(self) -> LogWriter:
        """The writer, for whoever holds `_housekeeping`, which they do themselves.

        Not in a generator: whoever keeps the error of an interrupt in one would keep the lock.
        """
        writer = self._appending()
        writer.check_place()
        return writer

    def _appending(self) -> LogWriter:
        if self._writer is None:
            raise ReadOnlyError(
                "the log was opened with mode='r'; open it with mode='a' to change it"
            )
        if self._is_closed:
            raise LogClosedError()
        self._writer.check_owner()
        return self._writer

    def _reading(self) -> LogReader:
        self._reader.check_open()
        return self._reader

    def _view(self) -> LogView:
        return self._reading().view

    def _abandon(self) -> None:
        """In the child of a fork: never write."""
        self._reader.start_over()
        self._housekeeping = new_recursive_mutex()
        if self._writer is not None:
            self._writer.abandon()
            self._maintenance = None
            # What it knows of the log is the parent's, and no longer true once that goes on.
            self._reader.refusal = self._writer.failure


_OPEN_LOGS: weakref.WeakSet[Log] = weakref.WeakSet()


def _committed_offsets(disk: Disk) -> dict[str, int]:
    from segstore.log.consumer import registered

    return {name: found[0] for name, found in registered(disk).items()}


def _interval(config: LogConfig) -> float:
    wanted = min(config.sync_interval, config.segment_age)
    return min(max(wanted, MAINTENANCE_INTERVAL_S_MIN), MAINTENANCE_INTERVAL_S_MAX)


def close_all() -> None:
    """Close every log that is written to, at the interpreter's exit."""
    for log in list(_OPEN_LOGS):
        if log.mode == "a":  # a reader has nothing to bring to the device
            with suppress(Exception):  # at exit there is nobody left to tell
                log.close()


def _abandon_all() -> None:
    for log in list(_OPEN_LOGS):
        log._abandon()


os.register_at_fork(after_in_child=_abandon_all)
