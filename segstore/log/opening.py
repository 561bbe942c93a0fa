"""Opening a log: find what there is, judge it, and as the writer put it right.

The order of steps makes every interruption safe: nothing is cut before it was set aside durably,
and the tail is emptied only after what it held stands in a segment.

    1 lock   2 list, remove leftovers   3 scan the unsealed run   4 judge (recovery.plan)
    5 set aside, cut   6 reseal all but the last   7 the tail's records into the active segment
    8 void the tail if offsets will be given again
"""

import errno
import os
from collections import Counter
from typing import NamedTuple

from segstore.disk import FULL, Disk, written_aside
from segstore.errors import StorageError
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_INDEX,
    KIND_SEGMENT,
    KIND_START,
    MAGIC,
    decode_file_header,
    log_tag,
)
from segstore.format.names import (
    DOORBELL,
    LOCK,
    OFFSET_MAX,
    RAW_INDEX_SUFFIX,
    RAW_SUFFIX,
    START,
    TAIL,
    TRUNCATE,
    parse_segment_file,
    segment_file,
    temporary,
)
from segstore.format.scanner import Frame, readable
from segstore.log.lock import LOCK_MAGIC
from segstore.log.report import CutTail, LostRange, RecoveryReport
from segstore.log.truncation import pending_truncation
from segstore.segment.aside import free_name, set_aside
from segstore.segment.catalog import Catalog, Segment, list_segments
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.reader import SegmentReader
from segstore.segment.recovery import Plan, ScannedSegment, Verdict, plan, scan_segment
from segstore.segment.tail import FRAMES_POSITION, Tail
from segstore.segment.tailreader import Staged, TailReader, read_tail, stray_offset

# Without any of these errors the file system can allocate; with them small appends do without.
_CANT_ALLOCATE = {
    *FULL,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EFBIG,  # a limit of the process (RLIMIT_FSIZE)
}


class Found(NamedTuple):
    """A log as it stands on disk, read and judged, with nothing changed.

    Attributes:
        log_id: the log's id; None for a directory without any log.
        catalog: all segments by the listing.
        leftovers: names that hold nothing.
        start_offset: the log start offset.
        tail: the mapped tail, or None.
        reader: looks into it; None without a tail or a log id.
        run: the segments at the end of the log that are not sealed.
        scanned: what is in them, but for segments that were never born.
        unborn: names of segments that were being created.
        plan: what to do.
        from_tail: the records in the tail that the segments don't have.
    """

    log_id: bytes | None
    catalog: Catalog
    leftovers: list[str]
    start_offset: int
    tail: Tail | None
    reader: TailReader | None
    run: list[Segment]
    scanned: list[ScannedSegment]
    unborn: list[str]
    plan: Plan
    from_tail: Staged


def refuse_strangers(disk: Disk) -> None:
    """Refuse to begin a log where one of its names is taken by a file of somebody else.

    A directory that holds a log is not looked at any further: there such a file is damage.

    Raises:
        StorageError: there is such a file; nothing was changed.
        OSError: a file can't be read.
    """
    strangers = []
    for name in (START, TAIL, DOORBELL, TRUNCATE, LOCK):
        if not disk.size_of(name):
            continue
        file = disk.open(name)
        try:
            head = file.read(len(MAGIC), 0)
        finally:
            file.close()
        if head == MAGIC:
            return
        if not _may_be_torn(head, LOCK_MAGIC if name == LOCK else MAGIC):
            strangers.append(name)
    if strangers and not any(map(parse_segment_file, disk.names())):
        raise StorageError(
            errno.ENOTEMPTY,
            f"{disk.path} holds no log, and {', '.join(map(repr, strangers))} there, which a log "
            f"would write over, belongs to something else; give the log a directory of its own",
        )


def _may_be_torn(head: bytes, magic: bytes) -> bool:
    """Whether an opening that was cut short may have left it: some of what it wrote, and zeros."""
    return all(byte in (0, ours) for byte, ours in zip(head, magic, strict=False))


