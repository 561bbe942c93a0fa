"""One record out of the head of its frame: always the one that the whole frame has, or none."""

import os
import tempfile
from array import array

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segstore.format import kernel, pointread
from segstore.format.batch import Record, RecordBatch
from segstore.format.checksum import crc32c
from segstore.format.columns import join_column
from segstore.format.frame import decode_frame, encode_frame
from segstore.format.framelayout import BLOCKS, FRAME_HEADER_BYTES, WHOLE
from segstore.testing.strategies import Batch, batches

TAG = 0xC0FFEE
BASE = 7
# Where the frame stands in its file.
POSITION = 72
# The index of a segment that has this frame first.
PLACES = array("Q", [POSITION])

HOMES = [pointread] + ([kernel] if kernel.PROVIDER == "c" else [])

FILE = tempfile.TemporaryFile()  # noqa: SIM115 - for all tests here


@pytest.fixture(params=HOMES, ids=lambda home: home.__name__.rpartition(".")[2])
def home(request):
    return request.param


def encode(batch: Batch) -> bytes:
    return encode_frame(
        BASE,
        batch.values,
        batch.timestamps,
        batch.keys,
        append_time=11,
        log_tag=TAG,
        durable_offset=3,
    ).data


def head_of(home, frame: bytes, first_bytes: int):
    """The head as a reader gets it, of a frame whose sizes may lie."""
    wanted = first_bytes
    for _ in range(3):
        found = home.decode_head(frame[:wanted], TAG)
        if not isinstance(found, int):
            return found
        assert wanted < found
        if found > len(frame):
            return None
        wanted = found
    raise AssertionError("it asked for more a third time")


def record_of(home, frame: bytes, head, offset: int):
    """The record as a reader gets it; a test of the kernel, too, reads from a real file."""
    descriptor = FILE.fileno()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, frame, POSITION)

    def read(size_bytes: int, position: int) -> bytes:
        assert size_bytes > 0
        return os.pread(descriptor, size_bytes, position)

    return home.read_record(read, descriptor, PLACES, [head], BASE, offset, Record)


def read(home, frame: bytes, offset: int, first_bytes: int = 4096):
    head = head_of(home, frame, first_bytes)
    return None if head is None else record_of(home, frame, head, offset)


@given(batch=batches(min_size=2), first_bytes=st.integers(64, 5000))
def test_every_record_is_the_one_of_the_whole_frame(batch, first_bytes):
    frame = encode(batch)
    whole = decode_frame(memoryview(frame), 0, TAG)
    assert isinstance(whole, RecordBatch)
    for home in HOMES:
        for record in whole.records():
            found = read(home, frame, record.offset, first_bytes)
            assert found == (record if whole.header.version == BLOCKS else None)


def test_a_frame_of_several_records_and_more_than_a_block_has_a_head(home):
    assert encode(Batch([bytes(4096), b""], 0, None))[54] == WHOLE
    assert encode(Batch([bytes(5000)], 0, None))[54] == WHOLE
    frame = encode(Batch([bytes(4096), b"x"], 0, None))
    assert frame[54] == BLOCKS
    assert read(home, frame, BASE + 1) == (BASE + 1, 0, None, b"x")


@given(
    batch=batches(min_size=2, max_size=6),
    flip=st.integers(0, 10**6),
    bit=st.integers(0, 7),
    which=st.integers(0, 5),
)
def test_no_flipped_bit_gives_another_record(batch, flip, bit, which):
    frame = bytearray(encode(batch))
    assume(frame[54] == BLOCKS)
    whole = decode_frame(memoryview(bytes(frame)), 0, TAG)
    offset = BASE + which % len(batch.values)
    position = flip % len(frame)
    frame[position] ^= 1 << bit
    damaged = bytes(frame)
    for home in HOMES:
        found = read(home, damaged, offset)
        assert found in (None, whole.record(offset))
        if position < FRAME_HEADER_BYTES and position not in range(4):
            assert found is None


@given(
    starts=st.lists(st.integers(0, 60), max_size=8, unique=True).map(sorted),
    kept=st.lists(st.booleans(), max_size=8),
    offset=st.integers(-3, 70) | st.sampled_from([2**32 + 9, 2**63, 2**64]),
)
def test_the_index_entry_of_an_offset_is_told_where_its_head_is_not_kept(starts, kept, offset):
    """A frame of two records for each entry, all of them at one place."""
    frame = encode(Batch([bytes(5000), b"x"], 0, None))
    head = head_of(pointread, frame, 4096)
    places = array("Q", [start << 32 | POSITION for start in starts])
    heads = [head if is_kept else None for is_kept in kept]
    descriptor = FILE.fileno()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, frame, POSITION)

    def read(size_bytes, position):
        return os.pread(descriptor, size_bytes, position)

    slot = max((n for n, start in enumerate(starts) if BASE - 3 + start <= offset), default=None)
    expected = slot
    if slot is not None and slot < len(kept) and kept[slot]:
        expected = None
        if offset in (BASE, BASE + 1):
            expected = Record(offset, 0, None, (bytes(5000), b"x")[offset - BASE])
    for home in HOMES:
        found = home.read_record(read, descriptor, places, heads, BASE - 3, offset, Record)
        assert found == expected
        assert type(found) is type(expected)


