"""The experiments: each module has `run(options)`, which yields result lines.

An experiment runs in a process of its own, so that none sees the heap or the threads of another.
"""

from __future__ import annotations

from typing import NamedTuple

# In this order. Those in PURE are run a second time with SEGSTORE_PURE=1.
NAMES = (
    "importing",
    "append",
    "threads",
    "read",
    "point",
    "compress",
    "latency",
    "opening",
    "follow",
    "live",
    "growth",
    "memory",
    "brokers",
)
PURE = tuple(name for name in NAMES if name not in ("brokers",))


class Options(NamedTuple):
    """What a run may take.

    Attributes:
        scratch: an empty directory on the file system to measure.
        rounds: how many rounds count.
        round_s: how long one contestant's part of a round should last.
        growth_bytes: how big a log grows in `growth`.
        memory_bytes: how much passes in `memory`.
        point_bytes: the size of the log that `point` reads from.
        opening_bytes: the size of the log that `opening` opens after a kill.
        segment_counts: how many segments `opening` opens.
        touched_bytes: how much of the free memory is touched before `append` and `growth`.
        targets_only: leave out the cases that no target asks for.
    """

    scratch: str
    rounds: int = 5
    round_s: float = 0.1
    growth_bytes: int = 2 << 30
    memory_bytes: int = 1 << 30
    point_bytes: int = 1 << 30
    opening_bytes: int = 1 << 30
    segment_counts: tuple[int, ...] = (1_000, 10_000)
    touched_bytes: int = 20 << 30
    targets_only: bool = False

    def full(self) -> Options:
        """The sizes that `make bench-full` takes."""
        return self._replace(
            growth_bytes=20 * 10**9, memory_bytes=10 * 10**9, rounds=7, round_s=0.3
        )
