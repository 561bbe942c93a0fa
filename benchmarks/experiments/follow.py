"""From an append in one process to the record in another, and what waiting costs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import segstore
from benchmarks.experiments import Options, children, places
from benchmarks.harness import missing_line, sample_line

EXPERIMENT = "follow"
RECORD_COUNT = 100
PAUSE_S = 0.01
IDLE_S = 3.0

# path, count: prints "ready", then the latencies in ns, median and p99
READER = """
import sys, time
import segstore
clock = time.monotonic_ns
log = segstore.open(sys.argv[1], "r")
count = int(sys.argv[2])
print("ready", flush=True)
taken = []
for record in log.follow("end" if log.end_offset else 0, timeout=20):
    taken.append(clock() - int(record.value))
    if len(taken) == count:
        break
import json
print(json.dumps(taken), flush=True)
"""
PIPE_READER = """
import json, os, sys, time
clock = time.monotonic_ns
count = int(sys.argv[2])
print("ready", flush=True)
taken = []
while len(taken) < count:
    at = int(os.read(0, 64))
    taken.append(clock() - at)
print(json.dumps(taken), flush=True)
"""
IDLE = """
import json, sys, time
import segstore
log = segstore.open(sys.argv[1], "r")
for record in log.follow("end", timeout=0.2):
    pass
started, busy = time.monotonic(), time.process_time()
for record in log.follow("end", timeout=float(sys.argv[2])):
    pass
print(json.dumps((time.process_time() - busy) / (time.monotonic() - started)))
"""


def run(options: Options) -> Iterator[dict[str, Any]]:
    case = {"what": "latency"}
    if not hasattr(segstore.Log, "follow"):
        for what in ("latency", "idle"):
            why = "this segstore has no Log.follow"
            yield missing_line(EXPERIMENT, {"what": what}, "segstore", why)
        return
    samples: dict[str, list[float]] = {"segstore": [], "pipe": []}
    worst: dict[str, list[float]] = {"segstore": [], "pipe": []}
    for round_number in range(options.rounds + 1):
        for name, measure in (("segstore", _through_log), ("pipe", _through_pipe)):
            taken = sorted(measure(options.scratch))
            if round_number:
                samples[name].append(median(taken) / 1e9)
                worst[name].append(taken[int(len(taken) * 0.99)] / 1e9)
    notes = {
        "segstore": f"log.follow() in a second process, an append each {PAUSE_S * 1000:.0f} ms",
        "pipe": "os.write and os.read on a pipe between two processes",
    }
    for name in samples:
        yield sample_line(EXPERIMENT, case, name, samples[name], settings=notes[name])
        case_p99 = {"what": "latency p99"}
        yield sample_line(EXPERIMENT, case_p99, name, worst[name], settings=notes[name])
    with places.place(options.scratch) as path, segstore.open(path) as log:
        log.append(b"0")
        shares = [float(children.run(IDLE, path, IDLE_S)) for _ in range(options.rounds)]
    yield sample_line(
        EXPERIMENT, {"what": "idle"}, "segstore", shares, "core", "process time over wall time"
    )


def _through_log(scratch: str) -> list[int]:
    with places.place(scratch) as path, segstore.open(path) as log:
        log.append(b"0")
        with children.start(READER, path, RECORD_COUNT) as child:
            return _feed(child, lambda at: log.append(b"%d" % at))


def _through_pipe(scratch: str) -> list[int]:
    receiver, sender = os.pipe()
    with children.start(PIPE_READER, scratch, RECORD_COUNT, stdin=receiver) as child:
        os.close(receiver)
        try:
            return _feed(child, lambda at: os.write(sender, b"%d" % at))
        finally:
            os.close(sender)


def _feed(child: Any, send: Callable[[int], object]) -> list[int]:
    assert child.stdout.readline() == b"ready\n"
    time.sleep(0.2)  # the reader is in its wait by now
    for _ in range(RECORD_COUNT):
        time.sleep(PAUSE_S)
        send(time.monotonic_ns())
    try:
        taken: list[int] = json.loads(child.stdout.readline())
    finally:
        child.kill()
    return taken
