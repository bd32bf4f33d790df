"""Where everything lies: regions, glands and vessels, cells.

Lengths are in um; everything is a pure function of the seed and the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtri

from monai_ext.data.phantom.noise import Noise, hash64, point_noise, uniform
from monai_ext.data.phantom.nuclei import FORMS

__all__ = ["Blob", "Cells", "Structure", "Tissue", "Window", "fibre_coordinate", "plan_cells", "structures_in"]

Floats = NDArray[np.float64]
Window = tuple[float, float, float, float]  # top, left, bottom, right in um

FORM_NAMES = tuple(FORMS)
_FORM = {name: index for index, name in enumerate(FORM_NAMES)}
_VARIANTS = np.array([form.variants for form in FORMS.values()])
_STRUCTURE_PITCH = 170.0  # um between the grid points that may carry a gland or a vessel
_SEPTUM_PITCH = 34.0  # um, about the size of a nest of tumour cells
_EVENT_PITCH = 24.0  # um between places where a mitosis or a look-alike may lie


@dataclass(frozen=True)
class Tissue:
    """Composition of the tissue.

    Args:
        tumour: fraction of the area that is tumour.
        lymphocytes: fraction of the stroma that is densely infiltrated.
        glands: chance that a place (one per 170 um square) outside tumour holds a gland.
        vessels: chance that it holds a vessel instead.
        invaded: chance that a vessel holds tumour cells.
        mitoses: mitotic figures per mm2 of tumour.
        lookalikes: apoptotic, pyknotic, smudged nuclei and debris per mm2 of tissue.
        cellularity: fraction of the places for a cell that are taken.
        spread: size of the tumour's regions; 1: about 0.1 mm across.
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


@dataclass(frozen=True)
class Blob:
    """A closed, star-shaped outline: an ellipse bent by harmonics. Lengths in um."""

    y: float
    x: float
    radius: float
    aspect: float
    angle: float
    amplitudes: NDArray[np.float64]
    phases: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, y: float, x: float, radius: float, wobble: float = 0.12) -> Blob:
        """A random outline about (y, x) that stays within 1.35 x radius."""
        orders = np.arange(2, 7)
        return cls(y, x, radius, float(rng.uniform(0.6, 1.0)), float(rng.uniform(0, np.pi)),
                   wobble * rng.uniform(-1, 1, 5) * 2 / orders, rng.uniform(0, 2 * np.pi, 5))  # fmt: skip

    @property
    def reach(self) -> float:
        """Radius (um) of a circle that holds the outline."""
        return self.radius * float(1 + np.abs(self.amplitudes).sum())

    def outline(self, theta: Floats) -> Floats:
        """Relative radius of the outline at angles of the blob's own frame."""
        waves = np.ones_like(theta)
        for order, (amplitude, phase) in enumerate(zip(self.amplitudes, self.phases, strict=True), start=2):
            waves += amplitude * np.cos(order * theta + phase)
        return waves

    def depth(self, y: Floats, x: Floats) -> Floats:
        """About the distance inside the outline in um (negative outside); `y`, `x` broadcast."""
        dy, dx = y - self.y, x - self.x
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u, v = dx * cos + dy * sin, (dy * cos - dx * sin) / self.aspect
        return self.radius * self.aspect * (1 - np.sqrt(u * u + v * v) / self.radius / self.outline(np.arctan2(v, u)))

    def ring(self, spacing: float, inset: float) -> tuple[Floats, Floats, Floats]:
        """Points about `spacing` um apart, `inset` um inside the outline: y, x and the outline's direction there."""
        count = max(3, int(2 * np.pi * self.radius * (1 + self.aspect) / 2 / spacing))
        fine = np.linspace(0, 2 * np.pi, 16 * count + 1)
        edge = (self.radius - inset / self.aspect) * self.outline(fine)
        u, v = edge * np.cos(fine), edge * np.sin(fine) * self.aspect
        way = np.concatenate([[0], np.cumsum(np.hypot(np.diff(u), np.diff(v)))])
        place = np.interp((np.arange(count) + 0.5) / count * way[-1], way, fine)
        u, v = np.interp(place, fine, u), np.interp(place, fine, v)
        tangent = np.interp(
            place,
            fine,
            np.unwrap(
                np.arctan2(
                    np.gradient(np.interp(fine, fine, edge * np.sin(fine) * self.aspect)),
                    np.gradient(edge * np.cos(fine)),
                )
            ),
        )
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.y + u * sin + v * cos, self.x + u * cos - v * sin, tangent + self.angle


