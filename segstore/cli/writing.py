"""Opening a log to change it: one that is there, where appending alone makes a new one."""

from __future__ import annotations

from typing import Any

import segstore


def open_existing(path: str, **options: Any) -> segstore.Log:
    """The log at `path` for writing, without the background thread.

    Raises:
        LogNotFoundError: there is none; a mistyped path must not become an empty log.
    """
    segstore.open(path, "r").close()
    return segstore.open(path, background=False, **options)
