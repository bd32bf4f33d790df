"""Several classifiers, segmentations or annotations, side by side, with intervals and paired differences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.datalist import load_datalist
from monai_ext.data.nuclei import BACKGROUND, NucleusPatches, check_nuclei_item, read_class_names
from monai_ext.metrics.bootstrap import (
    Interval,
    bootstrap_scores,
    weighted_accuracy,
    weighted_auc,
    weighted_detection_f1,
    weighted_mean,
)
from monai_ext.metrics.classification import WEIGHTED, class_scores_ci, weighted_f1, weighted_share
from monai_ext.metrics.grid_locating import grid_locating_scores
from monai_ext.reports.pages import write_report
from monai_ext.reports.runs import check_runs, folders_of

__all__ = ["compare_annotations", "compare_classifiers", "compare_detections", "compare_instances"]

_STATISTICS = {"AUC": weighted_auc, "accuracy": weighted_accuracy}
_MEANS = {
    "Dice": "dice",
    "Hausdorff": "hausdorff",
    "AJI": "aji",
    "object Dice": "object_dice",
    "PQ": "pq",
    "foreground IoU": "foreground_iou",
    "partial Hausdorff": "partial_hausdorff",
}
_COUNTS = ["tp", "fp", "fn"]
_OF_CLASSES = {"weighted F1": weighted_f1, "accuracy": weighted_share}


def compare_classifiers(runs: Mapping[str, str | Sequence[str]], dst: str) -> str:
    """Compare classifiers by the ``scores.csv`` that their evaluations wrote.

    Groups (slides, patients) are resampled over all runs together, so differences are paired; a row whose runs were
    tested on other groups than those of the first one gets none. Two classes are compared by AUC and accuracy, several
    by weighted F1 and accuracy; vessels also by the mean Dice of what was located, where cells were marked.

    Args:
        runs: for each row of the table the folders of its evaluations, one for each seed, or a pattern such as
            ``eval/resnet18_*``. The first row is what the others are compared with.
        dst: folder to write: ``comparison.csv`` and ``report.html``.

    Returns:
        the path of ``comparison.csv``.

    Raises:
        InputError: no folder matches, or a folder without a usable ``scores.csv``.
    """
    check_runs(runs)
    scores = {name: [_read(path) for path in folders_of(name, folders)] for name, folders in runs.items()}
    statistics = {title: (dict, statistic) for title, statistic in _statistics(scores).items()}
    if all(len(_located(table)) for tables in scores.values() for table in tables):
        statistics["Dice"] = (_located, weighted_mean)
    return _compare(runs, scores, statistics, dst)


def compare_detections(runs: Mapping[str, str | Sequence[str]], dst: str) -> str:
    """Compare detections, such as mitoses, by the ``scores.csv`` that their evaluations wrote.

    As :func:`compare_classifiers`; F1 of the counts of all fields.

    Args:
        runs: see :func:`compare_classifiers`.
        dst: folder to write: ``comparison.csv`` and ``report.html``.

    Returns:
        the path of ``comparison.csv``.

    Raises:
        InputError: no folder matches, or a folder without a usable ``scores.csv``.
    """
    return _compare_counts(runs, dst, {}, "counts of detections")


def compare_instances(runs: Mapping[str, str | Sequence[str]], dst: str) -> str:
    """Compare instance segmentations by the ``scores.csv`` that their evaluations wrote.

    As :func:`compare_classifiers`; images are the rows. Means over images of all measures, and F1 of pooled counts.

    Args:
        runs: see :func:`compare_classifiers`.
        dst: folder to write: ``comparison.csv`` and ``report.html``.

    Returns:
        the path of ``comparison.csv``.

    Raises:
        InputError: no folder matches, or a folder without a usable ``scores.csv``.
    """
    return _compare_counts(runs, dst, _MEANS, "scores of instances")


def _compare_counts(runs: Mapping[str, str | Sequence[str]], dst: str, means: Mapping[str, str], what: str) -> str:
    """By the means of columns, by title, and the F1 of pooled counts."""
    check_runs(runs)
    wanted = [*means.values(), *_COUNTS]
    scores = {
        name: [_read_numbers(path, wanted, what) for path in folders_of(name, folders)]
        for name, folders in runs.items()
    }
    statistics = {title: (partial(_column, name=name), weighted_mean) for title, name in means.items()}
    return _compare(runs, scores, {**statistics, "F1": (_counts, weighted_detection_f1)}, dst)


def _compare(
    runs: Mapping[str, str | Sequence[str]],
    scores: Mapping[str, list[pd.DataFrame]],
    statistics: Mapping[str, tuple[Callable, Callable]],
    dst: str,
) -> str:
    """The table of all runs; a statistic is what ``bootstrap_scores`` reads of a table, and what it computes."""
    first = next(iter(scores))
    tested = {name: {frozenset(table["group"]) for table in tables} for name, tables in scores.items()}
    if others := [name for name in scores if tested[name] != tested[first]]:
        print(f"no difference to {first}, as tested on other groups: {', '.join(others)}", file=sys.stderr)
    rows, lines = [], []
    for name, tables in scores.items():
        row: dict[str, object] = {"name": name, "runs": len(tables)}
        texts = dict(row)
        for title, (read, statistic) in statistics.items():
            compared, base = ([read(table) for table in each] for each in (tables, scores[first]))
            values = {title: bootstrap_scores(compared, statistic)}
            if name not in (first, *others):
                values[f"{title} less {first}"] = bootstrap_scores(compared, statistic, base)
            for column, interval in values.items():
                row |= {column: interval.value, f"{column} low": interval.low, f"{column} high": interval.high}
                texts[column] = _text(interval)
        rows.append(row)
        lines.append(texts)
    path = Path(dst) / "comparison.csv"
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    notes = {name: ", ".join(folders_of(name, folders)) for name, folders in runs.items()}
    write_report(path.with_name("report.html"), title="Comparison", metrics={}, tables={"Rows": lines}, notes=notes)
    print(pd.DataFrame(lines).fillna("").to_string(index=False))
    return str(path)


def _table(folder: str) -> tuple[Path, pd.DataFrame]:
    path = Path(folder) / "scores.csv"
    if not path.is_file():
        raise InputError(path, "the scores that evaluate.json writes", "no such file")
    try:
        table = pd.read_csv(path, dtype={"group": str}, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors are of this family
        raise InputError(path, "a table", f"{error}".split("\n")[0]) from error
    if table.empty:
        raise InputError(path, "a row for each image that was scored", "no row")
    return path, table


def _read_numbers(folder: str, wanted: Sequence[str], what: str) -> pd.DataFrame:
    path, table = _table(folder)
    if missing := {"group", *wanted} - set(table):
        raise InputError(path, what, f"no columns {', '.join(sorted(missing))}")
    # an empty field is a distance that there is none of
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in wanted})


def _column(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table.assign(score=table[name], label=0).dropna(subset="score")


def _counts(table: pd.DataFrame) -> dict[str, object]:
    return {"score": table[_COUNTS].to_numpy(), "label": np.zeros(len(table)), "group": table["group"]}


def _located(table: pd.DataFrame) -> pd.DataFrame:
    """The vessels whose cells were marked; none of a table without counts."""
    counts = table.reindex(columns=_COUNTS).apply(pd.to_numeric, errors="coerce").dropna()
    return table.loc[counts.index].assign(score=grid_locating_scores(counts.to_numpy())["dice"], label=0)


def _read(folder: str) -> pd.DataFrame:
    path, table = _table(folder)
    several = "predicted" in table
    if missing := {"group", "label", "predicted" if several else "score"} - set(table):
        raise InputError(path, "columns group, label, score or predicted", f"none named {', '.join(sorted(missing))}")
    if several:
        return table
    label, score = (pd.to_numeric(table[name], errors="coerce") for name in ("label", "score"))
    wrong = ~(label.isin([0, 1]) & score.between(0, 1))
    if wrong.any():
        problem = f"{table.loc[wrong.idxmax(), ['label', 'score']].to_dict()}"
        raise InputError(path, "rows with a label 0 or 1 and a score in [0, 1]", problem)
    return table.assign(label=label, score=score)


def _statistics(scores: Mapping[str, list[pd.DataFrame]]) -> Mapping[str, Callable]:
    """What tables are compared by; names of classes become numbers."""
    tables = [table for run_tables in scores.values() for table in run_tables]
    several = ["predicted" in table for table in tables]
    if not any(several):
        return _STATISTICS
    if not all(several):
        raise InputError("--runs", "evaluations of one kind", "some of two classes, some of several")
    names = pd.unique(pd.concat([table[column] for table in tables for column in ("label", "predicted")]))
    number = {name: index for index, name in enumerate(sorted(names))}
    for table in tables:
        table["score"], table["label"] = (table[column].map(number) for column in ("predicted", "label"))
    return _OF_CLASSES


def compare_annotations(
    dataset_dir: str, dst: str, truth: str = "ea", annotations: Sequence[str] = ("ssa", "wsa"), split: str = "all"
) -> str:
    """Score annotations of nuclei against a more reliable one (Háberová and Vykopal 2023, Table 3).

    Nuclei that either of the two does not class are left out, and counted.

    Args:
        dataset_dir: folder with the nuclei's ``dataset.json``.
        dst: folder to write: ``annotations.csv``, ``report.html``, and for each annotation a folder with
            ``scores.csv``, by which :func:`compare_classifiers` puts it beside classifiers.
        truth: column that is taken for the truth.
        annotations: columns to score.
        split: ``training``, ``validation``, ``test`` or ``all``.

    Returns:
        the path of ``annotations.csv``.

    Raises:
        InputError: bad data, no such list, or no nucleus that both annotate.
    """
    parts = ("training", "validation", "test")
    if split not in (*parts, "all"):
        raise InputError("--split", f"{', '.join(parts)} or all", repr(split))
    columns = [annotations] if isinstance(annotations, str) else list(annotations)
    names = read_class_names(dataset_dir)
    check = partial(check_nuclei_item, class_names=names, annotations=[truth, *columns])
    lists = load_datalist(dataset_dir, parts if split == "all" else [split], check=check)
    items = [item for part in lists.values() for item in part]
    nuclei = NucleusPatches(items, truth, names)
    rows, lines = [], []
    for column in columns:
        annotated = nuclei.annotated(column)
        both = np.isin(annotated, names)
        if not both.any():
            raise InputError(f"annotation {column!r}", f"classes where {truth!r} has some", "none")
        predicted = [names.index(name) for name in annotated[both]]
        table = {
            "group": nuclei.groups[both],
            "label": np.array(names)[nuclei.labels[both]],
            "predicted": annotated[both],
        }
        with atomic_path(Path(dst) / column / "scores.csv") as temporary:
            pd.DataFrame(table).to_csv(temporary, index=False)
        scores = class_scores_ci(nuclei.labels[both], predicted, names, nuclei.groups[both])
        counts = {"nuclei": int(both.sum()), BACKGROUND: int((annotated == BACKGROUND).sum())}
        row: dict[str, object] = {"annotation": column}
        for name in WEIGHTED:
            row |= {name: scores[name].value, f"{name} low": scores[name].low, f"{name} high": scores[name].high}
        rows.append(row | counts)
        lines.append({"annotation": column, **{name: _text(scores[name]) for name in WEIGHTED}, **counts})
    path = Path(dst) / "annotations.csv"
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    notes = {"Data": f"{dataset_dir}, {split} list", "Truth": truth}
    write_report(path.with_name("report.html"), title="Annotations", metrics={}, tables={"Rows": lines}, notes=notes)
    print(pd.DataFrame(lines).to_string(index=False))
    return str(path)


def _text(interval: Interval) -> str:
    if interval.value is None:
        return "-"
    spread = "" if interval.low is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{interval.value:.3f}{spread}"
