"""T6: a kill, a power cut or an error during recovery, sealing, compression or a sweep, or behind
the first appends after that, and another one during the recovery from that, leave the same promise
standing.
"""

from __future__ import annotations

from random import Random

from segstore.config import LogConfig
from segstore.errors import SegstoreError
from segstore.log.log import Log
from segstore.testing.memory import Event, MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Expected, Sent, check_state
from tests.torture.workload import Workload, small_config, small_tail

STATES = 5000
DEPTH = 2


def run(run: Run) -> None:
    run_states(run, run.wanted(STATES))


def run_states(run: Run, wanted: int) -> None:
    """Workloads until so many states were looked at."""
    while run.counts["states"] < wanted and not run.is_over:
        seed = run.random.getrandbits(32)
        try:
            with small_tail(8192):
                run_workload(run, seed, wanted)
        except Exception as error:
            raise BrokenError(f"{error!r} (workload seed {seed})") from error


def run_workload(run: Run, seed: int, wanted: int) -> None:
    random = Random(seed)
    config = small_config(random)
    disk = MemoryDisk()
    workload = Workload(disk, config, random)
    busy = [False]

    def watch(disk: MemoryDisk, event: Event) -> None:
        if busy[0] or random.random() > 0.03 or run.counts["states"] >= wanted or run.is_over:
            return
        busy[0] = True
        run.count("points")
        unsynced = disk.unsynced()
        for _ in range(3):
            after = unsynced.sample(random)
            descend(run, after, workload.expected, workload.expected.durable, config, random, 1)
        killed = disk.after_kill()
        descend(run, killed, workload.expected, workload.expected.written, config, random, 1)
        busy[0] = False

    disk.watch = watch
    for _ in range(60):
        workload.step()


def descend(
    run: Run,
    disk: MemoryDisk,
    expected: Expected,
    floor: int,
    config: LogConfig,
    random: Random,
    depth: int,
) -> None:
    """Open what a crash left, and crash again at some of the steps of the opening."""
    if not run.state(disk.contents().items()):
        return
    check_state(disk.after_kill(), expected, floor, config, random, thorough=depth > DEPTH)
    if depth > DEPTH:
        return
    crashes: list[tuple[MemoryDisk, Expected]] = []
    fails_at = random.choice((0, 0, random.randrange(1, 40)))
    count = 0

    def watch(disk: MemoryDisk, event: Event) -> None:
        nonlocal count
        count += 1
        if random.random() < 0.15:
            # What was acknowledged before the first crash and survived it is still not synced, so
            # a power cut may take it; what was durable stays.
            crashes.append((disk.unsynced().sample(random), expected))
        if random.random() < 0.05:
            crashes.append((disk.after_kill(), expected))
        if count == fails_at:
            raise OSError(28, "no space, on purpose")

    floors = min(floor, expected.durable)
    disk.watch = watch
    try:
        log = Log(disk, "a", config)
        if random.random() < 0.3:
            disk.watch = None
            more = expected.copy()
            more.settle(log.start_offset, log.end_offset)
            for number in range(random.choice((1, 1, 4, 40))):
                more.attempts.append(Sent(None, b"more %d" % number, number))
                log.append(more.attempts[-1].value, timestamp=number)
            samples = disk.unsynced()
            crashes = [(samples.sample(random), more) for _ in range(3)]
        else:
            log.maintain()
            log.close()
    except (OSError, SegstoreError):
        crashes.append((disk.after_kill(), expected))
    disk.watch = None
    for crash, known in random.sample(crashes, min(3, len(crashes))):
        descend(run, crash, known, min(floors, known.durable), config, random, depth + 1)
