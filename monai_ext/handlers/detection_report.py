"""From an evaluation of detections to ``scores.csv``, ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from monai_ext.base.colours import COLOURS
from monai_ext.base.distributed import gather
from monai_ext.base.files import atomic_path
from monai_ext.base.overlay import overlay
from monai_ext.data.geometry import image_resolution
from monai_ext.formats.image import read_field
from monai_ext.formats.resolution import Scale
from monai_ext.formats.suffixes import without_suffix
from monai_ext.handlers.training_state import read_curves
from monai_ext.metrics.bootstrap import bootstrap_ci
from monai_ext.metrics.detection import detection_scores, match_detections
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["DetectionReport"]

_LEGEND = {"found": COLOURS["TP"], "false alarm": COLOURS["FP"], "missed": COLOURS["FN"]}
_SCORES = ("f1", "precision", "recall")


@dataclass(frozen=True)
class _FieldResult:
    image: str
    group: str
    scale: Scale
    predicted: np.ndarray
    truth: np.ndarray


class DetectionReport:
    """Scores detections against points, with intervals over groups, and shows the best and the worst fields.

    Writes ``scores.csv`` (a row per field, at the first radius), ``metrics.json`` (F1, precision and recall with their
    95 % bootstrap intervals over groups, and the counts, for each radius) and ``report.html`` into ``output_dir``.
    Under ``torchrun`` the ranks' fields are gathered.

    Args:
        output_dir: where the files go.
        radii: matching radii, px of the network's grid; the first one decides what the report shows.
        mpp: um/px of that grid, for the radii in um; ``None`` where unknown.
        title: the report's title.
        history: ``history.json`` of the training, for the curves; left out if there is no such file.
        notes: further lines for the report: data, weights, thresholds.
        cases: number of best and of worst fields shown.
    """

    def __init__(
        self,
        output_dir: str | Path,
        radii: Sequence[float] = (30, 20),
        mpp: float | None = None,
        title: str = "Detection",
        history: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
        cases: int = 3,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.radii, self.mpp, self.title, self.cases = tuple(radii), mpp, title, cases
        self.history = None if history is None else Path(history)
        self.notes = dict(notes or {})
        self._results: list[_FieldResult] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose post-processing leaves ``points`` beside ``label`` and ``image``."""
        engine.add_event_handler(Events.STARTED, lambda _: self._results.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            meta = batch["source"].meta
            name = str(meta["filename_or_obj"])
            self._results.append(
                _FieldResult(
                    name,
                    str(batch.get("group", without_suffix(name).name)),
                    image_resolution(meta)[1],
                    convert_to_numpy(output["points"])[:, :2],
                    convert_to_numpy(batch["label"]).reshape(-1, 2),
                )
            )

    def _write(self, engine: Engine) -> None:
        results = gather(self._results)
        if engine.state.rank != 0:
            return
        results = sorted(results, key=lambda result: result.image)
        tables = {radius: self._table(results, radius) for radius in self.radii}
        metrics = {self._name(radius): self._intervals(table) for radius, table in tables.items()}
        write_metrics(self.output_dir / "metrics.json", {**metrics, "notes": self.notes})
        first = tables[self.radii[0]]
        with atomic_path(self.output_dir / "scores.csv") as temporary:
            first.to_csv(temporary, index=False)
        totals = first[["tp", "fp", "fn"]].sum()
        names = {"tp": "found", "fp": "false alarms", "fn": "missed"}
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics,
            curves=read_curves(self.history),
            confusion={"figure": {"detected": totals.tp, "not detected": totals.fn}, "other": {"detected": totals.fp}},
            tables={
                "Per group": self._scored(first.groupby("group", sort=True)[["tp", "fp", "fn"]].sum().reset_index()),
                "Per field": first.rename(columns=names),
            },
            cases=self._pictures(results, first),
            legend=_LEGEND,
            notes=self.notes,
        )
        print(f"{self.output_dir / 'report.html'}: " + self._summary(metrics))

    def _name(self, radius: float) -> str:
        return f"radius_{radius:g}px"

    def _table(self, results: Sequence[_FieldResult], radius: float) -> pd.DataFrame:
        # not by DetectionF1, whose table gathers over ranks: the results are gathered already, and only here
        rows = []
        for result in results:
            tp = len(match_detections(result.predicted, result.truth, radius))
            rows.append((Path(result.image).name, result.group, tp, len(result.predicted) - tp, len(result.truth) - tp))
        return self._scored(pd.DataFrame(rows, columns=["image", "group", "tp", "fp", "fn"]))

    @staticmethod
    def _scored(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**detection_scores(table[["tp", "fp", "fn"]].to_numpy()))

    @staticmethod
    def _intervals(table: pd.DataFrame) -> dict[str, Any]:
        counts = table[["tp", "fp", "fn"]].to_numpy()
        scores = {
            score: bootstrap_ci(counts, table["group"], lambda sums, s=score: detection_scores(sums)[s])
            for score in _SCORES
        }
        return {**scores, **dict(zip(("tp", "fp", "fn"), counts.sum(0).tolist(), strict=True)), "fields": len(table)}

    def _pictures(
        self, results: Sequence[_FieldResult], table: pd.DataFrame
    ) -> dict[str, list[tuple[np.ndarray, str]]]:
        order = np.argsort(-table["f1"].to_numpy(), kind="stable")
        worst = order[::-1][: self.cases]
        best = [index for index in order[: self.cases] if index not in worst]
        return {
            "Worst fields": [self._picture(results[i], table.iloc[i]) for i in worst],
            "Best fields": [self._picture(results[i], table.iloc[i]) for i in best],
        }

    def _picture(self, result: _FieldResult, row: Any) -> tuple[np.ndarray, str]:
        pairs = match_detections(result.predicted, result.truth, self.radii[0])
        alarms = np.delete(result.predicted, pairs[:, 0], axis=0)
        missed = np.delete(result.truth, pairs[:, 1], axis=0)
        points = np.concatenate([result.predicted[pairs[:, 0]], alarms, missed])
        kinds = ["TP"] * len(pairs) + ["FP"] * len(alarms) + ["FN"] * len(missed)
        # the points are on the network's grid, the picture is the file's, in square px
        field = read_field(result.image)
        scale = np.divide(result.scale, field.file_scale)
        points = (points + 0.5) * scale - 0.5
        radius = round(self.radii[0] * float(scale.max()))
        drawn = overlay(field.image, points=points, classes=kinds, radius=radius, channel_dim=0)
        counts = f"{row['tp']} found, {row['fp']} false, {row['fn']} missed"
        return drawn, f"{row['image']} ({row['group']}): F1 {row['f1']:.2f}, {counts}"

    def _summary(self, metrics: Mapping[str, Any]) -> str:
        def text(radius: float) -> str:
            f1 = metrics[self._name(radius)]["f1"]
            um = f" ({radius * self.mpp:g} um)" if self.mpp else ""
            interval = "" if f1.low is None else f" [{f1.low:.3f}, {f1.high:.3f}]"
            return f"F1 at {radius:g} px{um} {f1.value:.3f}{interval}"

        return "; ".join(text(radius) for radius in self.radii)
