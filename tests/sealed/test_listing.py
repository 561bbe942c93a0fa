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
            looks = 0

            def names(self) -> list[str]:
                self.looks += 1
                hidden = f"{bases[1]:020d}" if self.looks == 1 else "none"
                return [name for name in super().names() if not name.startswith(hidden)]

        for disk in (Swapping(path), Blind(path)):
            listed = list_segments(disk)
            assert [s.base_offset for s in listed.catalog.segments] == bases
            disk.close()
        assert any(name.endswith(".lz4") for name in os.listdir(path))
