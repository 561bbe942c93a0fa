"""A user's mistake is a message and an exit code, and never a traceback (the fixture checks it)."""

import os
import subprocess
import sys

import pytest

import segstore

READERS = ["cat", "info", "segments", "verify"]


@pytest.mark.parametrize("command", READERS)
def test_a_log_that_is_not_there_is_named(cli, command):
    done = cli(command, "nowhere", expect=1)
    assert done.stderr.startswith(b"segstore: nowhere")
    assert done.stdout == b""
    assert not os.path.exists(cli.directory / "nowhere")


@pytest.mark.parametrize("command", READERS)
def test_a_directory_that_is_no_log_is_named(cli, command):
    (cli.directory / "empty").mkdir()
    assert b"empty holds no log" in cli(command, "empty", expect=1).stderr
    assert list((cli.directory / "empty").iterdir()) == []


def test_a_missing_input_is_named_and_no_log_is_made(cli):
    done = cli("append", "log", "nofile", expect=1)
    assert done.stderr == b"segstore: nofile: No such file or directory\n"
    (cli.directory / "folder").mkdir()
    assert cli("append", "log", "folder", expect=1).stderr == b"segstore: folder: Is a directory\n"
    assert not (cli.directory / "log").exists()


def test_a_file_in_place_of_a_log_is_refused(cli):
    (cli.directory / "file").write_bytes(b"x\n")
    assert cli("append", "file", "file", expect=1).stderr.startswith(b"segstore: file can't")
    assert b"no directory" in cli("cat", "file", expect=1).stderr
    assert (cli.directory / "file").read_bytes() == b"x\n"