def find(disk: Disk, *, write: bool, index_interval_bytes: int, tail: Tail | None = None) -> Found:
    """Read what opening needs, and change nothing; `tail` is the one at hand, if any.

    Raises:
        OSError: a file can't be read.
        UnsupportedFormatError: a file is of a later format version.
    """
    tail = tail or Tail.open(disk, write=write)
    # Read before the files are looked at: a writer at work moves them on meanwhile.
    recovery_point = durable_offset = tail_durable_offset = 0
    if tail is not None:
        recovery_point = tail.recovery_point.read() or 0
        durable_offset = tail.segments_durable.read() or 0
        tail_durable_offset = tail.tail_durable.read() or 0
    catalog, leftovers = list_segments(disk)
    # A writer has carried a truncation out by now; a reader sees the log as it is to become.
    ends_at = pending_truncation(disk)
    if ends_at is not None:
        catalog = Catalog(s for s in catalog.segments if s.base_offset < ends_at)
        durable_offset = min(durable_offset, ends_at)
        tail_durable_offset = 0  # a truncation syncs the segments before it commits
    log_id, start_offset = _identify(disk, catalog, tail)
    reader = None
    if ends_at is not None:
        tail = None
    if tail is not None and log_id is not None:
        reader = TailReader(tail.view, log_tag(log_id))
    staged = read_tail(reader)
    run = catalog.unsealed_run()
    scanned = [
        scan_segment(
            disk,
            segment.base_offset,
            log_id,
            recovery_point=recovery_point,
            index_interval_bytes=index_interval_bytes,
            reads_on=not write,
        )
        for segment in catalog.segments[run:]
    ]
    first = next((found.state.base_offset for found in scanned if not found.is_unborn), None)
    sealed_end = _sealed_end(disk, catalog, run, log_id, first)
    # The start offset moves only over what is durable.
    vouch = max(sealed_end or 0, durable_offset, start_offset)
    unborn: list[str] = []
    while scanned and scanned[-1].is_unborn and scanned[-1].state.base_offset >= vouch:
        dead = catalog.segments[run + len(scanned) - 1]
        unborn += [dead.data_name, dead.index_name]
        scanned.pop()
    # Where they start behind both, files are missing. Below the start offset any mix of files may
    # be gone: a power cut undoes removals in no order.
    scan_start = max(sealed_end or 0, start_offset)
    scan_start = min([scan_start, *(found.state.base_offset for found in scanned[:1])])
    judged = plan(
        scanned,
        vouch,
        scan_start,
        staged.offsets,
        tail_durable_offset,
        start_offset=start_offset,
        end_offset_max=OFFSET_MAX if ends_at is None else ends_at,
    )
    return Found(
        log_id,
        catalog,
        leftovers,
        start_offset,
        tail,
        reader,
        catalog.segments[run:],
        scanned,
        unborn,
        judged,
        staged.since(judged.next_offset),
    )


def _sealed_end(
    disk: Disk,
    catalog: Catalog,
    run: int,
    log_id: bytes | None,
    next_base: int | None,
) -> int | None:
    """Where the sealed segments before number `run` end, or None if there are none."""
    if run == 0:
        return None
    last = catalog.segments[run - 1]
    if last.stamp is not None:  # and not where the next one starts: one may be missing between
        end_offset = last.stamp.end_offset
        return end_offset if next_base is None else min(end_offset, next_base)
    # Compressed, and its index is lost: what is in it tells, for the same reason.
    tag = None if log_id is None else log_tag(log_id)
    reader = SegmentReader(disk, last.base_offset, tag, is_compressed=True, stamp=None)
    end_offset, is_whole = last.base_offset, False
    for event in reader.events_unindexed():
        ends = [batch.end_offset for batch in readable(event)]
        is_whole = isinstance(event, Frame)
        end_offset = max([end_offset, *ends])
    if next_base is None:
        return end_offset
    # Where damage took the last frames, they went up to the next one.
    return min(end_offset, next_base) if is_whole else next_base


def _identify(disk: Disk, catalog: Catalog, tail: Tail | None) -> tuple[bytes | None, int]:
    """The log's id, from whatever file still says it, and the log start offset."""
    log_id = None if tail is None else tail.log_id
    start_offset = catalog.segments[0].base_offset if len(catalog) else 0
    checkpoint = CheckpointFile.open(disk, START, KIND_START, write=False)
    if checkpoint is not None:
        log_id = log_id or checkpoint.log_id
        start_offset = checkpoint.current.value
        checkpoint.close()
    for segment in reversed(catalog.segments):
        if log_id is not None:
            break
        log_id = _log_id_of(disk, segment)
    return log_id, start_offset


