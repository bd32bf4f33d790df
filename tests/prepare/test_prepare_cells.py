"""Converters of the knowledge distillation data: tiny releases in the official layouts, and what may be wrong."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile
import torch
from monai.data.utils import dense_patch_slices
from scipy.io import savemat
from shapely.geometry import mapping

from monai_ext import prepare
from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import Features, load_datalist, read_field, read_geojson, read_mask, read_points, write_geojson
from monai_ext.data.nuclei import check_nuclei_item, read_nuclei, read_patches
from monai_ext.prepare import (
    prepare_crchisto,
    prepare_dsb2018,
    prepare_lizard,
    prepare_monuseg,
    prepare_nucls,
    prepare_qupath,
)
from monai_ext.prepare.dsb2018 import is_he_like
from monai_ext.prepare.fields import tile_corners
from monai_ext.prepare.monuseg import read_aperio
from monai_ext.transforms import LoadFieldd, SaveNucleid

PARTS = ("training", "validation", "test")
SHAPE = (60, 90)
PINK = (230, 180, 210)
PURPLE = (110, 60, 150)
MPP = 0.5
KUMAR = Path(__file__).parents[2] / "bundles/pathology_nuclei_instance_segmentation/docs/monuseg_split.csv"
LIZARD = ["Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil", "Connective"]


def picture(path, seed=0, shape=SHAPE, dark=PURPLE, light=PINK):
    """Pink with a dark square in rows 10 to 19, columns 20 to 39."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(-8, 9, (*shape, 3)) + light
    image[10:20, 20:40] += np.array(dark) - light
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8)[..., ::-1])
    return path


def instances(shape=SHAPE):
    """Two nuclei: 3 in a square, 7 beside it."""
    found = np.zeros(shape, np.int32)
    found[10:20, 20:40] = 3
    found[10:20, 40:44] = 7
    return found


def items(path):
    content = json.loads(path.read_text())
    keys = ("mask", "classes", "centroids")
    lists = load_datalist(path.parent, [part for part in PARTS if content[part]], check=None, optional_path_keys=keys)
    groups = [{item["group"] for item in content[part]} for part in PARTS]
    assert sum(map(len, groups)) == len(set().union(*groups)), "no group in two parts"
    return content, [item for part in lists.values() for item in part]


def problems(name, src, dst, **options):
    with pytest.raises(DataListError) as error:
        getattr(prepare, f"prepare_{name}")(src, dst, **options)
    assert not (dst / "dataset.json").exists()
    return "\n".join(error.value.problems)


# ------------------------------------------------------------------------------------------------------------ Lizard


def lizard(src, count=20):
    for number in range(count):
        name = f"{('consep', 'glas')[number % 2]}_{number}"
        picture(src / f"Lizard_Images{1 + number % 2}" / f"{name}.png", number)
        (src / "Lizard_Labels" / "Labels").mkdir(parents=True, exist_ok=True)
        # ids in another order than the map's numbers, as in the release
        label = {"inst_map": instances(), "id": [[7], [3]], "class": [[6], [2]], "bbox": np.zeros((2, 4))}
        savemat(src / "Lizard_Labels" / "Labels" / f"{name}.mat", label)
    lines = [f"{('consep', 'glas')[n % 2]}_{n},x,{n % 3 + 1}" for n in range(count)]
    (src / "Lizard_Labels" / "info.csv").write_text("Filename,Source,Split\n" + "\n".join(lines))
    return src


def test_lizard(tmp_path):
    src = lizard(tmp_path / "src")
    content, found = items(prepare_lizard(src, tmp_path / "dst", masks=True, centroids=True, split="slide"))
    assert content["class_names"] == LIZARD
    assert [len(content[part]) for part in PARTS] == [14, 3, 3], "70/15/15"
    for item in found:
        label, classes = read_mask(item["label"]), read_mask(item["classes"])
        assert np.array_equal(label, np.select([instances() == 3, instances() == 7], [1, 2]))
        assert np.array_equal(classes, np.select([instances() == 3, instances() == 7], [2, 6]))
        assert np.array_equal(read_mask(item["mask"]) > 0, label > 0)
        assert read_points(item["centroids"]).tolist() == [[14.5, 29.5], [14.5, 41.5]]
        assert item["mpp"] == MPP
        name = item["group"]
        image = src / f"Lizard_Images{1 + int(name.split('_')[1]) % 2}" / f"{name}.png"
        assert image.read_bytes() == Path(item["image"]).read_bytes()
    folds = json.loads(prepare_lizard(src, tmp_path / "folds").read_text())
    assert folds["split"] == "paper", "the release's own, unless another is asked for"
    assert [{int(item["group"].split("_")[1]) % 3 for item in folds[part]} for part in PARTS] == [{0}, {1}, {2}]


@pytest.mark.parametrize(("shape", "side", "overlap"), [
    *(((1000, 1000), 256, overlap) for overlap in (0, 1 / 32, 0.25, 0.5)),
    *(((60, 90), 32, overlap) for overlap in (0, 0.25, 0.9)),
    *((shape, 64, 0.0) for shape in ((64, 64), (65, 128), (40, 200), (1, 1))),
])  # fmt: skip
def test_tiles_lie_as_monai_lays_patches(shape, side, overlap):
    """The last one of a row is shifted inwards: all of the image, and nothing else."""
    patch = tuple(min(side, length) for length in shape)
    slices = dense_patch_slices(shape, patch, (max(1, round(side * (1 - overlap))),) * 2)
    assert tile_corners(shape, side, overlap) == [(row.start, col.start) for row, col in slices]
    covered = np.zeros(shape, int)
    for row, col in tile_corners(shape, side, overlap):
        part = covered[row : row + side, col : col + side]
        assert part.shape == patch
        part += 1
    assert covered.min() == 1


