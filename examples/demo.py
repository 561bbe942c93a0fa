"""A real log through segstore: append, roll, crash of the writer, reopen, read by offset.

    python examples/demo.py [FILE]

Takes FILE, or a log that the machine has, or what pip wrote while it installed segstore. Every
check that fails ends the demo with exit code 1. The log stays in .demo/log for you to look at.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import segstore

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".demo"
LOG = WORK / "log"
SEGSTORE = Path(sysconfig.get_path("scripts")) / "segstore"

MACHINE_LOGS = [
    "/var/log/dpkg.log",
    "/var/log/syslog",
    "/var/log/messages",
    "/var/log/pacman.log",
    "/var/log/dnf.log",
    "/var/log/apk.log",
    "/var/log/install.log",
    "/var/log/system.log",
    Path(sys.prefix) / "install.log",  # by `make demo`
]
INPUT_BYTES_MIN = 20_000
SEGMENT_COUNT = 12
KILL_AFTER_S = 0.3


def main() -> None:
    if sys.argv[1:2] == ["--crash-me"]:
        write_until_killed(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else a_log_of_this_machine()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    source_copy = WORK / "input.log"  # a log that somebody is writing to would not stand still
    shutil.copyfile(source, source_copy)
    data = source_copy.read_bytes()
    lines = data.removesuffix(b"\n").split(b"\n")
    segment_size = max(4096, len(data) // SEGMENT_COUNT)

    step(f"The input is {source}: {len(lines):,} lines, {len(data):,} bytes")

    step(f"Append it from the command line, into segments of {segment_size:,} bytes")
    run("append", LOG, source_copy, "--segment-size", segment_size)
    run("segments", LOG)

    step("Read it back, and compare byte for byte")
    check(run("cat", LOG, is_quiet=True) == data, f"all {len(data):,} bytes came back the same")

    step("Start a writer in another process, and kill -9 it while it appends")
    acknowledged = crash_a_writer(source_copy)
    print(f"  the writer had {acknowledged:,} appends acknowledged when it died")

    step("Open the log again")
    begun = time.perf_counter()
    with segstore.open(LOG, segment_size=segment_size) as log:
        took_ms = (time.perf_counter() - begun) * 1000
        recovery = log.recovery
        print(f"  opened in {took_ms:.1f} ms; {recovery.scanned_bytes:,} bytes had to be checked")
        print(f"  {recovery.from_tail:,} records came out of the tail, {len(recovery.lost)} lost")
        survived = len(log) - len(lines)
        check(survived >= acknowledged, f"{survived:,} of its records are there: none is missing")
        expected = lines + [lines[number % len(lines)] for number in range(survived)]
        check(list(log.values()) == expected, "every record is what was appended, in order")

        step("Read by offset, and find an offset by time")
        for offset in (0, len(lines) // 2, len(lines) + acknowledged - 1):
            print(f"  {offset:>9,}: {show(log[offset].value)}")
        middle = log[len(lines) + acknowledged // 2]
        found = log.offset_for_time(middle.timestamp)
        check(
            found is not None and log[found].timestamp == middle.timestamp,
            f"the first record of {middle.timestamp} ns is at offset {found:,}",
        )

        step("Roll by hand, and go on appending, with power loss in mind")
        log.roll()
        offset = log.append(b"the demo was here", durability="durable")
        check(log.durable_offset == offset + 1, f"offset {offset:,} would survive a power cut")

    step("Verify every byte")
    run("verify", LOG)
    run("info", LOG)
    print(f"\nThat was it. The log is in {LOG}; look at it with {SEGSTORE} --help.")


def a_log_of_this_machine() -> Path:
    for name in MACHINE_LOGS:
        path = Path(name)
        if os.access(path, os.R_OK) and path.is_file() and path.stat().st_size >= INPUT_BYTES_MIN:
            return path
    sys.exit("This machine has no log that can be read; name one: make demo LOG=/path/to/a.log")


def crash_a_writer(source: Path) -> int:
    """How many appends a writer told us of before it was killed in the middle."""
    command = [sys.executable, __file__, "--crash-me", str(LOG), str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = writer.stdout.readline()  # it is at work
        end = time.monotonic() + KILL_AFTER_S
        while time.monotonic() < end:
            told = writer.stdout.readline() or told
        writer.send_signal(signal.SIGKILL)
        # What stands in the pipe was acknowledged as well; the last line may be cut short.
        for line in writer.stdout:
            told = line if line.endswith(b"\n") else told
    check(writer.returncode == -signal.SIGKILL, "the writer died of signal 9")
    return int(told) + 1


def write_until_killed(path: Path, source: Path) -> None:
    """Append one line after the other and tell the count of each as soon as it is acknowledged."""
    lines = source.read_bytes().removesuffix(b"\n").split(b"\n")
    with segstore.open(path) as log:
        for number in range(10**9):
            log.append(lines[number % len(lines)])
            os.write(1, b"%d\n" % number)


def run(*arguments: object, is_quiet: bool = False) -> bytes:
    command = [str(SEGSTORE), *map(str, arguments)]
    print("  $ segstore", *(os.path.relpath(a) if isinstance(a, Path) else a for a in arguments))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if not is_quiet:
        for line in done.stdout.decode(errors="replace").splitlines():
            print("   ", line)
    check(done.returncode == 0, None)
    return done.stdout


def step(text: str) -> None:
    step.count = getattr(step, "count", 0) + 1  # type: ignore[attr-defined]
    print(f"\n{step.count}. {text}")  # type: ignore[attr-defined]


def check(is_true: bool, text: str | None) -> None:
    if not is_true:
        sys.exit(f"  FAILED: {text or 'the command failed'}")
    if text is not None:
        print(f"  ok: {text}")


def show(value: bytes) -> str:
    return value[:90].decode(errors="replace")


if __name__ == "__main__":
    main()
