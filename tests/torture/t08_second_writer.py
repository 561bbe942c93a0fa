"""T8: whoever races for a log, by thread, fork or process, and whatever became of the holder, there
is one writer at a time, and everybody else gets a LogLockedError at once.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import segstore
from segstore import LogClosedError, LogLockedError
from tests.torture.campaign import BrokenError, Run

RACES = 100
RACERS = 4
# A refusal that takes longer was a wait.
REFUSED_S_MAX = 20.0

# Waits for its turn, tries once, and says how it went. The winner appends and keeps the log open
# until its input ends, so that nobody else can have it for a good reason.
_RACER = """
import sys, segstore
path, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    log = segstore.open(path, background=False)
except segstore.LogLockedError as error:
    print("refused", error, flush=True)
else:
    offset = log.append(name.encode(), durability="durable")
    print("won", offset, flush=True)
    sys.stdin.readline()
    log.close()
    print("closed", flush=True)
"""


def run(run: Run) -> None:
    kinds = [by_threads, by_forks, by_processes, after_a_kill, while_stopped, with_a_child_alive]
    races = run.wanted(RACES)
    while run.counts["races"] < races and not run.is_over:
        kind = kinds[run.counts["races"] % len(kinds)]
        with tempfile.TemporaryDirectory(prefix="segstore-") as path:
            kind(run, os.path.join(path, "log"))
        run.count("races")
        run.count(kind.__name__.replace("_", " "))


def by_threads(run: Run, path: str) -> None:
    won: list[segstore.Log] = []
    refused: list[LogLockedError] = []
    odd: list[Exception] = []
    barrier = threading.Barrier(RACERS)

    def race() -> None:
        barrier.wait()
        try:
            won.append(segstore.open(path, background=False))
        except LogLockedError as error:
            refused.append(error)
        except Exception as error:
            odd.append(error)

    threads = [threading.Thread(target=race) for _ in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if odd or len(won) != 1 or len(refused) != RACERS - 1:
        raise BrokenError(f"{len(won)} threads won, {len(refused)} were refused, and {odd}")
    for error in refused:
        _check_clear(str(error))
    run.count("refusals", len(refused))
    won[0].append(b"by the winner")
    won[0].close()
    _check_log(path, [b"by the winner"])


def by_forks(run: Run, path: str) -> None:
    """Forked children open the log while their parent has it, and once it has not."""
    log = segstore.open(path, background=False)
    log.append(b"parent")
    for _ in range(RACERS):
        if _in_a_child(lambda: _is_refused(path) and _child_is_refused_its_own(log)) != 0:
            raise BrokenError("a forked child got in while the parent writes")
        run.count("refusals")
    log.close()
    read_end, write_end = os.pipe()
    go_read, go_write = os.pipe()
    # A pipe of its own: the winner must not take the start signal of a slower child.
    end_read, end_write = os.pipe()

    def race() -> bool:
        os.read(go_read, 1)
        try:
            mine = segstore.open(path, background=False)
        except LogLockedError:
            os.write(write_end, b"r")
            return True
        mine.append(b"child")
        os.write(write_end, b"w")
        os.read(end_read, 1)  # held until all have tried
        mine.close()
        return True

    children = [_fork(race) for _ in range(RACERS)]
    os.write(go_write, b"g" * RACERS)
    said = b"".join(_read_in_time(read_end) for _ in range(RACERS))
    os.write(end_write, b"e")
    results = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for end in (read_end, write_end, go_read, go_write, end_read, end_write):
        os.close(end)
    if any(results) or said.count(b"w") != 1:
        raise BrokenError(f"forked children: {said!r}, {results}")
    run.count("refusals", said.count(b"r"))
    _check_log(path, [b"parent", b"child"])


def by_processes(run: Run, path: str) -> None:
    racers = [_Racer(path, str(number)) for number in range(RACERS)]
    try:
        for racer in racers:
            racer.go()
        answers = [racer.answer() for racer in racers]
        won = [racer for racer, answer in zip(racers, answers, strict=True) if answer == "won 0"]
        refused = [answer for answer in answers if answer.startswith("refused")]
        if len(won) != 1 or len(refused) != RACERS - 1:
            raise BrokenError(f"processes: {answers}")
        for answer in refused:
            _check_clear(answer)
        run.count("refusals", len(refused))
        _check_refused(run, path)
        won[0].go()
        if won[0].answer() != "closed":
            raise BrokenError("the winner could not close")
        segstore.open(path, background=False).close()
    finally:
        for racer in racers:
            racer.end()
    _check_log(path, [won[0].name.encode()])


def after_a_kill(run: Run, path: str) -> None:
    holder = _Racer(path, "held")
    try:
        holder.go()
        if holder.answer() != "won 0":
            raise BrokenError("nobody holds the log, and it can't be opened")
        _check_refused(run, path)
    finally:
        holder.end()
    after = segstore.open(path, background=False)
    if after.recovery.lost or after.append(b"next") != 1:
        raise BrokenError("after a kill the log is not as it was")
    after.close()
    _check_log(path, [b"held", b"next"])


def while_stopped(run: Run, path: str) -> None:
    """A stopped holder is alive and goes on later, so it keeps the log."""
    holder = _Racer(path, "held")
    try:
        holder.go()
        if holder.answer() != "won 0":
            raise BrokenError("nobody holds the log, and it can't be opened")
        os.kill(holder.process.pid, signal.SIGSTOP)
        _check_refused(run, path)
        _check_log(path, [b"held"])
        os.kill(holder.process.pid, signal.SIGCONT)
        _check_refused(run, path)
        holder.go()
        if holder.answer() != "closed":
            raise BrokenError("a holder that was stopped could not go on")
    finally:
        holder.end()
    segstore.open(path, background=False).close()


def with_a_child_alive(run: Run, path: str) -> None:
    """A forked child that lives on neither keeps the lock nor may write."""
    log = segstore.open(path, background=run.random.random() < 0.5)
    log.append(b"parent")
    read_end, write_end = os.pipe()

    def wait() -> bool:
        os.close(write_end)
        os.read(read_end, 1)
        return _child_is_refused_its_own(log)

    child = _fork(wait)
    try:
        _check_refused(run, path)
        if log.append(b"parent again") != 1:
            raise BrokenError("I4: another offset after a fork")
        log.close()
        with segstore.open(path, background=False) as again:
            if again.append(b"next") != 2:
                raise BrokenError("I4: another offset after a fork")
            _check_refused(run, path)
    finally:
        os.close(write_end)
        os.close(read_end)
        _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise BrokenError("the forked child wrote, or hung")
    _check_log(path, [b"parent", b"parent again", b"next"])


class _Racer:
    """A process that runs `_RACER`."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RACER, path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        if self.answer() != "ready":
            raise BrokenError("a racer did not start")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = b""
        while not line.endswith(b"\n") and (byte := _read_in_time(self.process.stdout.fileno())):
            line += byte
        return line.decode().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def _read_in_time(descriptor: int) -> bytes:
    if not select.select([descriptor], [], [], 60.0)[0]:
        raise BrokenError("I7: no answer in a minute")
    return os.read(descriptor, 1)


