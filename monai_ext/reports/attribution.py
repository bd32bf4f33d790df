"""What attributions find, and what LoopNet's own locating finds, on the same grids (Zhang et al. 2023, Table 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import DataLoader, Dataset
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.explain.attribution import METHODS, attribute
from monai_ext.formats.suffixes import without_suffix
from monai_ext.metrics.bootstrap import bootstrap_ci
from monai_ext.metrics.grid_locating import GridLocating, grid_locating_scores
from monai_ext.networks.nets.loopnet import LoopNet
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["attribution_report"]

_CANCEROUS = 2  # class id of a patch


def _locate(
    network: LoopNet, image: torch.Tensor, methods: Sequence[str], threshold: float, blank: float | Sequence[float]
) -> dict[str, torch.Tensor]:
    """By LoopNet and each method, the cells of a mosaic called cancerous, bool ``(1, 1, grid, grid)``."""
    with torch.no_grad():
        located = {"LoopNet": network.eval()(image)["p_loc"].argmax(1, keepdim=True) == _CANCEROUS}
    for method in methods:
        map_ = attribute(network, image, method, blank)
        located[method] = (map_ > threshold * map_.amax()) & (map_ > 0)
    return located


def attribution_report(
    network: LoopNet,
    dataset: Dataset,
    output_dir: str | Path,
    methods: Sequence[str] = tuple(METHODS),
    threshold: float = 0.5,
    blank: float | Sequence[float] = 0.0,
    limit: int | None = None,
    device: torch.device | str = "cpu",
    title: str = "Attribution against LoopNet's own cells",
    notes: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Score what attributions find, and what the locating branch finds, on the same grids.

    Our reading of Table 2: a patch is found where its attribution is above ``threshold`` times the mosaic's highest.
    Judged are invaded vessels whose cancerous cells were marked, each with the patches of all its mosaics, as
    :class:`~monai_ext.handlers.VesselReport` does it.

    Writes ``attributions.csv``, ``metrics.json`` (precision, recall and Dice of each method, means over vessels with
    95 % bootstrap intervals over slides) and ``report.html``.

    Args:
        network: LoopNet.
        dataset: gives lists of mosaics as :class:`~monai_ext.transforms.CellGridMosaicd` does, normalised, with
            ``classes``, ``order``, ``missed``, ``label``, ``file`` and, optionally, ``group``.
        output_dir: where the files go.
        methods: of :data:`METHODS`.
        threshold: see above.
        blank: see :func:`attribute`.
        limit: no further vessel after as many mosaics; SS-CAM is slow.
        device: of the network.
        title: of the report.
        notes: further lines for the report.

    Returns:
        A row for each method and vessel.

    Raises:
        InputError: no vessel with marked cells.
    """
    counts: dict[tuple[str, str, str], np.ndarray] = {}  # of each method, group and file
    mosaics = 0
    for batch in tqdm(DataLoader(dataset, batch_size=1), desc="attribution", unit="vessel", disable=None):
        missed = int(batch["missed"].flatten()[0])
        if missed < 0 or float(batch["label"].flatten()[0]) < 0.5:
            continue
        name = str(batch["file"][0])
        group = str(batch["group"][0]) if "group" in batch else without_suffix(name).name
        for image, truth, order in zip(batch["image"], batch["classes"], batch["order"], strict=True):
            used = (order >= 0)[None]  # nothing is found at a blank cell
            for method, grid in _locate(network, image[None].to(device), methods, threshold, blank).items():
                tally = GridLocating()(grid.cpu() & used, truth[None] == _CANCEROUS)[0].numpy()
                counts[method, group, name] = counts.get((method, group, name), 0) + tally
        for method in ("LoopNet", *methods):  # a patch in no mosaic is found by none
            counts[method, group, name][2] += missed
        mosaics += len(batch["image"])
        if limit is not None and mosaics >= limit:
            break
    if not counts:
        raise InputError("centroids", "an invaded vessel whose cancerous cells were marked", "none")
    rows = [(method, Path(name).name, group, *tally) for (method, group, name), tally in counts.items()]
    table = pd.DataFrame(rows, columns=["method", "image", "group", "tp", "fp", "fn"])
    table = table.assign(**grid_locating_scores(table[["tp", "fp", "fn"]].to_numpy()))
    names = ("precision", "recall", "dice")
    metrics = {
        str(method): {name: bootstrap_ci(method_rows[name].to_numpy(), method_rows["group"]) for name in names}
        for method, method_rows in table.groupby("method", sort=False)
    }
    with atomic_path(Path(output_dir) / "attributions.csv") as temporary:
        table.to_csv(temporary, index=False)
    notes = {**(notes or {}), "Found": f"attribution above {threshold:g} of the mosaic's highest"}
    write_metrics(Path(output_dir) / "metrics.json", {**metrics, "vessels": len(rows) // len(metrics), "notes": notes})
    write_report(
        Path(output_dir) / "report.html",
        title=title,
        metrics=metrics,
        tables={"Vessels": table.drop(columns="group")},
        notes=notes,
    )
    return table
