"""What ImageNet's weights are worth in each bundle: the same network with them and without, everything else equal.

Run from the repository's root::

    python benchmarks/pretraining.py run "{'cells':['data/dsb','data/nucls'],'nuclei':'data/seeds'}"
    python benchmarks/pretraining.py table

``run`` makes three trainings of each arm by the bundle's own command and scores each on its own validation list, which
nothing is chosen on: every training is validated once, after its last epoch, and those weights are the ones that are
scored. ``table`` reads what ``run`` left and writes ``pretraining.json`` and ``pretraining.md``. What is finished is
not run again, so an interrupted ``run`` goes on where it was.

Differences are paired: over seeds, as both arms of a seed see the same patches in the same order, with Student's t (two
degrees of freedom with three seeds); over images (slides, vessels), of all seeds drawn together, by the bootstrap.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import numpy as np
import pandas as pd
import torch
from scipy import stats

from monai_ext.base.files import atomic_path
from monai_ext.metrics.bootstrap import (
    bootstrap_scores,
    weighted_accuracy,
    weighted_auc,
    weighted_detection_f1,
    weighted_mean,
)

ROOT = Path(__file__).resolve().parents[1]
ARMS = "random", "pretrained"
COUNTS = ["tp", "fp", "fn"]


def column(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A column as scores; an image without a value is left out."""
    return table.assign(score=pd.to_numeric(table[name], errors="coerce"), label=0).dropna(subset="score")


def counts(table: pd.DataFrame) -> dict[str, Any]:
    """Counts of objects as scores, for a measure of their sums."""
    return {"score": table[COUNTS].to_numpy(), "label": np.zeros(len(table)), "group": table["group"]}


@dataclass(frozen=True)
class Bundle:
    """How a bundle is trained and what it is scored by.

    Attributes:
        folder: below ``bundles``.
        options: of the training: what makes it short, the same for both arms.
        scores: measures over images: how ``scores.csv`` is read, and what is computed of it.
        key: the key metric of the bundle's validation, as ``history.json`` calls it.
        lower: whether less of the key metric is better.
        weights: the option that turns the pretrained weights off.
        network: overlays that bring the pretrained network, where it is not the default.
        training: further overlays of a training.
        both: options of training and evaluation.
        evaluation: options of the evaluation alone.
    """

    folder: str
    options: Mapping[str, Any]
    scores: Mapping[str, tuple[Callable, Callable]]
    key: str
    lower: bool = False
    weights: str = "backbone_weights"
    network: Sequence[str] = ("network/pretrained",)
    training: Sequence[str] = ()
    both: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)


INSTANCES = {
    "Dice": (partial(column, name="dice"), weighted_mean),
    "AJI": (partial(column, name="aji"), weighted_mean),
    "F1": (counts, weighted_detection_f1),
}
LABELS = {"AUC": (dict, weighted_auc), "accuracy": (dict, weighted_accuracy)}
# warm-up is a tenth of the rate for a whole epoch, the shipped average looks back some fifty steps
SHORT = {"lr_scheduler#warmup_steps": 0, "average#momentum": 0.1}

BUNDLES = {
    "cells": Bundle(
        "pathology_cell_semantic_segmentation",
        {"epochs": 5, "patch_size": 128, "patches_per_field": 1, "gap": 2, **SHORT},
        INSTANCES,
        key="val_loss",
        lower=True,
        network=(),
    ),
    "metastasis": Bundle(
        "pathology_metastasis_evidence_localization",
        {"epochs": 2, "batch_size": 16, **SHORT},
        LABELS,
        key="val_loss",
        lower=True,
        both={"network_def#magnify": 1},
    ),
    "mitosis": Bundle(
        "pathology_mitosis_segmentation",
        {"epochs": 3, "patch_size": 128, "patches_per_field": 2, **SHORT},
        {"F1": (counts, weighted_detection_f1)},
        key="f1",
        network=(),
    ),
    "nuclei": Bundle(
        "pathology_nuclei_instance_segmentation",
        {"epochs": 6, "patch_size": 128, "unlabelled": "ignore", **SHORT},
        INSTANCES,
        key="val_dice",
        weights="pretrained_weights",
        network=(),
        training=["training/paste"],
        evaluation={"save_maps": False},
    ),
    "vessels": Bundle(
        "pathology_mvi_vessel_classification",
        {"stage1_epochs": 1, "stage2_epochs": 1, "warmup_epochs": 0, "batch_size": 4},
        LABELS,
        key="val_loss",
        lower=True,
        both={"grid": 7},
    ),
}


