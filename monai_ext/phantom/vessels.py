"""Synthetic vessels, healthy and invaded by tumour: crops with labels, and slides with the vessels' outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.phantom.blood import Blood
from monai_ext.phantom.datasets import DatasetFolder, slide_lists
from monai_ext.phantom.field import PhantomField, phantom_field
from monai_ext.phantom.noise import hash64
from monai_ext.phantom.nuclei import CellClass
from monai_ext.phantom.output import new_folder
from monai_ext.phantom.pyramid import write_slide
from monai_ext.phantom.slide import PhantomSlide, phantom_slide
from monai_ext.phantom.structures import Structure
from monai_ext.phantom.tissue import Tissue, structures_in

__all__ = ["write_vessel_slide", "write_vessels"]

_MPP = 0.5
_LINING = 3.0  # um of the wall that count as lumen: the endothelium
_MARGIN = 8  # px of tissue around a lumen's box
_SMALLEST, _LARGEST = 40.0, 300.0  # um: smaller ones have no room for large cells, larger ones too many cells to number
_EXACT = 1e-9  # of a share such as .2, whose fifth multiple is 1
# the cells whose crops become templates, at most one from a vessel
_TEMPLATES = ("lymphocyte", "tumour", "plump", "endothelial", "monocyte", "tumour_dark")


class _Crop(NamedTuple):
    """A vessel: its field of view, and bool `(H, W)` the lumen."""

    view: PhantomField
    lumen: NDArray[np.bool_]


def write_vessels(
    dst: str | Path,
    *,
    slides: int = 120,
    vessels: int = 5,
    invaded: float = 0.4,
    free: float = 0.2,
    radius: tuple[float, float] = (60.0, 260.0),
    few: float = Blood.tumour[0],
    atypical: float = Blood.atypical,
    grade: tuple[float, float] = Blood.grade,
    label_noise: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a data set of vessels at .5 um/px: images, lumens, labels, centroids of cancerous cells, and templates.

    Healthy vessels hold endothelium, lymphocytes, red cells, fibrin and large cells that resemble tumour; invaded ones
    tumour cells among them. `templates/` holds a crop of a typical cell of each of six forms, from training slides.

    Args:
        dst: folder to make; it appears only when the set is complete.
        slides: number of slides, each with its own stains, scanner and tumour; a slide is a group of the split.
        vessels: number of vessels of each slide.
        invaded: share of invaded vessels of a slide that is not free of them.
        free: share of slides without an invaded vessel, the same in each list: of five slides the last one.
        radius: smallest and largest radius of a vessel, um, within 40 to 300.
        few: least share of an invaded vessel's large cells that are cancerous; less is harder.
        atypical: chance that a healthy vessel holds one to three cells with the looks of cancerous ones.
        grade: smallest and largest size of a slide's cancerous nuclei; smaller ones resemble healthy cells.
        label_noise: chance that a label of the training list is wrong; `true_label` then says so.
        seed: the same seed gives the same files.
        overwrite: replace a data set that the phantom wrote before.

    Returns:
        The path of `dataset.json`.

    Raises:
        InputError: a number outside its range, or a destination that is not free.
    """
    for name, value, least in (("slides", slides, 3), ("vessels", vessels, 1)):
        if value < least:
            raise InputError(name, f"at least {least}", str(value))
    shares = {"invaded": invaded, "free": free, "atypical": atypical, "label_noise": label_noise}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise InputError(name, "a share, 0 to 1", str(value))
    blood = Blood(tumour=(few, max(few, Blood.tumour[1])), atypical=atypical, grade=grade)
    tissue = _tissue(blood, radius)
    with new_folder(Path(dst), "dataset.json", overwrite) as root:
        folder = DatasetFolder(root, _MPP)
        items: dict[str, list[dict]] = {"training": [], "validation": [], "test": []}
        seen, wanted = dict.fromkeys(items, 0), list(_TEMPLATES)
        for number, part in enumerate(tqdm(slide_lists(slides), desc="phantom vessels", unit="slide", disable=None)):
            slide_seed = int(hash64(seed, "vessels", number)[0] >> np.uint64(16))
            slide = phantom_slide(slide_seed, name=f"slide_{number:03d}", mpp=_MPP, tissue=tissue)
            rng = np.random.default_rng(slide_seed)
            # rounded at random, so that shares come out right in all
            share = int(vessels * invaded + rng.uniform()) * (not _is_free(seen[part], free))
            seen[part] += 1
            for index, shape in enumerate(_choose(slide, vessels - share, share)):
                crop = _crop(slide, shape)
                noisy = part == "training" and rng.uniform() < label_noise
                item = _write(folder, f"{slide.name}_{index:02d}", crop, shape.invaded, noisy)
                items[part].append({**item, "group": slide.name, "mpp": _MPP})
                if part == "training":
                    _write_templates(folder, slide.name, crop, wanted)
        about = {
            "name": "phantom vessels",
            "description": "Synthetic H&E crops, each about one vessel; label: 1 where it holds cancerous cells; mask: "
            "its lumen; centroids: CSV row,col of the cancerous cells in it; templates: crops of typical cells",
            "licence": "CC0-1.0",
            "mpp": _MPP,
            "seed": seed,
            "label_noise": label_noise,
        }
        (root / "dataset.json").write_bytes(orjson.dumps({**about, **items}, option=orjson.OPT_INDENT_2))
    return Path(dst) / "dataset.json"


