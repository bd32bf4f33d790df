"""Classes as an imperfect classifier names them: the weak and the strong synthetic annotations of the phantom."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["SSA_NOISE", "WSA_NOISE", "noisy_classes"]

WSA_NOISE, SSA_NOISE = 0.25, 0.12  # share of wrong classes in the weak annotation and in the strong one


def noisy_classes(
    truth: NDArray[np.int64], count: int, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Each annotation's classes; a worse annotation repeats the errors of a better one.

    Args:
        truth: ``(N,)`` classes from 0.
        count: number of classes, at least two.
        shares: of each annotation, the share of nuclei with another class, drawn evenly from the others.
        rng: decides.

    Returns:
        ``(N,)`` classes of each annotation.
    """
    draw = rng.random(len(truth))
    other = (truth + rng.integers(1, count, len(truth))) % count
    return {name: np.where(draw < share, other, truth) for name, share in shares.items()}
