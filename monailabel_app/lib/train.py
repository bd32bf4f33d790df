"""Training with the annotations in the datastore, for every kind of label that a bundle learns from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import orjson
from monai.handlers import CheckpointLoader
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.label import has_object, training_label
from monai_ext.networks import copy_weights

__all__ = ["BundleTrain"]


class BundleTrain(BundleTrainTask):
    """A bundle's ``train.json`` on the images that have a final label.

    Args:
        path: the bundle's folder.
        conf: of the app.
        kind: what the bundle learns from: ``"instances"``, ``"points"`` or ``"presence"`` (whether an image has
            anything annotated).
    """

    def __init__(self, path: str, conf: dict[str, str], kind: str) -> None:
        super().__init__(path, conf)
        self.kind = kind

    @property
    def can_cycle(self) -> bool:
        """Whether the bundle has Cyclic Learning, which needs outlines for validation only."""
        return (Path(self.bundle_path) / "configs/cycle.json").is_file()

    def config(self) -> dict[str, Any]:
        """As the base class, and ``cycle``: false, or true or ``cycle.json``'s entries for the whole of the method."""
        return {**super().config(), **({"cycle": False} if self.can_cycle else {})}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; the weights replace the bundle's."""
        request = {**request, "run_id": request.get("run_id") or "run"}  # clients send an empty one
        if request.get("cycle"):
            return self._run_cycle(request, datastore)
        handlers = self.bundle_config.get(self.const.key_train_handlers(), [])
        handlers[:] = [each for each in handlers if each.get("_target_") != CheckpointLoader.__name__]
        return super().__call__(request, datastore)

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list) -> None:
        if pretrained:
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Templates belong to the weights; existing weights must fit, and have completed the first stage."""
        if "templates" in self.bundle_config:
            overrides["templates"] = os.fspath(Path(self.bundle_path) / "models/templates")
        handlers = overrides[self.const.key_train_handlers()]
        begins_with = [h["load_path"] for h in handlers if h.get("_target_") == CheckpointLoader.__name__]
        overrides["convention#initial_weights"] = begins_with
        if "stage1_epochs" in self.bundle_config:
            epochs = overrides[self.const.key_train_trainer_max_epochs()]
            overrides["stage1_epochs"] = 0 if begins_with else epochs // 2
            overrides["stage2_epochs"] = epochs - overrides["stage1_epochs"]
        return overrides

    def _work(self, name: str) -> Path:
        return Path(self.bundle_path) / "runs" / name

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:  # noqa: ARG002
        items = [{key: each[key] for key in ("image", "label")} for each in datastore.datalist() if each]
        if not items:
            raise InputError("datastore", "images with a final label", "none")
        if self.kind == "presence":
            return [{**each, "label": int(has_object(each["label"], each["image"]))} for each in items]
        folder = self._work("labels")
        return [{**each, "label": training_label(each["label"], each["image"], folder, self.kind)} for each in items]

    def _run_cycle(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The whole of Cyclic Learning: images with and without objects; outlines choose between networks only."""
        if not self.can_cycle:
            raise InputError("cycle", "a bundle with configs/cycle.json", Path(self.bundle_path).name)
        data, output = self._work("cycle_data"), self._work("cycle")
        items = [
            {**each, "group": Path(each["image"]).stem, "has_nuclei": int(has_object(each["label"], each["image"]))}
            for each in self._fetch_datalist(request, datastore)
        ]
        lists = _split(items, float(request.get("val_split", 0.2)))
        for each in lists["training"]:
            del each["label"]
        with atomic_path(data / "dataset.json") as temporary:
            temporary.write_bytes(orjson.dumps({"name": "datastore", **lists}, option=orjson.OPT_INDENT_2))
        overrides = request["cycle"] if isinstance(request["cycle"], Mapping) else {}
        shutil.rmtree(output, ignore_errors=True)  # phases of other annotations
        monai.bundle.run(
            config_file=os.fspath(Path(self.bundle_path) / "configs/cycle.json"),
            **{
                "bundle_root": self.bundle_path,
                "dataset_dir": os.fspath(data),
                "tiles_dir": os.fspath(data),
                "output_dir": os.fspath(output),
                **overrides,
            },
        )
        copy_weights(output / "model.pt", Path(self.bundle_path) / "models/model.pt")
        return {"cycles": os.fspath(output / "cycles.csv")}


def _split(items: Sequence[dict[str, Any]], share: float) -> dict[str, list[dict[str, Any]]]:
    """Training and validation, each with images of both kinds."""
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for label, name in ((1, "with"), (0, "without")):
        group = [each for each in items if each["has_nuclei"] == label]
        if len(group) < 2:
            raise InputError("datastore", f"at least two labelled images {name} nuclei", str(len(group)))
        count = min(len(group) - 1, max(1, round(share * len(group))))
        lists["validation"] += group[:count]
        lists["training"] += group[count:]
    return lists
