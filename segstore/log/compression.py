"""Compressing what is sealed, oldest first, without holding anybody up."""

from __future__ import annotations

import errno
from collections.abc import Callable

from segstore.disk import Disk
from segstore.errors import CorruptionError
from segstore.format.chunk import Codec
from segstore.format.fileheader import log_tag
from segstore.format.names import RAW_INDEX_SUFFIX, RAW_SUFFIX
from segstore.log.manager import SegmentManager
from segstore.segment.reader import SegmentReader
from segstore.segment.rewrite import remove_files

Progress = Callable[[int, int], None]


def nothing() -> None:
    """What comes between two chunks where there is nothing else to do."""


class Compressor:
    """Swaps sealed plain segments for compressed ones; one pass at a time.

    Attributes:
        refused: base offsets of segments that are damaged or can't be read, and stay as they are.
    """

    def __init__(
        self,
        disk: Disk,
        manager: SegmentManager,
        log_id: bytes,
        created: int,
        *,
        batch_size_bytes: int,
    ) -> None:
        self._disk = disk
        self._manager = manager
        self._log_id = log_id
        self._created = created
        self._batch_size_bytes = batch_size_bytes
        self.refused: set[int] = set()
        self._room_bytes: dict[int, int] = {}  # what the disk was too full for

    def waiting(self) -> list[int]:
        """The base offsets of the segments to compress."""
        return [
            segment.base_offset
            for segment in self._manager.catalog.segments
            if segment.stamp is not None
            and not segment.is_compressed
            and segment.base_offset not in self.refused
        ]

    def forget(self) -> None:
        """Forget what segments were, which a truncation or a repair has changed."""
        self.refused.clear()
        self._room_bytes.clear()

    def run(
        self,
        codec: Codec,
        progress: Progress | None,
        limit: int | None,
        between_chunks: Callable[[], None],
    ) -> int:
        """Compress what waits, at most `limit` segments; how many were.

        `progress` is called with the number done and the number in all. A segment that is damaged
        or gone is left as it is and noted in `refused`.

        Raises:
            OSError: the disk is full or failed; what was compressed so far stays so.
        """
        waiting = self.waiting()[:limit]
        done = 0
        failure: OSError | None = None
        for number, base_offset in enumerate(waiting, 1):
            try:
                done += self._swap(base_offset, codec, between_chunks)
            except (CorruptionError, FileNotFoundError):
                self.refused.add(base_offset)
            except OSError as error:
                # A bad sector: those behind it are not to wait for it, each round again.
                if error.errno != errno.EIO:
                    raise
                self.refused.add(base_offset)
                failure = failure or error
            if progress is not None:
                progress(number, len(waiting))
        if failure is not None:
            raise failure
        return done

    def _swap(self, base_offset: int, codec: Codec, between_chunks: Callable[[], None]) -> bool:
        catalog = self._manager.catalog
        segment = catalog.segments[catalog.find(base_offset)]
        stamp = segment.stamp
        if segment.base_offset != base_offset or stamp is None or segment.is_compressed:
            return False  # by what whoever was told of the progress did
        reader = SegmentReader(
            self._disk,
            base_offset,
            log_tag(self._log_id),
            is_compressed=False,
            stamp=stamp,
        )
        from segstore.segment.compress import NoRoomError, compress_segment

        try:
            swapped = compress_segment(
                self._disk,
                reader,
                self._log_id,
                self._created,
                stamp.end_offset,
                codec,
                self._batch_size_bytes,
                self._room_bytes.get(base_offset, 0),
                between_chunks,
            )
        except NoRoomError as error:
            self._room_bytes[base_offset] = error.room_bytes
            raise
        self._room_bytes.pop(base_offset, None)
        # Readers find the new file before the old one goes; whoever has that open reads on in it.
        self._manager.replace(swapped)
        remove_files(self._disk, base_offset, (RAW_SUFFIX, RAW_INDEX_SUFFIX))
        self._disk.sync_directory()
        return True
