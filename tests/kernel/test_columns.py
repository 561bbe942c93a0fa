"""The C loops against their specification: equal results and equal errors, for any input."""

from __future__ import annotations

import array
import gc
import struct
import sys
import weakref
from collections.abc import Iterator
from operator import length_hint
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segstore.format import columns, framejoin
from segstore.format.batch import Record
from segstore.format.frame import decode_frame
from segstore.testing.strategies import long_values
from tests.kernel import strategies as some

INT64 = st.integers(-(2**63), 2**63 - 1)
# Of a frame: base offset, append time, log tag, durable offset.
FIELDS = (3 << 40, 4 << 40, 5 << 20, 6 << 40)


class spec:  # noqa: N801 - in place of a module
    """The functions of the kernel, in Python."""

    join_frame = staticmethod(framejoin.join_frame)
    join_whole = staticmethod(framejoin.join_whole)
    iter_column = staticmethod(columns.iter_column)
    iter_records = staticmethod(columns.iter_records)
    measure = staticmethod(columns.measure)


class ThreeFields(NamedTuple):
    a: int
    b: int
    c: int


class WithDict(Record):
    pass


def outcome(function, *args):
    """What a call gave: its value in plain types, or the error's type and text."""
    try:
        return plain(function(*args))
    except Exception as error:
        return type(error), str(error)


def plain(found):
    if isinstance(found, memoryview) and found.format != "B":
        return found.tolist()
    if isinstance(found, memoryview):
        return bytes(found)
    if isinstance(found, tuple) and type(found) is tuple:
        return tuple(map(plain, found))
    if isinstance(found, list | Iterator):
        return [(type(item), item) for item in found]
    return found


def same(compiled, name, *args):
    expected = outcome(getattr(spec, name), *args)
    assert outcome(getattr(compiled, name), *args) == expected
    return expected


@given(column=some.columns())
@settings(max_examples=600)
@example(column=(b"", 0, 0, 0, 0))
@example(column=(bytes(4), 0, 0, 0, 4))
@example(column=(bytes(8), 0, 0, 2**61, 8))
@example(column=(bytes(8), 2**63 - 1, 0, 1, 8))
def test_iter_column_is_the_same(compiled, column):
    same(compiled, "iter_column", *column)


@given(values=st.lists(st.binary(max_size=300), max_size=50), before=st.binary(max_size=9))
def test_a_joined_column_splits_into_its_values(compiled, values, before):
    offsets, data = columns.join_column(values)
    whole = before + bytes(offsets) + data
    position = len(before) + len(offsets)
    found = compiled.iter_column(whole, len(before), 0, len(values), position)
    assert length_hint(found) == len(values)
    assert list(found) == values
    assert list(found) == []


@given(
    base=st.integers(0, 2**63 - 60) | some.numbers,
    values=st.lists(st.binary(max_size=5), max_size=20) | some.values,
    data=st.data(),
)
@settings(max_examples=400)
def test_iter_records_is_the_same(compiled, base, values, data):
    size = len(values) if hasattr(values, "__len__") else 3
    sizes = st.just(size) | st.integers(0, 6)
    times = data.draw(
        some.numbers
        | sizes.flatmap(lambda n: st.lists(INT64, min_size=n, max_size=n))
        | sizes.flatmap(lambda n: st.lists(INT64, min_size=n, max_size=n)).map(
            lambda them: memoryview(array.array("q", them))
        )
        | sizes.map(lambda n: memoryview(array.array("I", range(n))))
        | sizes.map(lambda n: array.array("d", [1.0] * n))
    )
    keys = data.draw(
        st.none()
        | sizes.flatmap(
            lambda n: st.lists(st.none() | st.binary(max_size=4), min_size=n, max_size=n)
        )
        | st.sampled_from([[], (), (b"k",), 5])
    )
    kind = data.draw(
        st.sampled_from([Record] * 6 + [ThreeFields, WithDict, tuple, list, None, bytes])
    )
    count = data.draw(st.sampled_from([size] * 6 + [size + 1, 0]) | some.numbers)
    same(compiled, "iter_records", kind, base, times, keys, values, count)


