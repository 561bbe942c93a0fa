import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segstore.errors import UnsupportedFormatError
from segstore.format import batch as batch_module
from segstore.format import frame as frame_module
from segstore.format import scanner as scanner_module
from segstore.format.batch import RecordBatch
from segstore.format.checksum import crc32c
from segstore.format.frame import decode_frame, encode_frame
from segstore.format.framelayout import (
    BLOCK_BYTES,
    BLOCKS,
    BODY_BYTES_MAX,
    FRAME_MAGIC_BYTES,
    RECORD_COUNT_MAX,
)
from segstore.format.scanner import NEED_DATA, Damage, Frame, Scanner, readable
from segstore.testing.strategies import batches

TAG = 77
START = 64


def frame_of(values, base_offset, *, tag=TAG, timestamps=5, keys=None) -> bytes:
    return encode_frame(
        base_offset, values, timestamps, keys, append_time=1, log_tag=tag, durable_offset=0
    ).data


def frames_of(batches, base_offset=0) -> list[bytes]:
    frames = []
    for batch in batches:
        frames.append(
            frame_of(batch.values, base_offset, timestamps=batch.timestamps, keys=batch.keys)
        )
        base_offset += len(batch.values)
    return frames


def drive(data, *, step, tag=TAG, expected=0):
    """Feed `data`, which stands at START of its file, `step` more bytes at a time."""
    scanner = Scanner(tag, expected, START)
    events, end = [], 0
    while True:
        event = scanner.next()
        if event is not NEED_DATA:
            events.append(event)
            continue
        if end == len(data):
            break
        at = scanner.position - START
        end = min(len(data), max(end + step, at + step))
        scanner.feed(data[at:end], is_last=end == len(data))
    return events


def values_of(events):
    return [value for event in events if isinstance(event, Frame) for value in event.batch.values()]


def found_in(events):
    """The value of each offset that can be read."""
    return {
        record.offset: record.value
        for event in events
        for batch in readable(event)
        for record in batch.records()
    }


def shape(events):
    return [
        (event.position, event.size_bytes, event.batch.base_offset)
        if isinstance(event, Frame)
        else event._replace(
            reason="",
            parts=tuple(
                (part.base_offset, part.end_offset)
                if isinstance(part, RecordBatch)
                else part._replace(reason="")
                for part in event.parts
            ),
        )
        for event in events
    ]


def scan_all(data, **options):
    """The events, the same whether fed whole, byte by byte or in pieces."""
    whole = drive(data, step=len(data) + 1, **options)
    for step in (1, 7, 64):
        assert shape(drive(data, step=step, **options)) == shape(whole)
    return whole


@given(st.lists(batches(max_size=4), max_size=4))
def test_frames_come_in_order_however_they_are_fed(batches):
    frames = frames_of(batches)
    events = scan_all(b"".join(frames))
    assert all(isinstance(event, Frame) for event in events)
    assert values_of(events) == [value for batch in batches for value in batch.values]
    positions = [START + sum(map(len, frames[:number])) for number in range(len(frames))]
    assert [event.position for event in events] == positions


@given(st.lists(batches(max_size=3), max_size=3), st.binary(min_size=1, max_size=150))
def test_trailing_bytes_are_damage_that_nothing_follows(batches, trailing):
    frames = b"".join(frames_of(batches))
    events = scan_all(frames + trailing)
    assert isinstance(events[-1], Damage)
    assert events[-1].position == START + len(frames)
    assert events[-1].end_position == START + len(frames) + len(trailing)
    assert events[-1].end_offset is None
    assert len(events) == len(batches) + 1


def test_damage_at_every_byte_loses_that_frame_only():
    batches = [[b"a", b"bb"], [b"c" * 30], [b"", b"d", b"e"], [b"f"]]
    frames, base_offset = [], 0
    for batch in batches:
        frames.append(frame_of(batch, base_offset))
        base_offset += len(batch)
    data = b"".join(frames)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        hit, end = 0, len(frames[0])
        while position >= end:
            hit += 1
            end += len(frames[hit])
        events = drive(bytes(damaged), step=len(data))
        expected = [value for number, batch in enumerate(batches) if number != hit
                    for value in batch]  # fmt: skip
        assert values_of(events) == expected
        damages = [event for event in events if isinstance(event, Damage)]
        lost_from = sum(map(len, batches[:hit]))
        lost_to = lost_from + len(batches[hit]) if hit + 1 < len(batches) else None
        assert [(d.offset, d.end_offset) for d in damages] == [(lost_from, lost_to)]
        assert damages[0].position == START + end - len(frames[hit])


