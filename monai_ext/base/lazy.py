"""Packages whose names are imported when they are first used (PEP 562)."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["deferred_imports", "guards_types", "lazy_names"]


def guards_types(node: ast.AST) -> bool:
    """Whether a statement is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def deferred_imports(file: str | Path) -> dict[str, tuple[str, str]]:
    """The names that a file imports below ``if TYPE_CHECKING:``, each with its module and its name there."""
    tree = ast.parse(Path(file).read_bytes())
    statements = [statement for node in tree.body if guards_types(node) for statement in node.body]
    return {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


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
    names = deferred_imports(file)

    def imported(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = names[name]
        value = None if module == package else getattr(importlib.import_module(module), attribute, None)
        if value is None:  # a module, not what one holds
            value = importlib.import_module(f"{module}.{attribute}")
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return imported
