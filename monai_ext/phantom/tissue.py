"""Where everything lies: regions, glands and vessels, cells.

Lengths are in um; everything is a pure function of the seed and the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtri

from monai_ext.phantom.blood import Blood, blood_cells
from monai_ext.phantom.noise import Noise, hash64, uniform
from monai_ext.phantom.nuclei import FORMS
from monai_ext.phantom.places import (
    FORM_NAMES,
    FORM_NUMBER,
    Cells,
    Floats,
    Window,
    cells_at,
    jittered_grid,
    noise_at,
    uid_of,
)
from monai_ext.phantom.structures import Blob, Structure

__all__ = ["Tissue", "fibre_coordinate", "plan_cells", "structures_in"]

_SEPTUM_PITCH = 34.0  # um, about the size of a nest of tumour cells
_EVENT_PITCH = 24.0  # um between places where a mitosis or a look-alike may lie


@dataclass(frozen=True)
class Tissue:
    """Composition of the tissue.

    Args:
        tumour: fraction of the area that is tumour.
        lymphocytes: fraction of the stroma that is densely infiltrated.
        glands: chance that a place (a square of `pitch`) outside tumour holds a gland.
        vessels: chance that it holds a vessel instead.
        invaded: chance that a vessel holds tumour cells.
        mitoses: mitotic figures per mm2 of tumour.
        lookalikes: apoptotic, pyknotic, smudged nuclei and debris per mm2 of tissue.
        cellularity: fraction of the places for a cell that are taken.
        spread: size of the tumour's regions; 1: about 0.1 mm across.
        pitch: um between places for a gland or a vessel.
        radius: smallest and largest radius of a gland or a vessel, um; at most `pitch` / 2.7.
        blood: what lies in vessels; None: a few red cells and lymphocytes, and tumour cells in the middle.
    """

    tumour: float = 0.55
    lymphocytes: float = 0.25
    glands: float = 0.25
    vessels: float = 0.3
    invaded: float = 0.3
    mitoses: float = 40.0
    lookalikes: float = 120.0
    cellularity: float = 0.9
    spread: float = 1.0
    pitch: float = 170.0
    radius: tuple[float, float] = (20.0, 58.0)
    blood: Blood | None = None

    def tumour_level(self, noise: Noise) -> Floats:
        """Positive in tumour nests, about um-scaled so that +-1 is their blurred margin."""
        wavelengths = tuple(self.spread * wavelength for wavelength in (190, 113, 67, 37, 17))
        return _contour(_rugged(noise, "tumour", wavelengths), self.tumour)

    @staticmethod
    def septum_depth(noise: Noise) -> Floats:
        """About the distance (um) inside the thin collagen septa that part the tumour's nests; negative outside."""
        height = noise("septum", _SEPTUM_PITCH) + 0.25 * noise("septum", _SEPTUM_PITCH / 3)
        return 2.5 - _SEPTUM_PITCH / 1.6 * np.abs(height)

    def infiltrate_level(self, noise: Noise) -> Floats:
        """Positive where stroma is densely infiltrated by lymphocytes."""
        return _contour(_rugged(noise, "lymphocytes", (131, 79, 47, 19)), self.lymphocytes)


def _rugged(noise: Noise, name: str, wavelengths: tuple[float, ...]) -> Floats:
    """A sum of bumps of several sizes, the larger the higher; variance 1."""
    weights = np.sqrt(np.array(wavelengths) / sum(wavelengths))
    return sum(weight * noise(name, wavelength) for weight, wavelength in zip(weights, wavelengths, strict=True))


def _contour(height: Floats, fraction: float) -> Floats:
    """Shift a standard normal height so that `fraction` of it is positive."""
    return height + ndtri(np.clip(fraction, 1e-9, 1 - 1e-9))


def fibre_coordinate(noise: Noise, y: Floats, x: Floats, angle: float) -> Floats:
    """Coordinate across the collagen fibres (um): they run along its level lines."""
    across = y * np.cos(angle) - x * np.sin(angle)
    return (
        across
        + 48 * noise("fibre", 230)
        + 15 * noise("fibre", 83)
        + 3.6 * noise("fibre", 29)
        + 0.9 * noise("fibre", 11)
    )


