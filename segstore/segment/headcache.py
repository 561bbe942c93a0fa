"""What point reads keep of the frames they looked into."""

from collections import deque

from segstore.format.pointread import Head
from segstore.mutex import new_mutex

# Of all heads together: those of some 10,000 full frames, or 1.2 GiB of records of 100 bytes.
HEADS_BYTES_MAX = 48 * 1024 * 1024
# What the objects of a head take beside its bytes.
_OBJECTS_BYTES = 512


class HeadCache:
    """The heads read last, of all segments of a log, up to a size.

    Those of a segment are in a list of its own, by index entry, which whoever reads looks into
    without a lock, and which goes with the open file that they came from: what another file of that
    name holds is read from there. A list, because it takes one access to memory that is not in the
    processor's cache where a dict takes three.
    """

    def __init__(self, size_bytes_max: int = HEADS_BYTES_MAX) -> None:
        self.size_bytes = 0
        self._size_bytes_max = size_bytes_max
        self._order: deque[tuple[list[Head | None], int]] = deque()
        self._lock = new_mutex()

    def add(self, heads: list[Head | None], slot: int, head: Head) -> None:
        """Keep a head of a segment, in place of the oldest ones of any."""
        with self._lock:
            heads.extend([None] * (slot + 1 - len(heads)))
            if heads[slot] is not None:
                return
            heads[slot] = head
            self._order.append((heads, slot))
            self.size_bytes += _size_bytes(head)
            while self.size_bytes > self._size_bytes_max:
                oldest, at = self._order.popleft()
                dropped, oldest[at] = oldest[at], None
                self.size_bytes -= 0 if dropped is None else _size_bytes(dropped)


def _size_bytes(head: Head) -> int:
    return len(head[0]) + _OBJECTS_BYTES
