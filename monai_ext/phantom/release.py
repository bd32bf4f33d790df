"""A small synthetic Camelyon16: slides and annotations in the folders and formats of the official release."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray
from skimage.measure import block_reduce
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.formats.asap import write_asap
from monai_ext.formats.outlines import label_map_to_polygons
from monai_ext.phantom.field import PhantomField
from monai_ext.phantom.noise import grid_noise, hash64
from monai_ext.phantom.output import new_folder
from monai_ext.phantom.pyramid import render_slide
from monai_ext.phantom.slide import PhantomSlide, phantom_slide
from monai_ext.phantom.tissue import Tissue

__all__ = ["plan_camelyon16", "write_camelyon16"]

_LYMPH_NODE = {"lymphocytes": 0.8, "glands": 0.0, "vessels": 0.15, "invaded": 0.0, "mitoses": 40.0, "spread": 3.0}
_TUMOUR = 0.15
_SHARE = (0.05, 0.4)  # of the tissue that is tumour on a tumour slide
_COARSE = 16.0  # um; sampling step of that share before rendering
_OUTLINE = 4.0  # um per step of an annotation's outline
_ABOUT = "about.json"


def write_camelyon16(
    dst: str | Path, *, slides: int = 6, size: int = 4096, mpp: float = 0.5, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write synthetic slides of lymph nodes, with and without metastases, as Camelyon16 is released.

    `training/normal/*.tif`, `training/tumor/*.tif`, `training/lesion_annotations/*.xml`, `testing/images/*.tif`,
    `testing/lesion_annotations/*.xml` and `testing/reference.csv`. A third of the slides, at least two, are for
    testing; of both kinds every other one has tumour. Annotations outline the tumour in steps of 4 um, without the
    vessels in it.

    Args:
        dst: folder to make; it appears only when the release is complete.
        slides: number of slides.
        size: side of a slide in pixels.
        mpp: um per pixel of level 0.
        seed: the same seed gives the same files.
        overwrite: replace a release that the phantom wrote before.

    Returns:
        The folder.

    Raises:
        InputError: a number too small, or a destination that is not free.
    """
    dst, planned = Path(dst), plan_camelyon16(slides, size, mpp, seed)
    with new_folder(dst, _ABOUT, overwrite) as root:
        for folder, slide in tqdm(planned, desc="phantom camelyon16", unit="slide", disable=None):
            images = root / folder
            images.mkdir(parents=True, exist_ok=True)
            outlines = _Outlines(size, mpp)
            render_slide(images / f"{slide.name}.tif", slide, (size, size), outlines.add)
            if slide.tissue.tumour:
                write_asap(images.parent / "lesion_annotations" / f"{slide.name}.xml", outlines.groups())
        tests = (slide for folder, slide in planned if folder.startswith("testing"))
        lines = (f"{slide.name},{'Tumor' if slide.tissue.tumour else 'Normal'}\n" for slide in tests)
        (root / "testing" / "reference.csv").write_text("".join(lines))
        about = {"name": "phantom camelyon16", "licence": "CC0-1.0", "mpp": mpp, "size": size, "seed": seed}
        (root / _ABOUT).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    return dst


def plan_camelyon16(slides: int, size: int, mpp: float, seed: int) -> list[tuple[str, PhantomSlide]]:
    """The slides that :func:`write_camelyon16` renders, each with the folder it goes to."""
    for name, value, least in (("slides", slides, 4), ("size", size, 512)):
        if value < least:
            raise InputError(name, f"at least {least}", str(value))
    training = slides - max(2, slides // 3)
    planned = []
    for number in range(slides):
        within = number if number < training else number - training
        kind = ("normal", "tumor")[within % 2]
        folder, name = f"training/{kind}", f"{kind}_{within // 2 + 1:03d}"
        if number >= training:
            folder, name = "testing/images", f"test_{within + 1:03d}"
        planned.append((folder, _draw(hash64(seed, "camelyon16", number), name, mpp, size, kind == "tumor")))
    return planned


class _Outlines:
    """The outlines of a slide's tumour, assembled from its fields."""

    def __init__(self, size: int, mpp: float) -> None:
        self.step = 2 ** max(0, round(np.log2(_OUTLINE / mpp)))  # px; tiles are a multiple of it
        self.tumour = np.zeros((-(-size // self.step),) * 2, bool)

    def add(self, view: PhantomField) -> None:
        """Take one field; vessels in the tumour are no tumour."""
        share = block_reduce(view.tumour & ~view.vessel, self.step, np.mean)
        top, left = (coordinate // self.step for coordinate in view.origin)
        self.tumour[top : top + share.shape[0], left : left + share.shape[1]] = share >= 0.5

    def groups(self) -> dict[str, list[shapely.Geometry]]:
        """As Camelyon16 has it: `_0` is tumour with its holes filled, `_2` the holes."""
        _, polygons = label_map_to_polygons(self.tumour.astype(np.uint8), scale=self.step)
        filled = shapely.union_all(shapely.polygons(shapely.get_exterior_ring(shapely.get_parts(polygons))))
        holes = shapely.difference(filled, shapely.union_all(polygons))
        return {"_0": [filled], "_2": [holes]}


def _draw(key: NDArray[np.uint64], name: str, mpp: float, size: int, has_tumour: bool) -> PhantomSlide:
    """A slide on whose tissue there is some tumour, or none."""
    tissue = Tissue(tumour=_TUMOUR if has_tumour else 0.0, **_LYMPH_NODE)
    attempt = 0
    while True:
        seed = int(hash64(int(key[0]), "attempt", attempt)[0] >> np.uint64(16))
        slide = phantom_slide(seed, name=name, mpp=mpp, size=(size, size), tissue=tissue)
        if not has_tumour or _SHARE[0] < _tumour_share(slide, size) < _SHARE[1]:
            return slide
        attempt += 1


def _tumour_share(slide: PhantomSlide, size: int) -> float:
    """The share of the tissue that is tumour, on a coarse grid."""
    coordinates = np.arange(0, size * slide.mpp, _COARSE) + _COARSE / 2
    level = slide.tissue.tumour_level(partial(_noise, slide.seed, coordinates))
    on_tissue = np.max([blob.depth(coordinates[:, None], coordinates[None, :]) for blob in slide.fragments], axis=0) > 0
    return float((level[on_tissue] > 0).mean())


def _noise(seed: int, coordinates: NDArray[np.float64], name: str, wavelength: float) -> NDArray[np.float32]:
    return grid_noise(seed, name, wavelength, coordinates, coordinates)
