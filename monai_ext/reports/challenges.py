"""The files that challenges of mitosis detection ask for, from what inference wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_ext.base.errors import DataListError, InputError
from monai_ext.base.files import atomic_path, find_files
from monai_ext.data.result_files import is_review
from monai_ext.formats.geojson import Features, read_geojson

__all__ = ["hand_in"]

_COLUMNS = ("row", "col", "x", "y", "score")


def hand_in(results: str | os.PathLike, dst: str | os.PathLike, columns: str | Sequence[str] = ("row", "col")) -> Path:
    """Write the detections of an inference as a challenge takes them: a CSV without a header for each image.

    ``<dst>/05/01.csv`` is made of ``<results>/05/01.geojson``; an image without detections gets an empty file.
    Coordinates are whole px of the image's file, counted from 0.

    - TUPAC16 (and AMIDA13) asks for ``row,col``, one file for each image in the folders that the images have. A third
      column may hold a confidence, with a threshold to be told.
    - MITOS-ATYPIA-14 asks for ``x,y`` and a confidence, ``--columns "x,y,score"``.

    Args:
        results: the ``--output_dir`` of an inference (``inference.json``) on the challenge's images.
        dst: the folder to write.
        columns: of the files, among row, col, x, y and score.

    Returns:
        The folder.

    Raises:
        InputError: no results, or an unknown column.
        DataListError: naming each image that failed or is still waiting: a hand-in has all of them.
    """
    results, dst = Path(results), Path(dst)
    names = [name.strip() for name in (columns.split(",") if isinstance(columns, str) else columns)]
    if not names or not set(names) <= set(_COLUMNS):
        raise InputError("columns", f"some of {', '.join(_COLUMNS)}", repr(columns))
    files = find_files(results, (".geojson",), dst) if results.is_dir() else []
    files = [file for file in files if not is_review(file)]
    if not files:
        raise InputError(results, "the output folder of an inference, with a .geojson for each image", "none")
    if problems := _unfinished(results):
        raise DataListError(results, problems)
    for file in files:
        features = read_geojson(file)
        points = features[np.array([shape.geom_type == "Point" for shape in features.geometry], dtype=bool)]
        with atomic_path((dst / file.relative_to(results)).with_suffix(".csv")) as temporary:
            temporary.write_text("".join(f"{','.join(line)}\n" for line in _lines(points, names)))
    return dst


def _unfinished(results: Path) -> list[str]:
    """Images that have no result yet, as the run's state tells."""
    path = results / "state.json"
    if not path.is_file():
        return []
    try:
        images = json.loads(path.read_text(encoding="utf-8")).items()
        return [
            f"{image}: expected its detections, found {entry['status']}"
            for image, entry in images
            if entry["status"] != "done"
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, "the state of an inference", f"{type(error).__name__}: {error}") from error


def _lines(points: Features, names: Sequence[str]) -> list[list[str]]:
    if not len(points):
        return []
    place = np.rint(points.points()).astype(int)
    score = points.measurements.get("score", np.full(len(place), np.nan))
    values = {"row": place[:, 0], "col": place[:, 1], "x": place[:, 1], "y": place[:, 0]}
    text = {name: [str(number) for number in numbers.tolist()] for name, numbers in values.items()}
    text["score"] = [f"{number:.6f}" for number in score.tolist()]
    return [list(line) for line in zip(*(text[name] for name in names), strict=True)]
