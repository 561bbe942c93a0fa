from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.harness import missing_line, sample_line


def _write(path: Path, lines: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            results.write_line(file, line)
    return str(path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    run = {"kind": "run", "command": "python -m benchmarks run", "machine": {"cores": 2}}
    a = sample_line("append", {"batch": 1, "level": "written"}, "a", [1.5e-7, 1 / 3], mode="pure")
    b = sample_line("append", {"level": "written", "batch": 1}, "b", [2.0, 4.0], mode="pure")
    gone = missing_line("append", {"batch": 1}, "c", "can't be imported")
    path = _write(tmp_path / "results.jsonl", [run, a, b, gone])
    found = results.read(path)
    assert found.run == run
    # The order in which a case names its facts does not matter.
    assert found.find("pure", "append", {"level": "written", "batch": 1}) == {"a": a, "b": b}
    assert found.find("kernel", "append", {"level": "written", "batch": 1}) == {}
    assert found.missing == [gone]
    assert list(results.read_lines(path)) == [run, a, b, gone]


def test_a_result_is_one_line_and_seen_at_once() -> None:
    file = io.StringIO()
    results.write_line(file, missing_line("append", {}, "a", "two\nlines"))
    assert file.getvalue().count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[1]", '{"experiment": "append"}'])
def test_a_line_that_is_no_result_is_refused_by_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": "run"}\n' + text + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        results.read(str(path))
