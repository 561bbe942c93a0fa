"""Setting bytes aside before they are cut: nothing goes without a copy for people to look at."""

from __future__ import annotations

from segstore.disk import Disk, written_aside
from segstore.format.names import aside, temporary


def set_aside(disk: Disk, name: str, position: int, data: bytes) -> str:
    """Keep bytes that are about to be cut from `name`, durably; the name they are kept under.

    Raises:
        OSError: they can't be written.
    """
    kept = free_name(disk, name, position, data)
    if disk.size_of(kept) is not None:
        return kept
    with written_aside(disk, temporary(kept), kept) as file:
        file.write([data], 0)
    disk.sync_directory()
    return kept


def free_name(disk: Disk, name: str, position: int, data: bytes | None = None) -> str:
    """A name to set aside under: free, or taken by the very same bytes (of an interrupted try)."""
    attempt = 0
    while disk.size_of(kept := aside(name, position, attempt)) is not None:
        if data is not None and disk.size_of(kept) == len(data):
            file = disk.open(kept)
            same = file.read(len(data), 0) == data
            file.close()
            if same:
                break
        attempt += 1
    return kept
