"""Finished runs over small images, with a reviewer's corrections."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile

from monai_ext.formats import Features, write_geojson
from monai_ext.view import find_cases
from monai_ext.view.opened import Opened, Settings

SIDE = 300  # px


def write_run(folder: Path, results: Mapping[str, Features], mpp: float = 0.25, side: int = SIDE) -> Path:
    """Images of noise below ``in``, and below ``out`` what a run would have written of them."""
    rng = np.random.default_rng(0)
    state, rows = {}, []
    for name, features in results.items():
        path = folder / "in" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
        dots = (10_000 / mpp, 10_000 / mpp)
        tifffile.imwrite(path, pixels, photometric="rgb", resolution=dots, resolutionunit="CENTIMETER")
        write_geojson(folder / "out" / f"{name}.geojson", features)
        state[str(path)] = {"status": "done", "name": path.name}
        rows.append([f"{name}.tif", len(features)])
    (folder / "out/state.json").write_text(json.dumps(state))
    with (folder / "out/summary.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "count"], *rows])
    return folder / "out"


def decide(out: Path, said: Mapping[str, Sequence[tuple]], reviewer: str = "ada") -> None:
    """Corrections through the viewer's own log, by the image's name: ``(object, action[, class])``.

    What is drawn has a geometry in place of the object's number: ``(geometry, "draw", class)``.
    """
    for case in find_cases(out).cases:
        names = sorted({each[2] for each in said.get(Path(case.name).stem, ()) if len(each) > 2})
        opened = Opened(case, Settings(reviewer, names))
        for what, action, *name in said.get(Path(case.name).stem, ()):
            if action == "draw":
                opened.log.draw(what, *name, reviewer=reviewer)
            else:
                opened.log.decide(what, action, *name, reviewer=reviewer)
