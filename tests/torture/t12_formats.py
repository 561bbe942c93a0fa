"""T12: the files of every format version that was ever released read as they were written, go on
being written to, and survive a snapshot, a compression and a reopening.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import segstore
from segstore import Record
from tests.golden.test_golden import HERE, TAIL_BYTES, VERSIONS
from tests.torture.campaign import BrokenError, Run


def run(run: Run) -> None:
    released = sorted(name for name in os.listdir(HERE) if name.startswith("v"))
    if released != sorted(VERSIONS):
        raise BrokenError(f"there are files of {released}, and expectations for {list(VERSIONS)}")
    for version, logs in VERSIONS.items():
        run.count("versions")
        for name, expected in logs.items():
            with tempfile.TemporaryDirectory(prefix="segstore-") as directory:
                _check(run, os.path.join(HERE, version, name), directory, expected)
            run.count("logs")


def _check(run: Run, golden: str, directory: str, expected: list[Record]) -> None:
    path, snapshot = os.path.join(directory, "log"), os.path.join(directory, "snapshot")
    shutil.copytree(golden, path)
    os.truncate(os.path.join(path, "tail"), TAIL_BYTES)  # kept without the zeros at its end
    with segstore.open(path, "r") as log:
        _compare(log, expected)
        log.snapshot(snapshot)
    with segstore.open(snapshot, "r") as log:
        _compare(log, expected)
    with segstore.open(path, background=False) as log:
        _compare(log, expected)
        end = expected[-1].offset + 1
        if log.append(b"of today", key=b"k", timestamp=1) != end:
            raise BrokenError("I4: an append got another offset")
        expected = [*expected, Record(end, 1, b"k", b"of today")]
        log.roll()
        log.compress()
        _compare(log, expected)
    with segstore.open(path, "r") as log:
        _compare(log, expected)
    run.count("records", len(expected))


def _compare(log: segstore.Log, expected: list[Record]) -> None:
    if list(log) != expected:
        raise BrokenError(f"I2: {log.path} does not hold what was written")
    if [log[record.offset] for record in expected[::7]] != expected[::7]:
        raise BrokenError(f"I2: {log.path} gives other records one by one")
    if log.recovery.lost or log.recovery.cut or log.verify().lost:
        raise BrokenError(f"{log.path}: damage where there is none: {log.recovery}")
