"""Reading a little at a time, as consumers do: no batch is read again for each part of it."""

import pytest

import segstore
from segstore.segment.reader import SegmentReader

OPTIONS = {"background": False, "batch_size": 16_384}
VALUES = [b"%05d" % place for place in range(5000)]


@pytest.fixture
def scans(monkeypatch):
    """The offsets from which segments were scanned."""
    offsets = []
    events = SegmentReader.events

    def counting(self, offset, stop=None):
        offsets.append(offset)
        return events(self, offset, stop)

    monkeypatch.setattr(SegmentReader, "events", counting)
    return offsets


@pytest.fixture
def log(path):
    with segstore.open(path, **OPTIONS) as opened:
        opened.append_many(VALUES, timestamps=list(range(5000)))
        opened.roll()
        yield opened


@pytest.mark.parametrize("mode", ["a", "r"])
def test_small_polls_scan_once_a_batch(log, path, mode, scans):
    batch_count = len(list(log.batches()))
    assert 2 < batch_count < 10
    reader = log if mode == "a" else segstore.open(path, "r")
    del scans[:]
    found = []
    with reader.consumer("one") as consumer:
        while polled := consumer.poll(7):
            found += polled
    assert [record.value for record in found] == VALUES
    assert [record.timestamp for record in found] == list(range(5000))
    assert len(scans) <= batch_count
    del scans[:]
    assert [log[offset].value for offset in range(0, 5000, 50)] == VALUES[::50]
    assert [value for at in range(0, 5000, 100) for value in log.values(at, at + 100)] == VALUES
    assert len(scans) <= batch_count


def test_a_read_that_ends_where_a_batch_does_looks_at_no_other(log):
    first, second, *_ = log.batches()
    found = [(part.base_offset, part.end_offset) for part in log.batches(5, first.end_offset)]
    assert found == [(5, first.end_offset)]
    found = [(part.base_offset, part.end_offset) for part in log.batches(0, second.end_offset)]
    assert found == [(0, first.end_offset), (first.end_offset, second.end_offset)]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_batch_at_hand_is_forgotten_when_its_offsets_are_given_out_again(log, path, mode):
    reader = log if mode == "a" else segstore.open(path, "r")
    assert list(reader.values(0, 10)) == VALUES[:10]
    log.truncate(4)
    log.append_many([b"new"] * 100)
    assert list(reader.values(0, 10)) == VALUES[:5] + [b"new"] * 5
    log.sync()
    assert list(reader.values(0, 10)) == VALUES[:5] + [b"new"] * 5
    assert list(reader.values(3, 7)) == VALUES[3:5] + [b"new"] * 2


def test_what_was_trimmed_is_not_given_from_a_batch_at_hand(log):
    log.append_many([b"more"] * 10)
    log.roll()
    assert list(log.values(0, 10)) == VALUES[:10]
    log.trim(5000)
    with pytest.raises(segstore.OffsetOutOfRangeError):
        log.values(3, 7)
    with pytest.raises(segstore.OffsetOutOfRangeError):
        log[3]


@pytest.mark.parametrize("mode", ["a", "r"])
def test_staged_records_come_in_one_batch_and_any_part_of_it(log, path, mode):
    expected = []
    for place in range(300):
        key = None if place % 3 else b"%d" % place
        log.append(b"s%d" % place, key=key, timestamp=place)
        expected.append((5000 + place, place, key, b"s%d" % place))
    reader = log if mode == "a" else segstore.open(path, "r")
    assert len(list(reader.batches(5000))) == 1
    assert list(reader.read(5000)) == expected
    assert list(reader.read(5001, 5003)) == expected[1:3]
    assert [batch.keys() for batch in reader.batches(5001, 5003)] == [[None, None]]
    assert [reader[offset] for offset in range(5000, 5300)] == expected
    log.append(b"one more")
    assert len(list(reader.read(5299))) == 2
    assert list(reader.values(5298)) == [b"s298", b"s299", b"one more"]
