"""Compressing a sealed segment, against the LZ4 library alone on the same bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import lz4.frame

import segstore
from benchmarks import records
from benchmarks.experiments import Options, places
from benchmarks.harness import missing_line, sample_line
from benchmarks.stores.segstore_log import can_compress
from segstore.config import LogConfig

EXPERIMENT = "compress"
SEGMENT_SIZE = 64 << 20

BATCH = 1_000


def run(options: Options) -> Iterator[dict[str, Any]]:
    case = {"records": "lines"}
    if not can_compress():
        yield missing_line(EXPERIMENT, case, "segstore", "this segstore has no Log.compress")
        return
    segstore_s: list[float] = []
    lz4_s: list[float] = []
    ratios: list[float] = []
    whole_ratios: list[float] = []
    for round_number in range(options.rounds + 1):
        with places.place(options.scratch) as path:
            # Nothing in the background, so that the compression is done here and nowhere else.
            # With compression=None `maintain` seals, and only `compress` compresses.
            with segstore.open(path, compression=None, background=False) as log:
                values = records.records("lines")
                position = 0
                while len(log.segments()) == 1:
                    first = position % (len(values) - BATCH)
                    log.append_many(values[first : first + BATCH])
                    position += BATCH
                log.maintain()
                segment = log.segments()[0]
                with open(segment.path, "rb") as file:
                    raw = file.read()
                started = time.perf_counter()
                log.compress()
                took = time.perf_counter() - started
                after = log.segments()[0]
            size = LogConfig().batch_size
            chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
            started = time.perf_counter()
            packed = [
                lz4.frame.compress(chunk, block_linked=False, store_size=True) for chunk in chunks
            ]
            took_alone = time.perf_counter() - started
            del packed
        if round_number == 0:
            continue  # warms up
        segstore_s.append(took / len(raw))
        lz4_s.append(took_alone / len(raw))
        ratios.append(len(raw) / after.size_bytes)
        whole_ratios.append(len(raw) / len(lz4.frame.compress(raw, compression_level=0)))
    note = f"segment_size={SEGMENT_SIZE}, log.compress() on one sealed segment"
    yield sample_line(EXPERIMENT, case, "segstore", segstore_s, "s/byte", note)
    note = f"lz4.frame.compress, level 0, chunks of {LogConfig().batch_size} bytes in memory"
    yield sample_line(EXPERIMENT, case, "lz4 alone", lz4_s, "s/byte", note)
    case = {"records": "lines", "what": "ratio"}
    yield sample_line(EXPERIMENT, case, "segstore", ratios, "x")
    yield sample_line(EXPERIMENT, case, "lz4 -1 of the whole file", whole_ratios, "x")
