"""Inference with a bundle: images, regions of slides, whole slides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.transform.writer import Writer

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features, read_geojson
from monai_ext.formats.image import SLIDE_SUFFIXES, TIFF_SUFFIXES
from monai_ext.formats.levels import open_levels
from monai_ext.label import as_annotation, found_features, in_region, load_region, load_vessel_region
from monai_ext.transforms import LoadFieldd, LoadVesseld

__all__ = ["BundleInfer"]

_LARGEST_REGION = 8192  # px of level 0 along a side; beyond, a slide is streamed


class BundleInfer(BundleInferTask):
    """A bundle's own pre-processing, inferer and post-processing; the answer is contours and points, and a label image.

    Args:
        path: the bundle's folder.
        conf: of the app.
        colours: RGB by the names that objects have.
    """

    def __init__(self, path: str, conf: dict[str, str], colours: Mapping[str, Sequence[int]]) -> None:
        # MONAI Label would take one for a classifier by its name, whose answer is no image
        super().__init__(path, conf, type=InferType.SEGMENTATION, post_filter=None, add_post_restore=False)
        # clients recognise what they drew before by these names
        self.labels = {name: number for number, name in enumerate(colours, start=1)}
        self._config["label_colors"] = {name: list(colour) for name, colour in colours.items()}
        self._weights_at = self._weights_time()
        self._runtime = conf.get("runtime", "torch")
        self._engine: tuple[torch.nn.Module, torch.nn.Module] | None = None  # of a network that engine computes it

    def info(self) -> dict[str, Any]:
        """As the base class, and that it is for slides."""
        return {**super().info(), "pathology": True}

    def _weights_time(self) -> int:
        return Path(self.get_path()).stat().st_mtime_ns

    def pre_transforms(self, data: Mapping[str, Any] | None = None) -> list[Callable]:
        """The bundle's, which load the region that is asked for."""
        if self._weights_at != (now := self._weights_time()):
            self.bundle_config.parse(True)  # drops the thresholds of other weights
            self._weights_at = now
        loads = (LoadFieldd, LoadVesseld)
        return [_LoadRegion(each) if isinstance(each, loads) else each for each in super().pre_transforms(data)]

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> torch.nn.Module:
        """In the memory layout of the bundles' own inference, in which convolutions are faster; by an engine."""
        network = super()._get_network(device, data).to(memory_format=torch.channels_last)
        if self._engine is None or self._engine[0] is not network:
            self._engine = network, self._engine_of(network, device)
        return self._engine[1]

    def _engine_of(self, network: torch.nn.Module, device: str) -> torch.nn.Module:
        """What the bundle's own inference computes a network by; the network itself where it knows of no engines."""
        parser = ConfigParser()
        parser.read_config(str(Path(self.bundle_path) / "configs/inference.json"))
        if self._runtime == "torch" or "engine" not in parser:
            return network
        known = {"bundle_root": self.bundle_path, "device": torch.device(device), "runtime": self._runtime}
        parser.update({**known, "loaded_network": network})
        return parser.get_parsed_content("engine")

    def find(self, request: Mapping[str, Any]) -> Features:
        """The objects in an image or a region, in px of level 0."""
        return self({**request, "skip_writer": True})[1]["features"]

    def post_transforms(self, data: Mapping[str, Any] | None = None) -> list[Callable]:
        """The bundle's, and the objects in px of level 0."""
        return [*super().post_transforms(data), _collect]

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: str | None = None) -> tuple[Any, dict]:
        """Contours and points and, unless only those are asked for, the label image."""
        left, top, right, bottom = data["source"].meta["region"]
        data["result"] = {
            "annotation": as_annotation(
                data["features"],
                (left, top),
                (right - left, bottom - top),
                data.get("label_colors"),
                float(data.get("min_poly_area") or 0),
            )
        }
        if not data.get("result_write_to_file", True):
            return None, data["result"]
        data["result_extension"] = extension or data.get("result_extension") or _label_suffix(data["image_path"])
        data["result_dtype"] = dtype or data.get("result_dtype")
        return Writer(label="pred", json="result")(data)

    def annotate(self, path: str, request: Mapping[str, Any]) -> tuple[dict[str, Any], list[int], list[int]]:
        """The annotation of a region, or of a whole slide, which is streamed and may have any size.

        Args:
            path: a slide or an image.
            request: ``location`` and ``size`` in px of level 0 (zeros: all of it), ``min_poly_area``,
                ``label_colors``, ``mpp``.

        Returns:
            the annotation, with latencies; location; size.

        Raises:
            InputError: the region is not in the image; a slide without a resolution.
        """
        location, size = list(request.get("location") or (0, 0)), list(request.get("size") or (0, 0))
        levels, is_slide = open_levels(Path(path), "openslide")
        rows, cols = levels.shapes[0]
        if not any(size):
            size = [cols - location[0], rows - location[1]]
        if is_slide and max(size) > _LARGEST_REGION:
            return self._annotate_slide(path, request, location, size), location, size
        request = {**request, "image": path, "location": location, "size": size, "result_write_to_file": False}
        return self(request)[1], location, size

    def _annotate_slide(
        self, path: str, request: Mapping[str, Any], location: Sequence[int], size: Sequence[int]
    ) -> dict[str, Any]:
        if not (Path(self.bundle_path) / "configs/slides.json").is_file():
            expected = f"a region of at most {_LARGEST_REGION} px a side, as this bundle does not take whole slides"
            raise InputError(path, expected, f"{list(size)}")
        parser = ConfigParser()
        parser.read_config([str(Path(self.bundle_path) / f"configs/{name}.json") for name in ("inference", "slides")])
        with tempfile.TemporaryDirectory() as folder:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            parser.update(
                {
                    "bundle_root": self.bundle_path,
                    "dataset_dir": path,
                    "output_dir": folder,
                    "mpp": request.get("mpp"),
                    "device": device,
                }
            )
            if "runtime" in parser:
                parser.update({"runtime": self._runtime})
            parser.get_parsed_content("slides").run(parser.get_parsed_content("cohort"))
            features = read_geojson(next(Path(folder).rglob("*.geojson")))
        centres = features.points()[:, ::-1] + 0.5 if len(features) else features.points()
        corner = (location[0] + size[0], location[1] + size[1])
        features = features[((centres >= tuple(location)) & (centres < corner)).all(axis=1)]
        if len(features):
            features.classes[:] = [name or "nucleus" for name in features.classes]
        colours = {**self._config["label_colors"], **(request.get("label_colors") or {})}
        annotation = as_annotation(features, location, size, colours, float(request.get("min_poly_area") or 0))
        return {"annotation": annotation, "label_names": self.labels, "latencies": {}}


class _LoadRegion:
    """Loads what a request asks for, in place of the bundle's loader; for a loader of vessels it is one vessel."""

    def __init__(self, loader: LoadFieldd | LoadVesseld) -> None:
        self.loader = loader

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        region = {key: data.get(key) or (0, 0) for key in ("location", "size")}
        region |= {"target_mpp": self.loader.target_mpp, "mpp": data.get("mpp")}
        if isinstance(self.loader, LoadVesseld):
            return {**data, **load_vessel_region(data["image"], **region, outline=data.get("outline"))}
        image = load_region(data["image"], **region)
        valid = image.meta.pop("valid", None)
        kept = {} if valid is None or self.loader.valid_key is None else {self.loader.valid_key: valid}
        return {**data, "image": image, **kept}


def _collect(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "features": in_region(found_features(data), data["source"])}


def _label_suffix(path: str) -> str:
    """Labels of slides and of lossy images need another format."""
    suffix = Path(path).suffix.lower()
    return ".tif" if suffix in (*TIFF_SUFFIXES, *SLIDE_SUFFIXES) else ".png"
