"""``monai-ext learn``: fine-tune a bundle with what reviewers corrected."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.bundle import ConfigParser

from monai_ext.base.errors import InputError
from monai_ext.engines.phases import Phase, PhaseRunner
from monai_ext.learn.lessons import (
    CLASSES,
    OUTLINES,
    POINTS,
    SETTINGS,
    Lesson,
    bundle_parser,
    config_stack,
    find_config,
)
from monai_ext.learn.regions import (
    Region,
    classified,
    find_regions,
    split_regions,
    write_classes,
    write_regions,
)
from monai_ext.learn.reviews import SlideReview, read_reviews
from monai_ext.networks.convention import copy_weights, read_convention
from monai_ext.reports.pages import write_metrics

__all__ = ["learn"]

_LEAST, _LEAST_REGIONS = 10, 2  # objects that were reviewed; fields with objects in them: one to learn, one to score
_WEIGHTS, _STATE = "model.pt", "training_state.pt"
_ON_SLIDES = "['configs/inference.json','configs/slides.json']"


def learn(
    src: str | os.PathLike,
    bundle: str | os.PathLike,
    *,
    slides: str | os.PathLike | None = None,
    ckpt_dir: str | os.PathLike | None = None,
    mpp: float | None = None,
    seed: int = 0,
    **overrides: Any,
) -> str:
    """Fine-tune a bundle with the corrections of its results, and compare it before and after.

    Squares of the slides around the objects that were reviewed become a data set: an object that was reviewed and a
    narrow rim around it are known, the rest takes part in no loss. About a third of the squares is held out, to score
    the old and the new weights there, with intervals over squares and for the difference. What learns is the bundle's
    own training with its overlay ``reviewed``: detections and outlines where any was rejected, and a classifier of
    cells where they have classes. Everything goes into ``<src>/learn/round_1``, ``round_2`` and so on; the old weights
    stay as they are.

    Args:
        src: the output folder of a run, with corrections that were made with ``monai-ext view``.
        bundle: the folder of the bundle that the run was of.
        slides: the folder that the run's images lie in now, or its only image, where they have been moved.
        ckpt_dir: the folder of the weights to go on from, those of the run; the bundle's ``models`` by default. With
            the last round's folder one round builds upon another.
        mpp: um/px of the images, in place of what they state.
        seed: of the split, and of the training.
        **overrides: entries of the bundle's configurations, such as ``epochs`` or ``device``.

    Returns:
        the figures, and the command that uses the new weights.

    Raises:
        InputError: no bundle, or one that does not learn from objects; no corrections or too few; a slide that is not
            where it was.
    """
    root, begun = Path(bundle), Path(ckpt_dir if ckpt_dir is not None else Path(bundle) / "models").resolve()
    if not (root / "configs/train.json").is_file():
        raise InputError("--bundle", "the folder of a bundle, with configs/train.json", repr(str(bundle)))
    settings = _settings(root, overrides)
    if not (begun / _WEIGHTS).is_file():
        raise InputError("--ckpt_dir", f"the folder of {_WEIGHTS}, the weights to go on from", repr(str(begun)))
    kind, target_mpp = settings["learns_from"], settings["target_mpp"]
    reviews = read_reviews(src, slides, kind == "points", mpp)
    regions = [each for review in reviews for each in find_regions(review, settings["patch_size"], target_mpp)]
    _check_enough(src, regions)
    parts = split_regions(regions, seed)
    names = _class_names(root, begun)
    lessons, notes = _lessons(src, kind, parts, names)
    notes = [_reviewed(parts), *notes]
    print("\n".join(notes), flush=True)

    folder = _next_round(Path(src) / "learn").resolve()
    if lessons[0] is not CLASSES:
        write_regions(folder / "data", parts, kind, target_mpp)
    if CLASSES in lessons:
        write_classes(folder / "data" / CLASSES.name, parts, names, settings["nucleus_size"], target_mpp)
    scores = {}
    for lesson in lessons:
        # of a classifier it is the size of a nucleus, which belongs to its weights
        entries = {name: value for name, value in overrides.items() if lesson is not CLASSES or name != "patch_size"}
        run = PhaseRunner(root, {"seed": seed, **entries})
        scores[lesson.name] = _teach(run, root, lesson, begun, folder)
    for path in (begun / _WEIGHTS, begun / CLASSES.below / _WEIGHTS):  # a round is complete, to be gone on from
        if path.is_file() and not (target := folder / path.relative_to(begun)).is_file():
            copy_weights(path, target)
    used = _use(root, folder, Path(src), reviews)
    about = {"bundle": root.name, "begun_from": begun, "seed": seed, "overrides": overrides, "notes": notes}
    write_metrics(folder / "learn.json", {**about, "scores": scores, "command": used})
    reports = [str(folder / lesson.name / "report.html") for lesson in lessons]
    return "\n".join([*reports, str(folder / "learn.json"), "To use the new weights:", used])


def _settings(root: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Of the bundle's trainings with their overlays."""
    if find_config(root, OUTLINES.training) is None:
        expected = (
            "a bundle that learns from single objects: mitoses, cells or nuclei; of images and vessels correct the "
            "labels in dataset.json, and run training with configs/train.json"
        )
        raise InputError("--bundle", expected, root.name)
    parser, classes = (bundle_parser(root, lesson.training) for lesson in (OUTLINES, CLASSES))
    known = {**parser.get(), **classes.get()}
    if unknown := [f"--{name}" for name in overrides if name.partition("#")[0] not in known]:
        raise InputError("learn", "entries of the bundle's training", ", ".join(unknown))
    settings = {name: overrides.get(name, parser.get(name)) for name in ("learns_from", "target_mpp", "patch_size")}
    return settings | {"nucleus_size": classes.get("patch_size")}