@given(
    values=st.lists(st.binary(max_size=9), max_size=20),
    times=st.integers(0, 9) | st.just([1, 2, 3]),
    keys=st.none() | st.just([b"k", None, b""]),
    data=st.data(),
)
def test_records_of_a_column_are_the_same(compiled, values, times, keys, data):
    offsets, joined = columns.join_column(values)
    column = bytes(offsets) + joined
    start = data.draw(st.integers(0, len(values)))
    count = data.draw(st.just(len(values) - start) | st.integers(0, 4))

    def of(home):
        them = home.iter_column(column, 0, start, len(values), len(offsets))
        return list(home.iter_records(Record, 5, times, keys, them, count))

    assert outcome(of, compiled) == outcome(of, spec)


def test_what_changes_under_an_iterator_is_an_error_or_another_value(compiled):
    """As in a mapping; never more than the buffer has."""
    data = bytearray(struct.pack("<4i", 0, 1, 3, 6) + b"abcdef")
    values = compiled.iter_column(data, 0, 0, 3, 16)
    assert next(values) == b"a"
    data[8:12] = struct.pack("<i", 1 << 30)
    with pytest.raises(ValueError, match="changed"):
        next(values)
    records = compiled.iter_records(Record, 0, 0, None, values, 2)
    with pytest.raises(ValueError, match="changed"):
        next(records)
    data[8:12] = struct.pack("<i", 0)
    with pytest.raises(ValueError, match="changed"):
        next(values)
    data[8:12] = struct.pack("<i", 4)
    assert list(values) == [b"bcd", b"ef"]
    assert list(records) == []


@pytest.mark.parametrize("provider", ["c", "python"])
@pytest.mark.parametrize("which", ["values", "keys", "times"])
def test_lists_that_get_shorter_are_an_error_and_no_end(compiled, provider, which):
    home = compiled if provider == "c" else spec
    lists = {"values": [b"a", b"b", b"c"], "keys": [None] * 3, "times": [1, 2, 3]}
    records = home.iter_records(Record, 0, lists["times"], lists["keys"], lists["values"], 3)
    assert next(records) == (0, 1, None, b"a")
    lists[which].clear()
    with pytest.raises(ValueError, match="shorter"):
        next(records)


@pytest.mark.parametrize("provider", ["c", "python"])
def test_a_column_that_somebody_else_reads_from_is_an_error_and_no_end(compiled, provider):
    home = compiled if provider == "c" else spec
    values = home.iter_column(struct.pack("<4i", 0, 1, 3, 6) + b"abcdef", 0, 0, 3, 16)
    records = home.iter_records(Record, 0, 0, None, values, 3)
    assert (next(values), next(records)) == (b"a", (0, 0, None, b"bc"))
    assert next(records) == (1, 0, None, b"def")
    with pytest.raises(ValueError, match="shorter"):
        next(records)


def listed(found):
    """What `measure` gave, its numbers in a list."""
    return None if found is None else (found[0], list(found[1]))


@given(values=some.values)
@example(values=[])
def test_measure_is_the_same(compiled, values):
    expected = outcome(lambda: listed(spec.measure(values)))
    assert outcome(lambda: listed(compiled.measure(values))) == expected


def test_what_is_measured_in_python_is_nobody_elses_list():
    values = [b"a", b"bc"]
    found, _ = spec.measure(values)
    assert found == values
    assert found is not values


def test_values_that_change_behind_the_measuring_are_framed_as_they_are_then(compiled):
    values = [b"a" * 3000, b"b" * 3000]
    same_list, ends = compiled.measure(values)
    values[0] = b"changed"
    found = compiled.join_frame(same_list, ends, 0, 2, 5, None, *FIELDS)
    assert found == spec.join_frame(values, None, 0, 2, 5, None, *FIELDS)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="only C code gives out buffers")
@pytest.mark.parametrize("which", [0, 1])
def test_lists_that_a_buffer_of_timestamps_empties_are_not_read_beyond_their_end(compiled, which):
    lists = [[b"%d" % n for n in range(500)] for _ in range(2)]

    class Times(array.array):
        def __buffer__(self, flags):
            lists[which].clear()
            return super().__buffer__(flags)

    values, keys = lists
    with pytest.raises(ValueError, match="no records 0 to 500 among 0"):
        compiled.join_frame(values, None, 0, 500, Times("q", range(500)), keys, *FIELDS)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="only C code takes buffers back")
