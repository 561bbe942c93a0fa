"""Bugs of consumers, snapshots and truncations that show only where several threads are at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from segstore.log import log as log_module
from segstore.log import snapshot as snapshot_module
from segstore.log import starting
from segstore.log.consumer import Consumer
from segstore.log.log import Log
from segstore.testing.memory import MemoryFile


class _Blind:
    """A view that does not see how the log changes."""

    def __init__(self, view: Any, **seen: Any) -> None:
        self._view = view
        vars(self).update(seen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


@contextmanager
def _copied(blind: Callable[[Any], Any]) -> Iterator[None]:
    real = snapshot_module._copy
    with patch.object(snapshot_module, "_copy", lambda view, *args: real(blind(view), *args)):
        yield


@contextmanager
def _consumers_back_too_late() -> Iterator[None]:
    late: list[Any] = []
    real_whole, real_part, real_step = Log.truncate, log_module.truncate, starting.hold_back

    def part(*args: Any) -> None:
        with patch.object(starting, "hold_back", lambda *args: late.append(args)):
            real_part(*args)

    def whole(self: Log, after: int) -> None:
        real_whole(self, after)
        while late:
            real_step(*late.pop())

    with patch.object(log_module, "truncate", part), patch.object(Log, "truncate", whole):
        yield


@contextmanager
def _retention_that_asks_nobody() -> Iterator[None]:
    with patch.object(log_module, "_committed_offsets", lambda _: {}):
        yield


@contextmanager
def _position_behind_a_truncation() -> Iterator[None]:
    with patch.object(Consumer, "_check_open", lambda self: self._reader.check_open()):
        yield


@contextmanager
def _uncounted_loss() -> Iterator[None]:
    real = Consumer._move

    def move(self: Consumer, value: int, _: int) -> None:
        real(self, value, self._file.current.lost_count)

    with patch.object(Consumer, "_move", move):
        yield


@contextmanager
def _name_of_two() -> Iterator[None]:
    real = MemoryFile.lock

    def lock(self: MemoryFile, *, shared: bool = False) -> None:
        if not self.name.endswith(".consumer"):
            real(self, shared=shared)

    with patch.object(MemoryFile, "lock", lock):
        yield


@contextmanager
def _snapshot_of_two_moments() -> Iterator[None]:
    with (
        patch.object(snapshot_module, "pending_truncation", lambda _: None),
        _copied(lambda view: _Blind(view, epoch=lambda: 0)),
    ):
        yield


@contextmanager
def _snapshot_without_what_was_rolled() -> Iterator[None]:
    def blind(view: Any) -> _Blind:
        view.refresh()
        return _Blind(view, catalog=view.catalog)

    with _copied(blind):
        yield


@contextmanager
def _snapshot_without_the_tail() -> Iterator[None]:
    with _copied(lambda view: _Blind(view, end_offset=lambda: 0, tail=None)):
        yield


BUGS = {
    "consumers back too late": _consumers_back_too_late,
    "retention that asks nobody": _retention_that_asks_nobody,
    "position behind a truncation": _position_behind_a_truncation,
    "uncounted loss": _uncounted_loss,
    "name of two": _name_of_two,
    "snapshot of two moments": _snapshot_of_two_moments,
    "snapshot without what was rolled": _snapshot_without_what_was_rolled,
    "snapshot without the tail": _snapshot_without_the_tail,
}
# Those that take so long to show that only a whole run looks for them.
RARE = {"snapshot of two moments", "snapshot without what was rolled"}
