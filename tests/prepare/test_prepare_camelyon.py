"""Camelyon16 and HPLOC: the official layout, what is drawn from slides, and everything that may be wrong with them.

The slides are painted in three colours, so the pixels themselves say what a patch holds.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import check_label_item, load_datalist, read_geojson
from monai_ext.formats.asap import read_asap_region, write_asap
from monai_ext.formats.outlines import polygons_to_mask
from monai_ext.phantom import phantom_field, write_camelyon16
from monai_ext.phantom.release import plan_camelyon16
from monai_ext.prepare import prepare_camelyon16, prepare_hploc

PARTS = ("training", "validation", "test")
MPP = 0.5  # um/px of the slides; patches are at 1
SHAPE = (800, 1200)
GLASS, NORMAL, TUMOUR = (242, 242, 240), (230, 120, 180), (90, 40, 140)
TISSUE = (100, 100, 700, 1100)  # top, left, bottom, right
LESION = shapely.box(300, 200, 500, 420)  # x, y
SMALL = shapely.box(900, 600, 930, 630)
UNEVEN = 4.5  # standard deviations that a count may be off
CLOSE = 0.02  # share of the pixels of a mask that lie on its rim
TRUTH_CLEAR = 0.05  # share of a patch's centre that must be tumour to call it so whatever the outline's steps
AGREEMENT = 0.96  # share of a mask's pixels that are the phantom's truth; its outlines have steps of 4 um


def slide(path: Path, region=(), resolution=True) -> Path:
    """Paint a slide; ``region`` is its tumour."""
    pixels = np.full((*SHAPE, 3), GLASS, np.uint8)
    top, left, bottom, right = TISSUE
    pixels[top:bottom, left:right] = NORMAL
    pixels[polygons_to_mask(np.array(list(region), dtype=object), SHAPE)] = TUMOUR
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = {"resolution": (1e4 / MPP,) * 2, "resolutionunit": "CENTIMETER"} if resolution else {}
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", compressionargs={"level": 1}, **unit
    )
    return path


def release(src: Path, normal=(1, 2, 3), tumour=(1, 2, 3), tests=True) -> Path:
    """Tumour slides have one lesion, a small one in the first; test slide 1 is normal, 2 has a lesion with a hole."""
    training, testing = src / "training", src / "testing"
    for number in normal:
        slide(training / "normal" / f"normal_{number:03d}.tif")
    for number in tumour:
        lesion = SMALL if number == 1 else LESION
        slide(training / "tumor" / f"tumor_{number:03d}.tif", [lesion])
        write_asap(training / "lesion_annotations" / f"tumor_{number:03d}.xml", {"_0": [lesion]})
    if tests:
        slide(testing / "images" / "test_001.tif")
        hole = shapely.box(350, 250, 430, 340)
        slide(testing / "images" / "test_002.tif", [LESION - hole])
        write_asap(testing / "lesion_annotations" / "test_002.xml", {"_0": [LESION], "_2": [hole]})
        (testing / "reference.csv").write_text("test_001,Normal,None\ntest_002,Tumor,Macro\n")
    return src


@pytest.fixture(scope="module")
def src(tmp_path_factory):
    return release(tmp_path_factory.mktemp("camelyon") / "CAMELYON16")


@pytest.fixture(scope="module")
def prepared(src, tmp_path_factory):
    return prepare_camelyon16(src, tmp_path_factory.mktemp("prepared"), patches=300)


@pytest.fixture(scope="module")
def hploc(src, tmp_path_factory):
    return prepare_hploc(src, tmp_path_factory.mktemp("hploc"), patches=100, least=0.2)


def read(path: Path) -> dict:
    content = json.loads(path.read_text())
    load_datalist(path.parent, [p for p in PARTS if content[p]], check=check_label_item, path_keys=("image",))
    return content


def picture(path: Path, item: dict) -> np.ndarray:
    return cv2.imread(str(path.parent / item["image"]))[..., ::-1].astype(int)


def near(pixels: np.ndarray, colour) -> np.ndarray:
    """Where a mixture of colours is mostly the one given."""
    distances = [np.abs(pixels - np.array(other)).sum(-1) for other in (colour, GLASS, NORMAL, TUMOUR)]
    return distances[0] <= np.min(distances, axis=0)


def place(item: dict) -> tuple[int, int]:
    return tuple(map(int, Path(item["image"]).stem.split("_")))


def items(content: dict) -> list[dict]:
    return [item for part in PARTS for item in content[part]]


# ------------------------------------------------------------------------------------------------- the list of patches


def test_parts_and_counts(prepared):
    content = read(prepared)
    assert (content["name"], content["split"]) == ("camelyon16", "paper")
    groups = {part: {item["group"] for item in content[part]} for part in PARTS}
    assert groups["test"] == {"test_001", "test_002"}
    assert {name[:-4] for name in groups["validation"]} == {"normal", "tumor"}
    assert len(groups["validation"]) == 2
    assert len(groups["training"]) == 4
    for part in PARTS:
        assert Counter(item["label"] for item in content[part]) == {0: 150, 1: 150}
    assert {item["mpp"] for item in items(content)} == {1.0}
    assert len({item["image"] for item in items(content)}) == 900, "no place twice"


def test_labels_are_what_the_centre_shows(prepared):
    for item in items(read(prepared)):
        pixels = picture(prepared, item)
        assert pixels.shape == (96, 96, 3)
        centre = near(pixels[32:64, 32:64], TUMOUR)
        assert centre.any() == item["label"], item
        if not item["label"]:
            assert not near(pixels[36:60, 36:60], GLASS).all(), "its middle is tissue, as blurred for the mask"


def test_pixels_are_those_of_the_named_place(prepared, src):
    item = next(item for item in read(prepared)["test"] if item["label"])
    whole = tifffile.imread(src / "testing" / "images" / "test_002.tif")
    row, col = (2 * index for index in place(item))
    expected = whole[row : row + 192, col : col + 192].reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    assert np.abs(picture(prepared, item) - expected).max() <= 1


def test_slides_have_equal_chances_whatever_their_tumour(src, tmp_path):
    content = read(prepare_camelyon16(src, tmp_path, patches=600, split="test"))
    for label, slides in ((1, 4), (0, 8)):
        counts = Counter(item["group"] for item in content["test"] if item["label"] == label)
        share = 1 / slides
        assert len(counts) == slides
        assert max(abs(n - 300 * share) for n in counts.values()) < UNEVEN * (300 * share * (1 - share)) ** 0.5


@pytest.mark.slow
def test_places_have_equal_chances(src, tmp_path):
    """Centres of tumour patches fill the lesion evenly, and reach half a centre beyond it."""
    split = tmp_path / "split.json"
    names = [f"normal_{n:03d}" for n in (1, 2, 3)] + [f"tumor_{n:03d}" for n in (1, 2)] + ["test_001", "test_002"]
    split.write_text(json.dumps({"train": names, "test": ["tumor_003"]}))
    content = read(prepare_camelyon16(src, tmp_path / "dst", patches=800, split=split))
    rows, cols = np.array([place(item) for item in content["test"] if item["label"]]).T + 48
    left, top, right, bottom = (side / 2 for side in LESION.bounds)
    for values, low, high in ((cols, left - 16, right + 16), (rows, top - 16, bottom + 16)):
        assert values.min() >= low
        assert values.max() <= high
        counts, _ = np.histogram(values, bins=5, range=(low, high))
        assert np.abs(counts - 80).max() < UNEVEN * (400 * 0.2 * 0.8) ** 0.5


def test_slides_json(prepared, src):
    slides = json.loads((prepared.parent / "slides.json").read_text())
    assert [entry["group"] for entry in slides] == sorted(entry["group"] for entry in slides)
    assert {entry["group"]: entry["part"] for entry in slides} == {
        item["group"]: part for part in PARTS for item in read(prepared)[part]
    }
    for entry in slides:
        assert (prepared.parent / entry["image"]).samefile(next(src.rglob(f"{entry['group']}.tif")))
        assert entry["exhaustive"]
        assert (entry["annotation"] is not None) == entry["label"]
    entry = next(entry for entry in slides if entry["group"] == "test_002")
    features = read_geojson(prepared.parent / entry["annotation"])
    expected = read_asap_region(src / "testing" / "lesion_annotations" / "test_002.xml")
    assert shapely.union_all(features.geometry).equals(shapely.union_all(expected))
    assert set(features.classes) == {"Tumor"}
    assert features.geometry[0].area == LESION.area - 80 * 90


@pytest.mark.slow
def test_same_seed_same_data(src, prepared, tmp_path):
    again = prepare_camelyon16(src, tmp_path / "a", patches=300)
    assert again.read_bytes() == prepared.read_bytes()
    assert (tmp_path / "a" / "slides.json").read_bytes() == (prepared.parent / "slides.json").read_bytes()
    other = read(prepare_camelyon16(src, tmp_path / "b", patches=300, seed=1))
    assert {place(item) for item in other["test"]} != {place(item) for item in read(prepared)["test"]}


def test_other_resolution_and_size(src, tmp_path):
    content = read(prepare_camelyon16(src, tmp_path / "dst", patches=20, size=48, mpp=2.0))
    for item in items(content):
        pixels = picture(tmp_path / "dst" / "dataset.json", item)
        assert pixels.shape == (48, 48, 3)
        assert item["mpp"] == 2
        if item["label"]:
            assert near(pixels[15:33, 15:33], TUMOUR).any()


@pytest.mark.parametrize("options", [{"size": 4}, {"size": 96.5}, {"mpp": 0}, {"patches": 0}, {"patches": True}])
def test_bad_options(src, tmp_path, options):
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected"):
        prepare_camelyon16(src, tmp_path, **options)


# --------------------------------------------------------------------------------------------------- what is on a disk


def test_other_folders_partial_download_and_older_names(tmp_path, capsys):
    """What the mirrors offer: other folders, other capitals, no reference.csv, and only some of the files."""
    src = tmp_path / "src"
    slide(src / "images" / "Normal_001.tif")
    slide(src / "images" / "Tumor_002.tif", [LESION])
    slide(src / "images" / "Test_001.tif")
    slide(src / "images" / "Test_002.tif", [LESION])
    slide(src / "images" / "test_049.tif")
    slide(src / "masks" / "tumor_002_mask.tif")
    for name in ("Tumor_002", "Test_002", "tumor_003"):
        write_asap(src / "annotations" / f"{name}.xml", {"Tumor": [LESION]})
    content = read(prepare_camelyon16(src, tmp_path / "dst", patches=20))
    assert {part: {item["group"] for item in content[part]} for part in PARTS} == {
        "training": {"normal_001", "tumor_002"},
        "validation": set(),
        "test": {"test_001", "test_002"},
    }
    said = capsys.readouterr().err
    assert "1 annotations without a slide left out: tumor_003" in said
    assert "test_049.tif: left out, as the release has withdrawn it: a duplicate" in said


def test_slides_that_are_not_fully_outlined_lend_no_normal_patches(tmp_path):
    src = release(tmp_path / "src", normal=[1], tumour=[10, 2], tests=False)
    path = prepare_camelyon16(src, tmp_path / "dst", patches=200, split="test")
    found = Counter((item["group"], item["label"]) for item in read(path)["test"])
    assert found.keys() == {("normal_001", 0), ("tumor_002", 0), ("tumor_002", 1), ("tumor_010", 1)}
    slides = json.loads((tmp_path / "dst" / "slides.json").read_text())
    assert {entry["group"] for entry in slides if not entry["exhaustive"]} == {"tumor_010"}


def test_all_problems_come_together(tmp_path):
    src = release(tmp_path / "src", normal=[1, 2, 3, 4], tumour=[1, 2, 3, 4, 5])
    annotations = src / "training" / "lesion_annotations"
    (annotations / "tumor_001.xml").unlink()
    (annotations / "tumor_002.xml").write_text("<ASAP_Annotations><Annotations>")
    write_asap(annotations / "tumor_003.xml", {"necrosis": [LESION]})
    write_asap(annotations / "tumor_004.xml", {"_2": [LESION]})
    write_asap(annotations / "normal_001.xml", {"_0": [LESION]})
    slide(src / "training" / "normal" / "normal_002.tif", resolution=False)
    broken = src / "training" / "normal" / "normal_003.tif"
    broken.write_bytes(broken.read_bytes()[:100])
    slide(src / "copy" / "tumor_005.tif")
    slide(src / "testing" / "images" / "test_003.tif")
    (src / "testing" / "reference.csv").write_text("slide,type\ntest_001,Normal\ntest_002,perhaps\n")
    with pytest.raises(DataListError) as error:
        prepare_camelyon16(src, tmp_path / "dst")
    problems = error.value.problems
    for words in (
        "tumor_001.tif: expected its annotation, found none",
        "tumor_002.xml: expected ASAP annotations",
        "tumor_003.xml: expected groups among _0, _1, Tumor, metastases, None, _2, Exclusion, normal, found necrosis",
        "tumor_004.xml: expected outlines of tumour, found none",
        "normal_001.tif: expected no annotation, found",
        "normal_002.tif: expected a slide that states its resolution",
        f"{broken}: expected",
        "tumor_005.tif: expected one file of tumor_005, found also",
        "reference.csv: expected Tumor or Normal for test_002, found 'perhaps'",
        "test_002.tif: expected no annotation, found",
        "test_003.tif: expected its line in reference.csv, found none",
    ):
        assert sum(words in line for line in problems) == 1, (words, problems)
    assert len(problems) == 11
    assert not (tmp_path / "dst").exists()


def test_annotations_still_packed(tmp_path):
    src = release(tmp_path / "src", [1], [2], tests=False)
    annotations = src / "training" / "lesion_annotations"
    (annotations / "tumor_002.xml").rename(src / "training" / "lesion_annotations.zip")
    with pytest.raises(DataListError, match=r"lesion_annotations\.zip: expected it unpacked"):
        prepare_camelyon16(src, tmp_path / "dst")


def test_resolution_given(tmp_path):
    src = release(tmp_path / "src", [1], [2], tests=False)
    for path in src.rglob("*.tif"):
        slide(path, [LESION] * ("tumor" in path.name), resolution=False)
    path = prepare_camelyon16(src, tmp_path / "dst", patches=20, slide_mpp=MPP, split="test")
    for item in read(path)["test"]:
        assert near(picture(path, item)[32:64, 32:64], TUMOUR).any() == item["label"]


def test_nothing_but_glass(tmp_path):
    src = tmp_path / "src"
    white = np.full((*SHAPE, 3), GLASS, np.uint8)
    path = slide(src / "normal_001.tif")
    tifffile.imwrite(path, white, tile=(256, 256), resolution=(1e4 / MPP,) * 2, resolutionunit="CENTIMETER")
    with pytest.raises(DataListError, match="expected normal patches or tumour patches on the slides of the part test"):
        prepare_camelyon16(src, tmp_path / "dst", patches=5, split="test")


def test_a_slide_damaged_inside_leaves_no_list(tmp_path):
    src = release(tmp_path / "src", [1], [2], tests=False)
    path = src / "training" / "normal" / "normal_001.tif"
    with tifffile.TiffFile(path) as file:
        offsets, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    with path.open("r+b") as file:
        for offset, count in zip(offsets, counts, strict=True):
            file.seek(offset)
            file.write(b"\xff" * count)
    with pytest.raises(InputError, match=r"normal_001\.tif, level 0, row .*: expected readable pixels"):
        prepare_camelyon16(src, tmp_path / "dst", patches=20, split="test")
    assert not (tmp_path / "dst" / "dataset.json").exists()


# --------------------------------------------------------------------------------------------------------------- HPLOC


def test_hploc(hploc):
    content = read(hploc)
    assert [len(content[part]) for part in PARTS] == [0, 0, 100]
    for item in content["test"]:
        assert (item["label"], item["group"], item["mpp"]) == (1, "test_002", 1.0)
        pixels = picture(hploc, item)
        mask = cv2.imread(str(hploc.parent / item["mask"]), cv2.IMREAD_UNCHANGED)
        assert (mask.shape, mask.dtype) == ((96, 96), np.uint8)
        assert set(np.unique(mask)) == {0, 255}
        assert ((mask == 255) != near(pixels, TUMOUR)).mean() < CLOSE
        assert (mask == 255).mean() >= 0.2
        assert (near(pixels, NORMAL) & (mask == 0)).mean() >= 0.2 - CLOSE
    hole = [
        item for item in content["test"] if 250 < 2 * place(item)[0] + 96 < 340 and 350 < 2 * place(item)[1] + 96 < 430
    ]
    assert hole, "the hole in the lesion counts as normal tissue"


def test_hploc_validation_is_camelyons(src, prepared, tmp_path):
    path = prepare_hploc(src, tmp_path, patches=15, validation=True)
    content = read(path)
    assert [len(content[part]) for part in PARTS] == [0, 15, 15]
    held = {item["group"] for item in json.loads(prepared.read_text())["validation"]}
    assert {item["group"] for item in content["validation"]} == {name for name in held if name.startswith("tumor")}
    assert {item["group"] for item in content["test"]} == {"test_002"}


def test_hploc_without_tumour_slides(tmp_path):
    src = release(tmp_path / "src", [1], [2], tests=False)
    with pytest.raises(DataListError, match="expected slides with tumour, all of it outlined, for the part test"):
        prepare_hploc(src, tmp_path / "dst")


def test_hploc_leaves_out_slides_that_are_not_fully_outlined(tmp_path):
    """Beyond an outline of theirs the mask would call tumour normal."""
    src = release(tmp_path / "src", normal=[1], tumour=[10, 2], tests=False)
    content = read(prepare_hploc(src, tmp_path / "dst", patches=20, split="test"))
    assert {item["group"] for item in content["test"]} == {"tumor_002"}


def test_hploc_where_nothing_qualifies(src, tmp_path):
    split = tmp_path / "split.json"
    names = [path.stem for path in src.rglob("*.tif")]
    split.write_text(json.dumps({name: "test" if name == "tumor_001" else "train" for name in names}))
    with pytest.raises(
        DataListError, match=r"expected patches with at least 0\.4 of tumour and of normal tissue on the"
    ):
        prepare_hploc(src, tmp_path / "dst", least=0.4, split=split, patches=50)  # its lesion is 15 um wide
    with pytest.raises(InputError, match=r"least: expected a share above 0, at most 0\.5, found 0\.6"):
        prepare_hploc(src, tmp_path / "dst", least=0.6)


def test_fewer_places_than_wanted(src, tmp_path, capsys):
    split = tmp_path / "split.json"
    names = [path.stem for path in src.rglob("*.tif")]
    split.write_text(json.dumps({name: "test" if name == "tumor_001" else "train" for name in names}))
    path = prepare_camelyon16(src, tmp_path / "dst", patches=400, split=split, size=12, mpp=4.0)
    content = read(path)
    tumour = sum(item["label"] for item in content["test"])
    # the lesion is 3.75 px wide: a centre of 4 px begins at the 3 rows before the first that touches it up to the last
    assert 16 <= tumour <= 64
    assert f"test: the slides hold {len(content['test'])} of 400 patches" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- phantom

PHANTOM = {"slides": 4, "size": 1024, "mpp": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_camelyon16(tmp_path_factory.mktemp("phantom") / "release", **PHANTOM)


@lru_cache
def truth(group: str) -> np.ndarray:
    """The phantom's own tumour, rendered again."""
    planned = {slide.name: slide for _, slide in plan_camelyon16(**PHANTOM)}
    view = phantom_field((PHANTOM["size"],) * 2, slide=planned[group])
    return view.tumour & ~view.vessel


