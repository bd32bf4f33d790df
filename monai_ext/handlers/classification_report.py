"""From an evaluation of image-level scores to ``scores.csv``, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from monai_ext.data.image import read_field
from monai_ext.data.points import atomic_path
from monai_ext.distributed import gather
from monai_ext.handlers.training_state import read_curves
from monai_ext.metrics.bootstrap import bootstrap_ci, bootstrap_scores, weighted_auc
from monai_ext.visualize.overlay import overlay
from monai_ext.visualize.report import write_metrics, write_report

__all__ = ["ClassificationReport"]

_MAGNIFY = 224  # px: patches are shown at least so large


class ClassificationReport:
    """Scores a classifier of two classes, with 95 % bootstrap intervals over groups, and shows its worst mistakes.

    Writes into ``output_dir`` ``scores.csv`` (image, group, label, score), ``metrics.json`` (AUC, accuracy,
    sensitivity, specificity, the counts) and ``report.html``. Under ``torchrun`` the ranks' images are gathered.

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
        self.output_dir, self.title, self.cases = Path(output_dir), title, cases
        self.classes, self.threshold = tuple(classes), threshold
        self.history = None if history is None else Path(history)
        self.notes = dict(notes or {})
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose post-processing leaves ``score`` (probability of class 1) by ``label``."""
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            name = str(batch["source"].meta["filename_or_obj"])
            self._rows.append(
                {
                    "image": name,
                    "group": str(batch.get("group", Path(name).stem)),
                    "label": int(convert_to_numpy(batch["label"]).item()),
                    "score": float(convert_to_numpy(output["score"]).item()),
                }
            )

    def _write(self, engine: Engine) -> None:
        rows = gather(self._rows)
        if engine.state.rank != 0:
            return
        table = pd.DataFrame(rows).sort_values("image", ignore_index=True)
        with atomic_path(self.output_dir / "scores.csv") as temporary:
            table.assign(image=[Path(name).name for name in table["image"]]).to_csv(temporary, index=False)
        counts = self._counts(table)
        metrics = {
            "auc": bootstrap_scores([table], weighted_auc),
            "accuracy": bootstrap_ci(counts[["tp", "tn"]].sum(axis=1).to_numpy(), table["group"]),
            "sensitivity": self._share(counts, table, "tp", "fn"),
            "specificity": self._share(counts, table, "tn", "fp"),
            **counts.sum().to_dict(),
            "images": len(table),
        }
        write_metrics(self.output_dir / "metrics.json", {**metrics, "notes": self.notes})
        negative, positive = self.classes
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics,
            curves=read_curves(self.history),
            confusion={
                negative: {negative: metrics["tn"], positive: metrics["fp"]},
                positive: {negative: metrics["fn"], positive: metrics["tp"]},
            },
            cases=self._pictures(table),
            notes=self.notes,
        )
        auc, accuracy = metrics["auc"], metrics["accuracy"]
        print(
            f"{self.output_dir / 'report.html'}: "
            + ", ".join(
                f"{name} {m.value:.3f}" + ("" if m.low is None else f" [{m.low:.3f}, {m.high:.3f}]")
                for name, m in (("AUC", auc), ("accuracy", accuracy))
                if m.value is not None
            )
            + f" on {len(table)} images"
        )

    def _counts(self, table: pd.DataFrame) -> pd.DataFrame:
        found, label = table["score"] > self.threshold, table["label"] > 0
        return pd.DataFrame(
            {"tp": found & label, "fp": found & ~label, "tn": ~found & ~label, "fn": ~found & label}
        ).astype(int)

    @staticmethod
    def _share(counts: pd.DataFrame, table: pd.DataFrame, right: str, wrong: str) -> Any:
        def share(sums: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return sums[..., 0] / sums.sum(-1)

        return bootstrap_ci(counts[[right, wrong]].to_numpy(), table["group"], share)

    def _pictures(self, table: pd.DataFrame) -> dict[str, list[tuple[np.ndarray, str]]]:
        negative, positive = self.classes
        ranked = table.sort_values("score", kind="stable")
        kinds = {
            f"{positive.capitalize()}, lowest scores": ranked[ranked["label"] > 0].head(self.cases),
            f"{negative.capitalize()}, highest scores": ranked[ranked["label"] == 0].iloc[::-1].head(self.cases),
            f"{positive.capitalize()}, highest scores": ranked[ranked["label"] > 0].iloc[::-1].head(self.cases),
        }
        return {
            heading: [self._picture(row) for row in some.itertuples()] for heading, some in kinds.items() if len(some)
        }

    @staticmethod
    def _picture(row: Any) -> tuple[np.ndarray, str]:
        image = overlay(read_field(row.image).image, channel_dim=0)
        times = max(1, round(_MAGNIFY / max(image.shape[:2])))
        return image.repeat(times, axis=0).repeat(times, axis=1), f"{Path(row.image).name}: {row.score:.3f}"
