r"""Lines from bytes, and back: the one place that says what a line is.

A line ends with b"\n" and with nothing else. A record is a line without its newline, and going
back a newline follows every record, but for one whose key is `NO_NEWLINE_KEY`: that one was the
end of an input which did not end with a newline. So what went in comes out byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from segstore.format.batch import Record, RecordBatch
from segstore.format.framelayout import RECORD_BYTES_MAX

# Do not change: it is in people's logs. diff and git say the same of such a line.
NO_NEWLINE_KEY = b"\\ No newline at end of file"

BLOCK_BYTES = 1 << 20
assert BLOCK_BYTES <= RECORD_BYTES_MAX  # so that only the first line of a block can be too long


class Lines(NamedTuple):
    """Some lines, without their newlines; `is_ended` is False for a last one that has none."""

    lines: list[bytes]
    is_ended: bool
    size_bytes: int


class LineTooLongError(Exception):
    """A line is too long for a record; the lines before it have all been given."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"is longer than a record can be ({limit_bytes} bytes)")


def split_lines(
    read: Callable[[int], bytes], limit_bytes: int = RECORD_BYTES_MAX
) -> Iterator[Lines]:
    """The lines that `read` gives, as soon as their newlines are there.

    Memory stays at one block and one line of at most `limit_bytes`, however long the input is.

    Raises:
        LineTooLongError: see there.
        OSError: from `read`.
    """
    pieces: list[bytes] = []
    piece_bytes = 0
    while block := read(BLOCK_BYTES):
        lines = block.split(b"\n")
        rest = lines.pop()
        if lines and pieces:
            _check_size(piece_bytes + len(lines[0]), limit_bytes)
            lines[0] = b"".join((*pieces, lines[0]))
        if lines:
            yield Lines(lines, True, len(block))
            pieces, piece_bytes = [], 0
        if rest:
            pieces.append(rest)
            piece_bytes += len(rest)
            _check_size(piece_bytes, limit_bytes)
    if pieces:
        _check_size(piece_bytes, limit_bytes - len(NO_NEWLINE_KEY))
        yield Lines([b"".join(pieces)], False, 0)


def join_lines(batch: RecordBatch) -> bytes:
    """The records of a batch as lines.

    Raises:
        ValueError: the batch is not well formed, though its checksum holds.
    """
    values = batch.values()
    if not batch.has_keys:
        return b"\n".join(values) + b"\n"
    return b"".join(
        value if key == NO_NEWLINE_KEY else value + b"\n"
        for value, key in zip(values, batch.keys(), strict=True)
    )


def as_line(record: Record) -> bytes:
    """One record as a line."""
    return record.value if record.key == NO_NEWLINE_KEY else record.value + b"\n"


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise LineTooLongError(limit_bytes)
