"""What the placeholders of the documentation stand for: small phantoms, laid out as a reader's data would be."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import shapely

from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.formats.image import read_field, read_mask
from monai_ext.formats.outlines import label_map_to_polygons
from monai_ext.formats.point_files import read_points
from monai_ext.networks.nets import SegMitosFCN
from monai_ext.phantom import (
    write_camelyon16,
    write_dataset,
    write_nucleus_patches,
    write_slide,
    write_vessel_slide,
    write_vessels,
)
from tests.docs.shell import ROOT
from tests.networks.test_segmitos import caffe_layers, save_caffe
from tests.prepare import (
    test_prepare,
    test_prepare_cbis_ddsm,
    test_prepare_cells,
    test_prepare_nuclei_mat,
    test_prepare_pan_cancer,
    test_prepare_pcam,
    test_prepare_pvid,
    test_tiles,
)

Recipe = Callable[[Path], object]
SIDE = 128  # px of a field
SLIDE = 1024  # px of a slide
LISTS = ("training", "validation", "test")


@functools.cache
def kept() -> tempfile.TemporaryDirectory:
    """Phantoms are made once."""
    return tempfile.TemporaryDirectory()


@functools.cache
def phantom(method: str, **options: object) -> Path:
    """The folder of a phantom."""
    folder = Path(kept().name) / "_".join(map(str, (method, *options.values())))
    writers = {"vessels": write_vessels, "camelyon16": write_camelyon16, "nucleus_patches": write_nucleus_patches}
    (writers[method] if method in writers else partial(write_dataset, method))(folder, **options)
    return folder


fields = partial(phantom, slides=10, fields=1, size=SIDE)
vessels = partial(phantom, "vessels", slides=10, vessels=1, invaded=1.0, free=0.5, radius=(60, 75))
camelyon16 = partial(phantom, "camelyon16", slides=6, size=768)


def copied(folder: Callable[[], Path], below: str = ".") -> Recipe:
    return lambda path: shutil.copytree(folder() / below, path)


def items(folder: Path) -> list[dict]:
    """A data set's items, of all its lists, with absolute paths."""
    lists = json.loads((folder / "dataset.json").read_text())
    found = [item for name in LISTS for item in lists[name]]
    return [{k: folder / v if (folder / str(v)).is_file() else v for k, v in item.items()} for item in found]


def images(folder: Callable[[], Path], count: int = 2) -> Recipe:
    """A folder with the first images of a data set and nothing else."""

    def make(path: Path) -> None:
        path.mkdir()
        for item in items(folder())[:count]:
            shutil.copy(item["image"], path)

    return make


def one_image(folder: Callable[[], Path], index: int = 0) -> Recipe:
    return lambda path: shutil.copy(items(folder())[index]["image"], path)


def points(path: Path) -> None:
    """Cells of the first vessel, marked with points as QuPath exports them."""
    marked = read_points(items(vessels())[0]["centroids"])[:4]
    write_geojson(path, Features([shapely.Point(col + 0.5, row + 0.5) for row, col in marked]))


def slides(count: int = 1, side: int = SLIDE) -> Recipe:
    def make(path: Path) -> None:
        path.mkdir()
        for seed in range(count):
            write_slide(path / f"s{seed}.tif", side, seed=seed, mpp=0.5)

    return make


def vessel_slide(path: Path) -> None:
    """A slide, and ``<slide>_vessels.geojson`` beside it."""
    made = path.with_suffix(".tif")
    write_vessel_slide(made, 2 * SLIDE, seed=2, radius=(50, 60), invaded=0.5)
    made.replace(path)


def shipped(bundle: str, models: str = "models") -> Recipe:
    return lambda path: shutil.copytree(ROOT / bundle / models, path)


def scores(*names: str) -> Recipe:
    """Evaluations that the metastasis bundle ships."""
    kept = ROOT / "bundles/pathology_metastasis_evidence_localization/docs/scores"
    return lambda path: [shutil.copytree(kept / name, path / name) for name in names]