def _log_id_of(disk: Disk, segment: Segment) -> bytes | None:
    names = [(segment.index_name, KIND_INDEX)]
    if not segment.is_compressed:
        names.append((segment.data_name, KIND_SEGMENT))
    for name, kind in names:
        if disk.size_of(name) is not None:
            file = disk.open(name)
            header = decode_file_header(file.read(FILE_HEADER_BYTES, 0), kind)
            file.close()
            if header is not None:
                return header.log_id
    # Lost with every header. A new one that the frames agree with will do: most of them, as a value
    # that damage lays open may hold frames of another log.
    reader = SegmentReader(
        disk, segment.base_offset, None, is_compressed=segment.is_compressed, stamp=None
    )
    tags = Counter(
        batch.header.log_tag for event in reader.events_unindexed() for batch in readable(event)
    )
    for tag, _ in tags.most_common(1):
        return tag.to_bytes(4, "little") + os.urandom(12)
    return None


def lost_ranges(disk: Disk, found: Found) -> list[LostRange]:
    """What of the findings is damage, and not just a torn tail, and what no file holds."""
    start_offset = found.start_offset
    lost = _missing(disk, found) + [
        LostRange(
            _path(disk, finding.base_offset),
            finding.damage.position,
            _not_below(start_offset, finding.offsets),
            finding.damage.reason,
        )
        for finding in found.plan.findings
        if finding.verdict is not Verdict.TORN
        and (finding.offsets.start >= start_offset or finding.offsets.stop > start_offset)
    ]
    if found.plan.tail_lost.stop > start_offset:
        path = os.path.join(disk.path, TAIL)
        reason = "they were durable, and neither the segments nor the tail have them any more"
        offsets = _not_below(start_offset, found.plan.tail_lost)
        lost.append(LostRange(path, FRAMES_POSITION, offsets, reason))
    return lost


def _not_below(start_offset: int, offsets: range) -> range:
    return offsets[max(0, start_offset - offsets.start) :]


def _missing(disk: Disk, found: Found) -> list[LostRange]:
    """The holes before and between the sealed segments, by their names and stamps alone."""
    lost: list[LostRange] = []
    expected = found.start_offset
    segments = found.catalog.segments
    for number, segment in enumerate(segments[: len(segments) - len(found.run)]):
        if segment.base_offset > expected:
            path = os.path.join(disk.path, segment.data_name)
            missing = range(expected, segment.base_offset)
            lost.append(LostRange(path, 0, missing, "a segment is missing before it"))
        stamp = segment.stamp
        end_offset = found.catalog.end_offset(number) if stamp is None else stamp.end_offset
        expected = max(expected, end_offset or 0)
    return lost


def _path(disk: Disk, base_offset: int) -> str:
    return os.path.join(disk.path, segment_file(base_offset, RAW_SUFFIX))


def clear(disk: Disk, found: Found) -> list[str]:
    """Remove what interrupted steps left behind; the names removed.

    Raises:
        OSError: a file can't be removed.
    """
    removed = [*found.leftovers, *found.unborn]
    gone = [name for name in removed if disk.size_of(name) is not None]
    if gone:
        # What took their place may have its name by a rename that no sync has covered yet, and a
        # power cut could keep the removal and undo that.
        disk.sync_directory()
        for name in gone:
            disk.unlink(name)
        disk.sync_directory()
    return gone


def torn(disk: Disk, found: Found) -> list[CutTail]:
    """What of the segments the plan calls torn, and is to be cut; not set aside yet."""
    cuts: list[CutTail] = []
    reason = found.plan.findings[-1].damage.reason if found.plan.findings else ""
    if found.plan.cut is not None:
        path = _path(disk, found.plan.findings[-1].base_offset)
        # Of the segment that is kept last: what is cut from it is its end.
        size_bytes = found.scanned[found.plan.keep - 1].size_bytes
        position = found.plan.cut.position
        cuts.append(CutTail(path, position, size_bytes - position, reason, None))
    for scanned in found.scanned[found.plan.keep :]:
        is_torn = found.plan.findings[-1].base_offset == scanned.state.base_offset
        why = reason if is_torn else f"follows what is not whole: {reason}"
        path = _path(disk, scanned.state.base_offset)
        cuts.append(CutTail(path, 0, scanned.size_bytes, why, None))
    return cuts


