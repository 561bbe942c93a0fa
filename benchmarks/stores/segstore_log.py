"""segstore itself, by its public interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import segstore


class SegstoreLog:
    levels = ("written", "durable")
    threads = True

    def __init__(self, path: str, level: str, *, compressed: bool = False, **options: Any) -> None:
        self.log = segstore.open(
            path, durability=level, compression="lz4" if compressed else None, **options
        )
        self._reader: segstore.Log | None = None
        self.append: Callable[[bytes], object] = self.log.append
        self.append_many: Callable[[Sequence[bytes]], object] = self.log.append_many

    @staticmethod
    def settings(level: str) -> str:
        return f"durability={level}, everything else as it comes"

    def appender(self) -> Callable[[bytes], object]:
        return self.append

    def values(self) -> Iterator[bytes]:
        return self.log.values()

    def records(self) -> Iterator[Any]:
        return self.log.read()

    def point(self, number: int) -> bytes:
        return self.log[number].value

    def since(self, number: int) -> Iterator[Any]:
        """The records from a number on, by a handle that sees what another process would."""
        if self._reader is None:
            self._reader = segstore.open(self.log.path, "r")
        return self._reader.read(number)

    def pack(self) -> None:
        """Roll, so that everything is in sealed segments, and compress where asked to."""
        self.log.roll()
        if self.log.config.compression is not None:
            self.log.compress()  # type: ignore[attr-defined]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self.log.close()


def can_compress() -> bool:
    """Whether this segstore compresses sealed segments."""
    return hasattr(segstore.Log, "compress")
