"""What every campaign shares: its budget, its counts, and the failure that names its seed."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple


class BrokenError(AssertionError):
    """An invariant does not hold; the message says which and where."""


class SkippedError(Exception):
    """The machine can't run this campaign; the message says why."""


class Budget(NamedTuple):
    """How much to do: the counts of a campaign times `scale`, and at most `seconds`."""

    scale: float
    seconds: float


class Run:
    """One run of a campaign: counts, distinct states and the clock.

    `count("points")` and so on; `state(parts)` counts a state and whether it is a new one.
    """

    def __init__(self, name: str, seed: int, budget: Budget) -> None:
        self.name = name
        self.seed = seed
        self.budget = budget
        self.random = Random(f"{name} {seed}")
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._distinct: set[bytes] = set()
        self._started = time.monotonic()

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def state(self, parts: Iterable[object]) -> bool:
        """Count a state; True if it was never seen before in this run."""
        digest = hashlib.blake2b(digest_size=12)
        for part in parts:
            data = part if isinstance(part, bytes | bytearray) else repr(part).encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        self.counts["states"] += 1
        found = digest.digest()
        is_new = found not in self._distinct
        self._distinct.add(found)
        self.counts["distinct states"] = len(self._distinct)
        return is_new

    def wanted(self, number: float) -> int:
        """`number` at the full budget, fewer at a smaller one, at least 1."""
        return max(1, round(number * self.budget.scale))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def is_over(self) -> bool:
        return self.seconds >= self.budget.seconds

    def report(self, result: str) -> str:
        return json.dumps(
            {
                "campaign": self.name,
                "result": result,
                "seed": self.seed,
                "scale": self.budget.scale,
                "seconds": round(self.seconds, 1),
                **self.counts,
                **({"notes": self.notes} if self.notes else {}),
            }
        )


Campaign = Callable[[Run], None]
