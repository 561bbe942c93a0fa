"""The engine's clock: wall time that never steps, for append times and their age.

Anchored to the wall once, at opening, and carried on by the monotonic clock, so that a step of
the wall clock while the log is open can neither delete records early nor stop a roll. It starts
at the last append time in the log if the wall is behind that.

Record timestamps are not taken from it: they are for people, and follow the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from segstore.format.framelayout import TIMESTAMP_MAX

# Append times are stored as int64, and a damaged or forged one may be the last of them: from here
# on the clock runs for 36 years.
_START_MAX = TIMESTAMP_MAX - 2**60


class EngineClock:
    """Nanoseconds since the epoch that never step back or jump."""

    def __init__(
        self,
        last_append_time: int,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._base = max(wall_ns(), min(last_append_time, _START_MAX)) - monotonic_ns()

    def now(self) -> int:
        """The time."""
        return self._base + self._monotonic_ns()
