"""`python -m segstore` is the command line."""

from segstore.cli.__main__ import main

if __name__ == "__main__":
    main()
