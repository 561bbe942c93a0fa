"""T15: threads append, sync, roll, seal, compress, sweep, trim, read and close one log, in an order
that a seed decides step by step, and the power is cut or the process killed between any two steps.
Whatever that leaves holds every record that was acknowledged as durable, or as written after a
kill, at its offset; nobody gets an offset twice, and every reader sees what was sent.

`run_log` with the log seed of a failure does the same steps again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

from segstore.errors import LogClosedError, OffsetOutOfRangeError, SegstoreError
from segstore.log.log import Log
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Expected, Sent, check_state
from tests.torture.ledger import Batch, Ledger
from tests.torture.schedule import Schedule, StoppedError
from tests.torture.workload import small_config, small_tail

LIVES = 5000
LIVES_PER_LOG = 3
STATES_PER_POINT = 3
POINTS_PER_LIFE = 5
# The steps until the end of a life that is a kill or a power cut.
STEPS_MAX = 3000
_CHANGES = {"create", "write", "truncate", "allocate", "rename", "unlink"}
_CHANGES |= {"sync", "sync_directory"}
# Of a thread, with its name and its choices.
Step = Callable[[str, Random], object]
_FAULTS = ("sync", "sync", "write", "short_write", "create", "rename", "unlink", "sync_directory")


def run(run: Run) -> None:
    run_lives(run, run.wanted(LIVES))


def run_lives(run: Run, lives: int) -> None:
    """Logs with as many lives together, or a few more."""
    logger = logging.getLogger("segstore")
    was_disabled, logger.disabled = logger.disabled, True  # disks fail here on purpose
    try:
        while run.counts["lives"] < lives and not run.is_over:
            run_log(run, run.random.getrandbits(32))
    finally:
        logger.disabled = was_disabled


def run_log(run: Run, seed: int) -> None:
    """One log in several lives; the same seed does the same steps."""
    random = Random(seed)
    lives = 0
    try:
        with small_tail(random.choice((8192, 12288, 65536))):
            history = _History(run, random)
            while lives < LIVES_PER_LOG and not run.is_over:
                lives += 1
                history.live()
    except Exception as error:
        raise BrokenError(f"{error!r} (log seed {seed}, life {lives})") from error


class _History:
    """A log, the disk that it is on, and the model of it.

    Attributes:
        killed: what a kill left, which a power cut may undo in part until the log is open again.
    """

    def __init__(self, run: Run, random: Random) -> None:
        retention = random.choice(({}, {"retention_size": "24KiB"}, {"retention_records": 150}))
        self.run = run
        self.random = random
        self.disk = MemoryDisk()
        self.ledger = Ledger()
        self.killed: Expected | None = None
        self.config = small_config(
            random,
            background=random.random() < 0.5,
            segment_size=random.choice((4096, 4096, 8192)),
            batch_size=random.choice((512, 1024, 2048)),
            segment_age=random.choice((0.5, 3600)),
            compression=random.choice(("lz4", "lz4", None)),
            durability=random.choice(("written", "written", "durable")),
            **retention,
        )
        if retention:
            self.ledger.start_max = None
        self.number = 0

    def live(self) -> None:
        """One process, from the opening of the log to its end."""
        random = self.random
        life = _Life(self, Schedule(Random(random.getrandbits(32)), by_line=random.random() < 0.3))
        try:
            life.schedule.run(life.main)
        finally:
            if life.log is not None:
                life.log._is_let_go = True  # where it was killed, it is never to be closed
        self.run.count("lives")
        self.run.count("steps", life.schedule.steps)
        self.disk = self.disk if life.left is None else life.left

    def check(self, state: MemoryDisk, floor: int, seed: int, *, quick: bool = False) -> Expected:
        """All that has to hold of what a crash left, or what a reader can tell quickly."""
        config = self.config._replace(background=False)
        expected = self.ledger.resolve(state, config, floor)
        if not quick:
            random = Random(seed)
            thorough = random.random() < 0.5
            check_state(state, expected, floor, config, random, thorough=thorough)
        return expected

    def record(self, name: str, random: Random) -> Sent:
        """One that nobody else sends."""
        self.number += 1
        size = random.choice((0, 0, 20, 100, 100, 400, random.randrange(1500)))
        value = b"%d of %s " % (self.number, name.encode()) + random.randbytes(size)
        key = random.choice((None, None, b"", b"key %d" % random.randrange(9)))
        return Sent(key, value, random.randrange(10**18))


class _Life:
    """One process: the threads that use the log, and what ends them.

    Attributes:
        left: the disk after a kill or a power cut.
    """

    def __init__(self, history: _History, schedule: Schedule) -> None:
        random = history.random
        self.history = history
        self.run = history.run
        self.ledger = history.ledger
        self.schedule = schedule
        self.left: MemoryDisk | None = None
        self.log: Log | None = None
        self._is_closing = False
        self._cuts = Random(random.getrandbits(32))
        self._points_left = POINTS_PER_LIFE
        self._share = random.choice((0.01, 0.03, 0.1))
        self._sync_steps = random.choice((1, 30, 300))  # devices are slow, and others go on
        self._end = random.choice(("close", "kill", "kill", "cut"))
        self._steps_left = random.randrange(STEPS_MAX) if self._end != "close" else None
        self.disk = FaultyDisk(history.disk, before=self._before)
        self.is_faulty = random.random() < 0.25
        if self.is_faulty:
            kind, number = random.choice(_FAULTS), random.randrange(1, 60)
            error = errno.ENOSPC if kind in ("write", "create") else errno.EIO
            self._fault = Fault(kind, number, error, drops_data=True)
        self._random = random

    # The threads

    def main(self) -> None:
        history, random = self.history, self._random
        log = Log(self.disk, "a", history.config)
        self.log = log
        if history.killed is not None:
            self.ledger.settle(history.killed)
            history.killed = None
        self.ledger.start = log.start_offset
        if self.is_faulty:
            self.disk.counts.clear()
            self.disk.faults = [self._fault]
        for number in range(random.choice((1, 1, 2))):
            crew = [
                self.schedule.thread(self._worker(f"{number}.{name}", steps), f"{number}.{name}")
                for name, steps in self._crew(log, random)
            ]
            for thread in crew:
                thread.start()
            is_closed = random.random() < 0.2
            if is_closed:
                for _ in range(random.randrange(300)):
                    self.schedule.switch()
                self._close(log)
            for thread in crew:
                thread.join()
            if is_closed:
                return
        self._close(log)

    def _crew(self, log: Log, random: Random) -> Iterator[tuple[str, list[Step]]]:
        """The names of the threads, and what each does, again and again."""
        appends: list[Step] = [self.append, self.append, self.append_many, self.append_durable]
        calls = (log.roll, log.maintain, log.compress, log.sweep)
        work: list[Step] = [self.sync, self.trim, *(lambda *_, call=call: call() for call in calls)]
        work += [self.truncate] if not self.is_faulty and random.random() < 0.3 else []
        looks: list[Step] = [self.read, self.points, self.read_elsewhere, self.verify]
        for number in range(random.choice((2, 3, 4))):
            yield f"append {number}", appends
        for number in range(random.choice((1, 2))):
            yield f"work {number}", random.sample(work, 3)
        yield "look", looks

    def _worker(self, name: str, steps: list[Step]) -> Callable[[], None]:
        random = Random(self._random.getrandbits(32))
        count = random.randrange(2, 16)

        def work() -> None:
            for _ in range(count):
                try:
                    random.choice(steps)(name, random)
                    self.ledger.start = max(self.ledger.start, self._log.start_offset)
                except LogClosedError:
                    if not self._is_closing:
                        raise
                    return
                except OffsetOutOfRangeError:
                    self.run.count("overtaken")  # retention or a trim was faster
                except SegstoreError:
                    if not self.is_faulty:
                        raise
                    self.run.count("refused")

        return work

    @property
    def _log(self) -> Log:
        assert self.log is not None
        return self.log

    def append(self, name: str, random: Random, durability: Any = None) -> None:
        sent = self.history.record(name, random)
        batch = self.ledger.send([sent])
        offset = self._log.append(
            sent.value, key=sent.key, timestamp=sent.timestamp, durability=durability
        )
        self._acknowledge(batch, range(offset, offset + 1), durability)

    def append_durable(self, name: str, random: Random) -> None:
        self.append(name, random, "durable")

    def append_many(self, name: str, random: Random) -> None:
        sent = [self.history.record(name, random) for _ in range(random.choice((1, 3, 3, 12, 40)))]
        durability: Any = random.choice((None, None, "durable"))
        has_keys = random.random() < 0.5
        if not has_keys:
            sent = [record._replace(key=None) for record in sent]
        batch = self.ledger.send(sent)
        offsets = self._log.append_many(
            [record.value for record in sent],
            keys=[record.key for record in sent] if has_keys else None,
            timestamps=[record.timestamp or 0 for record in sent],
            durability=durability,
        )
        self._acknowledge(batch, offsets, durability)

    def _acknowledge(self, batch: Batch, offsets: range, durability: Any) -> None:
        if len(offsets) != len(batch.records):
            raise BrokenError(f"{len(batch.records)} records got offsets {offsets}")
        level = durability or self.history.config.durability
        self.ledger.acknowledge(batch, offsets.start, durable=level == "durable")
        self.run.count("records", len(offsets))
        if self._cuts.random() < self._share:
            self._cut("anything after an acknowledgement")

    def sync(self, name: str, random: Random) -> None:
        ledger = self.ledger
        wanted, truncations = ledger.written, ledger.truncation_count
        reached = self._log.sync()
        if truncations == ledger.truncation_count:
            if reached < wanted:
                raise BrokenError(f"sync reached {reached}, and {wanted} records were there")
            ledger.reached(wanted, durable=True)

    def trim(self, name: str, random: Random) -> None:
        ledger, log = self.ledger, self._log
        start = log.start_offset
        before = min(random.randint(start, log.end_offset), start + 20)
        if ledger.start_max is not None:
            ledger.start_max = max(ledger.start_max, before)
        log.trim(before)

    def read(self, name: str, random: Random) -> None:
        self._read(self._log, random)

    def read_elsewhere(self, name: str, random: Random) -> None:
        """As another process does."""
        reader = Log(self.disk, "r", self.history.config)
        try:
            self._read(reader, random)
        finally:
            reader.close()

    def _read(self, log: Log, random: Random) -> None:
        ledger = self.ledger
        truncations, is_truncated = ledger.truncation_count, ledger.truncation is not None
        start, end = log.start_offset, log.end_offset
        start = random.choice((start, max(start, end - 30)))
        count = ledger.check(log.read(start, end), start)
        is_truncated = is_truncated or truncations != ledger.truncation_count
        # Whoever opens a log in the middle of a write sees it, and it may fail and be undone.
        is_undone = self.is_faulty and log is not self._log
        if count != end - start and not is_truncated and not is_undone:
            raise BrokenError(f"I1: {count} records from {start} to {end}")
        self.run.count("records read", count)

    def points(self, name: str, random: Random) -> None:
        log = self._log
        for _ in range(5):
            start, end = log.start_offset, self.ledger.written
            if start < end:
                self.ledger.check([log[random.randrange(start, end)]])

    def verify(self, name: str, random: Random) -> None:
        report = self._log.verify()
        if not report.is_intact:
            raise BrokenError(f"I1: damage where there is none: {report}")

    def truncate(self, name: str, random: Random) -> None:
        start = self._log.start_offset
        end = max(start, self.ledger.written - random.choice((0, 3, 30)))
        if self.ledger.truncation is None:  # one at a time
            with self.ledger.truncating(end):
                self._log.truncate(end - 1)

    def _close(self, log: Log) -> None:
        ledger = self.ledger
        wanted, truncations = ledger.written, ledger.truncation_count
        self._is_closing = True
        try:
            log.close()
        except SegstoreError:
            if not self.is_faulty:
                raise
        else:
            if truncations == ledger.truncation_count:
                ledger.reached(wanted, durable=True)
        self._last_cut()

    # What ends them

    def _before(self, kind: str, name: str) -> None:
        """Asked before everything that is done to the disk."""
        if self.left is not None:
            raise StoppedError
        self.schedule.sleep(self._cuts.randrange(self._sync_steps) if "sync" in kind else 0)
        if self._steps_left is not None and self.schedule.steps > self._steps_left:
            self._die()
        if kind in _CHANGES and self._cuts.random() < self._share:
            self._cut(f"{kind} of {name}")

    def _cut(self, place: str) -> None:
        """Look at what a power cut would leave here."""
        self._points_left -= 1
        if self._points_left < 0 or self.run.is_over:
            return
        self.run.count("points")
        floor = self._durable()
        unsynced = self.history.disk.unsynced()
        for _ in range(STATES_PER_POINT):
            seed = self._cuts.getrandbits(32)
            state = unsynced.sample(Random(seed))
            if self.run.state(state.contents().items()):
                self._check(state, floor, seed, f"cut before {place}", quick=seed % 4 > 0)

    def _last_cut(self) -> None:
        """What no sync will cover any more shows in the end."""
        self._points_left = 1
        self._cut("the end")

    def _die(self) -> None:
        """Kill the process, or cut the power, and go on from what that leaves."""
        self._last_cut()
        seed = self._cuts.getrandbits(32)
        disk = self.history.disk
        if self._end == "kill":
            floor = self.ledger.written
            self.left, copy = disk.after_kill(), disk.after_kill()
        else:
            floor = self._durable()
            self.left, copy = (disk.unsynced().sample(Random(seed)) for _ in range(2))
        self.run.count("kills" if self._end == "kill" else "power cuts")
        expected = self._check(copy, floor, seed, f"after a {self._end}")
        if self._end == "kill":
            self.history.killed = expected
        else:
            self.ledger.settle(expected)
            self.history.killed = None
        self.schedule.stop()

    def _check(
        self, state: MemoryDisk, floor: int, seed: int, place: str, *, quick: bool = False
    ) -> Expected:
        try:
            with self.schedule.paused():
                return self.history.check(state, floor, seed, quick=quick)
        except Exception as error:
            self.schedule.fail(BrokenError(f"{error} ({place})"))
            raise

    def _durable(self) -> int:
        """What a power cut may not take: also what the log itself says of that."""
        ledger = self.ledger
        truncations = ledger.truncation_count
        with suppress(LogClosedError):
            if self.log is not None:
                said = self.log.durable_offset  # another thread may begin to truncate meanwhile
                if ledger.truncation is None and truncations == ledger.truncation_count:
                    ledger.reached(said, durable=True)
        return ledger.durable
