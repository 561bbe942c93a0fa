"""A seeded workload on one log: every kind of append, sync, roll, maintain, close and reopen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from segstore.config import LogConfig
from segstore.disk import Disk
from segstore.errors import SegstoreError
from segstore.log.log import Log
from segstore.segment import tail as tail_module
from tests.torture.campaign import BrokenError
from tests.torture.expected import Expected, Sent, check_consumers, check_records


def small_config(random: Random | None = None, **options: Any) -> LogConfig:
    """Segments, batches and intervals so small that everything happens often."""
    pick = (lambda items: items[0]) if random is None else random.choice
    segment_size = pick([8192, 4096, 16384])
    return LogConfig.of(
        {
            "background": False,
            "segment_size": segment_size,
            # The largest makes frames of several blocks, each with a check of its own.
            "batch_size": min(pick([1024, 512, 4096, 16384]), segment_size),
            "index_interval": pick([512, 64, 2048]),
            **options,
        },
        environment={},
    )


def any_config(random: Random) -> LogConfig:
    """A small one with any of the options that decide which files there are."""
    return small_config(
        random,
        compression=random.choice(("lz4", None)),
        durability=random.choice(("written", "durable")),
        **random.choice(({}, {}, {"retention_records": 60}, {"retention_size": "8KiB"})),
    )


@contextmanager
def small_tail(size_bytes: int = 12288) -> Iterator[None]:
    """A tail so small that it is drained and used again often."""
    before = tail_module.TAIL_BYTES
    tail_module.TAIL_BYTES = size_bytes
    try:
        yield
    finally:
        tail_module.TAIL_BYTES = before


class Workload:
    """Does random steps on a log and keeps the model up."""

    def __init__(
        self, disk: Disk, config: LogConfig, random: Random, *, housekeeping: bool = True
    ) -> None:
        self.housekeeping = housekeeping
        self.disk = disk
        self.config = config
        self.random = random
        self.expected = Expected()
        self.number = 0
        self.was_truncated = False
        self.log = Log(disk, "a", config)

    def step(self) -> str:
        """One step; its name.

        Raises:
            SegstoreError: the disk failed; the model is kept right.
        """
        names = ["append"] * 10 + ["append_many"] * 3 + ["append_durable"] * 2
        names += ["sync", "sync", "roll", "maintain", "maintain", "reopen"]
        names += ["compress", "trim", "truncate", "sweep"] if self.housekeeping else []
        names += ["consume", "consume", "forget"] if self.housekeeping else []
        name = self.random.choice(names)
        getattr(self, name)()
        return name

    def append(self, durability: str | None = None) -> None:
        for _ in range(1 if durability else self.random.choice((1, 1, 5, 12))):
            sent = self.record()
            batch = [sent]
            self.attempt(batch)
            try:
                self.log.append(
                    sent.value,
                    key=sent.key,
                    timestamp=sent.timestamp,
                    durability=durability,  # type: ignore[arg-type]
                )
            except SegstoreError:
                self.after_failure(batch)
                raise
            is_durable = (durability or self.config.durability) == "durable"
            self.expected.acknowledge(batch, durable=is_durable)

    def append_durable(self) -> None:
        self.append("durable")

    def append_many(self) -> None:
        count = self.random.choice((1, 2, 10, 60))
        has_keys, has_times = self.random.random() < 0.3, self.random.random() < 0.3
        batch = [self.record() for _ in range(count)]
        batch = [
            Sent(
                sent.key if has_keys else None,
                sent.value,
                self.random.randrange(10**18) if has_times else None,
            )
            for sent in batch
        ]
        durability = self.random.choice((None, None, "durable"))
        self.attempt(batch)
        try:
            self.log.append_many(
                [sent.value for sent in batch],
                keys=[sent.key for sent in batch] if has_keys else None,
                timestamps=[sent.timestamp or 0 for sent in batch] if has_times else None,
                durability=durability,  # type: ignore[arg-type]
            )
        except SegstoreError:
            self.after_failure(batch)
            raise
        is_durable = (durability or self.config.durability) == "durable"
        self.expected.acknowledge(batch, durable=is_durable)

    def sync(self) -> None:
        target = len(self.expected.records)
        self.log.sync()
        self.expected.durable = max(self.expected.durable, target)

    def roll(self) -> None:
        self.log.roll()

    def maintain(self) -> None:
        with self._start_moves():
            self.log.maintain()

    def compress(self) -> None:
        self.log.compress()

    def sweep(self) -> None:
        with self._start_moves():
            self.log.sweep()

    def trim(self) -> None:
        if self.random.random() < 0.5:
            return
        expected = self.expected
        before = self.random.randint(expected.start, len(expected.records))
        if self.random.random() < 0.7:  # mostly a little
            before = min(before, expected.start + 10)
        self.trim_to(before)

    def trim_to(self, before: int) -> None:
        expected = self.expected
        expected.start_max = max(expected.start_max, before)
        with self._start_moves():
            self.log.trim(before)
        # It syncs up to there, and the start is durable.
        expected.durable = max(expected.durable, before)

    def truncate(self) -> None:
        if self.random.random() < 0.5:
            return
        expected = self.expected
        end = self.random.randint(self.log.start_offset, len(expected.records))
        if self.random.random() < 0.7:
            end = max(end, len(expected.records) - 8)
        expected.truncation = end
        self.was_truncated = True
        for name, offsets in expected.committed.items():
            expected.commits(name, *(min(offset, end) for offset in offsets if offset is not None))
        self.log.truncate(end - 1)
        expected.truncate(end)
        expected.durable = max(expected.durable, end)

    def consume(self) -> None:
        name, expected = self.random.choice(("one", "two")), self.expected
        expected.commits(name, self.log.start_offset)
        with self.log.consumer(name) as consumer:
            position = max(consumer.committed, self.log.start_offset)
            records = consumer.poll(self.random.choice((1, 20, 1000)))
            if records and records[0].offset != position:
                raise BrokenError(f"C3: consumer {name} gets {records[0].offset}, not {position}")
            expected.commits(name, consumer.position)
            consumer.commit()
            expected.committed_is(name, consumer.committed)

    def forget(self) -> None:
        if self.random.random() < 0.7:
            return
        name, expected = self.random.choice(("one", "two")), self.expected
        expected.committed[name] = expected.committed.get(name, frozenset()) | {None}
        self.log.remove_consumer(name)
        expected.committed_is(name, None)

    @contextmanager
    def _start_moves(self) -> Iterator[None]:
        if any((self.config.retention_size, self.config.retention_records)):
            self.expected.start_max = len(self.expected.records)
        try:
            yield
        finally:  # a sweep that fails may have moved the start before
            if not self.log._is_closed:
                self.expected.start = max(self.expected.start, self.log.start_offset)

    def reopen(self) -> None:
        target = len(self.expected.records)
        self.log.close()
        self.expected.durable = max(self.expected.durable, target)
        self.log = Log(self.disk, "a", self.config)

    def revive(self, disk: Disk) -> None:
        """Go on with what a killed process left, which recovery must find whole."""
        self.disk = disk
        expected = self.expected
        self.log = Log(disk, "a", self.config)
        end = check_records(self.log, expected, expected.written, random=self.random)
        check_consumers(self.log, expected, end=end)
        expected.settle(self.log.start_offset, end)

    def attempt(self, batch: list[Sent]) -> None:
        """These are about to be sent, unless the log takes nothing any more.

        Then what may follow is what an append that was broken off had sent before.
        """
        writer = self.log._writer
        if writer is None or writer.failure is None:
            self.expected.attempts = batch

    def after_failure(self, batch: list[Sent]) -> None:
        """What a refused append left in the log all the same keeps its offsets."""
        if self.expected.attempts is not batch:
            return
        there = self.log.end_offset - len(self.expected.records)
        self.expected.records += batch[:there]
        self.expected.attempts = batch[there:]

    def record(self) -> Sent:
        self.number += 1
        random = self.random
        mark = b"record %d of %d " % (self.number, random.getrandbits(32))
        size = random.choice((0, 0, 7, 40, 100, 100, 700, random.randrange(3000)))
        filler = random.choice(
            (bytes(size), mark * (size // len(mark) + 1), random.randbytes(size))
        )
        value = mark + filler[:size]
        if random.random() < 0.03 and not self.was_truncated:
            value = self._frames()[:4000]  # a log stored as a value
        elif random.random() < 0.02:
            value = b""
        key = random.choice((None, None, None, b"", b"key %d" % random.randrange(50)))
        timestamp = random.choice((None, None, None, random.randrange(10**18), -5, 2**62))
        return Sent(key, value, timestamp)

    def _frames(self) -> bytes:
        disk = getattr(self.disk, "inner", self.disk)  # this look is not part of the workload
        names = sorted(name for name in disk.names() if name.endswith(".log"))
        if not names:
            return b""
        file = disk.open(self.random.choice(names))
        data = file.read(4000, 64)
        file.close()
        return data
