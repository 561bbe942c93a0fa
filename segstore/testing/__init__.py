"""Disks that fail and forget, for testing what stands on segstore."""
