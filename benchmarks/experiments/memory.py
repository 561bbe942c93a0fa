"""Peak memory of a writer and of a reader, above that of an interpreter, while data passes.

The peak is what the kernel says (VmHWM), mapped pages included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.experiments import Options, children, places
from benchmarks.harness import sample_line

EXPERIMENT = "memory"
ROUND_COUNT = 5

_PEAK = """
import json, sys
def peak():
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
"""
BASE = _PEAK + "print(peak())"
WRITER = (
    _PEAK
    + """
import segstore
total = int(sys.argv[2])
values = [bytes(65 + n % 26 for n in range(1024))] * 1000
peaks = []
with segstore.open(sys.argv[1], compression=None) as log:
    for step in range(10):
        for _ in range(max(1, total // 10 // 1024_000)):
            log.append_many(values)
        peaks.append(peak())
print(json.dumps(peaks))
"""
)
READER = (
    _PEAK
    + """
import segstore
peaks = []
with segstore.open(sys.argv[1], "r") as log:
    step = max(1, len(log) // 10)
    for number, record in enumerate(log.read(), 1):
        if number % step == 0:
            peaks.append(peak())
print(json.dumps(peaks))
"""
)


def run(options: Options) -> Iterator[dict[str, Any]]:
    places.check_room(options.scratch, options.memory_bytes)
    base = [int(children.run(BASE)) for _ in range(ROUND_COUNT)]
    yield sample_line(EXPERIMENT, {"who": "interpreter"}, "interpreter", base, "bytes")
    peaks: dict[str, list[list[int]]] = {"writer": [], "reader": []}
    for _ in range(ROUND_COUNT):
        with places.place(options.scratch) as path:
            peaks["writer"].append(children.run(WRITER, path, options.memory_bytes))
            peaks["reader"].append(children.run(READER, path))
    for who, rounds in peaks.items():
        for part, at in (("first tenth", 0), ("end", -1)):
            above = [peak[at] - its_base for peak, its_base in zip(rounds, base, strict=True)]
            case = {"who": who, "gigabytes": round(options.memory_bytes / 1e9, 1), "at": part}
            yield sample_line(EXPERIMENT, case, "segstore", above, "bytes")
