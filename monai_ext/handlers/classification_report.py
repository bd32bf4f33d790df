"""From an evaluation of image-level scores to ``scores.csv``, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.utils import convert_to_numpy

from monai_ext.base.overlay import overlay
from monai_ext.formats.image import read_field
from monai_ext.formats.suffixes import without_suffix
from monai_ext.handlers.scores_report import ScoresReport, magnified
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci, bootstrap_scores, weighted_auc
from monai_ext.metrics.detection import detection_scores

__all__ = ["ClassificationReport"]


class ClassificationReport(ScoresReport):
    """Scores a classifier of two classes, with 95 % bootstrap intervals over groups, and shows its worst mistakes.

    Writes into ``output_dir`` ``scores.csv`` (image, group, label, score), ``metrics.json`` (AUC, accuracy, F1 of class
    1, sensitivity, specificity, the counts) and ``report.html``. Attach it to an evaluator whose post-processing leaves
    ``score`` (probability of class 1) by ``label``. Under ``torchrun`` the ranks' images are gathered.

    Args:
        output_dir: where the files go.
        classes: names of class 0 and class 1.
        threshold: scores above it mean class 1.
        title: the report's title.
        history: ``history.json`` of the training, for the curves; left out if there is no such file.
        notes: further lines for the report: data, weights.
        cases: number of pictures of each kind.
    """

    def __init__(
        self,
        output_dir: str | Path,
        classes: tuple[str, str] = ("negative", "positive"),
        threshold: float = 0.5,
        title: str = "Classification",
        history: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
        cases: int = 6,
    ) -> None:
        super().__init__(output_dir, title, history, notes, cases)
        self.classes, self.threshold = tuple(classes), threshold

    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """One image."""
        name = str(batch["source"].meta["filename_or_obj"])
        return {
            "image": name,
            "group": str(batch.get("group", without_suffix(name).name)),
            "label": int(convert_to_numpy(batch["label"]).item()),
            "score": float(convert_to_numpy(output["score"]).item()),
        }

    def metrics(self, table: pd.DataFrame) -> dict[str, Any]:
        """AUC, and what the threshold makes of the scores."""
        counts = self._counts(table)
        return {
            "auc": bootstrap_scores([table], weighted_auc),
            "accuracy": bootstrap_ci(counts[["tp", "tn"]].sum(axis=1).to_numpy(), table["group"]),
            "f1": bootstrap_ci(
                counts[["tp", "fp", "fn"]].to_numpy(), table["group"], lambda sums: detection_scores(sums)["f1"]
            ),
            "sensitivity": self._share(counts, table, "tp", "fn"),
            "specificity": self._share(counts, table, "tn", "fp"),
            **counts.sum().to_dict(),
        }

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, Interval]:
        """AUC and accuracy."""
        return {"AUC": metrics["auc"], "accuracy": metrics["accuracy"]}

    def confusion(self, table: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Counts by true and by predicted class."""
        negative, positive = self.classes
        counts = self._counts(table).sum().to_dict()
        return {
            negative: {negative: counts["tn"], positive: counts["fp"]},
            positive: {negative: counts["fn"], positive: counts["tp"]},
        }

    def _counts(self, table: pd.DataFrame) -> pd.DataFrame:
        predicted, label = table["score"] > self.threshold, table["label"] > 0
        return pd.DataFrame(
            {"tp": predicted & label, "fp": predicted & ~label, "tn": ~predicted & ~label, "fn": ~predicted & label}
        ).astype(int)

    @staticmethod
    def _share(counts: pd.DataFrame, table: pd.DataFrame, right: str, wrong: str) -> Any:
        def share(sums: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return sums[..., 0] / sums.sum(-1)

        return bootstrap_ci(counts[[right, wrong]].to_numpy(), table["group"], share)

    def kinds(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Positives that score low and high, negatives that score high."""
        negative, positive = self.classes
        ranked = table.sort_values("score", kind="stable")
        return {
            f"{positive.capitalize()}, lowest scores": ranked[ranked["label"] > 0].head(self.cases),
            f"{negative.capitalize()}, highest scores": ranked[ranked["label"] == 0].iloc[::-1].head(self.cases),
            f"{positive.capitalize()}, highest scores": ranked[ranked["label"] > 0].iloc[::-1].head(self.cases),
        }

    def picture(self, row: Any) -> tuple[np.ndarray, str]:
        """The image with its name and score."""
        image = overlay(read_field(row.image).image, channel_dim=0)
        return magnified(image), f"{Path(row.image).name}: {row.score:.3f}"
