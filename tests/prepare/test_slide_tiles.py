"""Tiles from slides by a rule, against the nuclei that the phantom drew."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.tiles import load_tiles
from monai_ext.phantom import phantom_field, phantom_slide, write_slide
from monai_ext.prepare.slide_tiles import SlideRule, hematoxylin, nuclear_share, nuclear_threshold
from monai_ext.prepare.tiles import prepare_tiles

MPP = 0.25
SIZE = 64
SLIDE = (1536, 2048)
SEEDS = (0, 2, 3)  # slides of this size with tissue that has nuclei and tissue that has none
POSITIVE = 0.02  # least share of true nuclei in tiles that are called positive
NEGATIVE = 0.02  # and the largest in the negative ones: pale nuclei are missed, and slivers at the edge


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for seed in SEEDS:
        write_slide(folder / f"s{seed}.tif", SLIDE, seed, compression="deflate")
    return folder


def read(path):
    content = json.loads(path.read_text())
    return {part: content[part] for part in ("training", "validation", "test")}


@pytest.mark.slow
def test_tiles_hold_what_their_label_says(slides, tmp_path):
    path = prepare_tiles(slides, tmp_path / "tiles", size=SIZE, per_image=15)
    lists = read(path)
    assert all(len({item["group"] for item in items}) == 1 for items in lists.values()), "a slide in each part"
    shares = {0: [], 1: []}
    for item in (item for items in lists.values() for item in items):
        row, col = map(int, item["image"].split("/")[-1][:-4].split("_"))
        assert row % SIZE == col % SIZE == 0
        truth = phantom_field(
            (SIZE, SIZE), slide=phantom_slide(int(item["group"][1:]), mpp=MPP, size=SLIDE), origin=(row, col)
        )
        shares[item["label"]].append((truth.instances > 0).mean())
        assert np.array_equal(cv2.imread(str(path.parent / item["image"]))[..., ::-1], truth.image)
        assert item["mpp"] == MPP
    assert min(map(len, shares.values())) >= 10
    assert min(shares[1]) >= POSITIVE
    assert max(shares[0]) <= NEGATIVE
    assert np.mean(shares[1]) > 10 * np.mean(shares[0])
    loaded = load_tiles(path.parent, ("training", "validation", "test"))
    assert {part: len(items) for part, items in loaded.items()} == {part: len(items) for part, items in lists.items()}


@pytest.mark.slow
def test_one_slide_and_the_same_tiles_whatever_is_beside_it(slides, tmp_path):
    options = {"size": SIZE, "per_image": 5, "split": "test"}
    alone = read(prepare_tiles(slides / "s2.tif", tmp_path / "one", **options))["test"]
    beside = read(prepare_tiles(slides, tmp_path / "all", **options))["test"]
    assert alone == [item for item in beside if item["group"] == "s2"]
    other = read(prepare_tiles(slides / "s2.tif", tmp_path / "other", **options, seed=1))["test"]
    assert {item["image"] for item in other} != {item["image"] for item in alone}


def image_of(*squares, shape=(96, 96)):
    """Pink with dark blue squares ``(row, col, side)``."""
    image = np.empty((*shape, 3), np.uint8)
    image[:] = 235, 190, 215
    for row, col, side in squares:
        image[row : row + side, col : col + side] = 80, 50, 140
    return np.moveaxis(image, -1, 0)


def test_share_is_the_area_of_what_is_thick_enough():
    squares = (10, 10, 24), (50, 50, 32)
    image = image_of(*squares, (90, 10, 3))  # the last is .75 um wide
    threshold = nuclear_threshold([image], MPP)
    share = nuclear_share(image, MPP, threshold)
    wanted = sum(side**2 for *_, side in squares) / 96**2
    assert share == pytest.approx(wanted, rel=0.15)  # smoothing moves the edges outwards
    amount = hematoxylin(image, MPP)
    assert amount[60, 60] > threshold > amount[40, 90]


def test_tissue_without_nuclei_is_not_parted():
    rng = np.random.RandomState(0)
    stroma = (image_of().astype(int) + rng.randint(-15, 16, (3, 96, 96))).clip(0, 255).astype(np.uint8)
    assert nuclear_share(stroma, MPP, nuclear_threshold([stroma], MPP)) == 0


def test_glass_gives_no_tiles(tmp_path):
    cv2.imwrite(str(tmp_path / "glass.png"), np.full((600, 600, 3), 243, np.uint8))
    assert SlideRule(SIZE).draw(tmp_path / "glass.png") == []
    with pytest.raises(InputError, match=r"expected tiles with nuclei \(label 1\) and without \(0\), found none"):
        prepare_tiles(tmp_path / "glass.png", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


@pytest.mark.slow
def test_what_is_wrong_with_the_source(slides, tmp_path):
    (tmp_path / "src").mkdir()
    with pytest.raises(DataListError, match=r"expected dataset\.json of outlined fields, or slides, found neither"):
        prepare_tiles(tmp_path / "src", tmp_path / "dst")
    for name in ("a.svs", "b.png"):
        (tmp_path / "src" / name).write_text("no slide")
    with pytest.raises(DataListError) as error:
        prepare_tiles(tmp_path / "src", tmp_path / "dst")
    assert [line.split(":")[0].split("/")[-1] for line in sorted(error.value.problems)] == ["a.svs", "b.png"]
    with pytest.raises(DataListError, match="found no such folder"):
        prepare_tiles(tmp_path / "gone", tmp_path / "dst")


@pytest.mark.parametrize("options", [{"step": 5}, {"negatives": "x"}, {"most": 0.05}, {"most": -1}, {"mpp": -1}])
def test_options_out_of_range_or_of_outlined_fields(slides, tmp_path, options):
    with pytest.raises((InputError, DataListError), match=f"{next(iter(options))}: expected|{next(iter(options))}"):
        prepare_tiles(slides, tmp_path / "dst", **options)
    assert not (tmp_path / "dst").exists()


def test_options_of_slides_with_outlined_fields(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"mpp: expected no such option with outlined fields, found 0\.5"):
        prepare_tiles(tmp_path, tmp_path / "dst", mpp=0.5)