def structures_in(seed: int, tissue: Tissue, window: Window) -> list[Structure]:
    """Glands and vessels that touch a window."""
    top, left, bottom, right = window
    pitch, structures = tissue.pitch, []
    for i in range(int(top // pitch) - 1, int(bottom // pitch) + 2):
        for j in range(int(left // pitch) - 1, int(right // pitch) + 2):
            rng = np.random.default_rng(int(hash64(seed, "structure", i, j)[0]))
            chance, radius = rng.uniform(), rng.uniform(*tissue.radius)
            slack = max(pitch / 2 - 1.35 * radius, 0.0)
            y, x = (np.array([i, j]) + 0.5) * pitch + rng.uniform(-slack, slack, 2)
            outline = Blob.draw(rng, y, x, radius)
            wall, invaded = rng.uniform(), rng.uniform() < tissue.invaded
            noise = partial(noise_at, seed, y, x)
            if chance < tissue.vessels:
                shape = Structure("vessel", outline, 3.5 + 0.12 * radius * wall, invaded, (i, j))
            elif chance < tissue.vessels + tissue.glands and tissue.tumour_level(noise) < 0:
                shape = Structure("gland", outline, min(11 + 3 * wall, 0.6 * radius * outline.aspect), False, (i, j))
            else:
                continue
            reach = outline.reach
            if top - reach < y < bottom + reach and left - reach < x < right + reach:
                structures.append(shape)
    return structures


def _structure_cells(seed: int, tissue: Tissue, shape: Structure) -> Iterator[Cells]:
    """Nuclei of a gland's epithelium, or of a vessel's wall and what floats in it."""
    i, j = (np.array([k], np.int64) for k in shape.key)
    outline, start = shape.outline, 0

    def numbered(y: Floats, x: Floats, form: NDArray | int, angle: Floats | None, layer: int) -> Cells:
        nonlocal start
        uid = uid_of(layer, i, j, start + np.arange(len(y)))
        start += len(y)
        return cells_at(seed, uid, y, x, form, angle=angle)

    if shape.kind == "gland":
        y, x, tangent = outline.ring(6.6, 0.42 * shape.wall)
        yield numbered(y, x, FORM_NUMBER["gland_body"], None, 0)
        yield numbered(y, x, FORM_NUMBER["epithelial"], tangent + np.pi / 2, 5)
        return
    for form, spacing, inset in (("endothelial", 9.0, shape.wall - 0.6), ("muscle", 19.0, 0.4 * shape.wall)):
        if form == "endothelial" or shape.wall > 6:
            y, x, tangent = outline.ring(spacing, inset)
            wall = numbered(y, x, FORM_NUMBER[form], tangent, 2)
            yield wall.take(uniform(hash64(seed, "wall", wall.uid), 0) < 0.6)
    if tissue.blood is not None:
        yield from blood_cells(seed, tissue.blood, shape)
        return
    reach = outline.reach
    box = (outline.y - reach, outline.x - reach, outline.y + reach, outline.x + reach)
    _, _, y, x, bits = jittered_grid(seed, f"lumen {shape.label}", 8.0, box, 0.55)
    depth = outline.depth(y, x) - shape.wall
    clump = noise_at(seed, y, x, "clump", 26)
    chance = uniform(bits, 2)
    blood = (depth > 3.5) & (clump > 0.4) & (chance < 0.85)
    form = np.where(chance < 0.06, FORM_NUMBER["lymphocyte"], FORM_NUMBER["red_cell"])
    if shape.invaded:
        malignant = (depth > 6) & (np.hypot(y - outline.y, x - outline.x) < 0.75 * outline.radius) & (clump < 0.9)
        form, blood = np.where(malignant, FORM_NUMBER["tumour"], form), blood | malignant
    malignant = blood & (form == FORM_NUMBER["tumour"])
    yield numbered(y[malignant], x[malignant], FORM_NUMBER["tumour_body"], None, 0)
    yield numbered(y[blood], x[blood], form[blood], None, 4)


def _events(seed: int, tissue: Tissue, window: Window) -> Cells:
    """Mitotic figures (in tumour) and their look-alikes (anywhere), well apart from each other."""
    i, j, y, x, bits = jittered_grid(seed, "event", _EVENT_PITCH, window, 0.5)
    cell_area = _EVENT_PITCH**2 / 1e6  # mm2
    in_tumour = tissue.tumour_level(partial(noise_at, seed, y, x)) > 0.15
    chance, which = uniform(bits, 2), uniform(bits, 3)
    mitosis = in_tumour & (chance < tissue.mitoses * cell_area)
    alike = ~mitosis & (chance > 1 - tissue.lookalikes * cell_area)
    figures = ["metaphase", "prometaphase", "ring", "anaphase", "telophase"]
    doubles = ["apoptotic", "pyknotic", "smudged", "spindle", "debris"]
    pick = partial(np.searchsorted, side="right")
    figure = np.array([FORM_NUMBER[n] for n in figures])[pick(np.cumsum([0.38, 0.28, 0.08, 0.14]), which)]
    double = np.array([FORM_NUMBER[n] for n in doubles])[pick(np.cumsum([0.30, 0.28, 0.18, 0.12]), which)]
    taken = mitosis | alike
    cells = cells_at(seed, uid_of(6, i, j), y, x, np.where(mitosis, figure, double))
    return cells.take(taken)


def _fibre_angle(seed: int, y: Floats, x: Floats, angle: float) -> Floats:
    """Direction in which the fibres run at points, by finite differences."""
    step = 2.0

    def across(y: Floats, x: Floats) -> Floats:
        return fibre_coordinate(partial(noise_at, seed, y, x), y, x, angle)

    return np.arctan2(-(across(y, x + step) - across(y, x - step)), across(y + step, x) - across(y - step, x))


def plan_cells(seed: int, tissue: Tissue, window: Window, fibres: float, shapes: list[Structure]) -> Cells:
    """All cells whose centres lie in a window, in painting order.

    Args:
        seed: the slide's seed.
        tissue: its composition.
        window: top, left, bottom, right in um.
        fibres: main direction of the fibres in radians.
        shapes: glands and vessels near the window.
    """
    tables = [cells for shape in shapes for cells in _structure_cells(seed, tissue, shape)]
    events = _events(seed, tissue, tuple(np.add(window, (-16, -16, 16, 16))))

    i, j, y, x, bits = jittered_grid(seed, "tumour cell", 11.5, window, 0.6)
    noise = partial(noise_at, seed, y, x)
    inside = (tissue.tumour_level(noise) > 0.1) & (uniform(bits, 2) < tissue.cellularity)
    inside &= tissue.septum_depth(noise) < -1.5
    form = np.where(uniform(bits, 3) < 0.1, FORM_NUMBER["tumour_dark"], FORM_NUMBER["tumour"])
    for layer, kind in ((0, FORM_NUMBER["tumour_body"]), (5, form)):
        tables.append(cells_at(seed, uid_of(layer, i, j, 4096), y, x, kind).take(inside))

    i, j, y, x, bits = jittered_grid(seed, "lymphocyte", 7.6, window, 0.8)
    noise, chance = partial(noise_at, seed, y, x), uniform(bits, 2)
    level, tumour = tissue.infiltrate_level(noise), tissue.tumour_level(noise)
    share = np.where(tumour > 0, 0.03, np.clip(0.25 + 0.7 * level, 0.04, 0.9))
    tables.append(
        cells_at(seed, uid_of(3, i, j), y, x, FORM_NUMBER["lymphocyte"]).take(chance < share * tissue.cellularity)
    )

    i, j, y, x, bits = jittered_grid(seed, "stroma cell", 17, window, 0.9)
    outside = (tissue.tumour_level(partial(noise_at, seed, y, x)) < -0.1) & (
        uniform(bits, 2) < 0.7 * tissue.cellularity
    )
    i, j, y, x, bits = i[outside], j[outside], y[outside], x[outside], bits[outside]
    form = np.where(uniform(bits, 3) < 0.25, FORM_NUMBER["muscle"], FORM_NUMBER["fibroblast"])
    tables.append(cells_at(seed, uid_of(1, i, j), y, x, form, angle=_fibre_angle(seed, y, x, fibres)))

    loose = Cells.join(tables[-4:]).take(slice(None))
    fixed = tables[:-4]
    for shape in shapes:
        loose = loose.take(shape.outline.depth(loose.y, loose.x) < -2)
        events = events.take(shape.outline.depth(events.y, events.x) < -4)
    if len(events) and len(loose):
        distance, nearest = cKDTree(np.c_[events.y, events.x]).query(np.c_[loose.y, loose.x])
        size = np.array([FORMS[name].radius for name in FORM_NAMES])
        loose = loose.take(distance > np.minimum(0.55 * size[events.form[nearest]], 7.5) + 2.0)
    cells = Cells.join([*fixed, loose, events])
    top, left, bottom, right = window
    cells = cells.take((cells.y >= top) & (cells.y < bottom) & (cells.x >= left) & (cells.x < right))
    layer = cells.uid >> 59
    return cells.take(np.lexsort((hash64(seed, "order", cells.uid), layer)))
