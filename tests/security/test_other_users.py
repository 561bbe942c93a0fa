"""Who else may use a log follows from the mode and the group of its directory."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import segstore
from tests.security.filled import fill

GROUP = 4242
READER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that everybody gets to, and that belongs to a group the writer is not in."""
    if os.geteuid() == 0:
        for ancestor in [tmp_path, *list(tmp_path.parents)[:2]]:
            ancestor.chmod(0o755)
    directory = tmp_path / "log"
    directory.mkdir()
    return directory


def share(directory: Path, mode: int) -> None:
    os.chown(directory, -1, GROUP)
    directory.chmod(mode)


def said_by_another_user(
    work: Callable[[], object],
    during: Callable[[], object] = str,
    groups: tuple[int, ...] = (GROUP,),
) -> str:
    """What `work` gives or raises, as text, where a user of these groups runs it."""
    # Which the other user may not be able to import, as the interpreter may be root's alone.
    import ctypes  # noqa: F401

    import segstore.log.consumer
    import segstore.log.finding
    import segstore.log.follow
    import segstore.log.snapshot
    import segstore.log.verify  # noqa: F401

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(READER, READER, READER)
            os.setresuid(READER, READER, READER)
            said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    during()
    with open(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def modes(path: Path) -> set[int]:
    return {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}


@pytest.mark.parametrize(
    ("directory", "files"),
    [
        (0o700, 0o600),
        (0o750, 0o640),
        (0o2750, 0o640),
        (0o770, 0o660),
        (0o740, 0o600),  # a group that can't enter
        (0o710, 0o600),
        (0o730, 0o600),
        (0o705, 0o600),
        (0o755, 0o600),  # what a plain mkdir leaves
        (0o777, 0o600),
    ],
)
def test_files_have_the_group_bits_of_the_directory_where_its_group_may_read_it(
    shared, directory, files
):
    shared.chmod(directory)
    before = os.umask(0o077)
    try:
        fill(shared, 2)
    finally:
        os.umask(before)
    assert modes(shared) == {files}
    assert stat.S_IMODE(shared.stat().st_mode) == directory


@as_root
@pytest.mark.parametrize("mode", [0o750, 0o2750])
def test_files_belong_to_the_group_of_the_directory_with_and_without_setgid(shared, mode):
    share(shared, mode)
    fill(shared, 2)
    assert {file.stat().st_gid for file in shared.iterdir()} == {GROUP}


@as_root
def test_files_stay_private_where_the_writer_can_give_them_to_no_other_group(shared):
    os.chown(shared, READER, GROUP)  # a group that its owner is no member of
    shared.chmod(0o750)
    assert said_by_another_user(lambda: fill(shared, 2), groups=()) == "None"
    assert modes(shared) == {0o600}


@as_root
def test_a_user_of_the_group_reads_everything(shared):
    share(shared, 0o750)
    fill(shared, 2)

    def read():
        with segstore.open(shared, "r") as log:
            return (
                len(list(log)),
                log[7].value,
                len(list(log.find(b"k"))),
                log.offset_for_time(0),
                log.verify().is_intact,
                log.consumers()[0].name,
                len(log.segments()),
                log.stats().tail,
            )

    assert said_by_another_user(read) == repr((102, b"record 7", 100, 0, True, "one", 3, True))


@as_root
@pytest.mark.parametrize(("mode", "wakes"), [(0o750, False), (0o770, True)])
def test_a_user_of_the_group_follows(shared, mode, wakes):
    share(shared, mode)
    with segstore.open(shared) as log:

        def follow():
            with segstore.open(shared, "r") as reader:
                assert (reader._bell._mapping is not None) == wakes
                return [record.value for record in reader.follow("start", timeout=2)]

        def append():
            for number in range(5):
                time.sleep(0.02)
                log.append(b"%d" % number)

        assert said_by_another_user(follow, append) == repr([b"%d" % n for n in range(5)])


@as_root
def test_a_user_who_may_only_read_is_told_what_takes_more(shared):
    share(shared, 0o750)
    fill(shared, 2)
    before = {file.name: file.read_bytes() for file in shared.iterdir()}

    def consume():
        segstore.open(shared, "r").consumer("two")

    said = said_by_another_user(consume)
    assert said.startswith("StorageError:")
    assert "two.consumer" in said
    assert "follow()" in said
    said = said_by_another_user(lambda: segstore.open(shared))
    assert said.startswith("StorageError:")
    assert "mode='r'" in said
    said = said_by_another_user(lambda: segstore.open(shared / "new"))  # which nobody can read
    assert said.startswith("StorageError:")
    assert "mode='r'" not in said
    assert {file.name: file.read_bytes() for file in shared.iterdir()} == before


@as_root
def test_a_user_who_may_only_read_can_copy_the_log(shared):
    share(shared, 0o750)
    fill(shared, 2)
    elsewhere = shared.parent / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    copy = elsewhere / "copy"
    said = said_by_another_user(lambda: segstore.open(shared, "r").snapshot(copy).end_offset)
    assert said == "102"
    with segstore.open(copy) as log:
        assert len(list(log)) == 102


@as_root
def test_a_consumer_of_a_group_that_may_write_works_beside_the_writer(shared):
    share(shared, 0o770)
    fill(shared, 2)

    def consume():
        with segstore.open(shared, "r") as log, log.consumer("two") as consumer:
            consumer.poll(10)
            consumer.commit()

    with segstore.open(shared, background=False) as log:
        assert said_by_another_user(consume) == "None"
        assert {found.name: found.committed for found in log.consumers()} == {"one": 0, "two": 10}
        log.truncate(4)  # moves it back, in the file of another user
        assert log.consumers()[1].committed == 5
    assert modes(shared) == {0o660}


@as_root
def test_what_root_does_to_a_log_leaves_it_to_its_owner(shared: Path) -> None:
    os.chown(shared, READER, -1)
    fill(shared, 2)
    with segstore.open(shared, background=False) as log:
        log.roll()
        log.compress()
        log.truncate(log.end_offset - 2)
        end = log.end_offset
    assert {entry.stat().st_uid for entry in shared.iterdir()} == {READER}

    def append() -> int:
        with segstore.open(shared, background=False) as log:
            return log.append(b"mine")

    assert said_by_another_user(append) == str(end)
