"""Which folders of finished evaluations a report is made from."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence

from monai_ext.base.errors import InputError

__all__ = ["check_runs", "folders_of"]


def check_runs(runs: object) -> None:
    """Raise ``InputError`` unless ``--runs`` names rows."""
    if not isinstance(runs, Mapping) or not runs:
        raise InputError("--runs", "{'name': 'eval/name_*', ...}", repr(runs))


def folders_of(name: str, folders: str | Sequence[str]) -> list[str]:
    """The folders of a row, in order.

    Args:
        name: of the row.
        folders: a folder, a pattern, or a list of them.

    Raises:
        InputError: no folder matches.
    """
    patterns = [folders] if isinstance(folders, str) else list(folders)
    matches = sorted(folder for pattern in patterns for folder in glob.glob(str(pattern)))  # noqa: PTH207  any root
    if not matches:
        raise InputError(f"--runs {name}", "folders of evaluations", f"none like {', '.join(map(str, patterns))}")
    return matches