@dataclass(frozen=True)
class Structure:
    """A gland or a vessel: an outline, a wall of some thickness (um) and a lumen."""

    kind: str
    outline: Blob
    wall: float
    invaded: bool
    key: tuple[int, int]

    @property
    def label(self) -> str:
        """Name that is unique within the slide."""
        return f"{self.kind}_{self.key[0]}_{self.key[1]}"


@dataclass(frozen=True)
class Cells:
    """A table of cells in the order in which they are painted; every array has one entry per cell.

    Args:
        uid: a number that names the cell within its slide, whichever tile it is read from.
        y: row of the nucleus' centre in um.
        x: column of the nucleus' centre in um.
        form: index into the sprites' forms.
        variant: which sprite of that form.
        angle: rotation in radians.
        scale: size relative to the sprite.
        tone: stain uptake relative to the sprite.
        flip: mirrored or not.
    """

    uid: NDArray[np.int64]
    y: Floats
    x: Floats
    form: NDArray[np.int64]
    variant: NDArray[np.int64]
    angle: Floats
    scale: Floats
    tone: Floats
    flip: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def bodies(self) -> int:
        """How many come first as mere cytoplasm, below all nuclei."""
        return int(np.searchsorted(self.uid >> 59, 1))

    def take(self, index: NDArray) -> Cells:
        """The cells at these indices, or where a mask is true."""
        return Cells(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def none() -> Cells:
        """An empty table."""
        return _cells(0, *(np.empty(0, kind) for kind in (np.int64, float, float, np.int64)))

    @staticmethod
    def join(tables: list[Cells]) -> Cells:
        """One table after the other."""
        return Cells(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(Cells)))


def _uid(layer: int, i: NDArray[np.int64], j: NDArray[np.int64], k: NDArray[np.int64] | int = 0) -> NDArray[np.int64]:
    """Pack layer (4 bits), grid place (2 x 23 bits) and a number within the place (13 bits)."""
    half = 1 << 22
    return (np.int64(layer) << 59) | ((i + half) << 36) | ((j + half) << 13) | np.asarray(k, np.int64)


def _cells(
    seed: int, uid: NDArray[np.int64], y: Floats, x: Floats, form: NDArray | int, *, angle: Floats | None = None
) -> Cells:
    """Cells at given places; what is left open (variant, size, tone, mirror, angle) follows from the uid."""
    bits = hash64(seed, "cell", uid)
    form = np.broadcast_to(np.asarray(form, np.int64), uid.shape)
    free = uniform(bits, 1) * 2 * np.pi
    return Cells(
        uid=uid, y=y, x=x, form=form,
        variant=(uniform(bits, 0) * _VARIANTS[form]).astype(np.int64),
        angle=free if angle is None else angle + 0.2 * (uniform(bits, 1) - 0.5),
        scale=0.9 + 0.2 * uniform(bits, 2),
        tone=0.85 + 0.3 * uniform(bits, 3),
        flip=uniform(bits, 4) < 0.5,
    )  # fmt: skip


