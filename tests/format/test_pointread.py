"""One record out of the head of its frame: always the one that the whole frame has, or none."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segstore.format import pointread
from segstore.format.batch import RecordBatch
from segstore.format.checksum import crc32c
from segstore.format.columns import join_column
from segstore.format.frame import decode_frame, encode_frame
from segstore.format.framelayout import BLOCKS, FRAME_HEADER_BYTES, WHOLE
from segstore.format.kernel import PROVIDER, find_record
from segstore.testing.strategies import Batch, batches

TAG = 0xC0FFEE
BASE = 7

FUNCTIONS = [pointread.find_record] + ([find_record] if PROVIDER == "c" else [])


@pytest.fixture(params=FUNCTIONS, ids=lambda function: type(function).__name__)
def find(request):
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
    ).to_bytes()


def read(find, frame: bytes, offset: int, first_bytes: int):
    """The record as a reader gets it: the head first, then the blocks."""
    wanted = first_bytes
    for _ in range(3):
        found = find(frame[:wanted], TAG, offset)
        if not isinstance(found, int):
            break
        assert wanted < found <= len(frame)
        wanted = found
    if found is None:
        return None
    assert isinstance(found, tuple), "it asked for more a third time"
    time, key, blocks_start, blocks_stop, before, after, start, stop = found
    blocks = frame[blocks_start:blocks_stop]
    assert stop - start <= len(blocks) < (stop - start) + 2 * 4096
    return (offset, time, key, blocks[start:stop]) if crc32c(blocks, before) == after else None


@given(batch=batches(min_size=2), first_bytes=st.integers(64, 5000))
def test_every_record_is_the_one_of_the_whole_frame(batch, first_bytes):
    frame = encode(batch)
    whole = decode_frame(memoryview(frame), 0, TAG)
    assert isinstance(whole, RecordBatch)
    for find in FUNCTIONS:
        for record in whole.records():
            found = read(find, frame, record.offset, first_bytes)
            assert found == (record if whole.header.version == BLOCKS else None)


def test_a_frame_of_several_records_and_more_than_a_block_has_a_head(find):
    assert encode(Batch([bytes(4096), b""], 0, None))[54] == WHOLE
    assert encode(Batch([bytes(5000)], 0, None))[54] == WHOLE
    frame = encode(Batch([bytes(4096), b"x"], 0, None))
    assert frame[54] == BLOCKS
    assert read(find, frame, BASE + 1, 4096) == (BASE + 1, 0, None, b"x")


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
    for find in FUNCTIONS:
        found = read_or_none(find, damaged, offset)
        assert found in (None, whole.record(offset))
        if position < FRAME_HEADER_BYTES and position not in range(4):
            assert found is None


def read_or_none(find, frame, offset):
    """As `read`, of a frame whose sizes may lie."""
    data = frame[:4096]
    for _ in range(3):
        found = find(data, TAG, offset)
        if not isinstance(found, int):
            break
        data = frame[:found]
    if not isinstance(found, tuple):
        return None
    time, key, blocks_start, blocks_stop, before, after, start, stop = found
    blocks = frame[blocks_start:blocks_stop]
    if crc32c(blocks, before) != after:
        return None
    return offset, time, key, blocks[start:stop]


@given(batches(min_size=2), st.integers(-2, 40))
def test_an_offset_that_the_frame_does_not_have_is_not_found(batch, place):
    frame = encode(batch)
    assume(not 0 <= place < len(batch.values))
    for find in FUNCTIONS:
        assert find(frame, TAG, BASE + place) is None


def test_a_frame_of_another_log_is_not_looked_into(find):
    frame = encode(Batch([bytes(5000), b"x"], 0, None))
    assert find(frame, TAG + 1, BASE) is None
    assert isinstance(find(frame, None, BASE), tuple)


@pytest.mark.parametrize("offsets", [[0, 9000, 5003], [0, -1, 5003], [-5, 5000, 5003]])
@pytest.mark.parametrize("keys", [None, [b"a", None]])
def test_forged_offsets_under_a_checksum_that_holds_are_not_followed(find, offsets, keys):
    frame = bytearray(encode(Batch([bytes(5000), b"xyz"], 0, keys)))
    column = b"".join(offset.to_bytes(4, "little", signed=True) for offset in offsets)
    frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + 12] = column
    values_at = len(frame) - 5008
    frame[4:8] = crc32c(bytes(frame[8:values_at])).to_bytes(4, "little")
    data = bytes(frame)
    places = [find(data, TAG, BASE + number) for number in range(2)]
    assert None in places
    for place in places:
        assert place is None or 0 <= place[6] <= place[7] <= place[3] - place[2]


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_header_that_lies_over_arbitrary_columns_never_crashes(body, body_bytes, count):
    header = bytearray(encode(Batch([bytes(5000), b"x"], 0, None))[:FRAME_HEADER_BYTES])
    header[8:12] = body_bytes.to_bytes(4, "little")
    header[12:16] = count.to_bytes(4, "little")
    for attributes in range(8):
        header[52] = attributes
        data = bytes(header) + body
        first, *others = [function(data, TAG, BASE) for function in FUNCTIONS]
        assert first is None or isinstance(first, int)
        assert others in ([], [first])


def test_forged_key_offsets_under_a_checksum_that_holds_are_not_followed(find):
    frame = bytearray(encode(Batch([bytes(5000), b"x"], 0, [b"k1", b"k2"])))
    keys_at = FRAME_HEADER_BYTES + 16
    forged, _ = join_column([b"k1", b"k2"])
    assert bytes(frame[keys_at : keys_at + 12]) == bytes(forged)
    frame[keys_at + 4 : keys_at + 8] = (99).to_bytes(4, "little")
    values_at = len(frame) - 5008
    frame[4:8] = crc32c(bytes(frame[8:values_at])).to_bytes(4, "little")
    assert find(bytes(frame), TAG, BASE) is None
