"""Where to cut a batch into frames."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from segstore.format.framelayout import RECORD_COUNT_MAX

# Less than a frame may hold, so that all columns of a piece and one largest record still fit one.
PIECE_RECORDS_MAX = RECORD_COUNT_MAX // 4


def cut_batch(columns: Sequence[Sequence[int]], size_bytes: int) -> list[tuple[int, int]]:
    """Where to cut a batch into pieces of about `size_bytes`: (start, stop) of each.

    Each column is of values or of keys, and says how many bytes the first 0, 1, 2 ... of them take.
    """

    def place(count: int) -> int:
        """The bytes of so many records, with an offset in each column."""
        return sum(ends[count] for ends in columns) + 4 * len(columns) * count

    record_count = len(columns[0]) - 1
    total = place(record_count)
    if total <= size_bytes and record_count <= PIECE_RECORDS_MAX:
        return [(0, record_count)]
    piece_count = max(-(-total // size_bytes), -(-record_count // PIECE_RECORDS_MAX))
    if piece_count > record_count:  # most would end within a record: look at the records instead
        passed = [place(count) * piece_count // total for count in range(record_count + 1)]
        cuts = {count for count in range(1, record_count) if passed[count] > passed[count - 1]}
    else:
        # Mostly records are much alike, and as many in each piece will do.
        stops = [record_count * number // piece_count for number in range(piece_count + 1)]
        places = list(map(place, stops))
        sizes = list(map(int.__sub__, places[1:], places))
        if 2 * piece_count * min(sizes) >= total and max(sizes) <= size_bytes:
            return list(pairwise(stops))
        cuts = {
            bisect_left(range(record_count), total * number // piece_count, key=place)
            for number in range(1, piece_count)
        }
    # Pieces of much the same size may differ in their number of records as far as you like.
    cuts.update(range(PIECE_RECORDS_MAX, record_count, PIECE_RECORDS_MAX))
    stops = sorted(cut for cut in cuts if 0 < cut < record_count)
    return list(pairwise([0, *stops, record_count]))
