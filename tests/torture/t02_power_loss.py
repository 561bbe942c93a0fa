"""T2: whatever a power cut leaves of unsynced sectors and names, every durable record is there,
what survives of the rest is a prefix, nothing that was never sent is returned, and every consumer
is where it committed to; also where a kill came before, and left things that nobody has synced.
"""

from __future__ import annotations

from random import Random
from typing import Any

from segstore.testing.memory import Event, MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import check_state
from tests.torture.workload import Workload, small_config, small_tail

POINTS = 1000
STATES_PER_POINT = 30
# Each of several blocks, which have checks of their own, and often torn between them.
LARGE_FRAMES = {"segment_size": 32768, "batch_size": 16384}
# Of the changes to the disk, one in so many is the last of its process.
KILL_INTERVAL = 120


class _KilledError(BaseException):
    """The process is gone; `disk` is what it left."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk


def run(run: Run) -> None:
    for level in ("written", "durable"):
        run_level(run, level, run.wanted(POINTS))
    run_level(run, "written", run.wanted(POINTS), **LARGE_FRAMES)


def run_level(run: Run, level: str, points_wanted: int, **options: Any) -> None:
    """As many points at a level of durability; `options` go into the configuration."""
    points = 0
    while points < points_wanted and not run.is_over:
        seed = run.random.getrandbits(32)
        points += run_workload(run, level, seed, points_wanted - points, **options)


def run_workload(
    run: Run, level: str, seed: int, points_wanted: int, steps: int = 60, **options: Any
) -> int:
    """One workload with power cuts at some of its events; how many points there were."""
    random = Random(seed)
    cuts, kills = Random(seed + 1), Random(seed + 2)
    config = small_config(random, durability=level, **options)
    points = 0
    workload: Workload | None = None

    def watch(disk: MemoryDisk, event: Event) -> None:
        nonlocal points
        if disk is not living:
            return
        if workload is not None and kills.randrange(KILL_INTERVAL) == 0:
            raise _KilledError(disk.after_kill())
        if workload is None or points >= points_wanted or run.is_over or cuts.random() > 0.2:
            return
        points += 1
        run.count("points")
        run.count(f"points {level}")
        unsynced = disk.unsynced()
        for number in range(STATES_PER_POINT):
            state_seed = cuts.getrandbits(32)
            state = unsynced.sample(Random(state_seed))
            if not run.state(state.contents().items()):
                continue
            try:
                check_state(
                    state,
                    workload.expected,
                    workload.expected.durable,
                    config,
                    Random(state_seed),
                    thorough=number % 3 == 0,
                )
            except BrokenError as error:
                raise BrokenError(
                    f"{error} (level {level}, workload seed {seed}, point {points}, state "
                    f"{number}, before {event.kind} of {event.name})"
                ) from error

    with small_tail(random.choice((8192, 12288, 65536))):
        living = MemoryDisk(watch=watch)
        workload = Workload(living, config, random)
        for _ in range(steps):
            try:
                workload.step()
                # A cut between two events: the stores into the tail since the last one.
                watch(living, Event("nothing", ""))
            except _KilledError as killed:
                dead: _KilledError | None = killed
                while dead is not None:
                    run.count("kills")
                    living = dead.disk
                    living.watch = watch
                    try:
                        workload.revive(living)
                        dead = None
                    except _KilledError as again:  # in the recovery
                        dead = again
            if points >= points_wanted or run.is_over:
                break
    return points