def _check_enough(src: str | os.PathLike, regions: Sequence[Region]) -> None:
    count = sum(len(region.members) for region in regions)
    places = sum(len(region.kept) > 0 for region in regions)
    if count < _LEAST or places < _LEAST_REGIONS:
        expected = f"at least {_LEAST} reviewed objects, and right ones among them in {_LEAST_REGIONS} fields or more"
        raise InputError(src, expected, f"{count}, and right ones in {places}")


def _class_names(root: Path, begun: Path) -> list[str]:
    """Of the classifier, in its order; none where the bundle has none that learns."""
    weights = begun / CLASSES.below / _WEIGHTS
    if not (weights.is_file() and find_config(root, CLASSES.training)):
        return []
    if stated := read_convention(weights):
        return list(stated.classes)
    return ConfigParser.load_config_file(root / "configs/inference.json")["class_names"]


def _lessons(
    src: str | os.PathLike, kind: str, parts: Mapping[str, Sequence[Region]], names: Sequence[str]
) -> tuple[list[Lesson], list[str]]:
    """What can be learnt, and why something cannot."""
    if kind == "points":
        return [POINTS], []
    lessons, notes = [], []
    if any(len(region.rejected) or region.review.drawn[region.kept].any() for region in parts["training"]):
        lessons.append(OUTLINES)
    else:  # all of them would be the network's own
        notes.append("outlines are not learnt, as none was rejected or drawn in the fields to learn from")
    if names and all(any(len(classified(region, names)) for region in regions) for regions in parts.values()):
        lessons.append(CLASSES)
    elif names:
        notes.append(f"classes are not learnt, as some of {', '.join(names)} are needed in both parts")
    if not lessons:
        raise InputError(src, "rejected or drawn outlines or, for a classifier, objects with a class", "; ".join(notes))
    return lessons, notes


def _reviewed(parts: Mapping[str, Sequence[Region]]) -> str:
    texts = []
    for part, regions in parts.items():
        kept, rejected = (sum(len(getattr(region, name)) for region in regions) for name in ("kept", "rejected"))
        texts.append(f"{part}: {len(regions)} fields with {kept} right and {rejected} rejected objects")
    return "; ".join(texts)


def _next_round(folder: Path) -> Path:
    number = 1
    while (folder / f"round_{number}").exists():
        number += 1
    return folder / f"round_{number}"


def _teach(run: PhaseRunner, root: Path, lesson: Lesson, begun: Path, folder: Path) -> dict[str, Any]:
    """Score, train, score again; both scores and what they differ by."""
    old, new = begun / lesson.below, folder / lesson.below
    data = folder / "data" / ("" if lesson is not CLASSES else lesson.name)
    results = {name: folder / lesson.name / name for name in ("before", "after")}

    def step(name: str, overlay: str, result: Path, **settings: Any) -> None:
        settings |= {"dataset_dir": str(data)}
        run(Phase(f"{lesson.name}, {name}", config_stack(root, overlay), str(result), settings))

    def score(name: str, weights: Path) -> None:
        where = {"ckpt_dir": str(weights), "output_dir": str(results[name])}
        step(name, lesson.evaluation, results[name] / "metrics.json", **where)

    score("before", old)
    start = old if lesson is CLASSES else old / _WEIGHTS
    step("training", lesson.training, new / _WEIGHTS, ckpt_dir=str(new), **{lesson.start: str(start)})
    (new / _STATE).unlink(missing_ok=True)
    for name in SETTINGS:
        if (old / name).is_file():
            shutil.copyfile(old / name, new / name)
    score("after", new)
    table = lesson.compare({name: escape(str(path)) for name, path in results.items()}, str(folder / lesson.name))
    numbers = pd.read_csv(table).set_index("name").T.replace({np.nan: None}).to_dict()
    details = {name: json.loads((path / "metrics.json").read_text()) for name, path in results.items()}
    return {"comparison": numbers, **details}


def _use(root: Path, folder: Path, src: Path, reviews: Sequence[SlideReview]) -> str:
    """The command that runs the bundle with the new weights on the same images."""
    images = [review.image.resolve() for review in reviews]
    where = images[0] if len(images) == 1 else Path(os.path.commonpath([path.parent for path in images]))
    slides = any(src.rglob("*_plan.json")) and (root / "configs/slides.json").is_file()
    options = {
        "config_file": _ON_SLIDES if slides else "configs/inference.json",
        "dataset_dir": where,
        "ckpt_dir": folder,
        "output_dir": src.resolve().with_name(f"{src.resolve().name}_{folder.name}"),
    }
    if (folder / CLASSES.below / _WEIGHTS).is_file():
        options["classifier_path"] = folder / CLASSES.below / _WEIGHTS
    words = ["python", "-m", "monai.bundle", "run"]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    typed = shlex.join(words).replace(shlex.quote(_ON_SLIDES), f'"{_ON_SLIDES}"')  # as people quote it
    return f"cd {shlex.quote(str(root.resolve()))} && {typed}"