def _check_refused(run: Run, path: str) -> None:
    started = time.monotonic()
    try:
        segstore.open(path, background=False).close()
    except LogLockedError as error:
        _check_clear(str(error))
    else:
        raise BrokenError("two writers have the log")
    if time.monotonic() - started > REFUSED_S_MAX:
        raise BrokenError("I7: being refused took too long")
    run.count("refusals")


def _is_refused(path: str) -> bool:
    try:
        segstore.open(path, background=False)
    except LogLockedError:
        return True
    return False


def _child_is_refused_its_own(log: segstore.Log) -> bool:
    try:
        log.append(b"by the child")
    except LogClosedError:
        return True
    return False


def _check_clear(message: str) -> None:
    if "is being written by" not in message or "mode='r'" not in message:
        raise BrokenError(f"the error does not say what to do: {message}")


def _fork(work: object) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            status = 0 if work() else 2  # type: ignore[operator]
        finally:
            os._exit(status)
    return child


def _in_a_child(work: object) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(_fork(work), 0)[1])


def _check_log(path: str, values: list[bytes]) -> None:
    with segstore.open(path, "r") as log:
        found = list(log.values())
        if found != values or log.recovery.lost:
            raise BrokenError(f"I1: the log holds {found}, not {values}")
    if sorted(name for name in os.listdir(path) if name.endswith(".tmp")):
        raise BrokenError("I6: temporary files are left")
    if not Path(path, "lock").exists():
        raise BrokenError("the lock file was removed")
