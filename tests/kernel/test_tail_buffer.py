"""The C append against its specification: the same frames, the same lists, the same refusals."""

from __future__ import annotations

import gc
import mmap
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from itertools import accumulate, chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segstore.format import checksum
from segstore.format.batch import RecordBatch
from segstore.format.frame import decode_frame, encode_frame
from segstore.segment import tailbuffer
from segstore.segment.tail import FRAMES_POSITION
from segstore.segment.tailbuffer import PythonTailBuffer
from segstore.segment.tailreader import TailReader, stray_offset
from tests.kernel import strategies as some
from tests.log.test_interrupt import interrupted

TAG = 0xDEADBEEF
TAIL_BYTES = FRAMES_POSITION + 2048


class Slow:
    """Stands where `LogWriter` does, refuses what it does, and tells what it was called with."""

    def __init__(self):
        self.calls = []

    def append(self, value, *, key=None, timestamp=None, durability=None):
        return self._call(value, key, timestamp, durability)

    def append_many(self, values, *, keys=None, timestamps=None, durability=None):
        return self._call(values, keys, timestamps, durability)

    def _call(self, *arguments):
        self.calls.append(arguments)
        return -1 - len(self.calls)


def staged(buffer, start=0, stop=None):
    """(Values, keys, timestamps) of staged records, out of the frame that a drain would write."""
    count = buffer.staged_count if stop is None else stop - start
    if count == 0:
        return [], [], []
    lowest, highest, frame = buffer.join_frame(start, start + count, 40)
    batch = decode_frame(memoryview(frame), 0, TAG)
    assert isinstance(batch, RecordBatch), batch
    header = batch.header
    times = list(batch.timestamps)
    assert (header.base_offset, len(batch), len(frame)) == (40, count, 64 + header.body_bytes)
    assert (min(times), max(times)) == (lowest, highest)
    assert (header.min_timestamp, header.max_timestamp) == (lowest, highest)
    assert header.append_time == buffer.append_time
    assert header.durable_offset == buffer.segments_durable_offset
    assert batch.has_keys == buffer.has_keys
    return batch.values(), batch.keys(), times


class Rig:
    def __init__(self, kind, size=TAIL_BYTES):
        self.memory = bytearray(size)
        self.bell = bytearray(4)
        self.rings = []
        self.slow = Slow()
        self.buffer = kind(
            memoryview(self.memory),
            TAG,
            threading.Lock(),
            self.slow.append,
            self.slow.append_many,
            memoryview(self.bell).cast("I"),
            lambda: self.rings.append(self.buffer.next_offset),
        )
        self.buffer.is_open = True
        self.buffer.batch_bytes_max = 1500

    def frames(self):
        """(Values, keys, header but for the times) of every frame, each checked."""
        found, at = [], FRAMES_POSITION
        while at < self.buffer.position:
            batch = decode_frame(memoryview(bytes(self.memory)), at, TAG)
            assert isinstance(batch, RecordBatch), batch
            header = batch.header
            again = encode_frame(
                header.base_offset,
                batch.values(),
                list(batch.timestamps),
                batch.keys() if batch.has_keys else None,
                append_time=header.append_time,
                log_tag=TAG,
                durable_offset=header.durable_offset,
            ).data
            assert self.memory[at : at + len(again)] == again
            header = header._replace(crc=0, min_timestamp=0, max_timestamp=0)
            found.append((batch.values(), batch.keys(), header))
            at += len(again)
        assert not any(self.memory[:FRAMES_POSITION])
        if found:
            assert not any(self.memory[at : at + 8])
        return found

    def state(self):
        buffer = self.buffer
        plain = (
            "is_open",
            "next_offset",
            "position",
            "limit",
            "append_time",
            "segments_durable_offset",
        )
        state = {name: getattr(buffer, name) for name in plain}
        values, keys, times = staged(buffer)
        # Those that were not taken from the clock.
        given_times = [time for time in times if not 0 < time < 2**62]
        return state, values, keys, len(times), given_times, list(map(list, buffer.ends()))


