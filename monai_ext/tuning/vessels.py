"""From which probability on a vessel makes its slide one with microvascular invasion (MVI)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from monai_ext.base.errors import InputError
from monai_ext.formats.suffixes import without_suffix
from monai_ext.metrics.verdicts import slide_scores, slide_threshold, verdict_scores
from monai_ext.tuning.common import errors_unwrapped, read_bundle, read_settings, write_tuned

__all__ = ["DEFAULT_VERDICT", "read_verdict", "tune_vessels"]

#: What verdicts use where nothing was tuned: that of a vessel's own diagnosis.
DEFAULT_VERDICT: dict[str, Any] = {"slide_threshold": 0.5}


def read_verdict(path: str | os.PathLike) -> dict[str, Any]:
    """What :func:`tune_vessels` wrote, or the default, with a message, where there is no such file.

    Args:
        path: ``thresholds.json``.

    Returns:
        ``slide_threshold``, 0 to 1, and what else the file tells.

    Raises:
        InputError: the file cannot be read or lacks the threshold.
    """
    return read_settings(path, DEFAULT_VERDICT, "thresholds")


def tune_vessels(
    dataset_dir: str,
    bundle: str = "bundles/pathology_mvi_vessel_classification",
    ckpt_dir: str | None = None,
    output: str | None = None,
    specificity: float = 0.95,
    configs: Sequence[str] = (),
    **overrides: Any,
) -> str:
    """Choose the probability above which one vessel makes a slide's verdict MVI, on the slides of the validation list.

    A slide has many vessels, and each may be a false alarm: with a specificity of .944 for a vessel and 50 healthy
    vessels a slide, 94 % of the slides free of MVI have at least one above it. So the threshold is just so high that
    the chosen share of the validation slides free of MVI is called so
    (:func:`~monai_ext.metrics.verdicts.slide_threshold`). It holds for slides with about as many vessels.

    Args:
        dataset_dir: folder with ``dataset.json``; only its ``validation`` list is read.
        bundle: the bundle's folder.
        ckpt_dir: folder of ``model.pt``; the bundle's ``models`` by default.
        output: file to write; ``<ckpt_dir>/thresholds.json`` by default, where inference and evaluation look. The
            whole sweep goes beside it as ``.csv`` and ``.png``.
        specificity: share of the slides free of MVI that shall be called so.
        configs: further overlays of the bundle, such as ``configs/overlays/network/pretrained.json``.
        **overrides: entries of the configuration, such as ``device``.

    Returns:
        the path of the file.

    Raises:
        InputError: no such bundle or weights, a share outside (0, 1], or no slides of one of the two kinds.
    """
    if not 0 < specificity <= 1:
        raise InputError("tune vessels --specificity", "a share above 0, at most 1", repr(specificity))
    checkpoints = str(ckpt_dir or Path(bundle) / "models")
    changes = {"dataset_dir": dataset_dir, "ckpt_dir": checkpoints, "validate#handlers": []}
    files = ("configs/train.json", "configs/evaluate.json", *configs)
    parser = read_bundle("tune vessels", bundle, files, changes, **overrides)
    with errors_unwrapped():
        parser.get_parsed_content("loaded_network")
        table = _vessel_scores(parser.get_parsed_content("validate#evaluator"))
    slides = slide_scores(table)
    invaded = int((slides["label"] > 0).sum())
    if not 0 < invaded < len(slides):
        found = f"{invaded} with it and {len(slides) - invaded} free"
        raise InputError(str(dataset_dir), "validation slides with MVI and free of it", found)
    threshold = slide_threshold(table, specificity)
    chosen = verdict_scores(table, threshold)
    sweep = _sweep(slides)
    path = Path(output or Path(checkpoints) / "thresholds.json")
    content = {
        "slide_threshold": threshold,
        "wanted_specificity": specificity,
        "validation": {name: chosen[name].to_dict() for name in ("sensitivity", "specificity", "auc")},
        "slides_with_MVI": invaded,
        "slides_free_of_MVI": len(slides) - invaded,
        "vessels_per_slide": float(slides["vessels"].mean()),
    }
    write_tuned(path, content, {"sweep": sweep}, _plot(sweep, threshold))
    told = ", ".join(f"{name} {chosen[name].value:.3f}" for name in ("sensitivity", "specificity", "auc"))
    print(f"{path}: MVI with one vessel above {threshold:.4f}; of {len(slides)} validation slides {told}")
    return str(path)


def _vessel_scores(evaluator: Engine) -> pd.DataFrame:
    """Slide, label and score of each vessel, the highest of its mosaics."""
    rows: list[dict[str, Any]] = []

    def collect(engine: Engine) -> None:
        rows.extend(
            {
                "image": str(batch["file"]),
                "group": str(batch.get("group", without_suffix(batch["file"]).name)),
                "label": int(batch["label"]),
                "score": float(output["score"]),
            }
            for batch, output in zip(engine.state.batch, engine.state.output, strict=True)
        )

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, collect)
    evaluator.run()
    return pd.DataFrame(rows).groupby("image", as_index=False).max()


def _sweep(slides: pd.DataFrame) -> pd.DataFrame:
    """Sensitivity and specificity at every threshold that changes one of them."""
    thresholds = np.unique(np.r_[0.0, slides["score"]])
    above = slides["score"].to_numpy() > thresholds[:, None]
    invaded = slides["label"].to_numpy() > 0
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "sensitivity": above[:, invaded].mean(1),
            "specificity": 1 - above[:, ~invaded].mean(1),
        }
    )


def _plot(sweep: pd.DataFrame, threshold: float) -> Figure:
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axis = figure.subplots()
    for name in ("sensitivity", "specificity"):
        axis.step(sweep["threshold"], sweep[name], where="post", label=name)
    axis.axvline(threshold, color="grey", linestyle=":")
    axis.set(xlabel="probability of the most suspicious vessel", ylabel="share of validation slides", xlim=(0, 1))
    axis.legend()
    return figure
