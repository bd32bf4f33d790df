"""Networks that left torch give the same results in the same workflows."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, onnx_export

from monai_ext.networks import OnnxNetwork, load_weights
from monai_ext.phantom import write_slide
from tests.configs import config_files, configurations

pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.dear]
LOGITS = 1e-4
HEAT = 1e-4  # probabilities
UNEQUAL = 1e-4  # share of a label image's pixels
SIDE = 1024  # px of a slide
#: Of each bundle, overlays of other networks.
NETWORKS = [
    pytest.param(bundle, path.stem, marks=[] if path.stem == "narrow_vgg" else pytest.mark.exhaustive)
    for bundle in sorted((Path(__file__).parents[2] / "bundles").glob("pathology_*"))
    for path in configurations(bundle)
    if {"_over_", "network_def"} <= (config := json.loads(path.read_text())).keys() and "inference" in config["_over_"]
]


@pytest.fixture(scope="module")
def exported(place):
    """The bundle with the ONNX file that the documented command writes."""
    if not (place.folder / "configs/overlays/deploy/onnx_export.json").is_file():
        pytest.skip("no onnx_export.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        onnx_export(args_file="configs/overlays/deploy/onnx_export.json")
    return place


def parsed(place, *names, **overrides):
    parser = ConfigParser()
    parser.read_config(config_files(place.folder, *names))
    parser.update({"bundle_root": str(place.folder), "device": "cpu", **overrides})
    return parser


def overlay(place, name):
    if not list(place.folder.glob(f"configs/**/{name}.json")):
        pytest.skip(f"no {name}.json")
    return name


def free_axes(place):
    """Those of the exported network's input that may have any size."""
    arguments = json.loads((place.folder / "configs/overlays/deploy/onnx_export.json").read_text())
    return arguments["converter_kwargs"]["dynamic_axes"]["image"]


def named(found):
    return {"": found} if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("shape", [(1, 3, 128, 160), (3, 3, 96, 224), (2, 3, 131, 97)], ids=str)
def test_any_batch_and_size(exported, shape):
    if 2 not in free_axes(exported):  # one size, that of the metadata
        shape = (*shape[:2], *exported.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])
    network = parsed(exported, "inference").get_parsed_content("network_def")
    network = load_weights(network, exported.folder / "models/model.pt").eval()
    images = torch.randn(shape)
    with torch.no_grad():
        expected = named(network(images))
    found = named(OnnxNetwork(exported.folder / "models/model.onnx")(images))
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=LOGITS)


def label_images(place, output, *names, **overrides):
    """What the workflow makes of each image of the phantom, post-processing included, and by which network."""
    parser = parsed(place, *names, dataset_dir=str(place.data), output_dir=str(output), handlers=[], **overrides)
    evaluator, images = parser.get_parsed_content("evaluator"), []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: images.extend(engine.state.output))
    evaluator.run()
    return [np.asarray(item["pred"]) for item in images], evaluator.network


def test_inference_gives_the_same_label_images(exported, tmp_path):
    expected, _ = label_images(exported, tmp_path / "torch", "inference")
    found, network = label_images(exported, tmp_path / "onnx", "inference", overlay(exported, "inference_onnx"))
    assert isinstance(network, OnnxNetwork)
    assert sum(image.max() > 0 for image in expected) > 0  # there is something to compare
    for one, two in zip(expected, found, strict=True):
        assert np.mean(one != two) <= UNEQUAL


@pytest.mark.exhaustive  # tests/networks/test_runtime.py is the cheap one
def test_another_runtime_gives_the_same_label_images(place, tmp_path, monkeypatch):
    if "runtime" not in parsed(place, "inference").config:
        pytest.skip("torch alone computes fields here")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    expected, _ = label_images(place, tmp_path / "torch", "inference")
    found, network = label_images(place, tmp_path / "onnx", "inference", runtime="onnxruntime")
    assert network.chosen == "onnxruntime"
    for one, two in zip(expected, found, strict=True):
        assert np.mean(one != two) <= UNEQUAL


@pytest.mark.parametrize(("folder", "name"), NETWORKS, ids=lambda each: getattr(each, "stem", each))
def test_other_networks_by_another_runtime(folder, name, tmp_path, monkeypatch):
    """With weights of their own, beside which nothing says what tissue they know."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    parser = ConfigParser()
    parser.read_config(config_files(folder, "inference", "slides", name))
    own = {"ckpt_dir": str(tmp_path), "loaded_network": "$@network_def.eval()", "runtime": "onnxruntime"}
    parser.update({"bundle_root": str(folder), "device": "cpu", **own})
    network, image = parser.get_parsed_content("engine"), torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        (network.find if hasattr(network.network, "find") else network)(image)
    assert network.chosen == "onnxruntime"


def heat_maps(place, source, output, *names, **overrides):
    parser = parsed(place, *names, dataset_dir=str(source), output_dir=str(output), **overrides)
    parser.get_parsed_content("run")
    return np.stack([tifffile.imread(path) for path in sorted(output.glob("*_heatmap.ome.tif"))])


def test_slides_give_the_same_heat_maps(exported, tmp_path):
    name = overlay(exported, "slides_onnx")
    source = tmp_path / "slides"
    source.mkdir()
    for seed in range(3):  # one of them has tissue
        write_slide(source / f"s{seed}.tif", SIDE, seed=seed)
    options = {"predictor": "@exact_windows"}
    expected = heat_maps(exported, source, tmp_path / "torch", "inference", "slides", **options)
    found = heat_maps(exported, source, tmp_path / "onnx", "inference", "slides", name)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=HEAT)


@pytest.mark.exhaustive  # tests/networks/test_runtime.py is the cheap one
def test_another_runtime_gives_the_same_heat_maps(place, tmp_path, monkeypatch, capsys):
    """Windows that are cut out; those that share the network's maps are torch's, which is said."""
    if "exact_windows" not in parsed(place, "inference", overlay(place, "slides")).config:
        pytest.skip("this bundle's slides are no windows")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = tmp_path / "slides"
    source.mkdir()
    write_slide(source / "s.tif", SIDE, seed=2)
    for step, said in (
        (96, "runtime: onnxruntime, "),
        (24, "runtime: torch instead of onnxruntime: windows 24 px apart"),
    ):
        options = {"step": step, "runtime": "torch"}
        expected = heat_maps(place, source, tmp_path / f"torch_{step}", "inference", "slides", **options)
        capsys.readouterr()
        options["runtime"] = "onnxruntime"
        found = heat_maps(place, source, tmp_path / f"onnx_{step}", "inference", "slides", **options)
        assert said in capsys.readouterr().err
        assert expected.max() > 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=HEAT)
