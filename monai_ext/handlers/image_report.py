"""From a metric of each image to ``metrics.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine, Events

from monai_ext.base.distributed import gather
from monai_ext.metrics.bootstrap import bootstrap_ci
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["ImageMetricReport"]


class ImageMetricReport:
    """Writes a mean over images, with its 95 % bootstrap interval over groups, and the value of each image.

    Args:
        output_dir: where ``metrics.json`` and ``report.html`` go.
        metric: name of a metric handler that keeps its details, as MONAI's do by default.
        title: the report's title.
        notes: further lines for the report.
    """

    def __init__(self, output_dir: str | Path, metric: str, title: str, notes: Mapping[str, Any] | None = None) -> None:
        self.output_dir, self.metric, self.title, self.notes = Path(output_dir), metric, title, dict(notes or {})
        self._images: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches keep the loaded image, with its metadata, as ``source``."""
        engine.add_event_handler(Events.STARTED, lambda _: self._images.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for batch in engine.state.batch:
            name = Path(str(batch["source"].meta["filename_or_obj"]))
            self._images.append({"image": name.name, "group": str(batch.get("group", name.stem))})

    def _write(self, engine: Engine) -> None:
        images = gather(self._images)
        if engine.state.rank != 0:
            return
        values = engine.state.metric_details[self.metric].mean(dim=1).cpu().numpy()
        table = pd.DataFrame(images).assign(**{self.metric: values})
        metrics = {self.metric: bootstrap_ci(values, table["group"]), "images": len(table)}
        write_metrics(self.output_dir / "metrics.json", {**metrics, "notes": self.notes})
        tables = {"Images": table.sort_values(self.metric)}
        write_report(
            self.output_dir / "report.html", title=self.title, metrics=metrics, tables=tables, notes=self.notes
        )
