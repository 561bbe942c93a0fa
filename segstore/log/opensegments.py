"""The segments that are open for reading, and what is kept of those that were."""

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from segstore.segment.catalog import Catalog, Segment
from segstore.segment.reader import SegmentReader

# 16 bytes each. A segment of 64 MiB has 512 where its frames are full, and 16,384 at the most.
CLOSED_ENTRIES_MAX = 1 << 20


class _Closed(NamedTuple):
    segment: Segment
    reader: SegmentReader
    entry_count: int


class OpenSegments:
    """Readers of segments, kept until others take their place; the oldest go first.

    First they lose their files, which costs the next look an `open`; and then, by the size of their
    indexes, everything. Whoever uses a reader keeps its file open for as long. May be used from any
    number of threads.
    """

    def __init__(self, open_segment: Callable[[Segment], SegmentReader], files_max: int) -> None:
        self._open_segment = open_segment
        self._files_max = files_max
        self._open: OrderedDict[int, tuple[Segment, SegmentReader]] = OrderedDict()
        self._closed: OrderedDict[int, _Closed] = OrderedDict()
        self._closed_entry_count = 0
        self._lock = threading.Lock()

    def get(self, segment: Segment) -> SegmentReader | None:
        """The reader of a segment; None if its file is gone.

        Raises:
            OSError: it can't be opened.
        """
        found = self._open.get(segment.base_offset)
        if found is not None and (found[0] is segment or found[0] == segment):
            return found[1]
        try:
            reader = self._opened(segment)
        except FileNotFoundError:
            return None
        with self._lock:
            self._drop_closed(segment.base_offset)
            self._open[segment.base_offset] = segment, reader
            self._close_oldest(self._files_max)
        return reader

    def keep(self, catalog: Catalog) -> None:
        """Let go of files that were swapped or deleted: an open one still takes up space."""
        known = {segment.base_offset: segment for segment in catalog.segments}
        with self._lock:
            for base_offset, (segment, _) in list(self._open.items()):
                if known.get(base_offset) != segment:
                    del self._open[base_offset]
            for base_offset, closed in list(self._closed.items()):
                if known.get(base_offset) != closed.segment:
                    self._drop_closed(base_offset)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._open.clear()
            self._closed.clear()
            self._closed_entry_count = 0

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
        """Until `count` files are open, and the indexes of the others not too large."""
        while len(self._open) > count:
            base_offset, (segment, reader) = self._open.popitem(last=False)
            self._drop_closed(base_offset)
            self._closed[base_offset] = _Closed(segment, reader.without_file(), reader.entry_count)
            self._closed_entry_count += reader.entry_count
        while self._closed_entry_count > CLOSED_ENTRIES_MAX:
            self._drop_closed(next(iter(self._closed)))

    def _drop_closed(self, base_offset: int) -> None:
        closed = self._closed.pop(base_offset, None)
        if closed is not None:
            self._closed_entry_count -= closed.entry_count
