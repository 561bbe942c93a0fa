"""Consumers: named positions in a log that survive the programs that read it."""

import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Literal, NamedTuple, Self, SupportsIndex

from segstore.disk import Disk, Handle, LockHeldError
from segstore.errors import (
    ConsumerLockedError,
    CorruptionError,
    LogClosedError,
    OffsetOutOfRangeError,
    storage_errors,
)
from segstore.format.batch import Record
from segstore.format.buffers import as_int, as_offset
from segstore.format.fileheader import KIND_CONSUMER, FileHeader
from segstore.format.names import consumer_file, parse_consumer_file
from segstore.log.arguments import checked_timeout, checked_timestamp
from segstore.log.reading import LogReader, OnDamage, check_errors
from segstore.log.startoffset import HeldStart
from segstore.segment.checkpointfile import CheckpointFile, look_into, may_exceed
from segstore.segment.doorbell import Doorbell


class ConsumerInfo(NamedTuple):
    """A registered consumer.

    Attributes:
        name: its name.
        committed: its committed offset: the first it has not processed.
        lag: how many records are behind its committed offset, up to the log end offset.
        lost_count: how many records retention took before it had committed them, in all. Which of
            them it had read is known to it alone.
    """

    name: str
    committed: int
    lag: int
    lost_count: int


def lag(committed: int, start_offset: int, end_offset: int) -> int:
    """How many of the records that there are a consumer has not committed."""
    return max(0, end_offset - max(committed, start_offset))


def lost_count(counted: int, done: int, start_offset: int) -> int:
    """How many records a consumer that was done with those below `done` has lost.

    They are those that it counted as it went on, and those that retention took since.
    """
    return counted + max(0, start_offset - done)


