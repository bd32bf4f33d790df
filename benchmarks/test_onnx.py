"""The shipped networks by torch, onnxruntime and OpenVINO: the same weights, batch and number of threads."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks import convert_to_onnx

from monai_ext.networks import OnnxNetwork, OpenVinoNetwork, load_weights

pytest.importorskip("onnxruntime")
EXPORT = "configs/overlays/deploy/onnx_export.json"
BUNDLES = sorted(path.parents[3] for path in Path(__file__).parents[1].glob(f"bundles/*/{EXPORT}"))
SHAPE = (4, 3, 256, 256)  # of networks that take any size
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=BUNDLES, ids=lambda path: path.name.removeprefix("pathology_"))
def pair(request, tmp_path_factory):
    """A shipped network, the ONNX file of it, and the shape of a batch."""
    parser = ConfigParser()
    parser.read_config(str(request.param / "configs/inference.json"))
    network = load_weights(parser.get_parsed_content("network_def"), request.param / "models/model.pt").eval()
    arguments = json.loads((request.param / EXPORT).read_text())
    example, options = arguments["input_shape"], arguments["converter_kwargs"]
    shape = SHAPE if 2 in options["dynamic_axes"]["image"] else (SHAPE[0], *example[1:])
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    convert_to_onnx(network, [torch.rand(example)], filename=str(path), **options)
    return request.param.name, network, path, shape


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runtime", ["torch", "torch, channels last", "onnxruntime", "openvino"])
def test_network(benchmark, pair, runtime, threads):
    name, network, path, shape = pair
    benchmark.group = f"{name}, {shape}, {threads} thread(s)"
    images, before = torch.randn(shape), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            expected = network(images)
            run = network
            if runtime == "onnxruntime":
                run = OnnxNetwork(path)
            elif runtime == "openvino":
                pytest.importorskip("openvino")
                engine = OpenVinoNetwork(path)
                run = lambda batch: next(iter(engine(batch).values()))  # noqa: E731
            elif runtime != "torch":
                images = images.contiguous(memory_format=torch.channels_last)
                run = network.to(memory_format=torch.channels_last)
            found = benchmark.pedantic(lambda: run(images), rounds=5, warmup_rounds=1)
    finally:
        torch.set_num_threads(before)
        network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
