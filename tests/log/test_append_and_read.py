"""Appending and reading through the public API: every method, option and error."""

import os
import time
from array import array
from datetime import datetime
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segstore
from segstore import (
    ConfigError,
    OffsetOutOfRangeError,
    Record,
    RecordTooLargeError,
    SegstoreError,
)
from segstore.disk.real import OsFile
from segstore.format.cutting import cut_batch
from segstore.format.framelayout import RECORD_BYTES_MAX, RECORD_COUNT_MAX
from segstore.testing.strategies import TIMESTAMP_MAX, TIMESTAMP_MIN

OPTIONS = {"background": False, "compression": None}


@pytest.fixture
def log(path):
    with segstore.open(path, **OPTIONS) as opened:
        yield opened


def test_offsets_count_from_0_and_records_come_back(log):
    before = time.time_ns()
    assert log.append(b"one") == 0
    assert log.append(b"two", key=b"k", timestamp=5) == 1
    assert log.append_many([b"three", b""], keys=[None, b""], timestamps=[-7, 8]) == range(2, 4)
    assert log.append_many([]) == range(4, 4)
    after = time.time_ns()
    records = list(log)
    assert before <= records[0].timestamp <= after
    assert records[0]._replace(timestamp=0) == Record(0, 0, None, b"one")
    assert records[1:] == [
        Record(1, 5, b"k", b"two"),
        Record(2, -7, None, b"three"),
        Record(3, 8, b"", b""),
    ]
    assert [log[offset] for offset in range(4)] == records
    assert len(log) == 4
    assert (log.start_offset, log.end_offset) == (0, 4)


BUFFERS = [
    bytearray(b"bytearray"),
    memoryview(b"view"),
    memoryview(b"every other byte")[::2],
    memoryview(array("i", [1, 2, 3])),
    memoryview(array("d", [0.5])),
    array("H", [7, 8]),
    memoryview(b""),
    memoryview(bytes(12)).cast("B", (3, 4)),
]


def bytes_of(buffer):
    return memoryview(buffer).tobytes()


@pytest.mark.parametrize("staged", [True, False])
def test_any_buffer_is_a_value_and_a_key(log, staged):
    for buffer in BUFFERS:
        log.append(buffer, key=buffer)
    log.append_many(BUFFERS, keys=BUFFERS)
    if not staged:
        log.sync()
    expected = [bytes_of(buffer) for buffer in BUFFERS] * 2
    assert list(log.values()) == expected
    assert [record.key for record in log] == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"value": bytearray(b"v")},
        {"value": b"v", "key": memoryview(b"k")},
        {"value": b"v", "durability": "written"},
        {"value": b"v", "durability": "durable"},
    ],
    ids=["bytearray", "view as key", "written", "durable"],
)
def test_a_single_append_goes_into_the_tail_in_one_step_whatever_its_form(log, arguments):
    taken = []
    log._writer._append_frames = lambda *batch: taken.append(batch)  # what takes the long way
    assert [log.append(**arguments) for _ in range(3)] == [0, 1, 2]
    assert taken == []
    assert list(log.values()) == [b"v"] * 3


def test_a_buffer_that_changes_after_the_append_changes_nothing(log):
    value = bytearray(b"before")
    log.append(value)
    log.append_many([value, value], keys=[value, None])
    value[:] = b"behind"
    log.sync()
    assert list(log.values()) == [b"before"] * 3
    assert log[1].key == b"before"


@pytest.mark.parametrize("wrong", ["text", 5, None, 1.5, [b"x"], object()])
def test_what_is_no_buffer_is_refused_and_nothing_is_appended(log, wrong):
    match = "encode" if isinstance(wrong, str) else "bytes"
    with pytest.raises(TypeError, match=match):
        log.append(wrong)
    with pytest.raises(TypeError, match=match):
        log.append_many([b"fine", wrong])
    if wrong is not None:
        with pytest.raises(TypeError, match=match):
            log.append(b"x", key=wrong)
        with pytest.raises(TypeError, match=match):
            log.append_many([b"x"], keys=[wrong])
    assert len(log) == 0


