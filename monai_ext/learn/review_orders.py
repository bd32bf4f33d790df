"""Whether it matters which objects a reviewer looks at: simulated reviews of nuclei whose classes are known."""

from __future__ import annotations

import hashlib
import os
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
from monai.bundle import ConfigParser
from scipy.special import softmax

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.datalist import load_datalist
from monai_ext.data.nuclei import NucleusPatches, check_nuclei_item, read_class_names, write_nuclei
from monai_ext.data.review_order import REVIEW_ORDERS, appearance, next_objects
from monai_ext.engines.phases import Phase, PhaseRunner
from monai_ext.inferers.patches import PatchClassifier
from monai_ext.learn.regions import ANNOTATION
from monai_ext.networks.utils import load_weights
from monai_ext.reports.comparison import compare_classifiers

__all__ = ["compare_review_orders"]

_CLASSIFY = "configs/overlays/phase/classify.json"
_LEARN = [_CLASSIFY, "configs/overlays/phase/finetune.json", "configs/overlays/training/reviewed_classes.json"]
_SCORE = [_CLASSIFY, "configs/overlays/evaluation/evaluate_cells.json"]
_CONTROL = "random"
_COLOURS = {"random": "#888888", "doubt": "#2f7fc1", "diverse": "#d1702f"}
_F1 = "weighted F1"


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
    clicks: Sequence[int] = (25, 50, 100, 200, 400),
    orders: Sequence[str] = REVIEW_ORDERS,
    **overrides: Any,
) -> str:
    """Simulate reviewers who go through nuclei in different orders, and see how fast a classifier learns from each.

    A simulated reviewer knows the truth of the training list and looks at one nucleus after the other, a click each.
    After each number of clicks the classifier learns from all nuclei seen so far, beginning with the weights that it
    had before any, by the training that ``monai-ext learn`` uses for classes; then it says of which of the rest it is
    least certain. It is scored on the test list, which no reviewer sees. A stopped comparison goes on where it was.

    Args:
        dataset_dir: folder of nuclei (``dataset.json``) with the column ``ea``; with several, such as one split at
            random several times, there is a reviewer for each.
        student_dir: folder of the ``model.pt`` to begin with, which never saw those labels; one for all, or for each.
        dst: folder to write: ``orders.csv`` (a row for each order and number of clicks: weighted F1 and accuracy, and
            the difference to the random order, with intervals over groups and trainings), ``orders.png``, and below it
            all that was trained.
        bundle: the folder of the cells' bundle.
        clicks: nuclei that were looked at, ascending.
        orders: to compare; ``random`` is the control and must be among them.
        **overrides: entries of the training's configuration, such as ``epochs`` or ``device``.

    Returns:
        the path of ``orders.csv``.

    Raises:
        InputError: bad data or weights, no such order, or fewer nuclei than clicks.
    """
    clicks, orders = ([values] if isinstance(values, int | str) else list(values) for values in (clicks, orders))
    root, folder = Path(bundle), Path(dst)
    _check(clicks, orders)
    known = {key for files in (_LEARN, _SCORE) for key in _parser(root, files).get()}
    if unknown := [f"--{name}" for name in overrides if name.partition("#")[0] not in known]:
        raise InputError("report review-orders", "entries of the bundle's training", ", ".join(unknown))
    runs = list(_simulations(folder, dataset_dir, student_dir, orders))
    for number, run in enumerate(runs, 1):
        print(f"reviewer {number} of {len(runs)}: {run.order}, {run.dataset_dir}", flush=True)
        _review(run, root, clicks, overrides)
    rows = []
    for count in (0, *clicks):
        named = {
            order: str(_evaluation(folder, order, "*", count))
            for order in sorted(orders, key=lambda order: order != _CONTROL)  # the first is what others are compared to
            if count or order == _CONTROL
        }
        table = pd.read_csv(compare_classifiers(named, str(folder / "comparisons" / str(count))))
        rows.append(table.rename(columns={"name": "order"}).assign(clicks=count))
    table = pd.concat(rows, ignore_index=True)
    table = table[["clicks", *table.columns.drop("clicks")]]
    table.loc[table["clicks"] == 0, "order"] = "none"
    with atomic_path(folder / "orders.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(folder / "orders.png") as temporary:
        _plot(table).savefig(temporary, dpi=120)
    for order in orders:
        if order != _CONTROL:
            print(_saved(table, order))
    return str(folder / "orders.csv")


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


def _parser(root: Path, files: Sequence[str]) -> ConfigParser:
    if missing := [name for name in files if not (root / name).is_file()]:
        raise InputError("--bundle", "the folder of the cells' bundle", f"no {missing[0]} in {root}")
    parser = ConfigParser()
    parser.read_config([str(root / name) for name in files])
    return parser


def _evaluation(folder: Path, order: str, seed: str, count: int) -> Path:
    return folder / order / seed / str(count) / "evaluation"


def _review(run: _Simulation, root: Path, clicks: Sequence[int], overrides: Mapping[str, Any]) -> None:
    """All rounds of one reviewer, each of which learns from what was seen in it and before."""
    names = read_class_names(run.dataset_dir)
    check = lambda item: check_nuclei_item(item, names, ANNOTATION)  # noqa: E731
    items = load_datalist(run.dataset_dir, ["training"], check=check)["training"]
    nuclei = NucleusPatches(items, ANNOTATION, names)
    if len(nuclei) < clicks[-1]:
        raise InputError("--clicks", f"at most the {len(nuclei)} nuclei of {run.dataset_dir}", str(clicks[-1]))
    every = np.arange(len(nuclei))
    patches = nuclei.patches(every)
    features = appearance(patches)
    start, seen = Path(run.student_dir).resolve(), np.zeros(0, np.int64)
    runner = PhaseRunner(root, {"seed": run.seed, **overrides})
    scored = {"dataset_dir": str(Path(run.dataset_dir).resolve())}
    weights = start
    for count in (0, *clicks):
        place = (run.folder / str(count)).resolve()
        if count:
            certainty = np.zeros(len(nuclei))  # which the control does not ask for
            if run.order != _CONTROL:
                certainty = _certainty(root, weights, run.dataset_dir, patches, overrides)
            more = next_objects(run.order, count - len(seen), certainty, features, seen, run.seed)
            seen = np.concatenate([seen, more])
            _write(place / "data", nuclei, patches, seen)
            settings = {"dataset_dir": str(place / "data"), "student_dir": str(start), "ckpt_dir": str(place)}
            settings |= {"annotation": ANNOTATION}
            inputs = [str(place / "data"), run.dataset_dir, str(start / "model.pt")]
            name, result = f"{run.order} {run.seed}, {count} clicks", str(place / "model.pt")
            runner(Phase(name, _LEARN, result, settings, inputs))
            (place / "training_state.pt").unlink(missing_ok=True)
            weights = place
        elif run.order != _CONTROL:  # before any click all orders are the same
            continue
        output = place / "evaluation"
        settings = scored | {"ckpt_dir": str(weights), "output_dir": str(output)}
        name, inputs = f"{run.order} {run.seed}, {count} scored", [run.dataset_dir, str(weights / "model.pt")]
        runner(Phase(name, _SCORE, str(output / "metrics.json"), settings, inputs))


def _certainty(
    root: Path, weights: Path, dataset_dir: str, patches: np.ndarray, overrides: Mapping[str, Any]
) -> np.ndarray:
    """The probability of each nucleus' likeliest class."""
    parser = _parser(root, _SCORE)
    parser.update({name: value for name, value in overrides.items() if name in parser})
    parser.update({"bundle_root": str(root), "dataset_dir": dataset_dir, "ckpt_dir": str(weights)})
    network = load_weights(parser.get_parsed_content("network_def"), weights / "model.pt")
    settings = {key: parser.get_parsed_content(key) for key in ("convention", "device", "amp")}
    logits = PatchClassifier(network, **settings)(patches)
    return softmax(logits, axis=1).max(axis=1)


def _write(dst: Path, nuclei: NucleusPatches, patches: np.ndarray, seen: np.ndarray) -> None:
    """The nuclei that were seen, as a data set; files that say the same stay, so that what is done stays done."""
    listing = dst / "dataset.json"
    shown, labels = patches[seen], np.array(nuclei.class_names)[nuclei.labels[seen]]
    content = {"name": "simulated review", "class_names": nuclei.class_names, "seen": seen.tolist()}
    content["digest"] = hashlib.sha256(shown.tobytes() + "\n".join(labels).encode()).hexdigest()
    if listing.is_file() and {**orjson.loads(listing.read_bytes()), "training": None} == {**content, "training": None}:
        return
    table = pd.DataFrame({"row": 0.0, "col": 0.0, "scale": 1, ANNOTATION: labels})
    item = write_nuclei(dst, "seen", shown, table)
    with atomic_path(listing) as temporary:
        temporary.write_bytes(orjson.dumps({**content, "training": [item]}, option=orjson.OPT_INDENT_2))


def _saved(table: pd.DataFrame, order: str) -> str:
    """How many clicks an order needs for the F1 that the control reaches with the most."""
    curves = {name: table[table["order"].isin(["none", name])].set_index("clicks")[_F1] for name in (_CONTROL, order)}
    goal, most = curves[_CONTROL].iloc[-1], curves[_CONTROL].index[-1]
    curve = curves[order].cummax()  # one may stop where it was best
    if curve.iloc[-1] < goal:
        return f"{order}: never reaches the {_F1} {goal:.3f} that {_CONTROL} has after {most} clicks"
    above = int((curve >= goal).argmax())
    if above == 0:
        return f"{order}: nothing is learnt that was not known before"
    (low, high), (fewer, more) = curve.iloc[above - 1 : above + 1], curve.index[above - 1 : above + 1]
    needed = fewer + (goal - low) / (high - low) * (more - fewer)
    return f"{order}: {needed:.0f} clicks to the {_F1} {goal:.3f} that {_CONTROL} has after {most}"


def _plot(table: pd.DataFrame) -> Figure:
    """F1 against clicks, and what it differs from the control; intervals shaded."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    scores, differences = figure.subplots(1, 2)
    none, less = table[table["order"] == "none"], f"{_F1} less {_CONTROL}"

    def line(axis: Axes, rows: pd.DataFrame, column: str, order: str, shaded: bool) -> None:
        axis.plot(rows["clicks"], rows[column], marker="o", ms=3, color=_COLOURS[order], label=order)
        if shaded:
            limits = rows[[f"{column} low", f"{column} high"]].astype(float).to_numpy().T
            axis.fill_between(rows["clicks"], *limits, color=_COLOURS[order], alpha=0.15, lw=0)

    for order in table.loc[table["order"] != "none", "order"].unique():
        rows = table[table["order"] == order]
        line(scores, pd.concat([none, rows]), _F1, order, order == _CONTROL)
        if order != _CONTROL:
            line(differences, rows, less, order, True)
    differences.axhline(0, color=_COLOURS[_CONTROL], lw=1)
    scores.set(xlabel="nuclei looked at", ylabel=f"{_F1}, test")
    differences.set(xlabel="nuclei looked at", ylabel=f"less {_CONTROL}")
    scores.legend(frameon=False)
    return figure
