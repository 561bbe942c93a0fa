"""Opening, closing, and logs that nobody closes."""

import errno
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

import segstore
from segstore import ConfigError, LogClosedError, LogNotFoundError, ReadOnlyError, StorageError
from tests.directories import contents


@pytest.fixture
def maintenance_threads():
    """Asks for those of now, but for what tests left that interrupt a thread while it starts."""
    before = threading.enumerate()
    return lambda: [
        thread
        for thread in threading.enumerate()
        if thread.name == "segstore" and thread not in before
    ]


def test_closing_twice_is_fine_and_everything_after_it_is_refused(path):
    log = segstore.open(path)
    append = log.append
    log.append(b"x")
    reading = log.read()
    log.close()
    log.close()
    calls = [
        lambda: log.append(b"y"),
        lambda: append(b"y"),
        lambda: log.append_many([b"y"]),
        lambda: log.sync(),
        lambda: log.roll(),
        lambda: log.maintain(),
        lambda: log.read(),
        lambda: log.values(),
        lambda: log.batches(),
        lambda: log[0],
        lambda: len(log),
        lambda: iter(log),
        lambda: log.offset_for_time(0),
        lambda: log.segments(),
        lambda: log.verify(),
        lambda: log.stats(),
        lambda: log.start_offset,
        lambda: log.end_offset,
        lambda: log.durable_offset,
    ]
    for call in calls:
        with pytest.raises(LogClosedError):
            call()
    assert "closed" in repr(log)
    assert log.path == path
    try:
        assert [record.value for record in reading] == [b"x"]
    except LogClosedError:
        pass


def test_a_log_that_is_being_closed_takes_nothing_more(path):
    log = segstore.open(path, background=False)
    with log._housekeeping:  # for which `close` waits
        closing = threading.Thread(target=log.close)
        closing.start()
        deadline = time.monotonic() + 5
        while {"append", "append_many"} & vars(log).keys() and time.monotonic() < deadline:
            time.sleep(0.001)
        for call in (lambda: log.append(b"x"), lambda: log.append_many([b"x"]), log.sync):
            with pytest.raises(LogClosedError):
                call()
    closing.join()
    assert segstore.open(path, "r").end_offset == 0


@pytest.mark.parametrize("durability", ["written", "durable"])
def test_an_append_that_is_done_when_another_thread_closes_the_log_returns(path, durability):
    log = segstore.open(path, background=False)
    writer = log._writer
    after_append = writer._after_append

    def closed_before(*arguments):
        closing = threading.Thread(target=log.close)
        closing.start()
        closing.join()
        after_append(*arguments)

    writer._after_append = closed_before
    assert log.append_many((b"a", b"b"), durability=durability) == range(2)
    with segstore.open(path, "r") as reader:
        assert list(reader.values()) == [b"a", b"b"]


def test_an_iterator_that_outlives_its_log_ends_with_an_error_of_ours(path):
    log = segstore.open(path, segment_size=4096, batch_size=1000, background=False)
    log.append_many([b"x" * 100] * 500)
    log.maintain()
    reading = log.values()
    assert next(reading) == b"x" * 100
    searching = log.find(b"key", 0, 100)  # which no filter there has
    assert len(list(log.values(10, 12))) == 2
    at_hand = log.values(11, 13)  # of a batch that was kept for it
    log.close()
    for iterator in (reading, searching, at_hand):
        with pytest.raises(LogClosedError):
            list(iterator)


def test_a_closed_reader_refuses_too(path):
    segstore.open(path).close()
    log = segstore.open(path, "r")
    log.close()
    with pytest.raises(LogClosedError):
        list(log)


def test_a_reader_refuses_to_write(path):
    segstore.open(path).close()
    with segstore.open(path, "r") as log:
        for call in (lambda: log.append(b"x"), lambda: log.append_many([]), log.sync, log.roll,
                     log.maintain):  # fmt: skip
            with pytest.raises(ReadOnlyError, match="mode='a'"):
                call()


@pytest.mark.parametrize("mode", ["w", "rw", "", None, "A"])
def test_an_unknown_mode_is_refused(path, mode):
    with pytest.raises(ConfigError):
        segstore.open(path, mode)
    assert not os.path.exists(path)


