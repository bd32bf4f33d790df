"""What eight-bit arithmetic costs: a bundle's network quantised after training, scored on the validation list.

Run from the repository's root::

    python benchmarks/int8.py --dataset_dir DATA

``DATA`` is a data set of fields, or several, as the bundle's training takes them. ONNX Runtime quantises the exported
network statically (QDQ, weights by channel), with ranges from images of the training list. It would be shipped only if
Dice, AJI and F1 stayed within .005 of float32's.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from monai.bundle import ConfigParser
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
from torch import nn

from monai_ext.networks import OnnxNetwork

BUNDLE = Path(__file__).parents[1] / "bundles/pathology_cell_semantic_segmentation"
SIDE, ROUNDS = 256, 5  # px of a calibration image; of the time
SPEED_SIDE = 512


class Images(CalibrationDataReader):
    """Some images as the network sees them, each cut to a square."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self._images: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one, ``(1, 3, SIDE, SIDE)``."""
        image = next(self._images, None)
        return None if image is None else {"image": image}


def parsed(bundle: Path, dataset_dir: Any, folder: Path, network: nn.Module | None = None) -> ConfigParser:
    """The evaluation of the validation list, by another network where one is given."""
    parser = ConfigParser()
    parser.read_config([str(bundle / f"configs/{name}.json") for name in ("train", "evaluate")])
    parser.update({"bundle_root": str(bundle), "dataset_dir": dataset_dir, "output_dir": str(folder)})
    parser.update({"split": "validation", "splits": ["training", "validation"], "device": torch.device("cpu")})
    if network is not None:
        parser.update({"loaded_network": network})
    return parser


def calibration(parser: ConfigParser, count: int) -> list[np.ndarray]:
    """The first images of the training list, spread over it."""
    items = parser.get_parsed_content("datalist")["training"]
    prepare = parser.get_parsed_content("validate#preprocessing")
    chosen = [items[k] for k in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]
    images = [np.asarray(prepare(dict(item))["image"], np.float32)[None, :, :SIDE, :SIDE] for item in chosen]
    return [image for image in images if image.shape[2:] == (SIDE, SIDE)]


def seconds(network: nn.Module) -> float:
    """For one image, the median."""
    image = torch.rand(1, 3, SPEED_SIDE, SPEED_SIDE)
    took = []
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            network(image)
            took.append(time.perf_counter() - began)
    return float(np.median(took[1:]))


def main(dataset_dir: Any, bundle: str = str(BUNDLE), images: int = 24, method: str = "MinMax") -> None:
    """Print the scores and the speed in float32 and in eight bits.

    Args:
        dataset_dir: folder or folders with ``dataset.json``.
        bundle: one whose network is a segmentation with one output.
        images: of the training list, from which ranges are taken.
        method: of these ranges: ``MinMax``, ``Entropy`` or ``Percentile``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first = parsed(Path(bundle), dataset_dir, folder / "float32")
        network = first.get_parsed_content("loaded_network").eval()
        paths = [folder / f"{name}.onnx" for name in ("float32", "int8")]
        shape = {"dynamic_axes": {"image": [0, 2, 3], "pred": [0, 2, 3]}, "dynamo": False}
        torch.onnx.export(
            network, (torch.rand(2, 3, 128, 160),), paths[0], input_names=["image"], output_names=["pred"], **shape
        )
        reader = Images(calibration(first, images))
        about = {"quant_format": QuantFormat.QDQ, "per_channel": True, "calibrate_method": CalibrationMethod[method]}
        # convolutions are nearly all of the time; with more ONNX Runtime 1.23.2 makes maps of unequal sizes of this one
        quantize_static(paths[0], paths[1], reader, op_types_to_quantize=["Conv"], **about)
        forms = {"float32": network, "int8": OnnxNetwork(paths[1])}
        speeds = {name: seconds(form) for name, form in forms.items()}
        speeds["float32, ONNX Runtime"] = seconds(OnnxNetwork(paths[0]))
        scores = {}
        for name, form in forms.items():
            parser = parsed(Path(bundle), dataset_dir, folder / name, form)
            parser.get_parsed_content("validate#evaluator").run()
            scores[name] = json.loads((folder / name / "metrics.json").read_text())
    for name in ("float32", "int8"):
        print(name, {key: round(scores[name][key]["value"], 4) for key in ("dice", "aji", "f1", "pq")})
    print({name: f"{each:.3f} s" for name, each in speeds.items()}, f"for {SPEED_SIDE} x {SPEED_SIDE} px")


if __name__ == "__main__":
    fire.Fire(main)
