"""Painting a window of a slide: stroma and tumour, glands and vessels, cells, and the edge of the tissue."""

from __future__ import annotations

from functools import lru_cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from monai_ext.phantom.blood import fluid
from monai_ext.phantom.noise import grid_noise, hash64
from monai_ext.phantom.nuclei import FORMS, REACH, sprites
from monai_ext.phantom.places import FORM_NAMES, Cells, Window
from monai_ext.phantom.slide import PhantomSlide
from monai_ext.phantom.structures import Structure
from monai_ext.phantom.tissue import fibre_coordinate, plan_cells, structures_in

__all__ = ["Canvas", "paint"]

Array = NDArray[np.float32]
_LABEL = np.array([form.label for form in FORMS.values()], np.uint8)
_RAGGED = 150.0  # um that the tissue's edge may reach beyond a fragment's outline

_TEXTURE = 1024  # px per side of the periodic textures
_TEXEL = 0.25  # um per pixel of the fibres' texture


@lru_cache(maxsize=4)
def _textures(seed: int, mpp: float) -> tuple[Array, Array]:
    """Periodic textures: fibres and clefts `(S, S, 2)` running along x, and isotropic grain `(S, S)`; unit variance."""
    rng = np.random.default_rng(int(hash64(seed, "textures")[0]))
    fy = fft.fftfreq(_TEXTURE)[:, None].astype(np.float32)
    fx = fft.rfftfreq(_TEXTURE)[None, :].astype(np.float32)

    def filtered(weight: Array) -> Array:
        white = rng.standard_normal((_TEXTURE, _TEXTURE), dtype=np.float32)
        out = fft.irfft2(fft.rfft2(white) * weight, s=(_TEXTURE, _TEXTURE))
        return (out - out.mean()) / out.std()

    def streaks(width: float, length: float) -> Array:
        return np.exp(-2 * np.pi**2 * ((fy * width) ** 2 + (fx * length) ** 2))

    coarse = max(mpp / _TEXEL - 1, 0) / 2  # what a coarser slide cannot resolve must not alias
    fibres = filtered((streaks(1.5, 30) / 2 + streaks(4, 60) + streaks(9, 110) * 2) * streaks(coarse, coarse))
    clefts = filtered(streaks(5, 45) + 2 * streaks(12, 80))
    grain = filtered(streaks(1, 1) + 4.5 * streaks(3, 3))
    return np.stack([fibres, clefts], axis=-1), grain


def _soft(level: Array, width: float) -> Array:
    """A soft step: 0 far below 0, 1 far above, .5 at 0; nearly 1 at `width`."""
    return 1 / (1 + np.exp(np.clip(-4 / width * level, -30, 30), dtype=np.float32))


