"""What is in a log's directory is neither given away nor trusted nor touched without need."""

from __future__ import annotations

import ast
import errno
import os
import stat
from pathlib import Path

import pytest

import segstore
from segstore.format.names import is_temporary, parse_segment_file
from tests.security.filled import fill

PACKAGE = Path(segstore.__file__).parent
BASE = f"{0:020d}"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777 - 0o700])
def test_files_are_0600_and_directories_0700_whatever_the_umask(path, umask):
    before = os.umask(umask)
    try:
        nested = os.path.join(path, "a", "b")
        fill(nested, 3)
        with segstore.open(nested, background=False) as log:
            log.snapshot(os.path.join(path, "copy"))
    finally:
        os.umask(before)
    for directory, directories, files in os.walk(path):
        for name in directories:
            mode = stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode)
            assert mode == 0o700, (name, oct(mode))
        for name in files:
            mode = stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode)
            assert mode == 0o600, (name, oct(mode))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


@pytest.mark.parametrize("name", [f"{BASE}.log", "tail", "start", "lock", "doorbell"])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_stands_in_place_of_a_file_is_neither_followed_nor_waited_for(
    path, tmp_path, name, kind
):
    with segstore.open(path, background=False) as log:
        log.append(b"record")
    victim = tmp_path / "victim"
    target = Path(path, name)
    victim.write_bytes(target.read_bytes() if target.exists() else b"")
    before = victim.read_bytes()
    target.unlink(missing_ok=True)
    if kind == "link":
        target.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    for mode in ("r", "a"):
        try:
            with segstore.open(path, mode, background=False) as log:
                list(log.read(errors="skip"))
                if mode == "a":
                    log.append(b"more")
        except segstore.SegstoreError:
            continue
    assert victim.read_bytes() == before


@pytest.mark.parametrize("ending", [".log.lz4", ".lz4.index"])
def test_a_link_in_place_of_a_compressed_file_or_its_index_is_not_followed(path, tmp_path, ending):
    fill(path, 3)
    target = Path(path, BASE + ending)
    victim = tmp_path / "victim"
    target.rename(victim)
    before = victim.read_bytes()
    target.symlink_to(victim)
    for mode in ("r", "a"):
        with segstore.open(path, mode, background=False) as log:
            values = list(log.values(errors="skip"))
            # An index can be done without, a segment can't.
            expected = 152 if ending == ".lz4.index" else 102
            assert len(values) == expected
    assert victim.read_bytes() == before


ODD_NAMES = [
    "\uff10" * 20 + ".log",
    "0000000000000000001_0.log",
    " 0000000000000000000.log",
    "+0000000000000000000.log",
    f"{BASE}.log\n",
    f"{BASE}.LOG",
    f"{BASE}.log.bak",
    f"0{BASE}.log",
    "99999999999999999999.log",
    "tail.old",
    "notes.tmp",
    "x.log.tmp",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_strict(name):
    assert parse_segment_file(name) is None
    assert not is_temporary(name)


def test_odd_files_are_left_alone_by_everything_that_deletes(path):
    fill(path, 3)
    for name in ODD_NAMES:
        Path(path, name).write_bytes(b"not ours")
    Path(path, "directory").mkdir()
    Path(path, "directory", f"{BASE}.log").write_bytes(b"not ours")
    with segstore.open(path, background=False, retention_records=1) as log:
        assert len(list(log)) == 152
        log.roll()
        log.sweep()
        log.trim(log.end_offset)
        log.truncate(log.start_offset - 1)
        log.repair()
        notes = "\n".join(log.verify().notes)
    for name in [*ODD_NAMES, "directory"]:
        assert repr(name) in notes
    for name in ODD_NAMES:
        assert Path(path, name).read_bytes() == b"not ours"
    assert Path(path, "directory", f"{BASE}.log").read_bytes() == b"not ours"


@pytest.mark.parametrize("name", ["start", "tail", "doorbell", "lock", "truncate"])
def test_no_log_is_begun_over_the_files_of_somebody_else(path, name):
    Path(path).mkdir()
    script = b"#!/bin/sh\n" + b"exec java -jar app.jar\n" * 100
    Path(path, name).write_bytes(script)
    with pytest.raises(segstore.StorageError, match=f"'{name}'") as raised:
        segstore.open(path)
    assert raised.value.errno == errno.ENOTEMPTY
    assert os.listdir(path) == [name]
    assert Path(path, name).read_bytes() == script


@pytest.mark.parametrize("name", ["start", "tail", "doorbell", "lock", "truncate"])
def test_a_log_opens_whatever_is_in_one_of_its_files(path, name):
    fill(path, 3)
    Path(path, name).write_bytes(b"#!/bin/sh\n" * 200)
    with segstore.open(path, background=False) as log:
        assert len(list(log)) == 152


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("start", b""),
        ("start", b"seg" + bytes(61)),
        ("doorbell", bytes(4096)),
        ("lock", b"process 7 since 2026-01-01\n"),
        ("lock", b"proc"),
        ("lock", b"\0\0\0cess 7 since 2026-01-01\n"),
    ],
)
def test_what_an_opening_left_that_was_cut_short_is_no_hindrance(path, name, data):
    Path(path).mkdir()
    Path(path, name).write_bytes(data)
    with segstore.open(path, background=False) as log:
        assert log.append(b"record") == 0


def test_nothing_in_the_package_deletes_a_tree_or_runs_what_it_reads():
    banned_modules = {"pickle", "marshal", "shelve", "dill", "shutil"}
    banned_calls = {"eval", "exec", "compile", "__import__", "rmtree", "removedirs", "system"}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
                assert not names & banned_modules, (file, names)
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned_modules, file
            elif isinstance(node, ast.Call):
                called = node.func
                # re.compile is another matter.
                if isinstance(called, ast.Name):
                    assert called.id not in banned_calls, (file, node.lineno)
                elif isinstance(called, ast.Attribute) and called.attr != "compile":
                    assert called.attr not in banned_calls, (file, node.lineno)


@pytest.mark.parametrize(
    "note", [b"", b"\xff\xfe" * 100, b"\x1b[2J\x07 evil", b"process 1 since ever", b"x" * (8 << 20)]
)
def test_what_the_lock_file_says_is_shown_at_most_and_never_trusted(path, note):
    with segstore.open(path, background=False) as log:
        log.append(b"record")
    Path(path, "lock").write_bytes(note)
    with segstore.open(path, background=False) as log:  # nobody holds it, whatever it says
        Path(path, "lock").write_bytes(note)
        with pytest.raises(segstore.LogLockedError) as caught:
            segstore.open(path, background=False)
        assert str(caught.value).isprintable()
        assert len(caught.value.holder) <= 200
        assert log.append(b"more") == 1


def test_the_docs_say_that_a_checksum_is_no_proof_against_tampering():
    text = (PACKAGE.parent / "docs" / "explanation" / "durability.md").read_text()
    assert "tamper" in text
