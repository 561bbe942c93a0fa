"""The figures to reach, as data: what is compared with what, and how much is asked.

A target compares one contestant with a control of the same case, as a ratio of speeds ("at least
7 x as fast") or of times ("at most 1.15 x the time"), or is a plain value. Where several controls
are named, the fastest one counts: a target that says "the fastest peer" means it.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, Literal, NamedTuple

from benchmarks.harness import Ratio, ratio
from benchmarks.results import Results


class Target(NamedTuple):
    """One figure.

    Attributes:
        name: what it is, in words.
        how: how it is measured, in words.
        experiment, case: where its samples are.
        subject: whose figure it is.
        controls: against whom; none for a plain value.
        figure: "speed", "time" or "value".
        kernel, pure: what is asked with the kernel and without.
        unit: of the value or the ratio.
        scale: the unit's worth in the unit of the samples.
        control_case: the case of the controls where it is another one.
        minus_control: a value that counts from the control's on, round by round.
    """

    name: str
    how: str
    experiment: str
    case: dict[str, Any]
    subject: str
    controls: tuple[str, ...]
    figure: Literal["speed", "time", "value"]
    kernel: float
    pure: float
    unit: str = "x"
    scale: float = 1.0
    control_case: dict[str, Any] | None = None
    minus_control: bool = False

    @property
    def is_floor(self) -> bool:
        """Whether the figure has to be at least what is asked; otherwise at most."""
        return self.figure == "speed"


class Outcome(NamedTuple):
    """A target as measured in one mode.

    Attributes:
        measured: the figure with its spread, or None.
        asked: what was to be reached.
        against: the control that counted.
        note: why there is no figure.
    """

    target: Target
    mode: str
    measured: Ratio | None
    asked: float
    against: str = ""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """None where it was not measured."""
        if self.measured is None:
            return None
        if self.target.is_floor:
            return self.measured.median >= self.asked
        return self.measured.median <= self.asked


def _append(level: str, batch: int) -> dict[str, Any]:
    return {"records": "100 B", "level": level, "batch": batch, "threads": 1}


_READ = {"records": "100 B"}
_LINES = {"records": "lines"}
_WRITTEN_PEERS = ("lmdb", "rocksdict", "sqlite", "plyvel")
_KILLED = {"after": "kill", "active": "synced but for the last second"}


def _percentile(percentile: float) -> dict[str, Any]:
    return {"records": "lines", "level": "written", "percentile": percentile}


def targets(results: Results) -> tuple[Target, ...]:
    """All of them; sizes that were options of the run are taken from there."""
    sizes = results.run.get("options", {})
    grown = round(sizes.get("growth_bytes", 0) / 1e9, 2)
    passed = round(sizes.get("memory_bytes", 0) / 1e9, 1)

    def memory(who: str, at: str) -> dict[str, Any]:
        return {"who": who, "gigabytes": passed, "at": at}

    def growth(what: str) -> dict[str, Any]:
        return {"what": what, "gigabytes": grown, "final": True}

    batch, single, durable = _append("written", 1000), _append("written", 1), _append("durable", 1)
    threads = {"records": "100 B", "level": "durable", "batch": 1}
    many = "append_many, 1,000 x 100 B, written"
    one = "append, one 100 B record, written"
    sync = "append, one 100 B record, durable"
    mib = 2.0**20
    fmt = "at {} GB against at 20 MB".format
    return (
        Target(many, "against LMDB's batch, putmulti or put, whichever is faster", "append", batch,
               "segstore", ("lmdb", "lmdb-put"), "speed", 7, 4),
        Target(many, "against LMDB's batch, one put for each record", "append", batch,
               "segstore", ("lmdb-put",), "speed", 7, 4),
        Target(many, "against bare os.write of the same frames into a fresh file", "append", batch,
               "segstore", ("os.write",), "speed", 0.6, 0.3),
        Target(one, "against the fastest database that survives a kill as well", "append", single,
               "segstore", _WRITTEN_PEERS, "speed", 8, 2.2),
        Target(one, "against LMDB without sync, one transaction each", "append", single,
               "segstore", ("lmdb",), "speed", 8, 2.2),
        # Pure Python is asked only for the ratio to the peers here.
        Target(one, "time, against a buffered file.write", "append", single,
               "segstore", ("buffered file.write",), "time", 1.25, float("inf")),
        Target(sync, "time, one thread, against write + fdatasync", "append", durable,
               "segstore", ("os.write + fdatasync",), "time", 1.15, 1.15),
        Target(sync, "rate of 16 threads against one thread's", "threads", threads,
               "segstore, 16 threads", ("segstore, 1 threads",), "speed", 6, 6),
        Target(sync, "16 threads, against SQLite with synchronous=FULL", "threads", threads,
               "segstore, 16 threads", ("sqlite, 16 threads", "sqlite, 1 threads"), "speed", 5, 5),
        Target("values, sequential, raw", "against LMDB's cursor, values alone", "read", _READ,
               "segstore values", ("lmdb values",), "speed", 3.5, 1.5),
        Target("values, sequential, compressed", "against LMDB's cursor, values alone", "read",
               _READ, "segstore compressed values", ("lmdb values",), "speed", 2, 0.8),
        Target("read, sequential, as records", "against LMDB's cursor, keys and values", "read",
               _READ, "segstore records", ("lmdb records",), "speed", 1.4, 0.7),
        Target("batches, sequential, raw", "against os.pread in chunks", "read", _READ,
               "segstore batches", ("os.pread",), "speed", 0.5, 0.5),
        Target("log[offset], random, raw", "against rocksdict, 1 GiB in the page cache", "point",
               {**_LINES, "compressed": False}, "segstore", ("rocksdict",), "speed", 1.5, 1),
        Target("log[offset], random, compressed", "against rocksdict with lz4", "point",
               {**_LINES, "compressed": True}, "segstore", ("rocksdict",), "speed", 0.7, 0.5),
        Target("compressing a sealed segment", "against the LZ4 library alone", "compress",
               _LINES, "segstore", ("lz4 alone",), "speed", 0.6, 0.6),
        Target("compression ratio", "of lz4 -1 on the whole file", "compress",
               {**_LINES, "what": "ratio"}, "lz4 -1 of the whole file", ("segstore",), "time",
               1.02, 1.02),
        Target("opening after a kill, 1 GiB active, synced but for the last second",
               "beyond interpreter start, import included", "opening", _KILLED, "segstore",
               ("interpreter start",), "value", 50, 50, "ms", 1e-3, None, True),
        Target("opening after a kill, 1 GiB active, synced but for the last second",
               "time, against the same with 10 MiB", "opening", _KILLED, "segstore",
               ("segstore, 10 MiB",), "time", 1.1, 1.1),
        Target("follow, between two processes, idle log", "median latency", "follow",
               {"what": "latency"}, "segstore", (), "value", 500, 500, "us", 1e-6),
        Target("follow, between two processes, idle log", "share of a core while idle", "follow",
               {"what": "idle"}, "segstore", (), "value", 1, 1, "%", 1e-2),
        Target("cost of an append", fmt(grown), "growth", growth("append"), "big log",
               ("small log",), "time", 1.05, 1.05),
        Target("cost of an append_many", fmt(grown), "growth", growth("append_many"), "big log",
               ("small log",), "time", 1.05, 1.05),
        Target("cost of a random log[offset]", fmt(grown), "growth", growth("log[offset]"),
               "big log", ("small log",), "time", float("inf"), float("inf")),
        Target("append latency, p99.9", "compressing and sweeping, against without", "latency",
               _percentile(99.9), "segstore, compressing and sweeping", ("segstore",), "time",
               3, 3),
        Target("import segstore", "time, against import sqlite3", "importing", {}, "segstore",
               ("sqlite3",), "time", 2, 2),
        Target("import segstore", "and name segstore.open, against import sqlite3", "importing",
               {}, "segstore, and name open", ("sqlite3",), "time", 2, 2),
        Target("peak memory of a writer", f"above the interpreter, {passed} GB", "memory",
               memory("writer", "end"), "segstore", (), "value", 64, 64, "MiB", mib),
        Target("peak memory of a reader", f"above the interpreter, {passed} GB", "memory",
               memory("reader", "end"), "segstore", (), "value", 64, 64, "MiB", mib),
        Target("peak memory of a writer", "the end against the first tenth: flat", "memory",
               memory("writer", "end"), "segstore", ("segstore",), "time", 1.1, 1.1,
               control_case=memory("writer", "first tenth")),
        Target("peak memory of a reader", "the end against the first tenth: flat", "memory",
               memory("reader", "end"), "segstore", ("segstore",), "time", 1.1, 1.1,
               control_case=memory("reader", "first tenth")),
    )  # fmt: skip


def outcome(target: Target, results: Results, mode: str) -> Outcome:
    """What was measured for a target in a mode."""
    asked = target.kernel if mode == "kernel" else target.pure
    found = results.find(mode, target.experiment, target.case)
    if target.subject not in found:
        return Outcome(target, mode, None, asked, note=_why(target, results, mode))
    samples = found[target.subject]["samples"]
    others = found
    if target.control_case is not None:
        others = results.find(mode, target.experiment, target.control_case)
    controls = {name: others[name]["samples"] for name in target.controls if name in others}
    if target.figure == "value":
        if target.minus_control:
            (control,) = controls.values()
            samples = [one - base for one, base in zip(samples, control, strict=True)]
        scaled = [sample / target.scale for sample in samples]
        return Outcome(target, mode, Ratio(median(scaled), min(scaled), max(scaled)), asked)
    if not controls:
        return Outcome(target, mode, None, asked, note="no control was measured")
    fastest: Callable[[str], float] = lambda name: median(controls[name])  # noqa: E731
    against = min(controls, key=fastest)
    of_times = ratio(samples, controls[against])
    measured = of_times.inverse() if target.figure == "speed" else of_times
    return Outcome(target, mode, measured, asked, against)


def _why(target: Target, results: Results, mode: str) -> str:
    for line in results.missing:
        if line["experiment"] == target.experiment and line.get("mode", mode) == mode:
            return str(line["reason"])
    return "not measured"
