import itertools
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.errors import RecordTooLargeError, UnsupportedFormatError
from segstore.format.batch import Record, RecordBatch
from segstore.format.checksum import crc32c
from segstore.format.frame import decode_frame, encode_frame
from segstore.format.framelayout import (
    BODY_BYTES_MAX,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC_BYTES,
    RECORD_BYTES_MAX,
    RECORD_COUNT_MAX,
    Invalid,
    NeedData,
)
from segstore.testing.strategies import TIMESTAMP_MAX, TIMESTAMP_MIN, Batch, batches

TAG = 0xC0FFEE


def encode(batch: Batch, base_offset: int = 7, durable_offset: int = 3) -> bytes:
    return encode_frame(
        base_offset,
        batch.values,
        batch.timestamps,
        batch.keys,
        append_time=11,
        log_tag=TAG,
        durable_offset=durable_offset,
    ).data


def decode(data: bytes, tag: int | None = TAG) -> RecordBatch:
    found = decode_frame(memoryview(data), 0, tag)
    assert isinstance(found, RecordBatch), found
    return found


def with_right_crc(frame: bytearray) -> bytes:
    frame[4:8] = crc32c(bytes(frame[8:])).to_bytes(4, "little")
    return bytes(frame)


@given(batches(), st.integers(0, 2**62))
def test_what_was_encoded_is_decoded(batch, base_offset):
    frame = encode(batch, base_offset)
    found = decode(frame)
    keys = batch.keys or [None] * len(batch.values)
    offsets = range(base_offset, base_offset + len(batch.values))
    expected = [Record(*fields) for fields in zip(offsets, batch.times(), keys, batch.values)]
    assert found.records() == expected
    assert [found.record(offset) for offset in offsets] == expected
    assert found.values() == batch.values
    assert found.keys() == keys
    assert list(found.timestamps) == batch.times()
    assert found.has_keys == (batch.keys is not None)
    header = found.header
    assert (header.min_timestamp, header.max_timestamp) == (
        min(batch.times()),
        max(batch.times()),
    )
    assert (header.append_time, header.durable_offset) == (11, 3)
    assert len(frame) % 8 == 0
    assert len(frame) == FRAME_HEADER_BYTES + header.body_bytes


@given(batches(), st.integers(-3, 40), st.integers(-3, 40))
def test_a_slice_holds_the_offsets_asked_for(batch, start, stop):
    found = decode(encode(batch)).slice(start, stop)
    whole = decode(encode(batch)).records()
    expected = [record for record in whole if start <= record.offset < stop]
    assert found.records() == expected
    assert len(found) == len(expected)
    assert found.values() == [record.value for record in expected]
    assert list(found.timestamps) == [record.timestamp for record in expected]
    assert found.keys() == [record.key for record in expected]


@given(batches())
def test_the_columns_are_an_arrow_array_over_the_bytes_that_were_read(batch):
    found = decode(encode(batch))
    offsets, data = found.value_offsets, found.value_data
    assert [bytes(data[a:b]) for a, b in itertools.pairwise(offsets)] == batch.values
    assert data.obj is found.frame.obj


@given(batches(max_size=5), st.data())
def test_every_shortened_frame_asks_for_more_or_is_refused(batch, data):
    frame = encode(batch)
    size = data.draw(st.integers(0, len(frame) - 1))
    found = decode_frame(memoryview(frame[:size]), 0, TAG)
    assert isinstance(found, NeedData)
    assert found.size_bytes in (FRAME_HEADER_BYTES, len(frame))


@given(batches(max_size=4), st.data())
def test_every_flipped_bit_is_found(batch, data):
    frame = bytearray(encode(batch))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    assert not isinstance(decode_frame(memoryview(bytes(frame)), 0, TAG), RecordBatch)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_frame(data):
    assert isinstance(decode_frame(memoryview(data), 0, None), Invalid | NeedData)


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_header_that_lies_over_arbitrary_columns_never_crashes(body, body_bytes, count):
    frame = bytearray(encode(Batch([b"x"], 0, None)))
    frame[FRAME_HEADER_BYTES:] = body + bytes(-len(body) % 8)
    frame[8:12] = (len(frame) - FRAME_HEADER_BYTES).to_bytes(4, "little")
    frame[12:16] = count.to_bytes(4, "little")
    for attributes in range(8):
        frame[52] = attributes
        found = decode_frame(memoryview(with_right_crc(frame)), 0, TAG)
        if isinstance(found, RecordBatch):
            for look in (found.records, found.values, found.keys):
                try:
                    look()
                except ValueError:
                    pass


def test_a_claimed_size_over_the_limit_is_refused_before_anything_is_read():
    frame = bytearray(encode(Batch([b"x"], 0, None)))
    frame[8:12] = (BODY_BYTES_MAX + 8).to_bytes(4, "little")
    found = decode_frame(memoryview(bytes(frame)), 0, TAG)
    assert isinstance(found, Invalid)
    assert "impossible body size" in found.reason


