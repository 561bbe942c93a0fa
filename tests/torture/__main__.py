"""``python -m tests.torture [T1 T2 ...] --budget 1 --seconds 600 --seed 7``: a JSON line each."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from random import SystemRandom

from tests.torture.campaign import Budget, Run, SkippedError
from tests.torture.registry import CAMPAIGNS, campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument(
        "campaigns", nargs="*", help=f"any of {' '.join(CAMPAIGNS)}; all by default"
    )
    parser.add_argument("--budget", type=float, default=0.05, help="1 is the number to beat")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most, per campaign")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--document", default=None, help="write what was done as Markdown")
    arguments = parser.parse_args()
    seed = arguments.seed
    if seed is None:
        seed = int(os.environ.get("SEGSTORE_SEED") or SystemRandom().getrandbits(32))
    failed = 0
    rows = []
    for name in arguments.campaigns or CAMPAIGNS:
        run = Run(name, seed, Budget(arguments.budget, arguments.seconds))
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
            failed += 1
        print(run.report(result), flush=True)
        rows.append(f"| {name} | {result} | {run.seconds:.0f} | {run.seed} | {_facts(run)} |")
    if arguments.document is not None:
        with open(arguments.document, "w", encoding="utf-8") as file:
            head = _HEAD.format(budget=arguments.budget, seconds=arguments.seconds)
            file.write(head + "\n".join(rows) + "\n")
    return 1 if failed else 0


_HEAD = """# What the fault campaigns did

Written by `make torture` with budget {budget}, where 1 is the number to beat, and at most
{seconds:g} seconds for each campaign, which then ends with the counts it has reached. Each campaign
says its invariant at the top of its module in `tests/torture/`.

| campaign | result | seconds | seed | counts |
|---|---|---|---|---|
"""


def _facts(run: Run) -> str:
    return ", ".join([f"{what} {number:,}" for what, number in run.counts.items()] + run.notes)


if __name__ == "__main__":
    sys.exit(main())
