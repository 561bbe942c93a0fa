"""What goes through pickle or copy, and what refuses to: a pool of processes does both."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import segstore
from segstore import errors

ERRORS = [
    errors.ConfigError("an option"),
    errors.CorruptionError("file", 3, range(2, 5), "checksum mismatch"),
    errors.UnsupportedFormatError("a later version"),
    errors.OffsetOutOfRangeError(9, 2, 5),
    errors.RecordTooLargeError(9, 8),
    errors.LogLockedError("log", "process 7"),
    errors.ConsumerLockedError("billing"),
    errors.LogClosedError("closed"),
    errors.LogNotFoundError("no log"),
    errors.ReadOnlyError("mode r"),
    errors.StorageError(28, "full"),
    errors.StorageError(28, "full", "a file"),
    errors.SyncFailedError(5, "a sync failed"),
]
WAYS: list[Callable[[Any], Any]] = [
    lambda thing: pickle.loads(pickle.dumps(thing)),
    copy.copy,
    copy.deepcopy,
]


def every_kind(kind: type) -> set[type]:
    return {kind}.union(*map(every_kind, kind.__subclasses__()))


def test_these_are_all_errors() -> None:
    defined = {
        kind for kind in every_kind(errors.SegstoreError) if kind.__module__ == "segstore.errors"
    }
    assert defined == {type(error) for error in ERRORS} | {errors.SegstoreError}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", WAYS)
def test_errors_come_back_as_they_were(error: Exception, way: Callable[[Any], Any]) -> None:
    made = way(error)
    assert type(made) is type(error)
    assert (str(made), made.args, vars(made)) == (str(error), error.args, vars(error))
    for name in ("errno", "strerror", "filename"):
        assert getattr(made, name, None) == getattr(error, name, None)


def value_of(path: str, offset: int) -> bytes:
    with segstore.open(path, "r") as log:
        return log[offset].value


def test_an_error_in_a_pool_of_processes_reaches_its_owner(path: str) -> None:
    with segstore.open(path) as log:
        log.append(b"one")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(segstore.OffsetOutOfRangeError) as caught:
            pool.submit(value_of, path, 999).result(timeout=60)
        assert (caught.value.offset, caught.value.start, caught.value.end) == (999, 0, 1)
        assert pool.submit(value_of, path, 0).result(timeout=60) == b"one"


@pytest.mark.parametrize("way", WAYS)
def test_what_holds_files_refuses_and_stays_whole(path: str, way: Callable[[Any], Any]) -> None:
    with segstore.open(path, background=False) as log, log.consumer("one") as consumer:
        log.append(b"one")
        for thing in (log, consumer, log.follow("start"), log._disk):
            with pytest.raises(TypeError, match=r"(Log|Consumer|Follower|OsDisk) can't be copied"):
                way(thing)
        other = os.open(Path(path).parent, os.O_RDONLY)  # takes any number that was closed
        log.roll()
        log.append(b"two")
        assert list(log.values()) == [b"one", b"two"]
        assert log.verify().is_intact
        consumer.commit(2)
        os.close(other)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_goes_to_another_process(path: str, way: Callable[[Any], Any]) -> None:
    with segstore.open(path, background=False) as log:
        log.append_many([b"%d" % number for number in range(100)], keys=[None, b"k"] * 50)
        for batch in (*log.batches(), *log.batches(20, 30)):
            made = way(batch)
            assert (made.base_offset, made.end_offset) == (batch.base_offset, batch.end_offset)
            assert made.records() == batch.records()
            assert list(made.timestamps) == list(batch.timestamps)


@pytest.mark.parametrize("way", WAYS)
def test_records_are_plain_values(path: str, way: Callable[[Any], Any]) -> None:
    with segstore.open(path, background=False) as log:
        log.append_many([b"one", b"two"], keys=[b"k", None])
        records = list(log.read())
        assert way(records) == records
        assert way(log.stats()) == log.stats()
        assert way(log.segments()) == log.segments()
        assert way(log.verify()) == log.verify()
        assert way(log.config) == log.config
