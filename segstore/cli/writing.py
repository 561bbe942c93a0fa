"""Opening a log to change it, and saying what opening found."""

from __future__ import annotations

from typing import Any

import segstore
from segstore.cli import output


def open_existing(path: str, **options: Any) -> segstore.Log:
    """The log at `path` for writing, without the background thread.

    Raises:
        LogNotFoundError: there is none; a mistyped path must not become an empty log.
    """
    segstore.open(path, "r").close()
    return open_any(path, background=False, **options)


def open_any(path: str, **options: Any) -> segstore.Log:
    """The log at `path` for writing, made if there is none.

    What recovery cut, and the damage it found, is said on stderr: nothing goes silently.
    """
    log = segstore.open(path, **options)
    for cut in log.recovery.cut:
        output.complain(
            f"{cut.size_bytes} bytes at byte {cut.position} of {cut.path} were no records "
            f"({cut.reason}); they are kept in {cut.set_aside}"
        )
    for lost in log.recovery.lost:
        output.complain(f"damage in {output.damage(lost)} can't be read")
    return log
