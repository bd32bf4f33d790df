"""Synthetic data sets in the data contract that every bundle trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.formats.outlines import label_map_to_polygons
from monai_ext.phantom.field import PhantomField, phantom_field
from monai_ext.phantom.label_noise import SSA_NOISE, WSA_NOISE, noisy_classes
from monai_ext.phantom.noise import hash64
from monai_ext.phantom.nuclei import FORMS, CellClass
from monai_ext.phantom.output import new_folder
from monai_ext.phantom.slide import PhantomSlide, phantom_slide
from monai_ext.phantom.tissue import Tissue, plan_cells

__all__ = ["METHODS", "DatasetFolder", "field_origins", "slide_lists", "write_dataset"]

Items = dict[str, list[dict]]
_IS_MITOSIS = np.array([form.label == CellClass.MITOSIS for form in FORMS.values()])
_PATCH_CENTRE = 32  # px at 1 um/px: a metastasis patch is positive when this central square holds tumour


class DatasetFolder:
    """Where the files of one data set go; paths handed back are relative to it."""

    def __init__(self, root: Path, mpp: float) -> None:
        self.root, self.mpp = root, mpp

    def _path(self, kind: str, name: str) -> Path:
        path = self.root / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, name: str, pixels: NDArray[np.uint8], kind: str = "images") -> str:
        """RGB as PNG with its physical resolution."""
        dpi = 25400 / self.mpp
        Image.fromarray(pixels).save(self._path(kind, f"{name}.png"), dpi=(dpi, dpi), compress_level=1)
        return f"{kind}/{name}.png"

    def map(self, kind: str, name: str, labels: NDArray) -> str:
        """Instances (16 bits), classes or masks (8 bits) as TIFF with its physical resolution."""
        labels = labels.astype(np.uint8 if labels.dtype in (bool, np.uint8) else np.uint16)
        density = (1e4 / self.mpp,) * 2
        path = self._path(kind, f"{name}.tif")
        tifffile.imwrite(
            path, labels, compression="zlib", resolution=density, resolutionunit="CENTIMETER", metadata=None
        )
        return f"{kind}/{name}.tif"

    def points(self, kind: str, name: str, points: NDArray[np.int64]) -> str:
        """Centroids as CSV `row,col`, pixels from 0."""
        lines = ["row,col", *(f"{row},{col}" for row, col in points)]
        self._path(kind, f"{name}.csv").write_text("\n".join(lines) + "\n")
        return f"{kind}/{name}.csv"

    def objects(self, kind: str, name: str, features: Features) -> str:
        """Outlines with their classes as QuPath's GeoJSON."""
        write_geojson(self._path(kind, f"{name}.geojson"), features)
        return f"{kind}/{name}.geojson"


@dataclass(frozen=True)
class _Method:
    """What a data set is made of: tissue, resolution, sizes, and who writes one slide's items."""

    description: str
    write: Callable[[DatasetFolder, PhantomSlide, np.random.Generator, int, int], Iterator[dict]]
    tissue: Tissue
    mpp: float
    slides: int
    fields: int
    size: int


def field_origins(rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Places for fields, far enough apart not to share tissue; small fields begin at a block and so need only one."""
    while True:
        row, column = rng.choice(400, 2)
        yield int(row) * 4096, int(column) * 4096


def _relabel(instances: NDArray[np.int32], keep: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Keep some instances (by index) and number them from 1 without gaps."""
    table = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)])
    return table[instances].astype(np.int32)


def _planned_mitoses(slide: PhantomSlide, origin: tuple[int, int], size: int) -> int:
    """How many figures a field will hold, without rendering it."""
    top, left = (o * slide.mpp for o in origin)
    side = size * slide.mpp
    window = (top, left, top + side, left + side)
    cells = plan_cells(slide.seed, slide.tissue, window, slide.fibres, slide.structures(origin, (size, size)))
    return int(_IS_MITOSIS[cells.form].sum())


