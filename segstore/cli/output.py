"""Data to stdout as bytes, words to stderr."""

from __future__ import annotations

import io
import json
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segstore.log.report import LostRange

# Wide enough that no column of a table is cut where the output goes to a file or a pipe.
PIPED_COLUMNS = 1000


def write(data: bytes) -> None:
    """Write bytes to stdout.

    Raises:
        OSError: stdout is full, or (BrokenPipeError) nobody reads it any more.
    """
    with _stdout_named():
        sys.stdout.buffer.write(data)


def line(text: str) -> None:
    """Write one line of text to stdout, as UTF-8 whatever the locale."""
    write(text.encode(errors="surrogateescape") + b"\n")


def json_line(value: Any) -> None:
    """Write one JSON value on one line; ASCII, so that no reader splits it elsewhere."""
    line(json.dumps(plain(value)))


def json_array(values: Sequence[Any]) -> None:
    """Write a JSON array, one item a line."""
    if not values:
        line("[]")
        return
    line("[" + ",\n ".join(json.dumps(plain(value)) for value in values) + "]")


def plain(value: Any) -> Any:
    """Named tuples as objects, offset ranges as their first and the one past their last."""
    if isinstance(value, range):
        return {"start_offset": value.start, "end_offset": value.stop}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: frozenset[str]) -> None:
    """Write a table to stdout; the columns named in `left` hold text, the others numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_terminal = sys.stdout.isatty()
    found = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify: Any = "left" if heading in left else "right"
        found.add_column(heading, justify=justify, no_wrap=not is_terminal)
    for row in rows:
        found.add_row(*map(Text, row))
    text = io.StringIO()
    width = None if is_terminal else PIPED_COLUMNS
    Console(file=text, force_terminal=is_terminal, width=width).print(found)
    for row_text in text.getvalue().splitlines():
        line(row_text.rstrip())


def damage(lost: LostRange) -> str:
    """Where damage is and which offsets it took, for a sentence to go on from."""
    return (
        f"{lost.path} at byte {lost.position}: {lost.reason}; offsets {lost.offsets.start}.."
        f"{lost.offsets.stop - 1}"
    )


def complain(message: str) -> None:
    """Write a message to stderr."""
    with suppress(OSError):
        print(f"segstore: {message}", file=sys.stderr, flush=True)


def flush() -> None:
    """Hand everything over.

    Raises:
        OSError: stdout is full, or (BrokenPipeError) nobody reads it any more.
    """
    with _stdout_named():
        sys.stdout.flush()


def is_abandoned() -> bool:
    """Whether nobody reads stdout any more, which a write would only find out with some bytes."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # no file, or closed: a write will tell
        return False


@contextmanager
def _stdout_named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from None


def flush_quietly() -> None:
    """Hand over what can be; for a command that has failed already."""
    try:
        flush()
    except OSError:
        discard()


def discard() -> None:
    """Give up on stdout, so that the interpreter's last flush has nothing to complain about."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
