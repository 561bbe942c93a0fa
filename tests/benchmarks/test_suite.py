"""The real thing, small: one experiment is run and reported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import records, results, stores
from benchmarks.experiments import Options, append

ROOT = Path(__file__).parents[2]


def test_the_made_lines_are_the_same_every_time_and_compress_like_logs() -> None:
    import lz4.frame

    lines = records.generate(2_000, seed=1)
    assert lines == records.generate(2_000, seed=1)
    assert not any(b"\n" in line for line in lines)
    text = b"\n".join(lines)
    assert 2 < len(text) / len(lz4.frame.compress(text)) < 5


@pytest.mark.parametrize("kind", ["100 B", "1 KiB", "10 KiB"])
def test_records_of_a_size_have_that_size(kind: str) -> None:
    assert set(map(len, records.records(kind))) == {records.SIZES_BYTES[kind]}


@pytest.mark.parametrize("name", [*stores.STORES, *stores.CONTROLS])
def test_a_store_keeps_what_is_appended(name: str, tmp_path: Path) -> None:
    found, _ = stores.available([name])
    if name not in found:
        pytest.skip(f"{name} is not installed")
    values = [b"record %d" % number for number in range(50)]
    store = found[name](str(tmp_path), found[name].levels[0])
    try:
        for value in values[:10]:
            store.append(value)
        if hasattr(store, "values"):
            store.append_many(values[10:])
            read = [value.rstrip(b"\n") for value in store.values()]
            assert read == values
            if hasattr(store, "point"):
                assert store.point(20) == values[20]
    finally:
        store.close()


def test_one_case_has_a_line_for_segstore_and_its_controls(tmp_path: Path) -> None:
    options = Options(str(tmp_path), round_s=0.001)
    lines = list(append.one_case(options, "100 B", "written", 1_000))
    measured = {line["contestant"]: line for line in lines if line["kind"] == "samples"}
    assert {"segstore", "os.write", "buffered file.write", "sqlite"} <= set(measured)
    for line in measured.values():
        assert len(line["samples"]) == 5
        assert min(line["samples"]) > 0
    assert os.listdir(tmp_path) == []


def test_a_run_is_reported_without_names_of_places(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, out = tmp_path / "results.jsonl", tmp_path / "out"
    run = [sys.executable, "-m", "benchmarks"]
    command = [*run, "run", "--only", "importing", "--mode", "pure"]
    command += ["--scratch", str(tmp_path), "--out", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, stdout=subprocess.DEVNULL)
    assert results.read(str(file)).find("pure", "importing", {})
    report = [*run, "report", "--results", str(file), "--out", str(out)]
    subprocess.run(report, cwd=ROOT, check=True, timeout=120)
    page = (out / "README.md").read_text(encoding="utf-8")
    assert re.search(r"import segstore .* (reached|\*\*not reached\*\*) \|", page)
    for text in (page, file.read_text(encoding="utf-8")):
        assert str(tmp_path) not in text
        assert os.uname().nodename not in text
    for picture in ("targets.svg", "growth-full.svg"):  # the second of the 20 GB run on record
        assert (out / picture).read_text(encoding="utf-8").startswith("<?xml")
        assert picture in page