def with_closed(cli, closing, *arguments):
    """What a command does when it is started with some of the standard streams closed."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" "$@" {closing}', sys.executable, "-m", "segstore", *arguments],
        cwd=cli.directory,
        capture_output=True,
        timeout=60,
    )


def test_a_closed_stdin_is_refused(cli):
    done = with_closed(cli, "<&-", "append", "log")
    assert done.returncode == 1
    assert done.stderr == b"segstore: stdin: Bad file descriptor\n"
    assert not (cli.directory / "log").exists()


def test_with_a_closed_stderr_commands_do_their_work_and_keep_words_out_of_the_data(cli):
    (cli.directory / "five").write_bytes(b"a\n" * 5)
    done = with_closed(cli, "2>&-", "append", "log", "five")
    assert (done.returncode, done.stdout) == (0, b"0..4\n")
    done = with_closed(cli, "2>&-", "compress", "log")
    assert done.returncode == 0
    done = with_closed(cli, "2>&-", "get", "log", "999")
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ("cat", "log"),
        ("info", "log"),
        ("segments", "log"),
        ("append", "log", "five"),
        ("--version",),
    ],
)
@pytest.mark.parametrize("closing", [">&-", "<&- >&-", ">/dev/full"])
def test_a_stdout_that_can_not_be_written_to_is_a_failure(cli, arguments, closing):
    (cli.directory / "five").write_bytes(b"a\n" * 5)
    cli("append", "log", "five")
    done = with_closed(cli, closing, *arguments)
    assert done.returncode == 1
    assert done.stderr in (
        b"segstore: stdout: Bad file descriptor\n",
        b"segstore: stdout: No space left on device\n",
    )
    assert cli("cat", "log").stdout in (b"a\n" * 5, b"a\n" * 10)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuchcommand",),
        ("append",),
        ("append", "log", "--segment-size", "4M"),
        ("append", "log", "--segment-size", "10"),
        ("append", "log", "--segment-size", "-1"),
        ("append", "log", "--batch-lines", "0"),
        ("cat",),
        ("cat", "log", "--nosuchoption"),
        ("cat", "log", "--from", "x"),
        ("cat", "log", "--from", "-1"),
        ("cat", "log", "-n", "-1"),
        ("cat", "log", "--from-time", "yesterday"),
        ("cat", "log", "--from-time", "1795351782651328446"),
        ("cat", "log", "--from-time", "9999-12-31"),
        ("cat", "log", "--from-time", "2026"),
        ("cat", "log", "--from-time", "20260131"),
        ("find", "log", "--hex", "zz"),
        ("cat", "log", "--from", "0", "--from-time", "0"),
        ("cat", "log", "--to", "0", "--to-time", "0"),
        ("cat", "log", "--raw", "--json"),
        ("get", "log"),
        ("get", "log", "-1"),
        ("get", "log", "1.5"),
    ],
)
def test_wrong_usage_is_exit_code_2(cli, arguments):
    with segstore.open(cli.directory / "log") as log:
        log.append(b"x")
    assert cli(*arguments, expect=2).stdout == b""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("get", "log", "x"), b"'x' is not a valid offset"),
        (("find", "log", "--hex", "6b3"), b"two digits a byte"),
        (("cat", "log", "--from-time", "2026"), b"2026.0 for seconds"),
    ],
)
def test_wrong_usage_is_told_what_to_write(cli, arguments, words):
    wide = {**os.environ, "COLUMNS": "300"}
    assert words in cli(*arguments, expect=2, env=wide).stderr


def test_a_directory_is_no_segment_file(cli):
    cli("append", "log", stdin=b"a\n")
    done = cli("dump", "log", expect=1)
    assert done.stderr == b"segstore: log is a directory; name one of the .log files in it\n"


@pytest.mark.parametrize("seconds", ["0", "1769860800", "2026.0", "20260131.0", "-5", "1000"])
def test_seconds_are_a_time(cli, seconds):
    cli("append", "log", stdin=b"a\n")
    assert cli("cat", "log", f"--from-time={seconds}").stdout == b"a\n"


def test_a_bad_environment_variable_is_exit_code_2(cli):
    done = cli("append", "log", expect=2, env={**os.environ, "SEGSTORE_SEGMENT_SIZE": "huge"})
    assert b"segment_size" in done.stderr


def test_a_variable_that_is_no_option_is_named_in_one_line(cli):
    done = cli("append", "log", stdin=b"a\n", env={**os.environ, "SEGSTORE_HOME": "/srv"})
    assert done.stdout == b"0..0\n"
    expected = b"segstore: SEGSTORE_HOME is no option of segstore, and is ignored\n"
    assert done.stderr == expected


def test_an_offset_outside_the_log_is_refused_with_the_valid_range(cli):
    cli("append", "log", stdin=b"a\nb\n")
    expected = b"is outside the log, which holds offsets 0 to 1\n"
    assert cli("get", "log", 2, expect=1).stderr.endswith(expected)
    assert cli("cat", "log", "--from", 3, expect=1).stderr.endswith(expected)


def test_dump_refuses_what_is_no_segment(cli):
    cli("append", "log", stdin=b"a\n")
    (cli.directory / "text").write_bytes(b"a\n")
    (cli.directory / "empty").write_bytes(b"")
    for name in ("text", "empty", "missing", ".", "log/tail", f"log/{0:020d}.index"):
        done = cli("dump", name, expect=1)
        assert done.stderr.startswith(b"segstore: ")
        assert done.stdout == b""


@pytest.mark.parametrize("command", ["cat log", "cat log --json", "dump copy", "segments log"])
def test_a_closed_pipe_ends_the_command_quietly(cli, command):
    data = b"".join(b"line %d\n" % number for number in range(200_000))
    cli("append", "log", "--segment-size", "64KiB", stdin=data)
    segment = min((cli.directory / "log").glob("*.log*"))  # plain, or compressed by now
    (cli.directory / "copy").write_bytes(segment.read_bytes())
    process = cli.start(*command.split(), stdin=subprocess.DEVNULL)
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), (), ("cat", "--help"), ("info", "log")]
)
def test_whoever_closed_the_pipe_before_has_seen_enough(cli, arguments):
    cli("append", "log", stdin=b"a\n")
    reading, writing = os.pipe()
    os.close(reading)
    process = cli.start(*arguments, stdin=subprocess.DEVNULL, stdout=writing)
    os.close(writing)
    _, words = process.communicate(timeout=60)
    assert (process.returncode, words) == (0, b"")


def test_a_full_stdout_is_a_failure(cli):
    cli("append", "log", stdin=b"a\n" * 100_000)
    with open("/dev/full", "wb") as full:
        process = cli.start("cat", "log", stdin=subprocess.DEVNULL, stdout=full)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert words == b"segstore: stdout: No space left on device\n"


def test_without_its_packages_the_command_says_how_to_get_them(cli):
    program = (
        "import sys; sys.modules['rich_click'] = None\n"
        "from segstore.cli.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b"pip install 'segstore[cli]'" in done.stderr


def test_importing_segstore_loads_nothing_of_the_command_line():
    program = "import segstore, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    loaded = {name.split(".")[0] for name in out.decode().split()}
    assert "segstore" in loaded
    assert not loaded & {"rich_click", "click", "rich", "json", "subprocess"}
    assert b"segstore.cli" not in out.split()


@pytest.mark.parametrize("module", ["segstore", "segstore.cli"])
def test_the_module_is_the_command(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True)
    assert done.returncode == 0
    assert segstore.__version__ in done.stdout.decode()
