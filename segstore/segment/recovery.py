"""What stands in the segments that were not sealed, and what to do about each bad spot.

Opening looks only at the unsealed segments at the end of a log, and there only at what the last
recovery point does not cover: the cost is what was written since then, not the size of the log.

The truth table, one row for each bad spot at offset o. "Vouched" means that o is below the vouch:
the highest durable offset that the tail's register, a sealed segment or any intact frame states.
The log start offset, which moves durably before files go, counts for one as well. Exactly one row
matches (a test holds it to that):

    | vouched | intact frames follow | verdict | what is done                                     |
    |---------|----------------------|---------|--------------------------------------------------|
    | yes     | yes                  | DAMAGE  | kept in place, its offsets reported as lost      |
    | yes     | no                   | CUT OFF | kept in place, offsets up to the tail's first    |
    |         |                      |         | record, or else the vouch, reported as lost,     |
    |         |                      |         | writing goes on in a new segment there           |
    | no      | yes or no            | TORN    | set aside from there on, cut, reported           |

Of a frame with an intact head and bad blocks of values the good records can be read, and what is
reported as lost are the others; unless it is TORN, and goes as a whole.

Damage had been promised and is never cut. A torn tail was never promised to survive a power cut,
and cutting it is what keeps the survivors a prefix, even if intact frames follow.

A log that just ends below the vouch, between two frames, has a bad spot at its end too, unless
the tail goes on there: else the offsets that are gone would be given out again.

Where the tail has all from some offset on that the segments have, nothing there needs them. A bad
spot that begins there is TORN whatever vouches for it, and one that ends there is followed by
nothing: the records come from the tail.

What the tail promised by itself vouches for no segment: there it may be torn, and the tail has it.
What was promised, by whom ever, behind the last record of the tail is lost as well.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from segstore.disk import Disk
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    FileHeader,
    log_tag,
)
from segstore.format.names import OFFSET_MAX
from segstore.format.scanner import Damage, Frame, readable
from segstore.segment.reader import SegmentReader
from segstore.segment.state import NO_MAX, SegmentState


class Verdict(Enum):
    """What a bad spot is; see the truth table above."""

    DAMAGE = "damage"
    CUT_OFF = "cut off"
    TORN = "torn"


def judge(offset: int, vouch: int, *, is_followed: bool) -> Verdict:
    """The row of the truth table that matches a bad spot at `offset`."""
    if offset >= vouch:
        return Verdict.TORN
    return Verdict.DAMAGE if is_followed else Verdict.CUT_OFF


class ScannedSegment(NamedTuple):
    """One unsealed segment as it was found.

    Attributes:
        state: of everything up to the end of the last intact frame.
        size_bytes: of the file.
        header: its file header, or None where that is damaged or names another offset or log.
        damage: the bad spots, in order; the last one may have no end offset.
        vouch: the highest durable offset that a frame of it states.
        scanned_bytes: how much of the file was read.
    """

    state: SegmentState
    size_bytes: int
    header: FileHeader | None
    damage: list[Damage]
    vouch: int
    scanned_bytes: int

    @property
    def is_unborn(self) -> bool:
        """Whether nothing was ever in it: the process died while it was being created."""
        return self.header is None and self.size_bytes <= FILE_HEADER_BYTES


def scan_segment(
    disk: Disk,
    base_offset: int,
    log_id: bytes | None,
    *,
    recovery_point: int,
    index_interval_bytes: int,
    reads_on: bool = False,
) -> ScannedSegment:
    """Read an unsealed segment from the recovery point on (or whole, where that can't be found).

    For `reads_on` see `scan`: only who changes nothing may.

    Raises:
        OSError: a file can't be read.
        UnsupportedFormatError: a file or frame is of a later format version.
    """
    tag = None if log_id is None else log_tag(log_id)
    reader = SegmentReader(disk, base_offset, tag, is_compressed=False, stamp=None)
    size_bytes = reader.source.size()
    header = reader.header(reads_on=reads_on)
    if header is not None and (
        header.base_offset != base_offset or log_id not in (None, header.log_id)
    ):
        header = None
    state = SegmentState(base_offset, index_interval_bytes)
    position = _inherit(reader, state, recovery_point, size_bytes)
    damage: list[Damage] = []
    vouch = 0
    for event in reader.scan_from(position, state.end_offset, size_bytes, reads_on=reads_on):
        for batch in readable(event):
            # A frame can only vouch for what was there before it.
            vouch = max(vouch, min(batch.header.durable_offset, batch.header.base_offset))
        count_event(state, event)
        if isinstance(event, Damage):
            damage.append(event)
    return ScannedSegment(state, size_bytes, header, damage, vouch, size_bytes - position)


def count_event(
    state: SegmentState, event: Frame | Damage, *, wants_entry: bool | None = None
) -> None:
    """Count what an event of the scanner gives: a frame, or what can be read of a damaged one.

    `wants_entry`: see `SegmentState.add`.
    """
    for batch in readable(event):
        header = batch.header
        facts = header.min_timestamp, header.max_timestamp, header.append_time
        if isinstance(event, Frame):
            state.add(
                event.position,
                event.size_bytes,
                header.base_offset,
                header.record_count,
                *facts,
                has_keys=batch.has_keys,
                wants_entry=wants_entry,
            )
        else:
            state.stretch(*facts, has_keys=batch.has_keys)


def _inherit(
    reader: SegmentReader, state: SegmentState, recovery_point: int, size_bytes: int
) -> int:
    """Take over the entries that the recovery point covers; where to go on reading.

    The recovery point covers data and index alike, so below it the entries are what was written;
    the last is still checked against its frame, and if it lies none is believed.
    """
    if recovery_point <= reader.base_offset:
        return FILE_HEADER_BYTES
    index = reader.index
    slot = index.slot_of_offset(recovery_point - 1 - reader.base_offset)
    if slot < 0 or reader.is_index_rebuilt:
        return FILE_HEADER_BYTES
    relative_offset, position, max_timestamp = index[slot]
    expected = reader.base_offset + relative_offset
    # Neither may fail for a bad sector behind it, which is read with it.
    first = next(reader.scan_from(position, expected, size_bytes, reads_on=True), None)
    oldest = next(reader.events_unindexed(reads_on=True), None)
    if not isinstance(first, Frame) or not isinstance(oldest, Frame):
        return FILE_HEADER_BYTES
    index.cut(slot)  # the frame of the last entry is read again, and gets it back
    state.index = index
    state.end_offset = expected
    state.min_timestamp = NO_MAX  # what is not read again may have any, and keys
    state.max_timestamp = max_timestamp
    state.first_append_time = oldest.batch.header.append_time
    state.has_keys = True
    state.is_inherited = True
    return position


class Finding(NamedTuple):
    """A bad spot with its verdict.

    Attributes:
        base_offset: of the segment it is in.
        damage: where it is.
        verdict: what it is.
        offsets: the offsets that can't be read, which for a torn spot nobody was promised.
    """

    base_offset: int
    damage: Damage
    verdict: Verdict
    offsets: range


class Plan(NamedTuple):
    """What opening has to do, before anything is changed.

    Attributes:
        findings: every bad spot, in order; at most the last is TORN.
        keep: how many of the scanned segments stay.
        cut: where the last kept segment is to be cut, or None to leave it.
        next_offset: the log end offset without the tail.
        new_segment: writing goes on in a new segment (behind a spot that is CUT OFF).
        vouch: what is below it had been promised to survive.
        tail_lost: what was promised behind all that segments and tail have; the log goes on behind.
    """

    findings: list[Finding]
    keep: int
    cut: Damage | None
    next_offset: int
    new_segment: bool
    vouch: int
    tail_lost: range = range(0)


def plan(
    segments: Sequence[ScannedSegment],
    vouch: int,
    end_offset: int,
    staged: range = range(0),
    tail_durable_offset: int = 0,
    *,
    start_offset: int = 0,
    end_offset_max: int = OFFSET_MAX,
) -> Plan:
    """Judge the scanned segments, oldest first, and what the tail has to go on with.

    `vouch` is what register and sealed segments state; the frames' own is added here.
    `end_offset` is where the segments before them end, `staged` what the tail holds, and
    `tail_durable_offset` what it promised to. The log ends nowhere below `start_offset`, though a
    copy of a live log may have that of after a trim and segments of before, and else nowhere above
    `end_offset_max`, though its segments may still be longer.
    """

    def within(offset: int) -> int:
        return max(min(offset, end_offset_max), start_offset)

    if staged:
        # The tail is used again only once the segments have what it alone held durably (its rule
        # 5), though after a power cut the register of theirs may be of before.
        vouch = max(vouch, min(staged.start, tail_durable_offset))
    judged = _plan_segments(segments, vouch, end_offset, staged)
    next_offset = within(judged.next_offset)
    reach = staged.stop if next_offset in staged else next_offset
    promised = within(max(judged.vouch, tail_durable_offset))
    lost = range(reach, promised) if reach < promised else range(0)
    return judged._replace(next_offset=next_offset, tail_lost=lost)


def _plan_segments(
    segments: Sequence[ScannedSegment], vouch: int, end_offset: int, staged: range
) -> Plan:
    vouch = max([vouch, *(segment.vouch for segment in segments)])
    held = _held(segments, vouch, end_offset, staged)
    findings: list[Finding] = []
    for number, segment in enumerate(segments):
        base_offset = segment.state.base_offset
        spots = list(segment.damage)
        reached = segment.state.end_offset
        if base_offset != end_offset:
            hole = Damage(0, 0, end_offset, base_offset, "a segment is missing before it")
            spots.insert(0, hole)
        for spot in spots:
            is_hole = spot.end_position == 0
            end = spot.end_offset
            if end is None and number + 1 < len(segments):
                end = segments[number + 1].state.base_offset
            is_followed = end is not None and not _overlap(range(spot.offset, end), held)
            if end is None or not is_followed:
                end = _resumes_at(spot.offset, vouch, staged)
            verdict = judge(spot.offset, vouch, is_followed=is_followed)
            if spot.offset in held:
                verdict = Verdict.TORN
            for part in (spot,) if verdict is Verdict.TORN else spot.lost:
                stop = end if part.end_offset is None else min(part.end_offset, end)
                offsets = range(min(part.offset, stop), stop)
                findings.append(Finding(base_offset, part, verdict, offsets))
            if verdict is Verdict.TORN:
                if is_hole or (segment.header is None and spot.offset == base_offset):
                    # A hole before it, or nothing in it to go on from: it goes as a whole.
                    return Plan(findings, number, None, spot.offset, False, vouch)
                return Plan(findings, number + 1, spot, spot.offset, False, vouch)
            if verdict is Verdict.CUT_OFF:
                keep = number if is_hole else number + 1
                return Plan(findings, keep, None, end, True, vouch)
            reached = max(reached, end)
        end_offset = reached
    if end_offset < vouch and end_offset not in staged:
        last = segments[-1] if segments else None
        base_offset = end_offset if last is None else last.state.base_offset
        position = 0 if last is None else last.size_bytes
        spot = Damage(position, position, end_offset, None, "the log ends too early")
        resumes_at = _resumes_at(end_offset, vouch, staged)
        lost = Finding(base_offset, spot, Verdict.CUT_OFF, range(end_offset, resumes_at))
        return Plan([*findings, lost], len(segments), None, resumes_at, True, vouch)
    return Plan(findings, len(segments), None, end_offset, False, vouch)


def _held(segments: Sequence[ScannedSegment], vouch: int, end_offset: int, staged: range) -> range:
    """What of `staged` nobody needs the segments for, as these have nothing behind it.

    All of it or, where a gap that nobody vouched for may be before it, nothing.
    """
    ends = [segment.state.end_offset for segment in segments if not segment.state.is_empty]
    is_held = max([end_offset, *ends]) <= staged.stop and staged.start <= vouch
    return staged if is_held else range(0)


def _overlap(some: range, others: range) -> bool:
    return max(some.start, others.start) < min(some.stop, others.stop)


def _resumes_at(offset: int, vouch: int, staged: range) -> int:
    """Where the log goes on behind a spot at `offset` that nothing follows, and the loss ends.

    At the tail's first record where that had been promised, as a copy of a live log may have the
    tail and not the segment before it.
    """
    return staged.start if staged and offset < staged.start <= vouch else max(offset, vouch)
