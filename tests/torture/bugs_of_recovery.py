"""Bugs of an opening that show in what damage or a plain copy left, and not in mere crashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from segstore.log import opening, starting
from segstore.segment import recovery
from tests.torture import t16_mixed_copies, t17_damaged_crashes
from tests.torture.campaign import Run


def mixed_copies(run: Run) -> None:
    t16_mixed_copies.run_copies(run, 2000)


def damaged_crashes(run: Run) -> None:
    t17_damaged_crashes.run_damages(run, 4000)


@contextmanager
def _tail_numbered_from_the_start() -> Iterator[None]:
    find, plan = starting.find, opening.plan

    def without_start(*args: Any, **bounds: Any) -> Any:
        return plan(*args, **{**bounds, "start_offset": 0})

    def bad_find(*args: Any, **options: Any) -> Any:
        with patch.object(opening, "plan", without_start):
            below = find(*args, **options)  # a copy may have the start of after a trim
        return find(*args, **options)._replace(from_tail=below.from_tail)

    with patch.object(starting, "find", bad_find):
        yield


@contextmanager
def _lost_although_the_tail_has_it() -> Iterator[None]:
    with patch.object(recovery, "_held", lambda *_: range(0)):
        yield


@contextmanager
def _promise_of_the_tail_forgotten() -> Iterator[None]:
    real = opening.plan
    with patch.object(opening, "plan", lambda *args, **bounds: real(*args[:4], **bounds)):
        yield


Bug = Callable[[], AbstractContextManager[None]]
BUGS: dict[str, tuple[Bug, Callable[[Run], None]]] = {
    "tail numbered from the start": (_tail_numbered_from_the_start, mixed_copies),
    "lost although the tail has it": (_lost_although_the_tail_has_it, damaged_crashes),
    "promise of the tail forgotten": (_promise_of_the_tail_forgotten, damaged_crashes),
}
