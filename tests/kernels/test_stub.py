"""The types of `gossamer.kernels._native` that mypy goes by name what the compiled module has."""

import ast
from pathlib import Path
from typing import Any

import pytest

from gossamer.kernels import dispatch

native: Any = dispatch.native_module()
pytestmark = pytest.mark.skipif(native is None, reason="gossamer.kernels._native is not built")


def test_the_stub_names_what_the_compiled_module_has() -> None:
    stub = ast.parse(Path(dispatch.__file__).with_name("_native.pyi").read_text(encoding="utf-8"))
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert {*classes, *functions} == {name for name in dir(native) if not name.startswith("_")}
    for name, node in classes.items():
        methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)} - {"__init__"}
        assert methods == {each for each in dir(getattr(native, name)) if not each.startswith("_")}, name
