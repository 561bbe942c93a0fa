"""What records look like in the property tests."""

from typing import Any, NamedTuple

from hypothesis import strategies as st

TIMESTAMP_MIN, TIMESTAMP_MAX = -(2**63), 2**63 - 1

values = st.one_of(st.just(b""), st.binary(max_size=40), st.binary(min_size=200, max_size=900))
keys = st.one_of(st.none(), st.just(b""), st.binary(max_size=12))
timestamps = st.one_of(
    st.integers(0, 50),
    st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX),
    st.sampled_from([TIMESTAMP_MIN, TIMESTAMP_MAX, -1, 0]),
)


class Columns(NamedTuple):
    """A batch to be encoded."""

    values: list[bytes]
    timestamps: Any
    keys: list[bytes | None] | None

    def times(self) -> list[int]:
        """One timestamp a record."""
        if isinstance(self.timestamps, int):
            return [self.timestamps] * len(self.values)
        return list(self.timestamps)


@st.composite
def columns(draw: st.DrawFn, min_size: int = 1, max_size: int = 30) -> Columns:
    """Some records, with every mix of the optional columns."""
    count = draw(st.integers(min_size, max_size))
    some_values = draw(st.lists(values, min_size=count, max_size=count))
    some_times = draw(st.one_of(timestamps, st.lists(timestamps, min_size=count, max_size=count)))
    some_keys = draw(st.one_of(st.none(), st.lists(keys, min_size=count, max_size=count)))
    return Columns(some_values, some_times, some_keys)
