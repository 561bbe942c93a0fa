"""T4: whichever bit flips, whichever sector or length is wrong and whichever file is missing, no
wrong record is returned, at most the batch that was hit is lost, or the block of it where only
values were hit, and what is lost is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from segstore.config import LogConfig
from segstore.errors import CorruptionError, LogNotFoundError, SegstoreError, UnsupportedFormatError
from segstore.format.framelayout import BLOCK_BYTES, BLOCKS
from segstore.format.scanner import NEED_DATA, Frame, Scanner
from segstore.log.log import Log
from segstore.testing.memory import SECTOR_BYTES, MemoryDisk
from tests.torture.campaign import BrokenError, Run
from tests.torture.expected import Sent, compare
from tests.torture.workload import small_tail

CONFIG = LogConfig.of(
    {"background": False, "segment_size": 8192, "batch_size": 8192}, environment={}
)
# The offsets of records in a frame of several blocks.
LARGE = range(60, 65)
_UNSEEN = ("lock", "doorbell")  # whatever is in them is never relied on


class _LargeFrame(NamedTuple):
    name: str
    values_at: int
    value_ends: list[int]


class Damaged(NamedTuple):
    """One damage: the file, its new bytes (None for no file), and what it may cost.

    Attributes:
        what: says what was done.
        batches_max: how many batches it may cost; None for any.
        flipped: the position of a flipped bit.
    """

    name: str
    data: bytes | None
    what: str
    batches_max: int | None
    flipped: int | None = None


class Sample:
    """A small closed log with files of every kind, and which batch each offset belongs to."""

    def __init__(self) -> None:
        disk = MemoryDisk()
        log = Log(disk, "a", CONFIG)
        self.sent = [
            Sent(b"k%d" % n if n % 3 == 0 else None, b"record %d " % n * 4, n * 10)
            for n in range(60)
        ]
        # One frame of several blocks, each with a check of its own.
        large = [Sent(None, b"large record %d " % n * 70, None) for n in LARGE]
        for start in range(0, 60, 20):
            for n in range(start, start + 20, 4):
                part = self.sent[n : n + 4]
                log.append_many(
                    [sent.value for sent in part],
                    keys=[sent.key for sent in part],
                    timestamps=[sent.timestamp or 0 for sent in part],
                )
                log._appending().drain()
            if start < 40:
                log.roll()
            if start == 0:
                log.maintain()
                log.compress()
        log.roll()
        log.append_many([sent.value for sent in large], timestamps=[0] * len(LARGE))
        log.close()
        self.sent += [sent._replace(timestamp=0) for sent in large]
        self.files = disk.contents()
        self.batches = list(self._batches())
        assert self.safe(self.large.name, self.large.values_at)

    def safe(self, name: str, position: int) -> set[int]:
        """Records of the large frame that a bit flip at a byte must not cost."""
        found = self.large
        first, end = found.values_at, found.values_at + found.value_ends[-1]
        if name != found.name or not first <= position < end:
            return set()
        block = (position - first) // BLOCK_BYTES
        starts = [0, *found.value_ends[:-1]]
        return {
            offset
            for offset, start, stop in zip(LARGE, starts, found.value_ends, strict=True)
            if not start // BLOCK_BYTES <= block <= (stop - 1) // BLOCK_BYTES
        }

    def _batches(self) -> Iterator[range]:
        for name, data in sorted(self.files.items()):
            if name.endswith(".log.lz4"):
                yield range(20)  # merged into one chunk
            elif name.endswith(".log"):
                scanner = Scanner(None, int(name[:20]), 64)
                scanner.feed(data[64:], is_last=True)
                while isinstance(event := scanner.next(), Frame):
                    batch = event.batch
                    if batch.header.version == BLOCKS:
                        end = event.position + event.size_bytes
                        value_ends = list(batch.value_offsets[1:])
                        values_at = end - (value_ends[-1] + 7) // 8 * 8
                        self.large = _LargeFrame(name, values_at, value_ends)
                    yield range(batch.base_offset, batch.end_offset)
                assert event is NEED_DATA


def run(run: Run, *, only_large: bool = False) -> None:
    """Everything at the full budget; a smaller one takes every n-th.

    `only_large` hurts no file but that with the frame of several blocks.
    """
    with small_tail(4096 + 512):
        sample = Sample()
        large = sample.large.name
        hurt = {large: sample.files[large]} if only_large else sample.files
        stride = max(1, round(1 / run.budget.scale))
        for number, damaged in enumerate(damages(hurt)):
            if run.is_over:
                return
            if damaged.flipped is not None and number % stride != run.seed % stride:
                continue
            run.count("points")
            files = dict(sample.files)
            files.pop(damaged.name, None)
            if damaged.data is not None:
                files[damaged.name] = damaged.data
            run.state(sorted(files.items()))
            for mode in ("r", "a"):
                try:
                    check(sample, files, mode, damaged)
                except BrokenError as error:
                    where = f"mode {mode}, {damaged.what} of {damaged.name}"
                    raise BrokenError(f"{error} ({where})") from error


def damages(files: dict[str, bytes]) -> Iterator[Damaged]:
    """Every damage to every file."""
    for name, data in files.items():
        if name in _UNSEEN:
            continue
        is_data = name.endswith((".log", ".log.lz4"))
        for position in range(len(data)):
            if name == "tail" and position >= 4096:
                break  # drained: nothing in it counts
            for bit in range(8):
                changed = bytearray(data)
                changed[position] ^= 1 << bit
                what = f"bit {bit} of byte {position}"
                yield Damaged(name, bytes(changed), what, 1 if is_data else 0, position)
        for size in range(0, len(data), 1 if is_data else 7):
            yield Damaged(name, data[:size], f"truncated to {size}", None if is_data else 0)
        sectors = [data[at : at + SECTOR_BYTES] for at in range(0, len(data), SECTOR_BYTES)]
        for number, sector in enumerate(sectors):
            before, after = sectors[:number], sectors[number + 1 :]
            allowed = None if is_data else 0
            zeros = bytes(len(sector))
            yield Damaged(
                name, b"".join([*before, zeros, *after]), f"zeroed sector {number}", allowed
            )
            doubled = b"".join([*before, sector, sector, *after])
            yield Damaged(name, doubled, f"doubled sector {number}", allowed)
            if after:
                swapped = b"".join([*before, after[0], sector, *after[1:]])
                yield Damaged(name, swapped, f"swapped sector {number}", allowed)
        yield Damaged(name, None, "missing", None if is_data else 0)
        yield Damaged(name, b"", "empty", None if is_data else 0)
        yield Damaged(name, data + data, "doubled", 0)
        yield Damaged(name, data + b"garbage", "longer", 0)


def check(sample: Sample, files: dict[str, bytes], mode: str, damaged: Damaged) -> None:
    batches_max = damaged.batches_max
    disk = MemoryDisk.of(files)
    try:
        log = Log(disk, mode, CONFIG)  # type: ignore[arg-type]
    except (UnsupportedFormatError, LogNotFoundError) as error:
        raise BrokenError(f"I7: {error!r}") from error
    except OSError as error:
        raise BrokenError(f"I7: opening raised {error!r}") from error
    found: set[int] = set()
    try:
        for record in log.read(errors="skip"):
            compare(record, sample.sent[record.offset])
            found.add(record.offset)
    except (SegstoreError, OSError) as error:
        raise BrokenError(f"I7: reading on raised {error!r}") from error
    count = len(sample.sent)
    lost = set(range(count)) - found
    hit = [batch for batch in sample.batches if lost.intersection(batch)]
    if batches_max is not None and len(hit) > batches_max:
        raise BrokenError(f"I3: {len(hit)} batches lost, {sorted(lost)}")
    if damaged.flipped is not None and (
        missed := lost & sample.safe(damaged.name, damaged.flipped)
    ):
        raise BrokenError(f"I3: {sorted(missed)} are lost, and no byte of their blocks was hit")
    if not lost:
        log.close()
        return
    reported = {offset for item in log.recovery.lost for offset in item.offsets}
    reported |= {offset for item in log.verify().lost for offset in item.offsets}
    if log.recovery.cut:
        reported |= set(range(log.end_offset, count))
    if mode == "r" and not lost <= reported:
        reported |= set(range(log.end_offset, count))
    if not lost <= reported:
        raise BrokenError(f"I1: {sorted(lost - reported)} are lost and nothing says so")
    readable = sorted(lost & set(range(log.start_offset, log.end_offset)))
    for offset in readable[:2] + [offset for offset in readable[2:] if offset in LARGE]:
        try:
            log[offset]
        except CorruptionError:
            continue
        raise BrokenError(f"I1: log[{offset}] says nothing of its loss")
    if mode == "a" and batches_max is not None and log.end_offset < count:
        raise BrokenError(f"I4: offsets from {log.end_offset} on would be given out again")
    log.close()
