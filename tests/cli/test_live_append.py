"""Appending from an endless input, and reading meanwhile from other processes."""

import os
import pty
import signal
import subprocess
import time

import pytest

import segstore

PATIENCE_S = 30


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it never came true")


def count_of(path):
    try:
        with segstore.open(path, "r") as log:
            return len(log)
    except segstore.LogNotFoundError:
        return 0


def test_a_line_is_there_for_readers_while_the_input_stays_open(cli, tmp_path):
    process = cli.start("append", "log")
    try:
        for number in range(3):
            process.stdin.write(b"line %d\nhalf of the next" % number)
            process.stdin.flush()
            wait_for(lambda number=number: count_of(tmp_path / "log") == number + 1)
        said, _ = process.communicate(b" one", timeout=PATIENCE_S)
    finally:
        process.kill()
    assert said == b"0..3\n"
    assert cli("cat", "log").stdout == (
        b"line 0\nhalf of the nextline 1\nhalf of the nextline 2\nhalf of the next one"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_quietly_and_says_what_was_appended(cli, tmp_path, number, code):
    process = cli.start("append", "log")
    try:
        process.stdin.write(b"one\ntwo\nhalf")
        process.stdin.flush()
        wait_for(lambda: count_of(tmp_path / "log") == 2)
        process.send_signal(number)
        process.wait(PATIENCE_S)  # with its input still open
        assert process.returncode == code
        assert process.stderr.read() == b""
        assert process.stdout.read() == b"0..1\n"
    finally:
        process.kill()
        process.communicate()
    assert cli("cat", "log").stdout == b"one\ntwo\n"
    with segstore.open(tmp_path / "log", "r") as log:
        assert log.durable_offset == 2


def test_what_a_killed_append_had_taken_is_there(cli, tmp_path):
    process = cli.start("append", "log")
    process.stdin.write(b"one\ntwo\n")
    process.stdin.flush()
    wait_for(lambda: count_of(tmp_path / "log") == 2)
    process.kill()
    process.communicate()
    assert cli("cat", "log").stdout == b"one\ntwo\n"
    assert cli("append", "log", stdin=b"three\n").stdout == b"2..2\n"
    cli("verify", "log")


def test_readers_see_a_growing_prefix_while_another_process_appends(cli, tmp_path):
    lines = [b"%d " % number + b"x" * (number % 200) for number in range(60_000)]
    data = b"\n".join(lines) + b"\n"
    (tmp_path / "input").write_bytes(data)
    writer = cli.start("append", "log", "--segment-size", "64KiB", "--batch-lines", "50")

    def feed():
        with open(tmp_path / "input", "rb") as source:
            while block := source.read(40_000):
                writer.stdin.write(block)
                writer.stdin.flush()
                yield

    seen, sizes = b"", []
    for number, _ in enumerate(feed()):
        if number % 15 == 5:
            wait_for(lambda: count_of(tmp_path / "log") > 0)
            before, seen = seen, cli("cat", "log").stdout
            assert data.startswith(seen)
            assert seen.startswith(before)
            assert seen.endswith(b"\n")
            sizes.append(len(seen))
    said, words = writer.communicate(timeout=PATIENCE_S)
    assert (said, words) == (b"0..59999\n", b"")
    assert len(sizes) > 5
    assert sizes[-1] > sizes[0]
    assert cli("cat", "log").stdout == data


def test_a_second_writer_is_told_who_has_the_log(cli, tmp_path):
    with segstore.open(tmp_path / "log") as log:
        log.append(b"mine")
        done = cli("append", "log", stdin=b"theirs\n", expect=1)
        assert f"process {os.getpid()}".encode() in done.stderr
        assert done.stdout == b""
        assert cli("cat", "log").stdout == b"mine\n"


def test_a_progress_bar_is_drawn_on_a_terminal_only(cli, tmp_path):
    (tmp_path / "input").write_bytes(b"line\n" * 200_000)
    ours, theirs = pty.openpty()
    process = cli.start("append", "log", "input", stdin=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = process.communicate(timeout=PATIENCE_S)[0]
    drawn = b""
    try:
        while block := os.read(ours, 65536):
            drawn += block
    except OSError:  # how a pty ends on Linux
        pass
    os.close(ours)
    assert said == b"0..199999\n"
    assert b"MB" in drawn
    assert cli("append", "log", "input").stderr == b""