@pytest.mark.parametrize("overlap", [0, 0.5])
def test_tiles_are_tissue_alone_and_join(tmp_path, overlap):
    """None is padded, the test list's included; labels belong to their pixels."""
    src = lizard(tmp_path / "src", 4)
    path = prepare_lizard(src, tmp_path / "dst", tile=32, overlap=overlap, split="random", centroids=True)
    content, found = items(path)
    assert content["split"] == "random"
    assert len(found) == 4 * (2 * 3 if overlap == 0 else 3 * 5)
    assert {item["group"] for item in found} == {"consep_0", "glas_1", "consep_2", "glas_3"}, "squares share tissue"
    joined, labels = np.zeros((*SHAPE, 3), np.uint8), np.zeros(SHAPE, np.uint8)
    for item in found:
        image, part = np.moveaxis(read_field(item["image"]).image, 0, -1), read_mask(item["label"])
        assert image.shape == (32, 32, 3)
        assert image.any(-1).all(), "no black padding"
        assert sorted(set(part.ravel()) - {0}) == list(range(1, part.max() + 1)), "numbered without gaps"
        assert len(read_points(item["centroids"])) == part.max()
        if "consep_0" in item["group"]:
            row, col = map(int, Path(item["image"]).stem.split("_")[-2:])
            joined[row : row + 32, col : col + 32] = image
            labels[row : row + 32, col : col + 32] = read_mask(item["classes"])
    whole = cv2.imread(str(src / "Lizard_Images1" / "consep_0.png"))[..., ::-1]
    assert np.array_equal(joined, whole)
    assert np.array_equal(labels > 0, instances() > 0)


def test_an_image_smaller_than_a_tile_is_one(tmp_path):
    (item,) = items(prepare_lizard(lizard(tmp_path / "src", 1), tmp_path / "dst", tile=512, split="test"))[1]
    assert read_field(item["image"]).image.shape[1:] == read_mask(item["label"]).shape == SHAPE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": 0.5}, "overlap: expected a tile to overlap"),
        ({"tile": 64, "overlap": 1}, "overlap: expected a share of the tile from 0 to below 1, found 1"),
        ({"tile": 64, "overlap": "x"}, "found 'x'"),
        ({"tile": 5}, "tile: expected a number of pixels, at least 32, found 5"),
    ],
)
def test_tiles_that_cannot_be(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        prepare_lizard(tmp_path, tmp_path / "dst", **options)


def test_lizard_problems(tmp_path):
    src = lizard(tmp_path / "src", 6)
    labels = src / "Lizard_Labels" / "Labels"
    (labels / "consep_0.mat").write_bytes((labels / "consep_0.mat").read_bytes()[:200])
    savemat(labels / "glas_1.mat", {"inst_map": instances(), "id": [[3]], "class": [[2]]})
    savemat(labels / "consep_2.mat", {"inst_map": instances((5, 5)), "id": [[3]], "class": [[2]]})
    savemat(labels / "glas_3.mat", {"inst_map": instances(), "id": [[3], [7]], "class": [[2], [9]]})
    savemat(labels / "consep_4.mat", {"other": 1})
    (labels / "nobody.mat").write_bytes(b"")
    found = problems("lizard", src, tmp_path / "dst")
    assert len(found.splitlines()) == 6
    for words in ("consep_0.mat: expected a MATLAB file", "none for [7]", "(60, 90), found (5, 5)", "no 'inst_map'"):
        assert words in found
    assert "nobody.mat: expected its image" in found


# ----------------------------------------------------------------------------------------------------------- MoNuSeg


def aperio(path, *polygons):
    path.parent.mkdir(parents=True, exist_ok=True)
    regions = "".join(
        "<Region><Vertices>" + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in polygon) + "</Vertices></Region>"
        for polygon in polygons
    )
    header = '<?xml version="1.0"?><Annotations MicronsPerPixel="0.25"><Annotation><Regions>'
    path.write_text(f"{header}{regions}</Regions></Annotation></Annotations>")


SQUARE = [(20, 10), (40, 10), (40, 20), (20, 20)]
INNER = [(25, 12), (30, 12), (30, 15), (25, 15)]


def monuseg(src):
    for number in range(8):
        name = f"TCGA-{number // 2:02}-A{number // 2:03}-01Z-00-DX{number % 2 + 1}"
        picture(src / "MoNuSeg 2018 Training Data" / "Tissue Images" / f"{name}.tif", number)
        aperio(src / "MoNuSeg 2018 Training Data" / "Annotations" / f"{name}.xml", INNER, SQUARE, [(0, 0), (1, 1)])
    for number in (90, 91):
        name = f"TCGA-{number}-A{number:03}-01A-01-TS1"
        picture(src / "MoNuSegTestData" / f"{name}.tif", number)
        aperio(src / "MoNuSegTestData" / f"{name}.xml", SQUARE)
    return src


def test_monuseg(tmp_path):
    src = monuseg(tmp_path / "src")
    content, found = items(prepare_monuseg(src, tmp_path / "dst", split="slide"))
    assert "class_names" not in content
    assert Counter(item["group"] for item in found) == {
        **{f"TCGA-{n:02}-A{n:03}": 2 for n in range(4)}, "TCGA-90-A090": 1, "TCGA-91-A091": 1
    }  # fmt: skip
    item = next(item for item in found if item["group"] == "TCGA-00-A000")
    label = read_mask(item["label"])
    assert "classes" not in item
    assert (label == 1).sum() == 15, "the smaller nucleus is in front"
    assert (label > 0).sum() == 200
    assert (label[10:20, 20:40] > 0).all()
    official = json.loads(prepare_monuseg(src, tmp_path / "official").read_text())
    assert official["split"] == "paper"
    assert {item["group"] for item in official["test"]} == {"TCGA-90-A090", "TCGA-91-A091"}
    assert official["validation"]
    named = json.loads(prepare_monuseg(src, tmp_path / "named", split="paper").read_text())
    assert [named[part] for part in PARTS] == [official[part] for part in PARTS]


