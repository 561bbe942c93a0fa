"""The one import that picks between the C kernel and its Python specification.

``SEGSTORE_PURE=1`` in the environment picks Python even where the kernel was built.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType

from segstore.format.columns import iter_column, iter_records, measure
from segstore.format.framejoin import join_frame
from segstore.format.pointread import decode_head, read_record
from segstore.format.smallframes import take_records

__all__ = [
    "PROVIDER",
    "compiled",
    "decode_head",
    "iter_column",
    "iter_records",
    "join_frame",
    "join_whole",
    "measure",
    "read_record",
    "take_records",
]

PROVIDER = "python"
# The kernel's module for the part that stands higher up, the tail; None where Python is used.
compiled: ModuleType | None = None
# Of `framejoin`; None where Python is used, to which `measure` and `join_frame` cost no more.
join_whole: Callable[..., tuple[int, bytes] | None] | None = None

if os.environ.get("SEGSTORE_PURE", "") in ("", "0"):
    with suppress(ImportError):
        # By name, because an import statement would count as one of the whole package, upwards.
        compiled = import_module("segstore._kernel")

if compiled is not None:
    PROVIDER = "c"
    decode_head = compiled.decode_head
    iter_column = compiled.iter_column
    iter_records = compiled.iter_records
    join_frame = compiled.join_frame
    join_whole = compiled.join_whole
    measure = compiled.measure
    read_record = compiled.read_record
    take_records = compiled.take_records

# Asked behind the import of the kernel, which turns the GIL on. Without it the engine is not safe:
# a reader bisects the index that the writer adds to, and looks into a mapping while it is closed.
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "segstore needs the GIL, which is off in this free-threaded Python; turn it on with "
        "PYTHON_GIL=1 or -X gil=1"
    )
