"""Importing, each time in a fresh interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.experiments import Options, children
from benchmarks.harness import Contestant, lines

EXPERIMENT = "importing"
ROUND_COUNT = 15
CODE = """
import sys, time
code = compile(sys.argv[1], "import", "exec")
started = time.perf_counter()
exec(code)
print(time.perf_counter() - started)
"""
# The names of segstore are imported when they are first used, so the import alone says too little.
CODES = {
    "segstore": "import segstore",
    "segstore, and name open": "import segstore; segstore.open",
    "sqlite3": "import sqlite3",
}


def run(options: Options) -> Iterator[dict[str, Any]]:
    contestants = [
        Contestant(name, _run(code), "in a fresh interpreter, bytecode cached", count=1)
        for name, code in CODES.items()
    ]
    yield from lines(EXPERIMENT, {}, contestants, rounds=max(ROUND_COUNT, options.rounds))


def _run(code: str) -> Callable[[int], float]:
    return lambda _: float(children.run(CODE, code))