def test_who_takes_a_buffer_back_is_shown_what_was_given_out(compiled):
    """The shape that a bytearray gives points to the length that stands beside it."""

    class Data(bytearray):
        def __release_buffer__(self, view):
            shapes.append(view.shape)

    shapes = []
    data = Data(struct.pack("<3i", 0, 1, 3) + b"abc")
    assert list(compiled.iter_column(data, 0, 0, 2, 12)) == [b"a", b"bc"]
    with pytest.raises(ValueError, match="past the end"):
        compiled.iter_column(data, 0, 0, 2, 14)
    assert set(shapes) == {(15,)}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="only C code gives out buffers")
@pytest.mark.parametrize("name", ["iter_column", "iter_records", "join_frame"])
def test_an_interrupt_while_a_buffer_is_made_is_not_lost(compiled, name):
    class Numbers(array.array):
        def __buffer__(self, flags):
            if not interrupts:
                interrupts.append(KeyboardInterrupt())
                raise interrupts[0]
            return super().__buffer__(flags)

    interrupts = []
    numbers = Numbers("q", [0])
    arguments = {
        "iter_column": (numbers, 0, 0, 1, 8),
        "iter_records": (Record, 1, numbers, None, [b"x"], 1),
        "join_frame": ([b"x"], None, 0, 1, numbers, None, *FIELDS),
    }
    with pytest.raises(KeyboardInterrupt):
        getattr(compiled, name)(*arguments[name])


keys_columns = st.none() | st.lists(st.none() | st.binary(max_size=20), max_size=40)


@given(
    values=some.values,
    places=st.tuples(st.integers(0, 4), st.integers(0, 32)) | st.tuples(some.numbers, some.numbers),
    timestamps=INT64
    | st.lists(INT64, max_size=40)
    | st.lists(some.numbers, max_size=5)
    | some.numbers,
    keys=keys_columns | some.values,
    fields=st.tuples(st.integers(0, 2**63), INT64, st.integers(0, 2**32 - 1), st.integers(0, 9))
    | st.tuples(some.numbers, some.numbers, some.numbers, some.numbers),
)
@settings(max_examples=600)
@example(values=[b"a", b"bc"], places=(0, 2), timestamps=[1, 2], keys=None, fields=FIELDS)
@example(values=[b"a", b"bc", b""], places=(1, 3), timestamps=[1, 2, 2], keys=None, fields=FIELDS)
@example(values=[b"a", b"bc"], places=(0, 2), timestamps=(1, 2), keys=None, fields=FIELDS)
@example(
    values=[b"a", b"bc"],
    places=(0, 2),
    timestamps=memoryview(array.array("q", [3, 1])),
    keys=None,
    fields=FIELDS,
)
@example(values=[b"a", b"bc"], places=(0, 2), timestamps=[2**63, 1], keys=None, fields=FIELDS)
@example(values=[b"a", b"bc"], places=(0, 2), timestamps=[1], keys=None, fields=FIELDS)
@example(
    values=[b"a", b"b" * 5000, b"c" * 4000],
    places=(1, 3),
    timestamps=[1, 2, 3],
    keys=None,
    fields=FIELDS,
)
@example(values=[b"a", b"b" * 4092], places=(0, 2), timestamps=7, keys=None, fields=FIELDS)
@example(
    values=[b"a"],
    places=(0, 1),
    timestamps=7,
    keys=None,
    fields=(2**64 - 1, 0, 2**32 - 1, 2**64 - 1),
)
@example(values=[b"a"], places=(0, 1), timestamps=7, keys=None, fields=(2**64, 0, 0, 0))
@example(values=[b"a"], places=(0, 1), timestamps=7, keys=None, fields=(0, 2**63, 0, 0))
@example(values=[b"a"], places=(0, 1), timestamps=7, keys=None, fields=(0, 0, 2**32, 0))
@example(values=[b"a"], places=(0, 1), timestamps=7, keys=None, fields=(-1, 0, 0, 0))
@example(
    values=[b"a", b"bc", b""],
    places=(1, 3),
    timestamps=[1, 2, 2],
    keys=[b"k", None, b""],
    fields=FIELDS,
)
@example(values=[b"a", b"bc"], places=(0, 2), timestamps=5, keys=[b"k"], fields=FIELDS)
@example(values=[b"a", b"bc"], places=(0, 2), timestamps=5, keys=[b"k", "l"], fields=FIELDS)
@example(values=[b"a"] * 9, places=(0, 9), timestamps=5, keys=[None] * 8 + [b"x"], fields=FIELDS)
@example(
    values=[b"a", b"b" * 5000], places=(0, 2), timestamps=[5, 6], keys=[b"k", None], fields=FIELDS
)
def test_join_frame_is_the_same(compiled, values, places, timestamps, keys, fields):
    start, stop = places
    joined = same(compiled, "join_frame", values, None, start, stop, timestamps, keys, *fields)
    measured = compiled.measure(values) if isinstance(values, list) else None
    if measured is not None and type(joined[0]) is int and 0 <= start < stop <= len(values):
        ends = measured[1]
        for known in (ends, ends.tolist()):
            args = (values, known, start, stop, timestamps, keys, *fields)
            again = outcome(spec.join_frame, *args)
            assert again == outcome(compiled.join_frame, *args)
            assert again == joined


