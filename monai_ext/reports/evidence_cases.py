"""What a method that points at evidence is judged by: tumour masks, or canvases with one positive tile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.data import Dataset
from monai.utils import convert_to_tensor

from monai_ext.base.errors import InputError
from monai_ext.formats.image import read_mask
from monai_ext.metrics.evidence import pointing_canvas

__all__ = ["MaskedPositives", "PointingCanvases", "evidence_judges"]

_AROUND = 8  # negatives of a canvas


def _of_label(dataset: Dataset, label: int) -> list[int]:
    return [index for index, item in enumerate(dataset.data) if int(item["label"]) == label]


def _sample(indices: Sequence[int], limit: int | None, seed: int) -> list[int]:
    """At most ``limit`` of them, drawn by ``seed``, in their own order."""
    if limit is None or len(indices) <= limit:
        return list(indices)
    return sorted(np.random.default_rng(seed).choice(indices, limit, replace=False).tolist())


def _load(dataset: Dataset, index: int) -> dict[str, Any]:
    """The image as the network takes it, its pixels to show, its name and its group."""
    item, record = dataset[index], dataset.data[index]
    name = Path(str(record["image"])).name
    return {
        "image": convert_to_tensor(item["image"], track_meta=False).float(),
        "source": convert_to_tensor(item["source"], track_meta=False),
        "name": name,
        "group": str(record.get("group", name)),
    }


class PointingCanvases(torch.utils.data.Dataset):
    """Each positive image among eight negatives, see :func:`~monai_ext.metrics.pointing_canvas`.

    Items hold ``image`` ``(C, 3h, 3w)`` as the network takes it, ``source`` uint8 ``(3, 3h, 3w)`` to show, ``truth``
    bool ``(1, 3h, 3w)``, the positive tile, and ``name`` and ``group`` of the positive.

    Args:
        dataset: items with ``image`` and ``source`` (uint8, the same pixels), all of one size; its ``data`` holds
            ``label`` 0 or 1, ``image`` (a path) and, if there is one, ``group``.
        seed: of the places, the negatives, and the positives where there are more than ``limit``.
        limit: most positives used; ``None`` for all.
        repeats: canvases of each positive.

    Raises:
        InputError: no positive or fewer than eight negatives.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, limit: int | None = None, repeats: int = 1) -> None:
        self.dataset, self.seed, self.repeats = dataset, seed, repeats
        self.positives = _sample(_of_label(dataset, 1), limit, seed)
        self.negatives = _of_label(dataset, 0)
        if not self.positives or len(self.negatives) < _AROUND:
            counts = f"{len(self.positives)} and {len(self.negatives)}"
            raise InputError("pointing game", f"a positive and at least {_AROUND} negative images", counts)

    def __len__(self) -> int:
        return len(self.positives) * self.repeats

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Canvas ``index``: the same one each time."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        positive = _load(self.dataset, self.positives[index % len(self.positives)])
        rng = np.random.default_rng([self.seed, index])
        drawn = rng.choice(self.negatives, _AROUND, replace=False).tolist()
        around = [_load(self.dataset, i) for i in drawn]
        position_seed = int(rng.integers(2**31))
        for key in ("image", "source"):
            tiles = [part[key] for part in around]
            shapes = {tuple(tile.shape) for tile in [positive[key], *tiles]}
            if len(shapes) > 1:
                raise InputError("pointing game", "images of one size", f"{positive['name']} among {sorted(shapes)}")
            canvas, _, truth = pointing_canvas(positive[key][None], torch.stack(tiles), position_seed)
            positive[key] = canvas[0]
        return {**positive, "truth": truth[0]}


class MaskedPositives(torch.utils.data.Dataset):
    """Positive images whose mask holds both tumour and normal tissue, as those of HPLOC (section 3.3).

    Items as of :class:`PointingCanvases`, with the tumour as ``truth`` ``(1, h, w)``. The images' data may name a
    ``mask``, a path; those that do not are passed over.

    Args:
        dataset: as of :class:`PointingCanvases`.
        seed: of the choice where there are more images than ``limit``.
        limit: most images used; ``None`` for all.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, limit: int | None = None) -> None:
        self.dataset = dataset
        masked = [i for i in _of_label(dataset, 1) if dataset.data[i].get("mask")]
        if limit is not None:
            masked = np.random.default_rng(seed).permutation(masked).astype(int).tolist()
        self.indices: list[int] = []
        for index in masked:
            if limit is not None and len(self.indices) == limit:
                break
            tumour = read_mask(dataset.data[index]["mask"]) > 0
            if tumour.any() and not tumour.all():
                self.indices.append(index)
        self.indices.sort()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image ``index``; its mask is brought to the image's grid."""
        case = _load(self.dataset, self.indices[index])
        mask = (read_mask(self.dataset.data[self.indices[index]]["mask"]) > 0).astype(np.uint8)
        height, width = case["image"].shape[-2:]
        if mask.shape != (height, width):
            mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return {**case, "truth": torch.from_numpy(mask > 0)[None]}


def evidence_judges(
    dataset: Dataset, seed: int = 0, limit: int | None = None, repeats: int = 1
) -> dict[str, MaskedPositives | PointingCanvases]:
    """The references that a data set offers, the best first; arguments as of the two classes.

    Returns:
        ``"masks"``, where positives have masks, and ``"pointing game"``, where there are negatives enough: HPLOC has
        none.

    Raises:
        InputError: neither masks nor what canvases need.
    """
    judges: dict[str, MaskedPositives | PointingCanvases] = {}
    if len(masked := MaskedPositives(dataset, seed, limit)):
        judges["masks"] = masked
    negatives = len(_of_label(dataset, 0))
    if not judges and negatives < _AROUND:
        expected = f"positives with a 'mask', or at least {_AROUND} negatives for the pointing game"
        raise InputError("evidence", expected, f"no mask and {negatives} negatives")
    if negatives >= _AROUND:
        judges["pointing game"] = PointingCanvases(dataset, seed, limit, repeats)
    return judges
