"""Looks into a segment whose index another thread makes anew, or cuts, meanwhile."""

import sys

import pytest

import segstore
from segstore.disk import OsDisk
from segstore.format.index import OffsetIndex
from segstore.segment.reader import SegmentReader

COUNT = 400


def rebuilding(reader, name):
    """A method of the index behind which, the first time, another thread makes the index anew."""

    def method(index, *args):
        found = real(index, *args)
        if not reader.is_index_rebuilt:
            reader.rebuild_index()
        return found

    real = getattr(OffsetIndex, name)
    return method


@pytest.fixture
def reader(path):
    """Of one segment with an entry for every frame, which is more than a rebuilt index has."""
    options = {"background": False, "compression": None, "index_interval": 64, "batch_size": 256}
    with segstore.open(path, **options) as log:
        for number in range(COUNT):
            log.append(b"%03d" % number * 40, timestamp=number)
    disk = OsDisk(path)
    yield SegmentReader(disk, 0, None, is_compressed=False, stamp=None)
    disk.close()


@pytest.mark.parametrize("offset", [20, COUNT - 1])
def test_an_entry_found_in_the_index_of_before_is_looked_up_there(reader, monkeypatch, offset):
    slots = len(reader.index)
    monkeypatch.setattr(OffsetIndex, "slot_of_offset", rebuilding(reader, "slot_of_offset"))
    assert reader.batch(offset).record(offset).value == b"%03d" % offset * 40
    assert reader.is_index_rebuilt
    assert len(reader.index) < slots


@pytest.mark.parametrize("offset", [20, COUNT - 1])
def test_events_start_where_the_index_of_before_leads(reader, monkeypatch, offset):
    monkeypatch.setattr(OffsetIndex, "slot_of_offset", rebuilding(reader, "slot_of_offset"))
    first = next(reader.events(offset, offset + 1)).batch
    assert first.base_offset <= offset < first.end_offset


@pytest.mark.parametrize("timestamp", [20, COUNT - 1])
def test_a_time_is_looked_for_from_where_the_index_of_before_leads(reader, monkeypatch, timestamp):
    reader.offset_before_time(timestamp)  # corrects the times of the entries
    monkeypatch.setattr(OffsetIndex, "slot_before_time", rebuilding(reader, "slot_before_time"))
    assert timestamp - 8 <= reader.offset_before_time(timestamp) <= timestamp


# What is asked of a reader, and which entries that takes: those of `offset` and behind it.
LOOKS = {
    "batch": lambda reader, offset: reader.batch(offset).record(offset).value,
    "events": lambda reader, offset: (
        next(reader.events(offset, offset + 1)).batch.record(offset).value
    ),
    "offset_before_time": lambda reader, offset: (
        b"%03d" % offset * 40 if reader.offset_before_time(offset) <= offset else None
    ),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_write_that_is_undone_may_cut_the_index_at_any_step(reader, look):
    """As on a full disk: the entries behind the last acknowledged record go."""
    offset = reader.index[len(reader.index) - 2][0]
    step = 0
    while is_cut_at(step, reader, LOOKS[look], offset):
        step += 1
    assert step > 10


def is_cut_at(step, reader, look, offset):
    """Whether a look has that many steps; the last entry is cut at that one."""
    index = OffsetIndex()
    for slot in range(len(reader.index)):
        index.add(*reader.index[slot])
    shared = SegmentReader(reader._disk, 0, None, is_compressed=False, stamp=None, index=index)
    left = step

    def cut(_, event, __):
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left == -1:
                index.cut(len(index) - 1)

    sys.setprofile(cut)
    try:
        value = look(shared, offset)
    finally:
        sys.setprofile(None)
    assert value == b"%03d" % offset * 40
    return left < 0
