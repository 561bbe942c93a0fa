"""Round trips of the fixed-size structures, and what each of them refuses."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.errors import UnsupportedFormatError
from segstore.format.checkpoint import (
    CHECKPOINT_BYTES,
    SEQUENCE_MAX,
    SLOT_BYTES,
    Checkpoint,
    decode_slots,
    encode_slot,
    slot_position,
)
from segstore.format.checksum import crc32c
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_INDEX,
    KIND_SEGMENT,
    KIND_TAIL,
    VERSION,
    FileHeader,
    decode_file_header,
    encode_file_header,
)
from segstore.format.index import (
    ENTRIES_POSITION,
    ENTRY_BYTES,
    SEALED,
    OffsetIndex,
    Stamp,
    decode_stamp,
    encode_stamp,
    is_body_intact,
)
from segstore.format.names import OFFSET_MAX

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
headers = st.builds(
    FileHeader,
    st.sampled_from([KIND_SEGMENT, KIND_INDEX, KIND_TAIL]),
    u64,
    st.binary(min_size=16, max_size=16),
    i64,
    st.just(VERSION),
)


@given(headers)
def test_a_file_header_comes_back(header):
    data = encode_file_header(header)
    assert len(data) == FILE_HEADER_BYTES
    assert decode_file_header(data, header.kind) == header
    assert decode_file_header(data + b"more", header.kind) == header


@given(headers, st.integers(0, FILE_HEADER_BYTES - 1), st.integers(0, 7))
def test_every_flipped_bit_of_a_file_header_is_found(header, position, bit):
    data = bytearray(encode_file_header(header))
    data[position] ^= 1 << bit
    assert decode_file_header(data, header.kind) is None


@given(headers, st.integers(0, FILE_HEADER_BYTES - 1))
def test_a_short_file_header_is_none(header, size):
    assert decode_file_header(encode_file_header(header)[:size], header.kind) is None


def test_a_file_of_another_kind_is_not_taken():
    data = encode_file_header(FileHeader(KIND_INDEX, 0, bytes(16), 0))
    assert decode_file_header(data, KIND_SEGMENT) is None


def test_an_intact_header_of_a_later_version_is_unsupported():
    data = bytearray(encode_file_header(FileHeader(KIND_SEGMENT, 0, bytes(16), 0)))
    data[16] = VERSION + 1
    data[8:12] = crc32c(bytes(data[12:])).to_bytes(4, "little")
    with pytest.raises(UnsupportedFormatError, match=f"version {VERSION + 1}"):
        decode_file_header(data, KIND_SEGMENT)


stamps = st.builds(
    Stamp,
    u32.map(lambda flags: flags | SEALED),
    u64, u64, st.integers(0, OFFSET_MAX), i64, i64, i64, i64, u32, u32, u32, u32, u32,
)  # fmt: skip


@given(stamps, u64)
def test_a_stamp_comes_back(stamp, base_offset):
    head = encode_file_header(FileHeader(KIND_INDEX, base_offset, bytes(16), 5))
    found = decode_stamp(head + encode_stamp(stamp), base_offset)
    assert found is not None
    assert found[1] == stamp
    assert decode_stamp(head + encode_stamp(stamp), base_offset ^ 1) is None
    last = stamp._replace(end_offset=OFFSET_MAX)
    assert decode_stamp(head + encode_stamp(last), base_offset) is not None
    for impossible in ({"end_offset": OFFSET_MAX + 1}, {"flags": stamp.flags & ~SEALED}):
        data = head + encode_stamp(stamp._replace(**impossible))
        assert decode_stamp(data, base_offset) is None


@given(stamps, st.integers(0, ENTRIES_POSITION - 1), st.integers(0, 7))
def test_every_flipped_bit_of_a_stamp_is_found(stamp, position, bit):
    data = bytearray(encode_file_header(FileHeader(KIND_INDEX, 9, bytes(16), 5)))
    data += encode_stamp(stamp)
    data[position] ^= 1 << bit
    assert decode_stamp(data, 9) is None


def test_an_index_that_was_not_sealed_has_no_stamp():
    head = encode_file_header(FileHeader(KIND_INDEX, 9, bytes(16), 5))
    assert decode_stamp(head + bytes(ENTRIES_POSITION), 9) is None


@given(st.binary(max_size=100))
def test_a_body_is_intact_only_if_it_is_the_one_that_was_sealed(body):
    body += bytes(-len(body) % ENTRY_BYTES)
    stamp = Stamp(SEALED, 0, 0, 0, 0, 0, 0, 0, len(body) // ENTRY_BYTES, 0, 0, 0, crc32c(body))
    assert is_body_intact(stamp, body)
    assert not is_body_intact(stamp, body + b"x")
    assert not is_body_intact(stamp._replace(filter_bytes=1), body)
    if body:
        assert not is_body_intact(stamp, body[:-1] + bytes([body[-1] ^ 1]))


entry_lists = st.lists(
    st.tuples(st.integers(1, 1000), st.integers(1, 10000), st.integers(0, 100)), max_size=50
)


def index_of(steps) -> tuple[OffsetIndex, list[tuple[int, int, int]]]:
    index, entries = OffsetIndex(), []
    relative_offset, position, max_timestamp = -1, 0, -50
    for offset_step, position_step, time_step in steps:
        relative_offset += offset_step
        position += position_step
        max_timestamp += time_step
        index.add(relative_offset, position, max_timestamp)
        entries.append((relative_offset, position, max_timestamp))
    return index, entries


@given(entry_lists, st.integers(0, 5))
def test_index_entries_come_back_and_end_at_the_first_empty_one(steps, empty_count):
    index, entries = index_of(steps)
    data = index.encode()
    stored = bytearray(len(data))
    for slot in range(len(entries)):
        index.store(slot, memoryview(stored), slot * ENTRY_BYTES)
    assert data == stored
    found = OffsetIndex.decode(data + bytes(empty_count * ENTRY_BYTES))
    assert [found[slot] for slot in range(len(found))] == entries


@given(entry_lists, st.integers(0, 60000), st.integers(0, 20000), st.integers(-100, 6000))
def test_lookups_agree_with_a_plain_search(steps, place, size, timestamp):
    index, entries = index_of(steps)
    below = [slot for slot, entry in enumerate(entries) if entry[0] <= place]
    assert index.slot_of_offset(place) == (below[-1] if below else -1)
    near = [position for _, position, _ in entries if position <= place + size]
    beyond = [position for _, position, _ in entries if position > place + size][:1]
    bound = ([position for position in near if position > place] or beyond)[-1] if beyond else 0
    assert index.bound(place, size) == bound
    older = [slot for slot, entry in enumerate(entries) if entry[2] < timestamp]
    assert index.slot_before_time(timestamp) == (older[-1] if older else -1)
    for slot, (relative_offset, position, _) in enumerate(entries):
        assert index.relative_offset(slot) == relative_offset
        assert index.position(slot) == position
        behind = entries[slot + 1 : slot + 2]
        assert index.next_position(slot) == (behind[0][1] if behind else None)


entries = st.tuples(st.integers(0, 60000), st.integers(0, 600000), st.integers(-100, 6000))


@given(entry_lists, st.integers(0, 49), entries)
def test_of_an_index_the_entries_before_the_first_that_does_not_rise_are_kept(steps, slot, entry):
    _, expected = index_of(steps)
    expected[slot : slot + 1] = [entry]
    index = OffsetIndex()
    for each in expected:
        index.add(*each)
    last = (-1, 0, -1000)
    for count, each in enumerate(expected):
        if each[0] <= last[0] or each[1] <= last[1] or each[2] < last[2]:
            del expected[count:]
            break
        last = each
    found = OffsetIndex.decode(index.encode())
    assert [found[slot] for slot in range(len(found))] == expected


@given(st.binary(max_size=400))
def test_arbitrary_index_bytes_give_rising_entries(data):
    index = OffsetIndex.decode(data)
    entries = [index[slot] for slot in range(len(index))]
    for before, after in itertools.pairwise(entries):
        assert before[0] < after[0]
        assert before[1] < after[1]
        assert before[2] <= after[2]
    assert OffsetIndex.decode(index.encode()).encode() == index.encode()


offsets = st.integers(0, OFFSET_MAX)
checkpoints = st.builds(Checkpoint, st.integers(1, SEQUENCE_MAX), offsets, i64, u64)


@given(checkpoints)
def test_a_checkpoint_comes_back_from_either_slot(checkpoint):
    for position in (SLOT_BYTES, 2 * SLOT_BYTES):
        data = bytearray(CHECKPOINT_BYTES)
        data[position : position + SLOT_BYTES] = encode_slot(checkpoint)
        assert decode_slots(data) == checkpoint
        for impossible in ({"value": OFFSET_MAX + 1}, {"sequence": SEQUENCE_MAX + 1}):
            slot = encode_slot(checkpoint._replace(**impossible))
            data[position : position + SLOT_BYTES] = slot
            assert decode_slots(data) is None


@given(checkpoints, st.integers(0, SLOT_BYTES), st.binary(min_size=8, max_size=8))
def test_a_torn_second_write_leaves_the_first(checkpoint, torn_at, noise):
    first = checkpoint._replace(sequence=4)
    second = checkpoint._replace(sequence=5, value=(checkpoint.value + 1) % 2**63)
    data = bytearray(CHECKPOINT_BYTES)
    at = slot_position(4)
    data[at : at + SLOT_BYTES] = encode_slot(first)
    at = slot_position(5)
    data[at : at + SLOT_BYTES] = (noise * 64)[:SLOT_BYTES]
    data[at : at + torn_at] = encode_slot(second)[:torn_at]
    found = decode_slots(data)
    assert found in (first, second)


def test_an_empty_or_short_checkpoint_file_holds_nothing():
    assert decode_slots(bytes(CHECKPOINT_BYTES)) is None
    assert decode_slots(b"") is None
    assert decode_slots(bytes(700)) is None
