"""Files that change or lie under the scan: it always comes to an end."""

import random
import tempfile
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.disk import OsDisk
from segstore.format.chunk import CHUNK_BYTES_MAX, LZ4_MAGIC, encode_chunk
from segstore.format.frame import encode_frame
from segstore.format.index import OffsetIndex
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, segment_file
from segstore.format.scanner import Damage, Frame, Scanner
from segstore.segment.scanning import scan
from segstore.segment.source import (
    READ_BYTES,
    ChunkTable,
    Lz4Source,
    RawSource,
    UnreadableError,
    walk_chunks,
)

TAG = 5
pytestmark = pytest.mark.timeout(30)


def frame(base_offset, size=5000):
    return encode_frame(
        base_offset, [b"v" * size], 5, None, append_time=1, log_tag=TAG, durable_offset=0
    ).data


def make(disk, suffix, data):
    name = segment_file(0, suffix)
    file = disk.open(name, write=True, create=True)
    file.write([data], 0)
    return file


@pytest.mark.parametrize("left", [0, 1, 63, 64, 100, 4000])
def test_a_file_that_shrinks_under_the_scan_ends_it(path, left):
    disk = OsDisk(path, create=True)
    data = bytes(64) + frame(0) + frame(1)
    file = make(disk, RAW_SUFFIX, data)
    source = RawSource(disk, 0)
    end = source.size()
    file.truncate(64 + len(frame(0)) + left)
    events = list(scan(source, Scanner(TAG, 0, 64), end))
    assert [type(event) for event in events[:1]] == [Frame]
    assert all(isinstance(event, Damage) for event in events[1:])


def test_a_claim_over_an_unreadable_chunk_ends_and_what_follows_is_read(path):
    disk = OsDisk(path, create=True)
    liar = bytearray(frame(0))
    liar[8:12] = (1 << 20).to_bytes(4, "little")  # more than its chunk holds
    raw = [bytes(64) + bytes(liar), frame(1), frame(2)]
    chunks = [encode_chunk(data, "lz4") for data in raw]
    chunks[1] = bytes(len(chunks[1]))
    make(disk, LZ4_SUFFIX, b"".join(chunks))
    raw_positions, positions = [0], [0]
    for data, chunk in zip(raw, chunks):
        raw_positions.append(raw_positions[-1] + len(data))
        positions.append(positions[-1] + len(chunk))
    source = Lz4Source(disk, 0, ChunkTable(raw_positions, positions))
    events = list(scan(source, Scanner(TAG, 0, 64), source.size()))
    assert [e.batch.base_offset for e in events if isinstance(e, Frame)] == [2]
    damages = [event for event in events if isinstance(event, Damage)]
    assert [(damage.offset, damage.end_offset) for damage in damages] == [(0, 2)]


def scanned(path, frames, index):
    """The offsets of the frames that a scan finds, and how many bytes it read at a time."""
    disk = OsDisk(path, create=True)
    make(disk, RAW_SUFFIX, bytes(64) + b"".join(frames))
    source = RawSource(disk, 0, index)
    reads = []

    def counting(size_bytes, position):
        data = file_read(size_bytes, position)
        reads.append(len(data))
        return data

    file_read, source.read = source.read, counting
    events = list(scan(source, Scanner(TAG, 0, 64), source.size()))
    return [event.batch.base_offset for event in events], reads


def index_of(frames, interval_bytes=0):
    index, position, last = OffsetIndex(), 64, -interval_bytes
    for number, data in enumerate(frames):
        if position - last >= interval_bytes:
            index.add(number, position, 5)
            last = position
        position += len(data)
    return index


