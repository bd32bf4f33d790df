"""Pictures of single cells: sprites, drawn anew for each slide, from which tissue is stamped together.

A sprite has four channels: hematoxylin and eosin (optical density, already multiplied by coverage), coverage (how much
of what lies below is displaced) and the nucleus itself (1 inside, 0 outside), from which instance maps are cut.

Packed chromatin leaves no room for what eosin stains: there, as in red cells the other way round, a pixel holds one
stain only. Those pixels are what methods find the stains' vectors by.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray

from monai_ext.phantom.noise import hash64

__all__ = ["FORMS", "REACH", "CellClass", "Form", "sprites"]

Array = NDArray[np.float32]
_TRACE = 0.03  # eosin left in condensed chromatin, about 1 % of its density


class CellClass(IntEnum):
    """Values of the class map."""

    BACKGROUND = 0
    LYMPHOCYTE = 1
    STROMA = 2
    EPITHELIUM = 3
    TUMOUR = 4
    MITOSIS = 5
    LOOKALIKE = 6


class _Canvas:
    """`count` pictures of one form drawn at once on a square grid in um, origin in the middle."""

    def __init__(self, rng: np.random.Generator, count: int, radius: float, pitch: float) -> None:
        side = 2 * int(np.ceil(radius / pitch)) + 1
        axis = ((np.arange(side) - side // 2) * pitch).astype(np.float32)
        self.rng, self.count, self.side, self.pitch = rng, count, side, pitch
        self.y, self.x = axis[:, None], axis[None, :]

    def draw(self, low: float, high: float) -> Array:
        """One random number per picture, `(count, 1, 1)`."""
        return self.rng.uniform(low, high, (self.count, 1, 1)).astype(np.float32)

    def noise(self, scale: float) -> Array:
        """Smooth noise of unit variance whose grains are about `scale` um wide."""
        field = self.rng.standard_normal((self.count, self.side, self.side), dtype=np.float32)
        sigma = max(scale / self.pitch / 2, 0.3)
        return np.stack(
            [_standardise(cv2.GaussianBlur(f, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)) for f in field]
        )

    def ellipse(self, a: Array, b: Array, wobble: float, y: Array | float = 0.0, x: Array | float = 0.0) -> Array:
        """Signed distance (um, positive inside) to an ellipse whose outline is bent by low harmonics."""
        u, v = (self.x - x) / a, (self.y - y) / b
        distance = np.sqrt(u * u + v * v)
        turn = power = (u + 1j * v) / np.maximum(
            distance, 1e-6
        )  # its k-th power holds cos and sin of k times the angle
        outline = np.ones_like(distance)
        for order in range(2, 8):
            power = power * turn
            wave = 1.5 * wobble / order * self.draw(-1, 1) * np.exp(1j * self.draw(0, 2 * np.pi))
            outline += (wave * power).real
        return np.minimum(a, b) * (1 - distance / outline)

    def bar(self, length: Array, width: Array, bend: Array | float, y: Array | float = 0.0) -> Array:
        """Signed distance to a rounded, slightly curved bar along x."""
        v = np.abs(self.y - y - bend * self.x**2) / (width / 2)
        u = np.abs(self.x) / (length / 2)
        return width / 2 * (1 - (u**3 + v**3) ** (1 / 3))


def _standardise(field: Array) -> Array:
    return (field - field.mean()) / field.std()


def _inside(distance: Array, edge: float) -> Array:
    """1 inside, 0 outside, with an edge about `edge` um wide."""
    return 1 / (1 + np.exp(np.clip(-4 / edge * distance, -30, 30)))


def _room(h: Array) -> Array:
    """What chromatin of this density leaves to eosin: all of it in pale nucleoplasm, nothing in clumps; 0..1."""
    return _inside(0.85 - h, 0.5)


def _sprite(nucleus: Array, h: Array, e: Array, cover: Array) -> Array:
    return np.stack(np.broadcast_arrays(h, e, cover, nucleus), axis=-1).astype(np.float32)


def _interphase(  # the parameters are what pathologists describe nuclei by
    c: _Canvas,
    *,
    axes: tuple[float, float],
    spread: float = 0.15,
    wobble: float = 0.05,
    density: float = 1.0,
    contrast: float = 0.2,
    grain: float = 0.9,
    membrane: float = 0.3,
    nucleoli: int = 0,
    edge: float = 0.35,
) -> Array:
    """A resting nucleus: outline, chromatin, membrane, nucleoli."""
    size = c.draw(1 - spread, 1 + spread)
    a, b = axes[0] * size * c.draw(0.92, 1.08), axes[1] * size * c.draw(0.85, 1.15)
    distance = c.ellipse(a, b, wobble)
    nucleus = _inside(distance, edge)
    chromatin = contrast * (0.75 * c.noise(grain) + 0.5 * c.noise(grain * 2.2))
    h = density * c.draw(0.8, 1.2) * np.clip(1 + chromatin, 0.25, 2.2)
    h = h + membrane * c.draw(0.7, 1.3) * np.exp(-(((distance - 0.35) / 0.4) ** 2))
    e = (0.3 + 0.04 * c.noise(1.2)) * _room(h)
    for _ in range(nucleoli):
        turn, far = c.draw(0, 2 * np.pi), c.draw(0.05, 0.6)
        radius = c.draw(0.5, 1.15) * (c.draw(0, 1) < 0.8)
        away = np.hypot(c.x - far * a * np.cos(turn), c.y - far * b * np.sin(turn))
        spot = _inside(radius - away, 0.5) * (radius > 0)
        h, e = h + 0.75 * density * spot, e + 0.35 * spot
    return _sprite(nucleus, h * nucleus, e * nucleus, nucleus)


def _cell_body(c: _Canvas, distance: Array, h: float, e: float) -> tuple[Array, Array, Array]:
    """Cytoplasm: pale, finely granular, with a hint of a border; hematoxylin, eosin and coverage."""
    cover = 0.75 * _inside(distance, 1.5)
    rim = np.exp(-(((distance - 0.3) / 0.45) ** 2))
    grain = 1 + 0.16 * c.noise(0.7) + 0.1 * c.noise(3)
    return h * grain * cover, e * (grain + 0.35 * rim) * cover, cover


def _cytoplasm(c: _Canvas, h: float, e: float) -> Array:
    """The body of a tumour or gland cell; has no nucleus of its own."""
    h_map, e_map, cover = _cell_body(c, c.ellipse(c.draw(7, 9.5), c.draw(6, 8.5), 0.12), h, e)
    tint = c.draw(0.75, 1.25)
    return _sprite(np.zeros_like(cover), h_map * tint, e_map * tint, cover)


def _figure(c: _Canvas, distance: Array, body: Array, ragged: float, holes: float = 0.0) -> Array:
    """Chromosomes: dense, no membrane, fuzzy projections; the cell around them is rounded up and clear."""
    distance = distance + ragged * (0.6 * c.noise(0.8) + 0.45 * c.noise(1.7)) - holes * np.clip(c.noise(1.6), 0, 2)
    chromosomes = _inside(distance, 0.5)
    h, e, cover = _cell_body(c, body, 0.15, 0.5)
    clear = 1 - c.draw(0.1, 0.5) * np.exp(-np.clip(-distance, 0, None) / 1.6)
    h, e = h * clear, e * clear
    dense = 2.45 * c.draw(0.8, 1.15) * np.clip(1 + 0.10 * c.noise(0.9), 0.5, 1.5)
    keep = 1 - chromosomes
    return _sprite(
        chromosomes, h * keep + dense * chromosomes, e * keep + _TRACE * chromosomes, np.maximum(cover, chromosomes)
    )


def _metaphase(c: _Canvas) -> Array:
    plate = c.bar(c.draw(8, 12), c.draw(2.8, 4.6), c.draw(-0.02, 0.02))
    return _figure(c, plate, c.ellipse(c.draw(7, 9), c.draw(6.5, 8.5), 0.05), 0.45)


def _prometaphase(c: _Canvas) -> Array:
    clump = c.ellipse(c.draw(3.6, 5.0), c.draw(3.0, 4.4), 0.22)
    return _figure(c, clump, c.ellipse(c.draw(6.5, 8.5), c.draw(6.5, 8.5), 0.06), 0.6, holes=0.8)


def _ring(c: _Canvas) -> Array:
    radius, width = c.draw(2.4, 3.3), c.draw(2.2, 3.0)
    distance = width / 2 - np.abs(np.hypot(c.x, c.y * c.draw(1, 1.25)) - radius)
    return _figure(c, distance, c.ellipse(c.draw(7, 8.5), c.draw(7, 8.5), 0.05), 0.45)


def _separating(c: _Canvas, low: float, high: float, length: tuple[float, float], furrow: float) -> Array:
    """Two plates moving apart: anaphase when near, telophase (with a furrow between two bodies) when far."""
    apart, bend = c.draw(low, high), c.draw(0.01, 0.05)
    size, width = c.draw(*length), c.draw(2.3, 3.4)
    plates = np.maximum(c.bar(size, width, bend, -apart / 2), c.bar(size * c.draw(0.9, 1.1), width, -bend, apart / 2))
    radius = c.draw(6.3, 7.3)
    lobe = partial(c.ellipse, radius, radius * 0.85, 0.04)
    body = np.maximum(lobe(y=-apart / 2 * furrow), lobe(y=apart / 2 * furrow))
    return _figure(c, plates, body, 0.35)


def _anaphase(c: _Canvas) -> Array:
    return _separating(c, 4.2, 7.0, (6.5, 9.0), furrow=0.8)


def _telophase(c: _Canvas) -> Array:
    return _separating(c, 8.5, 11.5, (5.5, 7.5), furrow=1.15)


def _dense(c: _Canvas, distance: Array, edge: float) -> tuple[Array, Array]:
    """Condensed chromatin without structure: smooth rim, even density."""
    nucleus = _inside(distance, edge)
    return nucleus, 2.45 * c.draw(0.75, 1.15) * (1 + 0.04 * c.noise(1.5)) * nucleus


def _apoptotic(c: _Canvas) -> Array:
    """Smooth globules in a shrunken, strongly eosinophilic cell with a white halo of retraction."""
    distance = np.full((c.count, c.side, c.side), -9.0, np.float32)
    for part in range(4):
        radius = c.draw(2.3, 3.4) if part == 0 else c.draw(0.7, 1.9) * (c.draw(0, 1) < 0.6)
        far, turn = c.draw(0, 1) if part == 0 else c.draw(1.8, 4.2), c.draw(0, 2 * np.pi)
        away = np.hypot(c.x - far * np.cos(turn), c.y - far * np.sin(turn))
        distance = np.maximum(distance, np.where(radius > 0, radius - away, -9.0))
    nucleus, dense = _dense(c, distance, 0.35)
    shape = c.ellipse(c.draw(4.5, 6.0), c.draw(4.2, 5.6), 0.05)
    retraction = c.draw(0, 2.0) + 0.9 * c.noise(3.5)  # a white halo, seldom complete
    body, halo = _inside(shape, 0.8), _inside(shape + retraction, 1.0)
    keep = body * (1 - nucleus)
    eosin = c.draw(0.75, 1.35) * (1 + 0.08 * c.noise(1.0)) * keep
    return _sprite(
        nucleus, dense + 0.12 * keep, eosin + _TRACE * nucleus, np.maximum(np.maximum(0.85 * halo, body), nucleus)
    )


def _pyknotic(c: _Canvas) -> Array:
    """One shrunken, round or oval, ink-drop nucleus."""
    a = c.draw(2.9, 4.6)
    nucleus, dense = _dense(c, c.ellipse(a, a * c.draw(0.6, 1.0), 0.035), 0.3)
    body = _inside(c.ellipse(c.draw(5, 6.5), c.draw(4.5, 6), 0.06), 0.8) * (1 - nucleus)
    return _sprite(nucleus, dense + 0.05 * body, 0.75 * body + _TRACE * nucleus, np.maximum(0.7 * body, nucleus))


def _smudged(c: _Canvas) -> Array:
    """A dark nucleus out of the focal plane, or crushed: no detail, soft margin."""
    distance = c.ellipse(c.draw(3.4, 6.0), c.draw(1.9, 3.4), 0.1)
    nucleus = _inside(distance, 2.2)
    h = 2.5 * c.draw(0.8, 1.15) * nucleus
    return _sprite(nucleus, h, _TRACE * nucleus, nucleus)


def _spindle(c: _Canvas) -> Array:
    """A hyperchromatic, tapered nucleus: a metaphase plate's double at low power, but smooth and pointed."""
    u, half = np.abs(c.x) / c.draw(4.5, 7.0), c.draw(1.3, 2.0)
    distance = half * np.clip(1 - u**1.7, -1, 1)
    nucleus, dense = _dense(c, distance - np.abs(c.y - c.draw(-0.02, 0.02) * c.x**2), 0.4)
    return _sprite(nucleus, dense * 0.95, _TRACE * nucleus, nucleus)


