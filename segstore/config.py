"""Options: what they are, how they are written, and where they come from.

Precedence: arguments of `segstore.open`, then ``SEGSTORE_*`` environment variables, then a TOML
file. Sizes are ints in bytes or text with an exact unit ("64MiB"), ages are seconds, timedeltas or
text ("7d", "1h30m").
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from segstore.errors import ConfigError
from segstore.format.framelayout import BODY_BYTES_MAX
from segstore.format.index import ENTRIES_BYTES_MAX, ENTRY_BYTES
from segstore.segment.writer import SEGMENT_BYTES_MAX

Durability = Literal["written", "durable"]
Compression = Literal["lz4", "lz4hc"]
Size = int | str
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import TypedDict

    Age = float | str | timedelta

    class LogOptions(TypedDict, total=False):
        """What `segstore.open` takes by name, for type checkers and editors; see `LogConfig`."""

        segment_size: Size
        segment_age: Age
        index_interval: Size
        compression: Compression | None
        durability: Durability
        sync_interval: Age
        batch_size: Size
        retention_age: Age | None
        retention_size: Size | None
        retention_records: int | None
        retention_waits_for_consumers: bool
        retention_hard_size: Size | None
        background: bool


ENVIRONMENT_PREFIX = "SEGSTORE_"
SEGMENT_BYTES_MIN = 4096
AGE_S_MAX = 10**10


class LogConfig(NamedTuple):
    """The options of a log, checked and in base units. Make one with `LogConfig.of`.

    Attributes:
        segment_size: roll the active segment before it grows over this, in bytes.
        segment_age: roll it this long after its first record, in seconds.
        index_interval: bytes of data between two entries of the sparse index.
        compression: "lz4", "lz4hc", or None to leave sealed segments as they are.
        durability: what an append waits for: "written" survives the process, "durable" power loss.
        sync_interval: in seconds; power loss costs at most what was written since.
        batch_size: bytes of values that a frame is filled up to.
        retention_age: delete sealed segments whose last append is longer ago, in seconds.
        retention_size: delete the oldest sealed segments while the log has more bytes.
        retention_records: delete the oldest sealed segments while the log has more records.
        retention_waits_for_consumers: keep what a registered consumer has not committed.
        retention_hard_size: delete even that while the log has more bytes, and count the loss.
        background: run the maintenance thread; without it, call `Log.maintain`.
    """

    segment_size: int = 64 * 2**20
    segment_age: float = 86_400.0
    index_interval: int = 4096
    compression: Compression | None = "lz4"
    durability: Durability = "written"
    sync_interval: float = 1.0
    batch_size: int = 128 * 2**10
    retention_age: float | None = None
    retention_size: int | None = None
    retention_records: int | None = None
    retention_waits_for_consumers: bool = False
    retention_hard_size: int | None = None
    background: bool = True

    @classmethod
    def of(
        cls,
        options: Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        toml: str | os.PathLike[str] | None = None,
    ) -> "LogConfig":
        """Options from all sources, the first that names one winning.

        `environment` defaults to the process's; `toml` is a file with the options at its top
        level.

        Raises:
            ConfigError: an option is unknown or its value can't be used; the message names the
                source.
        """
        environment = os.environ if environment is None else environment
        merged: dict[str, Any] = {}
        if toml is not None:
            merged.update(_checked(_read_toml(toml), f"in {os.fspath(toml)}"))
        variables = {
            name[len(ENVIRONMENT_PREFIX) :].lower(): value
            for name, value in environment.items()
            if name.startswith(ENVIRONMENT_PREFIX) and name not in _OTHER_VARIABLES
        }
        for name in variables.keys() - _PARSERS.keys():
            # It may be another program's, and must not keep a log from opening.
            del variables[name]
            _warn(f"{ENVIRONMENT_PREFIX}{name.upper()} is no option of segstore, and is ignored")
        merged.update(_checked(variables, "in the environment, as SEGSTORE_*"))
        merged.update(_checked(options or {}, ""))
        if "batch_size" not in merged and "segment_size" in merged:
            # Who asks for a small segment and says nothing of batches means batches that fit.
            default = cls._field_defaults["batch_size"]
            merged["batch_size"] = min(default, merged["segment_size"])
        config = cls(**merged)
        if config.batch_size > config.segment_size:
            raise ConfigError(
                f"batch_size ({config.batch_size} bytes) is over segment_size "
                f"({config.segment_size} bytes); a segment has to hold a batch"
            )
        entries_bytes = config.segment_size // config.index_interval * ENTRY_BYTES
        if entries_bytes > ENTRIES_BYTES_MAX:
            raise ConfigError(
                f"index_interval ({config.index_interval} bytes) makes an index of {entries_bytes} "
                f"bytes for a segment of {config.segment_size}, and {ENTRIES_BYTES_MAX} is the "
                f"most; raise index_interval or lower segment_size"
            )
        if config.retention_hard_size is not None and not config.retention_waits_for_consumers:
            raise ConfigError(
                "retention_hard_size limits how long retention waits for consumers; set "
                "retention_waits_for_consumers=True as well, or use retention_size"
            )
        return config


_OTHER_VARIABLES = frozenset({"SEGSTORE_PURE"})


def parse_size(value: Size) -> int:
    """Bytes from an int or from text with an exact unit.

    Raises:
        ValueError: it is neither, or the unit could mean two things.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a size is a number of bytes or text such as '64MiB'")
    if isinstance(value, int):
        return value
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    if text[-1:] in tuple("kKMGT"):
        unit = text[-1].upper()
        raise ValueError(f"{value!r} could mean {text}iB or {text}B; write {text[:-1]}{unit}iB")
    if not text.endswith(("B", "Byte", "Bytes")):  # "Mb" would be a million bits
        raise ValueError(f"{value!r} is not a size in bytes such as '64MiB'")
    import bitmath

    try:
        bits = bitmath.parse_string(text)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a size such as '64MiB' ({error})") from None
    return int(bits.bytes)