def tupac16(path: Path) -> None:
    """Each phantom field is a case."""
    for number, item in enumerate(items(fields("mitosis")), start=1):
        image = path / "mitoses_image_data" / f"{number:02}" / "01.tif"
        label = path / "mitoses_ground_truth" / f"{number:02}" / "01.csv"
        for file in (image, label):
            file.parent.mkdir(parents=True)
        cv2.imwrite(str(image), np.moveaxis(read_field(item["image"]).image, 0, -1)[..., ::-1])
        np.savetxt(label, np.round(read_points(item["label"])), "%d", ",")


def midogpp(path: Path) -> None:
    """Each phantom field is a case, of one of two tumour types in turn; every third is a test case."""
    entries, boxes, lines = [], [], ["Slide;Dataset;Tumor;Scanner;Origin;Species"]
    (path / "images").mkdir(parents=True)
    for number, item in enumerate(items(fields("mitosis")), start=1):
        kind = ("human breast cancer", "human melanoma")[number % 2]
        name = f"{number:03}.tiff"
        cv2.imwrite(str(path / "images" / name), np.moveaxis(read_field(item["image"]).image, 0, -1)[..., ::-1])
        entries.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE, "tumor_type": kind})
        lines.append(f"{number};{'train' if number % 3 else 'test'};{kind};Hamamatsu XR;UMC Utrecht;Human")
        for row, col in read_points(item["label"]).tolist():
            box = [col - 25, row - 25, col + 25, row + 25]
            boxes.append({"bbox": box, "category_id": 1, "image_id": number, "id": len(boxes)})
    (path / "MIDOG++.json").write_text(json.dumps({"images": entries, "annotations": boxes}))
    (path / "datasets_xvalidation.csv").write_text("\n".join(lines) + "\n")


def bowl(path: Path) -> None:
    """Phantoms, nuclei on the left, none on the right, named as a few cases of the bundle's list, cut down to these."""
    listing = path.parent / "docs/dsb2018_split.csv"
    header, *lines = listing.read_text().splitlines()
    parts = {part: [line for line in lines if line.endswith(part)] for part in LISTS}
    lines = [line for part, count in zip(LISTS, (6, 2, 2), strict=True) for line in parts[part][:count]]
    listing.write_text("\n".join([header, *lines]) + "\n")
    made = items(fields("nuclei", slides=24))
    filled, empty = ([item for item in made if item["has_nuclei"] == has] for has in (1, 0))
    for line, item, beside in zip(lines, filled, cycle(empty)):
        folder = path / "stage1_train" / line.split(",")[0]
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        halves = [read_field(half["image"]).image for half in (item, beside)]
        image, label = np.concatenate(halves, axis=2), np.pad(read_mask(item["label"]), ((0, 0), (0, SIDE)))
        cv2.imwrite(str(folder / "images" / f"{folder.name}.png"), np.moveaxis(image, 0, -1)[..., ::-1])
        for value in np.unique(label[label > 0]):
            cv2.imwrite(str(folder / "masks" / f"{value}.png"), np.where(label == value, 255, 0).astype(np.uint8))


def caffe(path: Path) -> None:
    """A file of Caffe's, of a network a twentieth as wide as the paper's."""
    save_caffe(path, caffe_layers(SegMitosFCN(32, width=0.05), old=False))


def masses(path: Path) -> None:
    """Nuclei stand for masses, their masks for the label."""
    shutil.copytree(fields("nuclei"), path)
    lists = json.loads((path / "dataset.json").read_text())
    for item in (item for name in LISTS for item in lists[name]):
        cv2.imwrite(
            str(mask := path / f"{Path(item['image']).stem}_mask.png"),
            (read_mask(path / item["label"]) > 0) * np.uint8(255),
        )
        item["label"] = mask.name
    (path / "dataset.json").write_text(json.dumps(lists))