def kumar(src, patients):
    """The training release alone."""
    for patient in patients:
        picture(src / "Tissue Images" / f"{patient}-01Z-00-DX1.tif")
        aperio(src / "Annotations" / f"{patient}-01Z-00-DX1.xml", SQUARE)
    return src


def test_the_papers_split_of_monusegs_training_images(tmp_path, capsys):
    """Kumar et al. 2017: 16 images, of which four choose networks, and 14; what came later is left out."""
    with KUMAR.open(newline="") as file:
        parts = {line["group"]: line["part"] for line in csv.DictReader(file)}
    assert Counter(parts.values()) == {"training": 12, "validation": 4, "test": 14}
    src = kumar(tmp_path / "src", [*parts, "TCGA-F9-A8NY"])
    content, _ = items(prepare_monuseg(src, tmp_path / "dst", split="paper"))
    assert {item["group"]: part for part in PARTS for item in content[part]} == parts
    assert "1 images that are not of the paper's 30 left out" in capsys.readouterr().err
    assert len(items(prepare_monuseg(src, tmp_path / "dealt"))[1]) == 31
    (src / "Tissue Images" / "TCGA-F9-A8NY-01Z-00-DX1.tif").unlink()
    (src / "Annotations" / "TCGA-F9-A8NY-01Z-00-DX1.xml").unlink()
    by_file, _ = items(prepare_monuseg(src, tmp_path / "by_file", split=KUMAR))
    assert [by_file[part] for part in PARTS] == [content[part] for part in PARTS]


def test_images_of_other_patients_have_no_papers_split(tmp_path):
    src = kumar(tmp_path / "src", [f"TCGA-ZZ-{number:04}" for number in range(4)])
    with pytest.raises(InputError, match="split: expected 'random', 'test' or a file"):
        prepare_monuseg(src, tmp_path / "dst", split="paper")


def test_monuseg_problems(tmp_path):
    src = tmp_path / "src"
    for number in range(5):
        picture(src / f"{number}.tif")
        aperio(src / f"{number}.xml", SQUARE)
    aperio(src / "0.xml")
    (src / "1.xml").write_text("<Annotations><Region><Vertex X='a' Y='1'/></Region></Annotations>")
    (src / "2.xml").write_text("<ASAP_Annotations/>")
    (src / "3.xml").write_text((src / "3.xml").read_text()[:90])
    (src / "4.tif").write_bytes((src / "4.tif").read_bytes()[:900])
    found = problems("monuseg", src, tmp_path / "dst")
    assert len(found.splitlines()) == 5
    for words in ("outlines of nuclei, found none", "region 0: expected vertices", "XML of Aperio", "4.tif: expected"):
        assert words in found


# ---------------------------------------------------------------------------------------------- Data Science Bowl


def bowl(src):
    kinds = {
        "he": {},
        "fluorescence": {"dark": (5, 5, 5), "light": (90, 90, 90)},
        "grey": {"dark": (90, 90, 90), "light": (220, 220, 220)},
    }
    for number in range(12):
        name = f"{number:064x}"
        kind = list(kinds)[number % 3]
        picture(src / "stage1_train" / name / "images" / f"{name}.png", number, **kinds[kind])
        for value in (3, 7):
            mask = src / "stage1_train" / name / "masks" / f"{value}.png"
            mask.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(mask), np.where(instances() == value, 255, 0).astype(np.uint8))
    picture(src / "stage1_test" / "x" / "images" / "x.png")
    return src


@pytest.mark.parametrize(("he_only", "count"), [(True, 4), (False, 12)])
def test_dsb2018(tmp_path, he_only, count):
    _content, found = items(prepare_dsb2018(bowl(tmp_path / "src"), tmp_path / "dst", he_only=he_only))
    assert len(found) == count
    assert not he_only or all(int(item["group"], 16) % 3 == 0 for item in found)
    assert all("mpp" not in item for item in found), "nobody knows"
    assert np.array_equal(read_mask(found[0]["label"]) > 0, instances() > 0)
    assert read_mask(found[0]["label"]).max() == 2


def test_dsb2018_problems(tmp_path):
    src = bowl(tmp_path / "src")
    small = src / "stage1_train" / f"{0:064x}" / "masks" / "3.png"
    cv2.imwrite(str(small), np.zeros((5, 5), np.uint8))
    broken = src / "stage1_train" / f"{3:064x}" / "images" / f"{3:064x}.png"
    broken.write_bytes(broken.read_bytes()[:200])
    found = problems("dsb2018", src, tmp_path / "dst")
    assert f"{small}: expected a mask of its image's size" in found
    assert f"{broken}: expected a readable image" in found
    assert "none with masks" in problems("dsb2018", src / "stage1_test", tmp_path / "dst")


def test_he_like_needs_colour():
    assert not is_he_like(np.full((3, 9, 9), 128, np.uint8))


@pytest.mark.real_data
@pytest.mark.slow
def test_real_dsb2018(tmp_path, real_data):
    content, found = items(prepare_dsb2018(real_data / "dsb2018_he", tmp_path / "dst"))
    assert len(found) == 81, "every one of them is H&E-like"
    assert [len(content[part]) for part in PARTS] == [57, 12, 12]


# ------------------------------------------------------------------------------------------------------------- NuCLS

