"""A reader's listing made in the middle of a swap shows a file that is gone at the next look."""

from __future__ import annotations

import errno

import pytest

import segstore
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log.log import Log
from segstore.log.reading import ATTEMPTS_MAX
from segstore.log.view import FIND_COUNT_MAX, FileView
from segstore.segment.catalog import Catalog
from segstore.segment.tailreader import TailReader
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk


def test_a_listing_that_is_out_of_date_twice_in_a_row_loses_nothing(tmp_path, monkeypatch):
    path = str(tmp_path / "log")
    values = [b"%01000d" % number for number in range(100)]  # too much for the tail
    with segstore.open(path, background=False) as log:
        log.append_many(values)
        log.roll()
        with segstore.open(path, "r") as reader:
            view = reader._reader.view
            stale = view.catalog
            log.compress()
            refresh = type(view).refresh
            answers = [stale, Catalog(s._replace(data_bytes=1) for s in stale.segments)]

            def outdated(self):
                refresh(self)
                if answers:
                    self._catalog = answers.pop(0)

            monkeypatch.setattr(type(view), "refresh", outdated)
            assert [reader[number].value for number in range(100)] == values
            assert not answers


def test_a_reader_reads_on_in_a_growing_segment_whose_index_went_with_a_swap(tmp_path):
    path = str(tmp_path / "log")
    values = [b"%01000d" % number for number in range(1000)]
    with segstore.open(path, background=False) as log:
        log.append_many(values[:100])
        with segstore.open(path, "r") as reader:
            assert reader[0].value == values[0]  # the segment is open, with its index as it was
            log.append_many(values[100:])
            log.roll()
            log.compress()
            assert list(reader.values(900)) == values[900:]


@pytest.mark.parametrize("start", ["a batch", "a batch at hand", "what is lost"])
def test_what_is_drained_during_the_look_is_found_in_the_segment(path, monkeypatch, start):
    values = [b"%05000d" % number for number in range(20)]  # too much for the tail
    with segstore.open(path, background=False, compression=None) as log:
        log.append_many(values[:10])
        log.roll()
        log.append_many(values[10:])
        log.append(b"staged")
        real = TailReader.get

        def drained(*arguments):
            if log._writer.buffer.staged_count and arguments[1] == 20:
                log._writer.drain()
                log.append(b"later")
            return real(*arguments)

        monkeypatch.setattr(TailReader, "get", drained)
        if start == "a batch at hand":
            assert list(log.values(15, 17)) == values[15:17]
        elif start == "what is lost":
            first = log.segments()[1].path
            with open(first, "r+b") as file:
                file.truncate(64)
            assert list(log.values(10, 21, errors="skip")) == [b"staged"]
            return
        assert list(log.values(15)) == [*values[15:], b"staged"]


@pytest.mark.parametrize(("is_changing", "looks"), [(False, 2), (True, ATTEMPTS_MAX)])
def test_what_is_lost_is_told_of_after_so_many_looks(path, monkeypatch, is_changing, looks):
    """As listings are beside a writer that appends all the time."""
    with segstore.open(path, background=False, compression=None) as log:
        log.append_many([b"%05000d" % number for number in range(20)])
        log.sync()
        with segstore.open(path, "r") as reader:
            assert len(list(reader.values())) == 20
            with open(log.segments()[0].path, "r+b") as file:
                file.truncate(64)
            refresh = FileView.refresh
            seen = []

            def changed(self):
                refresh(self)
                seen.append(self._catalog)
                if is_changing:
                    self._catalog = Catalog(
                        segment._replace(data_bytes=len(seen)) for segment in self._catalog.segments
                    )

            monkeypatch.setattr(FileView, "refresh", changed)
            with pytest.raises(segstore.CorruptionError) as caught:
                list(reader.values())
            assert caught.value.offsets == range(20)
            assert len(seen) == looks


class _ListedLate(FaultyDisk):
    """A disk whose listing is overtaken by what the writer does."""

    between = None

    def names(self):
        names = super().names()
        between, self.between = self.between, None
        if between is not None:
            between()
        return names


def test_what_was_rolled_during_the_listing_is_found_by_key_and_time(path):
    with segstore.open(path, background=False, compression=None) as writer:
        writer.append_many([b"v"] * 10, keys=[b"a"] * 10, timestamps=range(10))

        def roll():
            writer.roll()
            writer.append_many([b"w"] * 10, keys=[b"b"] * 10, timestamps=range(100, 110))
            writer.sync()

        disk = _ListedLate(OsDisk(path))
        disk.between = roll
        with Log(disk, "r", LogConfig.of({}, environment={})) as reader:
            assert reader.offset_for_time(105) == 15
        disk = _ListedLate(OsDisk(path))
        disk.between = roll
        with Log(disk, "r", LogConfig.of({}, environment={})) as reader:
            assert len(list(reader.find(b"b"))) == 20


def test_a_truncation_to_where_the_log_ended_at_opening_is_seen(path):
    with segstore.open(path, background=False, compression=None) as writer:
        writer.append_many([bytes(500)] * 100)
        writer.sync()
        disk = _ListedLate(OsDisk(path))
        disk.between = lambda: writer.append_many([bytes(500)] * 200) and writer.sync()
        with Log(disk, "r", LogConfig.of({}, environment={})) as reader:
            assert reader.end_offset == 300
            writer.truncate(99)
            assert reader.end_offset == 100


@pytest.mark.parametrize("count", [1, FIND_COUNT_MAX - 1, FIND_COUNT_MAX])
def test_a_reader_is_opened_though_files_go_from_under_its_looks(count):
    memory = MemoryDisk()
    with Log(memory, "a", LogConfig.of({"background": False}, environment={})) as log:
        log.append_many([b"x"] * 10)
        log.sync()
        left = count

        def take_away(kind, name):
            nonlocal left
            if kind == "open" and name.endswith(".log") and left:
                left -= 1
                raise FileNotFoundError(errno.ENOENT, "it was swapped since", name)

        disk = FaultyDisk(memory, before=take_away)
        if count == FIND_COUNT_MAX:
            with pytest.raises(FileNotFoundError):
                Log(disk, "r", LogConfig())
        with Log(disk, "r", LogConfig()) as reader:
            assert len(list(reader)) == reader.end_offset == 10
            assert left == 0
