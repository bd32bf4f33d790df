"""What a simulated reviewer can look at in a data set, and what each click says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import pandas as pd
from scipy.special import softmax

from monai_ext.base.files import atomic_path
from monai_ext.data.datalist import load_datalist
from monai_ext.data.nuclei import NucleusPatches, check_nuclei_item, read_class_names, write_nuclei
from monai_ext.data.review_order import appearance
from monai_ext.engines.phases import Phase, PhaseRunner
from monai_ext.inferers.patches import PatchClassifier
from monai_ext.learn.lessons import CLASSES, POINTS, Lesson, bundle_parser
from monai_ext.learn.regions import ANNOTATION, find_regions, write_regions
from monai_ext.learn.reviews import review_of
from monai_ext.networks.utils import load_weights
from monai_ext.view.cases import find_beside, find_cases
from monai_ext.view.comparison import KINDS
from monai_ext.view.opened import Opened, Settings
from monai_ext.view.review_log import Decision, content_of

__all__ = ["NucleusPool", "ObjectPool", "Pool"]

_INFERENCE = "configs/inference.json"
_RIGHT = tuple(map(KINDS.index, ("both", "class")))  # where it is, of whatever class
_LIST = "dataset.json"


class Pool(Protocol):
    """Objects whose truth is known, in a fixed order.

    Attributes:
        settings: entries of the training that they need.
        digest: differs where any of them, or its truth, does.
    """

    settings: Mapping[str, Any]
    digest: str

    def __len__(self) -> int:
        """How many there are."""

    @property
    def features(self) -> np.ndarray:
        """What each looks like, ``(N, D)``."""

    def certainty(self, weights: Path) -> np.ndarray:
        """How sure the network in a folder is of each, ``(N,)``; a reviewer begins with the least."""

    def write(self, dst: Path, seen: np.ndarray) -> None:
        """A data set of what a reviewer knows who has seen some of them, by their places."""


class NucleusPool:
    """Nuclei of a training list: a click says the class of one.

    Args:
        root: the folder of the cells' bundle.
        dataset_dir: of the nuclei, with the column ``ea``.
        overrides: entries of the bundle's configurations.

    Raises:
        InputError: they cannot be read, or have no classes.
    """

    settings: Mapping[str, Any] = {"annotation": ANNOTATION}

    def __init__(self, root: Path, dataset_dir: str, overrides: Mapping[str, Any]) -> None:
        names = read_class_names(dataset_dir)
        check = lambda item: check_nuclei_item(item, names, ANNOTATION)  # noqa: E731
        items = load_datalist(dataset_dir, ["training"], check=check)["training"]
        self._root, self._dataset_dir, self._overrides = root, dataset_dir, overrides
        self._nuclei = NucleusPatches(items, ANNOTATION, names)
        self._patches = self._nuclei.patches(np.arange(len(self._nuclei)))
        self.digest = hashlib.sha256(self._patches.tobytes() + self._nuclei.labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._nuclei)

    @cached_property
    def features(self) -> np.ndarray:
        """What each looks like."""
        return appearance(self._patches)

    def certainty(self, weights: Path) -> np.ndarray:
        """The probability of each nucleus' likeliest class."""
        parser = bundle_parser(self._root, CLASSES.scoring)
        parser.update({name: value for name, value in self._overrides.items() if name in parser})
        where = {"bundle_root": str(self._root), "dataset_dir": self._dataset_dir, "ckpt_dir": str(weights)}
        parser.update(where)
        network = load_weights(parser.get_parsed_content("network_def"), weights / "model.pt")
        settings = {key: parser.get_parsed_content(key) for key in ("convention", "device", "amp")}
        return softmax(PatchClassifier(network, **settings)(self._patches), axis=1).max(axis=1)

    def write(self, dst: Path, seen: np.ndarray) -> None:
        """Their patches and classes."""
        shown, labels = self._patches[seen], np.array(self._nuclei.class_names)[self._nuclei.labels[seen]]
        table = pd.DataFrame({"row": 0.0, "col": 0.0, "scale": 1, ANNOTATION: labels})
        item = write_nuclei(dst, "seen", shown, table)
        content = {"name": "simulated review", "class_names": self._nuclei.class_names, "training": [item]}
        with atomic_path(dst / _LIST) as temporary:
            temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


