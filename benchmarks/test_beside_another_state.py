"""Whole commands and training steps of this state of the repository beside another, in turn, each in its own process.

    git worktree add --detach THERE 609ed0c
    MONAI_EXT_BASE=THERE pytest benchmarks/test_beside_another_state.py -s

609ed0c is the state before work on speed began. Where that had other networks, this one takes the overlays that make
the same ones, and the other's weights. Medians of ``MONAI_EXT_PAIRS`` (2) pairs, ``MONAI_EXT_THREADS`` (1) threads.
``MONAI_EXT_SLIDE_SIDE`` is the side of the phantom slide (8,000 px); the real slide is one of ``MONAI_EXT_DATA``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import pytest
from shapely import STRtree, make_valid
from shapely.geometry import shape
from test_command_line import BASE, MEASURE, ROOT

from monai_ext.phantom import write_slide

pytestmark = pytest.mark.skipif(not BASE, reason="MONAI_EXT_BASE names no other checkout")

PAIRS, THREADS = int(os.environ.get("MONAI_EXT_PAIRS", "2")), os.environ.get("MONAI_EXT_THREADS", "1")
SIDE = int(os.environ.get("MONAI_EXT_SLIDE_SIDE", "8000"))
TREES = {"there": Path(BASE or "."), "here": ROOT}
CELLS = "pathology_cell_semantic_segmentation"
NUCLEI = "pathology_nuclei_instance_segmentation"
METASTASIS = "pathology_metastasis_evidence_localization"
MITOSIS = "pathology_mitosis_segmentation"
VESSELS = "pathology_mvi_vessel_classification"
#: Overlays and entries by which this state computes the networks of the other.
SAME: dict[str, tuple[list[str], dict[str, Any]]] = {
    CELLS: (["paper/paper_network"], {"filters": 16, "dropout": 0.1, "target_mpp": 0.25}),
    NUCLEI: (["network/mask_rcnn", "network/resnet18"], {}),
    METASTASIS: ([], {}),
    MITOSIS: (["network/narrow_vgg"], {}),
    VESSELS: ([], {}),
}
#: Runs over slides: the bundle, entries of both states.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "cells": (CELLS, {"classify": False}),
    "cells with classes": (CELLS, {}),
    "nuclei, Mask R-CNN": (NUCLEI, {}),
    "CELNet, step 96 px": (METASTASIS, {"step": 96}),
    "CELNet, step 24 px": (METASTASIS, {"step": 24}),
    "mitoses": (MITOSIS, {}),
}
#: Entries of this state alone, each a run of its own.
WAYS = {"here": {}, "OpenVINO": {"runtime": "openvino"}}
PHANTOMS = {CELLS: "cells", NUCLEI: "nuclei", METASTASIS: "metastasis", MITOSIS: "mitosis", VESSELS: "vessels"}
STEPS = 12  # the first of which, half of them, are not counted
TRAIN = """
import json, sys, time
from ignite.engine import Events
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config(json.loads(sys.argv[1]))
parser.update(json.loads(sys.argv[2]))
parser.get_parsed_content("initialize")
trainer, steps, spent = parser.get_parsed_content("train#trainer"), int(sys.argv[3]), []

@trainer.on(Events.ITERATION_STARTED)
def begin(engine):
    engine.began = time.process_time()

@trainer.on(Events.ITERATION_COMPLETED)
def end(engine):
    batch = engine.state.batch  # which handlers may have taken apart
    spent.append((time.process_time() - engine.began) / len(batch if isinstance(batch, list) else batch["image"]))
    if len(spent) == steps:
        raise SystemExit(print("spent", json.dumps(spent)))

