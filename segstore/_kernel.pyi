# The C kernel. What each of these does is said by its specification in Python: columns, framejoin,
# pointread and smallframes in segstore.format, and segstore.segment.tailbuffer.PythonTailBuffer.

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, final

from segstore.format.buffers import Buffer
from segstore.format.pointread import Head

_T = TypeVar("_T")

def decode_head(data: bytes, log_tag: int | None, /) -> Head | int | None: ...
def read_record(
    read: Callable[[int, int], bytes],
    descriptor: int | None,
    places: Sequence[int],
    heads: Sequence[Head | None],
    first_offset: int,
    offset: int,
    record_type: Callable[[int, int, bytes | None, bytes], _T],
    /,
) -> _T | int | None: ...
def measure(values: Iterable[object], /) -> tuple[list[bytes], Sequence[int]] | None: ...
def join_frame(
    values: Sequence[Buffer],
    ends: Sequence[int] | None,
    start: int,
    stop: int,
    timestamps: int | Sequence[int],
    keys: Sequence[Buffer | None] | None,
    base_offset: int,
    append_time: int,
    log_tag: int,
    durable_offset: int,
    /,
) -> tuple[int, int, bytes]: ...
def join_whole(
    values: Iterable[object],
    size_min: int,
    size_max: int,
    timestamp: int,
    base_offset: int,
    append_time: int,
    log_tag: int,
    durable_offset: int,
    /,
) -> tuple[int, bytes] | None: ...
def iter_column(
    data: Buffer, offsets_position: int, start: int, stop: int, position: int, /
) -> Iterator[bytes]: ...
def iter_records(
    record_type: Any,
    base_offset: int,
    timestamps: int | Sequence[int],
    keys: Sequence[bytes | None] | None,
    values: Iterable[bytes],
    count: int,
    /,
) -> Iterator[Any]: ...
def take_records(
    view: memoryview,
    position: int,
    offset: int,
    log_tag: int,
    values: list[bytes],
    timestamps: list[int],
    keys: list[bytes | None],
    /,
) -> int: ...
def crc32c_of(data: Buffer, /, *, portable: bool = False) -> int: ...

@final
class TailBuffer:
    is_open: bool
    next_offset: int
    position: int
    limit: int
    batch_bytes_max: int
    append_time: int
    segments_durable_offset: int
    def __new__(
        cls,
        view: memoryview,
        log_tag: int,
        lock: Any,
        append_slowly: Callable[..., int],
        append_many_slowly: Callable[..., range],
        bell: memoryview,
        ring: Callable[[], None],
    ) -> TailBuffer: ...
    def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        durability: str | None = None,
    ) -> int: ...
    def append_many(
        self,
        values: Sequence[bytes],
        *,
        keys: Sequence[bytes | None] | None = None,
        timestamps: Sequence[int] | None = None,
        durability: str | None = None,
    ) -> range: ...
    @property
    def staged_count(self) -> int: ...
    @property
    def has_keys(self) -> bool: ...
    def store(self, frame: Buffer, /) -> None: ...
    def stage(
        self, values: list[bytes], timestamps: list[int], keys: list[bytes | None] | None, /
    ) -> None: ...
    def ends(self) -> tuple[Sequence[int], ...]: ...
    def join_frame(self, start: int, stop: int, base_offset: int, /) -> tuple[int, int, bytes]: ...
    def restart(self) -> None: ...
    def release(self) -> None: ...