class Canvas:
    """A window of the slide while it is being painted."""

    def __init__(self, slide: PhantomSlide, rows: range, columns: range) -> None:
        self.slide, self.rows, self.columns = slide, rows, columns
        self.y = (np.arange(rows.start, rows.stop) + 0.5) * slide.mpp
        self.x = (np.arange(columns.start, columns.stop) + 0.5) * slide.mpp
        self.shape = (len(rows), len(columns))
        self.window = (
            rows.start * slide.mpp,
            columns.start * slide.mpp,
            rows.stop * slide.mpp,
            columns.stop * slide.mpp,
        )
        self.noise = partial(_grid_noise, slide.seed, self.y, self.x)
        self.hematoxylin, self.eosin = np.zeros((2, *self.shape), np.float32)
        self.instances = np.zeros(self.shape, np.int32)
        self.vessel = np.zeros(self.shape, bool)
        self.tumour = np.zeros(self.shape, bool)
        self.cells = Cells.none()

    def ground(self) -> None:
        """Stroma and the tumour's ground substance."""
        slide = self.slide
        fibre_texture, grain_texture = _textures(slide.seed, slide.mpp)
        across = fibre_coordinate(self.noise, self.y[:, None], self.x[None, :], slide.fibres)
        along = self.x[None, :] * np.cos(slide.fibres) + self.y[:, None] * np.sin(slide.fibres)
        u, v = along / _TEXEL, across / _TEXEL
        u -= u.flat[0] // _TEXTURE * _TEXTURE  # remap wraps, but only near the origin
        v -= v.flat[0] // _TEXTURE * _TEXTURE
        texture = cv2.remap(fibre_texture, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR,
                            borderMode=cv2.BORDER_WRAP)  # fmt: skip
        fibre, cleft = texture[..., 0], texture[..., 1]
        grain = grain_texture[np.ix_(np.array(self.rows) % _TEXTURE, np.array(self.columns) % _TEXTURE)]

        loose = self.noise("loose", 90)
        level = slide.tissue.tumour_level(self.noise)
        self.tumour = level > 0
        inside = _soft(level, 0.25)
        open_stroma = _soft(cleft + 0.55 * loose - 1.15, 0.7) * (1 - inside)
        gap = _soft(self.noise("gap", 13) + 0.6 * self.noise("gap", 45) - 1.9, 0.5)
        border = np.exp(-(((self.noise("border", 15) + 0.5 * self.noise("border", 6)) / 0.12) ** 2))
        vacuole = _soft(self.noise("vacuole", 4.5) + 0.5 * self.noise("vacuole", 40) - 2.0, 0.5)
        open_tumour = (gap + 0.55 * border + 0.6 * vacuole) * inside
        eosin = (0.52 + 0.2 * fibre + 0.05 * grain) * (1 - inside) + (0.46 + 0.11 * grain) * inside
        between = np.clip(0.8 - 0.8 * fibre, 0, 2)  # the ground substance is faintly blue, collagen is not
        hematoxylin = (0.06 + 0.02 * grain) * between * (1 - inside) + (0.16 + 0.06 * grain) * inside
        filled = 1 - 0.95 * np.clip(open_stroma + open_tumour, 0, 1)
        np.multiply(np.clip(hematoxylin, 0, None), filled, out=self.hematoxylin)
        np.multiply(np.clip(eosin, 0.03, None), filled, out=self.eosin)
        self.grain = grain
        self.septa = _soft(slide.tissue.septum_depth(self.noise), 0.8) * inside

    def structure(self, shape: Structure) -> None:
        """Wall and lumen of a gland or a vessel."""
        reach, mpp = shape.outline.reach, self.slide.mpp
        r0, r1 = (int((shape.outline.y + s * reach) / mpp) - self.rows.start for s in (-1, 1))
        c0, c1 = (int((shape.outline.x + s * reach) / mpp) - self.columns.start for s in (-1, 1))
        box = (slice(max(r0, 0), max(r1, 0)), slice(max(c0, 0), max(c1, 0)))
        if not self.instances[box].size:
            return
        depth = shape.outline.depth(self.y[box[0], None], self.x[None, box[1]]).astype(np.float32)
        cover = _soft(depth, 1.5)
        lumen = _soft(depth - shape.wall, 1.2)
        wall = cover - lumen
        grain = np.maximum(self.grain[box], -2.5)  # what it modulates stays positive
        if shape.kind == "vessel":
            self.vessel[box] |= depth > 0
            layers = np.sin(depth * 2.6 + 2 * self.noise("layers", 30)[box])
            eosin = (0.85 + 0.12 * layers + 0.05 * grain) * wall + (0.05 + 0.02 * grain) * lumen
            if self.slide.tissue.blood is not None:
                plasma, fibrin = fluid(self.slide.seed, shape.label)
                strands = np.exp(-(((self.noise("strand", 11)[box] + 0.5 * self.noise("strand", 5)[box]) / 0.18) ** 2))
                patchy = _soft(self.noise("fibrin", 70)[box] + 2.2 * fibrin - 1.6, 1.0)
                eosin += (plasma + 0.5 * patchy * (0.35 + strands)) * lumen
            hematoxylin = 0.05 * (1 - layers) * wall
        else:
            eosin = (0.55 + 0.07 * grain) * wall + 0.03 * lumen
            hematoxylin = (0.16 + 0.04 * grain) * wall
        for plane, stain in ((self.hematoxylin, hematoxylin), (self.eosin, eosin)):
            plane[box] *= 1 - cover
            plane[box] += stain
        self.septa[box] *= 1 - cover

    def collagen(self) -> None:
        """Thin septa between the nests of tumour cells."""
        clear = 1 - self.septa
        self.hematoxylin *= clear
        self.eosin *= clear
        self.eosin += (0.62 + 0.06 * self.grain) * self.septa

    def stamp(self, first: int, last: int) -> None:
        """Paint some of the cells, in order; instance k is the k-th cell."""
        cells, mpp = self.cells, self.slide.mpp
        atlas = {form: sprites(self.slide.seed, mpp, FORM_NAMES[form]) for form in np.unique(cells.form)}
        top, left = self.rows.start, self.columns.start
        rows, columns = cells.y / mpp - 0.5 - top, cells.x / mpp - 0.5 - left
        cos, sin = np.cos(cells.angle) * cells.scale, np.sin(cells.angle) * cells.scale
        named, tone = _LABEL[cells.form] > 0, cells.tone.astype(np.float32)
        for k in range(first, last):
            pictures, centres = atlas[cells.form[k]]
            sprite, (cy, cx) = pictures[cells.variant[k]], centres[cells.variant[k]]
            side = int(sprite.shape[0] * cells.scale[k] * 1.05) + 3
            y0, x0 = int(np.floor(rows[k])) - side // 2, int(np.floor(columns[k])) - side // 2
            a, b, mirror = cos[k], sin[k], -1.0 if cells.flip[k] else 1.0
            affine = np.array([[a * mirror, -b, 0.0], [b * mirror, a, 0.0]])
            affine[:, 2] = (columns[k] - x0, rows[k] - y0) - affine[:, :2] @ (cx, cy)
            y1, x1 = min(y0 + side, self.shape[0]), min(x0 + side, self.shape[1])
            cut_y, cut_x = max(-y0, 0), max(-x0, 0)
            if y1 <= y0 + cut_y or x1 <= x0 + cut_x:
                continue
            box, part = (slice(y0 + cut_y, y1), slice(x0 + cut_x, x1)), (slice(cut_y, y1 - y0), slice(cut_x, x1 - x0))
            patch = cv2.split(cv2.warpAffine(sprite, affine, (side, side), flags=cv2.INTER_LINEAR))  # planes: 3x faster
            h, e, cover, nucleus = (plane[part] for plane in patch)
            clear = np.subtract(1, cover, out=cover)
            for plane, stain in ((self.hematoxylin, h), (self.eosin, e)):
                target = plane[box]
                target *= clear
                target += np.multiply(stain, tone[k], out=stain)
            if named[k]:
                np.copyto(self.instances[box], k + 1, where=nucleus > 0.5)

    def glass(self) -> None:
        """Remove what lies outside the fragments."""
        if not self.slide.fragments:
            return
        y, x = self.y[:, None], self.x[None, :]
        depth = np.max([fragment.depth(y, x) for fragment in self.slide.fragments], axis=0)
        ragged = depth + 40 * self.noise("edge", 150) + 9 * self.noise("edge", 30) + 2 * self.noise("edge", 6)
        cover = _soft(ragged.astype(np.float32), 3.0)
        self.hematoxylin *= cover
        self.eosin *= cover
        gone = cover < 0.5
        self.instances[gone] = 0
        self.vessel[gone] = False
        self.tumour = self.tumour & ~gone


