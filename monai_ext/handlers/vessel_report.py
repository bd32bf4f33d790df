"""From an evaluation of LoopNet to ``scores.csv``, ``metrics.json`` and ``report.html`` (section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from monai.utils import convert_to_numpy

from monai_ext.base.colours import COLOURS
from monai_ext.base.overlay import overlay
from monai_ext.formats.image import read_field
from monai_ext.formats.suffixes import without_suffix
from monai_ext.handlers.scores_report import ScoresReport
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci, bootstrap_scores, weighted_auc
from monai_ext.metrics.classification import class_scores_ci, confusion_counts
from monai_ext.metrics.grid_locating import grid_locating_scores
from monai_ext.metrics.verdicts import verdict_scores

__all__ = ["VesselReport"]

_CANCEROUS = 2  # class id of a patch
_COUNTS = ["tp", "fp", "fn"]
_LISTS = ("located", "cancerous")


class VesselReport(ScoresReport):
    """Scores diagnoses and located cells of vessels, with 95 % bootstrap intervals over slides, and shows both.

    Of several mosaics of a vessel the highest score is its score, and their patches are joined. Locating is
    judged on invaded vessels whose cancerous cells were marked: precision, recall and Dice of each vessel's patches,
    and the means over vessels; a patch in no mosaic counts as called healthy. What was missed is told apart: cancerous
    patches in which no cell was found, so that the network never saw them, and those that it saw and did not call.
    Slides are judged too, by their most suspicious vessel.

    Writes ``scores.csv`` (image, group, label, score; the numbers of the patches called cancerous, of those that are,
    true and false positives and false negatives, and how many of the latter the network never saw), ``metrics.json``
    (accuracy, AUC, precision and recall of both classes, locating, verdicts on slides) and ``report.html``. Attach it
    to an evaluator of mosaics whose post-processing leaves ``score`` (probability) and ``located``, class ids ``(1,
    grid, grid)``; the batch has ``file``, ``label``, ``order``, ``mosaic``, ``patch_px``, ``grid_shape`` and
    ``vessel_shape``, optionally ``classes`` and ``missed`` of :class:`~monai_ext.transforms.PatchClassesd`.

    Args:
        output_dir: where the files go.
        classes: names of a vessel's classes.
        threshold: scores above it mean the second class.
        slide_threshold: one vessel of a higher score makes a slide invaded.
        title: the report's title.
        history: ``history.json`` of the training, for the curves; left out if there is no such file.
        notes: further lines for the report: data, weights.
        cases: number of pictures of each kind.
    """

    what = "vessels"

    def __init__(
        self,
        output_dir: str | Path,
        classes: tuple[str, str] = ("healthy", "MVI"),
        threshold: float = 0.5,
        title: str = "Vessels",
        history: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
        cases: int = 4,
        slide_threshold: float = 0.5,
    ) -> None:
        super().__init__(output_dir, title, history, notes, cases)
        self.classes, self.threshold, self.slide_threshold = tuple(classes), threshold, slide_threshold

    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """One mosaic."""
        order, located = (convert_to_numpy(x).reshape(-1) for x in (batch["order"], output["located"]))
        located = (located == _CANCEROUS) & (order >= 0)  # nothing lies in a blank cell
        row = {
            "image": str(batch["file"]),
            "group": str(batch.get("group", without_suffix(batch["file"]).name)),
            "mosaic": int(batch["mosaic"]),
            "label": int(convert_to_numpy(batch["label"]).item()),
            "score": float(convert_to_numpy(output["score"]).item()),
            "patch_px": int(batch["patch_px"]),
            "columns": int(convert_to_numpy(batch["grid_shape"])[1]),
            **dict(zip(("height", "width"), (int(side) for side in batch["vessel_shape"]), strict=True)),
            "located": order[located].tolist(),
            "cancerous": None,
            "missed": 0,
        }
        missed = int(batch.get("missed", -1))
        if row["label"] and missed >= 0:
            truth = convert_to_numpy(batch["classes"]).reshape(-1) == _CANCEROUS
            row |= {"cancerous": order[truth].tolist(), "missed": missed}
        return row

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Mosaics joined to vessels."""
        vessels: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["image"], row["mosaic"])):
            vessel = vessels.setdefault(row["image"], {**row, "score": 0.0, "located": [], "cancerous": None})
            vessel["score"] = max(vessel["score"], row["score"])
            vessel["located"] = sorted({*vessel["located"], *row["located"]})
            if row["cancerous"] is not None:
                vessel["cancerous"] = sorted({*(vessel["cancerous"] or []), *row["cancerous"]})
        return pd.DataFrame([self._counted(vessel) for vessel in vessels.values()])

    @staticmethod
    def _counted(vessel: dict[str, Any]) -> dict[str, Any]:
        vessel.pop("mosaic")
        located, truth, missed = vessel["located"], vessel["cancerous"], vessel.pop("missed")
        counts: Sequence[int | None] = (None, None, None, None)
        if truth is not None:
            both = len({*located} & {*truth})
            counts = (both, len(located) - both, len(truth) - both + missed, missed)
        texts = {name: None if vessel[name] is None else " ".join(map(str, vessel[name])) for name in _LISTS}
        return vessel | texts | dict(zip((*_COUNTS, "uncut"), counts, strict=True))

    def metrics(self, table: pd.DataFrame) -> dict[str, Any]:
        """The diagnosis, each class's own scores, and locating."""
        scores = class_scores_ci(table["label"].to_numpy(), self._called(table), self.classes, table["group"])
        marked = table[table["tp"].notna()]
        located = grid_locating_scores(marked[_COUNTS].to_numpy(np.float64))
        tp, fn, uncut = marked[["tp", "fn", "uncut"]].to_numpy(np.float64).T
        missed = {"missed_by_filter": (uncut, tp + fn), "missed_by_network": (fn - uncut, tp + fn)}
        healthy = table[table["label"] == 0]
        alarms = (healthy["located"] != "").to_numpy(np.float64)
        return {
            "accuracy": scores["accuracy"],
            "auc": bootstrap_scores([table], weighted_auc),
            **scores["classes"],
            "locating": {
                **{name: bootstrap_ci(values, marked["group"]) for name, values in located.items()},
                **{name: bootstrap_ci(np.stack(c, 1), marked["group"], _share) for name, c in missed.items()},
                "vessels": len(marked),
                "patches": int((tp + fn).sum()),
                "healthy_vessels_with_any": bootstrap_ci(alarms, healthy["group"]),
            },
            "slides": verdict_scores(table, self.slide_threshold),
        }

    def _called(self, table: pd.DataFrame) -> np.ndarray:
        return (table["score"] > self.threshold).to_numpy(int)

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, Interval]:
        """Accuracy and the Dice coefficient of locating."""
        return {"accuracy": metrics["accuracy"], "locating Dice": metrics["locating"]["dice"]}

    def confusion(self, table: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Counts by true and by predicted class."""
        counts = confusion_counts(table["label"].to_numpy(int), self._called(table), 2).tolist()
        return {name: dict(zip(self.classes, row, strict=True)) for name, row in zip(self.classes, counts, strict=True)}

    def kinds(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Mistakes of the diagnosis, then invaded vessels where locating did worst and best."""
        ranked = table.sort_values("score", kind="stable")
        called = self._called(ranked)
        missed = ranked[(ranked["label"] == 1) & (called == 0)].head(self.cases)
        alarms = ranked[(ranked["label"] == 0) & (called == 1)].iloc[::-1].head(self.cases)
        marked = table[table["tp"].notna()]
        dice = grid_locating_scores(marked[_COUNTS].to_numpy(np.float64))["dice"]
        marked = marked.assign(dice=dice).sort_values("dice", kind="stable")
        worst = marked.head(self.cases)
        best = marked.iloc[::-1].head(self.cases)
        healthy, invaded = self.classes
        return {
            f"{invaded} called {healthy}": missed,
            f"{healthy} called {invaded}": alarms,
            "Worst located": worst,
            "Best located": best.drop(worst.index, errors="ignore"),
        }

    def legend(self) -> Mapping[str, tuple[int, int, int]]:
        """Patches by predicted and true class."""
        names = {"TP": "cancerous, found", "FP": "called cancerous, not marked", "FN": "cancerous, not found"}
        return {names[kind]: colour for kind, colour in COLOURS.items()}

    def picture(self, row: Any) -> tuple[np.ndarray, str]:
        """The vessel with its true positive, false positive and missed patches."""
        # patches are counted in px of the resolution that the network works at
        image = np.moveaxis(read_field(row.image).image, 0, -1)
        image = cv2.resize(image, (row.width, row.height), interpolation=cv2.INTER_AREA)
        located = _numbers(row.located)
        truth = _numbers(row.cancerous) if isinstance(row.cancerous, str) else set()
        kinds = {"TP": located & truth, "FP": located - truth, "FN": truth - located}
        labels, names = np.zeros(image.shape[:2], np.int32), []
        for kind, numbers in kinds.items():
            for number in sorted(numbers):
                top, left = (row.patch_px * cell for cell in divmod(number, row.columns))
                names.append(kind)
                labels[top : top + row.patch_px, left : left + row.patch_px] = len(names)
        drawn = overlay(image, labels=labels, classes=names, thickness=2, channel_dim=-1)
        text = f"{Path(row.image).name} ({row.group}): {self.classes[row.label]}, {row.score:.3f}"
        if pd.notna(row.tp):
            text += ", {} patches found, {} falsely, {} missed".format(*(int(getattr(row, name)) for name in _COUNTS))
            text += f" ({int(row.uncut)} in no mosaic)" if row.uncut else ""
        return drawn, text


def _share(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _numbers(text: str) -> set[int]:
    return {int(number) for number in text.split()}
