"""A consistent copy of a live log: links to what never changes, a copy of what still grows.

The copy is built in a directory of its own beside the target, brought to the device, and then gets
its name by one rename: there is a whole snapshot, or none.
"""

import errno
import os
from typing import NamedTuple

from segstore.disk import Disk, File, OsDisk, publish_directory, remove_directory
from segstore.errors import LogLockedError, StorageError
from segstore.format.buffers import padding
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_CONSUMER,
    KIND_SEGMENT,
    KIND_START,
    FileHeader,
    encode_file_header,
)
from segstore.format.names import (
    LOCK,
    RAW_SUFFIX,
    START,
    consumer_file,
    is_known,
    segment_file,
)
from segstore.format.scanner import Damage
from segstore.log.consumer import registered
from segstore.log.lock import leave_lock, take_lock
from segstore.log.truncation import begin_truncation, pending_truncation
from segstore.log.view import LogView
from segstore.segment.catalog import Catalog, Segment
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.source import READ_BYTES
from segstore.segment.tail import Tail
from segstore.segment.tailreader import NO_RECORDS, Staged, read_tail

# Hidden, so that nobody has a log of that name.
BUILDING_NAME = ".{}.snapshot"
ATTEMPT_COUNT_MAX = 20


class _ChangedError(Exception):
    """The log changed under the copy: a file was swapped, deleted or drained into."""


class SnapshotReport(NamedTuple):
    """What a snapshot holds.

    Attributes:
        path: its directory, a log of its own.
        start_offset, end_offset: the offsets in it, the second one past the last.
        linked_count: how many files are hard links, which take no space of their own.
        copied_bytes: how many bytes were copied.
    """

    path: str
    start_offset: int
    end_offset: int
    linked_count: int
    copied_bytes: int


def take_snapshot(view: LogView, path: str, log_id: bytes, created: int) -> SnapshotReport:
    """Copy a log to `path`, which must not exist.

    Raises:
        StorageError: `path` exists, or the log changes faster than it can be copied.
        OSError: a file can't be read or written.
    """
    path = path.rstrip("/") or path
    building = os.path.join(os.path.dirname(path), BUILDING_NAME.format(os.path.basename(path)))
    _check_free(path)
    try:
        target = OsDisk(building, create=True)
        lock = take_lock(target)
    except LogLockedError:
        raise StorageError(errno.EBUSY, f"another snapshot to {path} is under way") from None
    except BaseException:
        remove_directory(building)  # only where it is empty
        raise
    try:
        _check_free(path)  # once more: the directory at hand may be one that has got its name
        if not _is_at(building, lock):  # and another one since, or lost its lock in a clean-up
            raise StorageError(errno.EBUSY, f"another snapshot to {path} has just ended; try again")
        report = _build(view, target, path, log_id, created)
        publish_directory(building, path)
    except BaseException:
        if _is_at(building, lock):  # else it has got its name
            _empty(target)
            target.unlink(LOCK)
            remove_directory(building)
        raise
    finally:
        leave_lock(lock)
        target.close()
    return report


def _check_free(path: str) -> None:
    if os.path.lexists(path):
        raise StorageError(errno.EEXIST, f"{path} exists; a snapshot makes its own directory")


def _is_at(building: str, lock: File) -> bool:
    """Whether a lock guards what is built there now."""
    try:
        return OsDisk(building).is_named(lock, LOCK)
    except FileNotFoundError:
        return False


def _build(view: LogView, target: OsDisk, path: str, log_id: bytes, created: int) -> SnapshotReport:
    for _ in range(ATTEMPT_COUNT_MAX):
        _empty(target)  # also of an attempt that was interrupted
        try:
            report = _copy(view, target, path, log_id, created)
            break
        except (FileNotFoundError, _ChangedError) as error:
            last = error  # once more, as it is now
    else:
        raise StorageError(
            errno.EAGAIN,
            f"the log changed faster than it could be copied, or lacks a file ({last}); try "
            "again, and see what verify() says",
        ) from last
    target.sync_directory()
    return report