class ObjectPool:
    """What a run found in the images of a training list: a click says whether it is right.

    It is gone through as the viewer shows the run: certainty is that of the result, whatever is learnt meanwhile. What
    the run missed is not drawn.

    Args:
        out: the output folder of the run.
        dataset_dir: of the images, with the truth of each.
        lesson: :data:`~monai_ext.learn.lessons.POINTS` or :data:`~monai_ext.learn.lessons.OUTLINES`.
        side: of the squares around what was seen, px of the network's grid.
        target_mpp: um/px of that grid.

    Attributes:
        right: ``(N,)`` bool, of each object.

    Raises:
        InputError: the results or the data set cannot be read, or no image has a truth.
    """

    settings: Mapping[str, Any] = {}

    def __init__(self, out: Path, dataset_dir: str, lesson: Lesson, side: int, target_mpp: float | None) -> None:
        self._out, self._lesson, self._side, self._mpp = out, lesson, side, target_mpp
        cases = find_cases(out)
        beside = find_beside(cases, dataset_dir)
        mpps = {item["image"]: item.get("mpp") for item in _images(dataset_dir)}
        self._opened: list[Opened] = []
        objects, right = [], []
        for number, truth in sorted(beside.objects.items()):
            case = cases.cases[number]
            opened = Opened(case, Settings(reviewer="", mpp=mpps.get(str(case.image))), (beside.title, truth))
            kinds = opened.compared[0].kinds
            places = opened.index.order("file")
            places = places[kinds[places] >= 0]
            objects += product([len(self._opened)], places.tolist())
            right += np.isin(kinds[places], _RIGHT).tolist()
            self._opened.append(opened)
        contents = [content_of(opened.case.objects) for opened in self._opened]
        self.digest = hashlib.sha256(repr((contents, objects, right)).encode()).hexdigest()
        self._objects, self.right = np.array(objects, np.int64).reshape(-1, 2), np.array(right, bool)

    @classmethod
    def found(
        cls, root: Path, lesson: Lesson, dataset_dir: str, start: Path, folder: Path, overrides: Mapping[str, Any]
    ) -> ObjectPool:
        """What the bundle's inference finds, which is run first unless that was done before.

        Args:
            root: the folder of the bundle.
            lesson: see the class.
            dataset_dir: see the class.
            start: the folder of the weights that find.
            folder: to write.
            overrides: entries of the bundle's configurations.
        """
        listed = orjson.dumps({"name": "to review", "test": _images(dataset_dir)}, option=orjson.OPT_INDENT_2)
        path, out = folder / "images" / _LIST, (folder / "out").resolve()
        if not (path.is_file() and path.read_bytes() == listed):
            with atomic_path(path) as temporary:
                temporary.write_bytes(listed)
        settings = {"dataset_dir": str(path.parent.resolve()), "ckpt_dir": str(start), "output_dir": str(out)}
        inputs = [dataset_dir, str(start / "model.pt")]
        PhaseRunner(root, overrides)(
            Phase("what there is to review", [_INFERENCE], str(out / "summary.csv"), settings, inputs)
        )
        parser = bundle_parser(root, lesson.training)
        side, mpp = (overrides.get(name, parser.get(name)) for name in ("patch_size", "target_mpp"))
        return cls(out, dataset_dir, lesson, side, mpp)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._objects)

    @cached_property
    def features(self) -> np.ndarray:
        """What each looks like."""
        return appearance(np.stack([self._opened[case].patch(place) for case, place in self._objects]))

    def certainty(self, weights: Path) -> np.ndarray:  # noqa: ARG002 - the list is that of the result
        """By which the viewer's list is ordered."""
        return np.array([self._opened[case].index.certainty[place] for case, place in self._objects])

    def write(self, dst: Path, seen: np.ndarray) -> None:
        """The squares around what was seen, as ``learn`` writes them, all of them to learn from."""
        regions = []
        for case in np.unique(self._objects[seen, 0]).tolist():
            those = seen[self._objects[seen, 0] == case]
            actions = zip(self._objects[those, 1].tolist(), self.right[those], strict=True)
            said = {
                place: Decision(place, "accept" if right else "reject", None, "truth", "", number)
                for number, (place, right) in enumerate(actions)
            }
            review = review_of(self._out, self._opened[case], said, self._lesson is POINTS)
            regions += find_regions(review, self._side, self._mpp)
        write_regions(dst, {"training": regions, "test": []}, self._lesson.name, self._mpp)


def _images(dataset_dir: str) -> list[dict[str, Any]]:
    """Of the training list: each file, and its um/px where that is told."""
    items = load_datalist(dataset_dir, ["training"], check=None, path_keys=["image"])["training"]
    return [{key: item[key] for key in ("image", "mpp") if key in item} for item in items]
