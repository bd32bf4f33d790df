"""What every tuning shares: a bundle read by its configuration, the choice on a plateau, the files left behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

from monai_ext.base.config_order import check_order
from monai_ext.base.errors import InputError, input_error_in
from monai_ext.base.files import atomic_path

__all__ = ["central_choice", "errors_unwrapped", "grid", "read_bundle", "read_settings", "write_tuned"]


def grid(limits: Sequence[float], name: str = "limits") -> np.ndarray:
    """The numbers from the first to the last of ``limits``, a step (its third number) apart; both ends are in.

    Raises:
        InputError: naming the option, if ``limits`` is anything else.
    """
    try:
        first, last, step = limits
        usable = step > 0 and first <= last
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise InputError(name, "first, last and a step above 0, as (0.1,0.9,0.1)", repr(limits))
    return np.arange(round((last - first) / step) + 1) * step + first


def read_settings(path: str | os.PathLike, defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a tuning wrote, or the defaults, with a message, where there is no such file.

    Args:
        path: the JSON file.
        defaults: what the file must hold at least.
        name: of the settings, for the message.

    Raises:
        InputError: the file cannot be read or lacks an entry.
    """
    path = Path(path)
    if not path.is_file():
        print(f"{path}: no such file; {name} are {dict(defaults)}", file=sys.stderr)
        return dict(defaults)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {**content, **{key: content[key] for key in defaults}}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"an object with {', '.join(defaults)}", repr(error)) from error


def read_bundle(
    command: str, folder: str | os.PathLike, configs: Sequence[str], changes: Mapping[str, Any], **overrides: Any
) -> ConfigParser:
    """A bundle's configuration, set to evaluate its validation list.

    Args:
        command: what the user called, for the messages.
        folder: the bundle's folder.
        configs: files in it, the later over the earlier.
        changes: entries to set.
        **overrides: the user's entries, which must be in the configuration.

    Raises:
        InputError: no such file, an override of nothing, or one of the list.
    """
    if "split" in overrides:  # what was tuned on the test list would flatter its figures
        raise InputError(command, "no --split, as the validation list alone decides", repr(overrides["split"]))
    folder = Path(folder)
    files = [folder / name for name in configs]
    for file in files:
        if not file.is_file():
            raise InputError(file, "a configuration of the bundle (--bundle)", "no such file")
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    check_order(files)
    unknown = [key for key in overrides if parser.get(key) is None and key not in parser]
    if unknown:
        expected = f"options of {command.replace('tune ', 'tune_')} or entries of {files[0].name}"
        raise InputError(command, expected, ", ".join(unknown))
    parser.update({"bundle_root": str(folder), "split": "validation", **changes, **overrides})
    parser.parse()
    return parser


@contextmanager
def errors_unwrapped() -> Iterator[None]:
    """MONAI wraps what a configuration raises; inside, an :class:`InputError` comes out as itself."""
    try:
        yield
    except RuntimeError as error:
        raise input_error_in(error) or error from None


def central_choice(
    table: pd.DataFrame, score: str, error: float, over: Sequence[str], kind: str | None = None
) -> pd.Series:
    """The most central of all settings that are as good as the best.

    A small validation list cannot tell settings apart whose scores differ by less than the standard error. So of all
    those within one standard error of the best the one nearest to their middle is taken, which carries over better
    than a lucky island (the one-standard-error rule of Breiman et al. 1984).

    Args:
        table: a row for each setting.
        score: the column to be large.
        error: its standard error.
        over: the columns of numbers in which to be central, each scaled by its range.
        kind: a column of choices that have no middle; that of the best setting is kept.

    Returns:
        the row.
    """
    plateau = table[table[score] >= table[score].max() - error]
    if kind is not None:
        plateau = plateau[plateau[kind] == plateau.loc[plateau[score].idxmax(), kind]]
    over = list(over)
    spread = table[over].agg(np.ptp).replace(0, 1)
    distance = ((plateau[over] - plateau[over].mean()) / spread).pow(2).sum(axis=1)
    return plateau.loc[distance.idxmin()]


def write_tuned(path: Path, content: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], figure: Figure) -> None:
    """Write a tuning's files, last the one that others read.

    Args:
        path: the JSON file.
        content: what goes into it.
        tables: by the end of their names: ``<stem>_<name>.csv`` beside it.
        figure: ``<stem>_sweep.png``.
    """
    for name, table in tables.items():
        with atomic_path(path.with_name(f"{path.stem}_{name}.csv")) as temporary:
            table.to_csv(temporary, index=False)
    with atomic_path(path.with_name(f"{path.stem}_sweep.png")) as temporary:
        figure.savefig(temporary, dpi=120)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
