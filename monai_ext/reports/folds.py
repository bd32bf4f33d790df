"""Mean and standard deviation over the folds of a cross-validation, as in Table I of Cyclic Learning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.reports.pages import write_report
from monai_ext.reports.runs import check_runs, folders_of

__all__ = ["compare_folds"]


def compare_folds(runs: Mapping[str, str | Sequence[str]], dst: str) -> str:
    """Give each metric of ``metrics.json`` as mean and standard deviation over the folds of a cross-validation.

    The deviation is that of a sample (n - 1): what one more training, on other images of the same kind, would differ
    by. It is no interval of the mean, and says nothing of other test images.

    Args:
        runs: for each row of the table the folders of its evaluations, one for each fold, or a pattern such as
            ``eval/cycles_fold_*``.
        dst: folder to write: ``folds.csv`` and ``report.html``.

    Returns:
        the path of ``folds.csv``: a row for each row and metric, with the ``folds``, ``mean``, ``sd`` and ``values``.

    Raises:
        InputError: no folder matches, one without ``metrics.json``, or fewer than two folds.
    """
    check_runs(runs)
    rows: list[dict[str, Any]] = []
    lines, notes = [], {}
    for name, patterns in runs.items():
        folders = folders_of(name, patterns)
        if len(folders) < 2:
            raise InputError(f"--runs {name}", "evaluations of two folds or more", ", ".join(folders))
        notes[name] = ", ".join(folders)
        measured = [_metrics(Path(folder) / "metrics.json") for folder in folders]
        line: dict[str, Any] = {"name": name, "folds": len(folders)}
        for metric in measured[0]:
            values = [each[metric] for each in measured if each.get(metric) is not None]
            if len(values) < len(folders):
                continue  # not defined in a fold
            mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
            shown = " ".join(f"{value:.6g}" for value in values)
            rows.append(
                {"name": name, "metric": metric, "folds": len(values), "mean": mean, "sd": deviation, "values": shown}
            )
            line[metric] = f"{mean:.3f} ± {deviation:.3f}"
        lines.append(line)
    path = Path(dst) / "folds.csv"
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    write_report(path.with_name("report.html"), title="Folds", metrics={}, tables={"Rows": lines}, notes=notes)
    print(pd.DataFrame(lines).fillna("").to_string(index=False))
    return str(path)


def _metrics(path: Path) -> dict[str, float | None]:
    """What has a value and an interval, by its name; ``radius_30px f1`` where metrics are grouped."""
    if not path.is_file():
        raise InputError(path, "the metrics that evaluate.json writes", "no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = dict(_values(content))
    except (AttributeError, ValueError) as error:
        raise InputError(path, "metrics, a JSON object", str(error)) from error
    if not values:
        raise InputError(path, "metrics with a value and an interval", "none")
    return values


def _values(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, entry in content.items():
        if isinstance(entry, Mapping) and {"value", "low", "high"} <= set(entry):
            yield f"{prefix}{name}", entry["value"]
        elif isinstance(entry, Mapping) and name != "notes":
            yield from _values(entry, f"{prefix}{name} ")