def _debris(c: _Canvas) -> Array:
    """Angular dark precipitate on top of the section: no cell around it."""
    distance = np.full((c.count, c.side, c.side), -9.0, np.float32)
    for _ in range(3):
        turn, half = c.draw(0, np.pi), c.draw(1.2, 3.2)
        y, x = c.y - c.draw(-2, 2), c.x - c.draw(-2, 2)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        distance = np.maximum(distance, np.minimum(half - np.abs(u), half * c.draw(0.4, 0.9) - np.abs(v)))
    speck = _inside(distance, 0.25)
    h = 2.5 * c.draw(0.8, 1.2) * np.clip(1 + 0.1 * c.noise(0.6), 0.4, 1.6)
    return _sprite(speck, h * speck, c.draw(0.3, 1.2) * speck, speck)


def _red_cell(c: _Canvas) -> Array:
    """An erythrocyte: no nucleus, eosin only, paler in the middle."""
    distance = c.ellipse(c.draw(2.9, 3.6), c.draw(2.2, 3.4), 0.05)
    body = _inside(distance, 0.5)
    return _sprite(np.zeros_like(body), 0 * body, (1.25 - 0.12 * np.clip(distance, 0, 3)) * body, 0.95 * body)


@dataclass(frozen=True)
class Form:
    """One kind of picture: its class, the radius (um) that holds it, how many variants a slide has, who draws it."""

    name: str
    label: CellClass
    radius: float
    variants: int
    draw: partial | type(_metaphase)


