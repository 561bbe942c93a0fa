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
started = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - started)
"""


def run(options: Options) -> Iterator[dict[str, Any]]:
    contestants = [
        Contestant(name, _import(name), "in a fresh interpreter, bytecode cached", count=1)
        for name in ("segstore", "sqlite3")
    ]
    yield from lines(EXPERIMENT, {}, contestants, rounds=max(ROUND_COUNT, options.rounds))


def _import(name: str) -> Callable[[int], float]:
    return lambda _: float(children.run(CODE, name))
