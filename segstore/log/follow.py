"""Following a log: read on as records come, across rolls, swaps and retention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, SupportsIndex

from segstore.disk import Handle
from segstore.errors import ConfigError, OffsetOutOfRangeError
from segstore.format.batch import Record
from segstore.format.buffers import as_offset
from segstore.log.arguments import checked_timeout
from segstore.log.consumer import Start, resolve_start
from segstore.log.reading import LogReader, OnDamage, check_errors
from segstore.segment.doorbell import Doorbell

OnLost = Literal["raise", "continue"]

# A constant, as Ctrl-C comes behind a call, and where an old run ends none may.
_NO_RUN: Iterator[Record] = iter(())


class Follower(Handle, Iterator[Record]):
    """An endless iterator over a log; it ends when nothing came for `timeout_s`.

    How it waits: on Linux by futex on the doorbell file, which the writer's next append rings, so
    that it costs nothing but a look every 50 ms while the log is idle. Where the doorbell can't be
    written to, it looks every 2 ms.

    Attributes:
        lost_count: how many records were passed over because retention had removed them or (with
            errors="skip") because they are damaged.
    """

    def __init__(
        self,
        reader: LogReader,
        bell: Doorbell,
        start: Start,
        timeout_s: float | None,
        errors: OnDamage,
        on_lost: OnLost,
    ) -> None:
        check_errors(errors)
        if on_lost not in ("raise", "continue"):
            raise ConfigError(f"on_lost is 'raise' or 'continue', not {on_lost!r}")
        self.lost_count = 0
        self._reader = reader
        self._bell = bell
        self._timeout_s = checked_timeout(timeout_s)
        self._errors = errors
        self._on_lost = on_lost
        # Before the position, so that a truncation between the two is seen.
        self._epoch = reader.view.epoch()
        self._position = resolve_start(reader, start)
        # The run of records that is being given, and where it ends.
        self._run = _NO_RUN
        self._run_end = self._position

    def __repr__(self) -> str:
        return f"<segstore.Follower at {self._position}>"

    def __next__(self) -> Record:
        while True:
            try:
                record = next(self._run, None)
            except BaseException as error:
                # Nothing behind it was skipped, but Ctrl-C may have come behind one more record.
                self._run, self._run_end = _NO_RUN, self._position
                if not isinstance(error, OffsetOutOfRangeError):
                    raise
                record = None  # retention was faster, as the next run sees
            if record is not None:
                self.lost_count += record.offset - self._position
                self._position = record.offset + 1
                return record
            # What was skipped at the end of the run has no record that would say so.
            skipped_count = max(0, self._run_end - self._position)
            self._position += skipped_count
            self.lost_count += skipped_count
            if not self._bell.wait(self._has_more, self._timeout_s):
                raise StopIteration
            self._start_run()

    @property
    def position(self) -> int:
        """The offset of the next record. Set it to go on elsewhere.

        Raises:
            OffsetOutOfRangeError: it is set to one outside the log.
            TypeError: it is set to what is no int.
        """
        return self._position

    @position.setter
    def position(self, offset: SupportsIndex) -> None:
        self._position = self._run_end = self._reader.bounds(as_offset(offset), None).start
        self._run = _NO_RUN

    @property
    def is_caught_up(self) -> bool:
        """Whether there is nothing to give at the moment."""
        return not self._has_more()

    def _has_more(self) -> bool:
        self._reader.check_open()
        return self._reader.view.live_end_offset() > self._position or self._is_ahead()

    def _is_ahead(self) -> bool:
        """Whether the log was truncated below the position, and offsets are given out again."""
        view = self._reader.view
        return view.epoch() != self._epoch and view.end_offset() < self._position

    def _start_run(self) -> None:
        view = self._reader.view
        epoch = view.epoch()  # first, as there
        start = view.start_offset()
        if self._is_ahead():
            end = view.end_offset()
            if self._on_lost == "raise":
                raise OffsetOutOfRangeError(self._position, start, end)
            # Which may be above it again by now, and what it takes there is new, too.
            self._position = self._run_end = min(self._position, end)
        self._epoch = epoch
        if self._position < start:
            end = view.end_offset()
            if self._on_lost == "raise":
                raise OffsetOutOfRangeError(self._position, start, end)
            self.lost_count += start - self._position
            self._position = start
        offsets = range(self._position, view.end_offset())
        # No generator of our own around it: that and this would hold each other, and the files of a
        # closed log stay open until the collector comes by.
        self._run = self._reader.records(offsets, self._errors)
        self._run_end = offsets.stop
