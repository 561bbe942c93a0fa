"""Builds the optional C kernel; everything else about the project is in pyproject.toml.

Where there is no compiler the build goes on without it, and the Python loops are used.
"""

from setuptools import Extension, setup

KERNEL = Extension(
    "segstore._kernel",
    sources=["segstore/_kernel.c"],
    extra_compile_args=["-std=c11", "-O3"],
    optional=True,
)

setup(ext_modules=[KERNEL])