HEADER = "raw_classification,main_classification,super_classification,type,xmin,ymin,xmax,ymax,coords_x,coords_y\n"


def nucls(src, lines):
    name = "TCGA-A1-A0SP-DX1_id-5ea_left-7053_top-53967_bottom-54231_right-7311"
    for number in range(3):
        own = name.replace("A0SP", f"A0S{number}")
        picture(src / "QC" / "rgb" / f"{own}.png")
        (src / "QC" / "csv").mkdir(exist_ok=True)
        (src / "QC" / "csv" / f"{own}.csv").write_text(HEADER + lines)
    return src


def test_nucls(tmp_path):
    lines = (
        'x,x,sTIL,polyline,20,10,40,20,"20,40,40,20","10,10,20,20"\n'
        "x,x,tumor_any,rectangle,50,30,60,34,,\n"
        'x,x,AMBIGUOUS,polyline,0,0,4,4,"0,4,4,0","0,0,4,4"\n'
    )
    src = nucls(tmp_path / "src", lines)
    _content, found = items(prepare_nucls(src, tmp_path / "dst"))
    assert {item["group"] for item in found} == {f"TCGA-A1-A0S{n}" for n in range(3)}
    assert found[0]["mpp"] == 0.2
    label, classes = read_mask(found[0]["label"]), read_mask(found[0]["classes"])
    assert (label[10:20, 20:40] == 1).all()
    assert (classes[10:20, 20:40] == 3).all()
    assert (label == 2).sum() == pytest.approx(np.pi / 4 * 40, abs=4), "the ellipse in the box"
    assert (classes[label == 2] == 1).all()
    assert (label == 3).sum() == 16
    assert (classes[label == 3] == 0).all(), "an instance without a class"
    _, found = items(prepare_nucls(src, tmp_path / "outlines", boxes=False))
    assert read_mask(found[0]["label"]).max() == 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        pytest.param("x,x,sTIL,blob,0,0,4,4,,\n", "line 2: expected a nucleus", id="type"),
        pytest.param('x,x,sTIL,polyline,0,0,4,4,"1,2","a,b"\n', "line 2: expected a nucleus", id="number"),
        pytest.param('x,x,sTIL,polyline,0,0,4,4,"1,2","1"\n', "line 2: expected a nucleus", id="lengths"),
        pytest.param("x,x,sTIL,rectangle\n", "line 2: expected a nucleus", id="cut_off"),
    ],
)
def test_nucls_problems(tmp_path, lines, words):
    found = problems("nucls", nucls(tmp_path / "src", lines), tmp_path / "dst")
    assert found.count(words) == 3


def test_nucls_maps_with_points(tmp_path):
    src = tmp_path / "src"
    for number in range(3):
        picture(src / "segmentation" / "train" / "images" / f"train_{number}.png")
        (src / "segmentation" / "train" / "labels").mkdir(exist_ok=True)
        kinds = (instances() > 0).astype(np.uint8)
        np.savez(
            src / "segmentation" / "train" / "labels" / f"train_{number}.npz", inst_map=instances(), type_map=kinds
        )
        (src / "detection" / "train" / "labels").mkdir(parents=True, exist_ok=True)
        (src / "detection" / "train" / "labels" / f"train_{number}.csv").write_text("30,15,2\n\n0,0,1\n")
    content, found = items(prepare_nucls(src, tmp_path / "dst"))
    classes = read_mask(found[0]["classes"])
    assert (classes[instances() == 3] == 3).all()
    assert (classes[instances() != 3] == 0).all()
    content, found = items(prepare_nucls(src, tmp_path / "types", types=True))
    assert content["class_names"] == ["Non-Tumor", "Tumor"]
    assert (read_mask(found[0]["classes"])[instances() > 0] == 1).all()
    (src / "detection" / "train" / "labels" / "train_0.csv").write_text("95,15,2\n")
    (src / "detection" / "train" / "labels" / "train_1.csv").write_text("5,15,4\n")
    found = problems("nucls", src, tmp_path / "bad")
    assert "expected a point inside 90 x 60 px, found 95,15" in found
    assert "expected x,y,class with a class 0 to 3" in found


@pytest.mark.real_data
def test_real_nucls(tmp_path, real_data):
    _content, found = items(prepare_nucls(real_data / "nucls", tmp_path / "dst"))
    assert len(found) == 10
    assert sum(int(read_mask(item["label"]).max()) for item in found) == 458
    assert set(np.unique([read_mask(item["classes"]) for item in found])) == {0, 1, 2, 3, 4}


# ----------------------------------------------------------------------------------------------- CRCHistoPhenotypes


def test_crchisto_release(tmp_path):
    src = tmp_path / "src" / "Classification"
    for number in range(1, 4):
        picture(src / f"img{number}" / f"img{number}.bmp", number)
        for kind, points in {"epithelial": [[30.5, 15.5], [1, 1]], "others": np.zeros((0, 2))}.items():
            savemat(src / f"img{number}" / f"img{number}_{kind}.mat", {"detection": points})
    path = prepare_crchisto(src.parent, tmp_path / "dst")
    content, found = items(path)
    assert content["class_names"] == ["epithelial", "fibroblast", "inflammatory", "others"]
    assert {item["group"] for item in found} == {"img1", "img2", "img3"}
    for item in found:
        assert check_nuclei_item(item, content["class_names"], "ea", 32) == []
        table, patches = read_nuclei(item["label"]), read_patches(item["image"])
        assert table[["row", "col"]].to_numpy().tolist() == [[14.5, 29.5], [0, 0]], "counted from 0"
        whole = cv2.imread(str(src / item["group"] / f"{item['group']}.bmp"))[..., ::-1]
        assert np.array_equal(patches[1, 16:, 16:], whole[:16, :16])
        assert not patches[1, :16].any(), "zero beyond the border"
        assert table["ea"].tolist() == ["epithelial"] * 2
    mixed = json.loads(prepare_crchisto(src.parent, tmp_path / "mixed", split="random").read_text())
    assert sum(len(mixed[part]) for part in PARTS) == 6, "six nuclei, a piece each"
    savemat(src / "img1" / "img1_others.mat", {"detection": [[99.0, 3.0]]})
    savemat(src / "img2" / "img2_others.mat", {"detection": [[1.0, 3.0, 5.0]]})
    (src / "img3" / "img3.bmp").unlink()
    found = problems("crchisto", src.parent, tmp_path / "bad")
    for words in ("detections inside 90 x 60 px", "detection, pairs x, y", "one image img3.bmp"):
        assert words in found


