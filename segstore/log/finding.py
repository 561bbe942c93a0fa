"""Finding records by key: only segments whose filter may have it are read."""

from __future__ import annotations

from collections.abc import Iterator

from segstore.format.batch import Record, RecordBatch
from segstore.log.reading import LogReader, OnDamage, check_errors


def find_key(reader: LogReader, key: bytes, offsets: range, errors: OnDamage) -> Iterator[Record]:
    """The records of a checked range with that key, in order.

    Raises:
        CorruptionError: a segment that may hold the key is damaged, and `errors` is "raise".
        OffsetOutOfRangeError: retention overtook the reading.
    """
    check_errors(errors)
    return _found(reader, key, offsets, errors)


def _found(reader: LogReader, key: bytes, offsets: range, errors: OnDamage) -> Iterator[Record]:
    offset = offsets.start
    while offset < offsets.stop:
        segment, stop = reader.segment_at(offset, offsets.stop)
        if segment is None or reader.may_have_key(segment, key):
            for batch in reader.batches(range(offset, stop), errors):
                if batch.has_keys and key in reader.convert(batch, RecordBatch.keys, errors, ()):
                    records = reader.convert(batch, RecordBatch.records, errors, ())
                    yield from (record for record in records if record.key == key)
        offset = stop
