"""What the threads of one life of a log share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from segstore.config import LogConfig
from segstore.log.log import Log
from segstore.testing.faulty import FaultyDisk
from tests.torture.campaign import Run
from tests.torture.consumers import Consumers
from tests.torture.ledger import Ledger

# Of a thread, with its name and its choices.
Step = Callable[[str, Random], object]


class Scene(NamedTuple):
    """The log, as its writer has it, and the model of it.

    Attributes:
        is_faulty: the disk may fail.
    """

    run: Run
    config: LogConfig
    ledger: Ledger
    consumers: Consumers
    log: Log
    disk: FaultyDisk
    is_faulty: bool

    @property
    def waits_for_consumers(self) -> bool:
        """Whether retention takes nothing from them, whatever comes."""
        config = self.config
        return config.retention_waits_for_consumers and config.retention_hard_size is None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Any step of a thread, beside which the log start offset may move."""
        before = self.log.start_offset
        with self.consumers.watched() as seen:
            yield
            after = self.log.start_offset
            self.consumers.add_skips(seen)
        self.ledger.start = max(self.ledger.start, after)
        if self.waits_for_consumers and after > max(before, self.ledger.trimmed):
            self.consumers.check_start(seen, after)

    @contextmanager
    def reader(self) -> Iterator[Log]:
        """The log as another process has it."""
        reader = Log(self.disk, "r", self.config)
        try:
            yield reader
        finally:
            reader.close()

    @contextmanager
    def some_handle(self, random: Random) -> Iterator[Log]:
        """One of both.

        Not of a reader that was opened in the middle of a write: it sees that, as it would see it
        after a crash, and the write may fail and be undone.
        """
        if random.random() < 0.5:
            yield self.log
            return
        with self.reader() as reader:
            yield reader if reader.end_offset <= self.log.end_offset else self.log
