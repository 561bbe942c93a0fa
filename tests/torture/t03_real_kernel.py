"""T3: on a really full disk appends fail with ENOSPC as a StorageError, reads go on, retention
frees space, and appends then work again without reopening; cutting a real ext4 or XFS loses
nothing durable.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import segstore
from tests.torture.campaign import BrokenError, Run, SkippedError

CUTS = 500
# The smallest that mkfs makes, more or less; the image is a sparse file.
FILE_SYSTEMS = (("ext4", 24 << 20, ("-F",)), ("xfs", 320 << 20, ("-f",)))


def run(run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="segstore-") as path:
        mount = os.path.join(path, "mount")
        os.mkdir(mount)
        _call("mount", "-t", "tmpfs", "-o", "size=6m", "none", mount)
        try:
            fill(run, mount)
            run.count("full disks")
        finally:
            _unmount(mount)
        for kind, size_bytes, options in FILE_SYSTEMS:
            image = os.path.join(path, kind)
            with open(image, "wb") as file:
                file.truncate(size_bytes)
            try:
                _call(f"mkfs.{kind}", "-q", *options, image)
                cut_often(run, kind, image, mount)
            except SkippedError as reason:
                run.notes.append(f"no {kind}: {reason}")


def cut_often(run: Run, kind: str, image: str, mount: str) -> None:
    with _mounted(image, mount):
        if kind == "ext4":
            fill(run, mount)
            run.count("full disks")
    for number in range(run.wanted(CUTS)):
        # Each file system has its share of the time.
        if run.seconds >= run.budget.seconds * (0.5 if kind == "ext4" else 1):
            return
        cut(run, image, mount, number)
        run.count(f"cuts of {kind}")


def fill(run: Run, mount: str) -> None:
    filler = os.path.join(mount, "filler")
    path = os.path.join(mount, "log")
    with segstore.open(path, segment_size="256KiB", retention_size="1MiB", background=False) as log:
        sent = []
        with open(filler, "wb") as file:
            file.write(bytes(2 << 20))
        for number in range(100_000):
            value = b"%d " % number + bytes(3000)
            try:
                log.append(value)
            except segstore.StorageError as error:
                if error.errno != errno.ENOSPC:
                    raise BrokenError(f"a full disk raised {error!r}") from error
                break
            sent.append(value)
        else:
            raise BrokenError("the disk never filled")
        run.count("records", len(sent))
        if list(log.values()) != sent:
            raise BrokenError("a full disk cost records")
        swept = log.sweep()
        if not swept.segments:
            raise BrokenError("retention freed nothing on a full disk")
        sent = [*sent[swept.start_offset :], b"after the sweep"]
        log.append(sent[-1], durability="durable")
        os.unlink(filler)
        for number in range(50):
            sent.append(b"again %d" % number)
            log.append(sent[-1], durability="durable")
        if list(log.values()) != sent:
            raise BrokenError("appending after a full disk went wrong")
    with segstore.open(path) as log:
        if list(log.values()) != sent or log.recovery.cut or log.recovery.lost:
            raise BrokenError("reopening after a full disk went wrong")
        log.trim(log.end_offset)


# The ioctl that ext4 has from XFS: shut down without a flush of the journal, as a power cut does
# it. In a process of its own, so that nothing of it keeps the file system from being unmounted.
_CUT = """
import fcntl, json, os, sys
from random import Random
import segstore
mount, name, random = sys.argv[1], sys.argv[2], Random(int(sys.argv[3]))
log = segstore.open(
    os.path.join(mount, name), segment_size="16KiB", batch_size="2KiB", background=False
)
sent, durable = [], 0
for step in range(random.randrange(5, 60)):
    sent.append(f"{name} {step} " + "x" * random.randrange(900))
    is_durable = random.random() < 0.3
    log.append(sent[-1].encode(), durability="durable" if is_durable else None)
    durable = len(sent) if is_durable else durable
    if random.random() < 0.1:
        log.roll()
    if random.random() < 0.1:
        log.maintain()
        durable = len(sent)
fcntl.ioctl(os.open(mount, os.O_RDONLY), 0x8004587D, (2).to_bytes(4, "little"))
print(json.dumps([durable, sent]), flush=True)
os._exit(0)
"""


def cut(run: Run, image: str, mount: str, number: int) -> None:
    """Append, roll and compress, shut the file system down, mount it again and look."""
    name = f"cut{number}"
    seed = run.random.getrandbits(32)
    with _mounted(image, mount):
        done = subprocess.run(
            [sys.executable, "-c", _CUT, mount, name, str(seed)],
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise SkippedError(f"no shutdown: {done.stderr.decode()[-200:]}")
    durable, texts = json.loads(done.stdout)
    sent = [text.encode() for text in texts]
    with _mounted(image, mount):
        with segstore.open(os.path.join(mount, name), background=False) as log:
            found = list(log.values())
            if found != sent[: len(found)] or len(found) < durable or log.recovery.lost:
                raise BrokenError(f"{durable} durable, {len(found)} found: {log.recovery}")
        del log
        subprocess.run(["rm", "-rf", os.path.join(mount, name)], check=True)


@contextmanager
def _mounted(image: str, mount: str) -> Iterator[None]:
    _call("mount", "-o", "loop", image, mount)
    try:
        yield
    finally:
        _unmount(mount)


def _unmount(mount: str) -> None:
    gc.collect()  # what a closed log still held open for its readers
    _call("umount", mount)


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", b"") or str(error).encode()
        raise SkippedError(f"{command[0]}: {text.decode(errors='replace').strip()}") from error
