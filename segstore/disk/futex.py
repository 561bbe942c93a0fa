"""Sleeping on a number in shared memory: Linux's futex, through ctypes.

It is what lets a follower in another process wait without polling, and a writer wake it without
a system call while nobody waits. Source: futex(2).
"""

from __future__ import annotations

import os
import sys

_WAIT = 0
_WAKE = 1
_EVERYBODY = 2**31 - 1
# The number of the futex system call, where it takes a 64-bit time.
_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221}


class Futex:
    """Waits for and wakes at places in one mapping."""

    def __init__(self, address: int, number: int) -> None:
        import ctypes

        class TimeSpec(ctypes.Structure):
            _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

        self._address = address
        self._number = number
        self._timespec = TimeSpec
        self._byref = ctypes.byref
        self._call = ctypes.CDLL(None).syscall
        # Without this every argument goes out as a C int, which an address is not.
        self._call.argtypes = (
            ctypes.c_long,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_uint32,
            ctypes.c_void_p,
        )

    @classmethod
    def of(cls, view: memoryview) -> Futex | None:
        """A futex over a writable shared mapping, or None where the system has none."""
        number = _NUMBERS.get(os.uname().machine) if sys.platform == "linux" else None
        if number is None:
            return None
        import ctypes

        return cls(ctypes.addressof(ctypes.c_char.from_buffer(view)), number)

    def wait(self, at: int, value: int, timeout_s: float) -> None:
        """Sleep while the u32 at `at` is `value`, at most for `timeout_s`; the GIL is released."""
        whole = int(timeout_s)
        limit = self._timespec(whole, int((timeout_s - whole) * 1e9))
        self._call(self._number, self._address + at, _WAIT, value, self._byref(limit))

    def wake(self, at: int) -> None:
        """Wake everybody who waits at `at`."""
        self._call(self._number, self._address + at, _WAKE, _EVERYBODY, None)
