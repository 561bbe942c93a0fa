"""Work in a fresh interpreter: what a child prints as JSON is what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

TIMEOUT_S = 550


def start(code: str, *args: object, **pipes: Any) -> subprocess.Popen[bytes]:
    """Start `code` in a fresh interpreter, with `args` as `sys.argv[1:]`."""
    # -S and -E are not given: a user's interpreter start has site and environment, too.
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        cwd=os.getcwd(),
        **pipes,
    )


def run(code: str, *args: object) -> Any:
    """Run `code` to its end, or to its own SIGKILL, and give what it printed last.

    Raises:
        RuntimeError: it failed or printed nothing.
    """
    with start(code, *args) as child:
        output, _ = child.communicate(timeout=TIMEOUT_S)
    lines = output.decode().strip().splitlines()
    if child.returncode not in (0, -9) or not lines:
        raise RuntimeError(f"a child ended with {child.returncode} after {lines[-1:]}")
    return json.loads(lines[-1])


def run_timed(code: str, *args: object) -> float:
    """Seconds from before the start of the interpreter to the `time.monotonic()` it printed."""
    started = time.monotonic()
    return float(run(code, *args)) - started
