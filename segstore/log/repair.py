"""Repairing a log: new indexes where they are missing, damaged bytes out of the way."""

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from segstore.disk import Disk
from segstore.format.fileheader import log_tag
from segstore.log.manager import SegmentManager
from segstore.log.report import LostRange
from segstore.segment.catalog import Segment
from segstore.segment.reader import SegmentReader
from segstore.segment.repair import mend, survey


class RepairReport(NamedTuple):
    """What a repair did, or would do.

    Attributes:
        dry_run: nothing was changed.
        indexes: names of the indexes that were made anew.
        lost: the damage that was taken out; its offsets stay lost.
        set_aside: paths of the files that keep the damaged bytes; empty for a dry run.
    """

    dry_run: bool
    indexes: tuple[str, ...]
    lost: tuple[LostRange, ...]
    set_aside: tuple[str, ...]


def repair(
    disk: Disk,
    manager: SegmentManager,
    log_id: bytes,
    vouch: Callable[[], None],
    *,
    index_interval_bytes: int,
    dry_run: bool,
) -> RepairReport:
    """Look at every sealed segment and mend what needs it.

    `vouch` has something else than seals say, durably, up to where the segments are durable.

    Raises:
        SyncFailedError: that failed.
        OSError: a step failed; what could be read still can, and the next repair goes on. Of a
            segment that the device can't read in full (EIO) it comes last, behind all others.
        UnsupportedFormatError: a file is of a later format version.
    """
    indexes: list[str] = []
    lost: list[LostRange] = []
    kept: list[str] = []
    failure: OSError | None = None
    for base_offset in [segment.base_offset for segment in manager.catalog.segments]:
        # What the writer has is mended when it is sealed, perhaps at this moment.
        if any(writer.base_offset == base_offset for writer in manager.writers()):
            continue
        catalog = manager.catalog
        number = catalog.find(base_offset)
        segment, end_offset = catalog.segments[number], catalog.end_offset(number)
        assert end_offset is not None
        reader = SegmentReader(
            disk,
            segment.base_offset,
            log_tag(log_id),
            is_compressed=segment.is_compressed,
            stamp=segment.stamp,
        )
        try:
            found = survey(reader, segment)
        except OSError as error:
            # It is left: the next try may read what would be taken out of it for ever.
            if error.errno != errno.EIO:
                raise
            failure = failure or error
            continue
        if not found.damage and not found.needs_index:
            continue
        path = os.path.join(disk.path, segment.data_name)
        for spot in (part for damage in found.damage for part in damage.lost):
            stop = end_offset if spot.end_offset is None else min(spot.end_offset, end_offset)
            offsets = range(spot.offset, max(stop, spot.offset))
            lost.append(LostRange(path, spot.position, offsets, spot.reason))
        if found.needs_index:
            indexes.append(segment.index_name)
        if not dry_run:
            if found.damage:
                # A segment with a hole, and no seal any more, would be cut there as a torn one.
                vouch()
            try:
                mended, names = mend(
                    disk, segment, reader, found, log_id, end_offset, index_interval_bytes
                )
            except BaseException:
                # The plain file may have taken the place of a compressed one already, and only its
                # index be missing.
                if disk.size_of(segment.data_name) is None:
                    plain = Segment(base_offset, False, 0, None)
                    size_bytes = disk.size_of(plain.data_name) or 0
                    manager.replace(plain._replace(data_bytes=size_bytes))
                raise
            manager.replace(mended)
            kept += [os.path.join(disk.path, name) for name in names]
    if failure is not None:
        raise failure
    return RepairReport(dry_run, tuple(indexes), tuple(lost), tuple(kept))
