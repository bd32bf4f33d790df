"""A teacher's scores of every nucleus, computed once and kept (Háberová and Vykopal 2023, section 4.3.2)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from monai_ext.base.arrays import load_array
from monai_ext.base.files import atomic_path, path_below
from monai_ext.base.fingerprint import fingerprint
from monai_ext.data.nuclei import read_patches

__all__ = ["TeacherLabels"]


class Classifier(Protocol):
    """What gives a teacher's scores, such as :class:`~monai_ext.inferers.PatchClassifier`."""

    def settings(self) -> dict[str, Any]:
        """All that determines the scores, as JSON values."""

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Scores ``(N, C)`` of patches, uint8 ``(N, S, S, 3)``."""


class TeacherLabels:
    """Runs a teacher over the patches of all source images and keeps its scores, float16, a file for each image.

    Scores rather than classes, so that one run serves hard and soft labels. Existing scores are kept: a stopped run
    continues with the next image. Another teacher, other normalisation or changed patches start anew.

    Args:
        items: ``image`` of each source image, as ``load_datalist`` gives them.
        root: the data set's folder, which the images lie below.
        dst: folder for the scores and ``teacher.json``, which records what they were made with.
        classifier: the teacher.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        root: str | os.PathLike,
        dst: str | os.PathLike,
        classifier: Classifier,
    ) -> None:
        self.root, self.dst = Path(root), Path(dst)
        record = self.dst / "teacher.json"
        settings = classifier.settings()
        before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        done = before.get("done", {}) if before.get("settings") == settings else {}
        for item in tqdm(items, desc="the teacher's labels", unit="image"):
            path, now = self._path(item), fingerprint(item["image"])
            name = path.relative_to(self.dst).as_posix()
            if done.get(name) == now and path.is_file():
                continue
            patches = read_patches(item["image"])
            scores = classifier(patches) if len(patches) else np.empty((0, self._classes(classifier, patches)))
            with atomic_path(path) as temporary:
                np.save(temporary, scores.astype(np.float16))
            done[name] = now
            with atomic_path(record) as temporary:
                temporary.write_text(
                    json.dumps({"settings": settings, "done": done}, indent=1) + "\n", encoding="utf-8"
                )

    @staticmethod
    def _classes(classifier: Classifier, patches: np.ndarray) -> int:
        return classifier(np.zeros((1, *patches.shape[1:]), np.uint8)).shape[1]

    def _path(self, item: Mapping[str, Any]) -> Path:
        return self.dst / path_below(item["image"], self.root)

    def logits(self, item: Mapping[str, Any]) -> np.ndarray:
        """The teacher's scores of one source image's patches: float16 ``(N, C)``, memory-mapped."""
        return load_array(self._path(item))