def test_crchisto_patches(tmp_path):
    for number in range(8):
        picture(tmp_path / "src" / "fibroblast" / f"img{number % 4}_{number}.jpeg", number, (32, 32))
    _content, found = items(prepare_crchisto(tmp_path / "src", tmp_path / "dst"))
    assert len(found) == 4
    assert all(read_patches(item["image"]).shape == (2, 32, 32, 3) for item in found)
    picture(tmp_path / "src" / "others" / "img9_1.jpeg", shape=(30, 32))
    assert "img9_1.jpeg: expected a patch of 32 x 32 px" in problems("crchisto", tmp_path / "src", tmp_path / "bad")


@pytest.mark.slow
@pytest.mark.real_data
def test_real_crchisto(tmp_path, real_data):
    _, found = items(prepare_crchisto(real_data / "crchisto", tmp_path / "dst"))
    kinds = Counter(kind for item in found for kind in read_nuclei(item["label"])["ea"])
    assert kinds == {"inflammatory": 2521, "epithelial": 2014, "fibroblast": 1481, "others": 384}
    assert len(found) == 25


# ------------------------------------------------------------------------------------------------------------ QuPath


def qupath(src, count=4):
    for number in range(count):
        picture(src / f"s{number}.png", number)
        cells = [shapely.box(20, 10, 40, 20), shapely.box(40, 10, 44, 20), shapely.box(80, 50, 99, 70)]
        write_geojson(src / "ssa" / f"s{number}.geojson", Features(cells, ["Muscle", "Immune cells", None]))
        write_geojson(src / "wsa" / f"s{number}.png.geojson", Features(cells[:1], "Immune cells"))
    return src


def test_qupath_images(tmp_path):
    src = qupath(tmp_path / "src")
    options = {"mpp": 0.25, "tile": 64, "pad": True, "classes": {"immune": ["Immune cells"], "muscle": ["Muscle"]}}
    content, found = items(prepare_qupath(src, tmp_path / "dst", **options))
    assert content["class_names"] == ["immune", "muscle"]
    assert Counter(item["scale"] for item in found) == {1: 8, 2: 4, 4: 4}
    assert {item["group"] for item in found} == {f"s{n}" for n in range(4)}
    for item in found:
        assert item["mpp"] == pytest.approx(0.25 * item["scale"])
        assert read_field(item["image"]).image.shape == (3, 64, 64)
        assert item["classes_from"] == "ssa"
    first, second = (item for item in found if item["group"] == "s0" and item["scale"] == 1)
    label, classes = read_mask(first["label"]), read_mask(first["classes"])
    assert (label[10:20, 20:40] == 1).all()
    assert (classes[10:20, 20:40] == 2).all()
    assert (classes[10:20, 40:44] == 1).all()
    assert (label > 0).sum() == 240
    # the last nucleus reaches over the image's corner: it ends there, and has no class
    label, field = read_mask(second["label"]), read_field(second["image"])
    image, inside = field.image, np.zeros((64, 64), bool)
    inside[:60, :26] = True
    assert np.array_equal(field.valid, inside), "what is filled up is known to be no data"
    assert (label[50:60, 16:26] == 1).all()
    assert label.astype(bool).sum() == 100
    assert not read_mask(second["classes"]).any()
    assert (image[:, 60:] == 255).all()
    assert (image[:, :, 26:] == 255).all()
    shown = read_geojson(tmp_path / "dst" / first["annotations"]["ssa"])
    assert shown.geometry[0].equals(shapely.box(20, 10, 40, 20))
    assert second["annotations"].keys() == {"wsa", "ssa"}
    shown = read_geojson(tmp_path / "dst" / second["annotations"]["ssa"])
    assert [geometry.bounds for geometry in shown.geometry] == [(16, 50, 35, 70)], "in pixels of the square"
    quarter = next(item for item in found if item["group"] == "s0" and item["scale"] == 4)
    assert (read_mask(quarter["label"])[3:5, 5:10] > 0).all()


def test_qupath_squares_are_tissue_alone(tmp_path):
    """By default nothing is filled up, no square is a sliver, and they join to the image and its nuclei."""
    _, found = items(prepare_qupath(qupath(tmp_path / "src", 3), tmp_path / "dst", mpp=0.25, tile=40, resolutions=1))
    joined, labels = np.zeros((*SHAPE, 3), np.uint8), np.zeros(SHAPE, bool)
    for item in (item for item in found if item["group"] == "s0"):
        field = read_field(item["image"])
        assert field.valid is None
        assert field.image.shape == (3, 30, 30)
        row, col = map(int, Path(item["image"]).stem.split("_")[1:])
        joined[row : row + 30, col : col + 30] = np.moveaxis(field.image, 0, -1)
        labels[row : row + 30, col : col + 30] = read_mask(item["label"]) > 0
    assert np.array_equal(joined, cv2.imread(str(tmp_path / "src" / "s0.png"))[..., ::-1])
    assert labels.sum() == 240 + 100


