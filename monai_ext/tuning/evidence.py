"""How CELM's maps are fused and cut (Huang and Chung 2019, sections 2.2 and 3.3), which the paper leaves open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.base.smoothing import gaussian_smooth
from monai_ext.explain.evidence import EvidenceMap, check_settings, fuse_evidence, grey_saliency, min_max
from monai_ext.metrics.evidence import (
    EvidenceLocalization,
    evidence_mask,
    pointing_scores,
)
from monai_ext.reports.evidence_cases import MaskedPositives, PointingCanvases, evidence_judges
from monai_ext.tuning.common import central_choice, errors_unwrapped, grid, read_bundle, read_settings, write_tuned

__all__ = ["DEFAULT_EVIDENCE", "read_evidence", "tune_evidence"]

#: What is used where nothing was tuned. The paper states none of these numbers.
DEFAULT_EVIDENCE: dict[str, Any] = {
    "alpha": 0.5,
    "beta": 0.5,
    "sigma": 2.0,
    "saliency": "minmax",
    "threshold": 0.5,
    "smooth": 2.0,
}
_FUSION = ["alpha", "beta", "sigma"]
_CONFIGS = ("configs/train.json", "configs/evaluate.json", "configs/overlays/evaluation/evaluate_evidence.json")


def read_evidence(path: str | os.PathLike) -> dict[str, Any]:
    """What :func:`tune_evidence` wrote, or the defaults, with a message, where there is no such file.

    Args:
        path: ``evidence.json``.

    Returns:
        ``alpha``, ``beta``, ``sigma`` (px) and ``saliency`` of the fusion; ``threshold`` and ``smooth`` (px) of CELM's
        masks; and what else the file tells, as ``thresholds``, those of every map.

    Raises:
        InputError: the file cannot be read, lacks one of these or has one outside its range.
    """
    settings = read_settings(path, DEFAULT_EVIDENCE, "evidence settings")
    check_settings(settings, f"{path}: ")
    return settings


def tune_evidence(
    dataset_dir: str,
    bundle: str = "bundles/pathology_metastasis_evidence_localization",
    ckpt_dir: str | None = None,
    output: str | None = None,
    alphas: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    betas: Sequence[float] = (0, 0.25, 0.5, 0.75, 0.9, 1),
    sigmas: Sequence[float] = (1, 2, 4),
    saliencies: Sequence[str] = ("minmax", "abs"),
    thresholds: Sequence[float] = (0.05, 0.95, 0.05),
    smooth: float = 2.0,
    share: float = 0.75,
    limit: int = 128,
    repeats: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    configs: Sequence[str] = (),
    **overrides: Any,
) -> str:
    """Find CELM's alpha, beta, sigma and the masks' thresholds on the validation list.

    The fusion first. Where positives have masks of tumour and normal tissue, it is judged by F1 of the 75 % rule at its
    best threshold. Else by the grid pointing game: the mean share of the evidence on the one positive tile of a canvas.
    Then the threshold of every map, by F1 of the 75 % rule; without masks the positive tile is the tumour. Of all
    settings that are as good as the best within its standard error the most central one is taken; see
    :func:`~monai_ext.tuning.common.central_choice`.

    A map is stretched to [0, 1] on the whole image. On a canvas, of which at most a ninth is tumour, a threshold cuts
    other things than on a patch full of it: thresholds found without masks are the weaker ones.

    Args:
        dataset_dir: folder with ``dataset.json``; only its ``validation`` list is read.
        bundle: the bundle's folder.
        ckpt_dir: folder of ``model.pt``; the bundle's ``models`` by default.
        output: file to write; ``<ckpt_dir>/evidence.json`` by default, where inference and evaluation look. The sweeps
            go beside it: ``_sweep.csv`` (fusion), ``_thresholds.csv``, ``_sweep.png``.
        alphas: shares of the coarse map to try.
        betas: shares of the product to try.
        sigmas: smoothings of the saliency to try, px.
        saliencies: ways to normalise the gradient to try, ``"minmax"`` (the paper's words) and ``"abs"``.
        thresholds: first, last and step, in shares of a map's maximum.
        smooth: of the masks, px; see :func:`~monai_ext.metrics.evidence_mask`.
        share: of the 75 % rule.
        limit: most positives used, drawn by ``seed``.
        repeats: canvases of each positive.
        seed: of the positives drawn and of the canvases.
        batch_size: images, or canvases of nine, computed together.
        configs: further overlays of the bundle, such as ``configs/overlays/network/resnet18.json``.
        **overrides: entries of the configuration, such as ``device``.

    Returns:
        the path of the file.

    Raises:
        InputError: no such bundle or weights, too few images, or values outside their range.
    """
    alphas, betas, sigmas = map(_to_try, _FUSION, (alphas, betas, sigmas))
    saliencies, levels = _to_try("saliency", saliencies), _to_try("threshold", grid(thresholds, "thresholds"))
    _to_try("smooth", smooth)
    checkpoints = str(ckpt_dir or Path(bundle) / "models")
    files = (*_CONFIGS, *configs)
    changes = {"dataset_dir": dataset_dir, "ckpt_dir": checkpoints}
    parser = read_bundle("tune evidence", bundle, files, changes, **overrides)
    with errors_unwrapped():
        network = parser.get_parsed_content("loaded_network")
        evidence = EvidenceMap(network, **parser.get_parsed_content("evidence_layers"))
        judges = evidence_judges(parser.get_parsed_content("validate#dataset"), seed, limit, repeats)
        judged_by, cases = next(iter(judges.items()))
        parts = _ingredients(evidence, cases, batch_size, parser.get_parsed_content("device"), saliencies)
    masks = judged_by == "masks"

    def cut(maps: Tensor) -> pd.DataFrame:
        rows = []
        for level in levels:
            rule = EvidenceLocalization(share)
            rule(evidence_mask(maps, level, smooth), parts["truth"])
            rows.append({"threshold": level, **{name: score.item() for name, score in rule.aggregate().items()}})
        return pd.DataFrame(rows)

    fusions = pd.DataFrame(
        list(product(saliencies, sigmas, alphas if "cam2" in parts else [1], betas)),
        columns=["saliency", "sigma", "alpha", "beta"],
    )
    if masks:
        best = [cut(_fused(parts, row)["celm"])["f1"].max() for row in _rows(fusions, "fusions")]
        fusions["score"] = best
        fusions["error"] = [_binomial_error(value, len(cases)) for value in best]
    else:
        shares = np.array(list(_shares(parts, fusions)))
        fusions["score"], fusions["error"] = shares.mean(1), shares.std(1) / np.sqrt(len(cases))
    fusion = central_choice(
        fusions, "score", fusions.loc[fusions["score"].idxmax(), "error"], over=_FUSION, kind="saliency"
    )

    maps = _fused(parts, fusion)
    cuts = {name: cut(one) for name, one in maps.items()}
    chosen = {
        name: central_choice(table, "f1", _binomial_error(table["f1"].max(), len(cases)), over=["threshold"])
        for name, table in cuts.items()
    }

    path = Path(output or Path(checkpoints) / "evidence.json")
    score = "f1" if masks else "share"
    content = {
        **{name: round(float(fusion[name]), 4) for name in _FUSION},
        "saliency": fusion["saliency"],
        "threshold": round(float(chosen["celm"]["threshold"]), 4),
        "smooth": float(smooth),
        "thresholds": {name: round(float(row["threshold"]), 4) for name, row in chosen.items()},
        "validation": {
            **dict(zip(("share", "hit"), pointing_scores(maps["celm"], parts["truth"]).mean(0).tolist(), strict=True)),
            **{name: float(chosen["celm"][name]) for name in ("f1", "precision", "recall")},
        },
        "judged_by": judged_by,
        "images": len(cases),
        "seed": seed,
    }
    tables = {"sweep": fusions, "thresholds": pd.concat(cuts, names=["map"]).reset_index("map")}
    write_tuned(path, content, tables, _plot(fusions, fusion, tables["thresholds"], chosen["celm"], score))
    settings = ", ".join(f"{name} {content[name]}" for name in (*_FUSION, "saliency", "threshold"))
    print(f"{path}: {settings}; {score} {fusion['score']:.3f} on {len(cases)} images, judged by {judged_by}")
    return str(path)


def _to_try(name: str, values: Any) -> list[Any]:
    """Values of one setting, checked; the command line gives a single one without brackets."""
    values = [values] if np.isscalar(values) else list(values)
    for value in values:
        check_settings({name: value}, "tune evidence: ")
    if not values:
        raise InputError(f"tune evidence: {name}", "values to try", "none")
    return values


def _binomial_error(share: float, count: int) -> float:
    return float(np.sqrt(share * (1 - share) / max(1, count)))


def _rows(table: pd.DataFrame, what: str) -> Iterator[dict[str, Any]]:
    return iter(tqdm(table.to_dict("records"), desc=what, unit="fusion"))


def _ingredients(
    evidence: EvidenceMap,
    cases: MaskedPositives | PointingCanvases,
    batch_size: int,
    device: torch.device,
    saliencies: Sequence[str],
) -> dict[str, Tensor]:
    """Of all cases, once: activation maps, grey saliencies not yet smoothed, plain backpropagation, truth."""
    parts: dict[str, list[Tensor]] = {}
    for batch in tqdm(DataLoader(cases, batch_size), desc="validation images", unit="batch"):
        image = batch["image"].to(device)
        ingredients = evidence.ingredients(image)
        gradient = ingredients.pop("gradient")
        ingredients |= {f"saliency_{name}": grey_saliency(gradient, name) for name in saliencies}
        ingredients |= {"backprop": evidence.backprop(image), "truth": batch["truth"]}
        for name, value in ingredients.items():
            parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def _fused(parts: Mapping[str, Tensor], fusion: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every map of every case by one way of fusing them."""
    settings = {name: fusion[name] for name in _FUSION}
    fused = fuse_evidence(parts["cam3"], parts.get("cam2"), parts[f"saliency_{fusion['saliency']}"], **settings)
    plain = {name: parts[name] for name in ("backprop", "cam2", "cam3") if name in parts}
    return {**plain, **(fused if "cam2" in parts else {name: fused[name] for name in ("csm", "celm")})}


def _shares(parts: Mapping[str, Tensor], fusions: pd.DataFrame) -> Iterator[np.ndarray]:
    """For each fusion, the share of every canvas's evidence that lies on its positive tile, (canvases,).

    CELM is linear in the activation maps and in their products with the saliency, so their sums inside and outside the
    tile tell the shares of all alphas and betas.
    """
    truth = parts["truth"]
    cams = [parts[name] for name in ("cam3", "cam2") if name in parts]
    plain = _sums(cams, truth)
    for (saliency, sigma), group in fusions.groupby(["saliency", "sigma"], sort=False):
        csm = min_max(gaussian_smooth(parts[f"saliency_{saliency}"], sigma))
        times = _sums([cam * csm for cam in cams], truth)
        for alpha, beta in group[["alpha", "beta"]].to_numpy():
            weights = np.array([alpha, 1 - alpha])[: len(cams), None, None]
            inside, total = (weights * (beta * times + (1 - beta) * plain)).sum(0)
            yield inside / np.where(total > 0, total, 1)


def _sums(maps: Sequence[Tensor], truth: Tensor) -> np.ndarray:
    """Of each map inside ``truth`` and altogether: (maps, 2, cases)."""
    sums = [
        torch.stack(
            [torch.where(truth, m, 0).flatten(1).sum(1, dtype=torch.float64), m.flatten(1).sum(1, dtype=torch.float64)]
        )
        for m in maps
    ]
    return torch.stack(sums).numpy()


def _plot(fusions: pd.DataFrame, fusion: pd.Series, cuts: pd.DataFrame, cut: pd.Series, score: str) -> Figure:
    """The score against each number of the fusion, the others kept; precision, recall and F1 against the threshold."""
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    *axes, last = figure.subplots(1, len(_FUSION) + 1)
    same = fusions[fusions["saliency"] == fusion["saliency"]]
    for axis, name in zip(axes, _FUSION, strict=True):
        others = [other for other in _FUSION if other != name]
        line = same[(same[others] == fusion[others]).all(axis=1)]
        axis.errorbar(line[name], line["score"], line["error"], marker="o", markersize=3, capsize=2)
        axis.axvline(fusion[name], color="grey", linestyle=":")
        axis.set(xlabel=name, ylabel=f"{score} on the validation list", title=f"saliency {fusion['saliency']}")
    celm = cuts[cuts["map"] == "celm"]
    for name in ("precision", "recall", "f1"):
        last.plot(celm["threshold"], celm[name], label=name)
    last.axvline(cut["threshold"], color="grey", linestyle=":")
    last.set(xlabel="threshold", title="masks of CELM", ylim=(0, 1))
    last.legend(frameon=False)
    return figure
