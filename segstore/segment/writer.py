"""The active segment: appends frames to the data file and keeps its index.

Data goes through `File.write`, never through a mapping: a store into a mapping turns a full disk
or an I/O error into SIGBUS, which Python can't catch.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from segstore.disk import Disk, File
from segstore.format.fileheader import KIND_INDEX, FileHeader, encode_file_header
from segstore.format.frame import EncodedFrame
from segstore.format.index import Stamp
from segstore.format.keyfilter import KeyFilter
from segstore.format.names import RAW_INDEX_SUFFIX, RAW_SUFFIX, segment_file
from segstore.segment.indexfile import IndexFile
from segstore.segment.source import READ_BYTES
from segstore.segment.state import Mark, SegmentState, write_sealed_index

# Positions in an index are u32; a segment of this size leaves room for one more frame.
SEGMENT_BYTES_MAX = 2 << 30


class SegmentWriter:
    """Writes one segment from its creation, or from where recovery left it, to its seal."""

    def __init__(
        self, disk: Disk, header: FileHeader, file: File, index_file: IndexFile, state: SegmentState
    ) -> None:
        self._disk = disk
        self._file = file
        self._index_file = index_file
        self._is_name_synced = False
        self._is_released = False
        self.header = header
        self.state = state
        self.base_offset = header.base_offset

    @classmethod
    def create(
        cls, disk: Disk, header: FileHeader, *, index_capacity: int, index_interval_bytes: int
    ) -> SegmentWriter:
        """A new segment. Its name is not durable before the first `sync`.

        Raises:
            NotWrittenError: a file can't be made; nothing is left behind.
            OSError: a file can't be made, or another has the name.
        """
        name = segment_file(header.base_offset, RAW_SUFFIX)
        index_name = segment_file(header.base_offset, RAW_INDEX_SUFFIX)
        try:
            index_file = IndexFile.create(disk, header._replace(kind=KIND_INDEX), index_capacity)
            try:
                file = _create_data(disk, name, header)
            except OSError:
                index_file.close()
                disk.unlink(index_name)
                raise
        except OSError as error:
            # One that a signal handler raised may have come between a file and its name here.
            if disk.size_of(name) is None and disk.size_of(index_name) is None:
                raise NotWrittenError.because_of(error) from error
            raise
        state = SegmentState(header.base_offset, index_interval_bytes)
        return cls(disk, header, file, index_file, state)

    @classmethod
    def resume(
        cls, disk: Disk, header: FileHeader, state: SegmentState, *, index_capacity: int
    ) -> SegmentWriter:
        """A segment that recovery checked, to be written on.

        Raises:
            OSError: its files can't be opened or its index can't be made.
        """
        index_header = header._replace(kind=KIND_INDEX)
        file = disk.open(segment_file(header.base_offset, RAW_SUFFIX), write=True)
        try:
            index_file = IndexFile.resume(disk, index_header, index_capacity, state.index)
        except OSError:
            file.close()
            raise
        return cls(disk, header, file, index_file, state)

    @property
    def is_index_full(self) -> bool:
        """Whether another entry may not fit, so that the segment has to roll."""
        return len(self.state.index.places) >= self._index_file.capacity

    @property
    def is_shared(self) -> bool:
        """Whether the data is that of a snapshot as well, to which nothing may be added."""
        return self._file.is_shared()

    def write(self, frames: Sequence[EncodedFrame], append_time: int) -> None:
        """Append frames, all or none.

        Raises:
            NotWrittenError: they could not be written, and the file is as it was.
            SegmentBrokenError: it could not be put back.
        """
        state = self.state
        position = state.size_bytes
        try:
            self._file.write([frame.data for frame in frames], position)
        except OSError as error:
            self._truncate(position)
            raise NotWrittenError.because_of(error) from error
        for frame in frames:
            size = len(frame.data)
            has_entry = state.add(
                position,
                size,
                frame.base_offset,
                frame.record_count,
                frame.min_timestamp,
                frame.max_timestamp,
                append_time,
                has_keys=frame.has_keys,
                entry_count_max=self._index_file.capacity,
            )
            if has_entry:
                self._index_file.put_last(state.index)
            position += size

    def cut_back(self, mark: Mark) -> None:
        """Return to an earlier state.

        Raises:
            SegmentBrokenError: the file can't be cut.
        """
        self._index_file.clear_from(mark.entry_count)
        self._truncate(mark.size_bytes)
        self.state.restore(mark)

    def write_header(self) -> None:
        """Write the file header that a power cut or damage took.

        Raises:
            OSError: it can't be written.
        """
        self._file.write([encode_file_header(self.header)], 0)

    def rewrite(self, position: int) -> None:
        """Write what stands from `position` on once more, so that the next sync covers it.

        After a failed fsync of an earlier process the cache may hold pages marked clean that the
        device never got; only a page written again is brought there.

        Raises:
            OSError: it can't be read or written.
        """
        while position < self.state.size_bytes:
            data = self._file.read(min(READ_BYTES, self.state.size_bytes - position), position)
            self._file.write([data], position)
            position += len(data)

    def rewrite_index(self) -> None:
        """The same for the index.

        Raises:
            OSError: it can't be written.
        """
        self._index_file.rewrite(len(self.state.index))

    def sync(self, *, with_index: bool = False) -> None:
        """Bring the data to the device, the first time with its names; the index if asked.

        Raises:
            OSError: a sync failed, and what is on the device is unknown.
        """
        if self._is_released:
            return
        if self._is_name_synced:
            self._file.sync(data_only=True)
        else:
            self._file.sync()
            self._disk.sync_directory()
            self._is_name_synced = True
        if with_index:
            self._index_file.sync()

    def release(self) -> None:
        """Close the files once all is synced and nothing more is written: there is but the seal."""
        self._is_released = True
        self.close()

    def seal(self, key_filter: KeyFilter | None) -> Stamp:
        """Put the stamped index in place and sync the names.

        The data has been synced before: a failure there is another matter than one here, which
        costs nothing but the seal.

        Raises:
            OSError: a step failed; the segment stays unsealed, and can be sealed again.
        """
        data_bytes = self._disk.size_of(segment_file(self.base_offset, RAW_SUFFIX))
        if data_bytes is None:  # whoever reads it is told; those behind it get their seal
            data_bytes = self.state.size_bytes
        name = segment_file(self.base_offset, RAW_INDEX_SUFFIX)
        stamp = write_sealed_index(
            self._disk, name, self.header, self.state, key_filter, data_bytes=data_bytes
        )
        self._disk.sync_directory()
        return stamp

    def discard(self) -> None:
        """Remove a segment that never held an acknowledged record."""
        self.close()
        self._disk.unlink(segment_file(self.base_offset, RAW_SUFFIX))
        self._disk.unlink(segment_file(self.base_offset, RAW_INDEX_SUFFIX))

    def close(self) -> None:
        """Close the files as they are."""
        self._index_file.close()
        self._file.close()

    def _truncate(self, size_bytes: int) -> None:
        try:
            self._file.truncate(size_bytes)
            # Else a power cut could bring refused records back, behind those that came after them.
            self._file.sync()
        except OSError as error:
            raise SegmentBrokenError(error.errno or errno.EIO, str(error)) from error


def _create_data(disk: Disk, name: str, header: FileHeader) -> File:
    file = disk.open(name, write=True, create=True)
    try:
        file.write([encode_file_header(header)], 0)
    except OSError:
        file.close()
        disk.unlink(name)
        raise
    return file


class NotWrittenError(OSError):
    """A write failed, and everything is as it was before.

    Any other OSError says nothing of that: a signal handler may raise one, such as TimeoutError,
    between any two steps.
    """

    @classmethod
    def because_of(cls, error: OSError) -> NotWrittenError:
        """With the number and the text of `error`."""
        return cls(error.errno or errno.EIO, error.strerror or str(error))


class SegmentBrokenError(OSError):
    """A failed write could not be undone: the file ends in bytes that nobody acknowledged."""