def test_a_reader_of_no_log_is_told_so_and_makes_nothing(path, tmp_path):
    with pytest.raises(LogNotFoundError):
        segstore.open(path, "r")
    assert not os.path.exists(path)
    with pytest.raises(FileNotFoundError):
        segstore.open(path, "r")
    os.mkdir(path)
    with pytest.raises(LogNotFoundError):
        segstore.open(path, "r")
    assert os.listdir(path) == []


def test_a_file_in_place_of_the_directory_is_a_storage_error(path):
    with open(path, "wb"):
        pass
    with pytest.raises(StorageError):
        segstore.open(path)
    with pytest.raises(segstore.SegstoreError):
        segstore.open(path, "r")


def test_files_and_directories_are_for_their_owner_only_whatever_the_umask(path):
    before = os.umask(0)
    try:
        with segstore.open(os.path.join(path, "deep", "log")) as log:
            log.append(b"x")
            log.roll()
    finally:
        os.umask(before)
    for root, _, names in os.walk(path):
        assert os.stat(root).st_mode & 0o777 == 0o700
        for name in names:
            assert os.stat(os.path.join(root, name)).st_mode & 0o777 == 0o600


def test_an_abandoned_log_goes_away_with_its_thread_and_loses_nothing(path, maintenance_threads):
    log = segstore.open(path)
    log.append(b"x")
    gone = weakref.ref(log)
    assert maintenance_threads()
    del log
    gc.collect()
    assert gone() is None
    deadline = time.monotonic() + 10
    while maintenance_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not maintenance_threads()
    with segstore.open(path) as log:
        assert list(log.values()) == [b"x"]


def test_a_kept_append_keeps_the_log_and_its_lock(path):
    append = segstore.open(path).append
    gc.collect()
    assert append(b"x") == 0
    with pytest.raises(segstore.LogLockedError):
        segstore.open(path)
    del append
    gc.collect()
    with segstore.open(path) as log:
        assert list(log.values()) == [b"x"]


def test_no_descriptor_and_no_thread_is_left_behind(path, maintenance_threads):
    def open_and_close():
        with segstore.open(path, segment_size=4096, batch_size=1000) as log:
            log.append_many([b"x" * 100] * 100)
            list(log)
            with segstore.open(path, "r") as reader:
                list(reader)
        del log, reader
        gc.collect()

    open_and_close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        open_and_close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not maintenance_threads()


EXIT = """
import sys, threading, segstore
log = segstore.open(sys.argv[1])
for number in range(1000):
    log.append(b"%d" % number)
if sys.argv[2] == "raise":
    raise KeyError("on purpose")
if sys.argv[2] == "exit":
    sys.exit(3)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("exit", 3), ("raise", 1)])
def test_an_interpreter_that_exits_without_closing_loses_nothing(path, how, code):
    done = subprocess.run(
        [sys.executable, "-c", EXIT, path, how], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert (b"KeyError" in done.stderr) == (how == "raise")
    with segstore.open(path) as log:
        assert list(log.values()) == [b"%d" % number for number in range(1000)]
        assert log.recovery.was_clean


def test_a_reader_changes_no_file(path):
    with segstore.open(path, segment_size=4096, batch_size=1000) as log:
        log.append_many([b"x" * 100] * 300, keys=[b"k"] * 300)
        log.append(b"tail")
    before = contents(path, without=())
    with segstore.open(path, "r") as log:
        list(log)
        log[5]
        log.offset_for_time(0)
        log.segments()
        log.stats()
        log.verify()
        list(log.find(b"k"))
    assert contents(path, without=()) == before


@pytest.mark.parametrize("mode", ["a", "r"])
def test_what_was_closed_is_not_entered_again(path, mode):
    segstore.open(path).close()
    log = segstore.open(path, mode)
    consumer = log.consumer("one")
    consumer.close()
    with pytest.raises(LogClosedError, match="consumer 'one' was closed"), consumer:
        pass
    log.close()
    with pytest.raises(LogClosedError), log:
        pass


def test_the_context_manager_closes_on_an_error_too(path):
    with pytest.raises(KeyError):
        with segstore.open(path) as log:
            raise KeyError
    with pytest.raises(LogClosedError):
        log.append(b"x")


def test_an_empty_log_is_empty(path):
    with segstore.open(path) as log:
        assert (len(log), log.start_offset, log.end_offset, log.durable_offset) == (0, 0, 0, 0)
        assert list(log) == []
        assert log.offset_for_time(0) is None
        assert log.verify().is_intact
        assert [info.state for info in log.segments()] == ["active"]
    with segstore.open(path, "r") as log:
        assert list(log) == []


def test_close_waits_for_what_another_thread_does_to_the_files(path):
    log = segstore.open(path, background=False, compression=None)
    for _ in range(3):
        log.append(b"x")
        log.roll()
    at_work, may_go = threading.Event(), threading.Event()
    sweep = log._sweeper.sweep

    def slow_sweep(**options):
        at_work.set()
        may_go.wait(10)
        return sweep(**options)

    log._sweeper.sweep = slow_sweep
    trimming = threading.Thread(target=log.trim, args=(2,))
    trimming.start()
    at_work.wait(10)
    closing = threading.Thread(target=log.close)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    with pytest.raises(segstore.LogLockedError):
        segstore.open(path)
    may_go.set()
    trimming.join(10)
    closing.join(10)
    with segstore.open(path) as log:
        assert log.start_offset == 2


def test_what_was_registered_for_the_exit_since_the_import_still_has_its_log(path):
    code = f"""
