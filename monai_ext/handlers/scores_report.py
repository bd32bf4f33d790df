"""What the reports of image-level classifiers share: rows gathered from all ranks, a table, numbers, a page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events

from monai_ext.base.distributed import gather
from monai_ext.base.files import atomic_path
from monai_ext.handlers.training_state import read_curves
from monai_ext.metrics.bootstrap import Interval
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["ScoresReport", "magnified"]

_MAGNIFY = 224  # px: patches are shown at least so large


def magnified(image: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` with its pixels repeated until it can be seen."""
    times = max(1, round(_MAGNIFY / max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1)


class ScoresReport(ABC):
    """Writes ``scores.csv``, ``metrics.json`` and ``report.html`` into ``output_dir`` when an evaluation ends.

    Under ``torchrun`` the rows of all ranks are gathered and the first rank writes.

    Args:
        output_dir: where the files go.
        title: the report's title.
        history: ``history.json`` of the training, for the curves; left out if there is no such file.
        notes: further lines for the report: data, weights.
        cases: number of pictures of each kind.
    """

    order: tuple[str, ...] = ("image",)
    what = "images"

    def __init__(
        self,
        output_dir: str | Path,
        title: str,
        history: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
        cases: int = 6,
    ) -> None:
        self.output_dir, self.title, self.cases = Path(output_dir), title, cases
        self.history = None if history is None else Path(history)
        self.notes = dict(notes or {})
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        self._rows += [self.row(*pair) for pair in zip(engine.state.batch, engine.state.output, strict=True)]

    def _write(self, engine: Engine) -> None:
        rows = gather(self._rows)
        if engine.state.rank != 0:
            return
        table = self.table(rows).sort_values(list(self.order), ignore_index=True)
        with atomic_path(self.output_dir / "scores.csv") as temporary:
            table.assign(image=[Path(name).name for name in table["image"]]).to_csv(temporary, index=False)
        metrics = {**self.metrics(table), self.what: len(table)}
        write_metrics(self.output_dir / "metrics.json", {**metrics, "notes": self.notes})
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics,
            curves=read_curves(self.history),
            confusion=self.confusion(table),
            tables=self.tables(metrics),
            cases=self.pictures(table),
            legend=self.legend(),
            notes=self.notes,
        )
        text = ", ".join(
            _spoken(name, value) for name, value in self.headline(metrics).items() if value.value is not None
        )
        print(f"{self.output_dir / 'report.html'}: {text} on {len(table)} {self.what}")

    @abstractmethod
    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """``image``, ``group``, ``label`` and further columns of one item."""

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """The rows of all ranks as a table."""
        return pd.DataFrame(rows)

    @abstractmethod
    def metrics(self, table: pd.DataFrame) -> dict[str, Any]:
        """Numbers and intervals from all rows."""

    @abstractmethod
    def headline(self, metrics: Mapping[str, Any]) -> dict[str, Interval]:
        """What is printed at the end, by name."""

    @abstractmethod
    def confusion(self, table: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Counts by true and by predicted class."""

    @abstractmethod
    def kinds(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Rows that are shown as pictures, by heading."""

    @abstractmethod
    def picture(self, row: Any) -> tuple[np.ndarray, str]:
        """An item's picture, RGB, and its caption."""

    def legend(self) -> Mapping[str, tuple[int, int, int]]:
        """What each colour in the pictures means, RGB."""
        return {}

    def tables(self, metrics: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - for those that have some
        """Tables by heading; what is shown there may be taken out of ``metrics``."""
        return {}

    def pictures(self, table: pd.DataFrame) -> dict[str, list[tuple[np.ndarray, str]]]:
        """The pictures of every kind that has some."""
        return {
            heading: [self.picture(row) for row in rows.itertuples()]
            for heading, rows in self.kinds(table).items()
            if len(rows)
        }


def _spoken(name: str, interval: Interval) -> str:
    spread = "" if interval.low is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{name} {interval.value:.3f}{spread}"
