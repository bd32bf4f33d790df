"""What a bundle can learn from single objects, and by which of its configurations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from monai.bundle import ConfigParser

from monai_ext.reports.comparison import compare_classifiers, compare_detections, compare_instances

__all__ = ["CLASSES", "OUTLINES", "POINTS", "SETTINGS", "Lesson", "bundle_parser", "config_stack", "find_config"]


@dataclass(frozen=True)
class Lesson:
    """One network that learns, and how it is scored.

    Attributes:
        name: of what is learnt.
        training: the overlay of its training.
        evaluation: the overlay of its evaluation where a reviewer has looked.
        scoring: the overlay of its evaluation on a data set.
        start: the entry that says which weights it goes on from: a file, or their folder.
        compare: puts evaluations side by side.
        score: the column of that comparison which tells most.
        below: the folder of its weights below the bundle's.
    """

    name: str
    training: str
    evaluation: str
    scoring: str
    start: str
    compare: Callable[[Mapping[str, str], str], str]
    score: str
    below: str = ""


#: Files of post-processing beside weights: old and new weights are scored with the same.
SETTINGS = ("thresholds.json", "instances.json")
_OBJECTS = ("reviewed", "evaluate_reviewed", "evaluate", "start_from")
#: Places of objects.
POINTS = Lesson("points", *_OBJECTS, compare_detections, "F1")
#: Objects and their outlines.
OUTLINES = Lesson("outlines", *_OBJECTS, compare_instances, "F1")
_CELLS = ("reviewed_classes", "evaluate_cells", "evaluate_cells", "student_dir")
#: Nuclei's classes.
CLASSES = Lesson("classes", *_CELLS, compare_classifiers, "weighted F1", "classifier")


def find_config(root: Path, name: str) -> Path | None:
    """A configuration of a bundle by its name; ``None`` where the bundle has none such."""
    return next(root.glob(f"configs/**/{name}.json"), None)


def config_stack(root: Path, overlay: str) -> list[str]:
    """The files of a configuration and of what it says that it goes over, relative to the bundle; none without it."""
    path = find_config(root, overlay)
    if path is None:
        return []
    below = json.loads(path.read_text(encoding="utf-8")).get("_over_", [""])[0].split(" + ")
    return [str(find_config(root, name).relative_to(root)) for name in (*filter(None, below), overlay)]


def bundle_parser(root: Path, overlay: str) -> ConfigParser:
    """All entries of a configuration with what it goes over; none of one that the bundle has not."""
    parser = ConfigParser({})
    parser.read_config([str(root / name) for name in config_stack(root, overlay)])
    return parser