@pytest.mark.slow
def test_phantom_release(phantom, tmp_path):
    files = sorted(str(path.relative_to(phantom)) for path in phantom.rglob("*") if path.is_file())
    assert files == [
        "about.json",
        "testing/images/test_001.tif",
        "testing/images/test_002.tif",
        "testing/lesion_annotations/test_002.xml",
        "testing/reference.csv",
        "training/lesion_annotations/tumor_001.xml",
        "training/normal/normal_001.tif",
        "training/tumor/tumor_001.tif",
    ]
    assert (phantom / "testing" / "reference.csv").read_text() == "test_001,Normal\ntest_002,Tumor\n"
    with pytest.raises(InputError, match="expected an empty folder"):
        write_camelyon16(phantom, **PHANTOM)
    with pytest.raises(InputError, match="slides: expected at least 4"):
        write_camelyon16(tmp_path / "new", slides=3)


@pytest.mark.slow
def test_phantom_labels_are_its_truth(phantom, tmp_path):
    path = prepare_camelyon16(phantom, tmp_path, patches=40)
    content = read(path)
    assert [len(content[part]) for part in PARTS] == [40, 0, 40]
    clear = 0
    for item in items(content):
        row, col = place(item)
        share = truth(item["group"])[row + 32 : row + 64, col + 32 : col + 64].mean()
        around = truth(item["group"])[row + 28 : row + 68, col + 28 : col + 68]
        if not around.any() or share > TRUTH_CLEAR:
            clear += 1
            assert item["label"] == (share > 0), item
    assert clear > 70


@pytest.mark.slow
def test_phantom_masks_are_its_truth(phantom, tmp_path):
    path = prepare_hploc(phantom, tmp_path, patches=20)
    for item in read(path)["test"]:
        mask = cv2.imread(str(tmp_path / item["mask"]), cv2.IMREAD_UNCHANGED) > 0
        row, col = place(item)
        assert (mask == truth(item["group"])[row : row + 96, col : col + 96]).mean() > AGREEMENT
