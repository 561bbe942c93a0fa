"""A log with a file of every kind, for the tests that look at what lies on disk."""

import os

import segstore


def fill(path: str | os.PathLike[str], roll_count: int) -> None:
    """Make it: so many compressed segments of 50 records, an active one of two, and a consumer."""
    with segstore.open(path, background=False) as log:
        for _ in range(roll_count):
            log.append_many([b"record %d" % number for number in range(50)], keys=[b"k"] * 50)
            log.roll()
        log.compress()
        log.append_many([bytes(40_000), b"last"])
        log.consumer("one").commit()