trainer.run()
"""


def stack(who: str, bundle: str, *names: str) -> list[str]:
    """Files of a configuration in the other state, or here with what makes the same networks."""
    over = [f"overlays/{each}" for each in SAME[bundle][0]] if who != "there" else []
    return [f"configs/{each}.json" for each in (*names, *over)]


def python(who: str, bundle: str, words: Sequence[str]) -> str:
    """What Python prints in a bundle of one of the two."""
    tree = TREES["there" if who == "there" else "here"]
    surroundings = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": THREADS}
    where = {"cwd": tree / "bundles" / bundle, "env": surroundings}
    run = subprocess.run([sys.executable, *words], check=False, capture_output=True, text=True, **where)
    assert not run.returncode, run.stderr[-2000:]
    return run.stdout


def run_slides(who: str, bundle: str, slide: Path, out: Path, entries: Mapping[str, Any]) -> dict[str, float]:
    """Wall and processor time (s), peak memory (MB) of a run over a slide, with the weights of the other state."""
    same = SAME[bundle][1] if who != "there" else {}
    where = {"dataset_dir": slide, "output_dir": out, "ckpt_dir": TREES["there"] / "bundles" / bundle / "models"}
    words = ["-m", "monai.bundle", "run", "--config_file", str(stack(who, bundle, "inference", "slides"))]
    for key, value in {**where, **same, **entries}.items():
        words += [f"--{key}", str(value)]
    result = json.loads(python(who, bundle, ["-c", MEASURE, sys.executable, *words]))
    assert not result.pop("code"), words
    return result


def found_again(there: Path, here: Path) -> str:
    """How many of the other's outlines are here, by an IoU of .9 or more."""
    one, other = (
        [make_valid(shape(each["geometry"])) for each in orjson.loads(path.read_bytes())["features"]]
        for path in (there, here)
    )
    tree, same = STRtree(other), 0
    for outline in one:
        near = [other[place] for place in tree.query(outline)]
        same += any(outline.intersection(each).area >= 0.9 * outline.union(each).area > 0 for each in near)
    return f"{same} of {len(one)} objects there are here, which has {len(other)}"


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> dict[str, Path]:
    phantom = write_slide(tmp_path_factory.mktemp("slides") / "phantom.tif", SIDE, seed=3)
    real = Path(os.environ.get("MONAI_EXT_DATA", "")) / "slides/CMU-1-Small-Region.svs"
    return {"phantom": phantom} | ({"real": real} if real.is_file() else {})


@pytest.mark.parametrize("which", ["phantom", "real"])
@pytest.mark.parametrize("name", RUNS)
def test_slides(slides, tmp_path, name, which):
    """The bars: cells 5 times as fast, nuclei 2.5, CELNet 2.3 (96 px) and 1.5 (24 px)."""
    if which not in slides:
        pytest.skip("MONAI_EXT_DATA is not set")
    bundle, entries = RUNS[name]
    ways = {"there": {}} | {way: more for way, more in WAYS.items() if not more or bundle != METASTASIS}
    costs: dict[str, list[dict[str, float]]] = {who: [] for who in ways}
    for turn in range(PAIRS):
        for who, runs in costs.items():
            runs.append(run_slides(who, bundle, slides[which], tmp_path / f"{who}_{turn}", {**entries, **ways[who]}))
    for who, runs in costs.items():
        wall, cpu, mb = (median(run[kind] for run in runs) for kind in ("wall", "cpu", "mb"))
        line = f"{name}, {which}, {who}: {wall:.1f} s, {cpu:.1f} s of processor, {mb:.0f} MB"
        if who != "there":
            pairs = list(zip(costs["there"], runs, strict=True))
            times = (median(old[kind] / new[kind] for old, new in pairs) for kind in ("wall", "cpu"))
            line += ", {:.2f} and {:.2f} times as fast".format(*times)
            if bundle != METASTASIS:
                files = (tmp_path / f"{each}_0/{slides[which].stem}.geojson" for each in ("there", who))
                line += f"; {found_again(*files)}"
        print(line, flush=True)


@pytest.mark.parametrize("bundle", PHANTOMS, ids=PHANTOMS.values())
def test_training_step(tmp_path, bundle):
    """Processor time for an image of a step; the bar is 1.6 times as fast."""
    data = tmp_path / "data"
    python("here", bundle, ["-m", "monai_ext", "phantom", PHANTOMS[bundle], "--dst", str(data), "--slides", "12"])
    spent: dict[str, list[float]] = {"there": [], "here": []}
    for turn in range(PAIRS):
        for who, costs in spent.items():
            entries = {"dataset_dir": str(data), "ckpt_dir": str(tmp_path / f"{who}_{turn}"), "epochs": 100}
            if who == "here":
                entries |= SAME[bundle][1]
            words = ["-c", TRAIN, json.dumps(stack(who, bundle, "train")), json.dumps(entries), str(STEPS)]
            line = next(line for line in python(who, bundle, words).splitlines() if line.startswith("spent"))
            costs.append(median(json.loads(line.removeprefix("spent"))[STEPS // 2 :]))
    ratio = median(old / new for old, new in zip(*spent.values(), strict=True))
    there, here = (1000 * median(costs) for costs in spent.values())
    print(f"{PHANTOMS[bundle]}, a step: {there:.0f} ms an image there, {here:.0f} here, {ratio:.2f} times as fast")