def cut_torn(disk: Disk, found: Found) -> list[CutTail]:
    """Set aside and cut what the plan calls torn; what was cut.

    Raises:
        OSError: a step failed; opening again goes on from there.
    """
    cuts = torn(disk, found)
    # From the end, so that an interruption never leaves a hole before a segment.
    for number in reversed(range(len(cuts))):
        name = os.path.basename(cuts[number].path)
        position = cuts[number].position
        kept = _cut_file(disk, name, position) if position else _put_aside(disk, name)
        cuts[number] = cuts[number]._replace(set_aside=os.path.join(disk.path, kept))
    return cuts


def _put_aside(disk: Disk, name: str) -> str:
    """A whole segment that goes."""
    kept = free_name(disk, name, 0)
    disk.rename(name, kept)
    index_name = name.removesuffix(RAW_SUFFIX) + RAW_INDEX_SUFFIX
    if disk.size_of(index_name) is not None:
        disk.unlink(index_name)
    disk.sync_directory()
    return kept


def _cut_file(disk: Disk, name: str, position: int) -> str:
    file = disk.open(name, write=True)
    try:
        kept = set_aside(disk, name, position, file.read(file.size() - position, position))
        if file.is_shared():  # with a snapshot, in which nothing of it is torn
            with written_aside(disk, temporary(name), name) as part:
                part.write([file.read(position, 0)], 0)
            disk.sync_directory()
        else:
            file.truncate(position)
            file.sync()
    finally:
        file.close()
    return kept


def set_stray_aside(disk: Disk, found: Found, end_offset: int) -> CutTail | None:
    """Set aside what the tail holds behind a gap: records whose forerunners a power cut took."""
    if found.reader is None or found.log_id is None:
        return None
    offset = stray_offset(found.reader, log_tag(found.log_id), end_offset)
    if offset is None:
        return None
    data = bytes(found.reader.view[FRAMES_POSITION:])
    kept = set_aside(disk, TAIL, FRAMES_POSITION, data.rstrip(b"\0"))
    path = os.path.join(disk.path, TAIL)
    reason = (
        f"the tail has offset {offset}, but is damaged there, or the records before it are gone"
    )
    return CutTail(path, FRAMES_POSITION, len(data), reason, os.path.join(disk.path, kept))


def set_odd_tail_aside(disk: Disk, found: Found) -> list[CutTail]:
    """Make room for a new tail where the old one is not of the size it has to be.

    Raises:
        OSError: it can't be renamed.
    """
    size_bytes = disk.size_of(TAIL)
    if found.tail is not None or not size_bytes:
        return []
    kept = free_name(disk, TAIL, 0)
    disk.rename(TAIL, kept)
    disk.sync_directory()
    path, kept_path = os.path.join(disk.path, TAIL), os.path.join(disk.path, kept)
    return [CutTail(path, 0, size_bytes, "the tail is not of its size", kept_path)]


def open_tail(
    disk: Disk, found: Found, log_id: bytes, created: int, end_offset: int
) -> Tail | None:
    """The tail to write into, made new where there is none; None where none can be had.

    Raises:
        StorageError: making it failed for another reason than missing space or support.
    """
    if found.tail is not None:
        found.tail.mend_header(log_id, created)
        return found.tail
    try:
        # Nobody knows any more what of it has been synced.
        return Tail.create(disk, log_id, created, end_offset, 0)
    except OSError as error:
        if error.errno in _CANT_ALLOCATE:
            return None
        raise StorageError(error.errno, f"the tail can't be made: {error.strerror}") from error


def report_of(
    found: Found, cuts: list[CutTail], lost: list[LostRange], removed: list[str], end_offset: int
) -> RecoveryReport:
    """The report of an opening."""
    scanned_bytes = sum(scanned.scanned_bytes for scanned in found.scanned)
    from_tail = len(found.from_tail.values)
    point = found.tail.recovery_point.read() if found.tail is not None else None
    is_new = found.tail is None and not found.catalog.segments
    was_clean = not (cuts or lost or removed or from_tail) and (point == end_offset or is_new)
    return RecoveryReport(
        was_clean, tuple(cuts), tuple(lost), from_tail, tuple(removed), scanned_bytes
    )