@given(st.lists(batches(max_size=3), min_size=2, max_size=4), st.data())
def test_bytes_cut_out_or_put_in_lose_the_frames_they_touch_only(batches, data):
    frames = frames_of(batches)
    whole = b"".join(frames)
    at = data.draw(st.integers(0, len(whole) - 1)) // 8 * 8
    noise = b"\xffnoise!\xff" + data.draw(st.binary(max_size=64))
    noise += bytes(-len(noise) % 8)
    events = scan_all(whole[:at] + noise + whole[at:])
    start, kept = 0, []
    for number, frame in enumerate(frames):
        if not start < at < start + len(frame):
            kept.append(number)
        start += len(frame)
    expected = [value for number in kept for value in batches[number].values]
    assert values_of(events) == expected
    sent = [value for batch in batches for value in batch.values]
    assert all(sent[offset] == value for offset, value in found_in(events).items())


@given(
    st.lists(st.sampled_from([0, 1, 50, 700, 4096, 9000]), min_size=2, max_size=40),
    st.sets(st.integers(0, 10**6), max_size=5),
    st.booleans(),
)
def test_bad_blocks_cost_the_records_in_them_and_no_other(sizes, flips, is_followed):
    values = [bytes([65 + number % 50]) * size for number, size in enumerate(sizes)]
    first, second = frame_of(values, 0), frame_of([b"next"], len(values))
    batch = decode_frame(memoryview(first), 0, TAG)
    assume(batch.header.version == BLOCKS)
    ends = list(batch.value_offsets)
    values_at = len(first) - (ends[-1] + 7) // 8 * 8
    damaged = bytearray(first + second * is_followed)
    bad = set()
    for flip in flips:
        at = flip % (len(first) - values_at)
        damaged[values_at + at] = (damaged[values_at + at] + 100) % 256
        bad.add(at // BLOCK_BYTES)
    events = scan_all(bytes(damaged))
    found = found_in(events)
    for offset, value in enumerate(values):
        assert found.get(offset, value) == value
        blocks = range(ends[offset] // BLOCK_BYTES, -(-ends[offset + 1] // BLOCK_BYTES))
        if value:
            assert (offset in found) == (not bad.intersection(blocks))
        elif not bad:
            assert offset in found
    assert found.get(len(values)) == (b"next" if is_followed else None)
    damages = [event for event in events if isinstance(event, Damage)]
    assert len(damages) == bool(bad)
    for damage in damages:
        assert (damage.position, damage.offset) == (START, 0)
        assert damage.end_position == START + len(first)
        lost = {offset for part in damage.lost
                for offset in range(part.offset, part.end_offset or len(values))}  # fmt: skip
        assert lost == set(range(len(values))) - found.keys()
        is_end_bad = (len(first) - values_at - 1) // BLOCK_BYTES in bad
        assert damage.end_offset == (len(values) if is_followed or not is_end_bad else None)
        for part in damage.lost:
            assert START + values_at <= part.position < part.end_position <= damage.end_position


def test_bad_blocks_in_a_row_are_one_loss():
    values = [bytes([number]) * BLOCK_BYTES for number in range(4)]
    damaged = bytearray(frame_of(values, 0))
    for number in (1, 2):
        damaged[damaged.index(values[number])] ^= 1
    (event,) = scan_all(bytes(damaged))
    assert found_in([event]) == {0: values[0], 3: values[3]}
    assert [(part.offset, part.end_offset) for part in event.lost] == [(1, 3)]


def test_a_frame_that_starts_where_a_damaged_one_was_to_go_on_is_found():
    values = [b"v%04d" % number * 100 for number in range(40)]
    frames = [frame_of(values, 0), frame_of([b"next"] * 9000, 40)]
    cut_at = len(frames[0]) // 2 // 8 * 8
    found = found_in(drive(frames[0][:cut_at] + frames[1], step=4096))
    for offset in range(40, 9040):
        assert found.pop(offset) == b"next"
    assert found
    assert found == dict(enumerate(values[: len(found)]))


@given(st.binary(max_size=600))
def test_arbitrary_bytes_never_crash_the_scanner(data):
    events = scan_all(data, tag=None)
    assert values_of(events) == []


@given(st.lists(st.sampled_from([
    FRAME_MAGIC_BYTES, bytes(4), b"\xff" * 4, (64).to_bytes(4, "little"),
    frame_of([b"x"], 3), frame_of([b"y"], 1), frame_of([b"z"], 9)[:40], b"abcd",
]), max_size=20))  # fmt: skip
def test_bytes_made_to_look_like_frames_never_crash_the_scanner(pieces):
    events = scan_all(b"".join(pieces))
    offsets = [event.batch.base_offset for event in events if isinstance(event, Frame)]
    assert offsets == sorted(set(offsets))
    assert set(offsets) <= {1, 3}


def test_a_frame_of_another_log_is_not_taken_for_ours():
    data = frame_of([b"ours"], 0) + frame_of([b"theirs"], 1, tag=TAG + 1) + frame_of([b"on"], 1)
    assert values_of(scan_all(data)) == [b"ours", b"on"]


def test_a_frame_of_lower_offsets_is_what_an_earlier_life_left():
    data = frame_of([b"new"], 5) + frame_of([b"old"], 5) + frame_of([b"older"], 2)
    events = scan_all(data, expected=5)
    assert values_of(events) == [b"new"]
    assert isinstance(events[-1], Damage)
    assert "can't stand here" in events[-1].reason


def test_a_log_stored_as_a_value_is_one_value_and_no_frames():
    inner = b"".join(frame_of([b"inner %d" % n], n) for n in range(5))
    outer = [frame_of([b"first"] * 9, 0), frame_of([inner], 9), frame_of([b"last"], 10)]
    assert values_of(scan_all(b"".join(outer))) == [b"first"] * 9 + [inner, b"last"]
    for position in range(0, len(outer[1]), 5):
        damaged = bytearray(outer[1])
        damaged[position] ^= 1
        events = drive(outer[0] + bytes(damaged) + outer[2], step=10**6)
        assert values_of(events) == [b"first"] * 9 + [b"last"]


def test_missing_offsets_between_intact_frames_are_reported():
    events = scan_all(frame_of([b"a"], 0) + frame_of([b"b"], 4))
    assert [type(event) for event in events] == [Frame, Damage, Frame]
    assert (events[1].offset, events[1].end_offset) == (1, 4)
    assert events[1].position == events[1].end_position


def test_an_intact_frame_of_a_later_version_is_unsupported():
    later = bytearray(frame_of([b"x"], 1))
    later[54] = 3
    later[4:8] = crc32c(bytes(later[8:])).to_bytes(4, "little")
    with pytest.raises(UnsupportedFormatError):
        drive(frame_of([b"a"], 0) + bytes(later), step=10**6)


def counting(monkeypatch):
    counted = [0]

    def counted_crc(data, initial=None):
        counted[0] += len(data)
        return crc32c(data, initial)

    for module in (frame_module, batch_module):
        monkeypatch.setattr(module, "crc32c", counted_crc)
    return counted


def hostile(claim: int, size: int) -> bytes:
    """Nothing but frame headers, each claiming `claim` bytes of body."""
    header = FRAME_MAGIC_BYTES + bytes(4) + claim.to_bytes(4, "little") + bytes(4)
    return header * (size // len(header))


def hostile_heads(claim: int, size: int) -> bytes:
    """Nothing but headers of frames of version BLOCKS that are head but for their last 8 bytes.

    The last value offset of each stands where a later header has its base offset, and is 8.
    """
    count = min(claim // 4 - 6, RECORD_COUNT_MAX) // 16 * 16 - 12
    body_bytes = 4 * count + 8 + 8 + 8
    start = FRAME_MAGIC_BYTES + bytes(4) + body_bytes.to_bytes(4, "little")
    start += count.to_bytes(4, "little") + (8).to_bytes(8, "little")
    header = start + bytes(30) + bytes([BLOCKS]) + bytes(9)
    return header * (size // len(header))


@pytest.mark.parametrize("claim", [BODY_BYTES_MAX, 64 * 1024, 1 << 20])
@pytest.mark.parametrize("made", [hostile, hostile_heads])
def test_a_file_made_to_be_slow_costs_a_bounded_number_of_checksum_bytes(monkeypatch, claim, made):
    monkeypatch.setattr(scanner_module, "SEARCH_BYTES_MAX", 1 << 25)
    counted = counting(monkeypatch)
    data = made(claim, 1 << 21)
    scanner, fed = Scanner(TAG, 0, START), 0
    end = 0
    while True:
        event = scanner.next()
        if event is NEED_DATA:
            if end == len(data):
                break
            at = scanner.position - START
            end = min(len(data), at + max(4096, scanner.wanted_bytes))
            fed += end - at
            scanner.feed(data[at:end], is_last=end == len(data))
    assert claim > len(data) or counted[0] > len(data)  # it was slow, as it was made to be
    assert counted[0] <= (1 << 25) + BODY_BYTES_MAX
    assert fed <= (1 << 25) + BODY_BYTES_MAX


def test_the_search_goes_on_for_what_real_damage_needs(monkeypatch):
    frames = [frame_of([b"v" * 1000] * 60, 60 * number) for number in range(40)]
    for number in range(0, 40, 2):
        frame = bytearray(frames[number])
        frame[200] ^= 1
        frames[number] = bytes(frame)
    counted = counting(monkeypatch)
    events = drive(b"".join(frames), step=10**8)
    assert len(values_of(events)) == 60 * 20
    assert counted[0] < 2 * sum(map(len, frames))
