"""From masks of round objects to Dice, ``metrics.json`` and a page with pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from monai_ext.base.distributed import gather
from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.formats.image import read_mask
from monai_ext.formats.suffixes import without_suffix
from monai_ext.metrics.bootstrap import bootstrap_ci
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["MaskReport"]

_HEIGHT, _GAP, _HEADING = 320, 4, 22  # px of a picture, between two, and above them
_GREYS = {0: 0, 1: 255, 255: 110}  # of a concentric label: background, disk, ring that is left out of the loss
_FOLDER = "segmentations"


class _Case(NamedTuple):
    """What is kept of an image."""

    row: dict[str, Any]
    image: np.ndarray
    truth: np.ndarray
    pred: np.ndarray


class MaskReport:
    """Scores binary masks by Dice and shows them as Fig. 14 and 15 of Li et al. (2019).

    The paper does not say what counts for an image without an object, and half of its test images have none. So there
    are several: ``dice``, the mean over all images, where an empty truth gives 1 to an empty prediction and 0 to any
    other; ``dice_with_object``, the mean over the images that have one; ``dice_pooled``, of all images' pixels
    together; and ``false_alarms``, the share of the images without an object in which something is called. All with
    95 % bootstrap intervals over groups.

    Writes ``metrics.json``, ``report.html`` and each image's mask as PNG below ``segmentations/``. In the pictures an
    image's mask stands beside its concentric label, which is what the other training sees (Fig. 14), and beside what
    this network makes of it and others made of it before (Fig. 15).

    Args:
        output_dir: where to write.
        title: the report's title.
        label: draws the concentric label of a mask ``(1, H, W)``, given its shape; None for none.
        beside: output folders of earlier evaluations of the same images by the names to show them under.
        cases: pictures of the best, of the worst and of the worst without an object.
        notes: further lines for the report.

    Raises:
        InputError: a folder of ``beside`` without the masks of an evaluation.
    """

    def __init__(
        self,
        output_dir: str | Path,
        title: str,
        label: Callable[[np.ndarray, tuple[int, int]], Any] | None = None,
        beside: Mapping[str, str | Path] | None = None,
        cases: int = 4,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir, self.title, self.label, self.cases = Path(output_dir), title, label, cases
        self.beside = {name: Path(folder) / _FOLDER for name, folder in (beside or {}).items()}
        self.notes = dict(notes or {})
        for name, folder in self.beside.items():
            if not folder.is_dir():
                raise InputError(folder, f"the masks of an earlier evaluation ({name})", "no such folder")
        self._cases: list[_Case] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; items have ``source`` with its metadata, ``pred`` and ``label`` ``(1, H, W)``."""
        engine.add_event_handler(Events.STARTED, lambda _: self._cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            path = Path(str(batch["source"].meta["filename_or_obj"]))
            pred, truth = (convert_to_numpy(output[key])[0] > 0 for key in ("pred", "label"))
            name = without_suffix(path).name
            write_png(self.output_dir / _FOLDER / f"{name}.png", np.where(pred, np.uint8(255), np.uint8(0)))
            row = {
                "image": path.name,
                "group": str(batch.get("group", name)),
                "shared_px": int((pred & truth).sum()),
                "called_px": int(pred.sum()),
                "true_px": int(truth.sum()),
            }
            width = round(_HEIGHT * truth.shape[1] / truth.shape[0])
            image = np.moveaxis(convert_to_numpy(batch["source"]), 0, -1)
            small = cv2.resize(np.ascontiguousarray(image), (width, _HEIGHT), interpolation=cv2.INTER_AREA)
            self._cases.append(_Case(row, small, np.packbits(truth), np.packbits(pred)))
            self._shape = truth.shape

    def _write(self, engine: Engine) -> None:
        cases = gather(self._cases)
        if engine.state.rank != 0:
            return
        table = pd.DataFrame([case.row for case in cases])
        table["dice"] = dice_of(*(table[name] for name in ("shared_px", "called_px", "true_px")))
        has_object, called = table["true_px"] > 0, table["called_px"] > 0
        counts = table[["shared_px", "called_px", "true_px"]].to_numpy()
        metrics = {
            "dice": bootstrap_ci(table["dice"].to_numpy(), table["group"]),
            "dice_with_object": bootstrap_ci(table["dice"].where(has_object).to_numpy(), table["group"]),
            "dice_pooled": bootstrap_ci(counts, table["group"], lambda sums: dice_of(*np.moveaxis(sums, -1, 0))),
            "false_alarms": bootstrap_ci(called.astype(float).mask(has_object).to_numpy(), table["group"]),
            "images": len(table),
            "images_with_object": int(has_object.sum()),
        }
        write_metrics(self.output_dir / "metrics.json", {**metrics, "notes": self.notes})
        ranked = table[has_object].sort_values("dice").index.tolist()
        alarms = table[~has_object & called].sort_values("called_px", ascending=False).index.tolist()
        shown = {
            "Best": ranked[::-1][: self.cases],
            "Worst": ranked[: self.cases],
            "Without an object, most called": alarms[: self.cases],
        }
        pictures = {
            name: [(self._picture(cases[index]), self._caption(table.loc[index])) for index in indices]
            for name, indices in shown.items()
            if indices
        }
        write_report(
            self.output_dir / "report.html",
            title=self.title,
            metrics=metrics,
            tables={"Images": table.sort_values("dice")},
            cases=pictures,
            notes=self.notes,
        )

    def _picture(self, case: _Case) -> np.ndarray:
        truth, pred = (self._unpacked(mask) for mask in (case.truth, case.pred))
        cells = {"image": case.image, "mask": truth * 255}
        if self.label is not None:
            drawn = convert_to_numpy(self.label(truth[None], truth.shape))[0]
            cells["concentric label"] = sum((drawn == value) * grey for value, grey in _GREYS.items()).astype(np.uint8)
        for name, folder in self.beside.items():
            path = folder / f"{without_suffix(case.row['image']).name}.png"
            cells[name] = np.where(read_mask(path) > 0, np.uint8(255), np.uint8(0))
        cells["this network"] = pred * 255
        return np.concatenate([_headed(name, cell, case.image.shape[:2]) for name, cell in cells.items()], axis=1)

    def _unpacked(self, bits: np.ndarray) -> np.ndarray:
        rows, cols = self._shape
        return np.unpackbits(bits, count=rows * cols).reshape(rows, cols)

    @staticmethod
    def _caption(row: pd.Series) -> str:
        return f"{row['image']}: Dice {row['dice']:.3f}, {row['called_px']} px called, {row['true_px']} px true"


def dice_of(shared: Any, called: Any, true: Any) -> np.ndarray:
    """Dice of counts of pixels; 1 where nothing is called and nothing is there.

    Examples:
        >>> from monai_ext.handlers.mask_report import dice_of
        >>> dice_of([10, 0, 0], [20, 0, 5], [20, 0, 0]).tolist()
        [0.5, 1.0, 0.0]
    """
    shared, both = np.asarray(shared, float), np.asarray(called, float) + np.asarray(true, float)
    return np.where(both > 0, 2 * shared / np.where(both > 0, both, 1), 1.0)


def _headed(name: str, cell: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture of one size with its name above and a gap beside it."""
    cell = cv2.resize(cell, shape[::-1], interpolation=cv2.INTER_AREA)
    cell = cell if cell.ndim == 3 else np.repeat(cell[..., None], 3, axis=-1)
    picture = np.pad(cell, ((_HEADING, 0), (0, _GAP), (0, 0)), constant_values=255)
    cv2.putText(picture, name, (2, _HEADING - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return picture
