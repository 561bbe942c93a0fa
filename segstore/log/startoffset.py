"""The log start offset: moved durably before any file goes."""

from __future__ import annotations

from segstore.disk import Disk
from segstore.format.fileheader import KIND_START, FileHeader
from segstore.format.names import START
from segstore.segment.checkpointfile import CheckpointFile


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