def parse_age(value: "Age") -> float:
    """Seconds from a number, a timedelta or text such as "7d" or "1h30m".

    Raises:
        ValueError: it is none of them, could mean two things, is negative or over some 300 years.
    """
    if isinstance(value, str):
        seconds = _age_of_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        from datetime import timedelta

        if not isinstance(value, timedelta):
            raise ValueError("an age is seconds, a timedelta or text such as '7d'")
        seconds = value.total_seconds()
    if not 0 <= seconds < AGE_S_MAX:
        raise ValueError(f"{value!r} is negative or more than an age can be, some 300 years")
    return seconds


def _age_of_text(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    if ":" in text:
        raise ValueError(f"{text!r} could be hours or minutes; write '1h30m' or '1m30s'")
    from re import search

    from pytimeparse.timeparse import timeparse

    seconds = timeparse(text)
    if seconds is None:
        raise ValueError(f"{text!r} is not an age such as '7d', '1h30m' or, in seconds, '0.1'")
    if search("M(?![A-Za-z])", text):  # the parser takes it for minutes
        raise ValueError(f"{text!r} could mean months; write 'm' for minutes, or days, as '30d'")
    return float(seconds)


def _size(low: int, high: int = 2**63 - 1) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        size = parse_size(value)
        if not low <= size <= high:
            raise ValueError(f"{size} bytes is not within {low} and {high}")
        return size

    return parse


def _age(value: Any) -> float:
    seconds = parse_age(value)
    if not seconds:
        raise ValueError("it has to be more than 0")
    return seconds


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse_optional(value: Any) -> Any:
        return None if value is None or value in ("none", "None", "") else parse(value)

    return parse_optional


def _choice(kind: Any) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if value not in get_args(kind):
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, get_args(kind)))}")
        return value

    return parse


def _count(value: Any) -> int:
    count = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
        raise ValueError("a count is a whole number above 0")
    return count


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(f"{value!r} is neither true nor false")
    return words[str(value).lower()]


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "segment_size": _size(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
    "segment_age": _age,
    "index_interval": _size(64),
    "compression": _optional(_choice(Compression)),
    "durability": _choice(Durability),
    "sync_interval": _age,
    "batch_size": _size(1, BODY_BYTES_MAX // 4),
    "retention_age": _optional(_age),
    "retention_size": _optional(_size(0)),
    "retention_records": _optional(_count),
    "retention_waits_for_consumers": _flag,
    "retention_hard_size": _optional(_size(0)),
    "background": _flag,
}
assert tuple(_PARSERS) == LogConfig._fields


def _checked(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    checked = {}
    for name, value in options.items():
        if name not in _PARSERS:
            known = ", ".join(_PARSERS)
            raise ConfigError(
                f"there is no option {name!r} {source}".rstrip() + f"; known: {known}"
            )
        try:
            checked[name] = _PARSERS[name](value)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{name} {source}".rstrip() + f": {error}") from None
    return checked


def _warn(message: str) -> None:
    import warnings

    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:  # UnicodeDecodeError among them
        raise ConfigError(f"{os.fspath(path)} can't be read as TOML: {error}") from None
