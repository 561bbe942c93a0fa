"""The standard library's rotating log file, flushed by it after every record."""

from __future__ import annotations

import logging
import logging.handlers
import os
from collections.abc import Callable, Sequence


class LoggingHandler:
    levels = ("written",)
    threads = True

    def __init__(self, path: str, level: str) -> None:
        assert level in self.levels
        self.handler = logging.handlers.RotatingFileHandler(
            os.path.join(path, "log"), maxBytes=64 << 20, backupCount=1000, encoding="latin-1"
        )
        self.logger = logging.Logger("benchmark", logging.INFO)
        self.logger.addHandler(self.handler)
        self.append = self._appender()

    @staticmethod
    def settings(level: str) -> str:
        return (
            "maxBytes=64 MiB, backupCount=1000, default format (the message), bytes decoded as "
            "latin-1; it has no batches, so these are single records"
        )

    def _appender(self) -> Callable[[bytes], None]:
        info = self.logger.info

        def append(value: bytes) -> None:
            info(value.decode("latin-1"))

        return append

    def appender(self) -> Callable[[bytes], None]:
        return self.append

    def append_many(self, values: Sequence[bytes]) -> None:
        for value in values:
            self.append(value)

    def close(self) -> None:
        self.handler.close()