import atexit, segstore
atexit.register(lambda: print(log.append(b"at the exit")))
log = segstore.open({path!r})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("0\n", "")
    with segstore.open(path, "r") as log:
        assert list(log.values()) == [b"at the exit"]


def test_a_log_without_its_thread_is_not_opened_and_not_locked(path, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StorageError, match="background=False") as caught:
            segstore.open(path)
        with segstore.open(path, background=False) as log:
            log.append(b"x")
    del caught
    segstore.open(path).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")
def test_what_a_user_may_not_see_is_no_missing_log_and_names_the_file(tmp_path):
    path = tmp_path / "private" / "log"
    segstore.open(path, background=False).close()
    for ancestor in list(path.parents)[:4]:
        ancestor.chmod(0o755)
    path.parent.chmod(0o700)
    assert refusals_of_another_user(path) == [(errno.EACCES, False)] * 2
    for open_to_all in (path.parent, path):
        open_to_all.chmod(0o777)
    for file in path.iterdir():
        file.chmod(0o600 if file.suffix == ".log" else 0o666)
    assert refusals_of_another_user(path) == [(errno.EACCES, True)] * 2


def refusals_of_another_user(path):
    """The number of each mode's error, and whether it names a data file."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        for mode in "ra":
            try:
                segstore.open(path, mode)
            except StorageError as error:
                os.write(writing, f"{error.errno} {'.log:' in str(error)}\n".encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as lines:
        found = [line.split() for line in lines]
    os.waitpid(child, 0)
    return [(int(number), is_named == "True") for number, is_named in found]


def test_a_log_is_not_reversed_by_counting_down_from_its_length(path):
    with segstore.open(path, background=False) as log:
        log.append_many([b"%d" % number for number in range(10)])
        log.trim(7)
        with pytest.raises(TypeError, match="not reversible"):
            reversed(log)


def test_a_follower_says_where_it_is(path):
    with segstore.open(path, background=False) as log:
        log.append_many([b"one", b"two"])
        follower = log.follow("start")
        next(follower)
        assert repr(follower) == "<segstore.Follower at 1>"


@pytest.mark.parametrize("name", ["log", "log \xfc\u65e5", "log \udcff\n"])
def test_a_path_may_be_given_as_bytes(tmp_path, name):
    path = os.fsencode(tmp_path / name)
    with segstore.open(path, background=False) as log:
        log.append(b"x")
        log.roll()
        assert log.path == os.fsdecode(path)
        assert os.path.exists(log.segments()[0].path)
        log.snapshot(path + b" copy")
    with segstore.open(path + b" copy", "r") as copy:
        assert list(copy.values()) == [b"x"]
    with pytest.raises(LogNotFoundError, match="nowhere"):
        segstore.open(b"nowhere", "r")


@pytest.mark.parametrize("mode", ["a", "r"])
def test_an_empty_path_is_refused_as_such(mode):
    with pytest.raises(ConfigError, match="path of the log is empty"):
        segstore.open("", mode)
