"""Results on disk: JSON lines, the first of each run telling the command and the machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Key(NamedTuple):
    """What makes two samples comparable."""

    mode: str
    experiment: str
    case: tuple[tuple[str, Any], ...]


class Results:
    """Everything that a file of results says.

    Attributes:
        run: the line about the command and the machine.
        samples: by what was measured, then by contestant.
        missing: figures that were not taken.
    """

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self.run: dict[str, Any] = {}
        self.samples: dict[Key, dict[str, dict[str, Any]]] = {}
        self.missing: list[dict[str, Any]] = []
        for line in lines:
            if line["kind"] == "run":
                self.run = line
            elif line["kind"] == "missing":
                self.missing.append(line)
            else:
                self.samples.setdefault(key_of(line), {})[line["contestant"]] = line

    def find(self, mode: str, experiment: str, case: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The lines of one case, by contestant; none if it was not measured."""
        return self.samples.get(Key(mode, experiment, _frozen(case)), {})

    def of(self, mode: str, experiment: str) -> Iterator[tuple[Key, dict[str, dict[str, Any]]]]:
        """All cases of one experiment."""
        for key, by_contestant in self.samples.items():
            if key.mode == mode and key.experiment == experiment:
                yield key, by_contestant


def key_of(line: dict[str, Any]) -> Key:
    """What the line is about."""
    return Key(line.get("mode", ""), line["experiment"], _frozen(line["case"]))


def write_line(file: Any, line: dict[str, Any]) -> None:
    """Append one line, and let others see it."""
    file.write(json.dumps(line, separators=(",", ":")) + "\n")
    file.flush()


def read(path: str) -> Results:
    """The results in a file.

    Raises:
        ValueError: a line is no JSON, or has no kind.
    """
    return Results(read_lines(path))


def read_lines(path: str) -> Iterator[dict[str, Any]]:
    """The lines in a file.

    Raises:
        ValueError: a line is no JSON, or has no kind.
    """
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error})") from None
            if not isinstance(line, dict) or "kind" not in line:
                raise ValueError(f"{path}, line {number}: a result line has a kind")
            yield line


def _frozen(case: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(case.items()))
