"""T15: threads append, sync, roll, seal, compress, sweep, trim, truncate, read, consume, copy and
close one log, in an order that a seed decides step by step, and the power is cut or the process
killed between any two steps.
Whatever that leaves holds every record that was acknowledged as durable, or as written after a
kill, at its offset; nobody gets an offset twice, and every reader sees what was sent.
C1: a commit that returned counts, also after a crash.
C2: none is ahead of what was committed to, or of the log once it is cut back.
C3: a consumer is given every record in a row. What retention took is counted, and what comes at an
    offset that is given out again is given to it again.
C4: retention that waits for consumers takes nothing from them.
C5: a snapshot is the log as it was at one moment of the call.
C6: a name has one holder, and nobody is refused one that is free.

`run_log` with the log seed of a failure does the same steps again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

from segstore.errors import (
    ConsumerLockedError,
    LogClosedError,
    OffsetOutOfRangeError,
    SegstoreError,
)
from segstore.format.checkpoint import CHECKPOINT_BYTES, decode_slots
from segstore.format.names import START
from segstore.log.log import Log
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.consumers import Consumers
from tests.torture.consuming import Consuming
from tests.torture.copying import Copying, Shelf
from tests.torture.expected import Expected, Sent, check_all_committed, check_state
from tests.torture.hands import Hands
from tests.torture.ledger import Ledger
from tests.torture.scene import Scene, Step
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
_WAITS: dict[str, Any] = {"retention_waits_for_consumers": True}
_FAULTS = ("sync", "sync", "write", "short_write", "create", "rename", "unlink", "sync_directory")


def run(run: Run) -> None:
    run_lives(run, run.wanted(LIVES))


def run_lives(run: Run, lives: int, *, is_busy: bool = False) -> None:
    """Logs with as many lives together, or a few more; `is_busy` is as of `run_log`."""
    logger = logging.getLogger("segstore")
    was_disabled, logger.disabled = logger.disabled, True  # disks fail here on purpose
    try:
        while run.counts["lives"] < lives and not run.is_over:
            run_log(run, run.random.getrandbits(32), is_busy=is_busy)
    finally:
        logger.disabled = was_disabled


def run_log(run: Run, seed: int, *, is_busy: bool = False) -> None:
    """One log in several lives; the same seed does the same steps.

    `is_busy`: everybody is there in each life, no disk fails, and few cuts are looked at.
    """
    random = Random(seed)
    lives = 0
    try:
        with small_tail(random.choice((8192, 12288, 65536))):
            history = _History(run, random, is_busy=is_busy)
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

    def __init__(self, run: Run, random: Random, *, is_busy: bool) -> None:
        retention = random.choice(({}, {"retention_size": "12KiB"}, {"retention_records": 60}))
        self.run = run
        self.is_busy = is_busy
        self.is_trimmed = random.random() < 0.5
        self.random = random
        self.disk = MemoryDisk()
        self.ledger = Ledger()
        self.consumers = Consumers(self.ledger, self._start_offset)
        self.shelf = Shelf()
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
            **random.choice(({}, _WAITS, _WAITS, {**_WAITS, "retention_hard_size": "48KiB"})),
        )
        if retention:
            self.ledger.start_max = None
        self.number = 0

    def live(self) -> None:
        """One process, from the opening of the log to its end."""
        random = self.random
        life = _Life(self, Schedule(Random(random.getrandbits(32)), by_line=random.random() < 0.3))
        try:
            with self.shelf.in_place(life.before):
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
        committed = self.consumers.at_a_crash()
        expected = self.ledger.resolve(state, config, floor, committed)
        if not quick:
            random = Random(seed)
            thorough = random.random() < 0.5
            check_state(state, expected, floor, config, random, thorough=thorough)
        return expected

    def opened(self, log: Log) -> None:
        """It was opened again, and is what the last life left."""
        if self.killed is not None:
            self.ledger.settle(self.killed)
            self.killed = None
        self.ledger.start = log.start_offset
        self.consumers.settle(log.end_offset)
        check_all_committed(log.consumers(), self.consumers.committed)

    def _start_offset(self) -> int:
        """Of the log, as the file says; read here, as the engine would let others go on."""
        if START not in self.disk.names():
            return 0
        found = decode_slots(self.disk.open(START).read(CHECKPOINT_BYTES, 0))
        return 0 if found is None else found.value

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
        self._points_left = 1 if history.is_busy else POINTS_PER_LIFE
        self._share = random.choice((0.01, 0.03, 0.1))
        self._sync_steps = random.choice((1, 30, 300))  # devices are slow, and others go on
        self._end = random.choice(("close", "kill", "kill", "cut"))
        self._steps_left = random.randrange(STEPS_MAX) if self._end != "close" else None
        self.disk = FaultyDisk(history.disk, before=self.before)
        self.is_faulty = not history.is_busy and random.random() < 0.25
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
        history.opened(log)
        model = self.ledger, history.consumers
        scene = Scene(self.run, history.config, *model, log, self.disk, self.is_faulty)
        if self.is_faulty:
            self.disk.counts.clear()
            self.disk.faults = [self._fault]
        for number in range(random.choice((1, 1, 2))):
            crew = [
                self.schedule.thread(
                    self._worker(scene, f"{number}.{name}", steps), f"{number}.{name}"
                )
                for name, steps in self._crew(scene, random)
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

    def _crew(self, scene: Scene, random: Random) -> Iterator[tuple[str, list[Step]]]:
        """The names of the threads, and what each does, again and again."""
        history = self.history
        hands = Hands(scene, history.record, self._acknowledged)
        work = hands.keeping_house() + [hands.trim] * history.is_trimmed
        if history.is_busy:
            work += [hands.truncate, hands.truncate]
        elif not self.is_faulty and random.random() < 0.3:
            work.append(hands.truncate)
        for number in range(random.choice((2, 3, 4))):
            yield f"append {number}", hands.appending()
        for number in range(random.choice((1, 2))):
            yield f"work {number}", random.sample(work, 3)
        yield "look", hands.looking()
        for number in range(3 if history.is_busy else random.randrange(4)):
            yield f"consume {number}", Consuming(scene).steps()
        for number in range(2 if history.is_busy else random.choice((0, 0, 1))):
            yield f"copy {number}", [Copying(scene, history.shelf, self.schedule.paused).copy]

    def _worker(self, scene: Scene, name: str, steps: list[Step]) -> Callable[[], None]:
        random = Random(self._random.getrandbits(32))
        count = random.randrange(2, 16)

        def work() -> None:
            for _ in range(count):
                try:
                    with scene.step():
                        random.choice(steps)(name, random)
                except LogClosedError:
                    if not self._is_closing:
                        raise
                    return
                except OffsetOutOfRangeError:
                    self.run.count("overtaken")  # retention or a trim was faster
                except ConsumerLockedError:
                    self.run.count("names in use")
                except SegstoreError as error:
                    if getattr(error, "errno", None) == errno.EAGAIN:
                        self.run.count("told to try again")  # others were at it for too long
                    elif not self.is_faulty:
                        raise
                    else:
                        self.run.count("refused")

        return work

    def _close(self, log: Log) -> None:
        ledger = self.ledger
        wanted, truncations = ledger.written, len(ledger.truncation_ends)
        self._is_closing = True
        try:
            log.close()
        except SegstoreError:
            if not self.is_faulty:
                raise
        else:
            if truncations == len(ledger.truncation_ends):
                ledger.reached(wanted, durable=True)
        self._last_cut()

    # What ends them

    def before(self, kind: str, name: str) -> None:
        """Asked before everything that is done to the disk."""
        if self.left is not None:
            raise StoppedError
        self.schedule.sleep(self._cuts.randrange(self._sync_steps) if "sync" in kind else 0)
        if self._steps_left is not None and self.schedule.steps > self._steps_left:
            self._die()
        if kind in _CHANGES and self._cuts.random() < self._share:
            self._cut(f"{kind} of {name}")

    def _acknowledged(self) -> None:
        if self._cuts.random() < self._share:
            self._cut("anything after an acknowledgement")

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
        calm = ledger.calm()
        with suppress(LogClosedError):
            if self.log is not None:
                said = self.log.durable_offset  # another thread may begin to truncate meanwhile
                if ledger.is_calm(calm):
                    ledger.reached(said, durable=True)
        return ledger.durable
