"""XML of ASAP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import shapely

from monai_ext.exchange.results import NO_CLASS, Results
from monai_ext.formats.asap import write_asap_objects

__all__ = ["write"]


def write(results: Results, path: Path) -> None:
    """Write the objects as they come, their class being ASAP's group; a polygon with holes is cut into some without.

    Args:
        results: what there is.
        path: the file.
    """

    def objects() -> Iterator[tuple[str, shapely.Geometry]]:
        for features in results.batches():
            for name, shape in zip(features.classes, features.geometry, strict=True):
                yield NO_CLASS if name is None else name, shape

    write_asap_objects(path, objects())
