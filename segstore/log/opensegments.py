"""The segments that are open for reading, as many as descriptors and memory allow."""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable

from segstore.disk import descriptor_limit
from segstore.segment.catalog import Catalog, Segment
from segstore.segment.reader import SegmentReader

# Each takes a descriptor, and the program needs the others: of the 1,024 that most systems allow,
# reading a log takes 256 at most, which is 16 GiB of segments of the default size.
OPEN_SEGMENTS_MAX = 1024
DESCRIPTOR_SHARE = 4
# 16 bytes each. A segment of 64 MiB has 512 where its frames are full, and 16,384 at the most.
INDEX_ENTRIES_MAX = 1 << 20


class OpenSegments:
    """Readers of segments, kept until others take their place; the oldest go first.

    Whoever uses one keeps its file open for as long. May be used from any number of threads.
    """

    def __init__(self, open_segment: Callable[[Segment], SegmentReader]) -> None:
        self._open_segment = open_segment
        self._limit = min(OPEN_SEGMENTS_MAX, max(1, descriptor_limit() // DESCRIPTOR_SHARE))
        self._readers: OrderedDict[int, tuple[Segment, SegmentReader]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._readers)

    def get(self, segment: Segment) -> SegmentReader | None:
        """The reader of a segment; None if its file is gone.

        Raises:
            OSError: it can't be opened.
        """
        found = self._readers.get(segment.base_offset)
        if found is not None and (found[0] is segment or found[0] == segment):
            return found[1]
        try:
            reader = self._open(segment)
        except FileNotFoundError:
            return None
        with self._lock:
            self._readers[segment.base_offset] = segment, reader
            entry_count = sum(reader.entry_count for _, reader in self._readers.values())
            while len(self._readers) > 1 and (
                len(self._readers) > self._limit or entry_count > INDEX_ENTRIES_MAX
            ):
                entry_count -= self._readers.popitem(last=False)[1][1].entry_count
        return reader

    def keep(self, catalog: Catalog) -> None:
        """Let go of files that were swapped or deleted: an open one still takes up space."""
        known = {segment.base_offset: segment for segment in catalog.segments}
        with self._lock:
            gone = {
                base_offset
                for base_offset, (segment, _) in self._readers.items()
                if known.get(base_offset) != segment
            }
            for base_offset in gone:
                del self._readers[base_offset]

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._readers.clear()

    def _open(self, segment: Segment) -> SegmentReader:
        try:
            return self._open_segment(segment)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._readers:
                raise
        # The program needs its descriptors for other things; those held here can be had again.
        self.clear()
        return self._open_segment(segment)
