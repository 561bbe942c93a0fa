"""The model of a log that several threads write to: who sent what, and which offset it got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segstore.config import LogConfig
from segstore.disk import Disk
from segstore.errors import CorruptionError, LogNotFoundError
from segstore.format.batch import Record
from segstore.log.log import Log
from tests.torture.campaign import BrokenError
from tests.torture.expected import Expected, Sent, compare

NOTHING = Sent(None, b"", None)


class Ledger:
    """What was sent and what became of it; every value is another.

    Attributes:
        known: by offset, the records whose append returned, or that a reopening found.
        written, durable, start, truncation: as of `Expected`.
        start_max: how far the log start offset may have been moved; None for any offset.
    """

    def __init__(self) -> None:
        self.known: dict[int, Sent] = {}
        self.written = 0
        self.durable = 0
        self.start = 0
        self.start_max: int | None = 0
        self.truncation: int | None = None
        # By value: the batches whose append is under way or was refused, and the place in each.
        self._sent: dict[bytes, tuple[Sequence[Sent], int]] = {}

    def send(self, batch: Sequence[Sent]) -> None:
        """An append is about to be called."""
        for place, sent in enumerate(batch):
            self._sent[sent.value] = (batch, place)

    def acknowledge(self, batch: Sequence[Sent], base_offset: int, *, durable: bool) -> None:
        """It returned.

        Raises:
            BrokenError: an offset was given out twice.
        """
        for offset, sent in enumerate(batch, base_offset):
            if offset in self.known:
                raise BrokenError(f"I4: offset {offset} is given to a second record")
            self.known[offset] = sent
            del self._sent[sent.value]
        end = base_offset + len(batch)
        self.written = max(self.written, end)
        if durable:
            self.durable = max(self.durable, end)

    def check(self, records: Iterable[Record], start: int | None = None) -> int:
        """I2, I4: records that a handle reads, in a row from `start` on; how many."""
        count = 0
        for record in records:
            if start is not None and record.offset != start + count:
                raise BrokenError(f"I4: offset {record.offset}, not {start + count}")
            compare(record, self._sent_as(record))
            count += 1
        return count

    def resolve(self, disk: Disk, config: LogConfig) -> Expected:
        """What has to be in the log on `disk`, where only itself can tell of the appends under way.

        Raises:
            BrokenError: it holds what was never sent, twice, or a batch in part (but at its end).
        """
        expected = Expected()
        expected.start = self.start
        expected.truncation = self.truncation
        try:
            log = Log(disk, "r", config)
        except LogNotFoundError:
            start = self.start
        else:
            start = log.start_offset
            try:
                expected.records = self._resolved(log)
            except CorruptionError as error:
                raise BrokenError(f"I1: {error}") from error
            log.close()
        end = len(expected.records)
        expected.start_max = end if self.start_max is None else max(self.start, self.start_max)
        if not expected.start <= start <= expected.start_max:
            raise BrokenError(f"start {start}, not {expected.start} to {expected.start_max}")
        return expected

    def truncate(self, end_offset: int) -> None:
        """A truncation is through; nobody appended meanwhile."""
        self.known = {offset: sent for offset, sent in self.known.items() if offset < end_offset}
        self.written = min(self.written, end_offset)
        self.durable = min(self.durable, end_offset)
        self.truncation = None

    def settle(self, expected: Expected) -> None:
        """What a crash left is the log now, and what it has not of the rest never comes back."""
        self.known = dict(enumerate(expected.records))
        self.written = len(expected.records)
        self.durable = min(self.durable, self.written)
        self.truncation = None
        self._sent = {}

    def _resolved(self, log: Log) -> list[Sent]:
        start, end = log.start_offset, log.end_offset
        records = [self.known.get(offset, NOTHING) for offset in range(end)]
        unknown = [offset for offset in range(start, end) if offset not in self.known]
        if not unknown:
            return records
        taken: set[bytes] = set()
        following: Sent | None = None  # has to come next
        for record in log.read(unknown[0]):
            offset = record.offset
            sent = records[offset] = self._sent_as(record)
            if following is not None and sent is not following:
                raise BrokenError(f"I4: offset {offset} is in the middle of a batch of others")
            following = None
            if offset in self.known:
                continue
            if sent.value in taken:
                raise BrokenError(f"I4: offset {offset} holds a record a second time")
            taken.add(sent.value)
            batch, place = self._sent[sent.value]
            if place and offset > start and records[offset - 1] is not batch[place - 1]:
                raise BrokenError(f"I4: offset {offset} is behind the middle of its batch")
            following = batch[place + 1] if place + 1 < len(batch) else None
        return records

    def _sent_as(self, record: Record) -> Sent:
        found = self.known.get(record.offset)
        if found is not None:
            return found
        if record.value not in self._sent:
            raise BrokenError(f"I2: offset {record.offset} is {record.value[:60]!r}, never sent")
        batch, place = self._sent[record.value]
        return batch[place]