@pytest.fixture(params=["c", "python"])
def kind(request):
    if request.param == "python":
        return PythonTailBuffer
    return request.getfixturevalue("compiled").TailBuffer


STORED = encode_frame(5, [b"stored"], 1, None, append_time=2, log_tag=TAG, durable_offset=0)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(max_size=200)),
        st.tuples(st.just("append"), some.odd_values),
        st.tuples(st.just("append"), st.integers(1800, 2100).map(bytes)),
        st.tuples(
            st.just("keyed"),
            st.binary(max_size=9),
            st.dictionaries(
                st.sampled_from(["key", "timestamp", "durability"]),
                st.sampled_from([None, b"k", 7, "durable"]),
            ),
        ),
        st.tuples(
            st.just("keyed"),
            st.binary(max_size=200),
            st.fixed_dictionaries(
                {},
                optional={
                    "key": st.binary(max_size=20)
                    | st.integers(1800, 2100).map(bytes)
                    | some.odd_values,
                    "timestamp": st.integers(-(2**63) - 1, 0) | some.numbers,
                },
            ),
        ),
        st.tuples(
            st.just("many"),
            some.values | st.lists(st.binary(max_size=99), max_size=20),
            st.fixed_dictionaries(
                {},
                optional={
                    "keys": st.none()
                    | some.values
                    | st.lists(st.none() | st.binary(max_size=9), max_size=20),
                    "timestamps": st.none() | st.lists(st.integers(-9, 0), max_size=9),
                    "durability": st.none() | st.just("durable"),
                },
            ),
        ),
        st.tuples(
            st.just("many"),
            st.lists(
                st.tuples(st.binary(max_size=99), st.none() | st.binary(max_size=9)), max_size=20
            ),
        ),
        st.tuples(
            st.just("many"),
            st.lists(st.binary(max_size=99), min_size=1, max_size=5),
            st.integers(-(2**63) - 1, 0) | some.numbers,
        ),
        st.tuples(st.just("largest"), st.integers(0, 2500)),
        st.tuples(st.just("open"), st.booleans()),
        st.tuples(st.just("set"), st.integers(0, 2**50), st.integers(0, 2**50), some.numbers),
        st.tuples(st.just("join"), st.integers(-2, 9), st.integers(-2, 320), st.booleans()),
        st.tuples(st.just("limit"), st.integers(FRAMES_POSITION, TAIL_BYTES)),
        st.tuples(st.just("store")),
        st.tuples(
            st.just("stage"),
            st.lists(st.binary(max_size=9), max_size=300),
            st.lists(st.integers(-(2**63) - 1, 0) | st.none(), max_size=3),
            st.none() | st.lists(st.none() | st.binary(max_size=9), max_size=3),
        ),
        st.tuples(
            st.just("stage"),
            st.just([b"1", b"2"]),
            st.tuples(*[st.integers(-9, 0)] * 2).map(list),
            st.none() | st.tuples(*[st.none() | st.binary(max_size=9)] * 2).map(list),
        ),
        st.tuples(st.just("restart")),
        st.tuples(st.just("bell"), st.booleans()),
        st.tuples(
            st.just("wrong"),
            st.tuples(
                st.sampled_from([((), {}), ((b"", b""), {}), ((b"",), {"x": 1})]), st.booleans()
            ).map(lambda found: (*found[0], found[1])),
        ),
    ),
    max_size=30,
)


