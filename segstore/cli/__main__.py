"""The entry point of `segstore` and of `python -m segstore.cli`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143


def main() -> None:
    """Run the command line and exit; without its packages, say how to get them."""
    _fill_standard_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from segstore.cli.app import cli

        cli(prog_name="segstore")
    except ModuleNotFoundError as error:
        if error.name not in ("rich_click", "click", "rich"):
            raise
        print(
            f"segstore: the command line needs {error.name}, which is not installed; "
            f"get it with: pip install 'segstore[cli]', or '.[cli]' in a clone",
            file=sys.stderr,
        )
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt as interrupt:
        sys.exit(interrupt.args[0] if interrupt.args else INTERRUPTED)
    except BrokenPipeError:  # whoever read the help has seen enough
        from segstore.cli import output

        output.discard()
        sys.exit(0)
    except OSError as error:  # of --help and --version, which no command stands around
        from segstore.cli import output

        output.complain(f"stdout: {error.strerror}")
        output.discard()
        sys.exit(FAILED)


def _terminate(*_: object) -> None:
    """End as with Ctrl-C, but for the exit code: so service managers stop what they run."""
    raise KeyboardInterrupt(TERMINATED)


def _fill_standard_streams() -> None:
    """Have something behind stdin, stdout and stderr where the caller closed them.

    Else the next file to be opened gets the number, and what is meant for stderr goes into it. To
    read from that stdin or write to that stdout fails, as it would without; words to that stderr
    go nowhere.
    """
    streams: tuple[tuple[str, int, Any], ...] = (
        ("stdin", os.O_WRONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    )
    for number, (name, flags, mode) in enumerate(streams):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # which takes the lowest number that is free
            stream = open(number, mode, closefd=False, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
