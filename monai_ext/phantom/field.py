"""Fields of view: pictures of a slide with their complete ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_ext.base.errors import InputError
from monai_ext.phantom.noise import hash64
from monai_ext.phantom.nuclei import FORMS, CellClass
from monai_ext.phantom.optics import beer_lambert
from monai_ext.phantom.painting import Canvas, paint
from monai_ext.phantom.places import FORM_NAMES, Cells
from monai_ext.phantom.slide import PhantomSlide, phantom_slide

__all__ = ["BLOCK", "PhantomField", "phantom_field"]

BLOCK = 512  # px; everything is rendered in blocks of this side, so a tile is the same wherever it is read from
_LABEL = np.array([form.label for form in FORMS.values()], np.uint8)


@dataclass(frozen=True)
class PhantomField:
    """A field of view with its ground truth. N instances; maps are `(H, W)`.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        density: `(H, W, 2)` float32, the amounts of hematoxylin and eosin before the scanner's optics:
            with an ideal scanner `-log(image / white) = density @ stains.T`.
        instances: int32, 0 is background, k is the k-th instance.
        classes: uint8 map of `CellClass`.
        centroids: `(N, 2)` float64, (row, column) of each nucleus in pixels; outside the image where the border cuts
            the nucleus.
        labels: `(N,)` uint8, the `CellClass` of each instance.
        forms: what each instance is, such as `metaphase` or `apoptotic`.
        uids: `(N,)` int64, equal for the same cell in any field of the slide.
        vessel: bool, vessels with wall and lumen.
        tumour: bool, tumour regions.
        origin: (row, column) of the first pixel in the slide.
        slide: the slide that this is part of.
    """

    image: NDArray[np.uint8]
    density: NDArray[np.float32]
    instances: NDArray[np.int32]
    classes: NDArray[np.uint8]
    centroids: NDArray[np.float64]
    labels: NDArray[np.uint8]
    forms: tuple[str, ...]
    uids: NDArray[np.int64]
    vessel: NDArray[np.bool_]
    tumour: NDArray[np.bool_]
    origin: tuple[int, int]
    slide: PhantomSlide

    @property
    def mpp(self) -> float:
        """Um per pixel."""
        return self.slide.mpp

    @property
    def stains(self) -> NDArray[np.float32]:
        """Absorption vectors `(3, 2)`, columns hematoxylin and eosin."""
        return self.slide.stains

    def points(self, *classes: CellClass) -> NDArray[np.int64]:
        """Whole-pixel centroids `(M, 2)` (row, column) of these classes that lie in the image."""
        points = np.rint(self.centroids[np.isin(self.labels, classes)]).astype(np.int64)
        return points[((points >= 0) & (points < self.instances.shape)).all(1)]


def phantom_field(
    size: tuple[int, int] = (512, 512),
    seed: int = 0,
    *,
    slide: PhantomSlide | None = None,
    origin: tuple[int, int] = (0, 0),
    mpp: float = 0.25,
    **options: object,
) -> PhantomField:
    """A synthetic H&E field with complete ground truth.

    Args:
        size: height and width in pixels.
        seed: names the slide that is drawn if none is given.
        slide: the slide to look at.
        origin: (row, column) of the first pixel in the slide.
        mpp: um per pixel of the drawn slide.
        **options: further arguments of `phantom_slide` for the drawn slide.

    Raises:
        InputError: the size is not positive, or the slide's options make no sense.
    """
    if min(size) < 1:
        raise InputError("size", "a positive height and width", str(tuple(size)))
    return _assemble(slide or phantom_slide(seed, mpp=mpp, **options), origin, size)


def _scan(slide: PhantomSlide, rows: range, columns: range) -> tuple[NDArray[np.uint8], Canvas, tuple[slice, slice]]:
    """The picture of a window, the canvas behind it, and the window's place on the canvas."""
    halo = int(np.ceil(4 * slide.scanner.blur / slide.mpp))
    canvas = paint(slide, *(range(side.start - halo, side.stop + halo) for side in (rows, columns)))
    light = beer_lambert(np.stack([canvas.hematoxylin, canvas.eosin], axis=-1), slide.stains, slide.scanner.white)
    rng = np.random.default_rng(int(hash64(slide.seed, "sensor", rows.start, columns.start)[0]))
    inner = (slice(halo, halo + len(rows)), slice(halo, halo + len(columns)))
    return slide.scanner(light, slide.mpp, rng, inner), canvas, inner


def _assemble(slide: PhantomSlide, origin: tuple[int, int], size: tuple[int, int]) -> PhantomField:
    """Put a field together from the blocks that it touches."""
    (r0, c0), (h, w) = origin, size
    image, density = np.empty((h, w, 3), np.uint8), np.empty((h, w, 2), np.float32)
    serial, count = np.empty((h, w), np.int32), 0  # instances numbered anew in each block
    vessel, tumour = np.empty((h, w), bool), np.empty((h, w), bool)
    tables = []
    for by in range(r0 // BLOCK, -(-(r0 + h) // BLOCK)):
        for bx in range(c0 // BLOCK, -(-(c0 + w) // BLOCK)):
            rows, columns = range(by * BLOCK, (by + 1) * BLOCK), range(bx * BLOCK, (bx + 1) * BLOCK)
            picture, canvas, inner = _scan(slide, rows, columns)
            y0, y1, x0, x1 = (
                max(r0, rows.start),
                min(r0 + h, rows.stop),
                max(c0, columns.start),
                min(c0 + w, columns.stop),
            )
            target = (slice(y0 - r0, y1 - r0), slice(x0 - c0, x1 - c0))
            source = (slice(y0 - rows.start, y1 - rows.start), slice(x0 - columns.start, x1 - columns.start))
            image[target] = picture[source]
            density[..., 0][target], density[..., 1][target] = (
                canvas.hematoxylin[inner][source],
                canvas.eosin[inner][source],
            )
            vessel[target], tumour[target] = canvas.vessel[inner][source], canvas.tumour[inner][source]
            index = canvas.instances[inner][source]
            seen = np.bincount(index.ravel(), minlength=len(canvas.cells) + 1)[1:] > 0
            serial[target] = np.concatenate([[0], count + np.cumsum(seen)]).astype(np.int32)[index]
            count += int(seen.sum())
            tables.append(canvas.cells.take(seen))
    cells = Cells.join(tables)
    uids, first, same = np.unique(cells.uid, return_index=True, return_inverse=True)
    instances = np.concatenate([[0], same + 1]).astype(np.int32)[serial]
    cells = cells.take(first)
    labels = _LABEL[cells.form]
    return PhantomField(
        image=image,
        density=density,
        instances=instances,
        classes=np.concatenate([[np.uint8(0)], labels])[instances],
        centroids=np.c_[cells.y, cells.x] / slide.mpp - 0.5 - origin,
        labels=labels,
        forms=tuple(FORM_NAMES[k] for k in cells.form),
        uids=uids,
        vessel=vessel,
        tumour=tumour,
        origin=(int(r0), int(c0)),
        slide=slide,
    )
