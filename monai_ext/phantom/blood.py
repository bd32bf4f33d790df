"""What lies in a vessel: red cells, lymphocytes, fibrin, large healthy cells; cancerous ones among them if invaded.

Lengths are in um; everything is a pure function of the seed and of the vessel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from monai_ext.phantom.noise import hash64
from monai_ext.phantom.places import FORM_NUMBER, Cells, Floats, cells_at, jittered_grid, noise_at, uid_of
from monai_ext.phantom.structures import Structure

__all__ = ["Blood", "blood_cells", "fluid"]

Range = tuple[float, float]

_LARGE, _SMALL = 11.0, 6.4  # um between places for large cells, and for red cells and lymphocytes
_APART = 7.5  # um from a large cell's middle within which no small one lies


@dataclass(frozen=True)
class Blood:
    """Composition of what lies in vessels. A vessel's own shares are drawn between two limits.

    An invaded vessel is hard to tell where few of its large cells are cancerous, and where those look as healthy ones
    do; a healthy one where cells look cancerous that are not.

    Args:
        large: share of the places for large cells that hold one.
        tumour: share of the large cells of an invaded vessel that are cancerous, at least `fewest` of them.
        fewest: see `tumour`.
        lymphocytes: share of the small cells that are lymphocytes; the others are red cells.
        grade: size of a slide's cancerous nuclei relative to those in its tumour: small ones resemble healthy cells.
        atypical: chance that a healthy vessel holds one to three cells with the looks of cancerous ones.
    """

    large: Range = (0.3, 0.8)
    tumour: Range = (0.1, 1.0)
    fewest: int = 3
    lymphocytes: Range = (0.02, 0.25)
    grade: Range = (0.95, 1.3)
    atypical: float = 0.08


def fluid(seed: int, label: str) -> tuple[float, float]:
    """How much eosin a vessel's plasma takes up (optical density), and how much fibrin it holds (0 to 1)."""
    rng = _generator(seed, "fluid", label)
    return float(rng.uniform(0.0, 0.2)), float(rng.uniform() ** 2)


def blood_cells(seed: int, blood: Blood, shape: Structure) -> Iterator[Cells]:
    """The cells in a vessel's lumen, bodies and nuclei: the large ones, then the small ones around them.

    Args:
        seed: the slide's.
        blood: its composition.
        shape: the vessel.
    """
    rng = _generator(seed, "blood", shape.label)
    y, x, clump = _places(seed, shape, _LARGE, 5.0, 45)
    count = min(len(y), max(blood.fewest + 1, round(_log_uniform(rng, blood.large) * len(y))))
    large = np.argsort(-clump, kind="stable")[:count]
    y, x = y[large], x[large]
    # cancerous cells keep together, though not apart from the others
    together = noise_at(seed, y, x, "kind", 60) + 0.7 * rng.standard_normal(count)
    malignant = 0
    if shape.invaded:
        malignant = max(blood.fewest, round(rng.uniform(*blood.tumour) * count))
    elif rng.uniform() < blood.atypical:
        malignant = int(rng.integers(1, 4))
    cancerous = np.zeros(count, bool)
    cancerous[np.argsort(-together, kind="stable")[:malignant]] = True
    grade = _generator(seed, "grade").uniform(*blood.grade)
    yield from _large_cells(seed, rng, shape, (y, x), cancerous, grade)
    centres = np.c_[y, x]
    y, x, clump = _places(seed, shape, _SMALL, 3.0, 35)
    hematocrit, white = rng.uniform(0, 0.75), _log_uniform(rng, blood.lymphocytes)
    chance = rng.uniform(size=len(y))
    # red cells lie together, lymphocytes anywhere
    order = np.argsort(np.argsort(-clump, kind="stable"), kind="stable")
    taken = (order < hematocrit * len(y)) & (chance < 0.9) | (chance < 0.25 * white)
    if len(centres) and len(y):
        taken &= cKDTree(centres).query(np.c_[y, x])[0] > _APART
    form = np.where(rng.uniform(size=len(y)) < white, FORM_NUMBER["lymphocyte"], FORM_NUMBER["red_cell"])
    form = np.where(order < hematocrit * len(y), form, FORM_NUMBER["lymphocyte"])
    yield _numbered(seed, shape, y[taken], x[taken], form[taken], 4)


def _large_cells(
    seed: int, rng: np.random.Generator, shape: Structure, yx: tuple[Floats, Floats], cancerous: NDArray, grade: float
) -> Iterator[Cells]:
    """Bodies and nuclei of large cells; the healthy ones of a vessel are of one kind mostly."""
    count = len(cancerous)
    mostly, dark = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.4)
    healthy = np.where(rng.uniform(size=count) < mostly, FORM_NUMBER["plump"], FORM_NUMBER["monocyte"])
    tumour = np.where(rng.uniform(size=count) < dark, FORM_NUMBER["tumour_dark"], FORM_NUMBER["tumour"])
    pale = rng.uniform(size=count) < np.where(cancerous, 0.3, 0.6)
    bodies = np.where(pale, FORM_NUMBER["gland_body"], FORM_NUMBER["tumour_body"])
    size = np.where(cancerous, grade, rng.uniform(0.92, 1.12))
    tone = rng.uniform(0.85, 1.15)
    for form, layer in ((bodies, 0), (np.where(cancerous, tumour, healthy), 7)):
        cells = _numbered(seed, shape, *yx, form, layer)
        yield replace(cells, scale=cells.scale * size, tone=cells.tone * tone)


def _places(seed: int, shape: Structure, pitch: float, inset: float, clumps: float) -> tuple[Floats, Floats, Floats]:
    """Places for cells in a lumen, ``inset`` um from its wall: y, x and smooth noise by which they clump."""
    outline, reach = shape.outline, shape.outline.reach
    window = (outline.y - reach, outline.x - reach, outline.y + reach, outline.x + reach)
    _, _, y, x, _ = jittered_grid(seed, f"{shape.label} {pitch}", pitch, window, 0.5)
    inside = outline.depth(y, x) > shape.wall + inset
    y, x = y[inside], x[inside]
    return y, x, noise_at(seed, y, x, f"clump {pitch}", clumps)


def _numbered(seed: int, shape: Structure, y: Floats, x: Floats, form: NDArray, layer: int) -> Cells:
    i, j = (np.array([key], np.int64) for key in shape.key)
    return cells_at(seed, uid_of(layer, i, j, np.arange(len(y))), y, x, form)


def _generator(seed: int, *names: str) -> np.random.Generator:
    """The random generator of one part of the slide."""
    return np.random.default_rng(int(hash64(seed, *names)[0]))


def _log_uniform(rng: np.random.Generator, limits: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