def _resting(**kwargs: float | tuple[float, float]) -> partial:
    return partial(_interphase, **kwargs)


_C = CellClass
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("tumour_body", _C.BACKGROUND, 11, 16, partial(_cytoplasm, h=0.20, e=0.52)),
        Form("gland_body", _C.BACKGROUND, 11, 8, partial(_cytoplasm, h=0.12, e=0.52)),
        Form("red_cell", _C.BACKGROUND, 5, 8, _red_cell),
        Form("lymphocyte", _C.LYMPHOCYTE, 5.5, 24,
             _resting(axes=(3.3, 3.0), spread=0.15, wobble=0.07, density=1.7, contrast=0.26, membrane=0.2)),
        Form("fibroblast", _C.STROMA, 12, 24,
             _resting(axes=(6.5, 1.7), spread=0.25, wobble=0.10, density=1.35, contrast=0.18, membrane=0.2)),
        Form("endothelial", _C.STROMA, 8, 16,
             _resting(axes=(4.2, 1.3), spread=0.25, wobble=0.12, density=1.4, contrast=0.15, membrane=0.1)),
        Form("muscle", _C.STROMA, 14, 12,
             _resting(axes=(8.5, 1.7), spread=0.2, wobble=0.05, density=1.05, contrast=0.15, membrane=0.2)),
        Form("epithelial", _C.EPITHELIUM, 9, 24,
             _resting(axes=(5.4, 3.9), wobble=0.05, density=0.95, contrast=0.25, membrane=0.4, nucleoli=1)),
        Form("tumour", _C.TUMOUR, 11.5, 40,
             _resting(axes=(6.3, 5.1), spread=0.22, wobble=0.12, density=0.85, contrast=0.45, grain=1.2, membrane=0.5,
                      nucleoli=3)),
        Form("tumour_dark", _C.TUMOUR, 10.5, 24,
             _resting(axes=(5.8, 4.4), spread=0.2, wobble=0.15, density=1.45, contrast=0.3, grain=1.2, membrane=0.2)),
        Form("metaphase", _C.MITOSIS, 12, 24, _metaphase),
        Form("prometaphase", _C.MITOSIS, 12, 16, _prometaphase),
        Form("ring", _C.MITOSIS, 12, 8, _ring),
        Form("anaphase", _C.MITOSIS, 14, 12, _anaphase),
        Form("telophase", _C.MITOSIS, 17, 12, _telophase),
        Form("apoptotic", _C.LOOKALIKE, 10, 24, _apoptotic),
        Form("pyknotic", _C.LOOKALIKE, 9, 16, _pyknotic),
        Form("smudged", _C.LOOKALIKE, 11, 16, _smudged),
        Form("spindle", _C.LOOKALIKE, 9, 16, _spindle),
        Form("debris", _C.LOOKALIKE, 8, 16, _debris),
        # large healthy cells in the blood, which resemble those of a well differentiated tumour
        Form("monocyte", _C.LYMPHOCYTE, 8.5, 24,
             _resting(axes=(4.7, 3.7), spread=0.18, wobble=0.16, density=1.15, contrast=0.3, membrane=0.3)),
        Form("plump", _C.STROMA, 10, 32,
             _resting(axes=(5.2, 4.1), spread=0.18, wobble=0.07, density=0.88, contrast=0.28, membrane=0.4,
                      nucleoli=1)),
    )
}  # fmt: skip
REACH = max(form.radius for form in FORMS.values()) * 1.3  # um; no sprite, at any scale used, extends further


