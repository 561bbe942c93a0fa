"""The table: targets reached or not in both modes, then every case that was measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks import pictures
from benchmarks.harness import Ratio, ratio
from benchmarks.results import Key, Results
from benchmarks.targets import Outcome, outcome, targets

MODES = ("kernel", "pure")
SUBJECT = "segstore"


def write(results: Results, full: Results | None, directory: str) -> None:
    """README.md and the pictures; `full` is a run with a log of full size, if there is one."""
    os.makedirs(directory, exist_ok=True)
    drawn = pictures.draw(results, full, directory)
    with open(os.path.join(directory, "README.md"), "w", encoding="utf-8") as file:
        for line in _page(results, drawn):
            file.write(line + "\n")


def _page(results: Results, drawn: list[tuple[str, str]]) -> Iterator[str]:
    run = results.run
    yield "# Benchmark results"
    yield ""
    yield "Written by `python -m benchmarks report` from [results.jsonl](results.jsonl); what each"
    yield "number means is in [benchmarks/README.md](../../benchmarks/README.md). A figure is a"
    yield "ratio of medians within one run; in brackets, the smallest and largest ratio within one"
    yield "round."
    yield ""
    yield f"Command: `{run.get('command', '?')}`, {run.get('time', '?')}."
    yield f"Log lines: {run.get('records', '?')}."
    yield ""
    yield from _machine(run)
    yield ""
    yield "## The figures to reach"
    yield ""
    for mode in MODES:
        kernels = {
            line["kernel"]
            for key, by in results.samples.items()
            if key.mode == mode
            for line in by.values()
        }
        if not kernels:
            continue
        title = "With the kernel" if mode == "kernel" else "Pure Python (SEGSTORE_PURE=1)"
        yield f"### {title}"
        yield ""
        if mode == "kernel" and kernels == {"python"}:
            yield "No kernel was built in this run: these figures are Python's, too."
            yield ""
        outcomes = [outcome(target, results, mode) for target in targets(results)]
        yield "| figure | measured as | asked | measured | |"
        yield "|---|---|---|---|---|"
        for one in outcomes:
            yield _target_row(one)
        yield ""
        asked = [one for one in outcomes if one.asked != float("inf")]
        reached = sum(one.reached is True for one in asked)
        absent = sum(one.reached is None for one in asked)
        yield f"{reached} of {len(asked)} reached, {absent} not available."
        yield ""
    yield "## Pictures"
    yield ""
    for name, title in drawn:
        yield f"![{title}]({name})"
        yield ""
    yield "## Everything measured"
    yield ""
    yield "Times are medians. The ratio is how many times as fast the first segstore line of the"
    yield "table is."
    yield ""
    for key, by in results.samples.items():
        if "distribution" not in dict(key.case):
            yield from _case(key, by)
    if results.missing:
        yield "## Not available"
        yield ""
        for line in _unique(_missing(line) for line in results.missing):
            yield line
        yield ""
    yield "## Settings"
    yield ""
    settings: dict[str, list[str]] = {}
    for by in results.samples.values():
        for name, line in by.items():
            note = line.get("settings", "")
            known = settings.setdefault(name, [])
            if note and note not in known:
                known.append(note)
    for name, notes in settings.items():
        for note in notes:
            yield f"- {name}: {note}"


def _machine(run: dict[str, Any]) -> Iterator[str]:
    facts = run.get("machine", {})
    yield "| machine | |"
    yield "|---|---|"
    for name, value in facts.items():
        if name != "versions":
            yield f"| {name.replace('_', ' ')} | {value} |"
    yield f"| checksum | {run.get('checksum', '?')} |"
    yield f"| load at the start | {run.get('load', ['?'])[0]} |"
    versions = ", ".join(f"{name} {it}" for name, it in facts.get("versions", {}).items())
    yield f"| versions | {versions} |"


def _target_row(one: Outcome) -> str:
    target = one.target
    if one.asked == float("inf"):
        asked = "no figure asked"
    else:
        asked = f"{'at least' if target.is_floor else 'at most'} {one.asked:g} {target.unit}"
    if one.measured is None:
        return f"| {target.name} | {target.how} | {asked} | not available: {one.note} | |"
    measured = f"{spread(one.measured)} {target.unit}"
    if len(target.controls) > 1:
        measured += f" ({one.against})"
    verdict = "" if one.asked == float("inf") else "reached" if one.reached else "**not reached**"
    return f"| {target.name} | {target.how} | {asked} | {measured} | {verdict} |"


def _case(key: Key, by: dict[str, dict[str, Any]]) -> Iterator[str]:
    case = ", ".join(f"{name}: {value}" for name, value in key.case)
    yield f"### {key.experiment} ({key.mode}){', ' + case if case else ''}"
    yield ""
    yield "| | median | segstore is as fast x |"
    yield "|---|---|---|"
    subject = next((name for name in by if name.startswith(SUBJECT)), None)
    for name, line in by.items():
        samples = line["samples"]
        shown = _amount(median(samples), line["unit"])
        compared = ""
        if subject is not None and name != subject and line["unit"].startswith("s"):
            compared = spread(ratio(samples, by[subject]["samples"]))
        yield f"| {name} | {shown} | {compared} |"
    yield ""


def spread(it: Ratio) -> str:
    """A ratio for people."""
    return f"{it.median:.3g} [{it.low:.3g} to {it.high:.3g}]"


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 2**20:.2f} MiB"
    if unit == "s/byte":
        return f"{1 / value / 1e6:.0f} MB/s"
    if unit != "s":
        return f"{value:.4g} {unit}"
    for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value * 1e9:.2g} ns"


def _missing(line: dict[str, Any]) -> str:
    who = line["contestant"]
    return f"- {line['experiment']} ({line.get('mode', '')}), {who}: {line['reason']}"


def _unique(lines: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(lines))
