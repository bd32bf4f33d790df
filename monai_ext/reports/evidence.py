"""Which map finds the evidence? A comparison with intervals, and pictures as in the paper's Fig. 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from monai.data import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from monai_ext.base.colours import to_rgb
from monai_ext.base.files import atomic_path
from monai_ext.base.overlay import overlay
from monai_ext.explain.evidence import EvidenceMap, fusion_options, min_max
from monai_ext.metrics.bootstrap import bootstrap_ci
from monai_ext.metrics.evidence import (
    EvidenceLocalization,
    evidence_mask,
    localization_scores,
    pointing_scores,
)
from monai_ext.reports.evidence_cases import MaskedPositives, PointingCanvases, evidence_judges
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["compare_evidence", "evidence_report", "score_evidence"]

#: The maps by the names that the paper gives them; CAM3 of the last layer is Grad-CAM.
NAMES = {"backprop": "backprop", "cam2": "CAM2", "cam3": "CAM3 (Grad-CAM)", "cam": "CAM", "csm": "CSM", "celm": "CELM"}
_BASELINE = "cam3"
_COUNTS = ["tp", "fp", "positive"]
_SHOWN = ("csm", "cam", "celm")
_YELLOW = (255, 235, 0)
_SIDE, _GAP = 192, 8  # px of a picture in a row and between two


def score_evidence(
    evidence: EvidenceMap,
    cases: MaskedPositives | PointingCanvases,
    settings: Mapping[str, Any],
    share: float = 0.75,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Score every map of every case.

    Args:
        evidence: what makes the maps.
        cases: what they are judged by.
        settings: ``threshold`` and ``smooth`` of the masks and, where maps have their own, ``thresholds`` by map, as
            ``read_evidence`` gives them.
        share: of the 75 % rule.
        batch_size: cases computed together.
        device: of the network.

    Returns:
        a row for each case and map: ``case`` (its index), ``image``, ``group``, ``map``; ``share`` of the evidence in
        the tumour and ``hit``, see :func:`~monai_ext.metrics.evidence.pointing_scores`; ``tp``, ``fp`` and
        ``positive``, see :class:`~monai_ext.metrics.EvidenceLocalization`.

    Raises:
        InputError: a ``share`` outside (0.5, 1].
    """
    rule, tables = EvidenceLocalization(share), []
    for batch in tqdm(DataLoader(cases, batch_size), desc="evidence", unit="batch"):
        names = pd.DataFrame({"image": batch["name"], "group": batch["group"]})
        truth = batch["truth"]
        for name, maps in _maps(evidence, batch["image"].to(device)).items():
            mask = evidence_mask(maps, _threshold(settings, name), settings["smooth"])
            scores = pd.DataFrame(pointing_scores(maps, truth).numpy(), columns=["share", "hit"])
            counts = pd.DataFrame(rule(mask, truth).numpy(), columns=_COUNTS)
            tables.append(pd.concat([names.assign(map=name), scores, counts], axis=1))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "case", table.groupby("map").cumcount())
    return table