@lru_cache(maxsize=80)
def sprites(seed: int, mpp: float, name: str) -> tuple[Array, NDArray[np.float64]]:
    """Every variant of one form on the slide with this seed at `mpp` um/px; drawn at first use.

    Returns:
        Sprites `(variants, S, S, 4)`, and `(variants, 2)` the centres of mass (row, column) of their nuclei.
    """
    form = FORMS[name]
    rng = np.random.default_rng(int(hash64(seed, "atlas", form.name)[0]))
    finer = max(1, round(mpp / 0.25))  # coarse pixels are averages of fine ones, not samples
    canvas = _Canvas(rng, form.variants, form.radius, mpp / finer)
    drawn = form.draw(canvas)
    if finer > 1:
        side = -(-canvas.side // finer) | 1
        pad = side * finer - canvas.side
        drawn = np.pad(drawn, ((0, 0), (pad // 2, pad - pad // 2), (pad // 2, pad - pad // 2), (0, 0)))
        drawn = np.stack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in drawn])
    side = drawn.shape[1]
    mass = drawn[..., 3] + (1e-6 if form.label else 1)  # a form without a nucleus turns about its middle
    weight = mass.sum((1, 2))
    axis = np.arange(side)
    centres = np.stack([(mass.sum(2) @ axis) / weight, (mass.sum(1) @ axis) / weight], axis=1)
    return np.ascontiguousarray(drawn), centres