@pytest.mark.parametrize("pad", [False, True])
def test_qupath_random_split_keeps_tissue_together(tmp_path, pad):
    """A piece of tissue, at all its resolutions, is in one part: no pixel of level 0 is in two."""
    src = tmp_path / "src"
    picture(src / "a.png", shape=(200, 260))
    rng = np.random.default_rng(0)
    cells = shapely.buffer(shapely.points(rng.uniform(10, (250, 190), (30, 2))), 9)
    write_geojson(src / "ssa" / "a.geojson", Features(cells, "x"))
    path = prepare_qupath(src, tmp_path / "dst", mpp=0.25, tile=32, split="random", pad=pad)
    content, found = items(path)
    assert all(content[part] for part in PARTS)
    whose = np.zeros((256, 384), int)
    for part_number, part in enumerate(PARTS, start=1):
        for item in content[part]:
            scale, row, col = map(int, Path(item["image"]).stem.split("_"))
            height, width = (side * scale for side in read_mask(path.parent / item["label"]).shape)
            inner = whose[row * scale : row * scale + height, col * scale : col * scale + width][4:-4, 4:-4]
            assert set(np.unique(inner)) <= {0, part_number}, item["image"]
            whose[row * scale : row * scale + height, col * scale : col * scale + width] = part_number
    assert (whose[:200, :260] > 0).all()
    assert Counter(item["scale"] for item in found).keys() == {1, 2, 4}
    assert sum(item["group"] == found[0]["group"] for item in found) > 3, "a piece has squares at all resolutions"


def test_qupath_labels_are_of_their_source(tmp_path):
    """Expert files of one slide in four: the others have no expert label, whatever the class map says."""
    src = qupath(tmp_path / "src")
    write_geojson(src / "ea" / "s1.geojson", Features([shapely.box(20, 10, 40, 20)], "Immune cells"))
    names = {"immune": ["Immune cells"], "muscle": ["Muscle"]}
    path = prepare_qupath(src, tmp_path / "dst", mpp=0.25, tile=0, resolutions=1, classes=names)
    lists = load_datalist(path.parent, check=None, optional_path_keys=("classes", "annotations"))
    save = SaveNucleid(
        output_dir=tmp_path / "nuclei",
        class_names=["immune", "muscle"],
        data_root_dir=path.parent / "images",
        annotation_names=["ea", "ssa", "wsa"],
    )
    load = LoadFieldd("source", mpp=0.25)
    for part in PARTS:
        for item in lists[part]:
            instances = torch.from_numpy(read_mask(item["label"]).astype(np.int32))[None]
            save(load({**item, "source": item["image"], "instances": instances, "part": part}))
    tables = {}
    for part in json.loads(save.close().read_text()).values():
        for item in part if isinstance(part, list) else ():
            if isinstance(item, dict):
                tables[item["group"]] = read_nuclei(tmp_path / "nuclei" / item["label"])
    for group, table in tables.items():
        assert table["ssa"].tolist() == ["muscle", "immune", ""], "by the data set's names"
        assert table["wsa"].tolist() == ["immune", "background", "background"]
        expected = ["immune", "background", "background"] if group == "s1" else ["", "", ""]
        assert table["ea"].tolist() == expected


def test_qupath_names_what_is_too_large_for_a_nucleus(tmp_path, capsys):
    src = qupath(tmp_path / "src", 3)
    region = shapely.box(0, 0, 75, 60)  # which no nucleus lies in as a whole
    cells = [shapely.box(70, 10, 90, 20), shapely.box(70, 30, 90, 40)]
    write_geojson(src / "ssa" / "s0.geojson", Features([region, *cells], ["Muscle", "Immune cells", "Immune cells"]))
    options = {"mpp": 0.5, "tile": 0, "resolutions": 1}
    _, found = items(prepare_qupath(src, tmp_path / "dst", **options))
    item = next(item for item in found if item["group"] == "s0")
    assert (read_mask(item["label"]) > 0).sum() == 400
    assert "1 of 3 larger, up to 1125 um2 at x 0, y 0" in capsys.readouterr().err
    _, found = items(prepare_qupath(src, tmp_path / "all", max_nucleus_um2=2000, **options))
    item = next(item for item in found if item["group"] == "s0")
    assert (read_mask(item["label"]) > 0).sum() == 75 * 60 + 2 * 15 * 10
    write_geojson(src / "ssa" / "s1.geojson", Features([region], "Muscle"))
    found = problems("qupath", src, tmp_path / "none", **options)
    assert "s1.geojson: expected outlines of nuclei, up to 1000 um2 (--max_nucleus_um2), found 1 of 1 larger" in found


def test_qupath_annotations_that_do_not_fit(tmp_path):
    """One line for each, all at once, and nothing is written."""
    src = qupath(tmp_path / "src")
    ids = [f"0f8fad5b-d9cb-469f-a165-{number:012d}" for number in range(2)]
    cells = [shapely.box(20, 10, 40, 20), shapely.box(40, 10, 44, 20)]
    write_geojson(src / "ea" / "s0.geojson", Features([shapely.box(120, 10, 140, 20), cells[0]], "Muscle"))
    write_geojson(src / "ea" / "s1.geojson", Features(cells, "Muscle", ids=ids))
    write_geojson(src / "ea" / "s2.geojson", Features(cells, "muscle", ids=ids))
    small = [shapely.box(x, y, x + 5, y + 4) for x in range(2, 17, 5) for y in (2, 8)]
    write_geojson(src / "ea" / "s3.geojson", Features(small, "Muscle"))
    found = problems("qupath", src, tmp_path / "dst", mpp=0.25).splitlines()
    assert not (tmp_path / "dst").exists()
    assert len(found) == 4
    for line, name, words in zip(found, "0231", (
        "expected objects inside",
        "2 of 2 with ids that are in",
        "found objects of 1.2 um2 in the median, within 17 x 12: micrometres?",
        "expected one spelling of each class, found 14 of 'Muscle' and 2 of 'muscle'",
    ), strict=True):  # fmt: skip
        assert words in line
        assert f"s{name}.geojson" in line or "spelling" in line
    assert "2 of 'muscle'" in problems("qupath", src, tmp_path / "d", mpp=0.25, classes="Muscle,Immune cells")


