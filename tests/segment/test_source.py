"""Files that change or lie under the scan: it always comes to an end."""

import random
import tempfile
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.disk import OsDisk
from segstore.format.chunk import encode_chunk
from segstore.format.frame import encode_frame
from segstore.format.index import OffsetIndex
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, segment_file
from segstore.format.scanner import Damage, Frame, Scanner
from segstore.segment.scanning import scan
from segstore.segment.source import READ_BYTES, ChunkTable, Lz4Source, RawSource

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
