"""The script that draws the documentation's pictures takes functions, not modules of the same name."""

import ast
import importlib

from tests.bundles.conftest import ROOT


def test_what_the_script_takes_from_the_library_can_be_called():
    tree = ast.parse((ROOT / "docs/make_pictures.py").read_text(encoding="utf-8"))
    taken = [
        (node.module, name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("monai_ext")
        for name in node.names
    ]
    assert taken
    for module, name in taken:
        assert callable(getattr(importlib.import_module(module), name)), f"{module}.{name}"