@given(
    values=some.values,
    sizes=st.tuples(st.integers(0, 40), st.integers(0, 9000)) | st.tuples(some.numbers, INT64),
    timestamp=INT64 | some.numbers,
    fields=st.tuples(st.integers(0, 2**63), INT64, st.integers(0, 2**32 - 1), st.integers(0, 9))
    | st.tuples(some.numbers, some.numbers, some.numbers, some.numbers),
)
@settings(max_examples=400)
@example(values=[b"a", b"bc"], sizes=(3, 11), timestamp=7, fields=FIELDS)
@example(values=[b"a", b"bc"], sizes=(3, 10), timestamp=7, fields=FIELDS)
@example(values=[b"a", b"bc"], sizes=(4, 11), timestamp=7, fields=FIELDS)
@example(values=[b"a", b"b" * 5000], sizes=(0, 2**31), timestamp=7, fields=FIELDS)
@example(values=[b"a"], sizes=(0, -(2**63)), timestamp=7, fields=FIELDS)
@example(values=[b"a"], sizes=(0, 99), timestamp=7, fields=(-1, 0, 0, 0))
@example(values=[], sizes=(0, 99), timestamp=7, fields=FIELDS)
@example(values={b"a": 1}, sizes=(0, 99), timestamp=7, fields=FIELDS)
@example(values=[b""] * (2**18 + 1), sizes=(0, 2**21), timestamp=7, fields=FIELDS)
def test_join_whole_is_the_same(compiled, values, sizes, timestamp, fields):
    joined = same(compiled, "join_whole", values, *sizes, timestamp, *fields)
    if joined is not None and type(joined[0]) is int:
        count, frame = joined
        again = compiled.join_frame(list(values), None, 0, count, timestamp, None, *fields)
        assert count == len(values)
        assert again == (timestamp, timestamp, frame)


@given(
    values=st.lists(st.binary(max_size=300) | long_values, min_size=1, max_size=50),
    data=st.data(),
)
def test_a_joined_frame_decodes_into_what_it_was_made_of(compiled, values, data):
    count = len(values)
    times = data.draw(INT64 | st.lists(INT64, min_size=count, max_size=count))
    keys = data.draw(
        st.none() | st.lists(st.none() | st.binary(max_size=9), min_size=count, max_size=count)
    )
    args = (values, None, 0, count, times, keys, *FIELDS)
    lowest, highest, frame = same(compiled, "join_frame", *args)
    batch = decode_frame(memoryview(frame), 0, FIELDS[2])
    all_times = [times] * len(values) if isinstance(times, int) else times
    assert batch.values() == values
    assert batch.keys() == ([None] * count if keys is None else keys)
    assert list(batch.timestamps) == all_times
    header = batch.header
    found = header.base_offset, header.append_time, header.log_tag, header.durable_offset
    assert found == FIELDS
    assert (header.min_timestamp, header.max_timestamp) == (lowest, highest)
    assert (lowest, highest) == (min(all_times), max(all_times))
    assert len(frame) == 64 + header.body_bytes


def test_a_record_is_a_record_in_every_way(compiled):
    (record,) = compiled.iter_records(Record, 3, 4, [b"k"], [b"v"], 1)
    assert type(record) is Record
    assert record == Record(3, 4, b"k", b"v")
    assert hash(record) == hash(Record(3, 4, b"k", b"v"))
    assert record._replace(value=b"w").value == b"w"
    assert record._asdict() == {"offset": 3, "timestamp": 4, "key": b"k", "value": b"v"}


def test_a_record_of_plain_items_costs_the_collector_nothing(compiled):
    (record,) = compiled.iter_records(Record, 3, 4, None, [b"v"], 1)
    assert not gc.is_tracked(record)


