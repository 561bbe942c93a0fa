"""Looking into the tail."""

import shutil

import pytest

import segstore
from segstore.format import framelayout, kernel
from segstore.format.frame import encode_frame
from segstore.format.framelayout import FRAME_HEADER_BYTES
from segstore.segment import tailreader
from segstore.segment.tail import FRAMES_POSITION, TAIL_BYTES
from segstore.segment.tailreader import TailReader, decode_columns, stray_offset

TAG = 7
MANY = 500


def frame(offset, values, timestamps=3, keys=None, tag=TAG):
    encoded = encode_frame(
        offset, values, timestamps, keys, append_time=9, log_tag=tag, durable_offset=0
    )
    return encoded.data


def stored(*frames, position=FRAMES_POSITION, view=None):
    view = memoryview(bytearray(TAIL_BYTES)) if view is None else view
    for data in frames:
        view[position : position + len(data)] = data
        position += len(data)
    return view


@pytest.fixture
def decoded(monkeypatch):
    """The offsets of the frames that were decoded."""
    offsets = []

    def counting(data, tag):
        found = decode_columns(data, tag)
        offsets.append(None if found is None else found[0])
        return found

    def counting_small(view, position, offset, tag, values, *columns):
        before = len(values)
        position = take_records(view, position, offset, tag, values, *columns)
        offsets.extend(range(offset, offset + len(values) - before))
        return position

    take_records = kernel.take_records
    monkeypatch.setattr(tailreader, "decode_columns", counting)
    monkeypatch.setattr(kernel, "take_records", counting_small)
    return offsets


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("keys", [None, [b""], [b"k"], [b"a longer key"]])
def test_a_small_frame_gives_the_same_columns_by_either_way(size, keys):
    whole = frame(5, [bytes(range(256))[:size]], keys=keys)
    offset, *expected = decode_columns(whole, TAG)
    columns = [], [], []
    assert kernel.take_records(memoryview(whole), 0, 5, TAG, *columns) == len(whole)
    assert offset == 5
    assert list(map(list, columns)) == list(map(list, expected))


@pytest.mark.parametrize("size", [0, 5, 8])
@pytest.mark.parametrize("keys", [None, [b"key"]])
def test_no_flipped_bit_of_a_small_frame_is_believed(size, keys):
    whole = frame(5, [bytes(size)], keys=keys)

    def is_taken(data, tag=TAG, offset=5):
        columns = [], [], []
        taken = kernel.take_records(memoryview(data), 0, offset, tag, *columns)
        assert set(map(len, columns)) == {int(taken > 0)}
        assert taken in (0, len(whole))
        return taken > 0

    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        assert decode_columns(bytes(data), TAG) is None
        assert not is_taken(data)
    assert decode_columns(whole, TAG + 1) is None
    assert decode_columns(whole[:-8], TAG) is None
    assert decode_columns(whole + bytes(8), TAG) is None
    assert not is_taken(whole, tag=TAG + 1)
    assert not is_taken(whole, offset=6)
    assert not is_taken(whole[:-8])
    assert is_taken(whole + bytes(8))  # what is no frame ends the row


def test_all_records_are_read_in_one_pass(decoded):
    view = stored(frame(4, [b"a"]), frame(5, [b"b", b"c"], [1, 2], [None, b"k"]), frame(7, [b"d"]))
    reader = TailReader(view, TAG)
    staged = reader.read_all()
    assert staged.values == [b"a", b"b", b"c", b"d"]
    assert staged.timestamps == [3, 1, 2, 3]
    assert staged.keys == [None, None, b"k", None]
    assert staged.offsets == reader.offsets() == range(4, 8)
    assert staged.since(6).values == [b"c", b"d"]
    assert staged.since(8).values == staged.since(3).values == []
    assert decoded == [4, 5, 7]


def test_a_look_that_finds_nothing_new_decodes_nothing(decoded):
    frames = [frame(offset, [b"value"]) for offset in range(MANY)]
    view = stored(*frames[:-1])
    reader = TailReader(view, TAG)
    assert reader.offsets() == range(MANY - 1)
    del decoded[:]
    for offset in range(MANY - 1):
        assert reader.get(offset, offset + 1).values == [b"value"]
        assert reader.record(offset) == (offset, 3, None, b"value")
    assert reader.get(0).values == [b"value"] * (MANY - 1)
    assert decoded == []
    stored(frames[-1], position=reader.end_position, view=view)
    assert reader.offsets() == range(MANY)
    assert decoded == [MANY - 1]


