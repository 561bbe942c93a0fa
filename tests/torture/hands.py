"""What threads do to a log but consume it: append, keep house, read."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from segstore.log.log import Log
from tests.torture.campaign import BrokenError
from tests.torture.expected import Sent
from tests.torture.ledger import Batch
from tests.torture.scene import Scene, Step


class Hands:
    """The steps; `record` makes one that nobody else sends, `acknowledged` is called after each."""

    def __init__(
        self,
        scene: Scene,
        record: Callable[[str, Random], Sent],
        acknowledged: Callable[[], object],
    ) -> None:
        self._scene = scene
        self._record = record
        self._acknowledged = acknowledged

    def appending(self) -> list[Step]:
        return [self.append, self.append, self.append_many, self.append_durable]

    def keeping_house(self) -> list[Step]:
        log = self._scene.log
        calls = (log.roll, log.maintain, log.compress)
        return [self.sync, self.sweep, *(lambda *_, call=call: call() for call in calls)]

    def looking(self) -> list[Step]:
        return [self.read, self.points, self.read_elsewhere, self.verify]

    def append(self, name: str, random: Random, durability: Any = None) -> None:
        sent = self._record(name, random)
        batch = self._scene.ledger.send([sent])
        offset = self._scene.log.append(
            sent.value, key=sent.key, timestamp=sent.timestamp, durability=durability
        )
        self._acknowledge(batch, range(offset, offset + 1), durability)

    def append_durable(self, name: str, random: Random) -> None:
        self.append(name, random, "durable")

    def append_many(self, name: str, random: Random) -> None:
        sent = [self._record(name, random) for _ in range(random.choice((1, 3, 3, 12, 40)))]
        durability: Any = random.choice((None, None, "durable"))
        has_keys = random.random() < 0.5
        if not has_keys:
            sent = [record._replace(key=None) for record in sent]
        batch = self._scene.ledger.send(sent)
        offsets = self._scene.log.append_many(
            [record.value for record in sent],
            keys=[record.key for record in sent] if has_keys else None,
            timestamps=[record.timestamp or 0 for record in sent],
            durability=durability,
        )
        self._acknowledge(batch, offsets, durability)

    def _acknowledge(self, batch: Batch, offsets: range, durability: Any) -> None:
        if len(offsets) != len(batch.records):
            raise BrokenError(f"{len(batch.records)} records got offsets {offsets}")
        level = durability or self._scene.config.durability
        self._scene.ledger.acknowledge(batch, offsets.start, durable=level == "durable")
        self._scene.run.count("records", len(offsets))
        self._acknowledged()

    def sync(self, name: str, random: Random) -> None:
        ledger = self._scene.ledger
        wanted, truncations = ledger.written, len(ledger.truncation_ends)
        reached = self._scene.log.sync()
        if truncations == len(ledger.truncation_ends):
            if reached < wanted:
                raise BrokenError(f"sync reached {reached}, and {wanted} records were there")
            ledger.reached(wanted, durable=True)

    def trim(self, name: str, random: Random) -> None:
        ledger, log = self._scene.ledger, self._scene.log
        start = log.start_offset
        before = min(random.randint(start, log.end_offset), start + 20)
        ledger.trimmed = max(ledger.trimmed, before)
        if ledger.start_max is not None:
            ledger.start_max = max(ledger.start_max, before)
        log.trim(before)

    def read(self, name: str, random: Random) -> None:
        self._read(self._scene.log, random)

    def read_elsewhere(self, name: str, random: Random) -> None:
        """As another process does."""
        with self._scene.reader() as reader:
            self._read(reader, random)

    def _read(self, log: Log, random: Random) -> None:
        ledger = self._scene.ledger
        calm = ledger.calm()
        start, end = log.start_offset, log.end_offset
        start = random.choice((start, max(start, end - 30)))
        count = ledger.check(log.read(start, end), start)
        # Whoever opens a log in the middle of a write sees it, and it may fail and be undone.
        is_undone = self._scene.is_faulty and log is not self._scene.log
        if count != end - start and ledger.is_calm(calm) and not is_undone:
            raise BrokenError(f"I1: {count} records from {start} to {end}")
        self._scene.run.count("records read", count)

    def points(self, name: str, random: Random) -> None:
        log = self._scene.log
        for _ in range(5):
            start, end = log.start_offset, self._scene.ledger.written
            if start < end:
                self._scene.ledger.check([log[random.randrange(start, end)]])

    def verify(self, name: str, random: Random) -> None:
        report = self._scene.log.verify()
        if not report.is_intact:
            raise BrokenError(f"I1: damage where there is none: {report}")

    def sweep(self, name: str, random: Random) -> None:
        report = self._scene.log.sweep()
        if report.lost_by_consumer and self._scene.waits_for_consumers:
            raise BrokenError(f"C4: retention took from consumers it waits for: {report}")

    def truncate(self, name: str, random: Random) -> None:
        log, ledger, consumers = self._scene.log, self._scene.ledger, self._scene.consumers
        start = log.start_offset
        end = max(start, ledger.written - random.choice((0, 3, 30)))
        if ledger.truncation is None:  # one at a time
            with ledger.truncating(end), consumers.truncating(end):
                log.truncate(end - 1)
            self._scene.run.count("truncations")
