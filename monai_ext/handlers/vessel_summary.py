"""The result of an inference over vessels for each slide: vessels by suspicion, verdict, page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
from ignite.engine import Engine, Events

from monai_ext.base.files import atomic_path
from monai_ext.networks.tissue_check import TissueCheck, report_tissue
from monai_ext.reports.pages import write_report

__all__ = ["VesselSummary"]

_VERDICTS = {True: "MVI", False: "no MVI found"}


class VesselSummary:
    """Writes ``summary.csv``, a row for each vessel, the most suspicious of a slide first; ``slides.csv``; a report.

    ``slides.csv`` has of each slide its vessels, those called invaded, the suspicious cells in these, the highest
    probability and a verdict: MVI if one vessel's probability is above ``slide_threshold``. Attach it to an evaluator,
    after the handler that runs :class:`~monai_ext.transforms.SaveVesseld`.

    Args:
        output_dir: where the files go.
        title: the report's title.
        notes: further lines for the report: weights, thresholds.
        pictures: number of overlays shown, the most suspicious vessels of all slides.
        slide_threshold: see above; :func:`~monai_ext.tuning.tune_vessels` chooses it.
        check: what the vessels' ``foreign_share`` was found by; the report then says how many are foreign.
    """

    def __init__(
        self,
        output_dir: str | Path,
        title: str = "Vessels",
        notes: Mapping[str, Any] | None = None,
        pictures: int = 8,
        check: TissueCheck | None = None,
        slide_threshold: float = 0.5,
    ) -> None:
        self.output_dir, self.title, self.notes = Path(output_dir), title, dict(notes or {})
        self.pictures, self.check, self.slide_threshold = pictures, check, slide_threshold
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        self._rows += [output["row"] for output in engine.state.output if "row" in output]

    def _write(self, engine: Engine) -> None:  # noqa: ARG002 - ignite passes it
        vessels = pd.DataFrame(self._rows).sort_values(
            ["slide", "probability"], ascending=[True, False], ignore_index=True, kind="stable"
        )
        slides = (
            vessels.assign(suspicious=vessels["suspicious_cells"].where(vessels["invaded"], 0))
            .groupby("slide")
            .agg(
                vessels=("vessel", "size"),
                invaded=("invaded", "sum"),
                suspicious_cells=("suspicious", "sum"),
                highest_probability=("probability", "max"),
            )
            .reset_index()
        )
        # a vessel without cells was not seen by the network, and none of it is above any threshold
        slides["verdict"] = [_VERDICTS[bool(score > self.slide_threshold)] for score in slides["highest_probability"]]
        for name, table in (("summary", vessels.drop(columns="overlay")), ("slides", slides)):
            with atomic_path(self.output_dir / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
        pictured = vessels.sort_values("probability", ascending=False, kind="stable").head(self.pictures)
        cases = [
            (cv2.imread(str(self.output_dir / row.overlay))[..., ::-1], f"{row.slide}, {row.vessel}: {row.probability}")
            for row in pictured.itertuples()
        ]
        metrics = {
            "slides": len(slides),
            "vessels": len(vessels),
            "invaded": int(vessels["invaded"].sum()),
            "slides with MVI": int((slides["verdict"] == _VERDICTS[True]).sum()),
            "suspicious cells": int(slides["suspicious_cells"].sum()),
        }
        tissue = report_tissue(self.check, vessels.to_dict("records"), "vessels")
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics | tissue.metrics,
            tables={"Slides": slides.round(3), "Vessels": vessels.drop(columns="overlay")},
            cases={"Most suspicious vessels": cases},
            notes=self.notes | tissue.notes,
            warning=tissue.warning,
        )
        print(f"{self.output_dir / 'report.html'}: {int(vessels['invaded'].sum())} of {len(vessels)} vessels invaded")
