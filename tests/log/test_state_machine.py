"""The log against a plain list, under everything that may happen to it."""

import os
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import segstore
from segstore import OffsetOutOfRangeError, Record
from tests.directories import copy_as_a_crash_leaves_it

values = st.one_of(
    st.just(b""),
    st.binary(max_size=30),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(0, 3000)),
    st.builds(lambda byte: bytes([byte]) * 40_000, st.integers(0, 255)),
)
small_values = st.binary(max_size=60)
keys = st.one_of(st.none(), st.just(b""), st.binary(max_size=3))
timestamps = st.integers(-5, 60)
durabilities = st.sampled_from([None, None, None, "written", "durable"])


class LogAgainstList(RuleBasedStateMachine):
    """Rule: whatever was acknowledged is in `model`, and the log reads as `model` does."""

    def __init__(self):
        super().__init__()
        self.root = tempfile.mkdtemp(prefix="segstore-model-")
        self.generation = 0
        self.path = os.path.join(self.root, "0")
        self.model: list[Record] = []
        self.log = None
        self.reader = None

    @initialize(
        segment_size=st.sampled_from([4096, 9000, 100_000]),
        batch_size=st.sampled_from([64, 700, 4000]),
        index_interval=st.sampled_from([64, 300, 4096]),
        durability=st.sampled_from(["written", "written", "durable"]),
        compression=st.sampled_from([None, "lz4"]),
    )
    def start(self, **options):
        self.options = {**options, "background": False}
        self.open()

    def open(self):
        self.log = segstore.open(self.path, **self.options)
        assert self.log.recovery.lost == ()
        assert self.log.end_offset == len(self.model)

    def added(self, offset, value, timestamp, key):
        assert offset == len(self.model)
        found = self.log[offset]
        if timestamp is None:
            timestamp = found.timestamp
        record = Record(offset, timestamp, key, value)
        assert found == record
        self.model.append(record)

    @rule(value=values, key=keys, timestamp=st.none() | timestamps, durability=durabilities)
    def append(self, value, key, timestamp, durability):
        offset = self.log.append(value, key=key, timestamp=timestamp, durability=durability)
        self.added(offset, value, timestamp, key)
        if durability == "durable" or self.options["durability"] == "durable":
            assert durability == "written" or self.log.durable_offset == len(self.model)

    @rule(some=st.lists(small_values, max_size=30))
    def append_plainly(self, some):
        for value in some:
            self.added(self.log.append(value), value, None, None)

    @rule(
        batch=st.lists(st.tuples(values, keys, timestamps), max_size=12),
        with_keys=st.booleans(),
        with_timestamps=st.booleans(),
        durability=durabilities,
    )
    def append_many(self, batch, with_keys, with_timestamps, durability):
        offsets = self.log.append_many(
            [value for value, _, _ in batch],
            keys=[key for _, key, _ in batch] if with_keys else None,
            timestamps=[time for _, _, time in batch] if with_timestamps else None,
            durability=durability,
        )
        assert offsets == range(len(self.model), len(self.model) + len(batch))
        for offset, (value, key, time) in zip(offsets, batch):
            self.added(offset, value, time if with_timestamps else None, key if with_keys else None)

    @rule()
    def sync(self):
        assert self.log.sync() == len(self.model)
        assert self.log.durable_offset == len(self.model)

    @rule()
    def roll(self):
        was_empty = self.log.segments()[-1].base_offset == len(self.model)
        assert self.log.roll() is not was_empty
        assert self.log.segments()[-1].base_offset == len(self.model)

    @rule()
    def maintain(self):
        self.log.maintain()

    @rule()
    def reopen(self):
        self.log.close()
        self.open()
        assert self.log.durable_offset == len(self.model)
        assert self.log.recovery.from_tail == 0
        assert self.log.recovery.cut == ()

    @rule()
    def kill(self):
        self.generation += 1
        copy = os.path.join(self.root, str(self.generation))
        copy_as_a_crash_leaves_it(self.path, copy)
        self.log.close()
        if self.reader is not None:
            self.reader.close()
            self.reader = None
        shutil.rmtree(self.path)
        self.path = copy
        self.open()
        assert self.log.recovery.cut == ()

    @rule()
    def open_a_reader(self):
        if self.reader is not None:
            self.reader.close()
        self.reader = segstore.open(self.path, "r")

    @rule(start=st.integers(-3, 400), stop=st.none() | st.integers(0, 400))
    def read_a_range(self, start, stop):
        for log in self.logs():
            if not 0 <= start <= len(self.model):
                with pytest.raises(OffsetOutOfRangeError) as caught:
                    log.read(start, stop)
                error = caught.value
                assert (error.offset, error.start, error.end) == (start, 0, len(self.model))
                continue
            expected = self.model[start : len(self.model) if stop is None else max(start, stop)]
            assert list(log.read(start, stop)) == expected
            assert list(log.values(start, stop)) == [record.value for record in expected]
            batches = list(log.batches(start, stop))
            assert [r for batch in batches for r in batch.records()] == expected
            assert all(len(batch) for batch in batches)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def get_single_records(self, data):
        offsets = data.draw(st.lists(st.integers(0, len(self.model) - 1), max_size=5))
        for log in self.logs():
            for offset in offsets:
                assert log[offset] == self.model[offset]

    @rule(timestamp=st.one_of(st.integers(-7, 62), st.just(2**62)))
    def look_up_a_time(self, timestamp):
        expected = next((r.offset for r in self.model if r.timestamp >= timestamp), None)
        for log in self.logs():
            assert log.offset_for_time(timestamp) == expected

    @rule(key=st.one_of(st.just(b""), st.binary(max_size=2)))
    def find_a_key(self, key):
        expected = [record for record in self.model if record.key == key]
        for log in self.logs():
            assert list(log.find(key)) == expected

    @rule()
    def verify(self):
        for log in self.logs():
            report = log.verify()
            assert report.lost == ()
            assert report.record_count == len(self.model)

    def logs(self):
        return [self.log] if self.reader is None else [self.log, self.reader]

    @invariant()
    def positions_agree(self):
        if self.log is None:
            return
        for log in self.logs():
            assert len(log) == log.end_offset == len(self.model)
            assert log.start_offset == 0
            assert 0 <= log.durable_offset <= len(self.model)
            segments = log.segments()
            assert segments[0].base_offset == 0
            assert [s.end_offset for s in segments[:-1]] == [s.base_offset for s in segments[1:]]
            assert segments[-1].end_offset == len(self.model)

    def teardown(self):
        try:
            if self.reader is not None:
                assert list(self.reader) == self.model
                self.reader.close()
            if self.log is not None:
                assert list(self.log) == self.model
                self.log.close()
                with segstore.open(self.path, "r") as log:
                    assert list(log) == self.model
        finally:
            shutil.rmtree(self.root, ignore_errors=True)


TestLogAgainstList = LogAgainstList.TestCase
TestLogAgainstList.settings = settings(
    max_examples=max(25, settings.default.max_examples // 2), stateful_step_count=30
)