def _grid(
    seed: int, name: str, pitch: float, window: Window, jitter: float
) -> tuple[NDArray, NDArray, Floats, Floats, NDArray]:
    """Jittered points of a staggered grid in a window (and a little around): i, j, y, x and 64 random bits of each."""
    top, left, bottom, right = window
    i, j = np.mgrid[int(top // pitch) - 1 : int(bottom // pitch) + 2, int(left // pitch) - 1 : int(right // pitch) + 2]
    i, j = i.ravel().astype(np.int64), j.ravel().astype(np.int64)
    bits = hash64(seed, name, i, j)
    y = (i + 0.5 + jitter * (uniform(bits, 0) - 0.5)) * pitch
    x = (j + 0.5 + 0.5 * (i % 2) - 0.25 + jitter * (uniform(bits, 1) - 0.5)) * pitch
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return i[inside], j[inside], y[inside], x[inside], bits[inside]


def structures_in(seed: int, tissue: Tissue, window: Window) -> list[Structure]:
    """Glands and vessels that touch a window."""
    top, left, bottom, right = window
    pitch, found = _STRUCTURE_PITCH, []
    for i in range(int(top // pitch) - 1, int(bottom // pitch) + 2):
        for j in range(int(left // pitch) - 1, int(right // pitch) + 2):
            rng = np.random.default_rng(int(hash64(seed, "structure", i, j)[0]))
            chance, radius = rng.uniform(), rng.uniform(20, 58)
            slack = max(pitch / 2 - 1.35 * radius, 0.0)
            y, x = (np.array([i, j]) + 0.5) * pitch + rng.uniform(-slack, slack, 2)
            outline = Blob.draw(rng, y, x, radius)
            wall, invaded = rng.uniform(), rng.uniform() < tissue.invaded
            noise = partial(_at, seed, y, x)
            if chance < tissue.vessels:
                shape = Structure("vessel", outline, 3.5 + 0.12 * radius * wall, invaded, (i, j))
            elif chance < tissue.vessels + tissue.glands and tissue.tumour_level(noise) < 0:
                shape = Structure("gland", outline, min(11 + 3 * wall, 0.6 * radius * outline.aspect), False, (i, j))
            else:
                continue
            reach = outline.reach
            if top - reach < y < bottom + reach and left - reach < x < right + reach:
                found.append(shape)
    return found


def _at(seed: int, y: Floats | float, x: Floats | float, name: str, wavelength: float) -> NDArray[np.float32]:
    return point_noise(seed, name, wavelength, np.asarray(y, np.float64), np.asarray(x, np.float64))


def _structure_cells(seed: int, shape: Structure) -> Iterator[Cells]:
    """Nuclei of a gland's epithelium, or of a vessel's wall and what floats in it."""
    i, j = (np.array([k], np.int64) for k in shape.key)
    outline, start = shape.outline, 0

    def numbered(y: Floats, x: Floats, form: NDArray | int, angle: Floats | None, layer: int) -> Cells:
        nonlocal start
        uid = _uid(layer, i, j, start + np.arange(len(y)))
        start += len(y)
        return _cells(seed, uid, y, x, form, angle=angle)

    if shape.kind == "gland":
        y, x, tangent = outline.ring(6.6, 0.42 * shape.wall)
        yield numbered(y, x, _FORM["gland_body"], None, 0)
        yield numbered(y, x, _FORM["epithelial"], tangent + np.pi / 2, 5)
        return
    for form, spacing, inset in (("endothelial", 9.0, shape.wall - 0.6), ("muscle", 19.0, 0.4 * shape.wall)):
        if form == "endothelial" or shape.wall > 6:
            y, x, tangent = outline.ring(spacing, inset)
            wall = numbered(y, x, _FORM[form], tangent, 2)
            yield wall.take(uniform(hash64(seed, "wall", wall.uid), 0) < 0.6)
    reach = outline.reach
    box = (outline.y - reach, outline.x - reach, outline.y + reach, outline.x + reach)
    _, _, y, x, bits = _grid(seed, f"lumen {shape.label}", 8.0, box, 0.55)
    depth = outline.depth(y, x) - shape.wall
    clump = _at(seed, y, x, "clump", 26)
    chance = uniform(bits, 2)
    blood = (depth > 3.5) & (clump > 0.4) & (chance < 0.85)
    form = np.where(chance < 0.06, _FORM["lymphocyte"], _FORM["red_cell"])
    if shape.invaded:
        malignant = (depth > 6) & (np.hypot(y - outline.y, x - outline.x) < 0.75 * outline.radius) & (clump < 0.9)
        form, blood = np.where(malignant, _FORM["tumour"], form), blood | malignant
    malignant = blood & (form == _FORM["tumour"])
    yield numbered(y[malignant], x[malignant], _FORM["tumour_body"], None, 0)
    yield numbered(y[blood], x[blood], form[blood], None, 4)


def _events(seed: int, tissue: Tissue, window: Window) -> Cells:
    """Mitotic figures (in tumour) and their look-alikes (anywhere), well apart from each other."""
    i, j, y, x, bits = _grid(seed, "event", _EVENT_PITCH, window, 0.5)
    place = _EVENT_PITCH**2 / 1e6  # mm2
    in_tumour = tissue.tumour_level(partial(_at, seed, y, x)) > 0.15
    chance, which = uniform(bits, 2), uniform(bits, 3)
    mitosis = in_tumour & (chance < tissue.mitoses * place)
    alike = ~mitosis & (chance > 1 - tissue.lookalikes * place)
    figures = ["metaphase", "prometaphase", "ring", "anaphase", "telophase"]
    doubles = ["apoptotic", "pyknotic", "smudged", "spindle", "debris"]
    pick = partial(np.searchsorted, side="right")
    figure = np.array([_FORM[n] for n in figures])[pick(np.cumsum([0.38, 0.28, 0.08, 0.14]), which)]
    double = np.array([_FORM[n] for n in doubles])[pick(np.cumsum([0.30, 0.28, 0.18, 0.12]), which)]
    taken = mitosis | alike
    cells = _cells(seed, _uid(6, i, j), y, x, np.where(mitosis, figure, double))
    return cells.take(taken)


def _fibre_angle(seed: int, y: Floats, x: Floats, angle: float) -> Floats:
    """Direction in which the fibres run at points, by finite differences."""
    step = 2.0

    def across(y: Floats, x: Floats) -> Floats:
        return fibre_coordinate(partial(_at, seed, y, x), y, x, angle)

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
    tables = [cells for shape in shapes for cells in _structure_cells(seed, shape)]
    events = _events(seed, tissue, tuple(np.add(window, (-16, -16, 16, 16))))

    i, j, y, x, bits = _grid(seed, "tumour cell", 11.5, window, 0.6)
    noise = partial(_at, seed, y, x)
    inside = (tissue.tumour_level(noise) > 0.1) & (uniform(bits, 2) < tissue.cellularity)
    inside &= tissue.septum_depth(noise) < -1.5
    form = np.where(uniform(bits, 3) < 0.1, _FORM["tumour_dark"], _FORM["tumour"])
    for layer, kind in ((0, _FORM["tumour_body"]), (5, form)):
        tables.append(_cells(seed, _uid(layer, i, j, 4096), y, x, kind).take(inside))

    i, j, y, x, bits = _grid(seed, "lymphocyte", 7.6, window, 0.8)
    noise, chance = partial(_at, seed, y, x), uniform(bits, 2)
    level, tumour = tissue.infiltrate_level(noise), tissue.tumour_level(noise)
    share = np.where(tumour > 0, 0.03, np.clip(0.25 + 0.7 * level, 0.04, 0.9))
    tables.append(_cells(seed, _uid(3, i, j), y, x, _FORM["lymphocyte"]).take(chance < share * tissue.cellularity))

    i, j, y, x, bits = _grid(seed, "stroma cell", 17, window, 0.9)
    outside = (tissue.tumour_level(partial(_at, seed, y, x)) < -0.1) & (uniform(bits, 2) < 0.7 * tissue.cellularity)
    i, j, y, x, bits = i[outside], j[outside], y[outside], x[outside], bits[outside]
    form = np.where(uniform(bits, 3) < 0.25, _FORM["muscle"], _FORM["fibroblast"])
    tables.append(_cells(seed, _uid(1, i, j), y, x, form, angle=_fibre_angle(seed, y, x, fibres)))

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
