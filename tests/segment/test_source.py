"""Files that change or lie under the scan: it always comes to an end."""

import pytest

from segstore.disk import OsDisk
from segstore.format.chunk import encode_chunk
from segstore.format.frame import encode_frame
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, segment_file
from segstore.format.scanner import Damage, Frame, Scanner
from segstore.segment.source import ChunkTable, Lz4Source, RawSource, scan

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


@pytest.mark.parametrize("size", [100, 5000, 66_000, 110_000, 135_000, 200_000, 400_000, 1 << 20])
def test_frames_in_order_are_read_about_once(path, size):
    disk = OsDisk(path, create=True)
    count = max(20, 4_000_000 // size)
    frames = [frame(number, size + number % 7) for number in range(count)]
    make(disk, RAW_SUFFIX, bytes(64) + b"".join(frames))
    source = RawSource(disk, 0)
    read_bytes = 0

    def counting(size_bytes, position):
        nonlocal read_bytes
        data = file_read(size_bytes, position)
        read_bytes += len(data)
        return data

    file_read, source.read = source.read, counting
    events = list(scan(source, Scanner(TAG, 0, 64), source.size()))
    assert [event.batch.base_offset for event in events] == list(range(count))
    assert read_bytes < 1.35 * source.size()