def test_frames_of_an_earlier_round_behind_the_last_are_not_decoded(decoded):
    view = stored(*(frame(offset, [b"old"]) for offset in range(MANY)))
    reader = TailReader(view, TAG)
    assert reader.offsets() == range(MANY)
    stored(frame(MANY, [b"new"]), view=view)
    del decoded[:]
    assert reader.offsets() == range(MANY, MANY + 1)
    assert decoded == [MANY]
    assert reader.get(0) is None
    assert reader.get(MANY).values == [b"new"]


def test_a_round_with_the_offsets_of_the_last_is_seen(decoded):
    view = stored(frame(0, [b"old"]), frame(1, [b"old"]))
    reader = TailReader(view, TAG)
    assert reader.offsets() == range(2)
    view[FRAMES_POSITION:] = bytes(len(view) - FRAMES_POSITION)
    assert reader.offsets() == range(0)
    stored(frame(0, [b"new"], timestamps=4), view=view)
    assert reader.offsets() == range(1)
    assert reader.get(0).values == [b"new"]


@pytest.mark.parametrize("kept", [0, 4, 24, FRAME_HEADER_BYTES, 70])
def test_a_frame_that_is_being_stored_is_not_there_yet(kept):
    whole = frame(1, [b"value"])
    view = stored(frame(0, [b"value"]), whole[:kept])
    reader = TailReader(view, TAG)
    assert reader.offsets() == range(1)
    stored(whole, position=reader.end_position, view=view)
    assert reader.offsets() == range(2)


def test_a_round_that_starts_between_a_look_at_a_frame_and_its_copy(monkeypatch):
    view = stored(frame(0, [b"a long one" * 30]))
    reader = TailReader(view, TAG)
    peek = framelayout.peek_header

    def peek_and_restart(*place):
        claimed = peek(*place)
        stored(frame(1, [b"short"]), frame(2, [b"next"]), view=view)
        return claimed

    monkeypatch.setattr(framelayout, "peek_header", peek_and_restart)
    reader.offsets()
    monkeypatch.undo()
    assert reader.offsets() == range(1, 3)
    assert reader.get(2).values == [b"next"]


def test_a_round_that_starts_between_a_look_at_a_later_frame_and_its_copy(monkeypatch):
    view = stored(frame(0, [b"a", b"b"]))
    reader = TailReader(view, TAG)
    assert reader.offsets() == range(2)
    stored(frame(2, [b"c", b"d"]), position=reader.end_position, view=view)
    peek = framelayout.peek_header

    def peek_and_restart(*place):
        claimed = peek(*place)
        stored(frame(4, [b"e", b"f"]), frame(6, [b"g", b"h"]), view=view)
        return claimed

    monkeypatch.setattr(framelayout, "peek_header", peek_and_restart)
    assert reader.get(2) is None
    monkeypatch.undo()
    assert reader.get(4).values == [b"e", b"f", b"g", b"h"]
    assert reader.get(2) is None


def test_without_memory_the_columns_still_go_together(monkeypatch):
    def take_a_half(view, position, offset, tag, values, timestamps, keys):
        keys.append(b"of no value")
        monkeypatch.setattr(tailreader, "Staged", no_memory)
        raise MemoryError

    def no_memory(*columns):
        raise MemoryError

    reader = TailReader(stored(frame(0, [b"a"]), frame(1, [b"b"], keys=[b"k"])), TAG)
    monkeypatch.setattr(kernel, "take_records", take_a_half)
    with pytest.raises(MemoryError):
        reader.get(0)
    monkeypatch.undo()
    staged = reader.get(0)
    assert (staged.values, staged.keys) == ([b"a", b"b"], [None, b"k"])


