"""Hypothesis strategies: records as segstore takes them, and what may go wrong under a log.

They need the extra `testing`, as the conformance tests do.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from hypothesis import strategies as st

from segstore.format.framelayout import TIMESTAMP_MAX, TIMESTAMP_MIN
from segstore.testing.faulty import KINDS, Fault

# Over and under a block of a frame; the same few bytes over and over, which costs less to draw.
long_values = st.builds(
    lambda pattern, size: (pattern * size)[:size],
    st.binary(min_size=1, max_size=9),
    st.sampled_from([4_090, 4_096, 4_097, 8_192, 9_999]),
)
# Sizes on both sides of what a frame of a few records takes, and the empty ones.
values = st.one_of(
    st.just(b""), st.binary(max_size=40), st.binary(min_size=200, max_size=900), long_values
)
keys = st.one_of(st.none(), st.just(b""), st.binary(max_size=12))
timestamps = st.one_of(
    st.integers(0, 50),
    st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX),
    st.sampled_from([TIMESTAMP_MIN, TIMESTAMP_MAX, -1, 0]),
)


class Batch(NamedTuple):
    """Records for one `append_many`.

    Attributes:
        values: one a record.
        timestamps: one for all of them in ns since the epoch, or a list with one a record.
        keys: one a record, None where a record has none; or None for no keys at all.
    """

    values: list[bytes]
    timestamps: int | list[int]
    keys: list[bytes | None] | None

    def times(self) -> list[int]:
        """One timestamp a record."""
        if isinstance(self.timestamps, int):
            return [self.timestamps] * len(self.values)
        return self.timestamps


@st.composite
def batches(draw: st.DrawFn, min_size: int = 1, max_size: int = 30) -> Batch:
    """Batches of that many records, with every mix of what a record may have."""
    count = draw(st.integers(min_size, max_size))
    some_values = draw(st.lists(values, min_size=count, max_size=count))
    some_times = draw(st.one_of(timestamps, st.lists(timestamps, min_size=count, max_size=count)))
    some_keys = draw(st.one_of(st.none(), st.lists(keys, min_size=count, max_size=count)))
    return Batch(some_values, some_times, some_keys)


def faults(number_max: int = 200) -> st.SearchStrategy[Fault]:
    """One operation that fails, the `number_max`-th of its kind at the latest, once or for ever."""
    return st.builds(
        Fault,
        kind=st.sampled_from(("any", *KINDS)),
        number=st.integers(1, number_max),
        errno=st.sampled_from((errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE)),
        is_lasting=st.booleans(),
    )
