from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import segstore

THREAD_COUNT = 16
RECORD_COUNT_EACH = 12


def test_threads_that_wait_for_durable_share_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync

    def slow(number: int) -> None:
        time.sleep(0.005)  # as a disk does; on a memory file system nobody would have to share
        real(number)

    monkeypatch.setattr(os, "fdatasync", slow)
    with segstore.open(tmp_path / "log", durability="durable", sync_interval="1h") as log:

        def append(thread: int) -> None:
            for number in range(RECORD_COUNT_EACH):
                offset = log.append(b"%d %d" % (thread, number))
                assert log.durable_offset > offset

        threads = [threading.Thread(target=append, args=(n,)) for n in range(THREAD_COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(log) == THREAD_COUNT * RECORD_COUNT_EACH
        # One sync runs while nearly everybody appends for the next one: about 8 records each.
        assert len(log) / log.stats().syncs > 4
