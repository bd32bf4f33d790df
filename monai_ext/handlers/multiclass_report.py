"""From an evaluation of classified nuclei to ``scores.csv``, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.utils import convert_to_numpy

from monai_ext.data.nuclei import read_patches
from monai_ext.formats.suffixes import without_suffix
from monai_ext.handlers.scores_report import ScoresReport, magnified
from monai_ext.metrics.bootstrap import Interval
from monai_ext.metrics.classification import class_scores_ci, confusion_counts

__all__ = ["MulticlassReport"]


class MulticlassReport(ScoresReport):
    """Scores a classifier of nuclei, with 95 % bootstrap intervals over groups, and shows its surest mistakes.

    Writes ``scores.csv`` (image, row, group, label, predicted, the probability of each class), ``metrics.json``
    (weighted F1, accuracy, precision and recall, macro F1, each class's own, confusion) and ``report.html``. Attach it
    to an evaluator of :class:`~monai_ext.data.NucleusPatches` whose post-processing leaves ``score``, probabilities
    ``(C,)``.

    Args:
        output_dir: where the files go.
        classes: the classes' names, in the order of the scores.
        title: the report's title.
        history: ``history.json`` of the training, for the curves; left out if there is no such file.
        notes: further lines for the report: data, weights.
        cases: number of pictures of each kind.
    """

    order = ("image", "row")
    what = "nuclei"

    def __init__(
        self,
        output_dir: str | Path,
        classes: Sequence[str],
        title: str = "Classes of nuclei",
        history: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
        cases: int = 12,
    ) -> None:
        super().__init__(output_dir, title, history, notes, cases)
        self.classes = list(classes)

    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """Names in place of ids, for those who read the table."""
        scores = convert_to_numpy(output["score"]).reshape(-1)
        return {
            "image": str(batch["file"]),
            "row": int(batch["row"]),
            "group": str(batch["group"]),
            "label": self.classes[int(batch["label"])],
            "predicted": self.classes[int(scores.argmax())],
            **{f"p_{name}": round(float(score), 4) for name, score in zip(self.classes, scores, strict=True)},
        }

    def _ids(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        number = {name: index for index, name in enumerate(self.classes)}
        return tuple(table[column].map(number).to_numpy() for column in ("label", "predicted"))

    def metrics(self, table: pd.DataFrame) -> dict[str, Any]:
        """Weighted scores, each class's own, and the confusion."""
        scores = class_scores_ci(*self._ids(table), self.classes, table["group"])
        return {**scores, "confusion": self.confusion(table)}

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, Interval]:
        """The two numbers of the paper's tables."""
        return {"weighted F1": metrics["f1"], "accuracy": metrics["accuracy"]}

    def confusion(self, table: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Counts by true and by predicted class."""
        counts = confusion_counts(*self._ids(table), len(self.classes)).tolist()
        rows = [dict(zip(self.classes, row, strict=True)) for row in counts]
        return dict(zip(self.classes, rows, strict=True))

    def tables(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Each class a row."""
        metrics.pop("confusion")  # it has its own place on the page
        return {"Classes": [{"class": name, **scores} for name, scores in metrics.pop("classes").items()]}

    def kinds(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The surest mistakes of each class, and the least certain nuclei."""
        ranked = table.assign(sure=table[[f"p_{name}" for name in self.classes]].max(axis=1))
        ranked = ranked.sort_values("sure", ascending=False, kind="stable")
        wrong = ranked[ranked["label"] != ranked["predicted"]]
        kinds = {
            f"{n.capitalize()}, surest mistakes": wrong[wrong["label"] == n].head(self.cases) for n in self.classes
        }
        return kinds | {"Least certain": ranked.iloc[::-1].head(self.cases)}

    def picture(self, row: Any) -> tuple[np.ndarray, str]:
        """The patch, enlarged."""
        patch = magnified(np.array(read_patches(row.image)[row.row]))
        name = without_suffix(row.image).name
        return patch, f"{row.label}, called {row.predicted} ({row.sure:.2f}): {name} {row.row}"
