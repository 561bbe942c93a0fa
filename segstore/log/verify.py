"""Checking every byte of every segment."""

from __future__ import annotations

import os
from contextlib import suppress

from segstore.disk import Disk
from segstore.format.fileheader import KIND_CONSUMER, KIND_START
from segstore.format.names import START, is_known, parse_consumer_file
from segstore.format.scanner import Damage, readable
from segstore.log.report import LostRange, RecoveryReport, VerifyReport
from segstore.log.view import LogView
from segstore.segment.catalog import Segment
from segstore.segment.checkpointfile import look_into
from segstore.segment.reader import SegmentReader
from segstore.segment.tailreader import read_tail


def verify(view: LogView, found: RecoveryReport) -> VerifyReport:
    """Read the whole log through the one scanner, without trusting any index.

    `found` is what a reader found at the end, which the next writer has to put right; it is empty
    for the writer.

    Raises:
        OSError: a file can't be read.
        UnsupportedFormatError: a frame is of a later format version.
    """
    staged = read_tail(view.tail)
    # Before the listing, so that a segment which a writer at work starts meanwhile is in it.
    written_end = view.written_end()
    view.refresh()
    catalog = view.catalog
    record_count = size_bytes = 0
    lost: list[LostRange] = []
    notes = _notes(view.disk) + [
        f"{cut.size_bytes} bytes at byte {cut.position} of {os.path.basename(cut.path)} are no "
        f"records: {cut.reason}; the next writer sets them aside, unless it is writing them now"
        for cut in found.cut
    ]
    start_offset = view.start_offset()
    expected = start_offset
    path = view.disk.path
    for number, segment in enumerate(catalog.segments):
        path = os.path.join(view.disk.path, segment.data_name)
        if segment.base_offset > expected:
            missing = range(expected, segment.base_offset)
            lost.append(LostRange(path, 0, missing, "no file holds these offsets"))
        end = catalog.end_offset(number)
        limit = written_end if end is None else end
        opened = _open(view, segment)
        if opened is None:
            # Retention moves the start first.
            start = max(expected, segment.base_offset, view.start_offset())
            missing = range(start, _still(view, limit))
            if missing:
                lost.append(LostRange(path, 0, missing, "the file is missing"))
            expected = max(expected, limit)
            continue
        segment, reader = opened
        path = os.path.join(view.disk.path, segment.data_name)
        if segment.stamp is None and (segment.is_compressed or end is not None):
            notes.append(
                f"{segment.index_name} is not sealed yet, missing or damaged; the writer, or the "
                f"next to open the log, makes it"
            )
        expected = max(segment.base_offset, start_offset)
        for event in reader.events_unindexed(reads_on=True):
            if isinstance(event, Damage):
                for part in event.lost:
                    # What nothing follows is damage up to where records were written, and behind
                    # that a write under way.
                    stop = limit if part.end_offset is None else min(part.end_offset, limit)
                    missing = range(max(part.offset, start_offset), _still(view, stop))
                    if missing:
                        lost.append(LostRange(path, part.position, missing, part.reason))
                    expected = max(expected, stop)
            else:
                size_bytes += event.size_bytes
            for batch in readable(event):
                # The log may start in it, and end in it where a truncation is pending. Readers go
                # on in the next segment where that begins, though this one may have more: a copy
                # can have it as of before a truncation.
                stop = batch.end_offset if end is None else min(batch.end_offset, end)
                offsets = range(max(batch.base_offset, start_offset), min(stop, view.end_offset()))
                expected = max(expected, offsets.stop)
                try:
                    batch.records()
                    record_count += len(offsets)
                except ValueError as error:
                    if offsets:
                        lost.append(LostRange(path, event.position, offsets, str(error)))
        missing = range(expected, _still(view, limit))
        if missing:
            lost.append(LostRange(path, 0, missing, "the segment ends too early"))
        expected = max(expected, limit)
        notes += _header_notes(segment, reader)
    missing = range(expected, _still(view, written_end))
    if missing:  # no segment starts there, but records were written
        lost.append(LostRange(path, 0, missing, "the log ends too early"))
    # Where the tail had promised them, no segment tells of them until a writer goes on behind.
    lost += [part for part in found.lost if part.offsets.start >= written_end]
    return VerifyReport(
        record_count + len(staged.since(max(expected, written_end)).values),
        size_bytes,
        tuple(lost),
        tuple(notes),
    )


def _still(view: LogView, end_offset: int) -> int:
    """An end as it is by now: a truncation moves that of the log first, and then the files."""
    return min(end_offset, view.written_end())


def _notes(disk: Disk) -> list[str]:
    """What of the files beside the segments is odd."""
    notes = []
    for name in sorted(disk.names()):
        consumer = parse_consumer_file(name)
        if not is_known(name):
            notes.append(f"{name!r} is not a file of a log; it is left alone")
        elif name == START and _is_damaged(disk, name, KIND_START):
            notes.append(f"{name} is damaged; the log starts where its first file does")
        elif consumer is not None and _is_damaged(disk, name, KIND_CONSUMER):
            notes.append(f"{name} is damaged; where consumer {consumer!r} was is not known")
    return notes


def _is_damaged(disk: Disk, name: str, kind: bytes) -> bool:
    try:
        found, is_finished = look_into(disk, name, kind)
    except FileNotFoundError:  # a consumer that was removed since the listing
        return False
    return found is None and (is_finished or kind != KIND_CONSUMER)


def _open(view: LogView, segment: Segment) -> tuple[Segment, SegmentReader] | None:
    """A segment as it is by now, opened; None if it is not there.

    Of thousands that are just being compressed, one look at the directory finds a good many.
    """
    for has_looked in (False, True):
        if has_looked:
            view.refresh()
        catalog = view.catalog
        number = catalog.find(segment.base_offset)
        if number >= 0 and catalog.segments[number].base_offset == segment.base_offset:
            found = catalog.segments[number]
            with suppress(FileNotFoundError):
                return found, view.open_segment(found)
    return None


def _header_notes(segment: Segment, reader: SegmentReader) -> list[str]:
    if reader.has_intact_header():
        return []
    return [f"the header of {segment.data_name} is damaged, which costs no record"]