def test_a_record_that_could_be_in_a_cycle_is_tracked_and_collected(compiled):
    class Value:
        pass

    value = Value()
    value.record = next(compiled.iter_records(Record, 3, 4, None, [value], 1))
    assert gc.is_tracked(value.record)
    alive = []
    weakref.finalize(value, alive.append, "collected")
    del value
    gc.collect()
    assert alive == ["collected"]


def test_a_list_that_shrinks_under_the_collector_is_no_harm(compiled):
    """The collector may run anything at an allocation, so also code that empties the list."""
    values = [b"%d" % n for n in range(3000)]
    keys = list(values)

    class Node:
        def __del__(self):
            del values[100:]

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(20):
            node = Node()
            node.me = node
            del node
            size = len(values)
            try:
                records = list(compiled.iter_records(Record, 0, 1, keys[:size], values, size))
            except ValueError:
                continue
            assert [record.value for record in records] == keys[: len(records)]
    finally:
        gc.set_threshold(*threshold)


def test_an_interrupt_while_a_record_type_is_looked_at_is_not_lost(compiled):
    class Interrupting:
        def __get__(self, instance, owner):
            if not interrupts:
                interrupts.append(KeyboardInterrupt())
                raise interrupts[0]
            return "offset", "timestamp", "key", "value"

    interrupts = []
    kind = type("Kind", (tuple,), {"__slots__": (), "_fields": Interrupting()})
    with pytest.raises(KeyboardInterrupt):
        compiled.iter_records(kind, 1, 2, None, [b"x"], 1)
    assert list(compiled.iter_records(kind, 1, 2, None, [b"x"], 1)) == [(1, 2, None, b"x")]


@pytest.mark.parametrize("name", ["iter_column", "iter_records", "join_frame", "join_whole"])
def test_a_wrong_number_of_arguments_is_a_type_error(compiled, name):
    with pytest.raises(TypeError, match="positional arguments"):
        getattr(compiled, name)(b"")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("iter_column", (bytes(4) + b"\3\0\0\0" + b"abc", 0, 0, 1, 8)),
        ("iter_column", (bytes(4) + b"\4\0\0\0" + b"abc", 0, 0, 1, 8)),
        ("iter_records", (Record, 1 << 40, 1 << 50, [b"key one"], [b"value one"], 1)),
        ("iter_records", (Record, 1 << 40, [1 << 50], None, [b"value one"], 1)),
        ("iter_records", (Record, 1 << 40, [1 << 50, 2], None, [b"value one"], 1)),
        ("join_frame", ([b"some value", b"other"], None, 0, 2, 1 << 50, None, *FIELDS)),
        ("join_frame", ([b"some value", b"other"], None, 0, 2, [1 << 50, 1 << 51], None, *FIELDS)),
        ("join_frame", ([b"some value", b"other"], None, 0, 2, [1 << 50, 1 << 64], None, *FIELDS)),
        ("join_frame", ([b"some value", "text"], None, 0, 2, 1 << 50, None, *FIELDS)),
        ("join_frame", ([b"value", b"w"], None, 0, 2, 1 << 50, [b"a key", None], *FIELDS)),
        ("join_frame", ([b"value", b"w"], None, 0, 2, 1 << 50, [b"a key", "text"], *FIELDS)),
        ("join_whole", ([b"some value", b"other"], 1, 99, 1 << 50, *FIELDS)),
        ("join_whole", ([b"some value", b"other"], 1, 9, 1 << 50, *FIELDS)),
        ("join_whole", ([b"some value", "text"], 1, 99, 1 << 50, *FIELDS)),
        ("measure", ([b"some value", b"other"],)),
        ("measure", ([b"some value", "text"],)),
        ("join_frame", ([b"x" * 5000, b"y" * 5000], None, 0, 2, [1 << 50, 1 << 51], None, *FIELDS)),
    ],
)
def test_no_reference_is_kept_or_dropped(compiled, name, args):
    function = getattr(compiled, name)
    items = [item for arg in args if isinstance(arg, list) for item in arg]
    parts = [part for part in [*args, *items] if part is not None]
    for _ in range(3000):  # fills the free lists of the interpreter
        outcome(function, *args)
    before = [sys.getrefcount(part) for part in parts]
    blocks = sys.getallocatedblocks()
    for _ in range(3000):
        outcome(function, *args)
    assert sys.getallocatedblocks() - blocks < 200
    assert [sys.getrefcount(part) for part in parts] == before