def test_append_many_refuses_a_single_timestamp(log):
    with pytest.raises(TypeError, match="sequence of one int of ns a value"):
        log.append_many([b"x"], timestamps=5)
    assert len(log) == 0


@pytest.mark.parametrize(
    "wrong", [b"one value", bytearray(b"x"), memoryview(b"x"), "text", {b"key": b"value"}]
)
def test_append_many_refuses_what_is_no_sequence_of_values_or_keys(log, wrong):
    with pytest.raises(TypeError, match="sequence of values"):
        log.append_many(wrong)
    with pytest.raises(TypeError, match="sequence of one key"):
        log.append_many([b"x"], keys=wrong)
    assert len(log) == 0


def test_append_many_takes_any_iterable(log):
    assert log.append_many(bytes([n]) for n in range(3)) == range(3)
    assert log.append_many((b"a", b"b"), keys=iter([None, b"k"]), timestamps=range(2)) == range(
        3, 5
    )
    assert [record.key for record in log] == [None] * 4 + [b"k"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_keys_and_timestamps_must_be_as_many_as_values(log, count):
    with pytest.raises(ValueError, match="one for each"):
        log.append_many([b"a", b"b"], keys=[b"k"] * count)
    with pytest.raises(ValueError, match="one for each"):
        log.append_many([b"a", b"b"], timestamps=[1] * count)
    assert len(log) == 0


@pytest.mark.parametrize("wrong", [1.5, "1", b"1", True, None])
def test_a_timestamp_is_an_int(log, wrong):
    if wrong is not None:
        with pytest.raises(TypeError, match="ns since the epoch"):
            log.append(b"x", timestamp=wrong)
    with pytest.raises(TypeError, match="ns since the epoch"):
        log.append_many([b"x"], timestamps=[wrong])


@pytest.mark.parametrize("wrong", [TIMESTAMP_MIN - 1, TIMESTAMP_MAX + 1])
def test_a_timestamp_has_to_fit_64_bits(log, wrong):
    with pytest.raises(ValueError, match="64 bits"):
        log.append(b"x", timestamp=wrong)
    with pytest.raises(ValueError, match="64 bits"):
        log.append_many([b"x"], timestamps=[wrong])


def test_extreme_timestamps_come_back_and_are_found(log):
    log.append_many([b"a", b"b"], timestamps=[TIMESTAMP_MIN, TIMESTAMP_MAX])
    log.append(b"c", timestamp=TIMESTAMP_MIN)
    log.roll()
    assert [r.timestamp for r in log] == [TIMESTAMP_MIN, TIMESTAMP_MAX, TIMESTAMP_MIN]
    assert log.offset_for_time(TIMESTAMP_MIN) == 0
    assert log.offset_for_time(0) == log.offset_for_time(TIMESTAMP_MAX) == 1


@pytest.mark.parametrize("wrong", ["2026-11-25", 1.5, True, datetime(2026, 11, 25)])
def test_a_time_that_is_no_int_of_ns_is_refused_with_a_hint(log, wrong):
    for use in (log.offset_for_time, lambda time: log.append(b"x", timestamp=time)):
        with pytest.raises(TypeError, match="a timestamp is an int of ns since the epoch"):
            use(wrong)


def test_a_call_with_the_wrong_arguments_is_refused_under_the_name_it_has(log):
    for call, what in [
        (lambda: log.append(), r"append\(\) missing 1 required"),
        (lambda: log.append(b"x", b"k"), r"append\(\) takes 2 positional"),
        (lambda: log.append(b"x", keys=b"k"), r"append\(\) got an unexpected keyword .*'keys'"),
        (lambda: log.append(b"x", value=b"y"), r"append\(\) got multiple values"),
        (lambda: log.append_many([b"x"], [b"k"]), r"append_many\(\) takes 2 positional"),
        (lambda: log.append_many([b"x"], key=b"k"), r"append_many\(\) got an unexpected"),
    ]:
        with pytest.raises(TypeError, match=what):
            call()
    assert log.append(value=b"x") == 0
    assert log.append_many(values=[b"y"]) == range(1, 2)


def test_an_unknown_durability_is_refused(log):
    for call in (lambda: log.append(b"x", durability="sync"),
                 lambda: log.append_many([b"x"], durability="sync")):  # fmt: skip
        with pytest.raises(ConfigError, match="durable"):
            call()
    assert len(log) == 0


def test_a_record_over_the_limit_is_refused_and_nothing_is_appended(log):
    largest = bytes(RECORD_BYTES_MAX)
    for call in (
        lambda: log.append(largest + b"x"),
        lambda: log.append(largest, key=b"k"),
        lambda: log.append_many([b"fine", largest + b"x", b"fine"]),
        lambda: log.append_many([largest], keys=[b"k"]),
    ):
        with pytest.raises(RecordTooLargeError) as caught:
            call()
        assert caught.value.size_bytes == RECORD_BYTES_MAX + 1
        assert caught.value.limit_bytes == RECORD_BYTES_MAX
        assert isinstance(caught.value, ValueError)
    assert len(log) == 0
    assert log.append_many([b"a", largest, b"b"]) == range(3)
    assert log.append(largest[:-1], key=b"k") == 3
    assert log[1].value == largest
    assert list(map(len, log.values())) == [1, RECORD_BYTES_MAX, 1, RECORD_BYTES_MAX - 1]
    assert log.verify().is_intact


@pytest.mark.parametrize("offset", [-1, -(2**70), 3, 4, 2**63, 2**70])
def test_an_offset_outside_the_log_is_refused_with_the_valid_range(log, offset):
    log.append_many([b"x"] * 3)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        log[offset]
    error = caught.value
    assert (error.offset, error.start, error.end) == (offset, 0, 3)
    assert "0 to 2" in str(error)
    assert isinstance(error, IndexError)
    assert isinstance(error, SegstoreError)
    if offset != 3:
        for read in (log.read, log.values, log.batches):
            with pytest.raises(OffsetOutOfRangeError):
                read(offset)


def test_a_read_ends_at_the_end_of_the_log(log):
    log.append_many([b"a", b"b", b"c"])
    assert list(log.values(3)) == []
    assert list(log.values(1, 100)) == [b"b", b"c"]
    assert list(log.values(2, 1)) == []
    assert list(log.values(stop=2)) == [b"a", b"b"]
    with pytest.raises(OffsetOutOfRangeError):
        log.values(0, -1)


def test_a_read_goes_to_the_end_as_it_was_at_the_call(log):
    log.append(b"a")
    reading = log.values()
    log.append(b"b")
    assert list(reading) == [b"a"]


@pytest.mark.parametrize("wrong", ["0", 1.0, slice(0, 2), None])
def test_an_offset_is_an_int(log, wrong):
    log.append(b"a")
    with pytest.raises(TypeError):
        log[wrong]
    if wrong is not None:
        with pytest.raises(TypeError):
            log.read(wrong)


class Whole:
    """A whole number that is no int, as numpy has them."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


def test_offsets_and_times_may_be_whole_numbers_of_another_type(log):
    assert log.append(b"a", timestamp=Whole(-7)) == 0
    assert log.append(b"b", timestamp=Whole(8), durability="durable") == 1
    assert log.append_many([b"c", b"d"], timestamps=[Whole(9), 10]) == range(2, 4)
    assert [record.timestamp for record in log] == [-7, 8, 9, 10]
    assert log[Whole(1)].value == b"b"
    assert type(log[Whole(1)].offset) is int
    assert list(log.values(Whole(1), Whole(3))) == [b"b", b"c"]
    assert log.offset_for_time(Whole(9)) == 2
    batch = next(log.batches())
    record = batch.record(Whole(1))
    assert (record.offset, type(record.offset)) == (1, int)
    assert type(batch.slice(Whole(1), Whole(3)).base_offset) is int
    with log.consumer("c", start=Whole(1)) as consumer:
        assert [record.offset for record in consumer.poll(Whole(2))] == [1, 2]
        consumer.commit(Whole(2))
        assert consumer.seek(Whole(3)) == 3
        assert consumer.seek(timestamp=Whole(9)) == 2
        assert (consumer.committed, type(consumer.committed)) == (2, int)
    assert next(log.follow(Whole(3), timeout=0)).value == b"d"
    log.truncate(Whole(2))
    log.trim(Whole(1))
    assert list(log.values()) == [b"b", b"c"]


@pytest.mark.parametrize("wrong", [1.0, True, "1"])
def test_what_is_no_whole_number_is_refused_everywhere(log, wrong):
    log.append_many([b"a", b"b", b"c"])
    batch = next(log.batches())
    with log.consumer("c") as consumer:
        for use in (batch.record, lambda offset: batch.slice(offset, 3), consumer.poll,
                    consumer.commit, consumer.seek, log.trim, log.truncate,
                    lambda time: consumer.seek(timestamp=time)):  # fmt: skip
            with pytest.raises(TypeError, match="is an int"):
                use(wrong)
    assert len(log) == 3


def test_an_unknown_way_to_treat_damage_is_refused(log):
    for read in (log.read, log.values, log.batches, lambda errors: log.find(b"k", errors=errors)):
        with pytest.raises(ConfigError):
            read(errors="ignore")


def test_batches_give_columns_without_copies(log):
    log.append_many([b"a", b"bb", b""], keys=[b"k", None, b""], timestamps=[3, 1, 2])
    log.sync()
    (batch,) = log.batches()
    assert len(batch) == 3
    assert (batch.base_offset, batch.end_offset) == (0, 3)
    assert isinstance(batch.value_data, memoryview)
    assert bytes(batch.value_data) == b"abb"
    assert list(batch.value_offsets) == [0, 1, 3, 3]
    assert list(batch.timestamps) == [3, 1, 2]
    assert batch.keys() == [b"k", None, b""]
    assert batch.values() == [b"a", b"bb", b""]
    (part,) = log.batches(1, 2)
    assert part.records() == [Record(1, 1, None, b"bb")]


def test_durable_offsets_rise_with_what_was_synced(log, path):
    log.append(b"a")
    assert log.durable_offset == 0
    assert log.append(b"b", durability="durable") == 1
    assert log.durable_offset == 2
    log.append_many([b"c", b"d"])
    assert log.durable_offset == 2
    assert log.sync() == 4
    assert log.durable_offset == 4
    syncs = log.stats().syncs
    assert log.sync() == 4
    assert log.stats().syncs == syncs
    with segstore.open(path, "r") as reader:
        assert reader.durable_offset == 4


def test_a_durable_log_syncs_every_append(path):
    with segstore.open(path, durability="durable", **OPTIONS) as log:
        for count in range(1, 4):
            log.append(b"x")
            assert log.durable_offset == count
        log.append_many([b"y"] * 5)
        assert log.durable_offset == 8
        log.append(b"z", durability="written")
        assert log.durable_offset == 8


def test_the_interval_syncs_without_being_asked(path):
    with segstore.open(path, sync_interval=0.02, compression=None) as log:
        log.append(b"x")
        deadline = time.monotonic() + 10
        while log.durable_offset < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.durable_offset == 1
        assert log.stats().background_error is None


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.none() | st.binary(max_size=9)), max_size=60),
    st.booleans(),
    st.integers(1, 300),
)
def test_a_batch_is_cut_into_pieces_of_about_the_size_asked_for(records, with_keys, size):
    if not records:
        return
    bare_sizes = [len(v) + (len(k or b"") if with_keys else 0) for v, k in records]
    record_sizes = [bare + (8 if with_keys else 4) for bare in bare_sizes]
    columns = [list(accumulate((len(v) for v, _ in records), initial=0))]
    if with_keys:
        columns.append(list(accumulate((len(k or b"") for _, k in records), initial=0)))
    cuts = cut_batch(columns, size)
    assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts[:-1])]
    assert cuts[-1][1] == len(records)
    assert all(start < stop for start, stop in cuts)
    for start, stop in cuts:
        sizes = record_sizes[start:stop]
        assert sum(sizes) <= size + max(sizes)


def test_a_record_that_is_large_beside_the_size_of_a_piece_takes_no_more_looks():
    class Counted(list):
        looks = 0

        def __getitem__(self, index):
            self.looks += 1
            return super().__getitem__(index)

    ends = Counted([0, RECORD_BYTES_MAX, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1])
    assert cut_batch([ends], 1000) == [(0, 1), (1, 3)]
    assert ends.looks < 100


@pytest.mark.parametrize("last", [b"", bytes(RECORD_BYTES_MAX - 1)])
def test_more_small_records_than_a_frame_holds_are_cut_by_their_number(path, last):
    with segstore.open(path, batch_size="8MiB", **OPTIONS) as log:
        count = RECORD_COUNT_MAX + 100_000
        values = [b""] * count + [last]
        assert log.append_many(values, keys=[b"k"] * len(values), timestamps=range(len(values)))
        assert log.end_offset == count + 1
        assert log[count].value == last
        assert log[count - 1] == Record(count - 1, count - 1, b"k", b"")
        assert sum(map(len, log.batches())) == count + 1


def test_small_appends_end_up_in_frames_of_about_the_batch_size(path):
    with segstore.open(path, batch_size="16KiB", **OPTIONS) as log:
        for number in range(2000):
            log.append(b"%064d" % number)
        log.sync()
        sizes = [batch.header.body_bytes for batch in log.batches()]
        assert min(sizes) >= 8 * 1024
        assert max(sizes) <= 2 * 16 * 1024 + 8 * 2000


def test_append_times_are_of_the_append_and_not_of_the_one_before(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append(b"first")
        log.sync()
        hour_ns = 3600 * 10**9
        clock = log._writer._clock
        clock._base += hour_ns  # an idle hour
        expected = clock.now()
        log.append(b"plain")
        log.sync()
        clock._base += hour_ns
        log.append_many([b"batch"])
        log.sync()
        clock._base += hour_ns
        log.append_many([b"x" * 100_000] * 2)
        times = [batch.header.append_time for batch in log.batches(1)]
        assert times[0] >= expected
        assert times[1] >= expected + hour_ns
        assert times[2] >= expected + 2 * hour_ns


def test_stats_tell_what_is_going_on(log, path):
    log.append_many([b"x" * 100] * 10)
    log.sync()
    log.roll()
    stats = log.stats()
    assert (stats.start_offset, stats.end_offset, stats.durable_offset) == (0, 10, 10)
    assert stats.segment_count == 2
    assert stats.rolls == 1
    assert stats.syncs >= 1
    assert stats.tail is True
    assert stats.checksum == "fastcrc"
    assert stats.damaged_records == 0
    files = [name for name in os.listdir(path) if name.endswith(".log")]
    assert stats.size_bytes == sum(os.path.getsize(os.path.join(path, name)) for name in files)


def test_every_public_name_has_a_docstring():
    for name in segstore.__all__:
        assert getattr(segstore, name).__doc__, name
    for name in dir(segstore.Log):
        if not name.startswith("_"):
            assert getattr(segstore.Log, name).__doc__, name


def test_a_short_range_reads_the_frames_that_hold_it(path, monkeypatch):
    values = [b"%06d" % number * 80 for number in range(4000)]
    with segstore.open(path, background=False, compression=None, batch_size="16KiB") as log:
        log.append_many(values)
        log.sync()
    sizes = []
    read = OsFile.read

    def counting(self, size_bytes, position):
        sizes.append(size_bytes)
        return read(self, size_bytes, position)

    monkeypatch.setattr(OsFile, "read", counting)
    with segstore.open(path, "r") as log:
        list(log.values(0, 1))  # opens the segment and reads its index
        for start in (0, 1234, 3990):
            sizes.clear()
            assert list(log.values(start, start + 10)) == values[start : start + 10]
            frames = [size for size in sizes if size > 2000]
            assert sum(frames) < 40_000