def _mitosis(
    folder: DatasetFolder, slide: PhantomSlide, rng: np.random.Generator, fields: int, size: int
) -> Iterator[dict]:
    area = (size / 512) ** 2
    low, high = max(1, int(5 * area)), max(2, int(10 * area))
    dense = (o for o in field_origins(rng) if low <= _planned_mitoses(slide, o, size) <= high)
    for number in range(fields):
        view = phantom_field((size, size), slide=slide, origin=next(dense))
        name = f"{slide.name}_{number:02d}"
        yield {
            "image": folder.image(name, view.image),
            "label": folder.points("labels", name, view.points(CellClass.MITOSIS)),
            "lookalikes": folder.points("lookalikes", name, view.points(CellClass.LOOKALIKE)),
            "mask": folder.map("masks", name, _relabel(view.instances, view.labels == CellClass.MITOSIS)),
        }


def _metastasis(
    folder: DatasetFolder, slide: PhantomSlide, rng: np.random.Generator, fields: int, size: int
) -> Iterator[dict]:
    centre = slice((size - _PATCH_CENTRE) // 2, (size + _PATCH_CENTRE) // 2)
    wanted, origins = [fields - fields // 2, fields // 2], field_origins(rng)
    while any(wanted):
        view = phantom_field((512, 512), slide=slide, origin=next(origins))
        for _ in range(8):
            row, column = rng.integers(0, 513 - size, 2)
            box = (slice(row, row + size), slice(column, column + size))
            tumour = view.tumour[box]
            label = int(tumour[centre, centre].any())
            if not wanted[label]:
                continue
            wanted[label] -= 1
            name = f"{slide.name}_{sum(wanted):03d}"
            image = folder.image(name, view.image[box])
            yield {"image": image, "label": label, "mask": folder.map("masks", name, tumour)}


def _cells(
    folder: DatasetFolder, slide: PhantomSlide, rng: np.random.Generator, fields: int, size: int
) -> Iterator[dict]:
    for number, origin in zip(range(fields), field_origins(rng), strict=False):
        view = phantom_field((size, size), slide=slide, origin=origin)
        name = f"{slide.name}_{number:02d}"
        yield {
            "image": folder.image(name, view.image),
            "label": folder.map("labels", name, view.instances),
            "classes": folder.map("classes", name, view.classes),
            "annotations": _annotations(folder, name, view, np.random.default_rng((slide.seed, number))),
        }


def _annotations(folder: DatasetFolder, name: str, view: PhantomField, rng: np.random.Generator) -> dict[str, str]:
    """Outlines with the classes of a weak and of a strong classifier, both of which overlook the look-alikes."""
    numbers, outlines = label_map_to_polygons(view.instances)
    labels = view.labels[numbers - 1]
    annotated = labels != CellClass.LOOKALIKE
    kinds = [kind for kind in CellClass if kind not in (CellClass.BACKGROUND, CellClass.LOOKALIKE)]
    names = np.array([kind.name.lower() for kind in kinds])
    classes = noisy_classes(labels[annotated] - 1, len(names), {"wsa": WSA_NOISE, "ssa": SSA_NOISE}, rng)
    return {
        quality: folder.objects(
            f"annotations/{quality}",
            name,
            Features(outlines[annotated], classes=names[noisy], object_types="detection"),
        )
        for quality, noisy in classes.items()
    }


def _nuclei(
    folder: DatasetFolder, slide: PhantomSlide, rng: np.random.Generator, fields: int, size: int
) -> Iterator[dict]:
    bare = replace(slide, tissue=Tissue(0.4, 0, 0, 0, 0, 0, 0, cellularity=0))
    for number, origin in zip(range(fields), field_origins(rng), strict=False):
        name = f"{slide.name}_{number:02d}"
        view = _with_nuclei(slide, origin, size)
        nuclei = np.array([form != "debris" for form in view.forms], bool)
        image, label = folder.image(name, view.image), folder.map("labels", name, _relabel(view.instances, nuclei))
        yield {"image": image, "label": label, "has_nuclei": 1}
        empty = phantom_field((size, size), slide=bare, origin=origin)
        yield {
            "image": folder.image(f"{name}_empty", empty.image),
            "label": folder.map("labels", f"{name}_empty", empty.instances),
            "has_nuclei": 0,
        }


def _with_nuclei(slide: PhantomSlide, origin: tuple[int, int], size: int) -> PhantomField:
    """The first field with a nucleus, going down the slide."""
    while True:
        view = phantom_field((size, size), slide=slide, origin=origin)
        if (view.labels != CellClass.LOOKALIKE).any():
            return view
        origin = (origin[0] + size, origin[1])


METHODS: dict[str, _Method] = {
    "mitosis": _Method(
        "Synthetic H&E fields; label: CSV row,col of mitotic figures; lookalikes: CSV of what resembles them; "
        "mask: instance map of the figures",
        _mitosis, Tissue(tumour=0.75, mitoses=470, lookalikes=600), 0.25, 12, 2, 512,
    ),
    "metastasis": _Method(
        "Synthetic H&E patches of lymph node; label: 1 where the central 32 px hold tumour; mask: tumour",
        _metastasis, Tissue(tumour=0.35, lymphocytes=0.8, glands=0.0, vessels=0.15, mitoses=40), 1.0, 12, 24, 96,
    ),
    "cells": _Method(
        "Synthetic H&E fields; label: instance map; annotations: GeoJSON with "
        f"{WSA_NOISE:.0%} (wsa) and {SSA_NOISE:.0%} (ssa) of the classes wrong; classes: class map "
        + ", ".join(f"{c.value} {c.name.lower()}" for c in CellClass),
        _cells, Tissue(), 0.25, 12, 2, 512,
    ),
    "nuclei": _Method(
        "Synthetic H&E fields; label: instance map of nuclei; has_nuclei: whether there is any",
        _nuclei, Tissue(), 0.25, 12, 2, 256,
    ),
}  # fmt: skip


def slide_lists(count: int) -> list[str]:
    """Which list each slide belongs to: about one in six for validation and as many for testing."""
    held = max(1, round(count / 6))
    return ["training"] * (count - 2 * held) + ["validation"] * held + ["test"] * held


def _check(method: str, sizes: dict[str, int]) -> None:
    if method not in METHODS:
        raise InputError(
            "method",
            f"one of {', '.join(METHODS)}, nucleus_patches, vessels, slide, vessel_slide, camelyon16",
            str(method),
        )
    for name, least in (("slides", 3), ("fields", 1), ("size", 64)):
        if sizes[name] < least:
            raise InputError(name, f"at least {least}", str(sizes[name]))
    if method == "metastasis" and sizes["size"] > 512:
        raise InputError("size", "at most 512 for patches", str(sizes["size"]))


def write_dataset(
    method: str,
    dst: str | Path,
    *,
    slides: int | None = None,
    fields: int | None = None,
    size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a synthetic data set in the data contract of a bundle.

    Args:
        method: `mitosis`, `metastasis`, `cells` or `nuclei`.
        dst: folder to make; it appears only when the set is complete.
        slides: number of slides, each with its own stains and scanner; a slide is a group of the split.
        fields: number of fields (patches) of each slide.
        size: height and width of a field in pixels.
        seed: the same seed gives the same files.
        overwrite: replace a data set that the phantom wrote before.

    Returns:
        The path of `dataset.json`.

    Raises:
        InputError: an unknown method, a number too small, or a destination that is not free.
    """
    dst = Path(dst)
    recipe = METHODS.get(method)
    sizes = {
        name: int(getattr(recipe, name, 0) if value is None else value)
        for name, value in (("slides", slides), ("fields", fields), ("size", size))
    }
    _check(method, sizes)
    with new_folder(dst, "dataset.json", overwrite) as root:
        items: Items = {"training": [], "validation": [], "test": []}
        for number, split in enumerate(
            tqdm(slide_lists(sizes["slides"]), desc=f"phantom {method}", unit="slide", disable=None)
        ):
            slide_seed = int(hash64(seed, method, number)[0] >> np.uint64(16))
            slide = phantom_slide(slide_seed, name=f"slide_{number:03d}", mpp=recipe.mpp, tissue=recipe.tissue)
            written = recipe.write(
                DatasetFolder(root, recipe.mpp),
                slide,
                np.random.default_rng(slide_seed),
                sizes["fields"],
                sizes["size"],
            )
            items[split] += [{**item, "group": slide.name, "mpp": recipe.mpp} for item in written]
        about = {
            "name": f"phantom {method}",
            "description": recipe.description,
            "licence": "CC0-1.0",
            "mpp": recipe.mpp,
            "seed": seed,
            **({"class_names": [kind.name.lower() for kind in CellClass if kind]} if method == "cells" else {}),
        }
        (root / "dataset.json").write_bytes(orjson.dumps({**about, **items}, option=orjson.OPT_INDENT_2))
    return dst / "dataset.json"
