"""From annotated fields to a data set of nuclei that the classifiers read."""

import json

import numpy as np
import pytest
import shapely
import tifffile
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data import NucleusPatches, read_class_names
from monai_ext.data.datalist import load_datalist
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.transforms import SaveNucleid

NAMES = ["other", "immune"]
CORNERS = [(10, 10), (10, 60), (60, 10)]


def item(folder, part, scale=1.0, **keys):
    """Three square nuclei of 12 px, each drawn in its own grey, on an image that was loaded at ``scale``."""
    instances, image = np.zeros((1, 90, 90), np.int32), np.full((3, 90, 90), 255, np.uint8)
    for number, (row, col) in enumerate(CORNERS, start=1):
        instances[0, row : row + 12, col : col + 12] = number
        image[:, row : row + 12, col : col + 12] = 40 * number
    meta = {"filename_or_obj": str(folder / "images" / part / "a.png"), "scale": scale}
    return {
        "source": MetaTensor(torch.from_numpy(image), meta=meta),
        "instances": torch.from_numpy(instances),
        "part": part,
        "group": f"slide {part}",
        **keys,
    }


def annotation(folder, name, scale=1.0):
    """The first nucleus is immune, the second other, the third unknown; coordinates of the file's full resolution."""
    boxes = [shapely.box(c * scale, r * scale, (c + 12) * scale, (r + 12) * scale) for r, c in CORNERS[:2]]
    write_geojson(folder / name, Features(boxes, classes=["immune", "other"]))
    return str(folder / name)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_what_is_written_is_what_the_classifiers_read(tmp_path, scale):
    save = SaveNucleid(output_dir=tmp_path / "out", class_names=NAMES, data_root_dir=tmp_path / "images")
    for part in ("training", "validation", "test"):
        save(item(tmp_path, part, scale, annotations={"ssa": annotation(tmp_path, f"{part}.geojson", scale)}))
    path = save.close()
    assert json.loads(path.read_text())["training"][0]["group"] == "slide training"
    assert read_class_names(path.parent) == NAMES
    lists = load_datalist(path.parent, check=None)
    nuclei = NucleusPatches(lists["training"], "ssa", NAMES)
    assert nuclei.labels.tolist() == [1, 0]  # the third is background and left out
    assert np.asarray(nuclei[0]["image"])[:, 16, 16].tolist() == [40] * 3


@pytest.mark.parametrize("scale", [1, 2])
def test_a_class_map_is_an_annotation(tmp_path, scale):
    classes = np.zeros((90 * scale, 90 * scale), np.uint8)
    classes[10 * scale : 22 * scale, 60 * scale : 72 * scale] = 2
    tifffile.imwrite(tmp_path / "classes.tif", classes)
    save = SaveNucleid(output_dir=tmp_path / "out", class_names=NAMES, data_root_dir=tmp_path)
    save(item(tmp_path, "test", scale, classes=str(tmp_path / "classes.tif")))
    save.close()
    text = (tmp_path / "out/nuclei/images/test/a.csv").read_text().splitlines()
    assert text[0] == "row,col,scale,ea"
    assert [line.split(",")[3] for line in text[1:]] == ["background", "immune", "background"]


def test_an_image_without_annotations_is_named(tmp_path):
    save = SaveNucleid(output_dir=tmp_path / "out", class_names=NAMES, data_root_dir=tmp_path)
    with pytest.raises(InputError, match=r"a\.png: expected 'annotations' or 'classes'"):
        save(item(tmp_path, "test"))
