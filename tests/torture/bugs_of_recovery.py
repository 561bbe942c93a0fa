"""Bugs of an opening that show in what damage or a plain copy left, and not in mere crashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from segstore.log import opening, starting
from segstore.segment import recovery
from segstore.segment.tailreader import read_tail
from tests.torture import t16_mixed_copies, t17_damaged_crashes
from tests.torture.campaign import Run


def mixed_copies(run: Run) -> None:
    t16_mixed_copies.run_copies(run, 2000)


def damaged_crashes(run: Run) -> None:
    t17_damaged_crashes.run_damages(run, 4000)


@contextmanager
def _tail_numbered_from_the_start() -> Iterator[None]:
    real = starting.find

    def find(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)  # the log may start above where the segments end
        return found._replace(from_tail=read_tail(found.reader).since(found.plan.next_offset))

    with patch.object(starting, "find", find):
        yield


@contextmanager
def _lost_although_the_tail_has_it() -> Iterator[None]:
    real, judge = recovery._plan_segments, recovery.judge

    def plan_segments(segments: Sequence[Any], vouch: int, *args: Any) -> Any:
        whole = max([vouch, *(segment.vouch for segment in segments)])
        with patch.object(recovery, "judge", lambda offset, _, **row: judge(offset, whole, **row)):
            return real(segments, vouch, *args)

    with patch.object(recovery, "_plan_segments", plan_segments):
        yield


@contextmanager
def _promise_of_the_tail_forgotten() -> Iterator[None]:
    real = opening.plan
    with patch.object(opening, "plan", lambda *args: real(*args[:4])):
        yield


Bug = Callable[[], AbstractContextManager[None]]
BUGS: dict[str, tuple[Bug, Callable[[Run], None]]] = {
    "tail numbered from the start": (_tail_numbered_from_the_start, mixed_copies),
    "lost although the tail has it": (_lost_although_the_tail_has_it, damaged_crashes),
    "promise of the tail forgotten": (_promise_of_the_tail_forgotten, damaged_crashes),
}
