"""The frames of a segment and the damage between them, read as far as it takes, around bad sectors.

The scanner turns bytes into events, and the source has the bytes: here the one is fed from the
other.
"""

from __future__ import annotations

from collections.abc import Iterator

from segstore.format.scanner import NEED_DATA, Damage, Frame, Scanner
from segstore.segment.source import (
    NOT_READ,
    PAGE_BYTES,
    Source,
    UnreadableError,
    is_unreadable,
)


def scan(
    source: Source,
    scanner: Scanner,
    end_position: int,
    first_bytes: int | None = None,
    *,
    reads_on: bool = False,
) -> Iterator[Frame | Damage]:
    """Every event from the scanner's position to `end_position` of the plain segment.

    `first_bytes` says that so many may do, and no more are read at first. A sector that the device
    can't read (EIO) is damage to whoever `reads_on`. To those who cut, repair or rewrite it must
    not be: the next try may have it.

    Raises:
        OSError: the file can't be read.
        UnsupportedFormatError: a frame is of a later format version.
    """
    is_last = False
    unread = range(0)
    while True:
        event = scanner.next()
        if event is not NEED_DATA:
            if unread and isinstance(event, Damage):
                event = _with_reason(event, unread)
            yield event
            continue
        left = end_position - scanner.position
        if is_last or left <= 0:
            return
        ahead = source.ahead(scanner.position)
        if first_bytes is not None:
            ahead, first_bytes = min(ahead, first_bytes), None
        wanted = min(max(ahead, scanner.wanted_bytes), left)
        try:
            data = source.read(wanted, scanner.position)
        except UnreadableError as unreadable:
            if unreadable.error is not None:
                unread = range(scanner.position, unreadable.end_position)
                if not reads_on or not _is_readable_near(source, unread):
                    raise unreadable.error from None
            is_last = unreadable.end_position >= end_position
            scanner.skip_to(min(unreadable.end_position, end_position), unreadable.reason)
            scanner.feed(b"", is_last=is_last)
            continue
        except OSError as error:
            if not reads_on or not is_unreadable(error):
                raise
            data, found, read_at = _read_around(source, wanted, scanner.position)
            if found and not (source.can_read(read_at) or _is_readable_near(source, found)):
                raise
            unread = found or unread
        # Less than was wanted: the file ends earlier by now, and asking again would go on for ever.
        is_last = len(data) < wanted or len(data) >= left
        scanner.feed(data[:left] if len(data) > left else data, is_last=is_last)


def _read_around(source: Source, size_bytes: int, position: int) -> tuple[bytes, range, int]:
    """As `source.read`, with zeros for the pages that can't be read.

    Zeros are no frame, and no block of one either, so that all behind them can be read. Returns as
    well from where to where these pages are, and the position of one that was read, if any was.
    """
    pieces = []
    first, last, read_at = None, position, position
    at, end = position, position + size_bytes
    while at < end:
        wanted = min(PAGE_BYTES - at % PAGE_BYTES, end - at)
        try:
            piece = source.read(wanted, at)
            read_at = at
        except OSError as error:
            if not is_unreadable(error):
                raise
            piece = bytes(wanted)
            first, last = at if first is None else first, at + wanted
        pieces.append(piece)
        if len(piece) < wanted:
            break
        at += wanted
    return b"".join(pieces), range(position if first is None else first, last), read_at


def _is_readable_near(source: Source, unread: range) -> bool:
    """Whether anything before or behind it can be read, looked for twice as far each time.

    Else it is the device that fails, and not a sector: who skips damage must not pass over a whole
    log whose device is gone for a while.
    """
    last = source.size() - 1
    distance = 0
    while distance < last:
        for position in (unread.start - 1 - distance, unread.stop + distance):
            if 0 <= position <= last and source.can_read(position):
                return True
        distance = 2 * distance + PAGE_BYTES
    return source.can_read(0) or source.can_read(last)


def _with_reason(damage: Damage, unread: range) -> Damage:
    """Damage that says so where the device could not read it."""
    parts = tuple(
        _with_reason(part, unread) if isinstance(part, Damage) else part for part in damage.parts
    )
    is_unread = damage.position < unread.stop and unread.start < damage.end_position
    return damage._replace(parts=parts, reason=NOT_READ if is_unread else damage.reason)
