"""Directories to work in, always removed again, and room on the disk checked first."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SPARE_BYTES = 4 << 30


class DiskTooSmallError(Exception):
    """There is not enough room for an experiment, and some to spare."""


@contextmanager
def place(scratch: str) -> Iterator[str]:
    """A fresh directory."""
    path = tempfile.mkdtemp(dir=scratch)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_room(scratch: str, size_bytes: int) -> None:
    """Refuse to start what does not fit.

    Raises:
        DiskTooSmallError: it does not.
    """
    free = shutil.disk_usage(scratch).free
    if free < size_bytes + SPARE_BYTES:
        raise DiskTooSmallError(
            f"{size_bytes / 1e9:.1f} GB are needed and {SPARE_BYTES / 1e9:.1f} GB to spare, and "
            f"{free / 1e9:.1f} GB are free"
        )


def settle() -> None:
    """Let the device finish what earlier work left in the page cache."""
    os.sync()


def warm(path: str) -> None:
    """Read every file below, so that the page cache has it."""
    for directory, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                while file.read(1 << 20):
                    pass
