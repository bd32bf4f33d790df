"""Several classifiers side by side, each trained several times, with intervals and paired differences."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from monai_ext.data.points import atomic_path
from monai_ext.errors import InputError
from monai_ext.metrics.bootstrap import Interval, bootstrap_scores, weighted_accuracy, weighted_auc
from monai_ext.visualize.report import write_report

__all__ = ["compare_classifiers"]

_STATISTICS = {"AUC": weighted_auc, "accuracy": weighted_accuracy}


def compare_classifiers(runs: Mapping[str, str | Sequence[str]], dst: str) -> str:
    """Compare classifiers by the ``scores.csv`` that their evaluations wrote.

    Groups (slides, patients) are resampled over all runs together, so differences are paired.

    Args:
        runs: for each row of the table the folders of its evaluations, one for each seed, or a pattern such as
            ``eval/resnet18_*``. The first row is what the others are compared with.
        dst: folder to write: ``comparison.csv`` and ``report.html``.

    Returns:
        the path of ``comparison.csv``.

    Raises:
        InputError: no folder matches, or a folder without a usable ``scores.csv``.
    """
    if not isinstance(runs, Mapping) or not runs:
        raise InputError("--runs", "{'name': 'eval/name_*', ...}", repr(runs))
    scores = {name: [_read(path) for path in _folders(name, folders)] for name, folders in runs.items()}
    first = next(iter(scores))
    rows, shown = [], []
    for name, tables in scores.items():
        row: dict[str, object] = {"name": name, "runs": len(tables)}
        texts = dict(row)
        for title, statistic in _STATISTICS.items():
            values = {title: bootstrap_scores(tables, statistic)}
            if name != first:
                values[f"{title} less {first}"] = bootstrap_scores(tables, statistic, scores[first])
            for column, interval in values.items():
                row |= {column: interval.value, f"{column} low": interval.low, f"{column} high": interval.high}
                texts[column] = _text(interval)
        rows.append(row)
        shown.append(texts)
    path = Path(dst) / "comparison.csv"
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    notes = {name: ", ".join(_folders(name, folders)) for name, folders in runs.items()}
    write_report(path.with_name("report.html"), title="Comparison", metrics={}, tables={"Rows": shown}, notes=notes)
    print(pd.DataFrame(shown).fillna("").to_string(index=False))
    return str(path)


def _folders(name: str, folders: str | Sequence[str]) -> list[str]:
    patterns = [folders] if isinstance(folders, str) else list(folders)
    found = sorted(folder for pattern in patterns for folder in glob.glob(str(pattern)))  # noqa: PTH207  any root
    if not found:
        raise InputError(f"--runs {name}", "folders of evaluations", f"none like {', '.join(map(str, patterns))}")
    return found


def _read(folder: str) -> pd.DataFrame:
    path = Path(folder) / "scores.csv"
    if not path.is_file():
        raise InputError(path, "the scores that evaluate.json writes", "no such file")
    try:
        table = pd.read_csv(path, dtype={"group": str}, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors are of this family
        raise InputError(path, "a table", f"{error}".split("\n")[0]) from error
    if missing := {"group", "label", "score"} - set(table):
        raise InputError(path, "columns group, label, score", f"none named {', '.join(sorted(missing))}")
    label, score = (pd.to_numeric(table[name], errors="coerce") for name in ("label", "score"))
    wrong = ~(label.isin([0, 1]) & score.between(0, 1))
    if wrong.any() or table.empty:
        row = "no row" if table.empty else f"{table.loc[wrong.idxmax(), ['label', 'score']].to_dict()}"
        raise InputError(path, "rows with a label 0 or 1 and a score in [0, 1]", row)
    return table.assign(label=label, score=score)


def _text(interval: Interval) -> str:
    if interval.value is None:
        return "-"
    spread = "" if interval.low is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{interval.value:.3f}{spread}"
