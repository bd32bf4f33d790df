"""Errors for bad input: one line that names the file, what was expected and what was found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["DataListError", "InputError", "input_error_in", "report_plainly"]


class InputError(ValueError):
    """A file or an argument that cannot be used.

    Args:
        where: the file (or the argument's name) at fault.
        expected: what was expected, in a few words.
        found: what was found instead.
    """

    def __init__(self, where: str | Path, expected: str, found: str) -> None:
        self.where, self.expected, self.found = str(where), expected, found
        super().__init__(f"{where}: expected {expected}, found {found}")

    def __reduce__(self) -> tuple:
        # the default would call the class with the one formatted message, so it could not cross a worker process
        return type(self), (self.where, self.expected, self.found)


class DataListError(InputError):
    """All that is wrong with a data list, found before the first epoch and reported together.

    Args:
        where: the data list's file, or a name for a list given in memory.
        problems: one line each.
    """

    def __init__(self, where: str | Path, problems: Sequence[str]) -> None:
        self.problems = [str(problem) for problem in problems]
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(where, "a usable data list", f"{len(self.problems)} problem(s):{lines}")

    def __reduce__(self) -> tuple:
        return type(self), (self.where, self.problems)


def input_error_in(error: BaseException | None) -> InputError | None:
    """The :class:`InputError` that an exception is or arose from, however deep; ``None`` if there is none."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def report_plainly() -> None:
    """Let the interpreter end on an :class:`InputError` with its message alone, however deep it was raised.

    Bundles call it when they are initialised: MONAI wraps what a configuration raises in several ``RuntimeError``, and
    the one line that a user can act on would be lost among them. Every other exception keeps its traceback.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = input_error_in(error)
        if cause is None:
            previous(kind, error, trace)
        else:
            print(f"\n{type(cause).__name__}: {cause}", file=sys.stderr)

    sys.excepthook = hook