def run(rig, step):
    buffer = rig.buffer
    name, *args = step
    if name == "append":
        return buffer.append(args[0])
    if name == "keyed":
        return buffer.append(args[0], **args[1])
    if name == "many":
        if len(args) == 1:
            return buffer.append_many([v for v, _ in args[0]], keys=[k for _, k in args[0]])
        if not isinstance(args[1], dict):  # of the last of the timestamps
            return buffer.append_many(args[0], timestamps=[-5] * (len(args[0]) - 1) + [args[1]])
        return buffer.append_many(args[0], **args[1])
    if name == "largest":
        buffer.batch_bytes_max = args[0]
    elif name == "open":
        buffer.is_open = args[0]
    elif name == "set":
        buffer.append_time, buffer.segments_durable_offset = args[0], args[1]
    elif name == "join":
        stop = min(args[1], buffer.staged_count) if args[2] else args[1]
        return staged(buffer, args[0], stop)[:2]
    elif name == "limit":
        buffer.limit = args[0]
    elif name == "store" and buffer.position + len(STORED.data) <= buffer.limit:
        buffer.store(STORED.data)
    elif name == "stage":
        buffer.stage(*args)
    elif name == "restart":
        buffer.restart()
    elif name == "bell":
        rig.bell[:] = bytes([args[0], 0, 0, 0])
    elif name == "wrong":
        arguments = args[0][0], args[0][1]
        method = buffer.append_many if args[0][2] else buffer.append
        return method(*arguments[0], **arguments[1])
    return None


def outcome(rig, step):
    try:
        return run(rig, step)
    except (TypeError, ValueError, OverflowError) as error:
        # Of what is staged the kernel does not say what is wrong: it was all checked before.
        return "refused" if step[0] == "stage" else type(error)


@given(steps=steps)
@settings(max_examples=300, deadline=None)
def test_every_course_of_events_is_the_same(compiled, steps):
    rigs = Rig(compiled.TailBuffer), Rig(PythonTailBuffer)
    for step in steps:
        assert outcome(rigs[0], step) == outcome(rigs[1], step)
        assert rigs[0].state() == rigs[1].state()
    assert rigs[0].frames() == rigs[1].frames()
    assert rigs[0].slow.calls == rigs[1].slow.calls
    assert rigs[0].rings == rigs[1].rings


@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.binary(max_size=300), st.none() | st.binary(max_size=9)), max_size=40
        ),
        max_size=4,
    ),
    with_keys=st.booleans(),
)
def test_a_batch_in_the_tail_is_one_frame_and_is_staged(compiled, batches, with_keys):
    for kind in (compiled.TailBuffer, PythonTailBuffer):
        rig = Rig(kind, FRAMES_POSITION + 100_000)
        rig.buffer.batch_bytes_max = 20_000
        values, keys, expected = [], [], []
        for batch in batches:
            some_values, some_keys = [v for v, _ in batch], [k for _, k in batch]
            options = {"keys": some_keys} if with_keys else {}
            offsets = rig.buffer.append_many(some_values, **options)
            if not batch:
                assert offsets == -1 - len(rig.slow.calls)
                continue
            assert offsets == range(len(values), len(values) + len(batch))
            values += some_values
            keys += some_keys if with_keys else [None] * len(batch)
            expected.append((some_values, keys[-len(batch) :]))
        assert [frame[:2] for frame in rig.frames()] == expected
        assert staged(rig.buffer)[:2] == (values, keys)
        assert rig.buffer.next_offset == len(values)
        assert len(rig.slow.calls) == batches.count([])
        times = staged(rig.buffer)[2]
        assert times == sorted(times)


def test_a_batch_that_is_too_large_goes_the_slow_way_and_leaves_nothing(kind):
    rig = Rig(kind)
    rig.buffer.append(b"before", timestamp=-1)
    before, memory = rig.state(), bytes(rig.memory)
    for values, largest in [
        ([bytes(1000)] * 3, 100_000),  # the tail has no room
        ([bytes(100)] * 3, 200),  # its values are too large already
        ([bytes(100)] * 3, 370),  # and here only its frame
        ([b""] * 400, 370),
    ]:
        rig.buffer.batch_bytes_max = largest
        assert rig.buffer.append_many(values, keys=[b"k"] * len(values)) == -1 - len(rig.slow.calls)
        assert (rig.state(), bytes(rig.memory)) == (before, memory)
    rig.buffer.batch_bytes_max = 1000
    assert rig.buffer.append_many([b"after"]) == range(1, 2)
    assert not rig.buffer.has_keys