def part(name: str, data: Any, arm: str, seed: int, folder: Path) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Configuration files and options of a training, then of its evaluation on the validation list."""
    bundle = BUNDLES[name]
    common = {"dataset_dir": data, "ckpt_dir": str(folder), **bundle.both}
    if name == "vessels":  # cells are found once for all trainings
        common["cache_dir"] = str(folder.parents[1] / "cache")
    epochs = sum(bundle.options.get(option, 0) for option in ("epochs", "stage1_epochs", "stage2_epochs"))
    no_weights = {bundle.weights: "$None"}  # MONAI drops a None
    stack = bundle.network
    options = {**common, "seed": seed, "val_interval": epochs, **bundle.options}
    yield _files([*stack, *bundle.training]), options | (no_weights if arm == "random" else {})
    options = {**common, "split": "validation", "output_dir": str(folder / "validation"), **bundle.evaluation}
    yield [*_files(stack), "configs/evaluate.json"], options | no_weights


def _files(overlays: Sequence[str]) -> list[str]:
    return ["configs/train.json", *(f"configs/overlays/{overlay}.json" for overlay in overlays)]


def run(data: Mapping[str, Any], dst: str = "eval/pretraining", seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Train and score both arms of bundles, a seed after the other.

    Args:
        data: for each bundle (cells, metastasis, mitosis, nuclei, vessels) what its command takes as ``dataset_dir``.
        dst: folder that gets ``<bundle>/<arm>_<seed>``.
        seeds: of the trainings.
    """
    target = Path(dst).resolve()
    directories = {
        name: [str(Path(each).resolve()) for each in ([value] if isinstance(value, str) else value)]
        for name, value in data.items()
    }
    for seed, name, arm in itertools.product(seeds, data, ARMS):
        folder = target / name / f"{arm}_{seed}"
        if (folder / "done.json").is_file():
            continue
        seconds = []
        os.chdir(ROOT / "bundles" / BUNDLES[name].folder)
        paths = directories[name] if len(directories[name]) > 1 else directories[name][0]
        for files, options in part(name, paths, arm, seed, folder):
            start = time.perf_counter(), time.process_time()
            # in this process: to start one for each takes as long as half of such a training
            monai.bundle.run(config_file=files, **options)
            seconds.append([time.perf_counter() - start[0], time.process_time() - start[1]])
        for path in folder.glob("*.pt"):
            path.unlink()  # the scores are what is compared
        with atomic_path(folder / "done.json") as temporary:
            temporary.write_text(json.dumps({"seconds_and_of_cpu": np.round(seconds, 1).tolist()}) + "\n")


def of_seeds(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Both arms' means, and the mean of the paired differences with its t interval."""
    difference = np.subtract(values["pretrained"], values["random"])
    row: dict[str, Any] = {arm: list(values[arm]) for arm in ARMS} | {"difference": float(difference.mean())}
    if len(difference) > 1:
        reach = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
        row |= {"low": row["difference"] - reach, "high": row["difference"] + reach}
    return row


def rows_of(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Key metric and measures of a bundle; only seeds with both arms count."""
    bundle = BUNDLES[name]
    seeds = [seed for seed in range(100) if all((folder / f"{arm}_{seed}" / "done.json").is_file() for arm in ARMS)]
    if not seeds:
        return
    runs = {arm: [folder / f"{arm}_{seed}" for seed in seeds] for arm in ARMS}
    history = {arm: [json.loads((run / "history.json").read_text()) for run in runs[arm]] for arm in ARMS}
    tables = {
        arm: [pd.read_csv(run / "validation/scores.csv", dtype={"group": str}) for run in runs[arm]] for arm in ARMS
    }
    common = {"bundle": name, "seeds": len(seeds), "images": len(tables["random"][0])}
    values = {arm: [entries[-1][bundle.key] for entries in history[arm]] for arm in ARMS}
    yield {**common, "measure": f"{bundle.key}{' (less is better)' if bundle.lower else ''}", **of_seeds(values)}
    for measure, (read, statistic) in bundle.scores.items():
        each = {arm: [read(table) for table in tables[arm]] for arm in ARMS}
        values = {
            arm: [bootstrap_scores([scores], statistic, resamples=1).value for scores in each[arm]] for arm in ARMS
        }
        interval = bootstrap_scores(each["pretrained"], statistic, each["random"])
        yield {
            **common,
            "measure": measure,
            **of_seeds(values),
            "images_low": interval.low,
            "images_high": interval.high,
        }


def table(dst: str = "eval/pretraining") -> str:
    """Write ``pretraining.json`` and ``pretraining.md`` of whatever is finished.

    Args:
        dst: the folder of :func:`run`.

    Returns:
        the markdown.
    """
    folder = Path(dst)
    rows = [row for name in BUNDLES for row in rows_of(name, folder / name)]
    lines = [
        "| bundle | measure | random | pretrained | difference over seeds | over images |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        arms = [f"{np.mean(row[arm]):.3f} ({', '.join(f'{value:.3f}' for value in row[arm])})" for arm in ARMS]
        spread = [
            "" if row.get(low) is None else f" [{row[low]:.3f}, {row[high]:.3f}]"
            for low, high in (("low", "high"), ("images_low", "images_high"))
        ]
        cells = [row["bundle"], row["measure"], *arms, f"{row['difference']:.3f}{spread[0]}", spread[1].strip() or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    machine = {"cpu": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    with atomic_path(folder / "pretraining.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines) + "\n"
    with atomic_path(folder / "pretraining.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    named = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.is_file() else []
    return named[0].partition(":")[2].strip() if named else platform.processor()


if __name__ == "__main__":
    fire.Fire({"run": run, "table": table})
