"""Which campaigns there are, and in which module each is."""

from __future__ import annotations

from importlib import import_module

from tests.torture.campaign import Campaign

CAMPAIGNS = {
    "T0": "t00_seeded_bugs",
    "T1": "t01_kill",
    "T2": "t02_power_loss",
    "T3": "t03_real_kernel",
    "T4": "t04_damage",
    "T5": "t05_failing_calls",
    "T6": "t06_stacked",
    "T7": "t07_together",
    "T8": "t08_second_writer",
    "T9": "t09_clocks",
    "T10": "t10_copies",
    "T11": "t11_hostile_files",
    "T12": "t12_formats",
    "T13": "t13_closing",
    "T14": "t14_truncating",
    "T15": "t15_threads",
    "T16": "t16_mixed_copies",
    "T17": "t17_damaged_crashes",
}


def campaign(name: str) -> Campaign:
    """The function that runs a campaign."""
    found: Campaign = import_module(f"tests.torture.{CAMPAIGNS[name]}").run
    return found
