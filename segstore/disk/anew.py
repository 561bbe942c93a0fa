"""Starting a file over."""

from __future__ import annotations

from segstore.disk.base import Disk, File


def open_anew(disk: Disk, name: str) -> File:
    """A new, empty file in place of any of that name, which an interrupted step may have left.

    Raises:
        OSError: it can't be removed or made.
    """
    if disk.size_of(name) is not None:
        disk.unlink(name)
    return disk.open(name, write=True, create=True)
