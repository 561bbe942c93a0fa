"""The segments that are open for reading, and what is kept of those that were."""

import errno
from collections import OrderedDict
from typing import NamedTuple, Protocol

from segstore.mutex import new_mutex
from segstore.segment.catalog import Catalog, Segment
from segstore.segment.reader import SegmentReader

# Of indexes, key filters and decoded chunks together. A full segment of 64 MiB has 8 KiB of index
# where its frames are full too, 256 KiB at the most, and a byte and a quarter of filter for each
# key. An open one that is compressed keeps a chunk of 128 KiB decoded.
KEPT_BYTES_MAX = 32 * 1024 * 1024


class OpenSegment(Protocol):
    """How a segment is opened, or its index only."""

    def __call__(self, segment: Segment, *, with_file: bool = True) -> SegmentReader:
        """See `LogView.open_segment`."""


class _Kept(NamedTuple):
    segment: Segment
    reader: SegmentReader
    size_bytes: int


class OpenSegments:
    """Readers of segments, kept until others take their place; the oldest go first.

    First they lose their files, which costs the next look an `open`; and then, by the size of what
    is kept of them, everything. Whoever uses a reader keeps its file open for as long.
    May be used from any number of threads.
    """

    def __init__(self, open_segment: OpenSegment, files_max: int) -> None:
        self.size_bytes = 0
        self._open_segment = open_segment
        self._files_max = files_max
        self._open: OrderedDict[int, _Kept] = OrderedDict()
        self._closed: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = new_mutex()
        self._clear_count = 0
        self._is_closed = False

    def get(self, segment: Segment) -> SegmentReader | None:
        """The reader of a segment; None if its file is gone.

        Raises:
            OSError: it can't be opened.
        """
        found = self._open.get(segment.base_offset)
        if found is not None and (found[0] is segment or found[0] == segment):
            return found[1]
        clear_count = self._clear_count
        try:
            reader = self._opened(segment)
        except FileNotFoundError:
            return None
        self._add(self._open, segment, reader, clear_count)
        return reader

    def look(self, segment: Segment) -> SegmentReader:
        """What the index says of a segment, from a reader that may have no file open.

        Raises:
            OSError: the index can't be read for want of descriptors or memory.
        """
        for those in (self._open, self._closed):
            kept = those.get(segment.base_offset)
            if kept is not None and kept.segment == segment:
                return kept.reader
        clear_count = self._clear_count
        reader = self._open_segment(segment, with_file=False)
        self._add(self._closed, segment, reader, clear_count)
        return reader

    def _add(
        self,
        those: OrderedDict[int, _Kept],
        segment: Segment,
        reader: SegmentReader,
        clear_count: int,
    ) -> None:
        with self._lock:
            # It may be of the log as it was before, or of one that was closed meanwhile.
            if clear_count != self._clear_count or self._is_closed:
                return
            self._drop(segment.base_offset)
            those[segment.base_offset] = _Kept(segment, reader, reader.size_bytes)
            self.size_bytes += reader.size_bytes
            self._close_oldest(self._files_max)
            while self.size_bytes > KEPT_BYTES_MAX and len(self._open) + len(self._closed) > 1:
                self._drop(next(iter(self._closed or self._open)))

    def keep(self, catalog: Catalog) -> None:
        """Let go of files that were swapped or deleted: an open one still takes up space."""
        known = {segment.base_offset: segment for segment in catalog.segments}
        with self._lock:
            for base_offset, kept in [*self._open.items(), *self._closed.items()]:
                if known.get(base_offset) != kept.segment:
                    self._drop(base_offset)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._clear_count += 1
            self._open.clear()
            self._closed.clear()
            self.size_bytes = 0

    def close(self) -> None:
        """Let go of all, and keep nothing from now on."""
        self._is_closed = True
        self.clear()

    def _opened(self, segment: Segment) -> SegmentReader:
        closed = self._closed.get(segment.base_offset)
        try:
            if closed is not None and closed.segment == segment:
                return closed.reader.reopened()
            return self._open_segment(segment)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
        # The program needs its descriptors for other things; those held here can be had again.
        with self._lock:
            self._close_oldest(0)
        return self._open_segment(segment)

    def _close_oldest(self, count: int) -> None:
        while len(self._open) > count:
            base_offset, kept = self._open.popitem(last=False)
            reader = kept.reader.without_file()
            self._closed[base_offset] = _Kept(kept.segment, reader, reader.size_bytes)
            self.size_bytes += reader.size_bytes - kept.size_bytes

    def _drop(self, base_offset: int) -> None:
        for those in (self._open, self._closed):
            kept = those.pop(base_offset, None)
            if kept is not None:
                self.size_bytes -= kept.size_bytes
