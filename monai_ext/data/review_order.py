"""Which object a reviewer should look at next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_ext.base.errors import InputError

__all__ = ["REVIEW_ORDERS", "appearance", "farthest_first", "next_objects"]

#: The least certain first; what looks least like those before; as it comes, for control.
REVIEW_ORDERS = ("doubt", "diverse", "random")


def appearance(patches: np.ndarray) -> np.ndarray:
    """What objects look like, in a few numbers: colour and its spread, of the middle and of all of a patch.

    Args:
        patches: uint8 ``(N, S, S, 3)``, RGB, an object in the middle of each.

    Returns:
        float64 ``(N, 12)``; each column has mean 0 and deviation 1, or is 0 throughout.

    Examples:
        >>> import numpy as np
        >>> from monai_ext.data import appearance
        >>> patches = np.zeros((2, 8, 8, 3), np.uint8)
        >>> patches[1, 2:6, 2:6, 0] = 200
        >>> appearance(patches)[:, 0].tolist()
        [-1.0, 1.0]
    """
    side = patches.shape[1]
    middle = slice(side // 4, side - side // 4)
    columns = []
    for part in (patches[:, middle, middle], patches):
        colours = part.reshape(len(part), -1, 3) / 255.0
        columns += [colours.mean(axis=1), colours.std(axis=1)]
    features = np.concatenate(columns, axis=1)
    spread = features.std(axis=0)
    return np.where(spread > 0, (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)


def farthest_first(features: np.ndarray, count: int, seen: Sequence[int] = (), start: int = 0) -> np.ndarray:
    """Objects that cover all the others, each the farthest from those before it: the greedy k-centre.

    The largest distance of any object to the nearest one chosen is at most twice the least that as many can reach
    (Gonzalez 1985; for active learning Sener and Savarese 2018).

    Args:
        features: ``(N, D)``, compared by their Euclidean distance.
        count: how many; fewer where there are fewer besides ``seen``.
        seen: places of those chosen before.
        start: the first one, where none was.

    Returns:
        places ``(K,)``, without ``seen``.

    Examples:
        >>> import numpy as np
        >>> from monai_ext.data import farthest_first
        >>> farthest_first(np.array([[0.0], [1.0], [2.0], [10.0]]), 3).tolist()
        [0, 3, 2]
    """
    features = np.asarray(features, np.float64)
    nearest = np.full(len(features), np.inf)
    chosen: list[int] = []

    def take(place: int) -> None:
        np.minimum(nearest, ((features - features[place]) ** 2).sum(axis=1), out=nearest)
        nearest[place] = -1.0  # never again, not even where all others look the same

    for place in seen:
        take(int(place))
    count = min(count, len(features) - len(set(seen)))
    while len(chosen) < count:
        place = int(nearest.argmax()) if len(seen) or chosen else start
        chosen.append(place)
        take(place)
    return np.array(chosen, np.int64)


def next_objects(
    by: str, count: int, certainty: np.ndarray, features: np.ndarray, seen: Sequence[int] = (), seed: int = 0
) -> np.ndarray:
    """The objects to look at next.

    Args:
        by: of :data:`REVIEW_ORDERS`.
        count: how many; fewer where there are fewer besides ``seen``.
        certainty: ``(N,)`` how sure each is; NaN, which comes last, where nothing says.
        features: ``(N, D)`` of what each looks like, such as :func:`appearance`; only ``diverse`` asks for them.
        seen: places of those looked at before.
        seed: of the random order, which goes on where it stopped.

    Returns:
        places ``(K,)``, without ``seen``. ``diverse`` begins with the least certain one.

    Raises:
        InputError: another order.
    """
    if by not in REVIEW_ORDERS:
        raise InputError("order", " or ".join(REVIEW_ORDERS), repr(by))
    doubtful = np.argsort(certainty, kind="stable")
    if by == "diverse":
        return farthest_first(features, count, seen, int(doubtful[0]) if len(doubtful) else 0)
    places = doubtful if by == "doubt" else np.random.default_rng(seed).permutation(len(certainty))
    return places[~np.isin(places, list(seen))][:count]
