"""Nothing is found where an image holds no data, whatever a network says there."""

import json

import cv2
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch

from tests.bundles.conftest import BUNDLES
from tests.configs import config_files

SIDE, EDGE = 96, 40  # px; black up to the edge
CELLS = next(path for path in BUNDLES if "cell" in path.name)
NUCLEI = next(path for path in BUNDLES if "nuclei" in path.name)


def seen() -> torch.Tensor:
    """Two nuclei as a network may see them: one across the edge of the data, one wholly outside."""
    instances = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.int32)
    instances[..., 30:50, EDGE - 10 : EDGE + 20] = 1
    instances[..., 60:80, 4:24] = 2
    return instances


def output(bundle) -> torch.Tensor | dict[str, torch.Tensor]:
    """The network's, or the inferer's, of a batch of one."""
    if bundle == CELLS:
        return torch.where(seen() > 0, 8.0, -8.0)
    return {"instances": seen(), "scores": (seen() > 0).float(), "cut": torch.zeros(1, 1, dtype=torch.bool)}


@pytest.mark.parametrize("names", [["inference"], ["train", "evaluate"]], ids=" ".join)
@pytest.mark.parametrize("segments", [CELLS, NUCLEI], ids=lambda path: path.name)
def test_no_object_reaches_out_of_the_data(segments, names, tmp_path):
    pixels = np.full((SIDE, SIDE, 3), (200, 120, 210), np.uint8)
    pixels[:, :EDGE] = 0
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    cv2.imwrite(str(tmp_path / "a_label.png"), seen()[0, 0].numpy().astype(np.uint8))
    lists = {"training": [], "validation": [], "test": [{"image": "a.png", "label": "a_label.png"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    parser = ConfigParser()
    parser.read_config(config_files(segments, *names))
    folders = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "ckpt_dir": str(segments / "models")}
    parser.update({"bundle_root": str(segments), "device": "cpu", "mpp": 0.25, "target_mpp": 0.25, **folders})
    if names == ["inference"]:
        load, after = (parser.get_parsed_content(name) for name in ("load", "postprocessing"))
        item = {"image": str(tmp_path / "a.png")}
    else:
        parser["save_maps"] = False
        load, after = (parser.get_parsed_content(name) for name in ("load", "validate#postprocessing"))
        item = {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "a_label.png")}
    item = load(item)
    item = parser.get_parsed_content("keep_source")(item)
    item["pred"] = decollate_batch(output(segments))[0]
    instances = after(item)["instances"].numpy()[0]
    assert (instances[:, EDGE:] > 0).sum() == 20 * 20  # what the data hold of the nucleus stays
    assert not instances[:, :EDGE].any()
