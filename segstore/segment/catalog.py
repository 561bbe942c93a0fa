"""Which segments a directory holds: the listing is the truth, and stamps say what is inside.

Nothing here opens a data file: for a sealed segment the size of its file and a few bytes of its
index are all it takes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from segstore.disk import Disk
from segstore.format.index import LZ4, Stamp
from segstore.format.names import (
    LZ4_INDEX_SUFFIX,
    LZ4_SUFFIX,
    RAW_INDEX_SUFFIX,
    RAW_SUFFIX,
    is_temporary,
    parse_segment_file,
    segment_file,
)
from segstore.segment.indexfile import read_stamp


class Segment(NamedTuple):
    """One segment as the catalog knows it.

    Attributes:
        base_offset: its first offset, and its name.
        is_compressed: whether its data file is the compressed one.
        data_bytes: the size of its data file, as of the listing.
        stamp: what its index says of it, or None where that is missing, damaged or not made yet.
    """

    base_offset: int
    is_compressed: bool
    data_bytes: int
    stamp: Stamp | None

    @property
    def is_sealed(self) -> bool:
        """Whether it will never change again."""
        return self.is_compressed or self.stamp is not None

    @property
    def data_name(self) -> str:
        """The name of its data file."""
        return segment_file(self.base_offset, LZ4_SUFFIX if self.is_compressed else RAW_SUFFIX)

    @property
    def index_name(self) -> str:
        """The name of its index file."""
        suffix = LZ4_INDEX_SUFFIX if self.is_compressed else RAW_INDEX_SUFFIX
        return segment_file(self.base_offset, suffix)


class Catalog:
    """The segments of a log in order of their base offsets; never changed, only replaced."""

    def __init__(self, segments: Iterable[Segment] = ()) -> None:
        self.segments = sorted(segments)
        self._bases = [segment.base_offset for segment in self.segments]

    def __len__(self) -> int:
        return len(self.segments)

    def find(self, offset: int) -> int:
        """The number of the segment that holds `offset`, in O(log n); -1 if all are above it."""
        return bisect_right(self._bases, offset) - 1

    def end_offset(self, number: int) -> int | None:
        """Where the segment with that number ends, or None if it is the last and not sealed."""
        if number + 1 < len(self.segments):
            return self._bases[number + 1]
        stamp = self.segments[number].stamp
        return None if stamp is None else stamp.end_offset

    def with_segment(self, segment: Segment) -> "Catalog":
        """A catalog with `segment` added, or in place of the one with its base offset."""
        changed = Catalog()
        changed.segments, changed._bases = self.segments.copy(), self._bases.copy()
        number = bisect_left(self._bases, segment.base_offset)
        if self._bases[number : number + 1] == [segment.base_offset]:
            changed.segments[number] = segment
        else:
            changed.segments.insert(number, segment)
            changed._bases.insert(number, segment.base_offset)
        return changed

    def without(self, base_offsets: set[int]) -> "Catalog":
        """A catalog without some segments."""
        return Catalog(s for s in self.segments if s.base_offset not in base_offsets)

    def up_to(self, end_offset: int) -> "Catalog":
        """A catalog without the segments that begin above an offset, as those being made do."""
        return Catalog(s for s in self.segments if s.base_offset <= end_offset)

    def unsealed_run(self) -> int:
        """The number of the first segment behind which none is sealed."""
        number = len(self.segments)
        while number and not self.segments[number - 1].is_sealed:
            number -= 1
        return number


class Listing(NamedTuple):
    """What a directory holds.

    Attributes:
        catalog: the segments.
        leftovers: names that an interrupted step of ours left behind and that hold nothing new.
    """

    catalog: Catalog
    leftovers: list[str]


def list_segments(disk: Disk, known: Catalog | None = None) -> Listing:
    """Read the directory; what `known` has of sealed segments is taken over unread.

    A listing made during a swap can show a segment under neither name, however often it is made.
    So one that is missing where the segment before it ends is asked for by its names.

    Raises:
        OSError: the directory can't be read.
        UnsupportedFormatError: an index is of a later format version.
    """
    names = disk.names()
    files: dict[int, set[str]] = {}
    leftovers = [name for name in names if is_temporary(name)]
    for name in names:
        parsed = parse_segment_file(name)
        if parsed is not None:
            files.setdefault(parsed[0], set()).add(parsed[1])
    before = {s.base_offset: s for s in known.segments} if known is not None else {}
    segments = []
    for base_offset, suffixes in files.items():
        # The compressed file gets its name only when it is complete, checked and synced, so where
        # it stands the plain pair is what the swap had left to remove.
        is_compressed = LZ4_SUFFIX in suffixes
        if is_compressed:
            stale = {RAW_SUFFIX, RAW_INDEX_SUFFIX}
        else:
            stale = {LZ4_INDEX_SUFFIX} if RAW_SUFFIX in suffixes else suffixes
        leftovers += [segment_file(base_offset, suffix) for suffix in sorted(suffixes & stale)]
        if not is_compressed and RAW_SUFFIX not in suffixes:
            continue
        found = before.get(base_offset)
        if found is None or found.stamp is None or found.is_compressed != is_compressed:
            found = _look(disk, base_offset, is_compressed) or _find(disk, base_offset)
        if found is not None:
            segments.append(found)
    return Listing(_with_missed(disk, Catalog(segments)), leftovers)


def _with_missed(disk: Disk, catalog: Catalog) -> Catalog:
    """With the segments that stand where sealed ones end, and not in the listing."""
    number = 0
    while number < len(catalog):
        stamp = catalog.segments[number].stamp
        # Behind the last, too: it may have been rolled and sealed since its name was listed.
        following = catalog.segments[number + 1 : number + 2]
        if stamp is not None and not (following and following[0].base_offset <= stamp.end_offset):
            missed = _find(disk, stamp.end_offset)
            catalog = catalog if missed is None else catalog.with_segment(missed)
        number += 1
    return catalog


def _find(disk: Disk, base_offset: int) -> Segment | None:
    """A segment under either name; the plain one goes only when the other is there."""
    plain = _look(disk, base_offset, is_compressed=False)
    return _look(disk, base_offset, is_compressed=True) or plain


def _look(disk: Disk, base_offset: int, is_compressed: bool) -> Segment | None:
    segment = Segment(base_offset, is_compressed, 0, None)
    size = disk.size_of(segment.data_name)
    if size is None:  # not a regular file, or gone since the listing
        return None
    stamp = read_stamp(disk, segment.index_name, base_offset)
    if stamp is not None and (
        stamp.data_bytes != size
        or bool(stamp.flags & LZ4) != is_compressed
        or stamp.end_offset <= base_offset
    ):
        stamp = None
    return Segment(base_offset, is_compressed, size, stamp)
