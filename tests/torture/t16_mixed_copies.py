"""T16: a copy that has each file, or each part of a file, as of another moment, as `cp -r` makes it
of a live log, opens; every record in it was one of its offset at some moment, what is missing is
reported, what was durable when the copying began keeps its offset, and once somebody has opened it
for writing nothing of it changes any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import NamedTuple
from unittest.mock import patch

from segstore.config import LogConfig
from segstore.format.names import TAIL
from segstore.log.log import Log
from segstore.segment.tail import Register
from segstore.testing.memory import PAGE_BYTES, SECTOR_BYTES, MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Sent
from tests.torture.remains import History, Remains, check_opens, check_stays, run_trials
from tests.torture.workload import Workload

COPIES = 10_000
COPIES_PER_LOG = 40
STEPS = 60


class Moment(NamedTuple):
    """A log at a moment.

    Attributes:
        files: by name, which file it is and what it holds.
        start, start_max: the log start offset is one of them, or between.
        durable: what is below was durable, and stays.
    """

    files: dict[str, tuple[object, bytes]]
    start: int
    start_max: int
    durable: int


class Recorded(Workload):
    """A workload that takes down its log at every change, or at a share of them."""

    def __init__(self, config: LogConfig, random: Random, share: float) -> None:
        self.moments: list[Moment] = []
        self.history: History = {}
        self._share = share
        self._trim_share = random.choice((0, 0.2))
        self._chances = Random(random.getrandbits(32))
        self._contents: dict[object, bytes] = {}
        super().__init__(MemoryDisk(watch=lambda *_: self.take()), config, random)

    def take(self) -> None:
        """The log as it is now, or not, as chance has it."""
        if self._chances.random() > self._share:
            return
        assert isinstance(self.disk, MemoryDisk)
        expected = self.expected
        files = {name: (node, self._content(node)) for name, node in self.disk._names.items()}
        if self.moments and self.moments[-1].files == files:
            self.moments.pop()  # but it may have been promised since
        durable = expected.durable
        if expected.truncation is not None:
            durable = min(durable, expected.truncation)
        self.moments.append(Moment(files, expected.start, expected.start_max, durable))

    def step(self) -> str:
        """Also trims into what the tail holds, of which copies have one side or the other."""
        if self.random.random() > self._trim_share:
            return super().step()
        end = len(self.expected.records)
        self.trim_to(self.random.randint(max(self.expected.start, end - 12), end))
        return "trim"

    def attempt(self, batch: list[Sent]) -> None:
        super().attempt(batch)
        for offset, sent in enumerate(batch, len(self.expected.records)):
            self.history.setdefault(offset, []).append(sent)
        self.take()

    def _content(self, node: object) -> bytes:
        """The same object as long as it is the same, as there are many moments."""
        data = node.data  # type: ignore[attr-defined]
        if self._contents.get(node) != data:
            self._contents[node] = bytes(data)
        return self._contents[node]


@contextmanager
def watched_registers(look: Callable[[], None]) -> Iterator[None]:
    """Stores into the mapped tail come without an event of the disk."""
    real = {"advance": Register.advance, "set": Register.set}

    def watched(name: str) -> Callable[[Register, int], None]:
        def store(self: Register, value: int) -> None:
            look()
            real[name](self, value)
            look()

        return store

    with patch.multiple(Register, **{name: watched(name) for name in real}):
        yield


class Copy(NamedTuple):
    """A copy, and the moments from its first file to its last."""

    files: dict[str, bytes]
    moments: Sequence[Moment]


def compose(moments: Sequence[Moment], random: Random) -> Copy:
    """What somebody gets who lists the log at one moment and copies file by file from then on."""
    first = random.randrange(len(moments))
    moments = moments[first : first + 1 + random.choice((1, 3, 10, 50, 200))]
    names = sorted(moments[0].files)
    if random.random() < 0.5:
        random.shuffle(names)
    times = sorted(random.randrange(len(moments)) for _ in range(2 * len(names)))
    files = {}
    for name, at, later in zip(names, times[::2], times[1::2], strict=True):
        if name in moments[at].files:
            node, data = moments[at].files[name]
            if random.random() < 0.3:
                border = random.choice((PAGE_BYTES, SECTOR_BYTES))
                cut = random.randrange(len(data) // border + 1) * border
                after = moments[later].files.get(name, (None, b""))
                if after[0] is node:  # what has lost its name is read as it was
                    data = data[:cut] + after[1][cut:]
            files[name] = data
    return Copy(files, moments[: max(times, default=0) + 1])


def check(copy: Copy, history: History, config: LogConfig, random: Random) -> None:
    moments = copy.moments
    durable = min(moment.durable for moment in moments) if TAIL in copy.files else 0
    start, start_max = moments[0].start, max(moment.start_max for moment in moments)

    def check_ends(_: Log, remains: Remains) -> None:
        offsets = remains.offsets
        if not start <= offsets.start <= start_max:
            raise BrokenError(f"start {offsets.start}, not {start} to {start_max}")
        if offsets.stop < durable:
            raise BrokenError(f"I4: end {offsets.stop}, and {durable} records were durable")

    disk = MemoryDisk.of(copy.files)
    log, remains = check_opens(disk, history, config, check_ends)
    check_stays(disk, log, remains, history, config, random, durable)


def run(run: Run) -> None:
    run_copies(run, run.wanted(COPIES))


def run_copies(run: Run, wanted: int) -> None:
    """Workloads until so many copies were looked at."""

    def prepare(config: LogConfig, random: Random) -> Recorded:
        recorded = record(config, random)
        run.count("moments", len(recorded.moments))
        return recorded

    def look_at_one(recorded: Recorded, config: LogConfig, random: Random) -> None:
        copy = compose(recorded.moments, random)
        run.state(copy.files.items())
        check(copy, recorded.history, config, random)

    run_trials(run, "copies", wanted, COPIES_PER_LOG, prepare, look_at_one)


def record(config: LogConfig, random: Random) -> Recorded:
    """One workload, from the making of its log on."""
    recorded = Recorded(config, random, share=random.choice((1.0, 0.3, 0.1)))
    with watched_registers(recorded.take):
        for _ in range(STEPS):
            recorded.step()
    return recorded
