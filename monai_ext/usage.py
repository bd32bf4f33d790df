"""A function's arguments and docstring, read from the source: nothing is imported for a help page."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Option", "Usage", "nearest", "read_usage"]

_ROOT = Path(__file__).parents[1]
_WIDTH = 100
_SECTION = re.compile(r"^(Args|Attributes|Examples?|Raises|Returns|Yields):\n", re.MULTILINE)
_ENTRY = re.compile(r"^(?:\*\*)?(\w+): ", re.MULTILINE)
_MARKUP = re.compile(r":\w+:`~?([^`]*)`|`+([^`]*)`+")


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        name: on the command line, without hyphens.
        about: its docstring's text.
        default: as Python writes it; None where the option must be given.
        flag: it is true or false.
        parameter: the function's own name for it.
    """

    name: str
    about: str
    default: str | None
    flag: bool
    parameter: str


@dataclass(frozen=True)
class Usage:
    """What a function takes.

    Attributes:
        summary: the docstring's first sentence.
        description: the text between it and the arguments.
        options: in the function's order.
        rest: the docstring's text on ``**options``; None where the function takes no others.
    """

    summary: str
    description: str
    options: tuple[Option, ...]
    rest: str | None

    def page(self, program: str, more: bool) -> str:
        """The help page.

        Args:
            program: what is typed before the options.
            more: ``rest`` is about further options, not those listed.
        """
        needed = [option for option in self.options if option.default is None]
        others = [option for option in self.options if option.default is not None]
        usage = " ".join(["usage:", program, *(f"--{option.name} {option.name.upper()}" for option in needed)])
        parts = [usage + " [--option value ...]" * bool(others or self.rest), self.summary, self.description]
        for title, options in (("needed, also without their names and in this order:", needed), ("options:", others)):
            parts.append("\n".join([title, *map(_line, options)]) if options else "")
        parts.append(_filled(f"{'--...' if more else 'Of these'}: {self.rest}", "  ", "      ") if self.rest else "")
        return "\n\n".join(part for part in parts if part)


def read_usage(target: str) -> Usage:
    """What a function, or a class's constructor, takes, without importing it.

    Args:
        target: ``module:name`` of this package.

    Raises:
        LookupError: no such name in the module.
    """
    module, _, name = target.partition(":")
    node = next((n for n in _definitions(module) if n.name == name), None)
    if node is None:
        raise LookupError(target)
    function, text = node, ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        function = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    before, *sections = _SECTION.split(text)
    about = _entries(sections[sections.index("Args") + 1]) if "Args" in sections else {}
    summary, _, description = before.partition("\n")
    signature = function.args
    options = tuple(
        Option(
            argument.arg,
            about.get(argument.arg, ""),
            None if default is None else ast.unparse(default),
            (argument.annotation is not None and ast.unparse(argument.annotation) == "bool"),
            argument.arg,
        )
        for argument, default in _arguments(signature)
        if argument.arg != "self"
    )
    rest = about.get(signature.kwarg.arg, "") if signature.kwarg else None
    return Usage(_plain(summary), _plain(description.strip("\n")), options, rest)


@cache
def _definitions(module: str) -> tuple[ast.FunctionDef | ast.ClassDef, ...]:
    """The functions and classes of a module."""
    path = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_bytes(), path).body
    return tuple(node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))


def _arguments(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Arguments with their defaults."""
    positional = [*arguments.posonlyargs, *arguments.args]
    without = len(positional) - len(arguments.defaults)
    yield from zip(positional, [*[None] * without, *arguments.defaults], strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


def _entries(section: str) -> dict[str, str]:
    """The entries of a section by their names, each on one line."""
    _, *parts = _ENTRY.split(inspect.cleandoc(section))
    return {name: _plain(" ".join(text.split())) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _plain(text: str) -> str:
    """Without reStructuredText's markup."""
    return _MARKUP.sub(lambda match: (match[1] or match[2] or "").rpartition("monai_ext.")[2], text)


def _line(option: Option) -> str:
    default = "" if option.default in (None, "None") else f" (default {option.default})"
    return _filled(f"--{option.name}: {option.about or 'see above.'}{default}", "  ", "      ")


def _filled(text: str, first: str, other: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=other, break_on_hyphens=False)


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that ``name`` may be a misspelling of, at most three."""
    from difflib import get_close_matches

    return get_close_matches(name, names)
