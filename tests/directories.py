"""Looking at the files of a log from outside, and copying them as a dead process leaves them."""

import os
import shutil
from collections.abc import Iterable

LOCK = "lock"


def contents(path: str, *, without: Iterable[str] = (LOCK,)) -> dict[str, bytes]:
    """Every file of a directory with its bytes."""
    found = {}
    for name in sorted(os.listdir(path)):
        if name not in without:
            with open(os.path.join(path, name), "rb") as file:
                found[name] = file.read()
    return found


def copy_as_a_crash_leaves_it(path: str, target: str) -> str:
    """A copy of a log whose writer is still open: what a process that dies now leaves behind.

    Everything the process stored is in the page cache, mapped or written, and so in the copy.
    """
    shutil.copytree(path, target)
    return target


def overwrite(path: str, name: str, position: int, data: bytes) -> None:
    """Put other bytes into a file, in place."""
    with open(os.path.join(path, name), "r+b") as file:
        file.seek(position)
        file.write(data)


def flip(path: str, name: str, position: int, mask: int = 0xFF) -> None:
    """Turn over bits of one byte of a file."""
    with open(os.path.join(path, name), "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ mask]))


def names_ending(path: str, ending: str) -> list[str]:
    """The names with that ending, in order."""
    return sorted(name for name in os.listdir(path) if name.endswith(ending))
