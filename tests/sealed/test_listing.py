"""A directory that changes while it is listed."""

from __future__ import annotations

import os

import segstore
from segstore.disk import OsDisk
from segstore.segment.catalog import list_segments

from .records import append_mix


def test_a_segment_swapped_during_the_listing_is_not_missed(path: str) -> None:
    with segstore.open(path, segment_size="8KiB", batch_size=1024, background=False) as log:
        append_mix(log, 400)
        log._writer.seal_rolled()  # type: ignore[union-attr]
        bases = [s.base_offset for s in log.segments()]

        class Swapping(OsDisk):
            def names(self) -> list[str]:
                names = super().names()
                log.compress()
                return names

        class Blind(OsDisk):
            def names(self) -> list[str]:
                hidden = tuple(f"{base:020d}" for base in bases[1:4])
                return [name for name in super().names() if not name.startswith(hidden)]

        class Late(OsDisk):
            """So slow that what was listed is gone whenever it is looked at."""

            def names(self) -> list[str]:
                return before

        before = os.listdir(path)
        for disk in (Swapping(path), Blind(path), Late(path)):
            listed = list_segments(disk)
            assert [s.base_offset for s in listed.catalog.segments] == bases
            disk.close()
        assert any(name.endswith(".lz4") for name in os.listdir(path))


def test_what_was_begun_since_the_listing_is_not_missed(path: str) -> None:
    """Where the last one listed is found sealed, it is not the last."""
    with segstore.open(path, segment_size="8KiB", batch_size=1024, background=False) as log:
        append_mix(log, 400)
        before = os.listdir(path)
        append_mix(log, 400)
        log._writer.seal_rolled()  # type: ignore[union-attr]

        class Late(OsDisk):
            def names(self) -> list[str]:
                return before

        disk = Late(path)
        listed = list_segments(disk).catalog.segments
        assert [s.base_offset for s in listed] == [s.base_offset for s in log.segments()]
        assert not listed[-1].is_sealed
        disk.close()


def test_a_segment_that_is_gone_stays_missing(path: str) -> None:
    with segstore.open(path, segment_size="8KiB", batch_size=1024, background=False) as log:
        append_mix(log, 400)
        log._writer.seal_rolled()  # type: ignore[union-attr]
        bases = [s.base_offset for s in log.segments()]
    assert len(bases) > 3
    for name in os.listdir(path):
        if name.startswith(f"{bases[1]:020d}"):
            os.unlink(os.path.join(path, name))
    disk = OsDisk(path)
    listed = list_segments(disk)
    assert [s.base_offset for s in listed.catalog.segments] == bases[:1] + bases[2:]
    disk.close()


def test_a_snapshot_has_the_segments_that_no_listing_shows(path: str) -> None:
    with segstore.open(path, segment_size="8KiB", batch_size=1024, background=False) as log:
        append_mix(log, 400)
        log.compress()
        hidden = f"{log.segments()[2].base_offset:020d}"
        with segstore.open(path, "r") as reader:
            names = reader._disk.names
            reader._disk.names = lambda: [n for n in names() if not n.startswith(hidden)]  # type: ignore[method-assign]
            reader._reader.view.refresh()
            reader.snapshot(path + "-copy")
        with segstore.open(path + "-copy", "r") as copy:
            assert copy.verify().is_intact
            assert list(copy) == list(log)
