"""The log start offset: moved durably before any file goes."""

from __future__ import annotations

import errno
import time
from contextlib import suppress

from segstore.disk import Disk, File, LockHeldError
from segstore.format.fileheader import KIND_START, FileHeader
from segstore.format.names import DOORBELL, START
from segstore.segment.checkpointfile import CheckpointFile

_POLL_S = 0.001
# A truncation rewrites a segment meanwhile.
HELD_S_MAX = 30.0


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
            # A move that was killed before its sync left a value that may yet be lost.
            file.prove()
        return cls(file)

    def move(self, offset: int, time: int) -> None:
        """Move it up, durably; a lower offset changes nothing.

        Raises:
            OSError: it can't be written; it is where it was, as `CheckpointFile.move` has it.
        """
        if offset > self.value:
            self._file.move(offset, time)
            self.value = offset

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class HeldStart:
    """Keeps consumers being registered or moved apart from a truncation, or from retention.

    The consumers hold it shared, so that they don't wait for each other. Without it a consumer
    could get a start that a pass which has not listed it is about to remove, or commit what a
    truncation that has moved it back already was taking. No order of steps does without a lock:
    each would have to see the other's intent first.

    Everybody comes in by a gate, which whoever wants it alone shuts behind them: consumers that all
    commit as fast as they can would never leave a moment without any. The gate is the doorbell
    file, and a log without one does without a gate.

    Twice in one statement, as an interrupt on the way out of one leaves it to the other to let go:

        with HeldStart(disk) as held, held:
    """

    def __init__(self, disk: Disk, timeout_s: float = HELD_S_MAX, *, shared: bool = False) -> None:
        self._disk = disk
        self._shared = shared
        self._timeout_s = timeout_s
        self._files: list[File] = []

    def __enter__(self) -> HeldStart:
        """Wait for the lock, unless it is held here already.

        Raises:
            OSError: somebody else held it for all of the time.
        """
        if not self._files:
            deadline = time.monotonic() + self._timeout_s
            try:
                self._lock(DOORBELL, deadline)
                gate_count = len(self._files)
                self._lock(START, deadline)  # lost where there is none; the next writer makes it
                if self._shared:
                    self._close(self._files[:gate_count])
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self._files)

    def _close(self, files: list[File]) -> None:
        for file in files:
            file.close()

    def _lock(self, name: str, deadline: float) -> None:
        with suppress(FileNotFoundError):
            self._files.append(self._disk.open(name))
            self._wait_for(self._files[-1], deadline)

    def _wait_for(self, file: File, deadline: float) -> None:
        while True:
            try:
                file.lock(shared=self._shared)
                return
            except LockHeldError:
                if time.monotonic() > deadline:
                    raise OSError(
                        errno.EAGAIN,
                        "a consumer is being registered or moved, or retention or a truncation is "
                        "under way; try again",
                    ) from None
                time.sleep(_POLL_S)
