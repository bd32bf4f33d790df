"""What the networks of a bundle see: one convention, stated once, kept with the weights, the same on every way in."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_ext.base.errors import input_error_in
from monai_ext.distribution.contents import collect
from monai_ext.networks import CAFFE, read_convention, save_weights
from monai_ext.tuning.common import read_bundle
from tests.bundles.conftest import BUNDLES
from tests.configs import config_file, config_files, configurations

PIXEL = (127, 128, 42)  # RGB
# by hand: ImageNet's mean and deviation; BGR less the means of Caffe's networks
SEEN = {"": (0.056940, 0.205182, -1.072418), "caffe_input": (-62.007, 11.331, 4.321)}
LITE = (0, 1 / 128, -85 / 128)  # of EfficientNet-Lite0: less 127, by 128
TOLERANCE = 1e-4
MITOSIS = next(path for path in BUNDLES if "mitosis" in path.name)
CELLS = next(path for path in BUNDLES if "cell" in path.name)
NUCLEI = next(path for path in BUNDLES if "nuclei" in path.name)
OVERLAY = "configs/overlays/input/caffe_input.json"


def parsed(bundle, names, **changes):
    parser = ConfigParser()
    parser.read_config(config_files(bundle, *names))
    parser.update({"bundle_root": str(bundle), "device": "cpu", **changes})
    return parser


def has(bundle, name):
    return any(path.stem == name for path in configurations(bundle))


class Unused(nn.Module):
    """In place of a network that a test does not run."""


def image(*batch):
    return torch.tensor(PIXEL, dtype=torch.uint8).view(3, 1, 1).expand(*batch, 3, 64, 64)


def of_transforms(bundle, names, _, **changes):
    """What the transforms of a configuration make of an image that is loaded."""
    return parsed(bundle, names, **changes).get_parsed_content("normalize")({"image": image()})["image"]


def of_a_field(bundle, names, folder, **changes):
    """What inference and MONAI Label make of a file."""
    if "vessel" in bundle.name:  # is cut into its cells first, of which there are none
        return of_transforms(bundle, names, folder, **changes)
    path = folder / "a.png"
    cv2.imwrite(str(path), np.full((64, 64, 3), PIXEL[::-1], np.uint8))
    return parsed(bundle, names, **changes).get_parsed_content("preprocessing")({"image": str(path)})["image"]


def of_a_tile(bundle, names, _, **changes):
    """What a slide's predictor gives to its network."""
    parser = parsed(bundle, names, **changes)
    predictor = parser.get_parsed_content("finder" if "finder" in parser else "predictor")
    predictor.probabilities = lambda images: images
    return predictor(image(2))


def of_onnx(bundle, names, folder, **changes):
    """The network is another one, its input is not."""
    on_slides = has(bundle, "slides_onnx")
    base = ["inference", "slides", "slides_onnx"] if on_slides else ["inference", "inference_onnx"]
    way = of_a_tile if on_slides else of_a_field
    changes["loaded_network"] = {"_target_": f"{__name__}.Unused"}
    return way(bundle, [*base, *names], folder, **changes)


def of_a_tuning(bundle, names, _, **changes):
    """What a tuning's network sees of the validation list."""
    files = [str(config_file(bundle, name).relative_to(bundle)) for name in names]
    parser = read_bundle("tune", bundle, files, {"device": "cpu", **changes})
    return parser.get_parsed_content("normalize")({"image": image()})["image"]


WAYS = {
    "training": (of_transforms, ["train"]),
    "evaluation": (of_transforms, ["train", "evaluate"]),
    "tuning": (of_a_tuning, ["train", "evaluate"]),
    "fields": (of_a_field, ["inference"]),
    "slides": (of_a_tile, ["inference", "slides"]),
    "onnx": (of_onnx, []),
    **{f"phase {name}": (of_transforms, [name]) for name in ("classify", "extract", "front", "seeds", "found")},
}


def ways():
    """Every way into the network of every bundle, with and without the overlays of another input."""
    for bundle in BUNDLES:
        for way, (_, names) in WAYS.items():
            needed = names or ["slides_onnx" if has(bundle, "slides_onnx") else "inference_onnx"]
            for overlay in SEEN:
                if all(has(bundle, name) for name in (*needed, *filter(None, [overlay]))):
                    yield pytest.param(bundle, way, overlay, id=f"{bundle.name} {way} {overlay}".strip())


