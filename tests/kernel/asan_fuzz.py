"""Fuzz the C kernel under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/kernel/asan_fuzz.py [--seconds 60] [--seed N]

Builds the extension a second time, with the sanitizers, in a directory of its own, and calls it in
a child process with hostile arguments for the given time. Every call is also held against the
Python specification. Exits with 0 when nothing was found; the seed is printed first.
"""

from __future__ import annotations

import argparse
import os
import random
import reprlib
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = "address,undefined"


def build(directory: str) -> Path:
    """The package, copied, with a kernel that checks itself."""
    package = Path(directory) / "segstore"
    shutil.copytree(
        ROOT / "segstore", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    command = [
        os.environ.get("CC", "gcc"),
        "-shared",
        "-fPIC",
        "-std=c11",
        "-O1",
        "-g",
        f"-fsanitize={SANITIZERS}",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        f"-I{sysconfig.get_path('include')}",
        str(package / "_kernel.c"),
        "-o",
        str(package / f"_kernel{suffix}"),
    ]
    subprocess.run(command, check=True, timeout=120)
    return package


def run_child(directory: str, seed: int, seconds: float) -> int:
    compiler = os.environ.get("CC", "gcc")
    libraries = [
        subprocess.check_output(
            [compiler, f"-print-file-name={name}"], text=True, timeout=30
        ).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": directory,
        # Python's own allocator would hide what lies between two of its blocks.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    environment.pop("SEGSTORE_PURE", None)
    arguments = ["--child", "--seed", str(seed), "--seconds", str(seconds)]
    return subprocess.run(
        [sys.executable, os.path.abspath(__file__), *arguments],
        env=environment,
        cwd=directory,
        timeout=seconds + 120,
    ).returncode


class BytesSubclass(bytes):
    pass


class Fuzz:
    def __init__(self, rng: random.Random) -> None:
        from segstore import _kernel
        from segstore.format import columns, framejoin, pointread, smallframes
        from segstore.format.batch import Record
        from segstore.format.checksum import crc32c
        from segstore.format.frame import decode_frame, encode_frame
        from segstore.segment.tailbuffer import PythonTailBuffer

        self.rng = rng
        self.kernel = _kernel
        self.homes = columns, framejoin, pointread, smallframes
        self.encode_frame = encode_frame
        self.decode_frame = decode_frame
        self.crc32c = crc32c
        self.record_type = Record
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process
        self.tails = _kernel.TailBuffer, PythonTailBuffer

    def number(self) -> object:
        rng = self.rng
        return rng.choice(
            [
                rng.randint(-2, 9),
                rng.randint(-(2**66), 2**66),
                (1 << rng.randint(0, 66)) + rng.randint(-2, 2),
                -(1 << rng.randint(0, 66)),
                rng.choice([None, 1.5, "7", True]),
            ]
        )

    def value(self) -> object:
        rng = self.rng
        data = rng.randbytes(rng.choice([0, 1, 7, 8, 9, rng.randint(0, 900), rng.randint(0, 9000)]))
        if rng.random() < 0.9:
            return data
        return rng.choice(
            [bytearray(data), memoryview(data), memoryview(data)[::2], BytesSubclass(data), "x", 5]
        )

    def values(self) -> object:
        rng = self.rng
        if rng.random() < 0.02:
            return rng.choice([None, 5, "x", b"xy", ()])
        if rng.random() < 0.5:
            return [rng.randbytes(rng.randint(0, 30)) for _ in range(rng.randint(0, 20))]
        return [self.value() for _ in range(rng.randint(0, 6))]

    def same(self, name: str, *args: object) -> None:
        found = self.outcome(getattr(self.kernel, name), *args)
        home = next(home for home in self.homes if hasattr(home, name))
        expected = self.outcome(getattr(home, name), *args)
        assert found == expected, (name, *map(reprlib.repr, (args, found, expected)))

    def outcome(self, function: object, *args: object) -> object:
        try:
            found = function(*args)  # type: ignore[operator]
            if isinstance(found, Iterator):
                found = list(found)
        except Exception as error:
            return type(error), str(error)
        if type(found) is tuple:
            return tuple(map(self.plain, found))
        return found

    @staticmethod
    def plain(found: object) -> object:
        """A column of bytes as bytes, and one of numbers as a list."""
        if not isinstance(found, memoryview):
            return found
        return bytes(found) if found.format == "B" else found.tolist()

    def split(self) -> None:
        rng = self.rng
        items = [rng.randbytes(rng.randint(0, 9)) for _ in range(rng.randint(0, 6))]
        offsets = [0]
        for item in items:
            offsets.append(offsets[-1] + len(item))
        if rng.random() < 0.6:
            place = rng.randrange(len(offsets))
            offsets[place] = rng.choice(
                [rng.randint(-(2**31), 2**31 - 1), rng.randint(-3, 60), 2**31 - 1, -(2**31)]
            )
        before = rng.randint(0, 9)
        data = bytes(before) + struct.pack(f"<{len(offsets)}i", *offsets) + b"".join(items)
        if rng.random() < 0.3:
            data = data[: rng.randint(0, len(data))]
        stop = rng.randint(0, len(items))
        args = [before, rng.randint(0, stop), stop, before + 4 * len(offsets)]
        if rng.random() < 0.4:
            args[rng.randrange(4)] = self.number()
        # An exact allocation, so that the sanitizer sees one byte too many.
        dress = rng.choice([bytes, bytearray, memoryview, BytesSubclass])
        self.same("iter_column", dress(data), *args)

    def point(self) -> None:
        """The head of a frame, whole or hurt, under a checksum that often holds all the same."""
        rng = self.rng
        values = [rng.randbytes(rng.randint(0, 3000)) for _ in range(rng.randint(1, 9))]
        times = rng.choice([7, [rng.randint(0, 99) for _ in values]])
        fields = {"append_time": 0, "log_tag": 5, "durable_offset": 0}
        keys = rng.choice([None, None, self.keys(len(values))])
        frame = bytearray(self.encode_frame(3, values, times, keys, **fields).data)
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            at = rng.choice([rng.randint(8, 63), rng.randrange(len(frame)), 64 + 4 * len(values)])
            size = rng.choice([1, 4, 8])
            frame[at : at + size] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
        end = rng.choice([rng.randrange(len(frame)), len(frame) - sum(map(len, values)) & ~7])
        if rng.random() < 0.7:
            frame[4:8] = self.crc32c(bytes(frame[8:end])).to_bytes(4, "little")
        data = bytes(frame[: rng.choice([rng.randint(0, len(frame)), end, len(frame)])])
        tag = rng.choice([5, 5, None, self.number()])
        self.same("decode_head", data, tag)
        head = self.kernel.decode_head(bytes(frame), 5)
        if not isinstance(head, tuple):
            return
        # What stands in the file is not what the head says, often enough.
        descriptor = self.file.fileno()
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, bytes(frame[: rng.choice([len(frame)] * 3 + [rng.randrange(9000)])]), 9
        )
        point = [
            lambda size, position: os.pread(descriptor, size, position),
            rng.choice([descriptor] * 6 + [None, -1, 2**40]),
            self.places(),
            rng.choice([[head], [None, head], [head] * 3, [head] * 3, [], [None], (head,)]),
            rng.choice([0] * 6 + [2, 5, -1, 2**63, None]),
            rng.choice([rng.randint(2, 12)] * 9 + [2**32, 2**64, -1, True]),
            rng.choice([self.record_type] * 8 + [lambda *fields: fields]),
        ]
        self.same("read_record", *point)
        # No head that was decoded: whatever comes out, nothing may be touched that is not there.
        hurt = bytearray(head[0][: rng.choice([len(head[0])] * 3 + [rng.randint(0, 200)])])
        for _ in range(rng.randint(0, 5) if hurt else 0):
            hurt[rng.randrange(len(hurt))] = rng.choice([0, 1, 127, 255])
        lies = [(bytes(hurt), *head[1:]), (hurt, *head[1:]), head[:6], 5, None]
        point[3] = [rng.choice(lies) for _ in range(3)]
        self.outcome(self.kernel.read_record, *point)

    def small_frames(self) -> None:
        """Frames of one record in a row, whole or hurt, mostly under a checksum that holds."""
        rng = self.rng
        frames = bytearray(rng.randbytes(8 * rng.randint(0, 2)))
        position = len(frames)
        for offset in range(3, 3 + rng.randint(1, 5)):
            values = [rng.randbytes(rng.choice([rng.randint(0, 30), rng.randint(0, 5000)]))]
            values *= rng.choice([1, 1, 1, 1, 2])
            keys = rng.choice([None, None, self.keys(len(values))])
            fields = {"append_time": 0, "log_tag": 5, "durable_offset": 0}
            frame = bytearray(self.encode_frame(offset, values, -offset, keys, **fields).data)
            for _ in range(rng.choice([0, 0, 0, 1, 2])):
                at, size = rng.choice([rng.randrange(len(frame)), 64, 68, 72, 76]), 4
                frame[at : at + size] = rng.choice([rng.randbytes(size), b"\xff" * size, bytes(4)])
            frame = frame[: rng.choice([len(frame)] * 9 + [len(frame) & 127])]
            if rng.random() < 0.8:
                frame[4:8] = self.crc32c(bytes(frame[8:])).to_bytes(4, "little")
            frames += frame
        dress = rng.choice([memoryview] * 6 + [bytes, lambda data: memoryview(data)[::2]])
        arguments = [dress(bytes(frames)), position, 3, 5]
        if rng.random() < 0.1:
            arguments[rng.randint(1, 3)] = self.number()
        found = []
        for take in (self.kernel.take_records, self.homes[-1].take_records):
            columns = [], [], []
            found.append((self.outcome(take, *arguments, *columns), columns))
        assert found[0] == found[1], reprlib.repr((arguments, found))

    def places(self) -> object:
        """An index whose last entries may lead to the frame at 9, which holds offsets from 3 on."""
        rng = self.rng
        found = sorted(rng.randint(0, 6) << 32 | rng.choice([9] * 5 + [0, 8]) for _ in range(3))
        found = found[: rng.choice([3, 3, 3, 1, 0])]
        dress = [lambda: array("Q", found)] * 6 + [lambda: found, lambda: array("q", found)]
        return rng.choice([*dress, lambda: array("I", [9]), lambda: None])()

    def records(self) -> None:
        rng = self.rng
        values = self.values()
        size = len(values) if isinstance(values, list) else 2
        if rng.random() < 0.2:
            size = rng.randint(0, 7)
        times = rng.choice(
            [
                self.number(),
                [rng.randint(-(2**63), 2**63 - 1) for _ in range(size)],
                memoryview(rng.randbytes(8 * size)).cast("q"),
                memoryview(rng.randbytes(4 * size)).cast("i"),
            ]
        )
        keys = rng.choice([None, [rng.choice([None, b"k"]) for _ in range(size)], (), 3])
        kind = rng.choice([self.record_type] * 8 + [tuple, list, int, None])
        base = rng.choice([5, self.number()])
        self.same(
            "iter_records", kind, base, times, keys, values, rng.choice([size, self.number()])
        )

    def tail(self) -> None:
        rng = self.rng
        size = rng.choice([4096, 4096 + rng.randint(0, 400), 4096 + rng.randint(0, 9000)])
        memories, buffers = [], []
        for kind in self.tails:
            memory = bytearray(size)
            bell = memoryview(bytearray(4)).cast("I")
            buffers.append(
                kind(memoryview(memory), 7, threading.Lock(), *[self.slow] * 2, bell, lambda: None)
            )
            memories.append(memory)
        for buffer in buffers:
            buffer.is_open = True
            buffer.batch_bytes_max = 3000
        for _ in range(rng.randint(1, 12)):
            what = rng.random()
            value = self.value()
            if what < 0.7:
                found = [self.outcome(buffer.append, value) for buffer in buffers]
            elif what < 0.75:
                batch = self.values()
                size = len(batch) if isinstance(batch, list) else 2
                times = [rng.randint(-(2**63) - 1, 0) for _ in range(size)]
                options = {
                    "keys": rng.choice([None, self.keys(size), self.values()]),
                    "timestamps": rng.choice([None, None, times, self.number()]),
                }
                found = [
                    self.outcome(lambda b=b, v=batch, o=options: b.append_many(v, **o))
                    for b in buffers
                ]
            elif what < 0.8:
                key = rng.choice([b"k", rng.randbytes(rng.randint(0, 500)), self.value()])
                time_ns = rng.choice([None, -rng.randint(0, 2**66), self.number()])
                options = {"key": key, "timestamp": time_ns}
                found = [
                    self.outcome(lambda b=b, v=value, o=options: b.append(v, **o)) for b in buffers
                ]
            elif what < 0.85:
                position = 4096 + rng.randint(0, 9020)
                for buffer in buffers:
                    buffer.position = position
                continue
            elif what < 0.88:
                limit = rng.choice([rng.randint(0, size), size])
                for buffer in buffers:
                    buffer.limit = limit
                continue
            elif what < 0.9:
                for buffer in buffers:
                    buffer.restart()
                continue
            elif what < 0.93:
                staged = [b"staged"] * rng.randint(0, 200)
                times = [rng.randint(-(2**63) - 1, 0) for _ in staged[rng.randint(0, 1) :]]
                keys = rng.choice([None, self.keys(len(staged)), self.keys(rng.randint(0, 200))])
                found = [
                    self.outcome(lambda b=b, s=staged, t=times, k=keys: b.stage(s, t, k))
                    for b in buffers
                ]
                found = [each is None for each in found]
            else:
                frame = rng.randbytes(rng.randint(8, 100))
                if buffers[0].position + len(frame) <= buffers[0].limit:
                    for buffer in buffers:
                        buffer.store(frame)
                continue
            assert found[0] == found[1], (value, found)
        first, second = buffers
        if rng.random() < 0.2:
            first.release()
            assert first.append(b"x") == -1
        count = first.staged_count
        assert (count, first.has_keys) == (second.staged_count, second.has_keys)
        assert list(map(list, first.ends())) == list(map(list, second.ends()))
        start = rng.randint(0, count)
        for places in ((0, count), (start, rng.randint(start, count)), (start, count + 1)):
            found = [
                self.outcome(lambda b=b, p=places: self.decoded(b.join_frame(*p, 5)[2]))
                for b in buffers
            ]
            assert found[0] == found[1], (places, found)
        assert first.position == second.position
        assert first.next_offset == second.next_offset

    def decoded(self, frame: bytes) -> object:
        """What a frame holds, without the times that were taken from the clock."""
        batch = self.decode_frame(memoryview(frame), 0, 7)
        times = [time if time <= 0 else None for time in batch.timestamps]
        return batch.header.attributes & 6, batch.values(), batch.keys(), times

    def keys(self, count: int) -> list[bytes | None]:
        rng = self.rng
        return [rng.choice([None, b"", rng.randbytes(rng.randint(0, 30))]) for _ in range(count)]

    @staticmethod
    def slow(value: object, **keywords: object) -> int:
        return -1

    def step(self) -> None:
        what = self.rng.randrange(11)
        if what == 10:
            self.small_frames()
        elif what < 2:
            self.split()
        elif what >= 8:
            self.point()
        elif what == 2:
            self.records()
        elif what == 3:
            self.tail()
        elif what < 7:
            self.frame(self.values())
        else:
            self.measure(self.values())

    def frame(self, values: object) -> None:
        rng = self.rng
        size = len(values) if isinstance(values, list) else 2
        places = rng.choice([(0, size), (1, size), (0, size + 1), (self.number(), self.number())])
        times = [rng.randint(-(2**63), 2**63 - 1) for _ in range(size)]
        some = [self.number(), times, [7] * size, [self.number()], [3, 1], tuple(times)]
        fields = rng.choice([[1, -2, 3, 4], [self.number() for _ in range(4)]])
        keys = rng.choice([None, None, self.keys(size), self.keys(size), self.values()])
        self.same("join_frame", values, None, *places, rng.choice(some), keys, *fields)
        sizes = rng.choice([(0, 1 << 20), (9, 99), (self.number(), self.number())])
        self.same("join_whole", values, *sizes, rng.choice([7, self.number()]), *fields)

    def measure(self, values: object) -> None:
        self.same("measure", values)


def fuzz(seed: int, seconds: float) -> None:
    fuzz = Fuzz(random.Random(seed))
    assert "segstore/_kernel" in fuzz.kernel.__file__
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        for _ in range(200):
            fuzz.step()
        count += 200
    print(f"{count} calls, no difference and nothing for the sanitizers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.seed, options.seconds)
        return 0
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        build(directory)
        return run_child(directory, options.seed, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
