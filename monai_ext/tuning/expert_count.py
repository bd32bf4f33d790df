"""How many expert labels a fine-tuning needs (Háberová and Vykopal 2023, section 5.3, Table 6)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.fingerprint import fingerprint
from monai_ext.data.nuclei import NucleusPatches
from monai_ext.inferers.patches import PatchClassifier
from monai_ext.metrics.classification import class_scores_ci
from monai_ext.networks.utils import load_weights
from monai_ext.tuning.common import errors_unwrapped, read_bundle

__all__ = ["PAPER_COUNTS", "tune_expert_count"]

#: Nuclei of each class, as in Table 6.
PAPER_COUNTS = (100, 250, 400, 550, 750, 850, 1000, 1250, 1500, 1750, 1900)
_CHUNK = 8192  # patches read at once
_CONFIGS = ("configs/overlays/phase/classify.json", "configs/overlays/phase/finetune.json")


@dataclass(frozen=True)
class _Cell:
    """One fine-tuning of the grid."""

    count: int
    learning_rate: float
    dropout: float
    seed: int

    @property
    def name(self) -> str:
        return f"n{self.count}_lr{self.learning_rate:g}_dropout{self.dropout:g}_seed{self.seed}"


def tune_expert_count(
    dataset_dir: str,
    student_dir: str,
    output: str,
    bundle: str = "bundles/pathology_cell_semantic_segmentation",
    counts: Sequence[int] = PAPER_COUNTS,
    learning_rates: Sequence[float] = (5e-5, 1e-4, 5e-4, 1e-3),
    dropouts: Sequence[float] = (0.0, 0.25, 0.5),
    seeds: Sequence[int] = (0,),
    processes: int = 1,
    configs: Sequence[str] = (),
    **overrides: Any,
) -> str:
    """Fine-tune a student with every count, learning rate and dropout, and compare it with itself before.

    Counts and the limits of learning rate and dropout are the paper's; the steps between the limits are ours. For each
    count the learning rate and dropout are chosen by the F1 of the validation nuclei, never of the test. A stopped
    sweep resumes: every finished fine-tuning leaves a small file of its own in ``<output>/cells``.

    Args:
        dataset_dir: folder with the nuclei's ``dataset.json``.
        student_dir: folder of the student's ``model.pt``.
        output: folder to write: ``cells.csv``, a row for each fine-tuning; ``table.csv``, a row for each count, as
            Table 6; ``table.png``.
        bundle: the bundle's folder.
        counts: expert nuclei of each class, training and validation together.
        learning_rates: to try; the paper's interval is 5e-5 to 1e-3.
        dropouts: to try; the paper's interval is 0 to .5.
        seeds: of the draw of nuclei and of the training; means over them are tabulated.
        processes: fine-tunings at a time, which share the cores.
        configs: further overlays of the bundle, such as ``configs/overlays/training/augment_cells.json``.
        **overrides: entries of the configuration, such as ``expert_split``, ``epochs`` or ``device``.

    Returns:
        the path of ``table.csv``.

    Raises:
        InputError: no such bundle, data or weights, or more nuclei asked for than there are.
    """
    axes = [_several(values) for values in (counts, learning_rates, dropouts, seeds)]
    grid = [_Cell(int(n), float(lr), float(dropout), int(seed)) for n, lr, dropout, seed in product(*axes)]
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise InputError("processes", "a whole number from 1", repr(processes))
    folders = {"dataset_dir": str(dataset_dir), "student_dir": str(student_dir)}
    folder, files = Path(output), (*_CONFIGS, *_several(configs))
    parser = read_bundle("tune expert-count", bundle, files, folders, **overrides)
    for count in axes[0]:
        parser.update({"per_class": int(count)})
        parser.parse(reset=True)
        with errors_unwrapped():
            expert = parser.get_parsed_content("expert")
    made_with = _made_with(parser, Path(student_dir) / "model.pt", expert)
    jobs = [
        (cell, str(bundle), files, {**folders, **overrides}, str(folder / "cells"), made_with, processes)
        for cell in grid
        if _result(folder / "cells", cell, made_with) is None
    ]
    print(f"{folder}: {len(grid)} fine-tunings, {len(grid) - len(jobs)} of them done before", file=sys.stderr)
    for _ in tqdm(_all(jobs, processes), total=len(jobs), desc="fine-tunings", unit="run"):
        pass
    cells = pd.DataFrame([_result(folder / "cells", cell, made_with) for cell in grid]).drop(columns="made_with")
    table = _table(cells)
    for name, frame in (("cells", cells), ("table", table)):
        with atomic_path(folder / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False)
    with atomic_path(folder / "table.png") as temporary:
        _plot(table, cells).savefig(temporary, dpi=120)
    print(table.round(4).to_string(index=False))
    return str(folder / "table.csv")


def _several(values: Any) -> list[Any]:
    """A command line gives one value bare."""
    return [values] if isinstance(values, str | int | float) else list(values)


def _made_with(parser: ConfigParser, student: Path, expert: Mapping[str, NucleusPatches]) -> str:
    """Digest of all that a fine-tuning depends on but its place in the grid."""
    if not student.is_file():
        raise InputError(student, "the student's weights (--student_dir)", "no such file")
    varied = ("per_class", "learning_rate", "dropout", "seed", "ckpt_dir", "device", "num_workers", "amp", "resume")
    content = {key: value for key, value in parser.get().items() if key not in varied}
    items = {path for part in expert.values() for item in part.items for path in (item["image"], item["label"])}
    state = [content, fingerprint(student), [[path, *fingerprint(path)] for path in sorted(items)]]
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def _result(folder: Path, cell: _Cell, made_with: str) -> dict[str, Any] | None:
    """What a fine-tuning left, if it was made with the same."""
    path = folder / f"{cell.name}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if content.get("made_with") == made_with else None


def _all(jobs: Sequence[tuple], processes: int) -> Iterator[None]:
    if processes == 1:
        yield from (_run(*job) for job in jobs)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_run, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _run(
    cell: _Cell,
    bundle: str,
    files: Sequence[str],
    overrides: Mapping[str, Any],
    folder: str,
    made_with: str,
    processes: int,
) -> None:
    """Fine-tune once and leave the scores before and after."""
    if processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    path = Path(folder) / f"{cell.name}.json"
    work = path.with_suffix("")
    changes = {"per_class": cell.count, "learning_rate": cell.learning_rate, "dropout": cell.dropout}
    changes |= {"seed": cell.seed, "ckpt_dir": str(work), "resume": _begun(work, made_with)}
    set_determinism(cell.seed)
    parser = read_bundle("tune expert-count", bundle, files, {**overrides, **changes})
    with errors_unwrapped():
        expert, names = (parser.get_parsed_content(key) for key in ("expert", "class_names"))
        network = parser.get_parsed_content("network")
        settings = {key: parser.get_parsed_content(key) for key in ("convention", "device", "amp")}
        before = _scores(PatchClassifier(network, **settings), expert["test"], names)
        trainer = parser.get_parsed_content("train#trainer")
        trainer.logger.setLevel("WARNING")
        trainer.run()
        history = json.loads((work / "history.json").read_text(encoding="utf-8"))
        after = _scores(PatchClassifier(load_weights(network, work / "model.pt"), **settings), expert["test"], names)
    content: dict[str, Any] = {**asdict(cell), "made_with": made_with, "test nuclei": len(expert["test"])}
    content["validation f1"] = max(epoch["val_f1"] for epoch in history if epoch.get("val_f1") is not None)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content | _flat(before, after), indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(work)  # the grid has hundreds of them


def _begun(work: Path, made_with: str) -> bool:
    """Whether this very fine-tuning was begun and stopped; of any other nothing is kept."""
    mark = work / "made_with"
    if mark.is_file() and mark.read_text(encoding="utf-8") == made_with:
        return True
    shutil.rmtree(work, ignore_errors=True)
    with atomic_path(mark) as temporary:
        temporary.write_text(made_with, encoding="utf-8")
    return False


def _flat(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float | None]:
    """Weighted F1 and accuracy with their intervals, flat."""
    columns = {}
    for when, scores in (("before", before), ("after", after)):
        for name in ("f1", "accuracy"):
            interval = scores[name]
            columns |= {f"{name} {when}": interval.value}
            columns |= {f"{name} {when} low": interval.low, f"{name} {when} high": interval.high}
    return columns


def _scores(classifier: PatchClassifier, nuclei: NucleusPatches, names: Sequence[str]) -> dict[str, Any]:
    chunks = [np.arange(start, min(start + _CHUNK, len(nuclei))) for start in range(0, len(nuclei), _CHUNK)]
    predicted = np.concatenate([classifier(nuclei.patches(chunk)).argmax(1) for chunk in chunks])
    return class_scores_ci(nuclei.labels, predicted, names, nuclei.groups)


def _table(cells: pd.DataFrame) -> pd.DataFrame:
    """For each count the setting that is best on the validation nuclei: means over seeds, in Table 6's columns."""
    columns = ["validation f1", "f1 before", "f1 after", "accuracy before", "accuracy after", "test nuclei"]
    means = cells.groupby(["count", "learning_rate", "dropout"], as_index=False)[columns].mean()
    best = means.loc[means.groupby("count")["validation f1"].idxmax()]
    return best.assign(seeds=cells["seed"].nunique()).reset_index(drop=True)


def _plot(table: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """F1 and accuracy before and after, against the count; every seed of the chosen setting a dot."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    chosen = cells.merge(table[["count", "learning_rate", "dropout"]])
    for axis, name, title in zip(figure.subplots(1, 2), ("f1", "accuracy"), ("weighted F1", "accuracy"), strict=True):
        for when, colour in (("before", "#888888"), ("after", "#2f7fc1")):
            axis.plot(table["count"], table[f"{name} {when}"], color=colour, label=f"{when} fine-tuning")
            axis.scatter(chosen["count"], chosen[f"{name} {when}"], 9, color=colour)
            if table["seeds"].max() == 1 and chosen[f"{name} {when} low"].notna().all():
                low, high = chosen[f"{name} {when} low"], chosen[f"{name} {when} high"]
                axis.fill_between(
                    chosen["count"], low.astype(float), high.astype(float), color=colour, alpha=0.15, lw=0
                )
        axis.set(xlabel="expert nuclei of each class", ylabel=f"{title}, test")
    axis.legend(frameon=False)
    return figure
