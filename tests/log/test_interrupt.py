"""Ctrl-C may come at any moment: no call hangs after it, and nothing acknowledged is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import segstore

OPTIONS: dict[str, Any] = {"background": False, "segment_size": 4096, "batch_size": 1024}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def interrupted(call: Callable[[], object], after_s: float) -> bool:
    """Whether a signal came before the call was over, as Python takes them: between two steps."""
    signal.signal(signal.SIGALRM, _interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        call()
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


CALLS: dict[str, Callable[[segstore.Log], object]] = {
    "append": lambda log: log.append(b"try", key=b"key"),
    "append durable": lambda log: log.append(b"try", durability="durable"),
    "append_many": lambda log: log.append_many([b"try"] * 3),
    "append_many that rolls": lambda log: log.append_many([b"try" + bytes(500)] * 20),
    "sync": lambda log: log.sync(),
    "roll": lambda log: log.roll(),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_moment(tmp_path: Path, name: str) -> None:
    hits = 0
    said = ""
    for number in range(120):
        path = str(tmp_path / f"log{number}")
        log = segstore.open(path, **OPTIONS)
        known = [b"%d" % place for place in range(12)]
        log.append_many(known[:10])
        for value in known[10:]:
            log.append(value)
        hits += interrupted(lambda log=log: CALLS[name](log), 2e-6 * 1.06**number)
        try:
            offset = log.append(b"after", key=b"k")
        except segstore.StorageError as error:
            offset = None
            said = str(error)
        if offset is not None:
            assert log[offset].value == b"after"
            log.sync()
        log.close()
        with segstore.open(path, **OPTIONS) as log:
            found = list(log.values())
            assert found[:12] == known
            assert log.recovery is not None
            assert log.recovery.lost == ()
            assert {value[:3] for value in found[12:]} <= {b"try", b"aft"}
            if offset is None:
                assert "interrupted" in said
            else:
                assert found[offset] == b"after"
                assert len(found) == offset + 1
            assert log.verify().is_intact
    assert hits > 5
