"""When each record was in a log, so that a copy can be held against every moment of a call.

What a thread does happens somewhere between two ticks, that of its call and that of its return. So
a record is there for sure from the return of its append to the call of the truncation that takes
it, and for sure it is not before the one's call or after the other's return.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from segstore.errors import SegstoreError
from segstore.format.batch import Record
from tests.torture.campaign import BrokenError
from tests.torture.expected import NOTHING, Sent, compare

_NEVER = float("inf")


class _Stay:
    """The ticks of one record: at the latest from `acked` to `going`, at most `sent` to `gone`."""

    def __init__(self, sent: Sent, at: int, *, is_last: bool) -> None:
        self.record = sent
        self.is_last = is_last  # of its batch
        self.offset: int | None = None
        self.sent: float = at
        self.acked = self.going = self.gone = _NEVER


class Moments:
    """The stays of all records of a log.

    Attributes:
        now: rises with every call and every return.
    """

    def __init__(self) -> None:
        self.now = 0
        self._stays: dict[bytes, _Stay] = {}
        self._odd_ends: set[int] = set()  # which may be in the middle of a batch

    def sent(self, records: Sequence[Sent]) -> None:
        """An append is about to be called."""
        self.now += 1
        for record in records:
            is_last = record is records[-1]
            self._stays[record.value] = _Stay(record, self.now, is_last=is_last)

    def acknowledged(self, records: Sequence[Sent], base_offset: int, limit: float) -> None:
        """It returned; from `limit` on a truncation may have taken its records already."""
        self.now += 1
        for offset, record in enumerate(records, base_offset):
            stay = self._stays[record.value]
            stay.offset = offset
            if offset < limit:
                stay.acked = self.now

    @contextmanager
    def truncating(self, end_offset: int) -> Iterator[None]:
        """A truncation is about to be called; where it raises, nothing was changed."""
        self.now += 1
        begun = self.now
        self._odd_ends.add(end_offset)
        for stay in self._from(end_offset):
            stay.going = min(stay.going, begun)
        try:
            yield
        except SegstoreError:
            for stay in self._from(end_offset):
                stay.going = _NEVER if stay.going == begun else stay.going
            raise
        self.now += 1
        for stay in self._from(end_offset):
            if stay.going <= begun:  # what came later may follow it
                stay.gone = min(stay.gone, self.now)

    def settle(self, records: Sequence[Sent]) -> None:
        """After a crash these are the log."""
        self.now += 1
        self._stays = {}
        self._odd_ends = {len(records)}
        for offset, record in enumerate(records):
            if record is not NOTHING:
                stay = self._stays[record.value] = _Stay(record, self.now, is_last=True)
                stay.offset, stay.acked = offset, self.now

    def begin(self) -> int:
        """A copy is about to be made; the moment, for `check`."""
        self.now += 1
        return self.now

    def check(self, records: Iterable[Record], end_offset: int, since: int) -> int:
        """C5: the log ended just so at some moment from `since` to now; how many records."""
        self.now += 1
        low, high = float(since), float(self.now)
        is_end, count = True, 0
        for record in records:
            stay = self._stays.get(record.value)
            if stay is None:
                raise BrokenError(f"I2: offset {record.offset} is {record.value[:60]!r}, not sent")
            compare(record, stay.record)
            low, high = max(low, stay.sent), min(high, stay.gone)
            if low > high:
                raise BrokenError(
                    f"C5: offset {record.offset} and those below it were never together "
                    f"(from {low} on, gone at {high})"
                )
            is_end = stay.is_last or end_offset in self._odd_ends
            count += 1
        if not is_end:
            raise BrokenError(f"C5: the end {end_offset} is in the middle of a batch")
        self._check_nothing_missing(end_offset, low, high)
        return count

    def _check_nothing_missing(self, end_offset: int, low: float, high: float) -> None:
        """There was a moment at which nothing stood behind the end."""
        at = low
        for acked, going, offset in sorted(
            (stay.acked, stay.going, stay.offset) for stay in self._from(end_offset)
        ):
            if acked > at:
                break
            at = max(at, going)
            if at >= high:
                raise BrokenError(
                    f"C5: it ends at {end_offset}, and {offset} was there ({low} to {high})"
                )

    def _from(self, end_offset: int) -> list[_Stay]:
        return [
            stay
            for stay in self._stays.values()
            if stay.offset is not None and stay.offset >= end_offset
        ]
