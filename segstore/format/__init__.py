"""Bytes to values and back: no files, no clocks, no threads.

`docs/reference/format.md` describes every byte; the modules here are that page as code.
"""

import sys

if sys.byteorder != "little":  # columns are cast in place, which needs the file's byte order
    raise ImportError("segstore needs a little-endian machine: its columns are read in place")
