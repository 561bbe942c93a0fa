"""A failed sync against an append that is under way in another thread."""

import errno
import threading

import pytest

import segstore


def test_a_sync_that_fails_during_an_append_still_shuts_the_tail(tmp_path):
    log = segstore.open(tmp_path / "log", background=False)
    writer = log._writer
    thread = threading.Thread(target=lambda: writer._sync_failed(OSError(errno.EIO, "gone")))
    with writer._append_lock:  # as an append does, which opens the tail again at its end
        was_intact = writer._failure is None
        thread.start()
        thread.join(0.2)
        writer.buffer.is_open = was_intact
    thread.join()
    with pytest.raises(segstore.SyncFailedError):
        log.append(b"x")
    with pytest.raises(segstore.SyncFailedError):
        log.close()