def test_qupath_names_all_classes_it_finds_and_keeps_fragments_whole(tmp_path):
    src = qupath(tmp_path / "src")
    path = prepare_qupath(src, tmp_path / "dst", mpp=0.25, tile=0, resolutions=1, instances="wsa", macenko=True)
    content, found = items(path)
    assert content["class_names"] == ["Immune cells", "Muscle"]
    assert len(found) == 4
    assert read_mask(found[0]["label"]).shape == SHAPE
    assert set(np.unique(read_mask(found[0]["classes"]))) == {0, 1}
    again = prepare_qupath(src, tmp_path / "dst", mpp=0.25, resolutions=1, overwrite=True)
    left = {str(file.relative_to(again.parent)) for file in again.parent.rglob("*.geojson")}
    listed = {name for item in items(again)[1] for name in item["annotations"].values()}
    assert left == listed, "the older set's annotations are removed too"


def test_qupath_problems(tmp_path):
    src = qupath(tmp_path / "src")
    cut = src / "ssa" / "s0.geojson"
    cut.write_bytes(cut.read_bytes()[:-40])
    write_geojson(src / "ea" / "nobody.geojson", Features([shapely.box(0, 0, 1, 1)]))
    found = problems("qupath", src, tmp_path / "dst", mpp=0.25)
    assert f"{cut}: expected complete GeoJSON" in found
    assert "nobody.geojson: expected its slide or image" in found
    assert "states its resolution" in problems("qupath", qupath(tmp_path / "b"), tmp_path / "dst")
    assert "none with it" in problems("qupath", src / "ssa", tmp_path / "dst", mpp=0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"tile": 5}, "tile", id="tile"),
        pytest.param({"resolutions": (1, 3)}, "resolutions", id="resolutions"),
        pytest.param({"instances": "qa"}, "instances", id="instances"),
        pytest.param({"classes": "a,a"}, "classes", id="classes"),
        pytest.param({"ea": "gone"}, "a folder of GeoJSON or DICOM files", id="folder"),
    ],
)
def test_qupath_options(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        prepare_qupath(qupath(tmp_path / "src"), tmp_path / "dst", mpp=0.25, **options)


def test_qupath_slide(tmp_path):
    """Two fragments on glass, in a tiled TIFF: only their boxes are kept; stains are normalised."""
    src = tmp_path / "src"
    src.mkdir()
    slide = np.full((1536, 2048, 3), 245, np.uint8)
    rng = np.random.default_rng(0)
    for rows, cols in ((slice(200, 700), slice(200, 800)), (slice(900, 1400), slice(1200, 1900))):
        tissue = rng.integers(-20, 21, slide[rows, cols].shape) + PINK
        nuclei = rng.random(tissue.shape[:2]) < 0.3
        slide[rows, cols] = np.where(nuclei[..., None], tissue + np.array(PURPLE) - PINK, tissue).clip(0, 255)
    options = {"tile": (256, 256), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(src / "a.tif", slide, resolution=(2e4, 2e4), **options)
    cells = [shapely.Point(x, y).buffer(6) for x, y in rng.uniform((220, 220), (780, 680), (40, 2))]
    write_geojson(src / "ea" / "a.geojson", Features(cells, "a"))
    path = prepare_qupath(src, tmp_path / "dst", macenko=True, tile=256, split="test")
    _, found = items(path)
    assert Counter(item["scale"] for item in found) == {1: 6 + 6, 2: 2 + 2, 4: 1 + 1}
    assert sum(read_mask(item["label"]).max() > 0 for item in found if item["scale"] == 4) == 1
    whole = [item for item in found if item["scale"] == 4]
    area = sum((read_mask(item["label"]) > 0).sum() for item in whole)
    assert area * 16 == pytest.approx(sum(cell.area for cell in cells), rel=0.15)
    plain = prepare_qupath(src, tmp_path / "plain", tile=256, split="test")
    first = [read_field(items(p)[1][0]["image"]).image.astype(int) for p in (path, plain)]
    assert np.abs(first[0] - first[1]).mean() > 3, "Macenko changes the colours"


@pytest.mark.parametrize("kind", ["annotations", pytest.param("segmentation", marks=pytest.mark.slow)])
def test_qupath_annotations_in_dicom(tmp_path, kind):
    """Of slides in DICOM, in another folder and called otherwise or even after another one of them, as they name their
    slides themselves: the same data set as by GeoJSON."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from monai_ext.exchange import convert
    from tests.formats.dicom_slides import item, write_slide

    measures = item(PixelMeasuresSequence=[item(PixelSpacing=[0.001, 0.001], SliceThickness=0.001)])
    src, drawn = tmp_path / "src", tmp_path / "drawn"
    cells = [shapely.box(130 + 60 * n, 140, 150 + 60 * n, 152) for n in range(6)]
    for name in ("s0", "s1", "s2"):
        slide, rng = np.full((512, 640, 3), 245, np.uint8), np.random.default_rng(int(name[1]))
        tissue = rng.integers(-20, 21, (420, 520, 3)) + PINK
        dark = rng.random(tissue.shape[:2]) < 0.3
        slide[50:470, 60:580] = np.where(dark[..., None], tissue + np.array(PURPLE) - PINK, tissue).clip(0, 255)
        write_slide(src / name, slide, levels=(1,), SharedFunctionalGroupsSequence=[measures])
        features = Features(cells, ["Muscle", "Immune cells"] * 3, object_types="detection")
        write_geojson(drawn / f"{name}.geojson", features)
        convert(drawn / f"{name}.geojson", f"dicom-{kind[:3]}", slide=src / name, dst=tmp_path / name)
        called = f"1.2.840.{name[1]}.dcm" if kind == "segmentation" else f"s{(int(name[1]) + 1) % 3}_annotations.dcm"
        (src / "ssa").mkdir(exist_ok=True)
        (tmp_path / name / f"{name}_{kind}.dcm").rename(src / "ssa" / called)
    options = {"tile": 128, "resolutions": (1, 2)}
    _, found = items(prepare_qupath(src, tmp_path / "dicom", **options))
    _, expected = items(prepare_qupath(src, tmp_path / "geojson", ssa=drawn, **options))
    assert len(found) == len(expected) > 6
    for one, other in zip(found, expected, strict=True):
        assert one["group"] == other["group"]
        for key in ("label", "classes"):
            maps = [read_mask(each[key]) for each in (one, other)]
            np.testing.assert_array_equal(*([each > 0 for each in maps] if key == "label" else maps))
        shown = [
            {(name, shape.bounds) for name, shape in zip(each.classes, each.geometry, strict=True)}
            for each in (read_geojson(tmp_path / "dicom" / one["annotations"]["ssa"]),
                         read_geojson(tmp_path / "geojson" / other["annotations"]["ssa"]))
        ]  # fmt: skip
        assert shown[0] == shown[1]
    assert sum(int(read_mask(each["label"]).max()) for each in found if each["scale"] == 1) >= 18


def _nested(path, region, cells, compress=False, **properties):
    """QuPath's nested export: a root without a geometry, a region, and its cells."""
    children = [
        {"type": "Feature", "geometry": mapping(cell), "properties": {"objectType": "detection", **properties}}
        for cell in cells
    ]
    inner = {"objectType": "annotation", "classification": {"name": "Tumor"}, "childObjects": children}
    around = {"type": "Feature", "geometry": mapping(region), "properties": inner}
    root = {"type": "Feature", "geometry": None, "properties": {"objectType": "root", "childObjects": [around]}}
    text = json.dumps(root).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if compress else text)


@pytest.mark.parametrize("suffix", [".geojson", ".json.gz", ".png.geojson.gz"])
def test_qupath_regions_are_no_nuclei(tmp_path, suffix):
    cells = [shapely.box(x, y, x + 6, y + 5) for x in range(5, 95, 15) for y in range(5, 55, 10)]
    picture(tmp_path / "src" / "s0.png")
    path = tmp_path / "src" / "ssa" / f"s0{suffix}"
    _nested(path, shapely.box(0, 0, 100, 60), cells, suffix.endswith("gz"), classification={"name": "Immune"})
    content, (item,) = items(prepare_qupath(tmp_path / "src", tmp_path / "dst", mpp=0.25, tile=0, resolutions=1))
    label = read_mask(item["label"])
    assert len(np.unique(label)) - 1 == len(cells)
    assert (label > 0).sum() == (read_mask(item["classes"]) > 0).sum() == 30 * len(cells)
    assert content["class_names"] == ["Immune"]
    assert len(read_geojson(tmp_path / "dst" / item["annotations"]["ssa"])) == len(cells)


def test_qupath_parts_of_a_class(tmp_path, capsys):
    cells = [shapely.box(x, y, x + 6, y + 5) for x in range(5, 95, 15) for y in range(5, 55, 10)]
    picture(tmp_path / "src" / "s0.png")
    by_class = [shapely.MultiPolygon(cells[n::2]) for n in (0, 1)]
    write_geojson(tmp_path / "src" / "ssa" / "s0.geojson", Features(by_class, ["a", "b"]))
    options = {"mpp": 0.25, "tile": 0, "resolutions": 1}
    for split, count in ((False, 2), (True, len(cells))):
        dst = tmp_path / f"dst{count}"
        _, (item,) = items(prepare_qupath(tmp_path / "src", dst, split_parts=split, **options))
        assert read_mask(item["label"]).max() == count
        assert [(read_mask(item["classes"]) == k).sum() for k in (1, 2)] == [15 * len(cells)] * 2
        assert ("parts far apart, one each: 2, of 30 parts (split_parts makes" in capsys.readouterr().err) != split


def test_aperio_types_of_regions(tmp_path):
    path = tmp_path / "a.xml"
    regions = [
        (0, 0, [(0, 0), (20, 0), (20, 20), (0, 20)]),
        (1, 0, [(30, 0), (40, 0), (40, 10), (30, 10)]),
        (2, 0, [(50, 0), (60, 20)]),
        (3, 0, [(0, 50), (9, 59)]),
        (4, 0, [(0, 50), (9, 59), (0, 59)]),
        (0, 1, [(5, 5), (10, 5), (10, 10), (5, 10)]),
    ]
    written = "".join(
        f'<Region Type="{kind}" NegativeROA="{negative}"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
        + "</Vertices></Region>"
        for kind, negative, corners in regions
    )
    path.write_text(f"<Annotations><Annotation><Regions>{written}</Regions></Annotation></Annotations>")
    outlines = read_aperio(path)
    assert [outline.bounds for outline in outlines] == [(0, 0, 20, 20), (30, 0, 40, 10), (50, 0, 60, 20)]
    assert shapely.area(outlines) == pytest.approx([400 - 25, 100, np.pi * 5 * 10], rel=0.01)
