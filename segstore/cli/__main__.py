"""The entry point of `segstore` and of `python -m segstore.cli`."""

from __future__ import annotations

import sys

USAGE_ERROR = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit; without its packages, say how to get them."""
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
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
