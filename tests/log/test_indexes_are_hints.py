"""With every index gone, cut short, full of garbage or of another segment, results are the same."""

import os
import random
import shutil

import pytest

import segstore
from tests.directories import contents, names_ending

OPTIONS = {"background": False, "segment_size": 20_000, "batch_size": 1500, "index_interval": 200}


def make(path, compression, seed=1, count=600):
    chance = random.Random(seed)
    with segstore.open(path, compression=compression, **OPTIONS) as log:
        for start in range(0, count, 20):
            log.append_many(
                [b"%05d" % n + bytes(90) for n in range(start, start + 20)],
                keys=[b"%d" % chance.randrange(9) for _ in range(20)],
                timestamps=[n + chance.randrange(200) for n in range(start, start + 20)],
            )
        log.maintain()
        log.append_many([b"last"] * 30, timestamps=range(900, 930))
        log.sync()


def answers(path, mode):
    with segstore.open(path, mode, **OPTIONS) as log:
        chance = random.Random(3)
        offsets = [chance.randrange(log.end_offset) for _ in range(60)]
        return (
            list(log),
            [log[offset] for offset in offsets],
            [list(log.values(offset, offset + 5)) for offset in offsets],
            [log.offset_for_time(timestamp) for timestamp in range(-5, 1000, 17)],
            list(log.find(b"3")),
            log.start_offset,
            log.end_offset,
            log.verify().lost,
            log.recovery.lost,
        )


def delete(path, name):
    os.unlink(os.path.join(path, name))


def cut(path, name):
    os.truncate(os.path.join(path, name), os.path.getsize(os.path.join(path, name)) // 2)


def empty(path, name):
    os.truncate(os.path.join(path, name), 0)


def fill(data):
    def fill_with(path, name):
        size = os.path.getsize(os.path.join(path, name))
        with open(os.path.join(path, name), "wb") as file:
            file.write((data * size)[:size])

    return fill_with


def shuffle_entries(path, name):
    """The head stays, the entries change places."""
    with open(os.path.join(path, name), "r+b") as file:
        head, body = file.read(192), file.read()
        entries = [body[at : at + 16] for at in range(0, len(body), 16)]
        random.Random(5).shuffle(entries)
        file.seek(0)
        file.write(head + b"".join(entries))


def change_entries(path, name, change):
    """Have `change` alter each entry that there is."""
    with open(os.path.join(path, name), "r+b") as file:
        file.seek(192)
        body = bytearray(file.read())
        for at in range(0, len(body) - 15, 16):
            if any(body[at : at + 4]):
                change(body, at)
        file.seek(192)
        file.write(body)


def move_positions(path, name):
    """Each entry points somewhere else, in rising order."""

    def move(body, at):
        position = int.from_bytes(body[at : at + 4], "little") + 8
        body[at : at + 4] = position.to_bytes(4, "little")

    change_entries(path, name, move)


def move_times(path, name):
    """Each entry says that the records up to it are much older than they are."""

    def move(body, at):
        time = int.from_bytes(body[at + 8 : at + 16], "little", signed=True) - 500
        body[at + 8 : at + 16] = time.to_bytes(8, "little", signed=True)

    change_entries(path, name, move)


def of_another(path, name):
    """The index of the segment before, or after."""
    names = names_ending(path, ".index")
    other = names[names.index(name) - 1]
    shutil.copy(os.path.join(path, other), os.path.join(path, name + ".new"))
    os.rename(os.path.join(path, name + ".new"), os.path.join(path, name))


WAYS = {
    "deleted": delete,
    "cut": cut,
    "empty": empty,
    "zeros": fill(b"\0"),
    "ones": fill(b"\xff"),
    "noise": fill(random.Random(7).randbytes(997)),
    "shuffled": shuffle_entries,
    "moved": move_positions,
    "older": move_times,
    "another's": of_another,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("mode", ["r", "a"])
def test_results_are_the_same_whatever_became_of_the_indexes(path, way, compression, mode):
    make(path, compression)
    expected = answers(path, "r")
    assert len(names_ending(path, ".index")) >= 4
    for name in names_ending(path, ".index"):
        WAYS[way](path, name)
    assert answers(path, mode) == expected
    if mode == "r":
        assert answers(path, "a") == expected
    assert answers(path, "a") == expected


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_each_index_may_be_missing_on_its_own(path, tmp_path, compression):
    make(path, compression)
    expected = answers(path, "r")
    for name in names_ending(path, ".index"):
        copy = str(tmp_path / name)
        shutil.copytree(path, copy)
        os.unlink(os.path.join(copy, name))
        assert answers(copy, "r") == expected
        assert answers(copy, "a") == expected


def test_opening_with_missing_indexes_twice_changes_nothing_the_second_time(path):
    make(path, None)
    for name in names_ending(path, ".index"):
        os.unlink(os.path.join(path, name))
    answers(path, "a")
    before = contents(path)
    answers(path, "a")
    assert contents(path) == before


def test_an_index_that_goes_wrong_under_a_reader_costs_no_record(path):
    options = {"background": False, "compression": None, "batch_size": 1000}
    with segstore.open(path, **options) as log:
        count = 0
        name = names_ending(path, ".index")[0]
        with segstore.open(path, "r") as reader:
            for _ in range(8):
                log.append_many([b"%05d" % n * 20 for n in range(count, count + 2000)])
                log.sync()
                count += 2000
                with open(os.path.join(path, name), "r+b") as file:  # in place: it is mapped
                    file.seek(192)
                    body = bytearray(file.read())
                    for at in range(0, len(body), 16):
                        if any(body[at : at + 4]):
                            body[at] ^= 8
                    file.seek(192)
                    file.write(body)
                for offset in range(0, count, 331):
                    assert reader[offset].value == b"%05d" % offset * 20
                    (value,) = reader.values(offset, offset + 1)
                    assert value == b"%05d" % offset * 20
