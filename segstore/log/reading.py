"""Reading a log: by offset, in order, by time. One code for the writer's process and all others.

The catalog gives the segment, the segment's index the place, the scanner the frames; what is not
in a segment yet is in the tail. A file that is gone was swapped for its compressed form or
deleted, and the catalog is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, SupportsIndex, TypeVar

from segstore.errors import (
    ConfigError,
    CorruptionError,
    LogClosedError,
    OffsetOutOfRangeError,
    SegstoreError,
    StorageError,
    once_more,
    storage_error,
)
from segstore.format.batch import Record, RecordBatch, records_of, values_of
from segstore.format.buffers import as_offset
from segstore.format.scanner import Damage, Frame
from segstore.log.opensegments import OpenSegments
from segstore.log.view import LogView
from segstore.segment.catalog import Catalog, Segment
from segstore.segment.headcache import HeadCache
from segstore.segment.reader import SegmentReader
from segstore.segment.tailreader import Staged

OnDamage = Literal["raise", "skip"]

# How often an offset is looked for while the files around it keep changing.
ATTEMPTS_MAX = 20

# A point read as near as this to the last one is followed by more of that kind, more often than
# not: so all of the batch is read, for them as well.
NEAR_RECORDS = 8

_T = TypeVar("_T")


class LogReader:
    """Reads a log through a view. Every method may be called from any number of threads.

    Attributes:
        damaged_record_count: how many records reads had to skip or refuse.
        refusal: why nothing can be read any more (the log was closed, for one), or None.
    """

    def __init__(self, view: LogView) -> None:
        self.view = view
        self.damaged_record_count = 0
        self.refusal: SegstoreError | None = None
        # Of what is known, and not as of now: a truncation may have come since the opening.
        self._epoch = view.known_epoch()
        # The batch of which a part was asked for last, and the epoch it was read in.
        self._last: tuple[bytes | int, RecordBatch | None] = b"", None
        # The offset of the last one that the batch kept did not have.
        self._last_offset = -NEAR_RECORDS - 1
        self._keep_nothing()

    def _keep_nothing(self) -> None:
        self._segments = OpenSegments(self.view.open_segment, self.view.open_files_max)
        self._heads = HeadCache()

    def start_over(self) -> None:
        """Begin anew in the child of a fork, where nobody lets go of a lock that was held."""
        self._keep_nothing()
        self.view.start_over()

    def close(self) -> None:
        """Let go of every file; what still reads ends with LogClosedError."""
        self.refusal = LogClosedError()
        self._segments.close()
        self.view.close()

    def check_open(self) -> None:
        """Refuse to go on once nothing can be read any more.

        Raises:
            SegstoreError: the reason; LogClosedError once the log was closed.
        """
        if self.refusal is not None:
            raise once_more(self.refusal)

    def bounds(self, start: SupportsIndex | None, stop: SupportsIndex | None) -> range:
        """The offsets to read: `start` checked, `stop` no further than the end.

        Raises:
            OffsetOutOfRangeError: `start` is outside the log, or `stop` is negative.
            TypeError: one of them is not an int.
        """
        first, end = self.view.start_offset(), self.view.end_offset()
        start = first if start is None else as_offset(start)
        stop = end if stop is None else as_offset(stop)
        if not first <= start <= end:
            raise OffsetOutOfRangeError(start, first, end)
        if stop < 0:
            raise OffsetOutOfRangeError(stop, first, end)
        return range(start, max(start, min(stop, end)))

    def records(self, offsets: range, errors: OnDamage) -> Iterator[Record]:
        """The records of a checked range."""
        parts = self._parts(offsets, errors)
        return chain.from_iterable(self._converted(parts, errors, records_of, Staged.records))

    def values(self, offsets: range, errors: OnDamage) -> Iterator[bytes]:
        """The values of a checked range."""
        parts = self._parts(offsets, errors)
        return chain.from_iterable(self._converted(parts, errors, values_of, attrgetter("values")))

    def _converted(
        self,
        parts: Iterator[RecordBatch | Staged],
        errors: OnDamage,
        convert: Callable[[RecordBatch], Iterable[_T]],
        convert_staged: Callable[[Staged], Iterable[_T]],
    ) -> Iterator[Iterable[_T]]:
        for part in parts:
            if isinstance(part, Staged):
                yield convert_staged(part)
                continue
            try:
                items = convert(part)
            except ValueError:
                items = self.convert(part, convert, errors, [])
            yield items

    def batches(self, offsets: range, errors: OnDamage) -> Iterator[RecordBatch]:
        """The batches of a checked range, the first and the last cut to it.

        Raises:
            CorruptionError: a record of the range can't be read, and `errors` is "raise".
            OffsetOutOfRangeError: retention or a truncation overtook the reading.
            StorageError: a file can't be read.
        """
        return map(_as_batch, self._parts(offsets, errors))

    def record(self, offset: int) -> Record:
        """The record at an offset.

        Raises:
            OffsetOutOfRangeError: it is outside the log.
            CorruptionError: it is damaged.
            StorageError: its file can't be read.
        """
        # With the epoch as it was before the rest, so that a batch which another thread read before
        # offsets were given out again can't answer for the new ones.
        epoch, first, written_end, catalog = self.view.glance()
        if self.refusal is not None:
            raise once_more(self.refusal)
        if not first <= offset < written_end:
            end = self.view.end_offset()
            if not first <= offset < end:
                raise OffsetOutOfRangeError(offset, first, end)
        if epoch != self._epoch:
            epoch, catalog = self._look()
        last_epoch, batch = self._last
        if (
            batch is None
            or last_epoch != epoch
            or not batch.base_offset <= offset < batch.end_offset
        ):
            try:
                found = self._find_record(offset, catalog, written_end)
            except OSError as error:
                raise self._failed(error) from error
            if isinstance(found, Record):
                return found
            batch = found or next(self.batches(range(offset, offset + 1), "raise"))
            self._last = epoch, batch
        try:
            return batch.record(offset)
        except ValueError:
            return self.convert(batch, lambda found: found.record(offset), "raise", None)

    def offset_for_time(self, timestamp: int) -> int | None:
        """The first offset whose record has that timestamp or a later one, or None.

        Raises:
            OSError: a file can't be read.
        """
        while True:
            epoch = self.view.epoch()
            with suppress(OffsetOutOfRangeError):  # retention or a truncation was faster
                found = self._offset_for_time(timestamp)
                if self.view.epoch() == epoch:  # else it may be of the log as it never was
                    return found

    def _offset_for_time(self, timestamp: int) -> int | None:
        offset, end = self.view.start_offset(), self.view.end_offset()
        while offset < end:
            segment, stop = self.segment_at(offset, end)
            stamp = None if segment is None else segment.stamp
            if stamp is None or stamp.max_timestamp >= timestamp:
                reader = None if segment is None else self._open(segment)
                if reader is not None:  # else it was swapped or is gone: what there is now is read
                    offset = max(offset, reader.offset_before_time(timestamp))
                found = self._first_at(range(offset, stop), timestamp)
                if found is not None:
                    return found
            offset = stop
        return None

    def _first_at(self, offsets: range, timestamp: int) -> int | None:
        for batch in self.batches(offsets, "skip"):
            if batch.header.max_timestamp < timestamp:
                continue
            for offset, time in enumerate(batch.timestamps, batch.base_offset):
                if time >= timestamp:
                    return offset
        return None

    def _parts(self, offsets: range, errors: OnDamage) -> Iterator[RecordBatch | Staged]:
        """The records of a checked range, a frame or what is in the tail at a time."""
        check_errors(errors)
        return self._find_or_fail(offsets, errors)

    def _find_or_fail(self, offsets: range, errors: OnDamage) -> Iterator[RecordBatch | Staged]:
        try:
            yield from self._find_parts(offsets, errors)
        except SegstoreError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StorageError:
        return storage_error(error, f"{self.view.disk.path} can't be read")

    def _find_parts(self, offsets: range, errors: OnDamage) -> Iterator[RecordBatch | Staged]:
        offset, stop = offsets.start, offsets.stop
        attempt = 0
        while offset < stop:
            self.check_open()
            before = offset
            missing: Damage | None = None
            epoch, catalog = self._look()
            kept = self._kept(epoch, offset)
            if kept is not None:
                part = kept.slice(offset, stop)
                yield part
                offset, attempt = part.end_offset, 0
                continue
            number = catalog.find(offset)
            if number >= 0:
                segment = catalog.segments[number]
                segment_end = catalog.end_offset(number)
                limit = self.view.written_end() if segment_end is None else segment_end
                for found in self._segment_events(segment, offset, stop, limit):
                    if isinstance(found, Damage):
                        missing = found
                        break
                    if found.end_offset > stop:  # the rest for whoever reads a little at a time
                        self._last = epoch, found
                        found = found.slice(offset, stop)
                    yield found
                    offset = found.end_offset
                    if self.view.epoch() != epoch:  # these files are no longer the log
                        break
            tail = self.view.tail if missing is None else None
            while tail is not None and offset < stop:
                staged = tail.get(offset, stop)
                if staged is None:
                    break
                yield staged
                offset = staged.end_offset
            if offset > before:
                attempt = 0
                continue
            # A roll, a swap, retention or a drain may have moved it while it was looked for, and a
            # listing made in the middle of a swap can show the file that is about to go. Lost is
            # what can't be found although nothing has changed since the look before.
            looked_at = epoch, catalog.segments[number] if number >= 0 else None
            attempt += 1
            self._refresh()
            self._check_inside(offset)
            if attempt == 1 or (attempt < ATTEMPTS_MAX and self._look_for(offset) != looked_at):
                continue
            lost = self._lost(offset, stop, missing)
            if errors == "skip":  # and counts: what is behind the stop was not asked for
                lost = range(offset, min(lost.stop, stop))
            offset = self._report(lost, missing, errors)
            attempt = 0

    def _look_for(self, offset: int) -> tuple[bytes | int, Segment | None]:
        epoch, catalog = self._look()
        number = catalog.find(offset)
        return epoch, catalog.segments[number] if number >= 0 else None

    def _kept(self, epoch: bytes | int, offset: int) -> RecordBatch | None:
        """The batch of which a part was asked for last, if it has `offset`.

        `record` asks the same in place, where a call would be a fiftieth of all it does.
        """
        last_epoch, batch = self._last
        if (
            batch is not None
            and last_epoch == epoch
            and batch.base_offset <= offset < batch.end_offset
        ):
            return batch
        return None

    def _segment_events(
        self, segment: Segment, offset: int, stop: int, limit: int
    ) -> Iterator[RecordBatch | Damage]:
        """Batches of one segment, or the damage that comes first.

        From `offset` to the one that reaches `stop`, and nothing beyond the `limit` of what stands
        in the segment.
        """
        stop = min(stop, limit)
        if offset >= stop:
            return
        reader = self._open(segment)
        if reader is None:
            return
        for event in reader.events(offset, stop):
            for part in (event.batch,) if isinstance(event, Frame) else event.parts or (event,):
                end_offset = part.end_offset
                if end_offset is not None and end_offset <= offset:
                    continue
                if isinstance(part, Damage):
                    yield part
                    return
                if part.base_offset < offset or part.end_offset > stop:
                    part = part.slice(offset, limit)
                yield part
                offset = part.end_offset
                if offset >= stop:
                    return

    def _lost(self, offset: int, stop: int, missing: Damage | None) -> range:
        """Which offsets from `offset` on can't be read."""
        _, end = self.segment_at(offset, max(stop, self.view.end_offset()))
        staged = range(0) if self.view.tail is None else self.view.tail.offsets()
        if offset < staged.start < end:
            end = staged.start
        if missing is not None and missing.end_offset is not None:
            end = min(end, missing.end_offset)
        return range(offset, end)

    def _report(self, lost: range, missing: Damage | None, errors: OnDamage) -> int:
        """Count the loss, and raise or go on behind it."""
        self.damaged_record_count += len(lost)
        if errors == "skip":
            return lost.stop
        segment, _ = self.segment_at(lost.start, lost.stop)
        path = self.view.disk.path
        if segment is not None:
            path = f"{path}/{segment.data_name}"
        reason = "no file holds these offsets" if missing is None else missing.reason
        position = 0 if missing is None else missing.position
        raise CorruptionError(path, position, lost, reason)

    def _check_inside(self, offset: int) -> None:
        """Whether retention or a truncation has overtaken the reading."""
        start, end = self.view.start_offset(), self.view.end_offset()
        if not start <= offset < end:
            raise OffsetOutOfRangeError(offset, start, end)

    def convert(
        self, batch: RecordBatch, convert: Callable[[RecordBatch], _T], errors: OnDamage, empty: Any
    ) -> _T:
        """Columns to Python objects; columns that are not well formed are damage too."""
        try:
            return convert(batch)
        except ValueError as error:
            lost = range(batch.base_offset, batch.end_offset)
            self._report(lost, Damage(0, 0, lost.start, lost.stop, str(error)), errors)
            return empty  # type: ignore[no-any-return]

    def _find_record(
        self, offset: int, catalog: Catalog, written_end: int
    ) -> Record | RecordBatch | None:
        """The record of one offset, or the batch that has it; None where it takes a longer look."""
        number = catalog.find(offset)
        if number < 0 or offset >= written_end:
            tail = self.view.tail
            return None if tail is None else tail.record(offset)
        segment = catalog.segments[number]
        reader = self._segments.get(segment)
        if reader is None:
            return None
        is_near = abs(offset - self._last_offset) <= NEAR_RECORDS
        self._last_offset = offset
        found: Record | RecordBatch | None = reader.batch(offset) if is_near else None
        found = found or reader.record(offset, self._heads) or reader.batch(offset)
        if isinstance(found, RecordBatch):
            # In files copied one by one beside a truncation it may reach into the next segment.
            end = catalog.end_offset(number)
            found = found.slice(found.base_offset, written_end if end is None else end)
        return found

    def forget_removed(self) -> None:
        """Let go of files that were swapped or deleted: an open one still takes up space."""
        self._segments.keep(self.view.catalog)

    def _refresh(self) -> None:
        self.view.refresh()
        self.forget_removed()

    def catalog(self) -> Catalog:
        """The segments as known now; nothing of what was known before offsets were given anew."""
        return self._look()[1]

    def _look(self) -> tuple[bytes | int, Catalog]:
        """The epoch, and the segments as known then or later."""
        view = self.view
        epoch = view.epoch()
        if epoch != self._epoch:
            self._segments.clear()
            view.refresh()
            # Last: were it known before, other threads would take the catalog of before for that
            # of now, and so would this one if the look failed.
            self._epoch = epoch
        return epoch, view.catalog

    def segment_at(self, offset: int, stop: int) -> tuple[Segment | None, int]:
        """The segment that tells of the offsets from `offset` on, and up to where, if not `stop`.

        None where they are in no segment that is known: but in the tail, not listed yet, or lost.
        """
        catalog = self.catalog()
        number = catalog.find(offset)
        if number + 1 < len(catalog):
            stop = min(stop, catalog.segments[number + 1].base_offset)
        if number < 0:
            return None, stop
        segment = catalog.segments[number]
        if segment.stamp is None:
            return segment, stop
        # And not up to the next one: what stood between them may be missing.
        end_offset = segment.stamp.end_offset
        return (segment, min(stop, end_offset)) if offset < end_offset else (None, stop)

    def may_have_key(self, segment: Segment, key: bytes) -> bool:
        """Whether a segment may hold the key, by its filter; without one it may."""
        self.check_open()
        stamp = segment.stamp
        if stamp is None:
            return True
        if not stamp.filter_bytes:  # sealed, and no record had a key
            return False
        with suppress(OSError):
            key_filter = self._segments.look(segment).key_filter
            return key_filter is None or key in key_filter
        return True

    def _open(self, segment: Segment) -> SegmentReader | None:
        """The reader of a segment; None if its file is gone."""
        self.check_open()
        return self._segments.get(segment)


def _as_batch(part: RecordBatch | Staged) -> RecordBatch:
    return part.batch() if isinstance(part, Staged) else part


def check_errors(errors: OnDamage) -> None:
    """Refuse what is no way to meet damage.

    Raises:
        ConfigError: it is none.
    """
    if errors not in ("raise", "skip"):
        raise ConfigError(f"errors is 'raise' or 'skip', not {errors!r}")
