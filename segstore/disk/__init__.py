"""Bytes to the device and back: the only user of `os`, `mmap` and `fcntl`.

`base` is the seam, `real` the operating system. Whatever stands above takes a `Disk` and works the
same on one that fails or forgets (`segstore.testing`).
"""

from segstore.disk.anew import open_anew, written_aside
from segstore.disk.base import FULL, Disk, File, LockHeldError, Mapping
from segstore.disk.handle import Handle
from segstore.disk.real import OsDisk, is_directory, publish_directory, remove_directory

__all__ = [
    "FULL",
    "Disk",
    "File",
    "Handle",
    "LockHeldError",
    "Mapping",
    "OsDisk",
    "is_directory",
    "open_anew",
    "publish_directory",
    "remove_directory",
    "written_aside",
]
