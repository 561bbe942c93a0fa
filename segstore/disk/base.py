"""The seam: the few operations that a log needs of a directory and of the files in it.

Rules that every implementation keeps:
1. Names are plain file names, never paths: a disk is one directory.
2. Errors are `OSError` with an `errno`.
3. `File.write` writes all or raises; what a failed write left behind is for the caller to undo.
4. `sync` covers the data and the size of a file, with what was stored into its mappings;
   `sync_directory` covers the names.
5. A mapping is of a fixed size, over blocks that `allocate` got before, so that no store into it
   can fail; a file is never made smaller while it is mapped.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Protocol

from segstore.format.buffers import Buffer

# What a full disk says, or one of which the user may have no more.
FULL = (errno.ENOSPC, errno.EDQUOT)


class LockHeldError(Exception):
    """The lock is held; `holder` is what its file says of who holds it."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Mapping(Protocol):
    """A file's bytes as memory, shared with every process that maps it."""

    @property
    def view(self) -> memoryview:
        """The bytes; writable if the file was opened for writing."""

    def wait(self, at: int, value: int, timeout_s: float) -> None:
        """Sleep while the u32 at `at` (a multiple of 4) is `value`, until `wake` or the time is up.

        May return early; whoever waits looks again.
        """

    def wake(self, at: int) -> None:
        """Wake everybody, in any process, who waits for the u32 at `at`."""

    def uncache(self) -> None:
        """A hint that nothing looks into it now, so that `File.uncache` reaches its pages."""

    def close(self) -> None:
        """Give the memory back, as soon as nothing looks into it any more."""


class File(Protocol):
    """An open file."""

    name: str

    @property
    def descriptor(self) -> int | None:
        """The system's, for C code that reads by itself; None where `read` is the only way."""

    def read(self, size_bytes: int, position: int) -> bytes:
        """Up to `size_bytes` from `position`; fewer only at the end of the file."""

    def write(self, parts: Sequence[Buffer], position: int) -> None:
        """Write all of `parts`, one after another, at `position`."""

    def size(self) -> int:
        """The size in bytes."""

    def is_shared(self) -> bool:
        """Whether it has another name as well, as `Disk.link` gives it one."""

    def truncate(self, size_bytes: int) -> None:
        """Make the file `size_bytes` long."""

    def allocate(self, size_bytes: int) -> None:
        """Make the file `size_bytes` long with every block in place, or leave it as it was."""

    def uncache(self, size_bytes: int, position: int) -> None:
        """A hint that bytes may leave the cache: the dirty by way of the device. Never fails."""

    def sync(self, *, data_only: bool = False) -> None:
        """Bring the file to the device; `data_only` leaves out what reading it back won't need."""

    def map(self, size_bytes: int) -> Mapping:
        """Map the first `size_bytes`."""

    def lock(self, *, shared: bool = False) -> None:
        """Lock the file against every other open of it until it is closed.

        A shared lock keeps out those only that want the file for themselves.

        Raises:
            LockHeldError: somebody else holds it.
        """

    def close(self) -> None:
        """Close the file; a second call does nothing."""


class Disk(Protocol):
    """One directory.

    Attributes:
        path: what to call it in messages.
    """

    path: str

    def names(self) -> list[str]:
        """The names of the files in the directory."""

    def size_of(self, name: str) -> int | None:
        """The size of a regular file in bytes, or None if there is none of that name."""

    def is_named(self, file: File, name: str) -> bool:
        """Whether an open file of this disk is the one that has the name now."""

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        """Open a regular file; `create` makes a new one and fails if the name is taken."""

    def rename(self, name: str, new_name: str) -> None:
        """Give a file a new name, in place of any file that has it."""

    def link(self, name: str, target: Disk) -> bool:
        """Give a file the same name in another directory as well; False where that can't be."""

    def unlink(self, name: str) -> None:
        """Remove a name."""

    def sync_directory(self) -> None:
        """Bring the names to the device."""

    def close(self) -> None:
        """Close the directory; a second call does nothing."""
