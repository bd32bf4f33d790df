"""The command line: time and memory of each help page, and the start of an inference on one small image.

    python -m pytest benchmarks/test_command_line.py -s

Bars: a help page <= .5 s and <= 120 MB. ``MONAI_EXT_BASE=FOLDER`` names a checkout of another state of this repository,
whose commands are then run in turn with these.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.commands import COMMANDS

ROOT = Path(__file__).parents[1]
BUNDLE = "bundles/pathology_mitosis_segmentation"
BASE = os.environ.get("MONAI_EXT_BASE")
FLOOR = ("-c", "import torch, monai.bundle")
HELP = [("--version",), (), *sorted({c[:1] for c in COMMANDS}), *(c for c in sorted(COMMANDS) if len(c) > 1)]
MEASURE = """
import json, os, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": code, "wall": wall, "cpu": used.ru_utime + used.ru_stime, "mb": used.ru_maxrss / 1e3}))
"""


def measured(words, tree=ROOT, cwd=None):
    """Wall and processor time (s) and peak memory (MB) of Python with these words, in a process of their own."""
    surroundings = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PAGER": "cat"}
    command = [sys.executable, "-c", MEASURE, sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd or tree, env=surroundings)
    result = json.loads(done.stdout)
    assert not result["code"], words
    return result


def best(runs):
    return {name: min(run[name] for run in runs) for name in ("wall", "cpu", "mb")}


def line(name, cost):
    return f"{name:28} {cost['wall']:6.2f} s  {cost['cpu']:6.2f} s of processor  {cost['mb']:7.0f} MB"


def test_help_pages():
    """Of every command and kind; the first run compiles the few modules that are imported."""
    words = [("-m", "monai_ext", *w, *(["--help"] if w and w[0] != "--version" else [])) for w in HELP]
    measured(words[0])
    costs = {}
    for name, run in zip(HELP, words, strict=True):
        costs[" ".join(name) or "(nothing)"] = best([measured(run) for _ in range(3)])
    print("\n", *(line(name, cost) for name, cost in costs.items()), sep="\n")
    slowest, largest = (max(cost[kind] for cost in costs.values()) for kind in ("wall", "mb"))
    print(f"\nslowest {slowest:.2f} s (bar .5), largest {largest:.0f} MB (bar 120)")


@pytest.mark.skipif(not BASE, reason="MONAI_EXT_BASE names no other checkout")
def test_help_beside_another_state():
    words = ("-m", "monai_ext", "prepare", "pvid", "--help")
    runs = {"here": [], "there": []}
    for _ in range(2):
        for name, tree in (("here", ROOT), ("there", Path(BASE))):
            runs[name].append(measured(words, tree))
    print("\n", *(line(f"{name}: prepare pvid --help", best(each)) for name, each in runs.items()), sep="\n")


def test_start_of_an_inference(tmp_path):
    """One image of 64 px; the floor is what the same process needs to import PyTorch and MONAI alone."""
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "one.png")
    trees = {"here": ROOT} | ({"there": Path(BASE)} if BASE else {})
    runs = {name: [] for name in ("floor", *trees)}
    for turn in range(3):
        runs["floor"].append(measured(FLOOR))
        for name, tree in trees.items():
            words = ("-m", "monai.bundle", "run", "--config_file", "configs/inference.json")
            options = ("--dataset_dir", str(tmp_path / "one.png"), "--output_dir", str(tmp_path / f"{name}_{turn}"))
            runs[name].append(measured((*words, *options), tree, tree / BUNDLE))
    costs = {name: best(each) for name, each in runs.items()}
    print("\n", *(line(name, cost) for name, cost in costs.items()), sep="\n")
    if BASE:
        for name in ("floor", "here"):
            ratios = {kind: costs[name][kind] / costs["there"][kind] for kind in ("wall", "cpu", "mb")}
            print(f"{name} / there: " + ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in ratios.items()))
