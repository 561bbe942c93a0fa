"""Starting a file over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from segstore.disk.base import Disk, File


def open_anew(disk: Disk, name: str) -> File:
    """A new, empty file in place of any of that name, which an interrupted step may have left.

    Raises:
        OSError: it can't be removed or made.
    """
    if disk.size_of(name) is not None:
        disk.unlink(name)
    return disk.open(name, write=True, create=True)


@contextmanager
def written_aside(disk: Disk, aside: str, name: str) -> Iterator[File]:
    """A file to write as `aside`: behind the block it is synced and has its name, or is gone.

    The caller syncs the directory.

    Raises:
        OSError: it can't be made, synced or renamed.
    """
    file = open_anew(disk, aside)
    try:
        yield file
        file.sync()
        disk.rename(aside, name)
    except BaseException:
        with suppress(OSError):  # a full disk has no room for it
            disk.unlink(aside)
        raise
    finally:
        file.close()
