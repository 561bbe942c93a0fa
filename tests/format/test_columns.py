import itertools
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstore.format.batch import Record
from segstore.format.columns import iter_column, iter_records, join_column


@given(st.lists(st.binary(max_size=30), min_size=1))
def test_a_column_comes_back(values):
    offsets, data = join_column(values)
    column = bytes(offsets) + data
    assert list(iter_column(column, 0, 0, len(values), len(offsets))) == values


@given(st.lists(st.lists(st.integers(-9, 9), max_size=4), min_size=1))
def test_wide_items_count_as_their_bytes(lists):
    values = [memoryview(array("q", items)) for items in lists]
    offsets, data = join_column(values)
    column = bytes(offsets) + data
    found = iter_column(column, 0, 0, len(values), len(offsets))
    assert list(found) == [array("q", items).tobytes() for items in lists]


@given(st.lists(st.integers(-20, 60), min_size=2, max_size=6), st.binary(max_size=40))
def test_a_column_is_split_only_by_offsets_that_rise_from_0(offsets, data):
    column = array("i", offsets).tobytes() + data
    is_sound = offsets[0] == 0 and offsets == sorted(offsets) and offsets[-1] <= len(data)
    if is_sound:
        found = iter_column(column, 0, 0, len(offsets) - 1, 4 * len(offsets))
        assert list(found) == [data[a:b] for a, b in itertools.pairwise(offsets)]
    else:
        with pytest.raises(ValueError, match="column"):
            iter_column(column, 0, 0, len(offsets) - 1, 4 * len(offsets))


@given(st.lists(st.binary(max_size=9)), st.data())
def test_a_part_of_a_column_comes_alone(values, data):
    stop = data.draw(st.integers(0, len(values)))
    start = data.draw(st.integers(0, stop))
    offsets, joined = join_column(values)
    column = bytes(offsets) + joined
    assert list(iter_column(column, 0, start, stop, len(offsets))) == values[start:stop]


def test_offsets_that_end_behind_the_data_are_refused():
    with pytest.raises(ValueError, match="column"):
        iter_column(b"\0\0\0\0", 0, 0, 3, 4)


@given(st.lists(st.binary(max_size=3), max_size=9), st.integers(0, 2**62))
def test_records_get_consecutive_offsets(values, base_offset):
    times = list(range(len(values)))
    found = list(iter_records(Record, base_offset, times, None, values, len(values)))
    offsets = range(base_offset, base_offset + len(values))
    assert found == [Record(o, t, None, v) for o, t, v in zip(offsets, times, values)]
    keys = [b"k"] * len(values)
    same = iter_records(Record, base_offset, 5, keys, iter(values), len(values))
    assert list(same) == [Record(o, 5, b"k", v) for o, v in zip(offsets, values)]
