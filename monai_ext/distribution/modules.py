"""The part of this package that a text needs: the modules that it names, and whatever they import."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from monai_ext.base.lazy import deferred_imports, guards_types

__all__ = ["needed_files"]

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).parents[1]
_NAME = re.compile(rf"\b{_PACKAGE}\b(?:\.\w+)*")
_COMMAND = re.compile(rf"-m {_PACKAGE}\b")
_TARGET = re.compile(rf"{_PACKAGE}(?:\.\w+)+:\w+")  # as the table of commands names functions


def needed_files(text: str) -> dict[str, Path]:
    """The files of this package that configurations and the commands of a README need.

    Args:
        text: in which ``monai_ext.a.b`` names a module or what is in one, and ``-m monai_ext`` the command line.

    Returns:
        the files by their names, ``monai_ext/a/b.py``: the modules named, those that they import, also within
        functions, the packages around them, and the files beside the modules of those that are no modules themselves.
    """
    waiting = set(_NAME.findall(text))
    if _COMMAND.search(text):
        waiting.add(f"{_PACKAGE}.__main__")
    modules: dict[str, Path] = {}
    while waiting:
        for module, path in _modules(waiting.pop()):
            if module not in modules:
                modules[module] = path
                waiting.update(_imports(module, path))
    files = set(modules.values())
    for path in modules.values():
        if path.name == "__init__.py":
            beside = (p for p in path.parent.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc"))
            files.update(p for p in beside if not p.name.startswith("."))
    return {path.relative_to(_ROOT.parent).as_posix(): path for path in files}


def _modules(name: str) -> Iterator[tuple[str, Path]]:
    """The modules that a dotted name passes through, with their files.

    The rest of it is an attribute; one that a package imports when it is first used leads on to its module. A name
    that ends at a package stands for all of its public names.
    """
    parts = name.split(".")
    if parts[0] != _PACKAGE:
        return
    for end in range(1, len(parts) + 1):
        path = _ROOT.parent.joinpath(*parts[:end])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file():
            package = _ROOT.parent.joinpath(*parts[: end - 1], "__init__.py")
            deferred = _deferred(package) if package.is_file() else {}
            if parts[end - 1] in deferred:
                yield from _modules(".".join([*deferred[parts[end - 1]], *parts[end:]]))
            return
        yield ".".join(parts[:end]), path
    if path.name == "__init__.py" and len(parts) > 1:  # a package by itself: all of its public names
        for deferred in _deferred(path).values():
            yield from _modules(".".join(deferred))


_deferred = cache(deferred_imports)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All statements and expressions but those for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not guards_types(child):
            yield from _run(child)


@cache
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """What a module's import statements name, and the functions that it names as ``module:function``."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in _run(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _TARGET.fullmatch(node.value):
            names.append(node.value.partition(":")[0])
    return tuple(names)