def test_a_batch_of_many_records_goes_the_slow_way(kind):
    rig = Rig(kind, FRAMES_POSITION + 100_000)
    rig.buffer.batch_bytes_max = 50_000
    most = 512 if kind is PythonTailBuffer else 2048
    assert rig.buffer.append_many([b""] * most) == range(most)
    assert rig.buffer.append_many([b""] * (most + 1)) == -2
    assert rig.buffer.next_offset == most


def test_the_timestamp_is_the_wall_clock(kind):
    rig = Rig(kind)
    before = time.time_ns()
    rig.buffer.append(b"x")
    (staged_time,) = staged(rig.buffer)[2]
    assert before <= staged_time <= time.time_ns()
    batch = decode_frame(memoryview(bytes(rig.memory)), FRAMES_POSITION, TAG)
    assert list(batch.timestamps) == [staged_time]


def test_many_are_staged_in_their_order(kind):
    buffer = Rig(kind, FRAMES_POSITION + 100_000).buffer
    values, times, keys = [], [], []
    for count in (0, 1, 63, 64, 65, 1000):
        more_keys = [b"k" * (place % 3) if place % 7 else None for place in range(count)]
        more = [b"%d" % place for place in range(count)]
        more_times = [-count * place for place in range(count)]
        buffer.stage(more, more_times, more_keys if count % 2 else None)
        values += more
        times += more_times
        keys += more_keys if count % 2 else [None] * count
    assert staged(buffer) == (values, keys, times)
    of_values, of_keys = buffer.ends()
    assert list(of_values) == list(accumulate(map(len, values), initial=0))
    assert list(of_keys) == list(accumulate((len(key or b"") for key in keys), initial=0))
    for start, stop in [(0, 1), (1, 2), (1, 9), (62, 66), (500, 1192), (0, 1193)]:
        part = slice(start, stop)
        assert staged(buffer, start, stop) == (values[part], keys[part], times[part])
    found = buffer.join_frame(0, 1193, 0)
    again = buffer.join_frame(0, 1193, 0)
    buffer.restart()
    buffer.stage([b"new"], [5], None)
    assert found == again  # what the drain holds is not written over
    assert staged(buffer) == ([b"new"], [None], [5])
    assert not buffer.has_keys


@pytest.mark.parametrize(
    ("values", "times", "keys"),
    [
        ([b"1", b"2"], [1], None),
        ([b"1"], [], None),
        ([b"1", b"2"], [1, 2], [b"k"]),
        ([b"1", b"2"], [1, 2**63], None),
        ([b"1", b"2"], [1, None], [b"k", b"l"]),
    ],
)
def test_what_can_not_be_staged_leaves_all_as_it_was(kind, values, times, keys):
    buffer = Rig(kind).buffer
    buffer.stage([b"0"], [7], None)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        buffer.stage(values, times, keys)
    assert staged(buffer) == ([b"0"], [None], [7])
    assert not buffer.has_keys


@pytest.mark.parametrize("places", [(0, 0), (-1, 1), (1, 1), (0, 3), (2, 3), (2, 1)])
def test_a_frame_of_records_that_are_not_staged_is_refused(kind, places):
    buffer = Rig(kind).buffer
    buffer.stage([b"0", b"1"], [7, 8], None)
    with pytest.raises(ValueError, match="no records"):
        buffer.join_frame(*places, 0)


