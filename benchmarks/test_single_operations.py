"""Latencies of single operations by pytest-benchmark: `pytest benchmarks -o addopts= `."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import segstore
from benchmarks import records

RECORD_COUNT = 20_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[segstore.Log]:
    with segstore.open(tmp_path / "log", compression=None) as opened:
        yield opened


@pytest.fixture
def filled(log: segstore.Log) -> segstore.Log:
    values = records.log_lines()
    log.append_many((values * (RECORD_COUNT // len(values) + 1))[:RECORD_COUNT])
    return log


def test_append(benchmark: Any, log: segstore.Log) -> None:
    assert benchmark(log.append, bytes(100)) >= 0


def test_append_with_a_key(benchmark: Any, log: segstore.Log) -> None:
    assert benchmark(log.append, bytes(100), key=b"key") >= 0


def test_append_with_a_timestamp(benchmark: Any, log: segstore.Log) -> None:
    timestamp = time.time_ns()
    assert benchmark(log.append, bytes(100), timestamp=timestamp) >= 0


def test_append_durable(benchmark: Any, log: segstore.Log) -> None:
    assert benchmark(log.append, bytes(100), durability="durable") >= 0


def test_append_many(benchmark: Any, log: segstore.Log) -> None:
    assert len(benchmark(log.append_many, [bytes(100)] * 1_000)) == 1_000


def test_point_read(benchmark: Any, filled: segstore.Log) -> None:
    rng = random.Random(1)

    def read() -> segstore.Record:
        return filled[rng.randrange(RECORD_COUNT)]

    assert benchmark(read).value


def test_values(benchmark: Any, filled: segstore.Log) -> None:
    assert len(benchmark(lambda: list(filled.values()))) == RECORD_COUNT


def test_read(benchmark: Any, filled: segstore.Log) -> None:
    assert len(benchmark(lambda: list(filled.read()))) == RECORD_COUNT


def test_open_and_close(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with segstore.open(path) as log:
        log.append(b"one")

    def once() -> None:
        segstore.open(path).close()

    benchmark(once)
