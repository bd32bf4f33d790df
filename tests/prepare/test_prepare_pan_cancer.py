"""PanNuke, NuInsSeg and PUMA: tiny releases in their layouts, and all that may be wrong with a download."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.data import Features, read_field, read_mask, write_geojson
from monai_ext.prepare import nuinsseg as nuinsseg_module
from monai_ext.prepare import prepare_nuinsseg, prepare_pannuke, prepare_puma
from tests.prepare.test_prepare_cells import PARTS, SHAPE, instances, items, picture, problems

CLASSES = ["Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial"]


# ----------------------------------------------------------------------------------------------------------- PanNuke


def pannuke_masks(count: int, side: int) -> np.ndarray:
    """In each image: two neoplastic nuclei, a dead one of the same number, which overlaps the first by a row."""
    masks = np.zeros((count, side, side, 6))
    masks[:, 2:6, 2:10, 0] = 1
    masks[:, 10:12, 2:6, 0] = 9
    masks[:, 5:8, 2:10, 3] = 1
    masks[..., 5] = masks[..., :5].max(-1) == 0
    return masks


def pannuke(src: Path, count: int = 4, side: int = 32, folds: str = "123") -> Path:
    """As it is unpacked; numbers are floating point."""
    for fold in folds:
        images, masks = src / f"Fold {fold}/images/fold{fold}", src / f"Fold {fold}/masks/fold{fold}"
        for folder in (images, masks):
            folder.mkdir(parents=True)
        rng = np.random.default_rng(int(fold))
        np.save(images / "images.npy", rng.integers(0, 256, (count, side, side, 3)).astype(np.float64))
        np.save(images / "types.npy", np.array(["Breast", "HeadNeck", "Colon", "Adrenal_gland"] * count)[:count])
        np.save(masks / "masks.npy", pannuke_masks(count, side))
    return src


@pytest.mark.parametrize("fold_split", [1, 2, 3])
def test_pannuke(tmp_path, fold_split):
    src = pannuke(tmp_path / "src")
    content, found = items(prepare_pannuke(src, tmp_path / "dst", fold_split=fold_split))
    assert content["class_names"] == CLASSES
    assert (content["split"], content["fold_split"]) == ("paper", fold_split)
    folds = [{item["group"].split("/")[0] for item in content[part]} for part in PARTS]
    # training, validation, test, as the authors have it
    official = {1: ("fold1", "fold2", "fold3"), 2: ("fold2", "fold1", "fold3"), 3: ("fold3", "fold2", "fold1")}
    assert folds == [{fold} for fold in official[fold_split]]
    for item in found:
        fold, index = item["group"].split("/")
        image = np.load(src / f"Fold {fold[-1]}/images/{fold}/images.npy")[int(index)]
        assert np.array_equal(np.moveaxis(read_field(item["image"]).image, 0, -1), image)
        assert item["organ"] == ["Breast", "HeadNeck", "Colon", "Adrenal_gland"][int(index)]
        assert item["mpp"] == 0.25
        label, classes = read_mask(item["label"]), read_mask(item["classes"])
        counts = [(kind, int((label == k).sum())) for k in (1, 2, 3) for kind in np.unique(classes[label == k])]
        # one number in two maps is two nuclei; where they overlap the later class is seen
        assert counts == [(1, 24), (1, 8), (4, 24)]
        assert np.array_equal(label > 0, pannuke_masks(1, 32)[0, ..., :5].any(-1))


def test_pannukes_folds_that_are_there(tmp_path):
    """Another split than the authors' asks for no fold that was not downloaded."""
    src = pannuke(tmp_path / "src", count=10, folds="2")
    content, found = items(prepare_pannuke(src, tmp_path / "dst", split="random"))
    assert len(found) == 10
    assert [len(content[part]) for part in PARTS] == [6, 2, 2]
    _, cut = items(prepare_pannuke(pannuke(tmp_path / "large", 1, 64), tmp_path / "cut", tile=32))
    assert len(cut) == 3 * 4
    assert sum(read_mask(item["label"]).max() for item in cut) == 3 * 3
    assert problems("pannuke", src, tmp_path / "no").count("\n") == 1, "two folds are missing, a line each"


