"""Packages whose names are imported when they are first used (PEP 562)."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, file: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that imports its public names when they are first used.

    The names stand in the package's ``__init__.py`` as ordinary imports below ``if TYPE_CHECKING:``, where editors,
    type checkers, the documentation and the check of the layers read them too::

        if TYPE_CHECKING:
            from monai_ext.losses.ghmc import GHMCLoss

        __getattr__ = lazy_names(__name__, __file__)

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    Raises:
        AttributeError: (the function returned) there is no such name.
    """
    tree = ast.parse(Path(file).read_bytes())
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    modules = {
        alias.asname or alias.name: (statement.module, alias.name)
        for node in guarded
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    def imported(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = modules[name]
        value = getattr(importlib.import_module(module), attribute)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return imported
