import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from monai_ext.base.errors import InputError
from monai_ext.instances.sparse import SparseInstances
from monai_ext.tuning import (
    DEFAULT_FLOOR,
    DEFAULT_INSTANCES,
    read_floor,
    read_instances,
    read_least_area,
    tune_instances,
)
from monai_ext.tuning.instances import _choose

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_cell_semantic_segmentation"
NUCLEI_BUNDLE = BUNDLE.with_name("pathology_nuclei_instance_segmentation")
DARK_IS_NUCLEUS = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 1}
RADIUS, APART = 10, 15  # px; discs that touch
SPECK = 4  # px, so 3 um2 at .25 um/px


@pytest.fixture
def data(tmp_path):
    """Pairs of discs that touch, and specks that are none; only the validation list can be read."""
    folder = tmp_path / "data"
    folder.mkdir()
    lists = {
        "training": [{"image": "t.png", "label": "t.tif"}],
        "test": [{"image": "x.png", "label": "x.tif"}],
        "validation": [],
    }
    rng = np.random.default_rng(0)
    for index in range(3):
        image = np.full((140, 180, 3), 235, np.uint8)
        label = np.zeros((140, 180), np.uint16)
        for row in (25, 65, 105):
            for col in (30, 80, 130):
                jitter = int(rng.integers(0, 8))
                for shift in (0, APART):
                    place = (col + shift, row + jitter)
                    cv2.circle(image, place, RADIUS, (60, 40, 90), -1)
                    disc = np.zeros_like(label)
                    cv2.circle(disc, place, RADIUS, 1, -1)
                    label[(disc > 0) & (label == 0)] = label.max() + 1
                cv2.circle(image, (col - 18, row), SPECK, (60, 40, 90), -1)
        cv2.imwrite(str(folder / f"v{index}.png"), image)
        tifffile.imwrite(folder / f"v{index}.tif", label)
        item = {"image": f"v{index}.png", "label": f"v{index}.tif", "group": str(index), "mpp": 0.25}
        lists["validation"].append(item)
    for name in ("t.png", "t.tif", "x.png", "x.tif"):
        (folder / name).write_bytes(b"nobody reads this")
    (folder / "dataset.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture
def weights(tmp_path):
    """A network that calls dark pixels nuclei."""
    folder = tmp_path / "models"
    folder.mkdir()
    torch.save({"weight": torch.full((1, 3, 1, 1), -3.0), "bias": torch.zeros(1)}, folder / "model.pt")
    return folder


def tune(data, weights, **options):
    settings = {"thresholds": (0.4, 0.6, 0.1), "sigmas": (0.25, 0.5, 0.25), "depths": (0.125, 1.625, 0.5)}
    options = {**settings, "areas": (1, 9, 4), "network_def": DARK_IS_NUCLEUS, "device": "cpu", **options}
    return Path(tune_instances(str(data), str(BUNDLE), ckpt_dir=str(weights), **options))


def test_validation_list_alone_decides(data, weights, capsys):
    path = tune(data, weights)
    assert path == weights / "instances.json"
    found = read_instances(path)
    assert SPECK**2 * np.pi * 0.0625 < found["min_area_um2"] < RADIUS**2 * np.pi * 0.0625
    assert found["depth_um"] < 1.625  # deeper than the waist between two discs: they would be one
    assert found["validation"]["pq"] > 0.9
    assert found["images"] == 3
    sweep = pd.read_csv(weights / "instances_sweep.csv")
    assert len(sweep) == 3 * 3 * 2 * 4
    together = sweep[sweep["depth_um"] == sweep["depth_um"].max()]
    assert together["aji"].max() < sweep["aji"].max() - 0.2
    assert cv2.imread(str(weights / "instances_sweep.png")) is not None
    assert "AJI" in capsys.readouterr().out


class Dark(torch.nn.Module):
    """Sees each dark area as a nucleus."""

    def find(self, windows):
        maps = [torch.from_numpy(ndimage.label(window[1].numpy() < 0)[0]) for window in windows]
        return [SparseInstances.from_map(each) for each in maps]


def test_of_instances_the_least_area_alone_is_chosen(data, tmp_path, capsys):
    path = tune_instances(
        str(data), str(NUCLEI_BUNDLE), output=str(tmp_path / "instances.json"), loaded_network=Dark(), device="cpu"
    )
    found = read_least_area(path)
    assert set(found) == {"min_area_um2", "validation", "chosen_by", "images"}
    assert SPECK**2 * np.pi * 0.0625 < found["min_area_um2"] < RADIUS**2 * np.pi * 0.0625
    assert (found["chosen_by"], found["images"]) == ("pq", 3)
    sweep = pd.read_csv(tmp_path / "instances_sweep.csv")
    assert sweep.columns.tolist() == ["min_area_um2", "aji", "pq"]
    assert sweep["pq"].max() > sweep["pq"][0] + 0.05  # with the specks
    assert "min_area_um2" in capsys.readouterr().out


FLOOR = "configs/overlays/evaluation/otsu.json"
SMALL_SWEEP = {
    "thresholds": (0.5, 0.5, 0.1),
    "areas": (1, 9, 4),
    "sigmas": (0.25, 0.5, 0.25),
    "depths": (0.125, 1.625, 1.5),
}


@pytest.mark.parametrize("bundle", [BUNDLE, NUCLEI_BUNDLE], ids=["cells", "nuclei"])
@pytest.mark.slow
def test_the_floor_is_tuned_and_scored_by_the_same_commands(bundle, data, tmp_path, monkeypatch):
    """Without a network and without weights; what was chosen is what the evaluation uses."""
    settings = str(tmp_path / "otsu.json")
    variants = {"channel": ["hematoxylin", "grey"], "blur_um": [0.25, 2.5]}
    options = {"configs": [FLOOR], "variants": variants, "device": "cpu", "ckpt_dir": str(tmp_path / "none")}
    path = tune_instances(str(data), str(bundle), instances_file=settings, **options, **SMALL_SWEEP)
    assert path == settings
    chosen = read_floor(path)
    assert chosen["channel"] in variants["channel"]
    assert chosen["blur_um"] < 2.5  # which joins the discs, and takes the specks for larger ones
    assert SPECK**2 * np.pi * 0.0625 < chosen["min_area_um2"] < RADIUS**2 * np.pi * 0.0625
    assert set(chosen) == {*DEFAULT_FLOOR, "validation", "chosen_by", "images"}
    sweep = pd.read_csv(tmp_path / "otsu_sweep.csv")
    assert len(sweep) == 2 * 2 * 3 * 2 * 2
    assert sweep.groupby("channel").size().to_dict() == {"grey": 24, "hematoxylin": 24}

    monkeypatch.chdir(bundle)
    parser = ConfigParser()
    parser.read_config(["configs/train.json", "configs/evaluate.json", FLOOR])
    parser.update(
        {"dataset_dir": str(data), "split": "validation", "instances_file": settings, "device": "cpu"}
        | {"output_dir": str(tmp_path / "eval"), "ckpt_dir": str(tmp_path / "none")}
    )
    parser.get_parsed_content("run")
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert metrics["aji"]["value"] == pytest.approx(chosen["validation"]["aji"], abs=1e-3)
    assert metrics["pq"]["value"] == pytest.approx(chosen["validation"]["pq"], abs=1e-3)
    assert "Otsu" in metrics["notes"]["Weights"]


def test_names_are_kept_from_the_best_setting():
    """They have no middle."""
    table = pd.DataFrame({"channel": ["grey", "hematoxylin", "grey"], "min_area_um2": [1.0, 2.0, 3.0]})
    scores = np.array([[0.50, 0.52, 0.51], [0.62, 0.60, 0.62]])  # all as good as each other
    chosen = _choose(table.assign(aji=scores.mean(0)), scores, "aji", ("channel", "min_area_um2"))
    assert chosen["channel"] == "grey"


@pytest.mark.parametrize("variants", ["grey", {"channel": "grey"}, {"channel": []}], ids=["text", "value", "none"])
def test_variants_are_lists_of_values(variants, data, weights):
    with pytest.raises(InputError, match=r"variants: expected lists of values by entry, as \{'blur_um'"):
        tune(data, weights, variants=variants)


def test_a_variant_of_nothing_is_refused(data, weights):
    with pytest.raises(InputError, match="found chanel"):
        tune(data, weights, variants={"chanel": ["grey"]})


def test_no_file_means_the_defaults_with_a_message(tmp_path, capsys):
    assert read_instances(tmp_path / "instances.json") == DEFAULT_INSTANCES
    assert "instances.json: no such file" in capsys.readouterr().err


def test_unusable_file(tmp_path):
    (tmp_path / "i.json").write_text('{"threshold": 0.5}')
    with pytest.raises(InputError, match=r"i\.json: expected an object with threshold, min_area_um2"):
        read_instances(tmp_path / "i.json")


def test_a_lucky_image_does_not_decide():
    """The best on average owes it to one image: what the others cannot tell apart is as good, the middle is taken."""
    table = pd.DataFrame({name: [1.0, 2.0, 3.0, 4.0] for name in ("threshold", "min_area_um2", "sigma_um", "depth_um")})
    scores = np.array([[0.5, 0.50, 0.5, 0.9], [0.6, 0.62, 0.6, 0.5], [0.7, 0.70, 0.7, 0.7]])
    assert _choose(table.assign(aji=scores.mean(0)), scores, "aji")["threshold"] in (2, 3)
    clear = scores.copy()
    clear[:, 3] = 0.9
    assert _choose(table.assign(aji=clear.mean(0)), clear, "aji")["threshold"] == 4


def test_what_cannot_be_tuned_is_refused(data, weights):
    with pytest.raises(InputError, match="--score: expected aji or pq, found 'dice'"):
        tune(data, weights, score="dice")
    with pytest.raises(InputError, match="depths: expected first, last and a step above 0"):
        tune(data, weights, depths=(1, 0, 1))
    with pytest.raises(InputError, match="no --split"):
        tune(data, weights, split="test")
    (weights / "model.pt").unlink()
    with pytest.raises(InputError, match=r"model\.pt: expected trained weights, found no such file"):
        tune(data, weights)