def outlined(path: Path) -> None:
    """The cells of a field, as QuPath exports them."""
    write_geojson(path, Features(outlines(items(fields("cells"))[0])))


def results(path: Path) -> None:
    """What inference writes for that field."""
    path.mkdir()
    outlined(path / "QUPATH.geojson")


def nucls(path: Path) -> None:
    """Phantom cells with boxes, each class in turn."""
    kinds = cycle(["tumor_any", "nonTIL_stromal", "sTIL", "other_nucleus"])
    for kind in ("rgb", "csv"):
        (path / kind).mkdir(parents=True)
    for number, item in enumerate(items(fields("cells"))):
        name = f"TCGA-A1-A0S{number}-DX1_id-5ea_left-7053_top-53967_bottom-54231_right-7311"
        shutil.copy(item["image"], path / "rgb" / f"{name}.png")
        boxes = [map(round, polygon.bounds) for polygon in outlines(item)]
        rows = [f"x,x,{next(kinds)},rectangle,{','.join(map(str, box))},," for box in boxes]
        (path / "csv" / f"{name}.csv").write_text(test_prepare_cells.HEADER + "\n".join(rows) + "\n")


def outlines(item: dict) -> list[shapely.Geometry]:
    return list(label_map_to_polygons(read_mask(item["label"]))[1])


def crchisto(path: Path) -> None:
    """Patches of four classes, told by their colour, from eight images."""
    for kind, colour in {"epithelial": 90, "fibroblast": 120, "inflammatory": 150, "others": 180}.items():
        for number in range(64):
            name = path / kind / f"img{number % 8}_{number}.jpeg"
            test_prepare_cells.picture(name, number, (32, 32), dark=(colour, 60, 150))


def warm_start(path: Path) -> None:
    """An overlay: training goes on from the shipped weights."""
    load = "$monai_ext.networks.load_weights(@network_def, 'models/model.pt').to(@device)"
    path.write_text(json.dumps({"network": load}))


def reviewed(path: Path) -> None:
    """Cells that an expert has seen, in the classes of the shipped classifier."""
    kinds = cycle(["tumor_any", "nonTIL_stromal", "sTIL", "other_nucleus"])
    (path / "ea").mkdir(parents=True)
    for number, item in enumerate(items(fields("cells"))):
        shutil.copy(item["image"], path / f"s{number}.png")
        polygons = outlines(item)
        write_geojson(path / "ea" / f"s{number}.geojson", Features(polygons, [next(kinds) for _ in polygons]))


def marked(path: Path) -> None:
    """Tiles of several sizes that experts called positive or negative."""
    test_tiles.marked_by_experts(path, ((300, 260), (224, 224), (100, 130)))


RELEASES: dict[str, Recipe] = {
    "amida13": tupac16,
    "camelyon16": copied(camelyon16),
    "cbis_ddsm": test_prepare_cbis_ddsm.folders,
    "ccrcc": test_prepare_nuclei_mat.ccrcc,
    "consep": test_prepare_nuclei_mat.consep,
    "crchisto": crchisto,
    "dsb2018": test_prepare_cells.bowl,
    "hploc": copied(camelyon16),
    "lizard": test_prepare_cells.lizard,
    "midog": test_prepare.midog,
    "midogpp": midogpp,
    "mitos12": test_prepare.mitos12,
    "monuseg": test_prepare_cells.monuseg,
    "nucls": nucls,
    "nuinsseg": test_prepare_pan_cancer.nuinsseg,
    "pannuke": test_prepare_pan_cancer.pannuke,
    "pcam": lambda path: test_prepare_pcam.masked(path, {"train": 120, "valid": 24, "test": 24}),
    "puma": test_prepare_pan_cancer.puma,
    "pvid": test_prepare_pvid.release,
    "tupac16": tupac16,
}