def test_records_are_found_by_their_offsets_and_not_by_their_places():
    view = stored(*(frame(offset, [b"%d" % offset]) for offset in range(4, 24)))
    reader = TailReader(view, TAG)
    assert reader.record(3) is None
    assert reader.record(4) == (4, 3, None, b"4")
    assert reader.record(14) == (14, 3, None, b"14")
    assert reader.record(24) is None
    assert reader.get(10, 12).values == [b"10", b"11"]
    assert reader.get(22, 30).values == [b"22", b"23"]


def test_a_batch_of_the_tail_has_keys_where_a_record_has_one():
    view = stored(frame(4, [b"a", b"b"], keys=[None, b"k"]), frame(6, [b"c"]))
    staged = TailReader(view, TAG).read_all()
    batch = staged.batch()
    assert (batch.base_offset, batch.values(), batch.keys()) == (
        4,
        [b"a", b"b", b"c"],
        [None, b"k", None],
    )
    assert batch.has_keys
    assert not staged.since(6).batch().has_keys
    assert [record.key for record in staged.records()] == [None, b"k", None]


def test_a_size_that_reaches_past_the_tail_is_no_frame():
    whole = bytearray(frame(0, [b"value"]))
    whole[8:12] = (TAIL_BYTES - FRAMES_POSITION).to_bytes(4, "little")
    assert TailReader(stored(bytes(whole)), TAG).offsets() == range(0)


FRAMES = [frame(offset, [b"value"]) for offset in range(3)]
MAGIC_AT, OFFSET_AT, TAG_AT, VALUE_AT = 0, 16, 48, 72


@pytest.mark.parametrize(
    ("count", "spoiled", "end_offset", "expected"),
    [
        (0, [], 0, None),
        (3, [], 3, None),
        (3, [], 1, 1),
        (3, [(1, VALUE_AT)], 1, 1),
        (3, [(1, MAGIC_AT)], 1, 1),
        (3, [(1, OFFSET_AT)], 1, 1),
        (3, [(1, TAG_AT)], 1, 1),
        (3, [(1, MAGIC_AT), (1, VALUE_AT)], 1, 2),
        (2, [(1, MAGIC_AT)], 1, 1),
        (2, [(1, MAGIC_AT), (1, VALUE_AT)], 1, None),  # nothing tells that there was a frame
        (1, [(0, MAGIC_AT)], 0, 0),
        (3, [(0, VALUE_AT)], 3, None),
        (3, [(0, VALUE_AT)], 0, 0),
    ],
)
def test_what_the_tail_seems_to_hold_behind_the_end(count, spoiled, end_offset, expected):
    data = bytearray(b"".join(FRAMES[:count]))
    for number, at in spoiled:
        data[number * len(FRAMES[0]) + at] ^= 0xFF
    reader = TailReader(stored(bytes(data)), TAG)
    assert stray_offset(reader, TAG, end_offset) == expected


def test_a_tail_whose_first_frame_is_damaged_seems_to_go_on_where_the_segments_end():
    data = bytearray(frame(5, [b"value"]))
    data[MAGIC_AT] ^= 0xFF
    reader = TailReader(stored(bytes(data)), TAG)
    assert stray_offset(reader, TAG, 5) == 5
    assert stray_offset(reader, TAG, 6) is None


@pytest.mark.parametrize("value", [frame(9, [b"x"], tag=TAG + 1), b"odd" + frame(9, [b"x"])])
def test_a_frame_in_a_value_is_nothing_that_the_tail_holds(value):
    data = bytearray(frame(0, [value]))
    data[-1] ^= 0xFF
    assert stray_offset(TailReader(stored(bytes(data)), TAG), TAG, 1) is None


@pytest.mark.parametrize("mode", ["a", "r"])
def test_opening_decodes_each_frame_of_the_tail_once(path, mode, decoded):
    killed = path + "-killed"
    with segstore.open(path, background=False) as log:
        log.append(b"first")
        log.sync()
        for _ in range(MANY):
            log.append(b"value")
        shutil.copytree(path, killed)
    del decoded[:]
    with segstore.open(killed, mode, background=False) as log:
        assert log.recovery.from_tail == MANY
        assert log.end_offset == MANY + 1
        assert list(log.values()) == [b"first", *[b"value"] * MANY]
        assert decoded == list(range(1, MANY + 1))
