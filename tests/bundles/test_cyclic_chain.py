"""The whole of Cyclic Learning through the command that its user types."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import cv2
import pandas as pd
import pytest
import torch

from monai_ext.data.datalist import load_datalist
from monai_ext.formats.image import read_mask
from tests.bundles.conftest import LIMIT_S, ROOT, Workplace, environment
from tests.bundles.test_bundle_commands import TORCHRUN
from tests.forked import run_python

SOURCE = ROOT / "bundles/pathology_nuclei_instance_segmentation"
QUICK_CYCLE = ("configs/cycle.json", "configs/overlays/training/quick_cycle.json")
NETWORKS = [(1, 0), (1, 1), (2, 0), (2, 1)]  # cycle and student
PHASES = 2 * (2 + 2 * 2 + 1)  # front end and seeds; both networks and their tests; masks for the student
SIDE, HEADING = 260, 22  # px of a picture with its gap

pytestmark = pytest.mark.slow


def arguments(place, name, *overlays, **overrides):
    files = str([*QUICK_CYCLE, *overlays]).replace(" ", "")
    options = {"dataset_dir": place.data, "tiles_dir": place.data, "output_dir": place.folder / name}
    options |= {"back_settings#epochs": 6, **overrides}  # fewer than would teach much: the chain is what is looked at
    return ["run", "training", "--config_file", files, *(str(a) for k, v in options.items() for a in (f"--{k}", v))]


def table(folder):
    return pd.read_csv(folder / "cycles.csv")


def done_phases(folder):
    """The results of phases that are done."""
    found = []
    for notes in folder.rglob("phase_*.json"):
        if json.loads(notes.read_text())["done"]:
            name = notes.stem.removeprefix("phase_")
            weights, other = notes.with_name(f"{name}.pt"), notes.with_name(f"{name}.json")
            found.append(weights if weights.exists() else other)  # beside weights it is their input convention
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    """A copy of the bundle, and the phantom that its quick try-out names."""
    base = tmp_path_factory.mktemp("cyclic")
    folder = base / SOURCE.name
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("models", "eval"))
    options = json.loads((folder / QUICK_CYCLE[1]).read_text())["phantom"]
    method = options.pop("method")
    sizes = [str(a) for k, v in options.items() for a in (f"--{k}", v)]
    words = ["-m", "monai_ext", "phantom", method, "--dst", base / "data", *sizes]
    run_python(words, base, environment(), LIMIT_S).check_returncode()
    return Workplace(SOURCE, folder, base / "data")


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """What an undisturbed run leaves."""
    place.bundle(*arguments(place, "whole"))
    return place.folder / "whole"


def test_the_table_has_a_row_for_each_network(whole):
    rows = table(whole)
    assert list(zip(rows["cycle"], rows["student"], strict=True)) == NETWORKS
    assert rows["val_dice"].between(0, 1).all()
    assert rows["val_dice"].max() > 0  # something was found
    assert {"dice", "dice low", "dice high", "aji", "object_dice", "pq"} <= set(rows)


def test_seeds_are_in_images_with_nuclei(whole, place):
    labels = {item["image"]: item["has_nuclei"] for item in load_datalist(place.data, check=None)["training"]}
    for cycle in (1, 2):
        items = load_datalist(whole / f"cycle_{cycle}/seeds", check=None, optional_path_keys=["known"])["training"]
        count = {0: 0, 1: 0}
        for item in items:
            count[labels[str(Path(item["image"]).resolve())]] += int(read_mask(item["label"]).max())
        assert count[1] > count[0]


def test_masks_grow(whole):
    for cycle in (1, 2):
        areas = []
        for name in ("seeds", "masks_1"):
            items = load_datalist(whole / f"cycle_{cycle}/{name}", check=None)["training"]
            areas.append(sum(int((read_mask(item["label"]) > 0).sum()) for item in items))
        assert areas[1] >= areas[0] > 0


def test_the_picture_shows_the_cycles(whole):
    picture = cv2.imread(str(whole / "cycles.png"))
    assert picture.shape[1] == 4 * SIDE  # image, labels, two cycles
    assert (picture.shape[0] - HEADING) % SIDE == 0


def test_the_best_network_is_handed_over(whole):
    rows = table(whole)
    best = Path(rows["folder"][rows["val_dice"].idxmax()])
    state = torch.load(whole / "model.pt", weights_only=True)
    expected = torch.load(best / "model.pt", weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert (whole / "model.json").read_bytes() == (best / "model.json").read_bytes()
    assert (whole / "history.json").read_bytes() == (best / "history.json").read_bytes()


@pytest.mark.exhaustive  # two minutes; of a training this is looked at in test_bundle_commands
def test_a_killed_run_goes_on_to_the_same_end(place, whole):
    folder = place.folder / "killed"
    process = subprocess.Popen(
        place.command(*arguments(place, "killed")),
        cwd=place.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wanted, deadline = random.randrange(1, PHASES - 1), time.monotonic() + 900
    while len(done_phases(folder)) < wanted and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(random.uniform(0, 4))  # somewhere in the next phase, or between two
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = done_phases(folder)
    assert len(done) >= wanted

    told = place.bundle(*arguments(place, "killed")).stdout
    for result in done:
        assert f"done before, {result}\n" in told
    assert told.count("done before, ") == len(done)
    assert told.count(": starting, ") + told.count(": going on, ") == PHASES - len(done)
    pd.testing.assert_frame_equal(table(folder).drop(columns="folder"), table(whole).drop(columns="folder"))

    told = place.bundle(*arguments(place, "killed")).stdout
    assert told.count("done before, ") == PHASES


@pytest.mark.exhaustive  # minutes; processes that share the work are tested for each of its phases
def test_two_processes(place):
    steps = {"front_settings#epochs": 36}  # an epoch of two ranks has half the steps; with too few no seed is found
    options = arguments(place, "ranks", "configs/overlays/multi_gpu/multi_gpu_cycle.json", cycles=1, **steps)
    done = place.bundle(*options, launcher=TORCHRUN)
    assert done.returncode == 0
    rows = table(place.folder / "ranks")
    assert list(zip(rows["cycle"], rows["student"], strict=True)) == NETWORKS[:2]
    assert (place.folder / "ranks/model.pt").is_file()
    assert done.stdout.count(": starting, ") == PHASES // 2  # told once
