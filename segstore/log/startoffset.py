"""The log start offset: moved durably before any file goes."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager

from segstore.disk import Disk, LockHeldError
from segstore.format.fileheader import KIND_START, FileHeader
from segstore.format.names import START
from segstore.segment.checkpointfile import CheckpointFile

_POLL_S = 0.001


class StartOffset:
    """The first offset that can be read, in the hands of the writer.

    Attributes:
        value: the offset.
    """

    def __init__(self, file: CheckpointFile) -> None:
        self._file = file
        self.value = file.current.value

    @classmethod
    def open(cls, disk: Disk, log_id: bytes, created: int, found: int) -> StartOffset:
        """The checkpoint of a log, made where there is none; `found` is what opening found.

        It is made when the log is, and overwritten in place from then on, so that a full disk
        can't stop the retention that would free it.

        Raises:
            OSError: it can't be read or made.
        """
        file = CheckpointFile.open(disk, START, KIND_START, write=True)
        if file is None:
            file = CheckpointFile.create(
                disk, START, FileHeader(KIND_START, 0, log_id, created), found
            )
        elif file.current.value:
            # A move whose sync failed left a value that is read back and may yet be lost.
            file.prove()
        return cls(file)

    def move(self, offset: int, time: int) -> None:
        """Move it up, durably; a lower offset changes nothing.

        Raises:
            OSError: it can't be written; it is where it was.
        """
        if offset > self.value:
            self._file.move(offset, time)
            self.value = offset

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def held_start(disk: Disk, timeout_s: float) -> Iterator[None]:
    """Nobody registers a consumer meanwhile, or lets retention go by those that are registered.

    Else a consumer could get a start that a pass which has not listed it is about to remove. No
    order of steps does without a lock: each would have to see the other's intent first.

    Raises:
        OSError: somebody else held it for all of `timeout_s`.
    """
    try:
        file = disk.open(START)
    except FileNotFoundError:  # lost; the next writer makes it
        yield
        return
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                file.lock()
                break
            except LockHeldError:
                if time.monotonic() > deadline:
                    raise OSError(
                        errno.EAGAIN,
                        "a consumer is being registered, or retention is under way; try again",
                    ) from None
                time.sleep(_POLL_S)
        yield
    finally:
        file.close()
