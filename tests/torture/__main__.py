"""``python -m tests.torture [T1 T2 ...] --budget 1 --seconds 600 --seed 7``: a JSON line each.

Several campaigns are run in processes of their own, `--jobs` at a time, the long ones first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from random import SystemRandom
from typing import Any

from tests.torture.campaign import Budget, Run, SkippedError
from tests.torture.registry import CAMPAIGNS, campaign

LONG = ("T11", "T7", "T1", "T15", "T5", "T4", "T16", "T17")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument(
        "campaigns", nargs="*", help=f"any of {' '.join(CAMPAIGNS)}; all by default"
    )
    parser.add_argument("--budget", type=float, default=0.05, help="1 is the number to beat")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most, per campaign")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=2, help="how many campaigns at a time")
    parser.add_argument("--document", default=None, help="write what was done as Markdown")
    arguments = parser.parse_args()
    seed = arguments.seed
    if seed is None:
        seed = int(os.environ.get("SEGSTORE_SEED") or SystemRandom().getrandbits(32))
    names = arguments.campaigns or list(CAMPAIGNS)
    if len(names) == 1 and arguments.document is None:
        return run_here(names[0], seed, Budget(arguments.budget, arguments.seconds))

    def run_there(name: str) -> dict[str, Any]:
        options = [f"--budget={arguments.budget}", f"--seconds={arguments.seconds}"]
        command = [sys.executable, "-m", "tests.torture", name, f"--seed={seed}", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:  # it did not live to say what became of it
            notes = [f"ended with {done.returncode}"]
            return {"campaign": name, "result": "failed", "seed": seed, "notes": notes}
        print(done.stdout, end="", flush=True)
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report

    with ThreadPoolExecutor(arguments.jobs) as pool:
        order = sorted(names, key=lambda name: LONG.index(name) if name in LONG else len(LONG))
        reports = {report["campaign"]: report for report in pool.map(run_there, order)}
    if arguments.document is not None:
        rows = [_row(reports[name]) for name in names]
        with open(arguments.document, "w", encoding="utf-8") as file:
            head = _HEAD.format(budget=arguments.budget, seconds=arguments.seconds)
            file.write(head + "\n".join(rows) + "\n")
    return 1 if any(report["result"] == "failed" for report in reports.values()) else 0


def run_here(name: str, seed: int, budget: Budget) -> int:
    run = Run(name, seed, budget)
    try:
        campaign(name)(run)
        result = "passed"
    except SkippedError as reason:
        result = "skipped"
        run.notes.append(str(reason))
    except Exception as error:
        traceback.print_exc()
        result = "failed"
        run.notes.append(f"{type(error).__name__}: {error}")
    print(run.report(result), flush=True)
    return 1 if result == "failed" else 0


_HEAD = """# What the fault campaigns did

Written by `make torture` with budget {budget}, where 1 is the number to beat, and at most
{seconds:g} seconds for each campaign, which then ends with the counts it has reached. Each campaign
says its invariant at the top of its module in `tests/torture/`.

| campaign | result | seconds | seed | counts |
|---|---|---|---|---|
"""


def _row(report: dict[str, Any]) -> str:
    head = [str(report.get(what, "")) for what in ("campaign", "result", "seconds", "seed")]
    counts = [
        f"{what} {number:,}"
        for what, number in report.items()
        if what not in ("campaign", "result", "seconds", "seed", "scale", "notes")
    ]
    facts = ", ".join(counts + report.get("notes", []))
    return f"| {' | '.join(head)} | {facts} |"


if __name__ == "__main__":
    sys.exit(main())
