"""The automatic annotator: what its features measure, and that more labels and features make a better one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data.nuclei import read_nuclei, write_nuclei
from monai_ext.prepare import prepare_crchisto
from monai_ext.prepare.annotator import FEATURES, NucleusClassifier, annotate, nucleus_features

NAMES = ["dark", "long", "pale"]
CLOSE = 1e-4
ROUND = 0.15  # of a disc of pixels
STRONG, WEAK_REAL, STRONG_REAL = 0.8, 0.55, 0.65  # least agreement, but for the weak one at most


def disc(side=32, a=6.0, b=6.0, angle=0.0):
    place = np.arange(side) - (side - 1) / 2
    rows, cols = place[:, None], place[None]
    x, y = cols * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - cols * np.sin(angle)
    return (x / a) ** 2 + (y / b) ** 2 <= 1


def column(features, name):
    return features[:, FEATURES.index(name)]


def test_shapes():
    masks = np.stack([disc(), disc(a=10, b=3), disc(a=10, b=3, angle=0.7), disc(a=3, b=3)])
    features = nucleus_features(np.full((4, 32, 32, 3), 128, np.uint8), masks)
    assert features.shape == (4, len(FEATURES))
    assert np.allclose(column(features, "area"), masks.sum(axis=(1, 2)) / 1024, atol=CLOSE)
    eccentricity = column(features, "eccentricity")
    assert eccentricity[0] < ROUND
    assert np.allclose(eccentricity[1:3], np.sqrt(1 - 0.09), atol=0.02), "whatever its direction"
    assert abs(column(features, "circularity")[0] - 1) < ROUND
    assert column(features, "circularity")[1] < 0.8


def test_colours_inside_and_around():
    patches = np.full((2, 32, 32, 3), 200, np.uint8)
    mask = disc()
    patches[0][mask] = (80, 40, 120)
    patches[0, 16, 16] = (10, 20, 30)
    masks = np.stack([mask, mask])
    features = nucleus_features(patches, masks)
    inside = patches[0][mask] / 255
    for what, expected in (
        ("mean", inside.mean(0)),
        ("std", inside.std(0)),
        ("min", inside.min(0)),
        ("max", inside.max(0)),
    ):
        found = [column(features, f"{what}_{channel}")[0] for channel in "rgb"]
        assert np.allclose(found, expected, atol=CLOSE)
    assert np.allclose(features[0, [FEATURES.index(f"around_{c}") for c in "rgb"]], 200 / 255, atol=CLOSE)
    assert column(features, "mean_h")[0] > 3 * column(features, "mean_h")[1]
    assert np.isfinite(features).all()


@pytest.mark.parametrize("value", [0, 255])
def test_patches_of_one_colour(value):
    assert np.isfinite(nucleus_features(np.full((3, 16, 16, 3), value, np.uint8))).all()
    assert nucleus_features(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, len(FEATURES))


def nuclei(rng, kinds):
    """Dark round, dark long and pale round nuclei, each of its own darkness."""
    patches = rng.integers(190, 221, (len(kinds), 32, 32, 3)).astype(np.uint8)
    for patch, kind in zip(patches, kinds, strict=True):
        mask = disc(a=12, b=3, angle=rng.uniform(0, np.pi)) if kind == "long" else disc(a=6, b=6)
        colour = (150, 110, 180) if kind == "pale" else (90, 50, 130)
        patch[mask] = (np.array(colour) + rng.integers(-35, 36) + rng.integers(-15, 16, (mask.sum(), 3))).clip(0, 255)
    return patches


def dataset(folder, images=6, count=60):
    rng = np.random.default_rng(0)
    lists = {"training": [], "validation": [], "test": []}
    for number in range(images):
        kinds = rng.choice(NAMES, count)
        known = np.where(rng.random(count) < 0.1, "background", kinds)
        known[:2] = ""
        table = {"row": 1.5, "col": np.arange(count), "scale": 1, "ea": known}
        item = write_nuclei(folder, f"s{number}", nuclei(rng, kinds), table) | {"group": f"s{number}"}
        lists["training" if number < images - 2 else "validation" if number == images - 2 else "test"].append(item)
    (folder / "dataset.json").write_text(json.dumps({"class_names": NAMES, **lists}))
    return folder


def test_annotate(tmp_path):
    folder = dataset(tmp_path)
    before = read_nuclei(folder / "nuclei" / "s0.csv")
    for name, options in (("ssa", {"per_class": 30}), ("wsa", {"per_class": 2, "features": "few"})):
        assert annotate(folder, name, "ea", **options) == folder / "dataset.json"
    content = json.loads((folder / "dataset.json").read_text())
    strong, weak = (content["annotators"][name]["agreement"] for name in ("ssa", "wsa"))
    assert min(strong.values()) > STRONG
    assert weak["test"] < strong["test"]
    assert content["annotators"]["ssa"]["per_class"] == 30
    table = read_nuclei(folder / "nuclei" / "s0.csv")
    assert table.columns.tolist() == ["row", "col", "scale", "ea", "ssa", "wsa"]
    assert table[["row", "col", "scale", "ea"]].astype(str).equals(before.astype(str))
    for name in ("ssa", "wsa"):
        assert ((table[name] == "background") == (table["ea"] == "background")).all()
        assert set(table[name]) <= {*NAMES, "background"}, "what nobody annotated is annotated"


def test_same_seed_same_annotations(tmp_path):
    folder = dataset(tmp_path)
    found = []
    for seed in (0, 0, 1):
        annotate(folder, "ssa", "ea", per_class=3, seed=seed, overwrite=True)
        found.append((folder / "nuclei" / "s0.csv").read_text())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"column": "ea"}, "column", id="source"),
        pytest.param({"column": "row"}, "column", id="place"),
        pytest.param({"column": "w 1"}, "column", id="letters"),
        pytest.param({"column": "ssa", "source": "qa"}, "a column qa", id="no_source"),
        pytest.param({"column": "ssa", "per_class": 1000}, "at least 1000 nuclei of each class", id="too_many"),
        pytest.param({"column": "ssa", "features": "some"}, "features", id="features"),
    ],
)
def test_wrong_arguments_change_nothing(tmp_path, arguments, words):
    folder = dataset(tmp_path, 3, 20)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(InputError, match=words):
        annotate(folder, **({"per_class": 2} | arguments))
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}


def test_a_column_is_not_replaced_unasked(tmp_path):
    folder = dataset(tmp_path, 3)
    annotate(folder, "ssa", per_class=2)
    with pytest.raises(InputError, match="no column ssa yet"):
        annotate(folder, "ssa", per_class=2)


def test_a_classifier_keeps_its_columns():
    model = NucleusClassifier(3, "few")
    assert [FEATURES[index] for index in model.columns] == ["mean_h", "mean_e", "area"]


@pytest.mark.real_data
@pytest.mark.slow
def test_real_nuclei(tmp_path, real_data):
    path = prepare_crchisto(real_data / "crchisto", tmp_path / "dst")
    annotate(path.parent, "wsa", per_class=10, features="few")
    annotate(path.parent, "ssa", per_class=50)
    found = json.loads(path.read_text())["annotators"]
    assert found["wsa"]["agreement"]["training"] < WEAK_REAL
    assert found["ssa"]["agreement"]["training"] > STRONG_REAL