def test_a_frame_of_another_log_is_refused_unless_any_log_will_do():
    frame = encode(Batch([b"x"], 0, None))
    assert isinstance(decode_frame(memoryview(frame), 0, TAG + 1), Invalid)
    assert decode(frame, None).values() == [b"x"]


@pytest.mark.parametrize(("at", "value"), [(54, 3), (54, 0), (52, 8), (52, 16), (53, 1)])
def test_an_intact_frame_with_unknown_version_or_attributes_is_unsupported(at, value):
    frame = bytearray(encode(Batch([b"x"], 0, None)))
    frame[at] = value
    with pytest.raises(UnsupportedFormatError, match="nothing was changed"):
        decode_frame(memoryview(with_right_crc(frame)), 0, TAG)


def test_an_unknown_version_of_a_damaged_frame_is_damage():
    frame = bytearray(encode(Batch([b"x"], 0, None)))
    frame[54] = 3
    assert isinstance(decode_frame(memoryview(bytes(frame)), 0, TAG), Invalid)


@pytest.mark.parametrize("count", [0, RECORD_COUNT_MAX + 1, 2**32 - 1])
def test_an_impossible_record_count_is_refused(count):
    frame = bytearray(encode(Batch([b"x"], 0, None)))
    frame[12:16] = count.to_bytes(4, "little")
    assert isinstance(decode_frame(memoryview(with_right_crc(frame)), 0, TAG), Invalid)


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 5, 3, 8],
        [1, 5, 6, 8],
        [0, -3, 5, 8],
        [0, 100, 8, 8],
        [0, 100, 100, 8],
        [0, 2**31 - 1, 8, 8],
        [0, 1, 2, -1],
    ],
)
def test_value_offsets_that_do_not_rise_from_0_are_refused_everywhere(offsets):
    frame = bytearray(encode(Batch([b"abc", b"de", b"fgh"], 0, None)))
    frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + 16] = array("i", offsets).tobytes()
    found = decode_frame(memoryview(with_right_crc(frame)), 0, TAG)
    if isinstance(found, RecordBatch):
        with pytest.raises(ValueError, match="column"):
            found.values()
        with pytest.raises(ValueError, match="column"):
            found.records()


def test_values_of_any_buffer_are_their_bytes():
    wide = memoryview(array("i", [1, 2, 3]))
    values = [b"a", bytearray(b"bc"), memoryview(b"def"), wide, memoryview(b"")]
    frame = encode_frame(0, values, 5, None, append_time=0, log_tag=TAG, durable_offset=0)
    expected = [b"a", b"bc", b"def", array("i", [1, 2, 3]).tobytes(), b""]
    assert decode(frame.data).values() == expected


def test_a_record_over_the_limit_is_refused_and_one_at_the_limit_is_not():
    value = bytes(RECORD_BYTES_MAX - 3)
    frame = encode(Batch([value], 0, [b"key"]))
    assert decode(frame).values() == [value]
    with pytest.raises(RecordTooLargeError) as caught:
        encode(Batch([value], 0, [b"keys"]))
    assert caught.value.size_bytes == RECORD_BYTES_MAX + 1
    assert caught.value.limit_bytes == RECORD_BYTES_MAX


@pytest.mark.parametrize("count", [0, RECORD_COUNT_MAX + 1])
def test_a_frame_of_no_or_too_many_records_is_not_made(count):
    with pytest.raises(ValueError, match="a frame holds 1 to"):
        encode(Batch([b""] * count, 0, None))


def test_the_largest_count_of_empty_values_comes_back():
    found = decode(encode(Batch([b""] * RECORD_COUNT_MAX, 0, None)))
    assert len(found) == RECORD_COUNT_MAX
    assert not any(found.values())


@pytest.mark.parametrize("timestamp", [TIMESTAMP_MIN, TIMESTAMP_MAX])
def test_extreme_timestamps_come_back(timestamp):
    batch = Batch([b"a", b"b"], [timestamp, 0], None)
    assert list(decode(encode(batch)).timestamps) == [timestamp, 0]


def test_zeros_are_never_a_frame():
    assert isinstance(decode_frame(memoryview(bytes(4096)), 0, None), Invalid)
    assert bytes(4) != FRAME_MAGIC_BYTES


@given(batches(), st.integers(-3, 40), st.integers(-3, 40), st.integers(-3, 2**70))
def test_a_batch_has_only_the_records_of_its_offsets(batch, start, stop, offset):
    found = decode(encode(batch)).slice(start, stop)
    if found.base_offset <= offset < found.end_offset:
        assert found.record(offset).offset == offset
    else:
        with pytest.raises(IndexError, match="outside the batch"):
            found.record(offset)