def test_pannuke_problems(tmp_path):
    src = pannuke(tmp_path / "src")
    one, two, three = (src / f"Fold {fold}/images/fold{fold}" for fold in "123")
    masks = src / "Fold 1/masks/fold1/masks.npy"
    np.save(masks, np.load(masks)[:3])
    np.save(one / "types.npy", np.array(["Breast"] * 5))
    (two / "images.npy").write_bytes((two / "images.npy").read_bytes()[:500])
    np.save(two / "types.npy", np.array(["Breast", None], dtype=object), allow_pickle=True)
    shutil.copytree(src / "Fold 3", src / "Fold 3 (1)")
    (src / "loose").mkdir()
    np.save(src / "loose/masks.npy", np.zeros(3))
    found = problems("pannuke", src, tmp_path / "dst").splitlines()
    for words in (
        "fold1/masks.npy: expected numbers of shape (4, 32, 32, 6), as its images, found float64 (3, 32, 32, 6)",
        "fold1/types.npy: expected 4 names, one for each image, found <U6 (5,)",
        "fold2/images.npy: expected a whole NPY file",
        "fold2/types.npy: expected a whole NPY file of numbers or text, found Array can't be memory-mapped: Python",
        "images.npy of fold 3, found also",
        "masks.npy of fold 3, found also",
        "types.npy of fold 3, found also",
        "loose/masks.npy: expected a folder that names its fold",
    ):
        assert any(words in line for line in found), words
    assert len(found) == 8
    (three / "types.npy").unlink()
    shutil.rmtree(src / "Fold 3 (1)")
    shutil.rmtree(src / "loose")
    assert f"{src}: expected types.npy of fold 3, found none" in problems("pannuke", src, tmp_path / "dst")


def test_pannukes_values_that_are_none(tmp_path):
    src = pannuke(tmp_path / "src")
    for fold, name, value in (("1", "images", 0.5), ("2", "images", 256), ("3", "masks", np.nan), ("3", "masks", -1)):
        path = src / f"Fold {fold}/{name}/fold{fold}/{name}.npy"
        array = np.load(path)
        array[int(value == -1), 7, 7, 2] = value
        np.save(path, array)
    found = problems("pannuke", src, tmp_path / "dst")
    assert "fold1/images.npy, image 0: expected whole numbers from 0 to 255, found 0.5" in found
    assert "fold2/images.npy, image 0: expected whole numbers from 0 to 255, found 256.0" in found
    assert "fold3/masks.npy, image 0: expected whole numbers from 0" in found
    assert "fold3/masks.npy, image 1: expected whole numbers from 0" in found
    assert found.count("\n") == 3


@pytest.mark.parametrize(
    ("convert", "options", "words"),
    [
        (prepare_pannuke, {"fold_split": 4}, "fold_split: expected 1, 2 or 3, found 4"),
        (prepare_nuinsseg, {"fold": 0}, "fold: expected 1 to 5, found 0"),
        (prepare_puma, {"track": 3}, r"track: expected 1 \(three classes\) or 2 \(ten\), found 3"),
    ],
)
def test_choices_that_cannot_be(tmp_path, convert, options, words):
    with pytest.raises(InputError, match=words):
        convert(tmp_path, tmp_path / "dst", **options)


# ---------------------------------------------------------------------------------------------------------- NuInsSeg

ORGANS = ("human liver", "human spleen", "mouse spleen", "human tongue", "mouse testis", "human lung", "mouse lung")


def write_tiff(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)