@pytest.mark.parametrize("name", ["_keys", "_values", "_timestamps"])
def test_without_memory_to_stage_it_a_record_is_not_there(name):
    class FullList(list):
        def append(self, item):
            raise MemoryError

    class FullDict(dict):
        def __setitem__(self, place, key):
            raise MemoryError

    rig = Rig(PythonTailBuffer)
    rig.buffer.append(b"before", key=b"k", timestamp=-1)
    before, memory = rig.state(), bytes(rig.memory)
    kept = getattr(rig.buffer, name)
    setattr(rig.buffer, name, FullDict(kept) if name == "_keys" else FullList(kept))
    with pytest.raises(MemoryError):
        rig.buffer.append(b"not there", key=b"l", timestamp=-2)
    assert (rig.state(), bytes(rig.memory)) == (before, memory)
    setattr(rig.buffer, name, kept)
    rig.buffer.append(b"after", timestamp=-3)
    found = [(values, keys) for values, keys, _ in rig.frames()]
    assert found == [([b"before"], [b"k"]), ([b"after"], [None])]


@given(size=st.integers(0, 40_000))
@settings(max_examples=100, deadline=None)
def test_a_value_of_any_size_is_framed_right(compiled, size):
    rig = Rig(compiled.TailBuffer, FRAMES_POSITION + 40_100)
    value = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    assert rig.buffer.append(value) == 0
    assert [values for values, *_ in rig.frames()] == [[value]]


