"""What segstore tells about a log: plain values, made to be printed."""

from typing import Literal, NamedTuple

SegmentStatus = Literal["active", "rolled", "sealed", "compressed"]


class SegmentInfo(NamedTuple):
    """One segment.

    Attributes:
        base_offset, end_offset: its offsets, the second one past the last.
        state: "active" (written to), "rolled" (its seal is still to come, or its index is lost),
            "sealed" or "compressed". The last two never change again.
        size_bytes: of the data file.
        raw_bytes: of the plain segment; the same unless compressed.
        min_timestamp, max_timestamp: of its records in ns, None where not known without reading.
        path: of the data file.
    """

    base_offset: int
    end_offset: int
    state: SegmentStatus
    size_bytes: int
    raw_bytes: int
    min_timestamp: int | None
    max_timestamp: int | None
    path: str


class CutTail(NamedTuple):
    """Bytes that recovery cut from the end of the log: a write that never completed.

    Attributes:
        path: the file they stood in.
        position: where.
        size_bytes: how many.
        reason: why they are no records.
        set_aside: the file that keeps them; None for a reader, which cuts nothing.
    """

    path: str
    position: int
    size_bytes: int
    reason: str
    set_aside: str | None


class LostRange(NamedTuple):
    """Damage that is kept in place.

    Attributes:
        path: the file that holds it.
        position: the byte of the plain segment where it starts.
        offsets: the offsets that can't be read.
        reason: which check failed.
    """

    path: str
    position: int
    offsets: range
    reason: str


class RecoveryReport(NamedTuple):
    """What opening found and did.

    Attributes:
        was_clean: nothing had to be done, as after a close.
        cut: what was cut from the end, and where it is kept. In mode "r": what of the segments the
            next writer will cut, unless one is at work, of which it may be a write under way.
        lost: damage found in what was checked; `verify` checks everything.
        from_tail: how many records came out of the tail.
        removed: names of leftovers of interrupted steps that were removed.
        scanned_bytes: how many bytes of segments were checked.
    """

    was_clean: bool = True
    cut: tuple[CutTail, ...] = ()
    lost: tuple[LostRange, ...] = ()
    from_tail: int = 0
    removed: tuple[str, ...] = ()
    scanned_bytes: int = 0


class VerifyReport(NamedTuple):
    """What a check of every byte found.

    Attributes:
        record_count: how many intact records there are, from the log start offset on.
        size_bytes: how many bytes of segments were checked, as plain segments.
        lost: the damage.
        notes: what is odd and costs no record, one sentence each.
    """

    record_count: int
    size_bytes: int
    lost: tuple[LostRange, ...]
    notes: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        """Whether every record can be read."""
        return not self.lost


class Stats(NamedTuple):
    """Counters and facts of an open log; counters start at 0 when it is opened.

    Attributes:
        start_offset, end_offset, durable_offset: the positions of the log.
        segment_count: how many segments it has.
        size_bytes: of all data files.
        checksum: which CRC-32C is in use.
        kernel: which of the two per-record loops is in use, "c" or "python".
        tail: whether small appends go through the mapped tail.
        syncs: how many syncs were made.
        rolls: how many segments were rolled.
        damaged_records: how many records reads had to skip or refuse.
        background_error: the last error of the maintenance thread, or None.
    """

    start_offset: int
    end_offset: int
    durable_offset: int
    segment_count: int
    size_bytes: int
    checksum: str
    kernel: str
    tail: bool
    syncs: int
    rolls: int
    damaged_records: int
    background_error: str | None
