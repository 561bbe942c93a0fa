"""Pictures of the results: ratios as bars, latencies as distributions, cost against size."""

from __future__ import annotations

import os
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
# The same results give the same file, byte for byte.
matplotlib.rcParams["svg.hashsalt"] = "segstore"
matplotlib.rcParams["font.size"] = 9
matplotlib.rcParams["figure.constrained_layout.use"] = True

import matplotlib.pyplot as plt  # noqa: E402

from benchmarks.harness import ratio  # noqa: E402
from benchmarks.results import Results  # noqa: E402
from benchmarks.targets import outcome, targets  # noqa: E402

BETTER, WORSE = "#3b7d4f", "#b5533c"
MODE = "kernel"


def draw(results: Results, full: Results | None, directory: str) -> list[tuple[str, str]]:
    """Every picture that there are results for: (file name, title) of each.

    `full` is a run with a log of full size.
    """
    drawn = []
    for name, title, draw_one, of in (
        ("targets", "Figures to reach, measured over asked", _targets, results),
        ("append", "One at a time: how many times as fast segstore is", _append_single, results),
        ("append_many", "Batches of 1,000: how many times as fast segstore is", _append_batch,
         results),
        ("read", "Sequential reading: how many times as fast segstore is", _read, results),
        ("point", "Random reads: how many times as fast segstore is", _point, results),
        ("threads", "Rate of appends by threads", _threads, results),
        ("brokers", "Brokers: how many times as fast segstore is", _brokers, results),
        ("latency", "Latency of single appends", _latency, results),
        ("growth", "Cost against the size of the log", _growth, results),
        ("growth-full", "Cost against the size of the log, in a run at full size", _growth, full),
    ):  # fmt: skip
        figure = None if of is None else draw_one(of)
        if figure is None:
            continue
        figure.suptitle(title)
        figure.savefig(os.path.join(directory, name + ".svg"), metadata={"Date": None})
        plt.close(figure)
        drawn.append((name + ".svg", title))
    return drawn


def _targets(results: Results) -> Any:
    modes = [
        mode for mode in ("kernel", "pure") if any(key.mode == mode for key in results.samples)
    ]
    rows: list[tuple[str, float, bool]] = []
    for target in targets(results):
        for mode in modes:
            one = outcome(target, results, mode)
            if one.measured is None or one.asked == float("inf"):
                continue
            share = one.measured.median / one.asked
            share = share if target.is_floor else 1 / max(share, 1e-3)
            rows.append((f"{target.name}, {target.how} ({mode})", share, one.reached is True))
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(11, 0.24 * len(rows) + 1.2))
    rows.reverse()
    axes.barh(
        range(len(rows)),
        [share for _, share, _ in rows],
        color=[BETTER if reached else WORSE for *_, reached in rows],
    )
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=7)
    axes.set_xscale("log")
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("right of the line: reached")
    return figure


def _bars(results: Results, experiment: str, wanted: dict[str, Any], subject: str) -> Any:
    """One panel for each case, one bar for each contestant: its time over segstore's."""
    panels = []
    for key, by in results.of(MODE, experiment):
        case = dict(key.case)
        if subject in by and all(case.get(name) == value for name, value in wanted.items()):
            rest = {name: value for name, value in case.items() if name not in wanted}
            panels.append((", ".join(f"{value}" for value in rest.values()), by))
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(len(by) for _, by in panels)
    figure, grid = plt.subplots(
        rows, columns, figsize=(10, rows * (0.24 * tallest + 1.0) + 0.5), squeeze=False
    )
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, (title, by) in zip(grid.flat, panels, strict=False):
        axes.set_visible(True)
        own = by[subject]["samples"]
        names = [name for name in reversed(by) if name != subject]
        found = [ratio(by[name]["samples"], own) for name in names]
        middle = [one.median for one in found]
        low = [max(0.0, one.median - one.low) for one in found]
        high = [max(0.0, one.high - one.median) for one in found]
        colors = [BETTER if one.median >= 1 else WORSE for one in found]
        axes.barh(names, middle, xerr=[low, high], color=colors, error_kw={"elinewidth": 0.7})
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(title, fontsize=9)
    return figure


def _append_single(results: Results) -> Any:
    return _bars(results, "append", {"batch": 1, "threads": 1}, "segstore")


def _append_batch(results: Results) -> Any:
    return _bars(results, "append", {"batch": 1000, "threads": 1}, "segstore")


def _read(results: Results) -> Any:
    return _bars(results, "read", {}, "segstore values")


def _point(results: Results) -> Any:
    return _bars(results, "point", {"records": "lines"}, "segstore")


def _brokers(results: Results) -> Any:
    return _bars(results, "brokers", {}, "segstore")


def _threads(results: Results) -> Any:
    cases = list(results.of(MODE, "threads"))
    if not cases:
        return None
    figure, grid = plt.subplots(1, len(cases), figsize=(10, 3.6), squeeze=False)
    for axes, (key, by) in zip(grid.flat, cases, strict=True):
        rates: dict[str, dict[int, float]] = {}
        for name, line in by.items():
            who, _, count = name.removesuffix(" threads").partition(", ")
            rates.setdefault(who, {})[int(count)] = 1 / median(line["samples"])
        for who, points in rates.items():
            width = 2.4 if who == "segstore" else 1
            axes.plot(list(points), list(points.values()), marker="o", label=who, linewidth=width)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("threads")
        axes.set_ylabel("records a second")
        axes.set_title(dict(key.case)["level"], fontsize=9)
        axes.legend(fontsize=7)
    return figure


def _latency(results: Results) -> Any:
    for key, by in results.of(MODE, "latency"):
        if "distribution" not in dict(key.case):
            continue
        figure, axes = plt.subplots(figsize=(9, 4.5))
        for name, line in by.items():
            rare = [1 - share for share in line["shares"]]
            width = 2.4 if name.startswith("segstore") else 1
            axes.plot(rare, [1e6 * s for s in line["samples"]], label=name, linewidth=width)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.invert_xaxis()
        axes.set_xticks(
            [1, 0.1, 0.01, 1e-3, 1e-4, 1e-5], ["0", "90", "99", "99.9", "99.99", "99.999"]
        )
        axes.set_xlabel("percentile")
        axes.set_ylabel("us")
        axes.legend(fontsize=7)
        return figure
    return None


def _growth(results: Results) -> Any:
    """A line for each operation, and a thin one for the same on a fresh log of 20 MB."""
    points: dict[str, list[tuple[float, list[float], list[float]]]] = {}
    for key, by in results.of(MODE, "growth"):
        case = dict(key.case)
        times = [[1e6 * s for s in by[name]["samples"]] for name in ("big log", "small log")]
        points.setdefault(case["what"], []).append((case["gigabytes"], *times))
    if not points:
        return None
    figure, axes = plt.subplots(figsize=(8, 4))
    for what, rows in points.items():
        sizes, big, small = zip(*sorted(rows), strict=True)
        middle = [median(times) for times in big]
        spread = [
            [at - min(times) for at, times in zip(middle, big, strict=True)],
            [max(times) - at for at, times in zip(middle, big, strict=True)],
        ]
        line, *_ = axes.errorbar(sizes, middle, yerr=spread, marker="o", capsize=3, label=what)
        axes.plot(sizes, [median(times) for times in small], ":", color=line.get_color(),
                  label=f"{what}, 20 MB")  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("GB in the log")
    axes.set_ylabel("us an operation")
    axes.legend(fontsize=7, ncols=len(points))
    return figure
