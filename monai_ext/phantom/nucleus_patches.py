"""Synthetic patches of nuclei with labels of three qualities, for the classifiers of the distillation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.data.nuclei import BACKGROUND, crop_patches, write_nuclei
from monai_ext.phantom.datasets import field_origins, slide_lists
from monai_ext.phantom.field import PhantomField, phantom_field
from monai_ext.phantom.label_noise import SSA_NOISE, WSA_NOISE, noisy_classes
from monai_ext.phantom.noise import hash64
from monai_ext.phantom.nuclei import CellClass
from monai_ext.phantom.output import new_folder
from monai_ext.phantom.slide import phantom_slide

__all__ = ["CLASS_NAMES", "write_nucleus_patches"]

CLASS_NAMES = ["other", "immune", "muscle"]
_MPP = 0.5
# spindle-shaped stroma stands for muscle; look-alikes are debris that no annotation knows
_CLASS = {
    CellClass.LYMPHOCYTE: 1,
    CellClass.STROMA: 2,
    CellClass.EPITHELIUM: 0,
    CellClass.TUMOUR: 0,
    CellClass.MITOSIS: 0,
}


def write_nucleus_patches(
    dst: str | Path,
    *,
    slides: int = 12,
    fields: int = 2,
    size: int = 512,
    patch: int = 32,
    scales: tuple[int, ...] = (1,),
    wsa_noise: float = WSA_NOISE,
    ssa_noise: float = SSA_NOISE,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write patches of nuclei, cut from phantom fields at .5 um/px, with noisy and with true classes.

    ``ea`` is the truth. ``wsa`` and ``ssa`` give a share of the nuclei a wrong class, drawn at random, those of
    ``ssa`` among those of ``wsa`` as far as possible. Debris is ``background`` in all three.

    Args:
        dst: folder to make; it appears only when the set is complete.
        slides: number of slides, each with its own stains and scanner; a slide is a group of the split.
        fields: number of fields of each slide.
        size: height and width of a field, px.
        patch: side of the patches, px.
        scales: resolutions, of 1, 2 and 4 (the field reduced so many times).
        wsa_noise: share of wrong labels of the weak annotation.
        ssa_noise: share of wrong labels of the strong one.
        seed: the same seed gives the same files.
        overwrite: replace a data set that the phantom wrote before.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: a number outside its range, or a destination that is not free.
    """
    scales = (scales,) if isinstance(scales, int) else tuple(scales)
    for name, value, least in (("slides", slides, 3), ("fields", fields, 1), ("size", size, 64), ("patch", patch, 8)):
        if value < least:
            raise InputError(name, f"at least {least}", str(value))
    if not 0 <= ssa_noise <= wsa_noise < 1:
        raise InputError("ssa_noise", "0 <= ssa_noise <= wsa_noise < 1", f"{ssa_noise}, {wsa_noise}")
    if not scales or not set(scales) <= {1, 2, 4}:
        raise InputError("scales", "some of 1, 2, 4", repr(scales))
    dst = Path(dst)
    with new_folder(dst, "dataset.json", overwrite) as root:
        items: dict[str, list] = {"training": [], "validation": [], "test": []}
        for number, part in enumerate(tqdm(slide_lists(slides), desc="phantom nucleus_patches", unit="slide")):
            slide_seed = int(hash64(seed, "nucleus_patches", number)[0] >> np.uint64(16))
            slide = phantom_slide(slide_seed, name=f"slide_{number:03d}", mpp=_MPP)
            rng = np.random.default_rng(slide_seed)
            for index, origin in zip(range(fields), field_origins(rng), strict=False):
                view = phantom_field((size, size), slide=slide, origin=origin)
                patches, table = _cut(view, patch, scales, (wsa_noise, ssa_noise), rng)
                name = f"{slide.name}_{index:02d}"
                items[part].append(write_nuclei(root, name, patches, table) | {"group": slide.name})
        about = {
            "name": "phantom nucleus_patches",
            "description": "Synthetic patches of nuclei; label: CSV row,col,scale and the classes by three annotations",
            "licence": "CC0-1.0",
            "class_names": CLASS_NAMES,
            "mpp": _MPP,
            "seed": seed,
        }
        (root / "dataset.json").write_bytes(orjson.dumps({**about, **items}, option=orjson.OPT_INDENT_2))
    return dst / "dataset.json"


def _cut(
    view: PhantomField, patch: int, scales: tuple[int, ...], noise: tuple[float, float], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], dict[str, NDArray]]:
    """Patches about the nuclei whose middle lies in the field, at every scale, and their table."""
    inside = ((view.centroids >= 0) & (view.centroids <= np.array(view.instances.shape) - 1)).all(1)
    centres, labels = view.centroids[inside], view.labels[inside]
    truth = np.array([_CLASS.get(CellClass(label), -1) for label in labels], np.int64)
    columns = noisy_classes(truth, len(CLASS_NAMES), dict(zip(("wsa", "ssa"), noise, strict=True)), rng)
    names = np.array([*CLASS_NAMES, BACKGROUND])  # -1 picks the last
    annotations = {k: names[np.where(truth < 0, -1, v)] for k, v in (columns | {"ea": truth}).items()}
    tiles, tables = [], []
    for scale in scales:
        shape = tuple(side // scale for side in view.image.shape[1::-1])
        image = view.image if scale == 1 else cv2.resize(view.image, shape, interpolation=cv2.INTER_AREA)
        tiles.append(crop_patches(image, (centres + 0.5) / scale - 0.5, patch))
        tables.append({"row": centres[:, 0], "col": centres[:, 1], "scale": np.full(len(centres), scale)} | annotations)
    return np.concatenate(tiles), {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