def compare_evidence(scores: pd.DataFrame, baseline: str = _BASELINE) -> pd.DataFrame:
    """Compare maps: means with 95 % bootstrap intervals over the positives' groups.

    Args:
        scores: as :func:`score_evidence` gives it.
        baseline: the map whose share is subtracted, case by case.

    Returns:
        a row for each map, by its name in the paper. Its columns are intervals: ``share``, ``hit``, ``gain`` (the share
        minus that of ``baseline``), ``precision``, ``recall``, ``f1``.
    """
    base = scores[scores["map"] == baseline].set_index("case")["share"]
    rows = {}
    for name, table in scores.groupby("map", sort=False):
        groups, counts = table["group"], table[_COUNTS].to_numpy()
        rows[NAMES.get(name, name)] = {
            "share": bootstrap_ci(table["share"].to_numpy(), groups),
            "hit": bootstrap_ci(table["hit"].to_numpy(), groups),
            "gain": bootstrap_ci((table.set_index("case")["share"] - base).loc[table["case"]].to_numpy(), groups),
            **{
                score: bootstrap_ci(counts, groups, lambda sums, s=score: localization_scores(sums)[s])
                for score in ("precision", "recall", "f1")
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("map")


def evidence_report(
    network: nn.Module,
    dataset: Dataset,
    output_dir: str | Path,
    evidence: Mapping[str, Any],
    layers: Mapping[str, Any] | None = None,
    seed: int = 0,
    limit: int | None = None,
    repeats: int = 1,
    share: float = 0.75,
    batch_size: int = 8,
    cases: int = 4,
    title: str = "Evidence localisation",
    notes: Mapping[str, Any] | None = None,
) -> str:
    """Compare the maps of a network on a data set and write the results.

    Writes into ``output_dir``: ``evidence.csv``, the scores of every case and map; ``metrics.json``; ``report.html``.
    Where positives have masks of tumour and normal tissue, these judge; where there are eight negatives or more, the
    grid pointing game is played too. With both, precision and recall are of the masks alone.

    Args:
        network: on its device.
        dataset: as of :class:`~monai_ext.reports.evidence_cases.PointingCanvases`.
        output_dir: where the files go.
        evidence: ``alpha``, ``beta``, ``sigma``, ``saliency``, ``threshold``, ``thresholds`` and ``smooth``, as
            ``read_evidence`` gives them.
        layers: ``fine``, ``coarse`` and ``class_idx`` of :class:`~monai_ext.explain.EvidenceMap`, if not CELNet's.
        seed: of the canvases, and of the choice among more than ``limit`` positives.
        limit: most positives used; ``None`` for all.
        repeats: canvases of each positive.
        share: of the 75 % rule.
        batch_size: images, or canvases of nine, computed together.
        cases: number of best and of worst cases shown.
        title: the report's title.
        notes: further lines for the report: data, weights.

    Returns:
        the path of the report.

    Raises:
        InputError: no masks, and no positive or fewer than eight negative images.
    """
    output_dir = Path(output_dir)
    device = next(network.parameters()).device
    maps = EvidenceMap(network, **(layers or {}), **fusion_options(evidence))
    judges = evidence_judges(dataset, seed, limit, repeats)
    scores = {name: score_evidence(maps, judge, evidence, share, batch_size, device) for name, judge in judges.items()}
    compared = {name: compare_evidence(table) for name, table in scores.items()}
    if len(compared) > 1:  # masks are the better judge of masks
        compared["pointing game"] = compared["pointing game"].drop(columns=["precision", "recall", "f1"])

    with atomic_path(output_dir / "evidence.csv") as temporary:
        pd.concat(scores, names=["judge"]).reset_index("judge").to_csv(temporary, index=False)
    first = next(iter(judges))
    settings = {**fusion_options(evidence), "threshold": evidence["threshold"], "smooth": evidence["smooth"]}
    notes = {
        **(notes or {}),
        "Settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
        **{f"Cases, {name}": len(judge) for name, judge in judges.items()},
    }
    rows = {name: table.to_dict("index") for name, table in compared.items()}
    write_metrics(output_dir / "metrics.json", {**rows, "settings": dict(evidence), "notes": notes})
    write_report(
        output_dir / "report.html",
        title=title,
        metrics={f"CELM, {name}": rows[name][NAMES["celm"]] for name in rows},
        tables={f"Maps, {name} (95 % intervals)": table for name, table in compared.items()},
        cases=_pictures(maps, judges[first], scores[first], evidence, cases),
        notes=notes,
    )
    for name, table in compared.items():
        columns = ["precision", "recall"] if name == "masks" else ["share", "hit"]
        means = [", ".join(f"{c} {table.loc[NAMES[m], c].value:.3f}" for c in columns) for m in ("celm", _BASELINE)]
        print(f"{output_dir / 'report.html'}: {name}: CELM {means[0]}; Grad-CAM {means[1]}")
    return str(output_dir / "report.html")


def _threshold(settings: Mapping[str, Any], name: str) -> float:
    return settings.get("thresholds", {}).get(name, settings["threshold"])


def _maps(evidence: EvidenceMap, image: Tensor) -> dict[str, Tensor]:
    """Every map of a batch on the CPU; CAM is left out where it is CAM3."""
    maps = {"backprop": evidence.backprop(image), **evidence(image)}
    return {name: maps[name].cpu() for name in NAMES if name in maps and (name != "cam" or "cam2" in maps)}


def _pictures(
    evidence: EvidenceMap,
    judge: MaskedPositives | PointingCanvases,
    scores: pd.DataFrame,
    settings: Mapping[str, Any],
    count: int,
) -> dict[str, list[tuple[np.ndarray, str]]]:
    """The cases with the smallest and the largest share of CELM in the tumour."""
    ranked = scores[scores["map"] == "celm"].sort_values("share", kind="stable")
    chosen = {"Worst cases": ranked.head(count), "Best cases": ranked.iloc[count:].iloc[::-1].head(count)}
    what = "input, CSM, CAM, CELM, localised evidence, truth"
    device = next(evidence.network.parameters()).device
    return {
        heading: [(_row(evidence, judge[row.case], settings, device), _caption(row, what)) for row in rows.itertuples()]
        for heading, rows in chosen.items()
        if len(rows)
    }


def _caption(row: Any, what: str) -> str:
    return f"{row.image}: {row.share:.2f} of CELM in the tumour ({what})"


def _row(
    evidence: EvidenceMap, case: Mapping[str, Any], settings: Mapping[str, Any], device: torch.device
) -> np.ndarray:
    """One row of the paper's Fig. 2: input, CSM, CAM, CELM, localised evidence, truth."""
    maps = evidence(case["image"][None].to(device))
    mask = evidence_mask(maps["celm"].cpu(), _threshold(settings, "celm"), settings["smooth"])[0, 0].numpy()
    tissue, truth = _scaled(to_rgb(case["source"], 0)), case["truth"][0].numpy()
    greys = [np.rint(min_max(maps[name])[0, 0].cpu().numpy() * 255).astype(np.uint8) for name in _SHOWN]
    heats = [cv2.applyColorMap(_scaled(grey), cv2.COLORMAP_INFERNO)[..., ::-1] for grey in greys]
    outline = {"labels": _scaled(mask.astype(np.uint8)), "classes": ["evidence"], "colours": {"evidence": _YELLOW}}
    localised = overlay(tissue, **outline, thickness=1, channel_dim=-1)
    white = np.repeat(_scaled(truth * np.uint8(255))[..., None], 3, axis=-1)
    parts = [tissue, *heats, localised, white]
    gap = np.full((len(tissue), _GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)


def _scaled(picture: np.ndarray) -> np.ndarray:
    factor = _SIDE / max(picture.shape[:2])
    smooth = picture.ndim == 3 and factor < 1
    return cv2.resize(
        picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    )