@pytest.mark.parametrize("size", [100, 5000, 66_000, 110_000, 135_000, 200_000, 400_000, 1 << 20])
@pytest.mark.parametrize("interval_bytes", [0, 4096])
def test_with_an_index_every_byte_is_read_once(path, size, interval_bytes):
    sizes = random.Random(size)
    frames = [frame(n, sizes.randint(size // 2, size)) for n in range(max(20, 4_000_000 // size))]
    offsets, reads = scanned(path, frames, index_of(frames, interval_bytes))
    assert offsets == list(range(len(frames)))
    # But for the last frame, whose end no entry tells.
    assert sum(reads) <= sum(map(len, frames)) + READ_BYTES
    assert sum(reads) > len(reads) * min(READ_BYTES // 2, size // 2)


@given(st.lists(st.integers(1, 300_000), max_size=30))
def test_an_index_that_lies_only_changes_how_much_is_read_at_a_time(steps):
    frames = [frame(number, 50_000) for number in range(30)]
    index = OffsetIndex()
    for number, position in enumerate(accumulate(steps)):
        index.add(number, position, 5)
    with tempfile.TemporaryDirectory() as path:
        offsets, reads = scanned(path, frames, index)
    assert offsets == list(range(30))
    assert max(reads) <= READ_BYTES


def test_entries_far_apart_do_not_make_a_read_as_large(path):
    frames = [frame(number, 100_000) for number in range(120)]
    offsets, reads = scanned(path, frames, index_of(frames, 6_000_000))
    assert offsets == list(range(120))
    assert reads[0] == READ_BYTES
    assert READ_BYTES < max(reads) <= 4 << 20


def test_without_an_index_what_is_read_at_a_time_is_no_more_than_it_takes(path):
    frames = [frame(number, 100_000 + 300_000 * (number == 5)) for number in range(12)]
    offsets, reads = scanned(path, frames, None)
    assert offsets == list(range(12))
    assert max(reads) == len(frames[5])


# The header with one frame, small ones, one in several blocks, and one that can't be compressed.
RAWS = [
    b"file header" + bytes(53) + frame(0),
    bytes(8),
    *(frame(number, 40_000) for number in range(1, 4)),
    bytes(5 << 20),
    random.Random(1).randbytes(1 << 20),
    random.Random(2).randbytes(8),
]
CHUNKS = [encode_chunk(raw, "lz4") for raw in RAWS]
STARTS = [0, *accumulate(map(len, CHUNKS))]
RAW_STARTS = [0, *accumulate(map(len, RAWS))]


def chunked(path, data, table=None):
    disk = OsDisk(path, create=True)
    make(disk, LZ4_SUFFIX, data)
    return Lz4Source(disk, 0, table)


def found(path, data):
    """Where the chunks of a file seem to be, without an index: in it, and in the plain segment."""
    disk = OsDisk(path, create=True)
    table = walk_chunks(make(disk, LZ4_SUFFIX, data))
    return list(table.positions), list(table.raw_positions)


class Counted:
    """A file that counts what is read of it."""

    def __init__(self, file):
        self._file = file
        self.size = file.size
        self.reads = []

    def read(self, size_bytes, position):
        data = self._file.read(size_bytes, position)
        self.reads.append(len(data))
        return data


@pytest.mark.parametrize("table", [ChunkTable(RAW_STARTS, STARTS), None])
def test_a_compressed_segment_is_read_as_the_plain_one(path, table):
    source = chunked(path, b"".join(CHUNKS), table)
    plain = b"".join(RAWS)
    assert source.size() == len(plain)
    assert source.chunk_starts() == STARTS[:-1]
    assert source.descriptor is None
    edges = [
        start + step for start in RAW_STARTS for step in (-8, -1, 0, 1, 8) if start + step >= 0
    ]
    for position in edges:
        for size_bytes in (1, 7, 8, 9, 5000, 50_000):
            data = source.read(size_bytes, position)
            assert data == plain[position : position + size_bytes]
        if position < len(plain):
            chunk = max(n for n, start in enumerate(RAW_STARTS) if start <= position)
            assert source.chunk_of(position) == chunk
            assert source.ahead(position) == RAW_STARTS[chunk + 1] - position
            assert source.keeps_chunk_at(position) == (len(RAWS[chunk]) <= 1 << 20)
    assert source.read(len(plain) + 1, 0) == plain
    assert source.kept_bytes == len(RAWS[0])


def test_where_plain_bytes_stand_in_a_compressed_file(path):
    source = chunked(path, b"".join(CHUNKS))
    for first, start in enumerate(RAW_STARTS[:-1]):
        for last, end in enumerate(RAW_STARTS[1:]):
            if first <= last:
                assert source.file_span(start, end) == (STARTS[first], STARTS[last + 1])
                assert source.file_span(start + 1, end - 1) == (STARTS[first], STARTS[last + 1])
        assert source.file_span(start, start) == (STARTS[first], STARTS[first + 1])
        assert source.file_span(0, start + 1) == (0, STARTS[first + 1])


def test_a_chunk_that_is_not_too_large_stays_decoded(path):
    source = chunked(path, b"".join(CHUNKS))
    source._file = file = Counted(source._file)
    for number, start in enumerate(RAW_STARTS[:-1]):
        file.reads.clear()
        for position in (start, start, start + 5):
            source.read(2, position)
        is_kept = len(RAWS[number]) <= 1 << 20
        assert file.reads == [len(CHUNKS[number])] * (1 if is_kept else 3)
        assert source.kept_bytes == len(RAWS[0])
    file.reads.clear()
    assert len(source.read(16, RAW_STARTS[2] - 8)) == 16
    assert file.reads == [len(CHUNKS[1]), len(CHUNKS[2])]  # and none behind them


def test_what_a_large_first_chunk_keeps_is_nothing(path):
    source = chunked(path, CHUNKS[5] + CHUNKS[1])
    assert source.kept_bytes == 0
    assert chunked(path + "-2", CHUNKS[6]).kept_bytes == 1 << 20
    assert chunked(path + "-3", b"").kept_bytes == 0
    assert chunked(path + "-4", b"").read(8, 0) == b""


@pytest.mark.parametrize("bad", range(len(CHUNKS)))
def test_a_chunk_that_can_not_be_decoded_says_where_the_next_one_starts(path, bad):
    data = b"".join(CHUNKS[:bad]) + bytes(len(CHUNKS[bad])) + b"".join(CHUNKS[bad + 1 :])
    source = chunked(path, data, ChunkTable(RAW_STARTS, STARTS))
    with pytest.raises(UnreadableError, match=f"chunk at byte {STARTS[bad]}: ") as caught:
        source.read(1, RAW_STARTS[bad])
    assert caught.value.end_position == RAW_STARTS[bad + 1]
    assert caught.value.reason == str(caught.value)
    plain = b"".join(RAWS[:bad]) + bytes(len(RAWS[bad])) + b"".join(RAWS[bad + 1 :])
    assert source.read(1, RAW_STARTS[-1]) == b""
    if bad:  # a read that begins before it goes on behind it
        start = RAW_STARTS[bad] - 8
        for end in (RAW_STARTS[bad] + 1, RAW_STARTS[bad + 1] + 8):
            assert source.read(end - start, start) == plain[start:end]


def test_no_chunk_is_read_that_none_can_be_as_large_as(path):
    disk = OsDisk(path, create=True)
    file = make(disk, LZ4_SUFFIX, CHUNKS[1])
    size_bytes = len(CHUNKS[1])
    file.write([CHUNKS[7]], CHUNK_BYTES_MAX + size_bytes)
    raw_positions = range(0, 40, 8)
    positions = [0, size_bytes, CHUNK_BYTES_MAX + size_bytes, file.size(), file.size()]
    source = Lz4Source(disk, 0, ChunkTable(raw_positions, positions))
    assert source.read(8, 0) == RAWS[1]
    with pytest.raises(UnreadableError, match="not of the size"):
        source.read(1, 8)
    assert source.read(8, 16) == RAWS[7]
    positions[2] += 1
    with pytest.raises(UnreadableError, match=f": {CHUNK_BYTES_MAX + 1} bytes are more than any"):
        source.read(1, 8)


@pytest.mark.parametrize("bad", [{0}, {1}, {5}, {7}, {0, 1}, {2, 3}, {1, 3}, {6, 7}, set(range(8))])
@pytest.mark.parametrize("with_magics", [False, True])
def test_chunks_without_a_header_count_as_one_that_holds_no_frame(path, bad, with_magics):
    data = []
    positions, raw_positions = [0], [0]
    for number, chunk in enumerate(CHUNKS):
        if number in bad:
            rest = bytes(len(chunk) - 8) if with_magics else chunk[8:]
            data.append(b"nothing " + rest.replace(bytes(16), bytes(7) + LZ4_MAGIC + bytes(5), 9))
            size_bytes = 0 if number - 1 in bad else 8 if number else 8 + 64
        else:
            data.append(chunk)
            size_bytes = len(RAWS[number])
        positions.append(STARTS[number + 1])
        raw_positions.append(raw_positions[-1] + size_bytes)
    for number in sorted(bad, reverse=True):
        if number - 1 in bad:
            del positions[number], raw_positions[number]
    assert found(path, b"".join(data)) == (positions, raw_positions)


@pytest.mark.parametrize("last", [1, 5, 7])
def test_a_last_chunk_that_is_cut_short_is_none(path, last):
    whole, raw_bytes = STARTS[last], RAW_STARTS[last]
    lengths = {1, 14, 15, 18, 19, len(CHUNKS[last]) - 4, len(CHUNKS[last]) - 1}
    for place, length in enumerate(lengths):
        data = b"".join(CHUNKS[:last]) + CHUNKS[last][:length]
        expected = [*STARTS[: last + 1], whole + length], [*RAW_STARTS[: last + 1], raw_bytes + 8]
        assert found(f"{path}-{place}", data) == expected


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("step", range(-4, 5))
def test_the_next_chunk_is_found_wherever_the_reads_of_the_search_end(path, count, step):
    length = 1 + count * (READ_BYTES - 3) + step
    assert found(path, b"x" * length + CHUNKS[1]) == (
        [0, length, length + len(CHUNKS[1])],
        [0, 8 + 64, 8 + 64 + len(RAWS[1])],
    )
    assert found(path + "-2", b"x" * length + LZ4_MAGIC[:3]) == ([0, length + 3], [0, 8 + 64])
    assert found(path + "-3", b"x" + CHUNKS[1])[0] == [0, 1, 1 + len(CHUNKS[1])]


def test_a_search_reads_about_every_byte_once(path):
    data = (b"x" * 1000 + LZ4_MAGIC) * 1000
    file = Counted(make(OsDisk(path, create=True), LZ4_SUFFIX, data))
    walk_chunks(file)
    assert sum(file.reads) <= len(data) + 16 * 1001  # with the look at each magic


@pytest.mark.parametrize(("first_bytes", "expected"), [(None, READ_BYTES), (9000, 9000)])
def test_a_scan_reads_no_more_at_first_than_may_do(path, first_bytes, expected):
    frames = [frame(number) for number in range(100)]
    disk = OsDisk(path, create=True)
    make(disk, RAW_SUFFIX, bytes(64) + b"".join(frames))
    source = RawSource(disk, 0)
    reads = []

    def read(size_bytes, position):
        reads.append(size_bytes)
        return file_read(size_bytes, position)

    file_read, source.read = source.read, read
    events = scan(source, Scanner(TAG, 0, 64), source.size(), first_bytes)
    assert next(events).batch.base_offset == 0
    assert reads == [expected]
    assert [event.batch.base_offset for event in events] == list(range(1, 100))
    assert reads[1] == READ_BYTES if first_bytes else len(reads) == 2


@pytest.mark.parametrize("behind", [0, 64, 4000])
def test_a_scan_ends_where_it_is_told_to(path, behind):
    frames = [frame(number) for number in range(3)]
    disk = OsDisk(path, create=True)
    make(disk, RAW_SUFFIX, bytes(64) + b"".join(frames))
    source = RawSource(disk, 0)
    end = 64 + len(frames[0])
    events = list(scan(source, Scanner(TAG, 0, 64), end + behind))
    assert events[0].batch.base_offset == 0
    assert [(event.position, event.end_position) for event in events[1:]] == (
        [(end, end + behind)] if behind else []
    )


@pytest.mark.parametrize("bad", range(4))
@pytest.mark.parametrize("cut", [0, 8])
def test_a_scan_says_why_a_chunk_is_lost_and_goes_on_behind_it(path, bad, cut):
    raws = [RAWS[0], *RAWS[2:5]]
    chunks = [CHUNKS[0], *CHUNKS[2:5]]
    chunks[bad] = bytes(len(chunks[bad]))
    raw_starts = [0, *accumulate(map(len, raws))]
    table = ChunkTable(raw_starts, [0, *accumulate(map(len, chunks))])
    source = chunked(path, b"".join(chunks), table)
    end = raw_starts[-1] - (cut if bad == 3 else 0)
    events = list(scan(source, Scanner(TAG, 0, 64), end))
    good = [event.batch.base_offset for event in events if isinstance(event, Frame)]
    assert good == [number for number in range(4) if number != bad]
    (damage,) = (event for event in events if isinstance(event, Damage))
    assert damage.reason.startswith("chunk at byte")
    assert damage.position == max(64, raw_starts[bad])
    assert damage.end_position == min(raw_starts[bad + 1], end)
    assert (damage.offset, damage.end_offset) == (bad, None if bad == 3 else bad + 1)