@given(words=st.binary(max_size=400), copies=st.integers(1, 12))
def test_the_checksum_is_the_same_by_instruction_by_table_and_by_library(compiled, words, copies):
    data = (words * copies)[: len(words) * copies // 8 * 8]
    expected = checksum.crc32c(data)
    assert compiled.crc32c_of(data) == expected
    assert compiled.crc32c_of(data, portable=True) == expected


@pytest.mark.parametrize("is_portable", [False, True])
def test_the_checksum_is_the_same_whatever_the_size(compiled, is_portable):
    """Up to two blocks: one lane, three short ones, three of the longest, and what is left over."""
    data = random.Random(8).randbytes(8192)
    for size in range(0, len(data) + 1, 8):
        assert compiled.crc32c_of(data[:size], portable=is_portable) == checksum.crc32c(data[:size])


def test_the_last_byte_of_the_tail_is_used_and_not_one_more(kind):
    rig = Rig(kind, FRAMES_POSITION + 72 + 16)
    assert rig.buffer.append(bytes(17)) == -2
    assert rig.buffer.append(bytes(range(16))) == 0
    assert rig.buffer.append(b"") == -3
    assert bytes(rig.memory[-16:]) == bytes(range(16))


def test_a_tail_without_room_sends_everything_to_the_slow_way(kind):
    rig = Rig(kind, FRAMES_POSITION)
    assert rig.buffer.append(b"") == -2
    assert rig.buffer.staged_count == 0


def test_a_bell_that_fails_is_the_callers_error_and_the_record_stands(kind):
    def ring():
        raise RuntimeError("no bell")

    memory = bytearray(TAIL_BYTES)
    bell = memoryview(bytearray(b"\1\0\0\0")).cast("I")
    buffer = kind(memoryview(memory), TAG, threading.Lock(), print, print, bell, ring)
    buffer.is_open = True
    buffer.batch_bytes_max = 200
    with pytest.raises(RuntimeError, match="no bell"):
        buffer.append(b"x")
    with pytest.raises(RuntimeError, match="no bell"):
        buffer.append_many([b"y", b"z"])
    assert staged(buffer)[0] == [b"x", b"y", b"z"]
    assert buffer.next_offset == 3


def test_an_error_of_the_slow_way_comes_through(kind):
    rig = Rig(kind)
    buffer = kind(
        memoryview(rig.memory),
        TAG,
        threading.Lock(),
        lambda *args, **keywords: 1 / 0,
        lambda *args, **keywords: [][1],
        memoryview(bytes(4)).cast("I"),
        lambda: None,
    )
    with pytest.raises(ZeroDivisionError):
        buffer.append(b"x")
    with pytest.raises(IndexError):
        buffer.append_many([b"x"])


def test_attributes_of_the_wrong_kind_are_refused(compiled):
    buffer = Rig(compiled.TailBuffer).buffer
    for name, value, error in [
        ("is_open", 1, TypeError),
        ("position", "1", TypeError),
        ("position", 2**63, OverflowError),
        ("next_offset", 2**64, OverflowError),
        ("segments_durable_offset", 2**64, OverflowError),
        ("append_time", 2**63, OverflowError),
        ("staged_count", 0, AttributeError),
        ("has_keys", False, AttributeError),
    ]:
        with pytest.raises(error):
            setattr(buffer, name, value)
        with pytest.raises((AttributeError, TypeError)):
            delattr(buffer, name)
    # Before Python 3.14, what was refused may read as -1, which leads nowhere.
    assert buffer.append(b"x") <= 0


def test_a_limit_behind_the_end_gives_no_room_that_is_not_there(compiled):
    rig = Rig(compiled.TailBuffer)
    rig.buffer.limit = 2**62
    assert rig.buffer.append(bytes(TAIL_BYTES)) < 0


def test_a_limit_before_the_end_is_kept(kind):
    rig = Rig(kind)
    rig.buffer.limit = FRAMES_POSITION + 72 + 8
    assert rig.buffer.append(bytes(9)) < 0
    assert rig.buffer.append(bytes(8)) == 0
    assert rig.buffer.append(b"") < 0


def test_a_key_that_does_not_fit_is_only_measured(kind):
    """One of 2 GiB has a size that no field holds, and the slow way is who says so."""
    rig, key = Rig(kind), bytes(1 << 20)
    tracemalloc.start()
    try:
        assert rig.buffer.append(b"", key=key) == -2
        assert tracemalloc.get_traced_memory()[1] < len(key)
    finally:
        tracemalloc.stop()
    assert rig.slow.calls == [(b"", key, None, None)]


def test_a_released_buffer_lets_its_mapping_close_and_stores_nothing(compiled):
    rig = Rig(compiled.TailBuffer)
    rig.buffer.append(b"kept")
    rig.buffer.release()
    rig.memory.clear()  # refused while anything looks into it
    assert not rig.buffer.is_open
    rig.buffer.is_open = True
    assert rig.buffer.append(b"x") < 0
    with pytest.raises(ValueError, match="does not fit"):
        rig.buffer.store(STORED.data)
    rig.buffer.release()


def test_a_position_behind_the_end_leaves_no_room(kind):
    buffer = Rig(kind).buffer
    for position in (TAIL_BYTES, TAIL_BYTES + 1, 2**62):
        buffer.position = position
        assert buffer.append(b"x") < 0


def test_nothing_is_stored_in_front_of_the_frames_or_behind_the_end(compiled):
    rig = Rig(compiled.TailBuffer)
    numbers = (-(2**63), -1, 0, FRAMES_POSITION - 1, FRAMES_POSITION, TAIL_BYTES, 2**63 - 1)
    for rig.buffer.position in numbers:
        for rig.buffer.limit in numbers:
            if rig.buffer.position == FRAMES_POSITION and rig.buffer.limit >= TAIL_BYTES:
                continue
            assert rig.buffer.append(b"x") < 0
            assert rig.buffer.append_many([b"x"]) < 0
            with pytest.raises(ValueError, match="does not fit"):
                rig.buffer.store(STORED.data)
    assert not any(rig.memory)


def test_a_frame_that_does_not_fit_is_refused(kind):
    rig = Rig(kind, FRAMES_POSITION + 8)
    with pytest.raises(ValueError, match=r".*"):
        rig.buffer.store(STORED.data)
    assert rig.buffer.position == FRAMES_POSITION


@pytest.mark.parametrize(
    ("view", "tag", "bell", "error"),
    [
        (memoryview(bytes(8192)), 1, memoryview(bytes(4)).cast("I"), BufferError),
        (memoryview(bytearray(8192)).cast("I"), 1, memoryview(bytes(4)).cast("I"), ValueError),
        (memoryview(bytearray(8192))[::2], 1, memoryview(bytes(4)).cast("I"), BufferError),
        (memoryview(bytearray(8192)), 2**32, memoryview(bytes(4)).cast("I"), OverflowError),
        (memoryview(bytearray(8192)), -1, memoryview(bytes(4)).cast("I"), OverflowError),
        (memoryview(bytearray(8192)), 1, memoryview(bytes(4)), ValueError),
        (memoryview(bytearray(8192)), 1, memoryview(b"").cast("I"), ValueError),
        (5, 1, memoryview(bytes(4)).cast("I"), TypeError),
    ],
)
def test_a_constructor_that_can_not_hold_is_refused(compiled, view, tag, bell, error):
    with pytest.raises(error):
        compiled.TailBuffer(view, tag, None, print, print, bell, lambda: None)


def in_a_cycle(compiled, memory):
    """A weak reference to the owner of a buffer that refers back to it, with all its views."""

    class Owner:
        def append(self, value, **keywords):
            return 0

    owner = Owner()
    owner.view = memoryview(memory)
    owner.bell = memoryview(bytearray(8))[4:].cast("I")
    owner.buffer = compiled.TailBuffer(
        owner.view, TAG, None, owner.append, owner.append, owner.bell, owner.append
    )
    return weakref.ref(owner)


def test_a_buffer_in_a_cycle_is_collected_and_lets_go_of_its_memory(compiled):
    for _ in range(50):
        memory = bytearray(TAIL_BYTES)
        owner = in_a_cycle(compiled, memory)
        gc.collect()
        assert owner() is None
        memory.clear()  # refused while anything looks into it


def test_a_buffer_over_a_mapping_in_a_cycle_is_collected(compiled):
    for _ in range(50):
        mapping = mmap.mmap(-1, TAIL_BYTES)
        owner = in_a_cycle(compiled, mapping)
        gc.collect()
        assert owner() is None
        mapping.close()


def test_memory_does_not_go_while_the_buffer_may_store_into_it(compiled):
    rig = Rig(compiled.TailBuffer)
    with pytest.raises(BufferError):
        rig.memory.clear()


def test_no_reference_is_kept_or_dropped(compiled):
    rig = Rig(compiled.TailBuffer, FRAMES_POSITION + 200_000)
    buffer, value = rig.buffer, b"a value of its own"
    parts = [value, None, rig.slow]
    before = [sys.getrefcount(part) for part in parts]
    blocks = sys.getallocatedblocks()
    for _ in range(20):
        for _ in range(1000):
            buffer.append(value)
        for _ in range(100):
            buffer.append(value, key=b"key")
            buffer.append(value, key=None)
            with pytest.raises(TypeError):
                buffer.append(value, nothing=1)
        rig.slow.calls.clear()
        buffer.restart()
    gc.collect()
    after = [sys.getrefcount(part) for part in parts]
    assert after[0] == before[0]
    assert abs(after[1] - before[1]) < 50
    assert after[2] == before[2]
    assert sys.getallocatedblocks() - blocks < 1000


def test_threads_that_append_and_close_the_gate_lose_nothing(compiled):
    """What `LogWriter` does: who holds the lock shuts the gate first, and the rest goes slowly."""
    memory = memoryview(bytearray(1 << 20))
    lock = threading.Lock()

    def slowly(value, **keywords):
        with lock:
            buffer.is_open = False
            try:
                offset = buffer.next_offset
                frame = encode_frame(
                    offset, [value], 1, None, append_time=1, log_tag=TAG, durable_offset=0
                )
                buffer.store(frame.data)
                buffer.stage([value], [1], None)
                buffer.next_offset = offset + 1
                return offset
            finally:
                buffer.is_open = True

    bell = memoryview(bytes(4)).cast("I")
    buffer = compiled.TailBuffer(memory, TAG, lock, slowly, slowly, bell, lambda: None)
    buffer.is_open = True
    given_out = [[] for _ in range(4)]

    def work(number):
        for turn in range(2000):
            key = b"k" if turn % 3 == 0 else None
            given_out[number].append(buffer.append(b"%d" % number, key=key))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(chain.from_iterable(given_out)) == list(range(8000))
    at = FRAMES_POSITION
    for offset, value in enumerate(staged(buffer)[0]):
        batch = decode_frame(memory, at, TAG)
        assert (batch.base_offset, batch.values()) == (offset, [value])
        assert offset in given_out[int(value)]
        at += 64 + batch.header.body_bytes


def test_the_one_in_use_is_what_the_provider_says():
    from segstore.format import kernel

    expected = "python" if tailbuffer.TailBuffer is PythonTailBuffer else "c"
    provider = kernel.PROVIDER
    assert provider == expected


@pytest.mark.parametrize("count", [1, 3])
def test_an_append_that_was_interrupted_leaves_no_key_to_the_next(count):
    step = 0
    was_interrupted = True
    while was_interrupted:
        buffer = Rig(PythonTailBuffer).buffer

        def append(buffer=buffer):
            if count == 1:
                buffer.append(b"try", key=b"key")
            else:
                buffer.append_many([b"try"] * count, keys=[b"key"] * count)

        was_interrupted = interrupted(append, step)
        for _ in range(count):
            buffer.append(b"next")
        values, keys, _ = staged(buffer)
        tries = len(values) - count
        assert tries in (0, count)
        assert values == [b"try"] * tries + [b"next"] * count
        assert keys == [b"key"] * tries + [None] * count
        step += 1
    assert step > 10


@pytest.mark.parametrize(
    "fill",
    [
        lambda buffer: buffer.append(b"value"),
        lambda buffer: buffer.append_many([b"one", b"two"]),
        lambda buffer: buffer.store(STORED.data),
    ],
)
def test_a_frame_may_end_where_the_tail_does(kind, fill):
    roomy = Rig(kind)
    fill(roomy.buffer)
    end = roomy.buffer.position
    tight = Rig(kind, size=end)
    fill(tight.buffer)
    assert tight.buffer.position == end
    assert tight.slow.calls == []


_KILLED_IN_A_STORE = """
import ctypes, mmap, resource, sys, threading
from importlib import import_module
from segstore.format.frame import encode_frame
path, home, name, way = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
kind, bell = getattr(import_module(home), name), memoryview(bytes(4)).cast("I")
buffer = kind(memoryview(memory), 7, threading.Lock(), print, print, bell, print)
buffer.is_open, buffer.batch_bytes_max = True, 30_000
buffer.append(b"drained")
buffer.restart()
second_page = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 8192
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(second_page), 4096, 0) == 0
value = bytes(range(256)) * 40
if way == "append":
    buffer.append(value, key=b"key")
elif way == "append_many":
    buffer.append_many([value])
else:
    buffer.store(encode_frame(1, [value], 2, None, append_time=2, log_tag=7, durable_offset=0).data)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or mmap.PAGESIZE != 4096, reason="takes a page of the mapping away"
)
@pytest.mark.parametrize("way", ["append", "append_many", "store"])
def test_a_kill_in_the_middle_of_a_store_leaves_nothing_that_looks_like_a_record(
    kind, way, tmp_path
):
    """In a round but the first too, where a frame that was drained had the place before."""
    path = tmp_path / "tail"
    path.write_bytes(bytes(FRAMES_POSITION + 3 * 4096))
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_IN_A_STORE, str(path), kind.__module__, kind.__name__, way],
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGSEGV, killed.stderr
    data = path.read_bytes()
    assert stray_offset(TailReader(memoryview(data), 7), 7, 1) is None
    assert not any(data[FRAMES_POSITION:][:8])
