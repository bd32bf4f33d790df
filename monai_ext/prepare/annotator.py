"""An automatic annotator like QuPath's classifier: hand-made features into a small network, trained on few labels.

With few labels and few features it makes weak synthetic annotations (``wsa``) of a set of nuclei, with more of both
strong ones (``ssa``): what the knowledge distillation bundle learns from where none exist.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.base.stain import HE_STAINS
from monai_ext.data.datalist import load_datalist
from monai_ext.data.nuclei import (
    BACKGROUND,
    PLACE,
    NucleusPatches,
    check_nuclei_item,
    read_class_names,
    read_nuclei,
    read_patches,
)

__all__ = ["FEATURES", "NucleusClassifier", "annotate", "nucleus_features"]

#: Names of the columns that :func:`nucleus_features` returns.
FEATURES = (
    *(f"{what}_{channel}" for what in ("mean", "std", "min", "max") for channel in ("r", "g", "b", "h", "e")),
    *(f"around_{channel}" for channel in ("r", "g", "b", "h", "e")),
    "area", "eccentricity", "circularity",
)  # fmt: skip
_FEW = ("mean_h", "mean_e", "area")
_PARTS = ("training", "validation", "test")
_CHUNK = 4096
_HIDDEN = 16
_STEPS = 100
_RATE, _DECAY = 0.01, 0.1


def nucleus_features(patches: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
    """Colour and shape statistics of nuclei, such as QuPath's classifiers take.

    Mean, standard deviation, minimum and maximum of red, green, blue (0 to 1) and of the densities of hematoxylin and
    eosin (Ruifrok's stains) inside the nucleus, their means around it, its area (share of the patch), eccentricity and
    circularity. Without masks, colours are those of the central disc, half the patch across, and the shape is that of
    its pixels with more hematoxylin than the patch's mean.

    Args:
        patches: uint8 ``(N, S, S, 3)`` RGB, a nucleus in the middle of each.
        masks: bool ``(N, S, S)``, its pixels.

    Returns:
        float32 ``(N, 28)``, columns as in :data:`FEATURES`.
    """
    count, side = patches.shape[:2]
    rgb = patches.astype(np.float32) / 255
    density = -np.log(np.maximum(rgb, 1 / 255))
    stains = np.maximum(density @ np.linalg.pinv(np.array(HE_STAINS, dtype=np.float32)).T, 0)
    channels = np.concatenate([rgb, stains], axis=-1).reshape(count, side * side, 5)
    offsets = np.arange(side, dtype=np.float32) - (side - 1) / 2
    distance = np.hypot(offsets[:, None], offsets)
    if masks is None:
        disc = np.broadcast_to(distance <= side / 4, (count, side, side))
        shape = (stains[..., 0] > stains[..., 0].mean(axis=(1, 2), keepdims=True)) & (distance <= side / 2)
    else:
        disc = shape = masks
    inside = disc.reshape(count, side * side, 1)
    number = np.maximum(inside.sum(axis=1), 1)
    mean = (channels * inside).sum(axis=1) / number
    around = (channels * ~inside).sum(axis=1) / np.maximum((~inside).sum(axis=1), 1)
    std = np.sqrt((((channels - mean[:, None]) ** 2) * inside).sum(axis=1) / number)
    low = np.where(inside, channels, np.inf).min(axis=1)
    high = np.where(inside, channels, -np.inf).max(axis=1)
    columns = [mean, std, np.where(np.isfinite(low), low, 0), np.where(np.isfinite(high), high, 0), around]
    return np.concatenate([*columns, _shapes(shape, offsets)], axis=1).astype(np.float32)


def _shapes(masks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """``(N, 3)``: area, eccentricity of the ellipse of the same moments, circularity."""
    area = np.maximum(masks.sum(axis=(1, 2)), 1).astype(np.float32)
    by_row, by_col = masks.sum(axis=2) @ offsets / area, masks.sum(axis=1) @ offsets / area
    rows = masks.sum(axis=2) @ offsets**2 / area - by_row**2
    cols = masks.sum(axis=1) @ offsets**2 / area - by_col**2
    both = np.einsum("nij,i,j->n", masks, offsets, offsets) / area - by_row * by_col
    root = np.sqrt((rows - cols) ** 2 + 4 * both**2)
    longest, shortest = (rows + cols + root) / 2 + 1 / 12, (rows + cols - root) / 2 + 1 / 12  # a pixel has an extent
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    edges = sum((padded != np.roll(padded, 1, axis)).sum(axis=(1, 2)) for axis in (1, 2))
    # the outline along pixels' edges is 4 / pi longer than a round one
    circularity = 4 * np.pi * area / np.maximum(edges * np.pi / 4, 1) ** 2
    eccentricity = np.sqrt(np.clip(1 - shortest / longest, 0, 1))
    return np.stack([area / len(offsets) ** 2, eccentricity, circularity], axis=1)


class NucleusClassifier:
    """A network of one hidden layer over standardised features, as QuPath's artificial neural network is.

    Args:
        classes: how many.
        features: columns of :func:`nucleus_features` to look at; ``"few"`` (hematoxylin, eosin, area) or ``"all"``.
        seed: of the first weights.
    """

    def __init__(self, classes: int, features: str = "all", seed: int = 0) -> None:
        if features not in ("few", "all"):
            raise InputError("features", "'few' or 'all'", repr(features))
        self.columns = [index for index, name in enumerate(FEATURES) if features == "all" or name in _FEW]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = nn.Linear(len(self.columns), _HIDDEN)
            self.network = nn.Sequential(hidden, nn.Tanh(), nn.Linear(_HIDDEN, classes))

    def fit(self, patches: np.ndarray, labels: np.ndarray) -> NucleusClassifier:
        """Train on patches uint8 ``(N, S, S, 3)`` and their classes ``(N,)``, all at once, for 100 steps of AdamW."""
        inputs = nucleus_features(patches)[:, self.columns]
        self.mean, self.scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-6)
        inputs, targets = self._tensor(inputs), torch.as_tensor(labels, dtype=torch.int64)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=_RATE, weight_decay=_DECAY)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.network(inputs), targets).backward()
            optimizer.step()
        return self

    def predict(self, patches: np.ndarray) -> np.ndarray:
        """The class ``(N,)`` int64 of each patch."""
        classes = [np.empty(0, np.int64)]
        for start in range(0, len(patches), _CHUNK):
            inputs = self._tensor(nucleus_features(np.asarray(patches[start : start + _CHUNK]))[:, self.columns])
            with torch.no_grad():
                classes.append(self.network(inputs).argmax(dim=1).numpy())
        return np.concatenate(classes)

    def _tensor(self, inputs: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((inputs - self.mean) / self.scale)


def annotate(
    dataset_dir: str | os.PathLike,
    column: str,
    source: str = "ea",
    *,
    per_class: int = 50,
    features: str = "all",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Add a column of automatic annotations to a data set of nuclei.

    The annotator learns from ``per_class`` nuclei of each class of the training part; then every nucleus gets its
    class, but ``background`` stays background. What it was and its agreement with ``source`` go to ``dataset.json``
    under ``annotators``.

    Args:
        dataset_dir: the data set's folder (:mod:`monai_ext.data.nuclei`).
        column: the column to write, ``wsa`` or ``ssa``; letters.
        source: the column to learn from; ``--from`` on the command line.
        per_class: how many labels of each class.
        features: ``"few"`` for a weak annotator, ``"all"`` for a strong one.
        seed: of the draw and of the first weights.
        overwrite: replace the column.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: a column that is there already or cannot be, or too few labels.
    """
    folder, overwrite = Path(dataset_dir), as_flag(overwrite, "overwrite")
    if not isinstance(column, str) or not column.isalpha() or column in (*PLACE, source):
        raise InputError("column", f"a name of letters, but not {', '.join(PLACE)} or {source}", repr(column))
    names = read_class_names(folder)
    path = folder / "dataset.json"
    content = orjson.loads(path.read_bytes())
    parts = [part for part in _PARTS if part == "training" or content.get(part)]
    lists = load_datalist(folder, parts, partial(check_nuclei_item, class_names=names, annotations=source))
    tables = {item["label"]: read_nuclei(item["label"]) for items in lists.values() for item in items}
    if not overwrite and (taken := [file for file, table in tables.items() if column in table]):
        raise InputError(taken[0], f"no column {column} yet (--overwrite True replaces it)", "one")
    drawn = NucleusPatches(lists["training"], source, names, per_class=per_class, seed=seed)
    model = NucleusClassifier(len(names), features, seed)
    model.fit(drawn.patches(np.arange(len(drawn))), drawn.labels)
    agreement = {}
    for part, items in lists.items():
        right = []
        for item in items:
            table = tables[item["label"]]
            predicted = np.array(names, dtype=object)[model.predict(read_patches(item["image"]))]
            annotated = table[source].astype(object).to_numpy()
            right.append((predicted == annotated)[np.isin(annotated, names)])
            table[column] = np.where(annotated == BACKGROUND, BACKGROUND, predicted)
            _write(item["label"], table)
        agreement[part] = round(float(np.concatenate(right).mean()), 4) if any(map(len, right)) else None
    about: dict[str, Any] = {"from": source, "per_class": per_class, "features": features, "seed": seed}
    content["annotators"] = {**content.get("annotators", {}), column: about | {"agreement": agreement}}
    with atomic_path(path) as temporary:
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    print(
        f"{column}: agrees with {source} on " + ", ".join(f"{v} of {k}" for k, v in agreement.items()), file=sys.stderr
    )
    return path


def _write(path: str, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.astype({"scale": int}).to_csv(temporary, index=False)
