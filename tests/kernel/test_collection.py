"""A log that is dropped without being closed goes away with the collector, and that is all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import gc, sys
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.log.log import Log
for number in range(3):
    log = Log(OsDisk(sys.argv[1], create=True), "a", LogConfig.of({"background": False}))
    log.append(b"record")
    del log
    gc.collect()
with Log(OsDisk(sys.argv[1]), "a", LogConfig.of({"background": False})) as log:
    print(log.end_offset)
"""


def test_a_log_that_is_dropped_without_close_is_collected(tmp_path: Path) -> None:
    # In another process, because it was the interpreter that crashed.
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "log")], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"3", b"")