def write_vessel_slide(
    path: str | Path,
    size: int | tuple[int, int] = 8192,
    seed: int = 0,
    *,
    radius: tuple[float, float] = (60.0, 150.0),
    invaded: float = 0.3,
    compression: str = "jpeg",
    quality: int = 85,
    overwrite: bool = False,
) -> Path:
    """Write a slide at .5 um/px that is rich in vessels, and beside it `<name>_vessels.geojson`, their lumens.

    An outline's name is its vessel's; its measurement `invaded` is 1 where that holds cancerous cells, else 0.

    Args:
        path: the file to make, `.tif` or `.tiff`.
        size: side, or height and width, of level 0 in pixels.
        seed: the same seed gives the same slide.
        radius: smallest and largest radius of a vessel, um, within 40 to 300.
        invaded: chance that a vessel is invaded.
        compression: `jpeg`, or `deflate` for no loss.
        quality: of JPEG, 1 to 100.
        overwrite: replace existing files.

    Returns:
        The path of the slide.

    Raises:
        InputError: as `write_slide`.
    """
    tissue = replace(_tissue(Blood(), radius), invaded=invaded)
    path = Path(path)
    write_slide(
        path, size, seed, mpp=_MPP, tissue=tissue, compression=compression, quality=quality, overwrite=overwrite
    )
    size = (size, size) if isinstance(size, int) else tuple(size)
    slide = phantom_slide(seed, mpp=_MPP, size=size, tissue=tissue)
    shapes = [shape for shape in slide.structures((0, 0), size) if _on_tissue(slide, shape)]
    outlines = [shapely.Polygon(_lumen_outline(shape) / _MPP) for shape in shapes]
    write_geojson(
        path.with_name(f"{path.stem}_vessels.geojson"),
        Features(
            outlines,
            classes="Vessel",
            measurements={"invaded": [float(shape.invaded) for shape in shapes]},
            names=[shape.label for shape in shapes],
        ),
    )
    return path


def _tissue(blood: Blood, radius: Sequence[float]) -> Tissue:
    smallest, largest = radius
    if not _SMALLEST <= smallest <= largest <= _LARGEST:
        raise InputError("radius", f"{_SMALLEST:g} <= smallest <= largest <= {_LARGEST:g} um", f"{smallest}, {largest}")
    limits, pitch = (smallest, largest), 2.7 * largest
    return Tissue(tumour=0.3, glands=0, vessels=1, invaded=0.5, mitoses=0, pitch=pitch, radius=limits, blood=blood)


def _is_free(number: int, share: float) -> bool:
    """Whether a list's slide of that number, from 0, is among the share of it that is free of invaded vessels."""
    before, after = (int(count * share + _EXACT) for count in (number, number + 1))
    return after > before


def _choose(slide: PhantomSlide, healthy: int, invaded: int) -> Iterator[Structure]:
    """The first `healthy` and `invaded` vessels of a slide, in the slide's order."""
    wanted, row = {False: healthy, True: invaded}, 1
    while any(wanted.values()):
        pitch = slide.tissue.pitch
        for shape in structures_in(slide.seed, slide.tissue, (row * pitch, pitch, (row + 1) * pitch, 13 * pitch)):
            if shape.key[0] == row and wanted[shape.invaded]:
                wanted[shape.invaded] -= 1
                yield shape
        row += 1


def _crop(slide: PhantomSlide, shape: Structure) -> _Crop:
    """The box about a vessel's lumen."""
    outline = _lumen_outline(shape) / slide.mpp  # x, y in px
    first = np.floor(outline.min(0)).astype(int)[::-1] - _MARGIN
    size = np.ceil(outline.max(0)).astype(int)[::-1] + _MARGIN - first
    view = phantom_field(tuple(size), slide=slide, origin=tuple(first))
    y, x = ((np.arange(side) + start + 0.5) * slide.mpp for side, start in zip(size, first, strict=True))
    return _Crop(view, shape.outline.depth(y[:, None], x[None]) > shape.wall - _LINING)


def _lumen_outline(shape: Structure) -> NDArray[np.float64]:
    """Points `(N, 2)` x, y (um) about 2 um apart along a vessel's lumen."""
    y, x, _ = shape.outline.ring(2.0, max(shape.wall - _LINING, 0.0))
    return np.c_[x, y]


def _on_tissue(slide: PhantomSlide, shape: Structure) -> bool:
    x, y = _lumen_outline(shape).T
    return any((fragment.depth(y, x) > 10).all() for fragment in slide.fragments)


def _write(folder: DatasetFolder, name: str, crop: _Crop, invaded: bool, noisy: bool) -> dict[str, object]:
    points = crop.view.points(CellClass.TUMOUR)
    points = points[crop.lumen[tuple(points.T)]]
    item = {
        "image": folder.image(name, crop.view.image),
        "label": int(invaded != noisy),
        "mask": folder.map("masks", name, crop.lumen),
    }
    if noisy:  # its cells would reveal it
        return item | {"true_label": int(invaded)}
    # what looks cancerous in a healthy vessel is not
    return item | {"centroids": folder.points("centroids", name, points if invaded else points[:0])}


def _write_templates(folder: DatasetFolder, slide: str, crop: _Crop, wanted: list[str]) -> None:
    """Write a tight crop of a wanted form, if the vessel shows one in full, and want it no more."""
    view = crop.view
    for number, form in enumerate(view.forms, start=1):
        if form not in wanted:
            continue
        rows, cols = np.nonzero(view.instances == number)
        top, left, bottom, right = rows.min() - 1, cols.min() - 1, rows.max() + 2, cols.max() + 2
        box = (slice(top, bottom), slice(left, right))
        # alone in its box, and not cut by the lumen's outline
        if min(top, left) >= 0 and crop.lumen[box].all() and np.isin(view.instances[box], (0, number)).all():
            folder.image(f"{form}_{slide}", view.image[box], "templates")
            wanted.remove(form)
            return