def write_mask(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def vague() -> np.ndarray:
    area = np.zeros(SHAPE, np.uint8)
    area[30:40, 50:70] = 1
    return area


def nuinsseg(src: Path, count: int = 2, organs=ORGANS) -> Path:
    for organ in organs:
        for number in range(1, count + 1):
            name = f"{organ.replace(' ', '_')}_{number:02d}"
            picture(src / organ / "tissue images" / f"{name}.png", number)
            write_tiff(src / organ / "label masks modify" / f"{name}.tif", instances().astype(np.uint16))
            write_tiff(src / organ / "label masks" / f"{name}.tif", (instances() + 5).astype(np.uint16))
            write_mask(src / organ / "mask binary" / f"{name}.png", (instances() > 0).astype(np.uint8))
            write_mask(src / organ / "vague areas/mask binary" / f"{name}.png", vague())
            write_mask(src / organ / "vague areas/mask binary without border" / f"{name}.png", 1 - vague())
    return src


def test_nuinsseg(tmp_path):
    content, found = items(prepare_nuinsseg(nuinsseg(tmp_path / "src"), tmp_path / "dst"))
    assert content["split"] == "slide"
    assert "class_names" not in content
    assert {item["group"] for item in found} == set(ORGANS)
    assert len(found) == 2 * len(ORGANS)
    for item in found:
        assert item["organ"] == item["group"]
        assert "mpp" not in item
        assert np.array_equal(read_mask(item["label"]), np.select([instances() == 3, instances() == 7], [1, 2]))
        area = read_mask(Path(item["image"]).parents[2] / item["ambiguous"])
        assert np.array_equal(area, 255 * vague()), "as a mask, 0 and 255"


def test_nuinsseg_in_squares(tmp_path):
    src = nuinsseg(tmp_path / "src", 1, ORGANS[:1])
    shutil.rmtree(src / ORGANS[0] / "vague areas")
    _, (item,) = items(prepare_nuinsseg(src, tmp_path / "bare", split="test"))
    assert "ambiguous" not in item, "not an empty one: nobody looked"
    src = nuinsseg(tmp_path / "whole", 1, ORGANS[:1])
    _, found = items(prepare_nuinsseg(src, tmp_path / "dst", tile=32, split="test"))
    areas = [read_mask(tmp_path / "dst" / item["ambiguous"]) for item in found]
    places = [tuple(map(int, item["image"].removesuffix(".png").split("_")[-2:])) for item in found]
    assert len(found) == 6
    for (row, col), area in zip(places, areas, strict=True):
        assert np.array_equal(area > 0, vague()[row : row + 32, col : col + 32] > 0)


def test_nuinssegs_own_folds(tmp_path, monkeypatch):
    """KFold(5, shuffle=True, random_state=19) over the images by name; the default keeps slides together."""
    src = nuinsseg(tmp_path / "src", 4, ORGANS[:3])
    with pytest.raises(InputError, match="not the cases of a paper's split"):
        prepare_nuinsseg(src, tmp_path / "part", split="paper")
    monkeypatch.setattr(nuinsseg_module, "_COUNT", 12)
    tests = []
    for fold in range(1, 6):
        content, found = items(prepare_nuinsseg(src, tmp_path / f"{fold}", split="paper", fold=fold))
        assert content["split"] == "paper"
        assert len(found) == 12
        assert content["validation"]
        tests.append(sorted(item["group"].split("/")[1] for item in content["test"]))
    names = sorted(path.stem for path in src.glob("*/tissue images/*.png"))
    # what scikit-learn 1.9.1 deals of twelve
    dealt = [[1, 7, 9], [0, 6, 11], [4, 10], [3, 8], [2, 5]]
    assert tests == [[names[index] for index in indices] for indices in dealt]


def test_nuinsseg_problems(tmp_path):
    src = nuinsseg(tmp_path / "src", 2, ORGANS[:2])
    liver, spleen = (src / organ for organ in ORGANS[:2])
    write_tiff(liver / "label masks modify/human_liver_01.tif", np.zeros((5, 5), np.uint16))
    write_mask(spleen / "vague areas/mask binary/human_spleen_01.png", np.zeros((7, 5), np.uint8))
    (liver / "tissue images/human_liver_02.png").unlink()
    shutil.copytree(spleen / "tissue images", src / "again" / ORGANS[1] / "tissue images")
    found = problems("nuinsseg", src, tmp_path / "dst").splitlines()
    for words in (
        "human_liver_01.tif: expected a mask of its image's size (60, 90), found (5, 5)",
        "human_spleen_01.png: expected a mask of its image's size (60, 90), found (7, 5)",
        "label masks modify/human_liver_02.tif: expected its image, found none",
        "vague areas/mask binary/human_liver_02.png: expected its image, found none",
        "human_spleen_01.png: expected one image of human spleen with this name, found also",
        "human_spleen_02.png: expected one image of human spleen with this name, found also",
    ):
        assert any(words in line for line in found), words
    assert len(found) == 6


# -------------------------------------------------------------------------------------------------------------- PUMA

TEN = ["tumor", "lymphocyte", "plasma_cell", "histiocyte", "melanophage"]
TEN += ["neutrophil", "stroma", "endothelium", "epithelium", "apoptosis"]
KINDS = ("nuclei_tumor", "nuclei_plasma_cell", "nuclei_apoptosis")


def puma(src: Path, count: int = 7) -> Path:
    """Three nuclei, and tumour with a vessel in it, glass beside."""
    nuclei = Features([shapely.box(20, 10, 40, 20), shapely.box(40, 10, 44, 20), shapely.box(5, 30, 9, 34)], KINDS)
    areas = [shapely.box(0, 0, 60, 60), shapely.box(10, 25, 30, 40), shapely.box(60, 0, 90, 60)]
    tissue = Features(areas, ["tissue_tumor", "tissue_blood_vessel", "tissue_white_background"])
    for number in range(1, count + 1):
        for kind in ("primary", "metastatic"):
            name = f"training_set_{kind}_roi_{number:03d}"
            picture(src / "01_training_dataset_tif_ROIs" / f"{name}.tif", number)
            picture(src / "01_training_dataset_tif_context_ROIs" / f"{name}_context.tif", number)
            write_geojson(src / "01_training_dataset_geojson_nuclei" / f"{name}_nuclei.geojson", nuclei)
            write_geojson(src / "01_training_dataset_geojson_tissue" / f"{name}_tissue.geojson", tissue)
    return src


@pytest.mark.parametrize(
    ("track", "names", "numbers"), [(2, TEN, (1, 3, 10)), (1, ["tumor", "til", "other"], (1, 2, 3))]
)
def test_puma(tmp_path, track, names, numbers):
    content, found = items(prepare_puma(puma(tmp_path / "src"), tmp_path / "dst", track=track))
    assert content["class_names"] == names
    assert content["tissue_names"] == ["stroma", "blood_vessel", "tumor", "epidermis", "necrosis"]
    assert (content["track"], content["split"]) == (track, "slide")
    assert len(found) == 14
    assert {item["tumor"] for item in found} == {"primary", "metastatic"}
    for item in found:
        assert item["mpp"] == 0.23
        assert item["tumor"] in item["group"]
        label, classes = read_mask(item["label"]), read_mask(item["classes"])
        areas = np.s_[10:20, 20:40], np.s_[10:20, 40:44], np.s_[30:34, 5:9]
        assert [(np.unique(label[area]).tolist(), np.unique(classes[area]).tolist()) for area in areas] == [
            ([index], [number]) for index, number in enumerate(numbers, start=1)
        ]
        assert (label > 0).sum() == 200 + 40 + 16
        tissue = read_mask(tmp_path / "dst" / item["tissue"])
        assert (tissue[0, 0], tissue[30, 20], tissue[0, 70]) == (3, 2, 0)
        assert (tissue == 2).sum() == 300


def test_puma_problems(tmp_path):
    src = puma(tmp_path / "src", 3)
    nuclei, tissue = (src / f"01_training_dataset_geojson_{kind}" for kind in ("nuclei", "tissue"))
    images = src / "01_training_dataset_tif_ROIs"
    box = [shapely.box(20, 10, 40, 20)]
    start = "training_set_primary_roi_00"
    write_geojson(nuclei / f"{start}1_nuclei.geojson", Features(box * 2, ["nuclei_tumour", None]))
    write_geojson(tissue / f"{start}2_tissue.geojson", Features([shapely.box(5000, 10, 5040, 20)], ["tissue_tumor"]))
    (nuclei / f"{start}3_nuclei.geojson").write_text('{"type": "FeatureCollection", "features": [{"ty')
    (images / "training_set_metastatic_roi_001.tif").unlink()
    again = src / "again"
    again.mkdir()
    shutil.copy(images / "training_set_metastatic_roi_002.tif", again)
    found = problems("puma", src, tmp_path / "dst").splitlines()
    for words in (
        "roi_001_nuclei.geojson: expected classes among nuclei_apoptosis, ",
        "found an outline without one, nuclei_tumour",
        f"{start}2_tissue.geojson: expected outlines on its image of 90 x 60 px, found 1 of 1 beside it, the first at",
        f"{start}3_nuclei.geojson: expected ",
        "metastatic_roi_001_nuclei.geojson: expected its image, found none",
        "metastatic_roi_001_tissue.geojson: expected its image, found none",
        "expected one image file of training_set_metastatic_roi_002, found also",
    ):
        assert any(words in line for line in found), words
    assert len(found) == 6
    assert json.loads((prepare_puma(puma(tmp_path / "sound", 2), tmp_path / "dst")).read_text())["name"] == "puma"