@given(batches(min_size=2), st.integers(-2, 40))
def test_an_offset_that_the_frame_does_not_have_is_not_found(batch, place):
    frame = encode(batch)
    assume(not 0 <= place < len(batch.values))
    for home in HOMES:
        head = head_of(home, frame, 4096)
        if head is not None:
            assert record_of(home, frame, head, BASE + place) is None


def test_a_frame_of_another_log_is_not_looked_into(home):
    frame = encode(Batch([bytes(5000), b"x"], 0, None))
    assert home.decode_head(frame, TAG + 1) is None
    assert isinstance(home.decode_head(frame, None), tuple)


def test_the_kernel_finds_the_head_that_python_finds():
    for keys in (None, [b"k", None, b"l"]):
        frame = encode(Batch([bytes(5000), b"x", b"yz"], [3, 4, 5], keys))
        heads = [home.decode_head(frame, TAG) for home in HOMES]
        assert heads == heads[:1] * len(HOMES)


def test_a_head_that_is_kept_finds_damage_that_came_later(home):
    values = [bytes([number]) * 3000 for number in range(6)]
    frame = bytearray(encode(Batch(values, 0, None)))
    head = head_of(home, bytes(frame), 4096)
    frame[len(frame) - 10_000] ^= 1
    found = [record_of(home, bytes(frame), head, BASE + number) for number in range(6)]
    assert found[0] == (BASE, 0, None, values[0])
    assert None in found


def test_a_file_that_ends_early_gives_no_record(home):
    frame = encode(Batch([bytes(5000), b"x" * 5000], 0, None))
    head = head_of(home, frame, 4096)
    assert record_of(home, frame[:6000], head, BASE + 1) is None
    assert record_of(home, b"", head, BASE) is None


def test_what_reading_raises_goes_to_the_caller(home):
    def refuse(size_bytes, position):
        raise OSError(5, "of this test")

    frame = encode(Batch([bytes(5000), b"x"], 0, None))
    head = head_of(home, frame, 4096)
    closed = os.dup(FILE.fileno())
    os.close(closed)
    for descriptor in (None, closed):
        with pytest.raises(OSError, match="of this test"):
            home.read_record(refuse, descriptor, PLACES, [head], BASE, BASE, Record)


@pytest.mark.parametrize("offsets", [[0, 9000, 5003], [0, -1, 5003], [-5, 5000, 5003]])
@pytest.mark.parametrize("keys", [None, [b"a", None]])
def test_forged_offsets_under_a_checksum_that_holds_are_not_followed(home, offsets, keys):
    frame = bytearray(encode(Batch([bytes(5000), b"xyz"], 0, keys)))
    column = b"".join(offset.to_bytes(4, "little", signed=True) for offset in offsets)
    frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + 12] = column
    values_at = len(frame) - 5008
    frame[4:8] = crc32c(bytes(frame[8:values_at])).to_bytes(4, "little")
    data = bytes(frame)
    found = [read(home, data, BASE + number) for number in range(2)]
    assert None in found
    for number, record in enumerate(found):
        assert record is None or record.value in (bytes(5000), b"xyz")[number]


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_header_that_lies_over_arbitrary_columns_never_crashes(body, body_bytes, count):
    header = bytearray(encode(Batch([bytes(5000), b"x"], 0, None))[:FRAME_HEADER_BYTES])
    header[8:12] = body_bytes.to_bytes(4, "little")
    header[12:16] = count.to_bytes(4, "little")
    for attributes in range(8):
        header[52] = attributes
        data = bytes(header) + body
        first, *others = [home.decode_head(data, TAG) for home in HOMES]
        assert first is None or isinstance(first, int)
        assert others in ([], [first])


def test_forged_key_offsets_under_a_checksum_that_holds_are_not_followed(home):
    frame = bytearray(encode(Batch([bytes(5000), b"x"], 0, [b"k1", b"k2"])))
    keys_at = FRAME_HEADER_BYTES + 16
    forged, _ = join_column([b"k1", b"k2"])
    assert bytes(frame[keys_at : keys_at + 12]) == bytes(forged)
    frame[keys_at + 4 : keys_at + 8] = (99).to_bytes(4, "little")
    values_at = len(frame) - 5008
    frame[4:8] = crc32c(bytes(frame[8:values_at])).to_bytes(4, "little")
    assert read(home, bytes(frame), BASE) is None


def test_a_forged_base_offset_does_not_wrap_around(home):
    frame = bytearray(encode(Batch([bytes(5000), b"x"], 0, None)))
    frame[16:24] = b"\xff" * 8
    values_at = len(frame) - 5008
    frame[4:8] = crc32c(bytes(frame[8:values_at])).to_bytes(4, "little")
    data = bytes(frame)
    assert record_of(home, data, head_of(home, data, 4096), 0) is None
