"""From an evaluation of instance maps to ``scores.csv``, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from monai_ext.base.colours import COLOURS
from monai_ext.base.distributed import gather
from monai_ext.base.files import atomic_path
from monai_ext.base.overlay import overlay
from monai_ext.formats.image import read_field
from monai_ext.formats.suffixes import without_suffix
from monai_ext.handlers.training_state import read_curves
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci
from monai_ext.metrics.detection import detection_scores
from monai_ext.metrics.foreground import ForegroundIoU, hausdorff_distance, outline_distances
from monai_ext.metrics.instance import AggregatedJaccardIndex, ObjectDice, PanopticQuality, panoptic_scores
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["InstanceReport"]

_LEGEND = {"labelled": COLOURS["TP"], "found": COLOURS["FP"]}
_MEANS = ("dice", "aji", "pq", "object_dice", "hausdorff", "foreground_iou", "partial_hausdorff")
_PARTIAL = 0.6  # rank of the partial distance: what the release of Cyclic Learning reports
_COUNTS = ["tp", "fp", "fn"]
_PIXELS = ["pixel_tp", "pixel_fp", "pixel_fn", "pixel_tn"]


@dataclass(frozen=True)
class _Picture:
    image: str
    aji: float
    pred: np.ndarray
    label: np.ndarray


class InstanceReport:
    """Scores instance maps against labels, with 95 % bootstrap intervals over groups, and shows the worst and the best.

    Means over images: Dice of the foreground, AJI, panoptic quality, object Dice, the Hausdorff distance of the
    foregrounds (px of the network's grid); beside them, under their own names, what some papers report in their place:
    the foreground's IoU and the partial Hausdorff distance of rank .6. An image where only one of the two maps is empty
    has no distance: it is left out of these means, and ``without_distance`` counts such images. Pooled over instances:
    precision, recall and F1, where a pair is a match if its IoU is above .5. Pooled over pixels: ``pixel_accuracy``,
    ``pixel_precision`` and ``pixel_recall`` of the foreground (Haberova and Vykopal 2023, Table 2). Writes
    ``scores.csv`` (a row per image), ``metrics.json`` and ``report.html`` into ``output_dir``. Under ``torchrun`` the
    ranks' images are gathered.

    Args:
        output_dir: where the files go.
        pred_key: of the instance map ``(1, H, W)`` in the evaluator's output.
        label_key: of the true one in its batch.
        title: the report's title.
        history: ``history.json`` of the training, for the curves; left out if there is no such file.
        notes: further lines for the report: data, weights.
        cases: number of best and of worst images shown.
    """

    def __init__(
        self,
        output_dir: str | Path,
        pred_key: str = "instances",
        label_key: str = "label",
        title: str = "Instances",
        history: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
        cases: int = 3,
    ) -> None:
        self.output_dir, self.title, self.cases = Path(output_dir), title, cases
        self.pred_key, self.label_key = pred_key, label_key
        self.history = None if history is None else Path(history)
        self.notes = dict(notes or {})
        self._rows: list[dict[str, Any]] = []
        self._pictures: list[_Picture] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches keep the loaded image, with its metadata, as ``source``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, _: Engine) -> None:
        self._rows, self._pictures = [], []

    def _collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            name = str(batch["source"].meta["filename_or_obj"])
            pred, label = (convert_to_numpy(d[k]) for d, k in ((output, self.pred_key), (batch, self.label_key)))
            row = {"image": name, "group": str(batch.get("group", without_suffix(name).name)), **_scores(pred, label)}
            self._rows.append(row)
            kept = sorted([*self._pictures, _Picture(name, row["aji"], pred[0], label[0])], key=lambda p: p.aji)
            # only the ends of the order can be shown: a cohort of any size takes the memory of these
            self._pictures = kept if len(kept) <= 2 * self.cases else kept[: self.cases] + kept[-self.cases :]

    def _write(self, engine: Engine) -> None:
        rows, pictures = gather(self._rows), gather(self._pictures)
        if engine.state.rank != 0:
            return
        table = pd.DataFrame(rows).sort_values("image", ignore_index=True)
        named = table.assign(image=[Path(name).name for name in table["image"]])
        with atomic_path(self.output_dir / "scores.csv") as temporary:
            named.to_csv(temporary, index=False)
        metrics = _intervals(table)
        write_metrics(self.output_dir / "metrics.json", {**metrics, "notes": self.notes})
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics,
            curves=read_curves(self.history),
            tables={"Images": named.sort_values("aji").round(3)},
            cases=self._cases(sorted(pictures, key=lambda p: p.aji)),
            legend=_LEGEND,
            notes=self.notes,
        )
        text = ", ".join(f"{name} {_interval_text(metrics[name])}" for name in (*_MEANS[:3], "f1"))
        print(f"{self.output_dir / 'report.html'}: {text} on {len(table)} images")

    def _cases(self, ordered: Sequence[_Picture]) -> dict[str, list[tuple[np.ndarray, str]]]:
        worst = ordered[: self.cases]
        best = ordered[len(worst) :][::-1][: self.cases]
        cases = {"Lowest AJI": worst, "Highest AJI": best}
        return {heading: [_draw(picture) for picture in pictures] for heading, pictures in cases.items() if pictures}


def _scores(pred: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The scores of one image; counts of instances matched at an IoU above .5."""
    foreground, reference = pred > 0, label > 0
    both, one, other = (int(area.sum()) for area in (foreground & reference, foreground, reference))
    counts = PanopticQuality()(pred[None], label[None])[0, 0]
    tp, fp, fn = counts[:3].int().tolist()
    distances = outline_distances(pred[0], label[0])
    return {
        "dice": 2 * both / (one + other) if one + other else 1.0,
        "aji": AggregatedJaccardIndex()(pred[None], label[None]).item(),
        "pq": panoptic_scores(counts)["pq"].item(),
        "object_dice": ObjectDice()(pred[None], label[None]).item(),
        "hausdorff": hausdorff_distance(distances),
        "foreground_iou": ForegroundIoU()(pred[None], label[None]).item(),
        "partial_hausdorff": hausdorff_distance(distances, _PARTIAL),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        **dict(zip(_PIXELS, (both, one - both, other - both, label.size - one - other + both), strict=True)),
    }


def _intervals(table: pd.DataFrame) -> dict[str, Any]:
    counts, pixels = table[_COUNTS].to_numpy(), table[_PIXELS].to_numpy()
    return {
        **{name: bootstrap_ci(table[name].to_numpy(), table["group"]) for name in _MEANS},
        **{
            name: bootstrap_ci(counts, table["group"], lambda sums, n=name: detection_scores(sums)[n])
            for name in ("f1", "precision", "recall")
        },
        **{
            f"pixel_{name}": bootstrap_ci(pixels, table["group"], lambda sums, n=name: _pixel_scores(sums)[n])
            for name in ("accuracy", "precision", "recall")
        },
        **dict(zip(_COUNTS, counts.sum(0).tolist(), strict=True)),
        "images": len(table),
        "without_distance": int(table["hausdorff"].isna().sum()),
    }


def _pixel_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Of counts ``(..., 4)`` of pixels."""
    accuracy = (sums[..., 0] + sums[..., 3]) / np.maximum(sums.sum(-1), 1)
    return {**detection_scores(sums[..., :3]), "accuracy": accuracy}


def _interval_text(score: Interval) -> str:
    return f"{score.value:.3f}" + ("" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]")


def _draw(picture: _Picture) -> tuple[np.ndarray, str]:
    image = read_field(picture.image).image
    labels = [_fitted(labels, image.shape[1:]) for labels in (picture.label, picture.pred)]
    drawn = image
    for instances, colour in zip(labels, _LEGEND.values(), strict=True):
        kinds = ["drawn"] * int(instances.max(initial=0))
        drawn = overlay(
            drawn,
            labels=instances,
            classes=kinds,
            colours={"drawn": colour},
            thickness=1,
            channel_dim=0 if drawn is image else -1,
        )
    return drawn, f"{Path(picture.image).name}: AJI {picture.aji:.2f}"


def _fitted(instances: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A map of the network's grid on the pixels of the file."""
    if instances.shape == tuple(shape):
        return instances
    return cv2.resize(instances.astype(np.int32), tuple(shape)[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