@pytest.mark.parametrize(("folder", "way", "overlay"), ways())
def test_the_network_sees_the_same_on_every_way(folder, way, overlay, tmp_path):
    bundle, (function, names), changes = folder, WAYS[way], {}
    if overlay:  # the shipped weights would be refused
        save_weights(torch.load(bundle / "models/model.pt", weights_only=True), tmp_path / "model.pt", CAFFE)
        names, changes = [*names, overlay], {"ckpt_dir": str(tmp_path)}
    if "slides" in names or has(bundle, "slides_onnx"):
        changes["dataset_dir"] = str(tmp_path)
    if way == "phase classify":
        changes["class_names"] = ["a", "b"]
    seen = function(bundle, names, tmp_path, **changes)
    assert seen.dtype == torch.float32
    middle = seen[..., seen.shape[-2] // 2, seen.shape[-1] // 2].reshape(-1, 3)
    over_lite = bundle in (CELLS, MITOSIS, NUCLEI) and way != "phase classify" and not overlay
    expected = LITE if over_lite else SEEN[overlay]
    np.testing.assert_allclose(middle, np.broadcast_to(expected, middle.shape), atol=TOLERANCE)


def test_cells_are_classified_by_what_their_classifier_was_trained_with(tmp_path):
    classifier = parsed(CELLS, ["inference"]).get_parsed_content("classifier")
    assert classifier.convention.classes == ("tumor_any", "nonTIL_stromal", "sTIL", "other_nucleus")
    assert classifier.settings()["convention"]["mean"] == list(classifier.convention.mean)
    state = torch.load(CELLS / "models/classifier/model.pt", weights_only=True)
    other = classifier.convention.of("none", classes=["sTIL", "tumor_any", "nonTIL_stromal", "other_nucleus"])
    save_weights(state, tmp_path / "model.pt", other)
    with pytest.raises(RuntimeError) as caught:
        parsed(CELLS, ["inference"], classifier_path=str(tmp_path / "model.pt")).get_parsed_content("classifier")
    assert "take weights for these classes" in str(input_error_in(caught.value))


# -- stated once -------------------------------------------------------------------------------------------------------


def components(config):
    if isinstance(config, dict):
        yield config
    for each in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from components(each)


def test_no_configuration_normalises_by_itself(bundle):
    texts = {path.name: path.read_text() for path in configurations(bundle)}
    pattern = r'NormalizeIntensity|ScaleIntensity|@mean\b|@std\b|"subtrahend"'
    assert [name for name, text in texts.items() if re.search(pattern, text)] == []


def test_whatever_takes_pixels_takes_the_convention(bundle):
    takers = {"NetworkInputd", "PatchClassifier", "PixelMap", "ExactWindows", "SharedWindows", "HematoxylinMap"}
    takers |= {"CellFinder", "InstanceFinder", "TrainingState"}
    met = set()
    for path in configurations(bundle):
        for component in components(json.loads(path.read_text())):
            name = str(component.get("_target_")).rpartition(".")[2]
            if name in takers:
                met.add(name)
                assert str(component.get("convention")).lstrip("$").startswith("@convention"), f"{path.name}: {name}"
    assert {"NetworkInputd", "TrainingState"} <= met


# -- kept with the weights ---------------------------------------------------------------------------------------------


def test_shipped_weights_have_the_convention_that_they_were_trained_with(bundle):
    shipped = read_convention(bundle / "models/model.pt")
    assert shipped == parsed(bundle, ["train"]).get_parsed_content("convention")
    assert shipped == parsed(bundle, ["inference"]).get_parsed_content("convention")
    metadata = json.loads((bundle / "configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert list(metadata["channel_def"].values()) == list(shipped.channels)
    white_and_black = [shipped(np.full((3, 1, 1), value, np.uint8)) for value in (0, 255)]
    low, high = metadata["value_range"]
    assert low <= np.min(white_and_black) < low + 0.1
    assert high - 0.1 < np.max(white_and_black) <= high


def test_the_zip_carries_it(bundle):
    weights = [
        path.parent for path in bundle.glob("models/**/model.pt") if path.parent.name in ("models", "classifier")
    ]
    names = {(folder / "model.json").relative_to(bundle).as_posix() for folder in weights}
    assert names <= set(collect(bundle).files)


REFUSED = [
    pytest.param(["inference"], "ckpt_dir", id="fields"),
    pytest.param(["inference", "slides"], "ckpt_dir", id="slides"),
    pytest.param(["inference", "inference_onnx"], "ckpt_dir", id="onnx"),
    pytest.param(["inference", "inference_trt"], "ckpt_dir", id="tensorrt"),
    pytest.param(["inference", "slides", "slides_onnx"], "ckpt_dir", id="onnx on slides"),
    pytest.param(["train", "evaluate"], "ckpt_dir", id="evaluation"),
    pytest.param(["train"], "network_def#weights", id="training begun from weights"),
    pytest.param(["train"], "start_from", id="training gone on with"),
    pytest.param(["train"], "backbone_weights", id="a backbone"),
    pytest.param(["front"], "backbone_weights", id="a front end's backbone"),
    pytest.param(["seeds"], "front_dir", id="seeds of a front end"),
    pytest.param(["found"], "back_dir", id="masks of a back end"),
    pytest.param(["extract"], "ckpt_dir", id="nuclei of a segmentation"),
    pytest.param(["classify", "finetune"], "student_dir", id="a student"),
    pytest.param(["classify", "evaluate_cells"], "ckpt_dir", id="evaluation of cells"),
    pytest.param(["train", "from_classifier"], "classifier", id="a first stage"),
]


def refusals():
    """Every way of every bundle to name weights."""
    for bundle in BUNDLES:
        for case in REFUSED:
            names, option = case.values
            parser = parsed(bundle, names) if all(has(bundle, name) for name in names) else {}
            if option in parser and not str(parser[option]).startswith("@"):  # else another option decides
                yield pytest.param(bundle, names, option, id=f"{bundle.name} {case.id}")


@pytest.mark.parametrize(("folder", "names", "option"), refusals())
def test_weights_that_do_not_fit_are_refused(folder, names, option, tmp_path):
    for name in ("model.pt", "model.onnx", "model_trt.ts"):
        save_weights({}, tmp_path / name, CAFFE)
    value = tmp_path if option.endswith("_dir") else tmp_path / "model.pt"
    changes = {option: str(value)} | ({"class_names": ["a"]} if "classify" in names else {})
    with pytest.raises(RuntimeError) as caught:
        parsed(folder, names, **changes).get_parsed_content("convention")
    refusal = input_error_in(caught.value)
    assert str(refusal).startswith(str(tmp_path))
    assert str(refusal).endswith(f"add {OVERLAY} to --config_file")


def test_a_teacher_that_does_not_fit_is_refused(tmp_path):
    save_weights({}, tmp_path / "model.pt", CAFFE)
    parser = parsed(CELLS, ["classify", "student"], teacher_dir=str(tmp_path), class_names=["a", "b"])
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("teacher_classifier#convention")
    assert OVERLAY in str(input_error_in(caught.value))


def test_nuclei_that_an_annotation_does_not_know_reach_the_student():
    """``--annotation null`` is text to MONAI."""
    for annotation, column, read in (("null", None, ["ssa"]), ("wsa", "wsa", ["wsa", "ssa"])):
        parser = parsed(CELLS, ["classify", "student"], annotation=annotation)
        assert parser.get_parsed_content("column") == column
        assert parser.get_parsed_content("annotations_read") == read
        assert parser["training_nuclei"]["annotation"] == "@column"
    chain = parsed(CELLS, ["chain"], student_annotation="null")
    assert chain.get_parsed_content("student_truth") == "ssa"
    assert chain.get_parsed_content("student_dir").endswith("teacher_ssa_student_null")


def test_every_configuration_that_loads_weights_looks_at_their_convention(bundle):
    """A new one cannot be forgotten: what reads a file of weights sets the convention's ``weights``."""
    for path in configurations(bundle):
        content = json.loads(path.read_text())
        loads = any("load_weights" in str(content.get(key)) for key in ("network", "begun_network", "loaded_network"))
        loads |= "OnnxNetwork" in str(content.get("loaded_network")) or "jit.load" in str(content.get("loaded_network"))
        if loads and "weights" not in content:
            own = {key: value for key, value in content.items() if key.startswith("convention")}
            assert "weights" in str(own), path.name


def test_the_overlay_that_a_refusal_names_exists():
    assert (MITOSIS / OVERLAY).is_file()
    convention = parsed(MITOSIS, ["train", "caffe_input"]).get_parsed_content("convention")
    assert (convention.mean, convention.std, convention.channels) == (CAFFE.mean, CAFFE.std, CAFFE.channels)
    assert convention.overlay == CAFFE.overlay == OVERLAY


@pytest.mark.parametrize("overlay", [[], ["caffe_input"]])
def test_caffe_weights_need_the_overlay(overlay):
    parser = parsed(MITOSIS, ["train", "paper_network", *overlay], **{"network_def#weights": "fcn32s.caffemodel"})
    if overlay:
        assert parser.get_parsed_content("convention").channels == "BGR"
        return
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("convention")
    assert str(input_error_in(caught.value)).startswith("fcn32s.caffemodel: expected weights trained with channels RGB")
    assert str(input_error_in(caught.value)).endswith(f"add {OVERLAY} to --config_file")


def test_every_configuration_checks_its_options(bundle):
    for path in configurations(bundle):
        imports = json.loads(path.read_text()).get("imports")
        assert imports is None or "$import monai_ext.options" in imports, path.name