def _grid_noise(seed: int, y: NDArray, x: NDArray, name: str, wavelength: float) -> Array:
    return grid_noise(seed, name, wavelength, y, x)


def _is_glass(slide: PhantomSlide, window: Window) -> bool:
    """Whether a window lies clear of every fragment."""
    top, left, bottom, right = window
    return bool(slide.fragments) and all(
        np.hypot(max(top - f.y, f.y - bottom, 0), max(left - f.x, f.x - right, 0)) > f.reach + _RAGGED
        for f in slide.fragments
    )


def paint(slide: PhantomSlide, rows: range, columns: range) -> Canvas:
    """Paint any window of a slide (level-0 pixels), whatever lies around it."""
    canvas = Canvas(slide, rows, columns)
    if _is_glass(slide, canvas.window):
        return canvas
    canvas.ground()
    around = tuple(np.add(canvas.window, (-REACH, -REACH, REACH, REACH)))
    shapes = structures_in(slide.seed, slide.tissue, around)
    for shape in shapes:
        canvas.structure(shape)
    canvas.cells = plan_cells(slide.seed, slide.tissue, around, slide.fibres, shapes)
    bodies = canvas.cells.bodies
    canvas.stamp(0, bodies)
    canvas.collagen()
    canvas.stamp(bodies, len(canvas.cells))
    canvas.glass()
    thickness = 1 + 0.07 * canvas.noise("thickness", 120)
    canvas.hematoxylin *= slide.strength[0] * thickness
    canvas.eosin *= slide.strength[1] * thickness
    return canvas