def _copy(view: LogView, target: OsDisk, path: str, log_id: bytes, created: int) -> SnapshotReport:
    epoch, ends_at = view.epoch(), pending_truncation(view.disk)
    view.refresh()
    start_offset, acknowledged = view.start_offset(), view.end_offset()
    staged = read_tail(view.tail)
    catalog, written_end = _segments(view)
    end_offset = start_offset
    linked_count = copied_bytes = following = 0
    while following < len(catalog):
        number, segment = following, catalog.segments[following]
        following += 1
        if segment.is_sealed:
            names = [segment.data_name] + [segment.index_name] * (segment.stamp is not None)
            for name in names:
                try:
                    if view.disk.link(name, target):
                        linked_count += 1
                    else:
                        copied_bytes += _copy_file(view.disk, name, target)
                except FileNotFoundError:
                    # An index that is lost is made anew; not so one that was swapped with its data,
                    # or that a truncation removed, behind which the data is another file.
                    has_data = name == segment.index_name and view.disk.size_of(segment.data_name)
                    if not has_data or pending_truncation(view.disk) is not None:
                        raise
            end_offset = catalog.end_offset(number) or end_offset
            continue
        is_last = number + 1 == len(catalog)
        if (
            is_last
            and segment.base_offset == acknowledged
            and (view.disk.size_of(segment.data_name) or 0) < FILE_HEADER_BYTES
        ):
            continue  # a roll that was killed in the middle
        behind = staged if is_last else NO_RECORDS
        copied, end_offset = _copy_growing(view, segment, target, written_end, behind)
        copied_bytes += copied
        if is_last and end_offset < written_end:
            # Rolled since the look at the segments, maybe in the middle of a batch: its rest too.
            view.refresh()
            catalog, written_end = _segments(view)
            following = catalog.find(segment.base_offset) + 1
    if end_offset < acknowledged and view.is_as_found():
        # What is lost at its end is lost in the copy as well, and the tail may go on behind it.
        if end_offset < written_end and staged.since(written_end).values:
            header = FileHeader(KIND_SEGMENT, written_end, log_id, created)
            copied_bytes += _write_staged(target, header, staged.since(written_end))
        end_offset = acknowledged
    if end_offset < acknowledged:
        raise _ChangedError("records that it ended with are gone")
    header = FileHeader(KIND_START, 0, log_id, created)
    CheckpointFile.create(target, START, header, start_offset).close()
    if ends_at is not None:  # whoever opens the copy to write carries it out, as here
        begin_truncation(target, log_id, created, ends_at)
        end_offset = min(end_offset, ends_at)
    # It vouches for the copy: what goes bad there later is damage, and no write that was cut short.
    Tail.create(target, log_id, created, end_offset, end_offset).close()
    for name, (committed, _) in registered(view.disk).items():
        header = FileHeader(KIND_CONSUMER, 0, log_id, created)
        CheckpointFile.create(target, consumer_file(name), header, committed).close()
    # Of a log that was opened in the middle of a truncation the view has no epoch.
    if view.epoch() != epoch or pending_truncation(view.disk) != ends_at:
        raise _ChangedError("the log was truncated")
    return SnapshotReport(path, start_offset, end_offset, linked_count, copied_bytes)


def _segments(view: LogView) -> tuple[Catalog, int]:
    """The segments that are known, and up to where they are to be copied.

    Asked for together: a copy that goes on to where the log ends by then never catches up with a
    writer that is faster. A segment that a write under way begins is not known yet.
    """
    catalog, written_end = view.catalog, view.written_end()
    return catalog.up_to(written_end), written_end


def _copy_growing(
    view: LogView, segment: Segment, target: Disk, written_end: int, staged: Staged
) -> tuple[int, int]:
    """Copy an unsealed segment up to `written_end`, and behind the last one what was `staged`.

    Returns how many bytes that were, and the end offset.
    """
    reader = view.open_segment(segment)
    end_position, end_offset = FILE_HEADER_BYTES, segment.base_offset
    damage: Damage | None = None  # with nothing intact behind it
    for event in reader.events_unindexed():
        if isinstance(event, Damage):
            damage = event if event.offset < written_end else damage
        elif event.batch.base_offset < written_end:  # a truncation may be going to end in it
            end_position = event.position + event.size_bytes
            end_offset = event.batch.end_offset
            damage = None
    if damage is None and end_offset < written_end:
        staged = NO_RECORDS  # the rest is in a segment that was begun since
    # The bytes as they are, damage and all: a copy is no place to lose what may be mended. But the
    # tail may still have what went bad at the end.
    if damage is not None and not staged.since(end_offset).values:
        end_position = damage.end_position
        end_offset = damage.end_offset or written_end
    staged = staged.since(end_offset)
    file = target.open(segment.data_name, write=True, create=True)
    try:
        position = 0
        while position < end_position:
            data = reader.source.read(min(READ_BYTES, end_position - position), position)
            if not data:
                raise _ChangedError(f"{segment.data_name} is cut short")
            file.write([data], position)
            position += len(data)
        position += padding(position)
        if staged.values:
            frame = staged.batch().frame
            file.write([frame], position)
            position += len(frame)
            end_offset = staged.end_offset
        file.sync()
    finally:
        file.close()
    return position, end_offset


def _write_staged(target: Disk, header: FileHeader, staged: Staged) -> int:
    """A segment of what was `staged`; its size."""
    head, frame = encode_file_header(header), staged.batch().frame
    file = target.open(segment_file(header.base_offset, RAW_SUFFIX), write=True, create=True)
    try:
        file.write([head, frame], 0)
        file.sync()
    finally:
        file.close()
    return len(head) + len(frame)


def _copy_file(disk: Disk, name: str, target: Disk) -> int:
    """Copy a file that never changes; its size."""
    source = disk.open(name)
    copy = target.open(name, write=True, create=True)
    try:
        position = 0
        while data := source.read(READ_BYTES, position):
            copy.write([data], position)
            position += len(data)
        copy.sync()
    finally:
        source.close()
        copy.close()
    return position


def _empty(target: Disk) -> None:
    """Remove what an attempt left; nothing else is ever in this directory."""
    for name in target.names():
        if is_known(name) and name != LOCK:
            target.unlink(name)
