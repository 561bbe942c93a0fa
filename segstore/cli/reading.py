"""Reading on behind damage: what the commands share that print records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import rich_click as click

import segstore
from segstore.cli import output
from segstore.errors import CorruptionError, OffsetOutOfRangeError
from segstore.format.batch import RecordBatch

_T = TypeVar("_T")


class _Offset(click.IntRange):
    name = "offset"  # as a message calls what is none


OFFSET = _Offset(min=0)


def say_gone(record_count: int, offset: int) -> None:
    """Tell of records before an offset that retention removed under way."""
    output.complain(f"{record_count} records before offset {offset} are gone, going on")


class DamageTally:
    """Reads a log and goes on behind what is missing, which it tells on stderr.

    Attributes:
        record_count: how many records are damaged; those that retention removed are not.
    """

    def __init__(self) -> None:
        self.record_count = 0

    def converted(
        self, log: segstore.Log, offsets: range, limit: int | None, convert: Callable[[Any], _T]
    ) -> Iterator[_T]:
        """What `convert` makes of each batch, at most `limit` records in all."""
        left = limit
        for batch in self._batches(log, offsets):
            part = batch
            if left is not None:
                if left <= 0:
                    return
                part = batch.slice(batch.base_offset, batch.base_offset + left)
                left -= len(part)
            try:
                made = convert(part)
            except ValueError as error:
                self._report(range(part.base_offset, part.end_offset), str(error))
            else:
                yield made

    def _batches(self, log: segstore.Log, offsets: range) -> Iterator[RecordBatch]:
        start = offsets.start
        while start < offsets.stop:
            try:
                for batch in log.batches(start, offsets.stop):
                    start = batch.end_offset
                    yield batch
                return
            except OffsetOutOfRangeError as error:
                start = self._overtaken(start, error)
            except CorruptionError as error:
                start = error.offsets.stop
                where = f"{error.path}: damaged at byte {error.position}: {error.reason}"
                self._report(error.offsets, where)

    def _overtaken(self, start: int, error: OffsetOutOfRangeError) -> int:
        """Where to go on once retention was faster; any other offset is a mistake."""
        if start >= error.start:
            raise error
        say_gone(error.start - start, error.start)
        return error.start

    def _report(self, lost: range, where: str) -> None:
        self.record_count += len(lost)
        output.complain(f"{where}; offsets {lost.start}..{lost.stop - 1} can't be read, going on")
