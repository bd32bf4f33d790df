"""How a probability map of nuclei becomes instances, and which instances are too small to count."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.utils import convert_to_numpy
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.metrics.instance import AggregatedJaccardIndex, PanopticQuality, panoptic_scores
from monai_ext.transforms.instances import NucleusInstances
from monai_ext.transforms.whole_instances import WholeInstances
from monai_ext.tuning.common import central_choice, errors_unwrapped, grid, read_bundle, read_settings, write_tuned

__all__ = [
    "DEFAULT_FLOOR",
    "DEFAULT_INSTANCES",
    "DEFAULT_LEAST_AREA",
    "read_floor",
    "read_instances",
    "read_least_area",
    "tune_instances",
]

#: What inference and evaluation use where nothing was tuned: the defaults of ``NucleusInstances``.
DEFAULT_INSTANCES: dict[str, float] = {
    "threshold": 0.5,
    "min_area_um2": 10.0,
    "max_hole_um2": 3.0,
    "sigma_um": 0.5,
    "depth_um": 0.125,
}
#: The same for networks that give instances themselves.
DEFAULT_LEAST_AREA: dict[str, float] = {"min_area_um2": 4.5}
#: The same for Otsu's threshold in a network's place: what is thresholded, and how far it is blurred.
DEFAULT_FLOOR: dict[str, Any] = {**DEFAULT_INSTANCES, "channel": "grey", "blur_um": 0.25}
_SWEPT = ("threshold", "min_area_um2", "sigma_um", "depth_um")
_AREAS, _AREAS_ALONE = (1, 10, 3), (0, 15, 0.5)  # um2: first, last, step


def read_instances(path: str | os.PathLike) -> dict[str, Any]:
    """The settings that :func:`tune_instances` wrote, or the defaults, with a message, where there is no such file.

    Args:
        path: ``instances.json``.

    Returns:
        the arguments of :class:`~monai_ext.transforms.NucleusInstances`, and what else the file tells.

    Raises:
        InputError: the file lacks one of them.
    """
    return read_settings(path, DEFAULT_INSTANCES, "settings of instances")


def read_least_area(path: str | os.PathLike) -> dict[str, Any]:
    """As :func:`read_instances`, where a network gives instances itself: ``min_area_um2``."""
    return read_settings(path, DEFAULT_LEAST_AREA, "settings of instances")


def read_floor(path: str | os.PathLike) -> dict[str, Any]:
    """As :func:`read_instances`, for :class:`~monai_ext.networks.nets.OtsuMap`: with ``channel`` and ``blur_um``."""
    return read_settings(path, DEFAULT_FLOOR, "settings of the floor")


def tune_instances(
    dataset_dir: str | Sequence[str],
    bundle: str = "bundles/pathology_cell_semantic_segmentation",
    ckpt_dir: str | None = None,
    output: str | None = None,
    thresholds: Sequence[float] = (0.3, 0.7, 0.1),
    areas: Sequence[float] | None = None,
    sigmas: Sequence[float] = (0, 0.5, 0.125),
    depths: Sequence[float] = (0.0625, 0.25, 0.0625),
    score: str | None = None,
    configs: Sequence[str] = (),
    variants: Mapping[str, Sequence[Any]] | None = None,
    **overrides: Any,
) -> str:
    """Sweep the settings of :class:`~monai_ext.transforms.NucleusInstances` on the validation list.

    Of a bundle whose network gives instances itself, such as ``bundles/pathology_nuclei_instance_segmentation``, it is
    the least area alone, of :class:`~monai_ext.transforms.WholeInstances`. An image of unknown resolution counts as
    being at ``target_mpp``: there the area is one in px of the network's grid.

    Of all settings that are as good as the best within the standard error over images the most central one is taken;
    see :func:`~monai_ext.tuning.common.central_choice`.

    Args:
        dataset_dir: folder with ``dataset.json``, or several; only the ``validation`` lists are read.
        bundle: the bundle's folder.
        ckpt_dir: folder of ``model.pt``; the bundle's ``models`` by default.
        output: file to write; by default where evaluation looks for it (``instances_file`` of the configuration), which
            is ``<ckpt_dir>/instances.json`` but for the floor. The whole sweep goes beside it as ``.csv`` and ``.png``.
        thresholds: first, last and step of the probability.
        areas: the same of the smallest instance, um2; default ``(1,10,3)``, alone ``(0,15,0.5)``.
        sigmas: of the smoothing of distances, um.
        depths: of the pass that parts two nuclei, um.
        score: ``aji`` or ``pq``, mean over images; default ``aji``. For the least area alone ``pq``, which counts
            objects: AJI sums areas and hardly sees a speck.
        configs: further overlays of the bundle.
        variants: entries of the configuration that are swept as well, each with its values, such as those of a floor:
            ``{'channel':['grey','hematoxylin'],'blur_um':[0,0.25,0.5]}``. They are written beside the others; of names,
            which have no middle, that of the best setting is taken.
        **overrides: entries of the configuration, such as ``device``.

    Returns:
        the path of the file.

    Raises:
        InputError: no such bundle, weights or score; variants that are not lists of values.
    """
    combinations = _variants(variants)
    files = ("configs/train.json", "configs/evaluate.json", *configs)
    changes = {"dataset_dir": dataset_dir, "ckpt_dir": str(ckpt_dir or Path(bundle) / "models")}
    parser = read_bundle("tune instances", bundle, files, changes, **{**overrides, **combinations[0]})
    path = Path(output or parser.get_parsed_content("instances_file"))
    alone = parser.get("keep_whole") is not None
    score = score or ("pq" if alone else "aji")
    if score not in ("aji", "pq"):
        raise InputError("tune instances --score", "aji or pq", repr(score))
    areas = areas or (_AREAS_ALONE if alone else _AREAS)
    limits = {"thresholds": thresholds, "areas": areas, "sigmas": sigmas, "depths": depths}
    swept = ("min_area_um2",) if alone else _SWEPT
    axes = [grid(limits[name], name) for name in (("areas",) if alone else limits)]
    settings = [dict(zip(swept, map(float, values), strict=True)) for values in itertools.product(*axes)]
    by_variant = []
    for variant in combinations:
        parser.update(variant)
        parser.parse(True)
        with errors_unwrapped():
            by_variant.append(np.stack(list(_scores(parser, settings, alone))))
    scores = np.concatenate(by_variant, axis=1)  # images, settings, (AJI, PQ)
    swept = (*combinations[0], *swept)
    settings = [{**variant, **each} for variant in combinations for each in settings]
    table = pd.DataFrame(settings).round(6).assign(aji=scores[..., 0].mean(0), pq=scores[..., 1].mean(0))
    chosen = _choose(table, scores[..., ("aji", "pq").index(score)], score, swept)

    content = {
        **({} if alone else DEFAULT_INSTANCES),
        **{name: chosen[name] for name in swept},
        "validation": {name: round(float(chosen[name]), 4) for name in ("aji", "pq")},
        "chosen_by": score,
        "images": len(scores),
    }
    write_tuned(path, content, {"sweep": table}, _plot(table, chosen, score, swept))
    summary = ", ".join(f"{name} {chosen[name]}" for name in swept)
    print(f"{path}: {summary}; AJI {chosen['aji']:.3f}, PQ {chosen['pq']:.3f} on {len(scores)} images")
    return str(path)


def _variants(variants: Mapping[str, Sequence[Any]] | None) -> list[dict[str, Any]]:
    """Every combination of their values; of none, the one that changes nothing."""
    variants = variants or {}
    if not isinstance(variants, Mapping) or not all(isinstance(v, list | tuple) and v for v in variants.values()):
        raise InputError("variants", "lists of values by entry, as {'blur_um':[0.25,0.5]}", repr(variants))
    return [dict(zip(variants, values, strict=True)) for values in itertools.product(*variants.values())]


def _scores(parser: ConfigParser, settings: Sequence[dict[str, float]], alone: bool) -> Iterator[np.ndarray]:
    """For each validation image, AJI and PQ of every setting, ``(settings, 2)``."""
    network = parser.get_parsed_content("loaded_network").eval()
    device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
    target = parser.get_parsed_content("target_mpp")
    hole = DEFAULT_INSTANCES["max_hole_um2"]
    finders = [WholeInstances(**each) if alone else NucleusInstances(max_hole_um2=hole, **each) for each in settings]
    for item in tqdm(parser.get_parsed_content("validate#dataset"), desc="validation images", unit="image"):
        with torch.no_grad():
            image = torch.as_tensor(item["image"])[None].to(device)
            prediction = inferer(image, network)
        prediction = prediction["instances"][0].cpu() if alone else prediction.sigmoid()[0].float().cpu()
        mpp = getattr(item["source"], "meta", {}).get("mpp") or target
        truth = convert_to_numpy(item["truth"]).astype(np.int64)
        yield np.array([_score(finder(prediction, mpp=float(mpp)).numpy(), truth) for finder in finders])


def _score(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    counts = PanopticQuality()(predicted[None], truth[None])[0, 0]
    return AggregatedJaccardIndex()(predicted[None], truth[None]).item(), panoptic_scores(counts)["pq"].item()


def _choose(table: pd.DataFrame, scores: np.ndarray, name: str, swept: Sequence[str] = _SWEPT) -> pd.Series:
    """The most central setting among those whose paired difference from the best is within its standard error."""
    best = table[name].argmax()
    difference = scores[:, [best]] - scores  # paired: images differ far more than settings do
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
    as_good = difference.mean(axis=0) <= error
    numbers = [each for each in swept if pd.api.types.is_numeric_dtype(table[each])]
    for each in set(swept) - set(numbers):  # names have no middle
        as_good &= table[each] == table[each].iloc[best]
    return central_choice(table[as_good], name, np.inf, over=numbers)


def _plot(table: pd.DataFrame, chosen: pd.Series, score: str, swept: Sequence[str]) -> Figure:
    """The score against each setting, the others kept."""
    figure = Figure(figsize=(max(4, 3 * len(swept)), 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(swept), sharey=True, squeeze=False)[0], swept, strict=True):
        others = [other for other in swept if other != name]
        line = table[(table[others] == chosen[others]).all(axis=1)]
        axis.plot(line[name], line[score], marker=".")
        axis.axvline(chosen[name], color="grey", linestyle=":")
        axis.set(xlabel=name, ylabel=f"{score.upper()} on the validation list")
    return figure
