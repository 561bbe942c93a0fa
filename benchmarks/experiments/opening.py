"""Opening: after a clean close and after a kill, with many segments and with a big active one.

A child opens the log in a fresh interpreter and prints the time when it had it; the control prints
the time at once. Between two rounds another child works on the log and closes it, or kills itself
with SIGKILL in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.experiments import Options, children, places
from benchmarks.harness import Contestant, lines

EXPERIMENT = "opening"
SEGMENT_RECORDS = 400
SMALL_BYTES = 10 << 20

# With what the children import for their own sake.
START = "import json, os, sys, time; print(time.monotonic())"
# path, mode, options
OPEN = """
import json, os, sys, time
import segstore
log = segstore.open(sys.argv[1], **json.loads(sys.argv[2]))
print(time.monotonic(), flush=True)
if sys.argv[3] == "close":
    log.close()
    os._exit(0)
# Work on for a second's worth of appends, then die.
import signal
value = bytes(100)
for _ in range(2_000):
    log.append(value)
os.kill(os.getpid(), signal.SIGKILL)
"""
OPEN_OTHER = {
    "sqlite": """
import os, sys, time
import sqlite3
db = sqlite3.connect(os.path.join(sys.argv[1], "log.db"), isolation_level=None)
db.execute("SELECT max(offset) FROM log").fetchall()
print(time.monotonic(), flush=True)
os._exit(0)
""",
}
# path, options, total bytes, "synced" or not; then SIGKILL
FILL = """
import json, os, signal, sys
import segstore
log = segstore.open(sys.argv[1], **json.loads(sys.argv[2]))
values = [os.urandom(50).hex().encode() for _ in range(1000)]
for _ in range(int(sys.argv[3]) // 100_000):
    log.append_many(values)
if sys.argv[4] == "synced":
    log.maintain()
    log.sync()
for _ in range(2_000):
    log.append(values[0])
print(log.end_offset, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
# path, options, segments
FILL_SEGMENTS = """
import json, os, sys
import segstore
# Only the making: thousands of seals would take minutes in syncs, and no power fails here.
os.fsync = os.fdatasync = lambda number: None
log = segstore.open(sys.argv[1], **json.loads(sys.argv[2]))
values = [os.urandom(50).hex().encode() for _ in range(RECORDS)]
for _ in range(int(sys.argv[3])):
    log.append_many(values)
    log.roll()
log.append_many(values)
log.close()
print(len(values))
""".replace("RECORDS", str(SEGMENT_RECORDS))


def run(options: Options) -> Iterator[dict[str, Any]]:
    import json

    places.check_room(options.scratch, 2 * options.opening_bytes)
    start = Contestant("interpreter start", lambda _: children.run_timed(START), count=1)

    def opened(path: str, how: str, settings: dict[str, Any]) -> Callable[[int], float]:
        return lambda _: children.run_timed(OPEN, path, json.dumps(settings), how)

    # No target asks for a number of segments.
    for segments in () if options.targets_only else options.segment_counts:
        with places.place(options.scratch) as path:
            settings = {"compression": None}
            children.run(FILL_SEGMENTS, path, json.dumps(settings), segments)
            for how in ("close", "kill"):
                case = {"after": how, "segments": segments}
                if how == "kill":
                    children.run_timed(OPEN, path, json.dumps(settings), "kill")
                yield from lines(
                    EXPERIMENT,
                    case,
                    [start, Contestant("segstore", opened(path, how, settings), count=1)],
                    rounds=max(options.rounds, 7),
                )
    # A segment size over the log's size keeps everything in the active segment.
    settings = {"compression": None, "segment_size": 2 << 30}
    with ExitStack() as stack:
        contestants = [start]
        for name, size in (("small", SMALL_BYTES), ("segstore", options.opening_bytes)):
            path = stack.enter_context(places.place(options.scratch))
            children.run(FILL, path, json.dumps(settings), size, "synced")
            contestants.append(
                Contestant(
                    name if name == "segstore" else "segstore, 10 MiB",
                    opened(path, "kill", settings),
                    "segment_size=2 GiB, synced, then 2,000 appends, then SIGKILL",
                    count=1,
                )
            )
        case = {"after": "kill", "active": "synced but for the last second"}
        yield from lines(EXPERIMENT, case, contestants, rounds=max(options.rounds, 7))
    if not options.targets_only:
        yield from _unsynced(options, start)


def _unsynced(options: Options, start: Contestant) -> Iterator[dict[str, Any]]:
    """Every round fills a fresh log that is never synced, kills the writer, and opens it."""
    import json

    settings = {"compression": None, "segment_size": 2 << 30, "sync_interval": "1h"}

    def fill_and_open(_: int) -> float:
        with places.place(options.scratch) as path:
            children.run(FILL, path, json.dumps(settings), options.opening_bytes, "unsynced")
            return children.run_timed(OPEN, path, json.dumps(settings), "close")

    case = {"after": "kill", "active": "nothing synced"}
    who = Contestant("segstore", fill_and_open, "segment_size=2 GiB, sync_interval=1h", count=1)
    yield from lines(EXPERIMENT, case, [start, who], rounds=options.rounds)
