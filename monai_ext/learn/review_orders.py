"""Whether it matters which objects a reviewer looks at: simulated reviews of objects whose truth is known."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.review_order import REVIEW_ORDERS, next_objects
from monai_ext.engines.phases import Phase, PhaseRunner
from monai_ext.learn.lessons import CLASSES, OUTLINES, POINTS, SETTINGS, Lesson, bundle_parser, config_stack
from monai_ext.learn.review_pools import NucleusPool, ObjectPool, Pool

__all__ = ["compare_review_orders"]

_CONTROL = "random"
_COLOURS = {"random": "#888888", "doubt": "#2f7fc1", "diverse": "#d1702f"}


@dataclass(frozen=True)
class _Simulation:
    """One reviewer: a data set, weights to begin with, an order.

    Attributes:
        order: of :data:`REVIEW_ORDERS`.
        seed: of the random order and of the trainings; also the place of the data set.
        dataset_dir: of the nuclei.
        student_dir: of the weights to begin with.
        folder: to write.
    """

    order: str
    seed: int
    dataset_dir: str
    student_dir: str
    folder: Path


def compare_review_orders(
    dataset_dir: str | Sequence[str],
    student_dir: str | Sequence[str],
    dst: str | os.PathLike,
    *,
    bundle: str | os.PathLike = "bundles/pathology_cell_semantic_segmentation",
    learns: str | None = None,
    clicks: Sequence[int] = (25, 50, 100, 200, 400),
    orders: Sequence[str] = REVIEW_ORDERS,
    **overrides: Any,
) -> str:
    """Simulate reviewers who go through objects in different orders, and see how fast a network learns from each.

    A simulated reviewer knows the truth of the training list and looks at one object after the other, a click each:
    at nuclei, of which a click says the class, or at what the bundle finds there, of which it says whether it is
    right. After each number of clicks the network learns from all objects seen so far, beginning with the weights that
    it had before any, by the training that ``monai-ext learn`` uses. It is scored on the test list, which no reviewer
    sees. Which nuclei a classifier is least certain of is asked anew after each training; what a bundle finds is gone
    through as its result has it. A stopped comparison goes on where it was.

    Args:
        dataset_dir: folder of a data set (``dataset.json``), of nuclei with the column ``ea``, or of images with the
            truth of each; with several, such as one split at random several times, there is a reviewer for each.
        student_dir: folder of the ``model.pt`` to begin with, which never saw those labels; one for all, or for each.
        dst: folder to write: ``orders.csv`` (a row for each order and number of clicks: the scores, and the difference
            to the random order, with intervals over groups and trainings), ``orders.png``, and below it all that was
            trained.
        bundle: the folder of the bundle, of mitoses, cells or nuclei.
        learns: ``classes``, ``outlines`` or ``points``; by default the first of these that the bundle has.
        clicks: objects that were looked at, ascending.
        orders: to compare; ``random`` is the control and must be among them.
        **overrides: entries of the training's configuration, such as ``epochs`` or ``device``.

    Returns:
        the path of ``orders.csv``.

    Raises:
        InputError: bad data or weights, no such order, or fewer objects than clicks.
    """
    clicks, orders = ([values] if isinstance(values, int | str) else list(values) for values in (clicks, orders))
    root, folder = Path(bundle), Path(dst)
    _check(clicks, orders)
    lesson = _lesson(root, learns)
    parsers = [bundle_parser(root, name) for name in (lesson.training, lesson.scoring)]
    known = {key for parser in parsers for key in parser.get()}
    if unknown := [f"--{name}" for name in overrides if name.partition("#")[0] not in known]:
        raise InputError("report review-orders", "entries of the bundle's training", ", ".join(unknown))
    runs = list(_simulations(folder, dataset_dir, student_dir, orders))
    pools: dict[int, Pool] = {}
    for number, run in enumerate(runs, 1):
        print(f"reviewer {number} of {len(runs)}: {run.order}, {run.dataset_dir}", flush=True)
        if run.seed not in pools:  # once for all orders
            pools = {run.seed: _pool(run, root, lesson, overrides)}
        _review(run, root, lesson, pools[run.seed], clicks, overrides)
    rows = []
    for count in (0, *clicks):
        named = {
            order: str(_evaluation(folder, order, "*", count))
            for order in sorted(orders, key=lambda order: order != _CONTROL)  # the first is what others are compared to
            if count or order == _CONTROL
        }
        table = pd.read_csv(lesson.compare(named, str(folder / "comparisons" / str(count))))
        rows.append(table.rename(columns={"name": "order"}).assign(clicks=count))
    table = pd.concat(rows, ignore_index=True)
    table = table[["clicks", *table.columns.drop("clicks")]]
    table.loc[table["clicks"] == 0, "order"] = "none"
    with atomic_path(folder / "orders.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(folder / "orders.png") as temporary:
        _plot(table, lesson.score).savefig(temporary, dpi=120)
    for order in orders:
        if order != _CONTROL:
            print(_saved(table, order, lesson.score))
    return str(folder / "orders.csv")


def _lesson(root: Path, learns: str | None) -> Lesson:
    """What is learnt.

    Raises:
        InputError: no bundle of objects, or one that learns something else.
    """
    objects = bundle_parser(root, OUTLINES.training).get("learns_from")
    if objects == POINTS.name:
        lessons = [POINTS]
    else:
        lessons = [each for each in (CLASSES, OUTLINES) if config_stack(root, each.training)]
    if not lessons:
        raise InputError("--bundle", "the folder of the bundle of mitoses, cells or nuclei", repr(str(root)))
    by_name = {each.name: each for each in lessons}
    if learns not in (None, *by_name):
        raise InputError("--learns", f"{' or '.join(by_name)}, of {root.name}", repr(learns))
    return by_name.get(learns, lessons[0])


def _check(clicks: Sequence[Any], orders: Sequence[Any]) -> None:
    whole = all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in clicks)
    if not clicks or not whole or any(second <= first for first, second in pairwise(clicks)):
        raise InputError("--clicks", "ascending whole numbers from 1, as (25,50,100)", repr(clicks))
    if _CONTROL not in orders or set(orders) - set(REVIEW_ORDERS) or len(set(orders)) < len(orders):
        raise InputError("--orders", f"some of {', '.join(REVIEW_ORDERS)}; {_CONTROL} among them", repr(orders))


def _simulations(
    folder: Path, dataset_dir: str | Sequence[str], student_dir: str | Sequence[str], orders: Sequence[str]
) -> Iterator[_Simulation]:
    data, students = (
        [each] if isinstance(each, str | os.PathLike) else list(each) for each in (dataset_dir, student_dir)
    )
    students = students * len(data) if len(students) == 1 else students
    if len(students) != len(data):
        raise InputError("--student_dir", f"one folder, or one for each of {len(data)} data sets", str(len(students)))
    for seed, (dataset, student) in enumerate(zip(data, students, strict=True)):
        if not (Path(student) / "model.pt").is_file():
            raise InputError("--student_dir", "the folder of a model.pt", repr(str(student)))
        for order in orders:
            yield _Simulation(order, seed, str(dataset), str(student), folder / order / str(seed))


def _evaluation(folder: Path, order: str, seed: str, count: int) -> Path:
    return folder / order / seed / str(count) / "evaluation"


def _pool(run: _Simulation, root: Path, lesson: Lesson, overrides: Mapping[str, Any]) -> Pool:
    if lesson is CLASSES:
        return NucleusPool(root, run.dataset_dir, overrides)
    start, found = Path(run.student_dir).resolve(), run.folder.parents[1] / "found" / str(run.seed)
    return ObjectPool.found(root, lesson, run.dataset_dir, start, found, overrides)


def _review(
    run: _Simulation, root: Path, lesson: Lesson, pool: Pool, clicks: Sequence[int], overrides: Mapping[str, Any]
) -> None:
    """All rounds of one reviewer, each of which learns from what was seen in it and before."""
    start, seen = Path(run.student_dir).resolve(), np.zeros(0, np.int64)
    if len(pool) < clicks[-1]:
        raise InputError("--clicks", f"at most the {len(pool)} objects of {run.dataset_dir}", str(clicks[-1]))
    runner = PhaseRunner(root, {"seed": run.seed, **overrides})
    scored = {"dataset_dir": str(Path(run.dataset_dir).resolve())}
    first = start if lesson is CLASSES else start / "model.pt"
    weights = start
    for count in (0, *clicks):
        place = (run.folder / str(count)).resolve()
        if count:
            certainty, features = np.zeros(len(pool)), np.zeros((len(pool), 0))  # which the control does not ask for
            if run.order != _CONTROL:
                certainty, features = pool.certainty(weights), pool.features
            more = next_objects(run.order, count - len(seen), certainty, features, seen, run.seed)
            seen = np.concatenate([seen, more])
            _write(place / "data", pool, seen)
            settings = {"dataset_dir": str(place / "data"), "ckpt_dir": str(place), lesson.start: str(first)}
            inputs = [str(place / "data"), run.dataset_dir, str(start / "model.pt")]
            name, result = f"{run.order} {run.seed}, {count} clicks", str(place / "model.pt")
            runner(Phase(name, config_stack(root, lesson.training), result, {**settings, **pool.settings}, inputs))
            (place / "training_state.pt").unlink(missing_ok=True)
            for setting in SETTINGS:
                if (start / setting).is_file():
                    shutil.copyfile(start / setting, place / setting)
            weights = place
        elif run.order != _CONTROL:  # before any click all orders are the same
            continue
        output = place / "evaluation"
        settings = scored | {"ckpt_dir": str(weights), "output_dir": str(output)}
        name, inputs = f"{run.order} {run.seed}, {count} scored", [run.dataset_dir, str(weights / "model.pt")]
        runner(Phase(name, config_stack(root, lesson.scoring), str(output / "metrics.json"), settings, inputs))


def _write(dst: Path, pool: Pool, seen: np.ndarray) -> None:
    """What was seen, as a data set; files that say the same stay, so that what is done stays done."""
    notes, said = dst / "seen.json", orjson.dumps({"pool": pool.digest, "seen": seen.tolist()})
    if notes.is_file() and notes.read_bytes() == said:
        return
    pool.write(dst, seen)
    with atomic_path(notes) as temporary:
        temporary.write_bytes(said)


def _saved(table: pd.DataFrame, order: str, score: str) -> str:
    """How many clicks an order needs for the best score that the control reaches."""
    curves = {name: table[table["order"].isin(["none", name])].set_index("clicks")[score] for name in (_CONTROL, order)}
    best, curve = curves[_CONTROL].max(), curves[order].cummax()  # one may stop where it was best
    most = curves[_CONTROL].idxmax()
    if most == 0:
        return f"{order}: {score} {curve.iloc[-1]:.3f} at best; {_CONTROL} learns nothing that was not known before"
    if curve.iloc[-1] < best:
        return f"{order}: never reaches the {score} {best:.3f} that {_CONTROL} has after {most} clicks"
    above = int((curve >= best).argmax())
    (low, high), (fewer, more) = curve.iloc[above - 1 : above + 1], curve.index[above - 1 : above + 1]
    needed = fewer + (best - low) / (high - low) * (more - fewer)
    return f"{order}: {needed:.0f} clicks to the {score} {best:.3f} that {_CONTROL} has after {most}"


def _plot(table: pd.DataFrame, score: str) -> Figure:
    """The score against clicks, and what it differs from the control; intervals shaded."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    scores, differences = figure.subplots(1, 2)
    none, less = table[table["order"] == "none"], f"{score} less {_CONTROL}"

    def line(axis: Axes, rows: pd.DataFrame, column: str, order: str, shaded: bool) -> None:
        axis.plot(rows["clicks"], rows[column], marker="o", ms=3, color=_COLOURS[order], label=order)
        if shaded:
            limits = rows[[f"{column} low", f"{column} high"]].astype(float).to_numpy().T
            axis.fill_between(rows["clicks"], *limits, color=_COLOURS[order], alpha=0.15, lw=0)

    for order in table.loc[table["order"] != "none", "order"].unique():
        rows = table[table["order"] == order]
        line(scores, pd.concat([none, rows]), score, order, order == _CONTROL)
        if order != _CONTROL:
            line(differences, rows, less, order, True)
    differences.axhline(0, color=_COLOURS[_CONTROL], lw=1)
    scores.set(xlabel="objects looked at", ylabel=f"{score}, test")
    differences.set(xlabel="objects looked at", ylabel=f"less {_CONTROL}")
    scores.legend(frameon=False)
    return figure
