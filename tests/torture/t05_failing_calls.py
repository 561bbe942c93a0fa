"""T5: whichever call of the disk fails, once or for ever, the error is a documented one, what was
acknowledged is read back then and after a reopening, and a failed sync ends all acknowledging.
"""

from __future__ import annotations

import errno
import gc
from contextlib import suppress
from random import Random

from segstore.errors import LogClosedError, SegstoreError, StorageError, SyncFailedError
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import check_records, check_state
from tests.torture.workload import Workload, small_config, small_tail

KINDS = (
    "open", "create", "read", "write", "short_write", "truncate", "allocate", "sync", "map",
    "lock", "rename", "unlink", "sync_directory", "names", "size_of", "size",
)  # fmt: skip
ERRORS = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.EACCES)
STEPS = 45


def run(run: Run) -> None:
    """Every k until a run is clean; a smaller budget strides over them."""
    seed = run.random.getrandbits(32)
    stride = max(1, round(1 / run.budget.scale / 2))
    for kind in KINDS:
        for number, error in enumerate(ERRORS):
            for is_lasting in (False, True):
                drops = (False, True) if number == 0 and kind == "sync" else (False,)
                for drops_data in drops:
                    at = 1 + run.random.randrange(stride)
                    while not run.is_over:
                        fault = Fault(kind, at, error, is_lasting, drops_data)
                        if not run_one(run, seed, fault):
                            break
                        at += stride


def run_one(run: Run, seed: int, fault: Fault, steps: int = STEPS) -> bool:
    """The same workload with one fault; False if it never came."""
    run.count("points")
    try:
        with small_tail(8192):
            found = _run_one(run, seed, fault, steps)
    except Exception as error:
        raise BrokenError(f"{error!r} (workload seed {seed}, {fault})") from error
    gc.collect()
    return found


def _run_one(run: Run, seed: int, fault: Fault, steps: int) -> bool:
    random = Random(seed)
    config = small_config(random, durability="written")
    memory = MemoryDisk()
    disk = FaultyDisk(memory, [fault])
    workload: Workload | None = None
    with suppress(OSError):  # a log that could not be opened
        workload = Workload(disk, config, random)
    if workload is None:
        if not disk.failures:
            raise BrokenError("opening failed without a fault")
        disk.faults = []
        workload = Workload(disk, config, random)
    expected = workload.expected
    is_poisoned = False
    for _ in range(steps):
        before = expected.written
        try:
            name = workload.step()
        except SyncFailedError:
            is_poisoned = True
        except (StorageError, LogClosedError):
            pass
        except OSError as error:
            if not workload.log._is_closed:  # opening by a disk raises what the disk raises
                raise BrokenError(f"I7: a bare {error!r}") from error
        else:
            if name == "reopen":
                is_poisoned = False
            elif is_poisoned and expected.written > before:
                raise BrokenError(f"I9: {name} was acknowledged after a failed sync")
        if workload.log._is_closed or expected.truncation is not None:
            break  # a truncation that was committed to is for the next opening
    if not disk.failures:
        disk.faults = []
        workload.log.close()
        return False
    disk.faults = []
    log = workload.log
    if not log._is_closed and expected.truncation is None:
        check_records(log, expected, expected.written, random=Random(seed))
        _goes_on(workload)
    killed, unsynced = memory.after_kill(), memory.unsynced()
    run.state(killed.contents().items())
    check_state(killed, expected, expected.written, config, Random(seed))
    for number in range(3):
        state = unsynced.sample(Random(number))
        if run.state(state.contents().items()):
            check_state(state, expected, expected.durable, config, Random(seed), thorough=False)
    with suppress(SegstoreError):
        log.close()
    return True


def _goes_on(workload: Workload) -> None:
    """Once the cause is gone appends work again, unless the handle says that it has to go."""
    log = workload.log
    if log._appending()._failure is not None:
        return
    try:
        workload.append()
        workload.sync()
    except SegstoreError as error:
        raise BrokenError(f"the cause is gone, and appending still fails: {error!r}") from error
    check_records(log, workload.expected, workload.expected.written, random=None)
