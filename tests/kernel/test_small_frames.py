"""Reading frames of one record in a row: the kernel, its specification, and the general way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segstore.format.checksum import crc32c
from segstore.format.frame import encode_frame
from segstore.format.smallframes import SMALL_FRAME_BYTES_MAX, take_records
from segstore.segment.tailreader import decode_columns
from tests.kernel import strategies as some
from tests.kernel.test_columns import outcome

TAG = 5
FIRST = 3


@st.composite
def rows(draw):
    """Frames one after another: most of one record, some hurt under a checksum that holds."""
    data = bytearray()
    for offset in range(FIRST, FIRST + draw(st.integers(0, 6))):
        values = draw(st.lists(st.binary(max_size=30), min_size=1, max_size=2))
        if draw(st.integers(0, 9)) == 0:
            values = [bytes(SMALL_FRAME_BYTES_MAX - draw(st.integers(60, 90)))]
        key = st.none() | st.binary(max_size=20)
        keys = draw(st.none() | st.lists(key, min_size=len(values), max_size=len(values)))
        time = draw(st.integers(-(2**63), 2**63 - 1))
        frame = bytearray(
            encode_frame(
                offset, values, time, keys, append_time=1, log_tag=TAG, durable_offset=0
            ).data
        )
        if draw(st.integers(0, 4)) == 0:
            at = draw(st.sampled_from([8, 12, 16, 48, 52, 54, 55, 64, 68, 72, 76]))
            frame[at : at + 4] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "little")
            frame[4:8] = crc32c(bytes(frame[8:])).to_bytes(4, "little")
        data += frame
    return bytes(data[: len(data) - draw(st.sampled_from([0, 0, 0, 1, 8, 70]))])


def taken(take, *arguments):
    columns: tuple[list, list, list] = ([], [], [])
    return outcome(take, *arguments, *columns), columns


@given(rows(), st.integers(0, 90))
@settings(max_examples=400)
def test_both_take_the_same(compiled, data, before):
    view = memoryview(bytes(before) + data)
    found = taken(compiled.take_records, view, before, FIRST, TAG)
    assert found == taken(take_records, view, before, FIRST, TAG)
    end, (values, timestamps, keys) = found
    position = before
    for number in range(len(values)):
        size = 64 + int.from_bytes(view[position + 8 : position + 12], "little")
        columns = decode_columns(bytes(view[position : position + size]), TAG)
        assert columns is not None
        offset, *record = columns
        assert offset == FIRST + number
        assert list(map(list, record)) == [[values[number]], [timestamps[number]], [keys[number]]]
        position += size
    assert position == end


@given(st.lists(some.numbers, min_size=3, max_size=3), st.sampled_from(some.DRESSES))
def test_both_refuse_the_same(compiled, numbers, dress):
    frame = encode_frame(0, [b"v"], 1, None, append_time=1, log_tag=1, durable_offset=0).data
    for view in (memoryview(frame), dress(frame)):
        for arguments in (numbers, [0, *numbers[1:]], [0, 0, numbers[2]], [numbers[0], 0, 1]):
            # What is no memoryview is nobody's, and what becomes of it not held to anything.
            if isinstance(view, memoryview) and view.format == "B" and view.contiguous:
                assert taken(compiled.take_records, view, *arguments) == taken(
                    take_records, view, *arguments
                )
            else:
                taken(compiled.take_records, view, *arguments)


def test_a_released_view_says_so(compiled):
    for take in (compiled.take_records, take_records):
        view = memoryview(bytes(200))
        view.release()
        with pytest.raises(ValueError, match="released"):
            take(view, 0, 0, TAG, [], [], [])


def test_the_last_offsets_are_no_records(compiled):
    for take in (compiled.take_records, take_records):
        for offset, count in ((2**63 - 3, 1), (2**63 - 2, 1), (2**63 - 1, 0)):
            frame = encode_frame(
                offset, [b"v"], 1, None, append_time=1, log_tag=TAG, durable_offset=0
            ).data
            columns: tuple[list, list, list] = ([], [], [])
            take(memoryview(frame), 0, offset, TAG, *columns)
            assert [len(column) for column in columns] == [count] * 3
