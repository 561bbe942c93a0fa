"""The model of a log that several threads write to: who sent what, and which offset it got."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from segstore.config import LogConfig
from segstore.disk import Disk
from segstore.errors import CorruptionError, LogNotFoundError, SegstoreError
from segstore.format.batch import Record
from segstore.log.log import Log
from tests.torture.campaign import BrokenError
from tests.torture.expected import NOTHING, Committed, Expected, Sent, check_consumers, compare
from tests.torture.moments import Moments

INFINITE = float("inf")


class Batch:
    """The records of one append.

    Attributes:
        limit: from this offset on a truncation may have taken it, or have come before it.
    """

    def __init__(self, records: list[Sent], limit: float) -> None:
        self.records = records
        self.limit = limit


class Ledger:
    """What was sent and what became of it; every value is another.

    Attributes:
        known: by offset, the records whose append returned, or that a reopening found.
        written, durable, start: as of `Expected`.
        start_max: how far the log start offset may have been moved; None for any offset.
        trimmed: the highest offset that the log was trimmed to, or was to be.
        truncation: the end offset of one that is under way.
        truncation_ends: those of all there were, with that.
        moments: when each record was there.
    """

    def __init__(self) -> None:
        self.known: dict[int, Sent] = {}
        self.written = 0
        self.durable = 0
        self.start = 0
        self.start_max: int | None = 0
        self.trimmed = 0
        self.truncation: int | None = None
        self.truncation_ends: list[int] = []
        self.moments = Moments()
        # By value: the records that may be there, and the batch and the place in it of each.
        self._sent: dict[bytes, tuple[Batch, int]] = {}
        self._truncated: dict[bytes, Sent] = {}

    def send(self, records: list[Sent]) -> Batch:
        """An append is about to be called."""
        batch = Batch(records, INFINITE if self.truncation is None else self.truncation)
        for place, sent in enumerate(records):
            self._sent[sent.value] = (batch, place)
        self.moments.sent(records)
        return batch

    def acknowledge(self, batch: Batch, base_offset: int, *, durable: bool) -> None:
        """It returned.

        Raises:
            BrokenError: an offset was given out twice.
        """
        self.moments.acknowledged(batch.records, base_offset, batch.limit)
        for offset, sent in enumerate(batch.records, base_offset):
            if offset >= batch.limit:
                continue
            if offset in self.known:
                raise BrokenError(f"I4: offset {offset} is given to a second record")
            self.known[offset] = sent
            del self._sent[sent.value]
        end = base_offset + len(batch.records)
        self.reached(int(min(end, batch.limit)), durable=durable)

    def reached(self, end_offset: int, *, durable: bool) -> None:
        """All records below are acknowledged."""
        self.written = max(self.written, end_offset)
        if durable:
            self.durable = max(self.durable, end_offset)

    def check(self, records: Iterable[Record], start: int | None = None) -> int:
        """I2, I4: records that a handle reads, in a row from `start` on; how many."""
        count = 0
        for record in records:
            if start is not None and record.offset != start + count:
                raise BrokenError(f"I4: offset {record.offset}, not {start + count}")
            compare(record, self._gone(record) or self._sent_as(record))
            count += 1
        return count

    def _gone(self, record: Record) -> Sent | None:
        """What a truncation took or may have taken, if it is that: since the read began."""
        batch, place = self._sent.get(record.value, (None, 0))
        if batch is not None and record.offset >= batch.limit:
            return batch.records[place]
        return self._truncated.get(record.value)

    def resolve(self, disk: Disk, config: LogConfig, floor: int, committed: Committed) -> Expected:
        """What has to be in the log on `disk`, where only itself can tell of the appends under way.

        `committed` is as of `Expected`.

        Raises:
            BrokenError: it ends below `floor`, or it holds what was never sent, twice, or a batch
                in part (but at its end).
        """
        expected = Expected()
        expected.start = start = self.start
        expected.truncation = self.truncation
        expected.committed = committed
        try:
            log = Log(disk, "r", config)
        except LogNotFoundError:
            pass
        else:
            start = log.start_offset
            try:
                expected.records = self._resolved(log)
            except CorruptionError as error:
                raise BrokenError(f"I1: {error}") from error
            check_consumers(log, expected, floor=floor)
            log.close()
        end = len(expected.records)
        expected.start_max = end if self.start_max is None else max(self.start, self.start_max)
        if not expected.start <= start <= expected.start_max:
            raise BrokenError(f"start {start}, not {expected.start} to {expected.start_max}")
        if end < floor:
            raise BrokenError(f"I1: end {end}, but {floor} records were acknowledged")
        return expected

    @contextmanager
    def truncating(self, end_offset: int) -> Iterator[None]:
        """A truncation is under way; what it leaves of appends at the same time only a look tells.

        Where it raises, nothing was changed.
        """
        self.truncation = end_offset
        self.truncation_ends.append(end_offset)
        for batch, _ in self._sent.values():
            batch.limit = min(batch.limit, end_offset)
        before = self.written, self.durable
        self.written, self.durable = min(self.written, end_offset), min(self.durable, end_offset)
        try:
            with self.moments.truncating(end_offset):
                yield
        except SegstoreError:
            self.written, self.durable = before
            self.truncation = None
            raise
        self.truncation = None  # where a kill came first, the next opening decides about it
        for offset in [offset for offset in self.known if offset >= end_offset]:
            sent = self.known.pop(offset)
            self._truncated[sent.value] = sent

    def calm(self) -> int:
        """A token of now, for the two below."""
        return len(self.truncation_ends) - (self.truncation is not None)

    def is_calm(self, since: int) -> bool:
        """Whether there was no truncation under way since then."""
        return not self.truncations_since(since)

    def truncations_since(self, since: int) -> list[int]:
        """The ends of those that there were since then, the one under way there included."""
        return self.truncation_ends[since:]

    def settle(self, expected: Expected) -> None:
        """What a crash left is the log now, and what it has not of the rest never comes back."""
        self.written = len(expected.records)
        # Those below the start may come back: a kill may leave a new one that was never synced.
        self.known = {offset: sent for offset, sent in self.known.items() if offset < self.written}
        for offset, sent in enumerate(expected.records):
            if sent is not NOTHING:
                self.known[offset] = sent
        self.durable = min(self.durable, self.written)
        self.truncation = None
        self._sent = {}
        self._truncated = {}
        self.moments.settle(expected.records)

    def _resolved(self, log: Log) -> list[Sent]:
        start = log.start_offset
        records = [NOTHING] * start
        taken: set[bytes] = set()
        following: Sent | None = None  # has to come next
        for offset, record in enumerate(log.read(), start):
            sent = self._sent_as(record)
            if record.offset != offset:
                raise BrokenError(f"I4: offset {record.offset}, not {offset}")
            compare(record, sent)
            if following is not None and sent is not following:
                raise BrokenError(f"I4: offset {offset} is in the middle of a batch of others")
            following = None
            if sent.value in self._sent:
                if sent.value in taken:
                    raise BrokenError(f"I4: offset {offset} holds a record a second time")
                taken.add(sent.value)
                batch, place = self._sent[sent.value]
                if place and offset > start and records[-1] is not batch.records[place - 1]:
                    raise BrokenError(f"I4: offset {offset} is behind the middle of its batch")
                if place + 1 < len(batch.records) and offset + 1 < batch.limit:
                    following = batch.records[place + 1]
            records.append(sent)
        return records

    def _sent_as(self, record: Record) -> Sent:
        known, found = self.known.get(record.offset), self._sent.get(record.value)
        is_unsure = self.truncation is not None and record.offset >= self.truncation
        if known is not None and not (is_unsure and found is not None):
            return known
        if found is None:
            raise BrokenError(f"I2: offset {record.offset} is {record.value[:60]!r}, never sent")
        return found[0].records[found[1]]
