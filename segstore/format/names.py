"""File names: the only place that builds or parses one.

A segment's files are named by its base offset, zero-padded to 20 digits, so that a sorted
directory listing is in offset order. Parsing is strict, in ASCII: ``int()`` alone would
take full-width digits, underscores and blanks.
"""

from __future__ import annotations

LOCK = "lock"
TAIL = "tail"
START = "start"
DOORBELL = "doorbell"
TRUNCATE = "truncate"

# Do not change: these endings are part of the format.
RAW_SUFFIX = ".log"
RAW_INDEX_SUFFIX = ".index"
LZ4_SUFFIX = ".log.lz4"
LZ4_INDEX_SUFFIX = ".lz4.index"
CONSUMER_SUFFIX = ".consumer"
TEMPORARY_SUFFIX = ".tmp"
ASIDE_SUFFIX = ".aside"

OFFSET_MAX = 2**63 - 1

_SEGMENT_SUFFIXES = frozenset({RAW_SUFFIX, RAW_INDEX_SUFFIX, LZ4_SUFFIX, LZ4_INDEX_SUFFIX})
_OFFSET_DIGITS = 20
_ATTEMPT_DIGITS_MAX = 10
_CONSUMER_NAME_CHARS_MAX = 100
_WITHOUT_PUNCTUATION = str.maketrans("", "", "._-")


def segment_file(base_offset: int, suffix: str) -> str:
    """The name of the file of one segment: 20 digits of its base offset, then `suffix`."""
    return f"{base_offset:020d}{suffix}"


def parse_segment_file(name: str) -> tuple[int, str] | None:
    """(base offset, suffix) of a segment's file, or None for any other name."""
    digits, suffix = name[:_OFFSET_DIGITS], name[_OFFSET_DIGITS:]
    if suffix not in _SEGMENT_SUFFIXES or not _are_digits(digits):
        return None
    base_offset = int(digits)
    return (base_offset, suffix) if base_offset <= OFFSET_MAX else None


def temporary(name: str) -> str:
    """The name under which `name` is written before a rename puts it in place."""
    return name + TEMPORARY_SUFFIX


def is_temporary(name: str) -> bool:
    """Whether `name` is a leftover of an interrupted write of one of our own files."""
    if not name.endswith(TEMPORARY_SUFFIX):
        return False
    final = name[: -len(TEMPORARY_SUFFIX)]
    return (
        parse_segment_file(final) is not None
        or parse_consumer_file(final) is not None
        or is_aside(final)
        or final in (TAIL, START, DOORBELL, TRUNCATE)
    )


def aside(name: str, position: int, attempt: int = 0) -> str:
    """Where recovery keeps the bytes it cuts from `name` at `position`."""
    return f"{name}.{position}{f'-{attempt}' if attempt else ''}{ASIDE_SUFFIX}"


def is_aside(name: str) -> bool:
    """Whether `name` holds bytes that recovery set aside."""
    cut_from, _, place = name.removesuffix(ASIDE_SUFFIX).rpartition(".")
    position, dash, attempt = place.partition("-")
    parsed = parse_segment_file(cut_from)
    return (
        name.endswith(ASIDE_SUFFIX)
        and (cut_from == TAIL or (parsed is not None and parsed[1] in (RAW_SUFFIX, LZ4_SUFFIX)))
        and _is_number(position, _OFFSET_DIGITS)
        and (not dash or (_is_number(attempt, _ATTEMPT_DIGITS_MAX) and attempt != "0"))
    )


def consumer_file(consumer: str) -> str:
    """The name of the file that holds a consumer's committed offset.

    Raises:
        ValueError: `consumer` is not a valid name.
    """
    if not isinstance(consumer, str) or not _is_consumer_name(consumer):
        raise ValueError(
            f"{consumer!r} is no consumer name: use 1 to 100 ASCII letters, digits, '.', '_' or "
            f"'-', starting with a letter or digit"
        )
    return consumer + CONSUMER_SUFFIX


def parse_consumer_file(name: str) -> str | None:
    """The consumer whose file `name` is, or None for any other name."""
    consumer = name.removesuffix(CONSUMER_SUFFIX)
    return consumer if consumer != name and _is_consumer_name(consumer) else None


def _is_consumer_name(text: str) -> bool:
    return (
        0 < len(text) <= _CONSUMER_NAME_CHARS_MAX
        and text.isascii()
        and text[0].isalnum()
        and text.translate(_WITHOUT_PUNCTUATION).isalnum()
    )


def _are_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_number(text: str, digits_max: int) -> bool:
    """Whether `text` is a number as we write it, without leading zeros."""
    return _are_digits(text) and len(text) <= digits_max and (text == "0" or text[0] != "0")


def is_known(name: str) -> bool:
    """Whether `name` is one that a log may have in its directory."""
    return (
        name in (LOCK, TAIL, START, DOORBELL, TRUNCATE)
        or parse_segment_file(name) is not None
        or parse_consumer_file(name) is not None
        or is_aside(name)
        or is_temporary(name)
    )