class Consumer(Handle):
    """A named reader that remembers how far it got. `Log.consumer` makes one.

    Read with `poll` or by iterating, process, then `commit`: what was not committed comes again
    after a crash. One program at a time holds a name; any number of consumers read one log, from
    any number of processes. A consumer is for one thread.
    """

    def __init__(
        self,
        disk: Disk,
        reader: LogReader,
        bell: Doorbell,
        name: str,
        log_id: bytes,
        start: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Take the name, registering it at `start` if it is new.

        Raises:
            ConsumerLockedError: another program holds the name.
            ValueError: it is not a valid name.
            CorruptionError: its file is damaged.
            OSError: its file can't be made or read.
        """
        self.name = name
        self._disk = disk
        self._reader = reader
        self._bell = bell
        self._clock = clock
        self._is_closed = self._is_abandoned = False
        file_name = consumer_file(name)
        header = FileHeader(KIND_CONSUMER, 0, log_id, clock())
        try:
            file = CheckpointFile.take(disk, file_name, header, start)
        except LockHeldError:
            raise ConsumerLockedError(name) from None
        if file is None:
            raise CorruptionError(
                f"{disk.path}/{file_name}",
                0,
                range(0),
                "no committed offset can be read from it; remove_consumer() and register the "
                "consumer again at the offset it had reached",
            )
        self._file = file
        try:
            self._epoch = reader.view.epoch()
            end_offset = reader.view.end_offset()
            # What was committed may be gone where no writer has come by since a power cut, and the
            # next one moves it back.
            self._is_doubtful = self.committed > end_offset
            self._position = min(self.committed, end_offset)
            _OPEN_CONSUMERS.add(self)
        except BaseException:  # which else would hold the name for as long as somebody has it
            file.close()
            raise

    @property
    def committed(self) -> int:
        """The committed offset: the first that is not processed."""
        return self._file.current.value

    @property
    def position(self) -> int:
        """The offset of the next record that `poll` or iterating gives."""
        return self._position

    @property
    def lag(self) -> int:
        """How many records are behind the committed offset, up to the log end offset.

        What `poll` has yet to give is ``log.end_offset - consumer.position``.
        """
        view = self._reader.view
        return lag(self.committed, view.start_offset(), view.end_offset())

    @property
    def lost_count(self) -> int:
        """How many records retention took before this consumer had read them, in all."""
        return self._lost_count(self._reader.view.start_offset())

    def poll(
        self,
        max_records: SupportsIndex = 500,
        timeout: float | None = 0.0,
        *,
        errors: OnDamage = "raise",
    ) -> list[Record]:
        """The next records, at most `max_records`; empty if none came within `timeout` seconds.

        Returns as soon as there is one; `timeout` None waits for ever. Records that retention has
        taken are passed over and counted in `lost_count`.

        Args:
            max_records: 1 or more.
            timeout: in seconds.
            errors: "raise" a CorruptionError at damage, or "skip" the records it took, which the
                log's `stats` count. The position is then behind them, and so is what `commit`
                stores: they count as processed.

        Raises:
            ConfigError: `errors` is another word.
            CorruptionError: damage; `seek` to its ``offsets.stop`` to go on behind it.
            LogClosedError: the consumer was closed.
        """
        self._check_open()
        max_records = as_int(max_records, "max_records is an int")
        if max_records < 1:
            raise ValueError("max_records is at least 1")
        check_errors(errors)
        timeout = checked_timeout(timeout)
        taken: list[Record] = []
        while self._bell.wait(self._has_more, timeout):
            try:
                offsets = self._offsets(max_records)
                taken += self._reader.records(offsets, errors)
                end = offsets.stop  # which may be behind damage that was skipped
            except OffsetOutOfRangeError:
                if not taken:
                    continue  # retention or a truncation was faster
                end = taken[-1].offset + 1
            except CorruptionError:  # the records before it first; the next poll meets it
                if not taken:
                    raise
                end = taken[-1].offset + 1
            # Only now: what an error or Ctrl-C kept from being returned has to come again.
            self._position = end
            if taken:
                break
        return taken

    def __iter__(self) -> Iterator[Record]:
        """The records from the position to the log end offset as it is now; no waiting."""
        self._check_open()
        return self._take()

    def commit(self, offset: SupportsIndex | None = None) -> None:
        """Store durably that everything below `offset` (by default the position) is processed.

        An offset below the log start offset is taken as well: what stood between the two is lost to
        whoever goes on from there (and in `Log.consumers`), until a later commit.

        Raises:
            OffsetOutOfRangeError: `offset` is above the log end offset or negative, or the log was
                truncated since the last `poll`, and `offset` is above the position as it is now.
            StorageError: it can't be stored; the last commit counts.
            LogClosedError: the consumer was closed.
        """
        known = self._epoch
        self._check_open()
        if offset is not None:
            offset = as_offset(offset)
        value = self._position if offset is None else offset
        if value == self.committed and self._file.is_settled and not self._is_doubtful:
            return
        view = self._reader.view
        what = f"consumer {self.name!r} can't commit"
        with storage_errors(what), HeldStart(self._disk, shared=True) as held, held:
            self._catch_up()
            value = self._position if offset is None else offset  # a truncation may have come
            start = view.start_offset()
            if self._epoch != known != b"" and value > self._position:
                what = f"what a truncation left of what consumer {self.name!r} has read"
                raise OffsetOutOfRangeError(value, start, self._position, what)
            if not 0 <= value <= max(view.end_offset(), self._position):
                raise OffsetOutOfRangeError(value, start, view.end_offset())
            self._move(value, self._file.current.lost_count)

    def seek(
        self, offset: SupportsIndex | None = None, *, timestamp: SupportsIndex | None = None
    ) -> int:
        """Go to an offset, or to the first record at or after a time; the position reached.

        A time after every record goes to the log end offset. Nothing is committed.

        Raises:
            OffsetOutOfRangeError: the offset is outside the log.
            TypeError: not exactly one of the two was given, or it is not an int.
            StorageError: a file can't be read.
            LogClosedError: the consumer was closed.
        """
        self._check_open()
        if (offset is None) == (timestamp is None):
            raise TypeError("seek takes an offset or a timestamp")
        view = self._reader.view
        if timestamp is not None:
            with storage_errors(f"consumer {self.name!r} can't look for a time"):
                found = self._reader.offset_for_time(checked_timestamp(timestamp))
            # Retention may have passed it by now.
            offset = view.end_offset() if found is None else max(found, view.start_offset())
        self._position = self._reader.bounds(offset, None).start
        return self._position

    def close(self) -> None:
        """Let go of the name, without a commit; a second call does nothing.

        After Ctrl-C in the middle, call it again.
        """
        self._is_closed = True
        self._file.close()

    def __enter__(self) -> Self:
        self._check_not_closed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<segstore.Consumer {self.name!r} at {self._position}>"

    def _take(self) -> Iterator[Record]:
        while True:
            try:
                for record in self._reader.records(self._offsets(None), "raise"):
                    self._position = following = record.offset + 1
                    yield record
                    if self._position != following:  # by a commit that found the log truncated
                        break
                else:
                    return
            except OffsetOutOfRangeError:
                if self._position >= self._reader.view.start_offset():
                    raise

    def _offsets(self, max_records: int | None) -> range:
        """What to read next, from the position on, which moves only if retention is ahead."""
        start = self._reader.view.start_offset()
        if self._position < start:
            what = f"consumer {self.name!r} can't go on at offset {start}"
            with storage_errors(what), HeldStart(self._disk, shared=True) as held, held:
                self._catch_up()
                # Ctrl-C between the two counts nothing twice: it is done with what it committed.
                self._move(max(self.committed, start), self._lost_count(start))
                self._position = start
        stop = None if max_records is None else self._position + max_records
        return self._reader.bounds(self._position, stop)

    def _lost_count(self, start_offset: int) -> int:
        """Of what it had read or committed nothing is lost, also where it went back."""
        counted = self._file.current.lost_count
        return lost_count(counted, max(self._position, self.committed), start_offset)

    def _catch_up(self) -> None:
        """Where it was moved back, know of it; whoever calls is in `HeldStart`."""
        self._check_open()
        if self._is_doubtful:
            self._reload()
            self._is_doubtful = False

    def _reload(self) -> None:
        with storage_errors(f"consumer {self.name!r} can't be read"):
            self._file.reload()

    def _move(self, value: int, lost_count: int) -> None:
        with storage_errors(f"consumer {self.name!r} can't store offset {value}"):
            self._file.move(value, self._clock(), lost_count=lost_count)

    def _has_more(self) -> bool:
        self._check_open()
        return self._reader.view.live_end_offset() > self._position

    def _abandon(self) -> None:
        """In the child of a fork: the name stays with the parent."""
        self._is_abandoned = not self._is_closed
        self.close()

    def _check_not_closed(self) -> None:
        if self._is_abandoned:
            raise LogClosedError(
                f"consumer {self.name!r} belongs to the parent of this process; take another name "
                "here, of a log that is opened here"
            )
        if self._is_closed:
            raise LogClosedError(f"consumer {self.name!r} was closed")

    def _check_open(self) -> None:
        self._reader.check_open()
        self._check_not_closed()
        view = self._reader.view
        epoch = view.epoch()
        if epoch != self._epoch:  # offsets are given out again, or there was no tail before
            self._reload()
            committed = self._position if self._epoch == b"" else self.committed
            self._position = min(self._position, committed, view.end_offset())
            self._epoch = epoch
            self._is_doubtful = True  # who truncates may move the committed offset only now


_OPEN_CONSUMERS: weakref.WeakSet[Consumer] = weakref.WeakSet()


def _abandon_all() -> None:
    for consumer in list(_OPEN_CONSUMERS):
        consumer._abandon()


os.register_at_fork(after_in_child=_abandon_all)


def registered(disk: Disk) -> Mapping[str, tuple[int, int]]:
    """Every registered consumer: its committed offset and its count of lost records."""
    found = {}
    for file_name in disk.names():
        name = parse_consumer_file(file_name)
        if name is None:
            continue
        try:
            current, is_finished = look_into(disk, file_name, KIND_CONSUMER)
        except FileNotFoundError:  # removed since the listing
            continue
        if current is not None:
            found[name] = current.value, current.lost_count
        elif is_finished:  # and damaged: nobody knows what it still needs, so everything
            found[name] = 0, 0
    return found


def hold_back(disk: Disk, end_offset: int, now: int) -> None:
    """Move consumers back that had committed what a power cut or a truncation took from the log.

    Its offsets are given out again, and the records that get them have not been processed.

    Raises:
        OSError: a committed offset can't be stored.
    """
    for name in disk.names():
        if parse_consumer_file(name) is None:
            continue
        with suppress(FileNotFoundError):  # removed meanwhile
            if may_exceed(disk, name, KIND_CONSUMER, end_offset):
                file = CheckpointFile.open(disk, name, KIND_CONSUMER, write=True)
                if file is not None:
                    # Who wrote it last, to move it back even, may have been killed before the sync.
                    file.prove()
                    if file.current.value > end_offset:
                        file.move(end_offset, now)
                    file.close()


Start = Literal["start", "end"] | SupportsIndex


def resolve_start(reader: LogReader, start: Start) -> int:
    """The offset that "start", "end" or an offset names.

    Raises:
        OffsetOutOfRangeError: the offset is outside the log.
        ValueError: another word.
    """
    if start == "start":
        return reader.view.start_offset()
    if start == "end":
        return reader.view.end_offset()
    if isinstance(start, str):
        raise ValueError(f"start is 'start', 'end' or an offset, not {start!r}")
    return reader.bounds(start, None).start
