"""Commands: `run` measures, `report` draws what was measured.

python -m benchmarks run [--full] [--only NAME ...] [--out FILE] [--scratch DIRECTORY]
python -m benchmarks report [--results FILE] [--full-results FILE] [--out DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from benchmarks import experiments, machine, records, results
from benchmarks.experiments import Options
from benchmarks.experiments.places import DiskTooSmallError

OUT = os.path.join("docs", "benchmarks")
RESULTS = os.path.join(OUT, "results.jsonl")
FULL_RESULTS = os.path.join(OUT, "results-20gb.jsonl")
EXPERIMENT_TIMEOUT_S = {False: 600, True: 7200}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure everything, with the kernel and without")
    run.add_argument("--full", action="store_true", help="20 GB and 10 GB instead of 2 and 1")
    run.add_argument("--only", nargs="+", choices=experiments.NAMES, default=experiments.NAMES)
    run.add_argument("--mode", nargs="+", choices=("kernel", "pure"), default=("kernel", "pure"))
    run.add_argument("--out", default=RESULTS)
    run.add_argument("--scratch", default=None, help="a directory on the file system to measure")
    run.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="see Options")
    one = commands.add_parser("experiment", help="one experiment in this process, to stdout")
    one.add_argument("name", choices=experiments.NAMES)
    one.add_argument("options", type=json.loads)
    report = commands.add_parser("report", help="the table and the pictures")
    report.add_argument("--results", default=RESULTS)
    report.add_argument("--full-results", default=FULL_RESULTS, help="of a log of 20 GB")
    report.add_argument("--out", default=OUT)
    given = parser.parse_args(arguments)
    if given.command == "run":
        return _run(given)
    if given.command == "experiment":
        options = Options(
            **{**given.options, "segment_counts": tuple(given.options["segment_counts"])}
        )
        for line in _lines_of(given.name, options):
            results.write_line(sys.stdout, line)
        return 0
    from benchmarks import report as reporting

    full = results.read(given.full_results) if os.path.exists(given.full_results) else None
    reporting.write(results.read(given.results), full, given.out)
    return 0


def _run(given: argparse.Namespace) -> int:
    started = time.monotonic()
    failed = False
    os.makedirs(os.path.dirname(given.out) or ".", exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=given.scratch, prefix="segstore-bench-") as scratch,
        open(given.out + ".part", "w", encoding="utf-8") as file,
    ):
        options = Options(scratch)
        if given.full:
            options = options.full()
        options = options._replace(**_settings(given.set))
        results.write_line(file, _run_line(options))
        for mode in given.mode:
            for name in given.only:
                if mode == "pure" and name not in experiments.PURE:
                    continue
                took = time.monotonic()
                ok = _run_experiment(name, mode, options, file, given.full)
                failed |= not ok
                took = time.monotonic() - took
                print(f"{mode:6} {name:10} {took:6.1f} s{'' if ok else '  FAILED'}", flush=True)
    os.replace(given.out + ".part", given.out)
    print(f"{time.monotonic() - started:.0f} s in all; results in {given.out}")
    return 1 if failed else 0


def _run_experiment(name: str, mode: str, options: Options, file: Any, full: bool) -> bool:
    dropped = ("SEGSTORE_PURE", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    # Fresh interpreters find bytecode, as they do after `pip install`, whatever the tree allows.
    environment["PYTHONPYCACHEPREFIX"] = os.path.join(options.scratch, "bytecode")
    if mode == "pure":
        environment["SEGSTORE_PURE"] = "1"
        options = options._replace(targets_only=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "experiment",
        name,
        json.dumps(options._asdict()),
    ]
    load = machine.load()[0]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            timeout=EXPERIMENT_TIMEOUT_S[full],
            check=False,
        )
        output, why = done.stdout, f"the experiment ended with {done.returncode}"
        ok = done.returncode == 0
    except subprocess.TimeoutExpired as late:
        output, why, ok = late.stdout or b"", "the experiment took too long", False
    for text in output.decode().splitlines():
        line = json.loads(text)
        results.write_line(file, {**line, "mode": mode, "load": load})
    if not ok:
        line = {"kind": "missing", "experiment": name, "case": {}, "contestant": "all"}
        results.write_line(file, {**line, "reason": why, "mode": mode})
    return ok


def _lines_of(name: str, options: Options) -> Iterator[dict[str, Any]]:
    import segstore.format.kernel as kernel

    module = import_module(f"benchmarks.experiments.{name}")
    try:
        for line in module.run(options):
            yield {**line, "kernel": kernel.PROVIDER}
    except DiskTooSmallError as error:
        yield {
            "kind": "missing",
            "experiment": name,
            "case": {},
            "contestant": "all",
            "reason": str(error),
        }


def _run_line(options: Options) -> dict[str, Any]:
    import segstore.format.checksum as checksum

    # Names of directories say nothing about the figures and would only get out.
    sizes = {key: value for key, value in options._asdict().items() if key != "scratch"}
    words = ["python", "-m", "benchmarks", *sys.argv[1:]]
    return {
        "kind": "run",
        "command": shlex.join(_without_directories(words)),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "options": sizes,
        "records": records.source(),
        "checksum": checksum.PROVIDER,
        "load": machine.load(),
        "machine": machine.facts(options.scratch),
    }


def _without_directories(words: list[str]) -> list[str]:
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        shown.append("DIRECTORY" if before == "--scratch" else word)
    return [os.path.basename(word) if os.path.isabs(word) else word for word in shown]


def _settings(pairs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in Options._fields:
            raise SystemExit(f"there is no option {name!r}; known: {', '.join(Options._fields)}")
        found[name] = json.loads(text)
    return found


if __name__ == "__main__":
    sys.exit(main())
