"""MONAI Label app of the bundles: polygons and points on slides, training from annotations, what to annotate next."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from lib.bundles import BUNDLES
from lib.datastore import SlideDatastore
from lib.errors import check_name, http_errors
from lib.infer import BundleInfer
from lib.scoring import Agreement
from lib.strategy import Uncertainty
from lib.train import BundleTrain
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.others.pathology import create_asap_annotations_xml, create_dsa_annotations_json

import monai_ext
from monai_ext.networks.runtime import RUNTIMES

logger = logging.getLogger(__name__)


class BundleApp(MONAILabelApp):
    """Serves bundles from ``model/`` beside this file; those that are not there yet are copied from ``../bundles``.

    Training writes into the copy. ``--conf models a,b`` chooses bundles; ``--conf bundles DIR`` says where they are
    copied from; ``--conf runtime auto`` (or ``onnxruntime``, ``openvino``) what computes their networks.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        source = Path(conf.get("bundles") or Path(app_dir).parent / "bundles")
        chosen = [name.strip() for name in (conf.get("models") or "all").split(",")]
        if conf.get("runtime", "torch") not in RUNTIMES:
            raise SystemExit(f"--conf runtime: expected {', '.join(RUNTIMES)}, found {conf['runtime']}")
        self.bundles = {name: Path(app_dir) / "model" / name for name in BUNDLES if {"all", name} & set(chosen)}
        if unknown := set(chosen) - set(BUNDLES) - {"all"}:
            raise SystemExit(f"--conf models: expected some of {', '.join(BUNDLES)}, found {', '.join(unknown)}")
        for name, folder in self.bundles.items():
            if not folder.is_dir():
                shutil.copytree(source / name, folder)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Weakly supervised pathology",
            description="Nuclei, cells, mitoses, metastases and invaded vessels from weak labels",
            version=getattr(monai_ext, "__version__", "0.1.0"),
        )

        # scoring computes all labelled images: not after every sample, while somebody waits for outlines
        self._auto_update_scoring = False

    def init_datastore(self) -> Datastore:
        """A folder of images, or what a URL names."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return SlideDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """A task for each bundle."""
        return {name: BundleInfer(str(path), self.conf, BUNDLES[name].colours) for name, path in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """A trainer for each bundle."""
        return {name: BundleTrain(str(path), self.conf, BUNDLES[name].kind) for name, path in self.bundles.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        """By uncertainty, at random, or one after the other."""
        return {"uncertainty": Uncertainty(self._infers), "random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Agreement with the annotations, by the bundle's name."""
        return {name: Agreement(infer, BUNDLES[name].kind) for name, infer in self._infers.items()}

    def _path(self, request: Mapping[str, Any], datastore: Datastore | None) -> str:
        """The image's file."""
        check_name(request.get("model"), list(self._infers), "model")
        image = request["image"]
        path = image if Path(image).is_file() else (datastore or self.datastore()).get_image_uri(image)
        if not path:
            raise ImageNotFoundException(f"image: expected one of the datastore's, found {image}")
        return path

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """A label image and contours of a whole image."""
        with http_errors():
            self._path(request, datastore)
            return super().infer(request, datastore)

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Contours and points of a region or a whole slide, as ASAP's XML, DSA's JSON or plain JSON."""
        with http_errors():
            path = self._path(request, datastore)
            start = time.monotonic()
            infer, asap = self._infers[request["model"]], request.get("output") == "asap"
            result, location, size = infer.annotate(path, request)
            answer = {
                "name": f"MONAILabel Annotations - {request['model']} for {[*location, *size]}",
                "description": escape(infer.description, {'"': "&quot;"}) if asap else infer.description,
                "model": request["model"],
                "location": location,
                "size": size,
                "annotations": [result],
                "latencies": {**result.get("latencies", {}), "total": round(time.monotonic() - start, 2)},
            }
            write = {"asap": create_asap_annotations_xml, "dsa": create_dsa_annotations_json}.get(request.get("output"))
            return {"file": write(answer, "WARNING")[0] if write else None, "params": answer}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a bundle on the datastore's final labels."""
        with http_errors():
            return super().train(request)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """What to annotate next."""
        with http_errors():
            check_name(request.get("strategy"), list(self._strategies), "strategy")
            return super().next_sample(request)

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Score a bundle."""
        with http_errors():
            check_name(request.get("method"), list(self._scoring_methods), "scoring method")
            return super().scoring(request, datastore)
