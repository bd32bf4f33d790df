"""The filter of SegMitos's detections (section 4.2.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.metrics.detection import sweep_detection_thresholds
from monai_ext.tuning.common import central_choice, errors_unwrapped, grid, read_bundle, read_settings, write_tuned

__all__ = ["DEFAULT_THRESHOLDS", "read_thresholds", "tune_mitosis"]

#: What detection uses where nothing was tuned: the middle of the paper's plateau of area (section 4.2.1).
DEFAULT_THRESHOLDS: dict[str, Any] = {"threshold": "otsu", "min_area": 300, "min_score": 0.5}


def read_thresholds(path: str | os.PathLike) -> dict[str, Any]:
    """The thresholds that :func:`tune_mitosis` wrote, or the defaults, with a message, where there is no such file.

    Args:
        path: ``thresholds.json``.

    Returns:
        ``threshold`` ("otsu" or a number), ``min_area`` (px) and ``min_score``, and what else the file tells.

    Raises:
        InputError: the file lacks one of the three.
    """
    return read_settings(path, DEFAULT_THRESHOLDS, "thresholds")


def tune_mitosis(
    dataset_dir: str,
    bundle: str = "bundles/pathology_mitosis_segmentation",
    ckpt_dir: str | None = None,
    output: str | None = None,
    radius: float = 30,
    areas: Sequence[float] = (301, 996, 5),
    scores: Sequence[float] = (0.30, 0.89, 0.01),
    binarize: Sequence[str | float] = ("otsu",),
    prevalence: float | None = None,
    configs: Sequence[str] = (),
    **overrides: Any,
) -> str:
    """Sweep the area and score of SegMitos's filter on the validation list (section 4.2.1, Fig. 8).

    Of all pairs that are as good as the best within its standard error the most central one is taken; see
    :func:`~monai_ext.tuning.common.central_choice`.

    Args:
        dataset_dir: folder with ``dataset.json``; only its ``validation`` list is read.
        bundle: the bundle's folder.
        ckpt_dir: folder of ``model.pt``; the bundle's ``models`` by default.
        output: file to write; ``<ckpt_dir>/thresholds.json`` by default, where inference and evaluation look. The whole
            sweep goes beside it as ``.csv`` and ``.png``.
        radius: matching radius, px.
        areas: first, last and step of the area, px; the paper's grid.
        scores: first, last and step of the mean score; the paper's grid.
        binarize: thresholds of the map to try: ``"otsu"`` as in the paper, or numbers.
        prevalence: figures per mm2 of the tissue that the network is for; by default that of the validation list,
            whose fields are often chosen for their figures. See :func:`expected_scores`.
        configs: further overlays of the bundle, such as ``configs/overlays/paper/paper.json``.
        **overrides: entries of the configuration, such as ``device``.

    Returns:
        the path of the file.

    Raises:
        InputError: no such bundle or weights, a prevalence that is not positive, or one for fields of unknown size.
    """
    if prevalence is not None and not prevalence > 0:
        raise InputError("prevalence", "figures per mm2, above 0", repr(prevalence))
    checkpoints = str(ckpt_dir or Path(bundle) / "models")
    changes = {"dataset_dir": dataset_dir, "ckpt_dir": checkpoints, "detect#min_area": 0, "detect#min_score": 0}
    files = ("configs/train.json", "configs/evaluate.json", *configs)
    parser = read_bundle("tune mitosis", bundle, files, changes, **overrides)
    with errors_unwrapped():
        fields = _detections(parser, binarize)
    truths = [field["label"] for field in fields]
    tables = [
        sweep_detection_thresholds(
            [field["points"][index] for field in fields], truths, radius, grid(areas, "areas"), grid(scores, "scores")
        ).assign(threshold=level)
        for index, level in enumerate(binarize)
    ]
    table = pd.concat(tables, ignore_index=True)
    figures = int(sum(len(truth) for truth in truths))
    if prevalence is not None:
        area_mm2 = sum(field["area_mm2"] for field in fields)
        if not area_mm2:
            raise InputError("prevalence", "a resolution of the fields (--mpp)", "none")
        table = expected_scores(table, area_mm2, prevalence)
    chosen = _centre_of_plateau(table, figures)

    path = Path(output or Path(checkpoints) / "thresholds.json")
    content = {
        "threshold": chosen["threshold"],
        "min_area": float(chosen["area"]),
        "min_score": round(float(chosen["score"]), 4),
        "validation": {name: float(chosen[name]) for name in ("f1", "precision", "recall")},
        "radius_px": radius,
        "fields": len(fields),
        "figures": figures,
    }
    if prevalence is not None:
        content["expected"] = {
            "figures_per_mm2": prevalence,
            **{name: float(chosen[name]) for name in ("f1", "precision", "recall", "false_alarms_per_mm2")},
        }
        content["validation"] |= {name: float(chosen[f"{name}_here"]) for name in ("f1", "precision")}
    write_tuned(path, content, {"sweep": table}, _plot(table[table["threshold"] == chosen["threshold"]], chosen))
    print(f"{path}: area > {content['min_area']:g} px, score > {content['min_score']:g}, F1 {chosen['f1']:.3f}")
    return str(path)


def expected_scores(table: pd.DataFrame, area_mm2: float, prevalence: float) -> pd.DataFrame:
    """What each row of a sweep means where figures are as frequent as on the user's tissue.

    Precision depends on how many figures there are to be found, recall and false alarms per mm2 do not. On fields with
    400 figures per mm2 a network with 40 false alarms per mm2 has a precision of .9; on tissue with 10 per mm2 it has
    .2, and a stricter threshold is better.

    Args:
        table: ``tp``, ``fp``, ``recall``, ``precision`` and ``f1``, of all fields together.
        area_mm2: of all fields.
        prevalence: figures per mm2.

    Returns:
        the table with ``false_alarms_per_mm2``, precision and F1 at that prevalence, and what they were in
        ``precision_here`` and ``f1_here``.

    Examples:
        >>> from monai_ext.tuning.mitosis import expected_scores
        >>> here = pd.DataFrame({"tp": [360], "fp": [40], "precision": [0.9], "recall": [0.9], "f1": [0.9]})
        >>> expected_scores(here, area_mm2=1.0, prevalence=10).round(3)[["precision", "f1"]].values.tolist()
        [[0.184, 0.305]]
    """
    alarms, hits = table["fp"] / area_mm2, table["recall"] * prevalence
    precision = hits / (hits + alarms).where(hits > 0, 1)
    f1 = 2 * precision * table["recall"] / (precision + table["recall"]).where(hits > 0, 1)
    return table.assign(
        precision_here=table["precision"],
        f1_here=table["f1"],
        false_alarms_per_mm2=alarms,
        precision=precision,
        f1=f1,
    )


def _detections(parser: ConfigParser, binarize: Sequence[str | float]) -> list[dict[str, Any]]:
    """Unfiltered blobs of every validation field, for each way of binarising its map."""
    from monai_ext.transforms.blobs import BlobDetections

    network = parser.get_parsed_content("loaded_network").eval()
    device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
    blobs = {k: v for k, v in parser["detect"].items() if k not in ("_target_", "keys", "channel", "threshold")}
    detectors = [BlobDetections(**{**blobs, "threshold": level}) for level in binarize]
    fields = []
    for item in tqdm(parser.get_parsed_content("validate#dataset"), desc="validation fields", unit="field"):
        with torch.no_grad():
            image = torch.as_tensor(item["image"])[None].to(device)
            probability = inferer(image, network).softmax(1)[0, parser["detect#channel"]].float().cpu()
        mpp = item["source"].meta["mpp"]
        fields.append(
            {
                "points": [detect(probability)[0] for detect in detectors],
                "label": item["label"],
                "area_mm2": probability.numel() * (mpp * 1e-3) ** 2,
            }
        )
    return fields


def _centre_of_plateau(table: pd.DataFrame, figures: int) -> pd.Series:
    best = table["f1"].max()
    error = np.sqrt(best * (1 - best) / max(1, figures))  # binomial: each figure is found or not
    return central_choice(table, "f1", error, over=("area", "score"), kind="threshold")


def _plot(table: pd.DataFrame, chosen: pd.Series) -> Figure:
    """F1 against each threshold, the other one kept: the two curves of the paper's Fig. 8."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, name, kept, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("area", "score"),
        ("score", "area"),
        ("area threshold (px)", "mean score threshold"),
        strict=True,
    ):
        line = table[table[kept] == chosen[kept]]
        axis.plot(line[name], line["f1"])
        axis.axvline(chosen[name], color="grey", linestyle=":")
        axis.set(xlabel=label, ylabel="F1 on the validation list", title=f"{kept} > {chosen[kept]:g}")
    return figure
