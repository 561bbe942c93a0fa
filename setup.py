"""Builds the optional C kernel; everything else about the project is in pyproject.toml.

Where there is no compiler the build goes on without it, and the Python loops are used.
"""

import sysconfig

from setuptools import Extension, setup

KERNEL = Extension(
    "segstore._kernel",
    sources=["segstore/_kernel.c"],
    extra_compile_args=["-std=c11", "-O3"],
    optional=True,
)

# The kernel relies on the GIL, so a free-threaded Python goes without it.
HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(ext_modules=[KERNEL] if HAS_GIL else [])
