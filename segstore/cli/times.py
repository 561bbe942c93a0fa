"""Times as people write and read them, and as nanoseconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import rich_click as click

from segstore.config import parse_age

_NS_PER_S = 10**9
_NS_MIN, _NS_MAX = -(2**63), 2**63 - 1
_SECONDS = re.compile(r"-?[0-9]+(\.[0-9]*)?", re.ASCII)
# As seconds these are of before 1971: hardly what anybody means.
_DATE_WITHOUT_DASHES = re.compile(r"(19|20)[0-9]{2}([0-9]{4})?", re.ASCII)
_NANOSECONDS = re.compile(r"(-?[0-9]+)ns", re.ASCII)


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch, from ISO 8601, seconds ("1732000000.5") or "...ns".

    A date without a zone is local time.

    Raises:
        ValueError: it is none of them, or outside what 64 bits hold.
    """
    text = text.strip()
    if match := _NANOSECONDS.fullmatch(text):
        time_ns = int(match[1])
    elif _DATE_WITHOUT_DASHES.fullmatch(text):
        raise ValueError(
            f"{text!r} could mean a date; write it with dashes, as '2026-01-31', or {text}.0 for "
            f"seconds since the epoch"
        )
    elif _SECONDS.fullmatch(text):
        time_ns = int(Decimal(text) * _NS_PER_S)
        if not _NS_MIN <= time_ns <= _NS_MAX:
            raise ValueError(f"{text} seconds are too many; for nanoseconds write {text}ns")
    else:
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{text!r} is no time; write '2026-01-31', '2026-01-31T12:00:00+01:00', "
                f"seconds since the epoch, or nanoseconds with 'ns' behind"
            ) from None
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        time_ns = (since.days * 86_400 + since.seconds) * _NS_PER_S + since.microseconds * 1000
    if not _NS_MIN <= time_ns <= _NS_MAX:
        raise ValueError(f"{text} is outside the years 1677 to 2262")
    return time_ns


def format_time(time_ns: int | None) -> str:
    """ISO 8601 in UTC with all nine digits; "-" for None."""
    if time_ns is None:
        return "-"
    seconds, rest_ns = divmod(time_ns, _NS_PER_S)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


def age_option(text: str) -> float:
    """`parse_age` as the type of an option."""
    try:
        return parse_age(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def time_option(text: str) -> int:
    """`parse_time` as the type of an option."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
