"""The outlines of glands and vessels. Lengths are in um."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_ext.phantom.places import Floats

__all__ = ["Blob", "Structure"]


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
        arc = np.concatenate([[0], np.cumsum(np.hypot(np.diff(u), np.diff(v)))])
        angles = np.interp((np.arange(count) + 0.5) / count * arc[-1], arc, fine)
        u, v = np.interp(angles, fine, u), np.interp(angles, fine, v)
        tangent = np.interp(
            angles,
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
