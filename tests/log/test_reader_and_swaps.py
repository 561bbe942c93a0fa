"""A reader's listing made in the middle of a swap shows a file that is gone at the next look."""

from __future__ import annotations

import segstore
from segstore.segment.catalog import Catalog


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
