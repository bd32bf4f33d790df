"""From the files of an inference to one page for a reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
from ignite.engine import Engine, Events

from monai_ext.data.result_files import OVERLAY, SummaryTable
from monai_ext.formats.suffixes import without_suffix
from monai_ext.networks.tissue_check import TissueCheck, report_tissue
from monai_ext.reports.pages import write_report

__all__ = ["SummaryReport"]


class SummaryReport:
    """Writes ``report.html`` from ``summary.csv`` and the overlays that ``SaveDetectionsd`` and others wrote.

    Args:
        output_dir: the folder of ``summary.csv``.
        title: the report's title.
        notes: further lines for the report: weights, thresholds.
        pictures: number of overlays shown, those with the highest values first.
        column: of the table, what the images are ordered by.
        heading: of the pictures.
        totals: columns whose sum is shown, by the name it is shown by.
        check: what the images' ``foreign_share`` was found by; the report then says how many are foreign.
    """

    def __init__(
        self,
        output_dir: str | Path,
        title: str,
        notes: Mapping[str, Any] | None = None,
        pictures: int = 8,
        column: str = "count",
        heading: str = "Images with the most detections",
        totals: Mapping[str, str] | None = None,
        check: TissueCheck | None = None,
    ) -> None:
        self.output_dir, self.title = Path(output_dir), title
        self.notes, self.pictures = dict(notes or {}), pictures
        self.column, self.heading = column, heading
        self.totals = {"detections": "count"} if totals is None else dict(totals)
        self.check = check

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the report on the first rank, over the files of all ranks."""
        if engine.state.rank != 0:
            return
        summary = self.output_dir / "summary.csv"
        SummaryTable(summary).order()
        table = pd.read_csv(summary)
        cases = []
        highest = table.sort_values(self.column, ascending=False, kind="stable").head(self.pictures)
        for image, value in zip(highest["image"], highest[self.column], strict=True):
            picture = cv2.imread(str(self._overlay(image)))
            cases.append(
                (picture[..., ::-1], f"{image}: {value:.3g}" if isinstance(value, float) else f"{image}: {value}")
            )
        metrics = {"images": len(table), **{name: table[key].sum().item() for name, key in self.totals.items()}}
        tissue = report_tissue(self.check, table.to_dict("records"))
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics | tissue.metrics,
            tables={"Images": table.round(3)},
            cases={self.heading: cases},
            notes=self.notes | tissue.notes,
            warning=tissue.warning,
        )

    def _overlay(self, image: str) -> Path:
        stems = (self.output_dir / image, without_suffix(self.output_dir / image))
        paths = [stem.with_name(f"{stem.name}{OVERLAY}") for stem in stems]
        return next(path for path in paths if path.is_file())
