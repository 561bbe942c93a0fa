"""What type checkers are told of the kernel is what it has, and what its specification has."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import segstore
from segstore.format import columns, framejoin, pointread, smallframes
from segstore.segment.tailbuffer import PythonTailBuffer

STUB = ast.parse((Path(segstore.__file__).parent / "_kernel.pyi").read_text(encoding="utf-8"))


def arguments(function: ast.FunctionDef) -> list[str]:
    found = function.args
    return [each.arg for each in (*found.posonlyargs, *found.args, *found.kwonlyargs)]


def test_the_functions_are_the_same(compiled):
    told = {node.name: arguments(node) for node in STUB.body if isinstance(node, ast.FunctionDef)}
    names = {name for name in dir(compiled) if callable(getattr(compiled, name))}
    assert told.keys() == {name for name in names if name[0] != "_"} - {"TailBuffer"}
    for name, given in told.items():
        assert list(inspect.signature(getattr(compiled, name)).parameters) == given
        for home in (columns, framejoin, pointread, smallframes):
            if getattr(getattr(home, name, None), "__module__", None) == home.__name__:
                assert list(inspect.signature(getattr(home, name)).parameters) == given


def test_the_tail_buffer_is_the_same(compiled):
    (stub,) = (node for node in STUB.body if isinstance(node, ast.ClassDef))
    methods = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    fields = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    names = {name for name in dir(compiled.TailBuffer) if name[0] != "_"}
    assert fields | methods.keys() - {"__new__"} == names
    for name, node in methods.items():
        if name != "__new__" and not node.decorator_list:
            for kind in (compiled.TailBuffer, PythonTailBuffer):
                assert list(inspect.signature(getattr(kind, name)).parameters) == arguments(node)
