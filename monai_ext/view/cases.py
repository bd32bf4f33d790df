"""What there is to look at: the images of a finished run, of a data set, or of a folder."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import load_datalist
from monai_ext.data.result_files import REVIEW_LOG, REVIEWED, is_result, is_review
from monai_ext.data.run_state import RunState
from monai_ext.formats.annotation_files import annotated_images, annotation_stem, find_annotations, is_annotation
from monai_ext.formats.find import find_images, is_image
from monai_ext.formats.image import is_mask
from monai_ext.formats.suffixes import without_suffix

__all__ = ["Beside", "Case", "Cases", "find_beside", "find_cases"]

_LISTS = ("training", "validation", "test", "locating")
_TRUTH = ("annotation", "label")  # keys of a data list's items that may name a file of objects


@dataclass(frozen=True)
class Case:
    """An image, and what is known of it.

    Attributes:
        name: its path below the folder that it was found in, as ``summary.csv`` has it.
        image: the file; ``None`` if it is nowhere.
        objects: GeoJSON, or points or a map of instances of a data list; ``None`` without any.
        stem: of the files of a run's results, to which a review is added; ``None`` where there is nothing to review.
        mpp: um/px of the file, where a data list gives it or the run was told it.
        hot_spot: ``row, col, radius`` of the circle with most detections, px of the file, where a run found one.
    """

    name: str
    image: Path | None
    objects: Path | None = None
    stem: Path | None = None
    mpp: float | None = None
    hot_spot: tuple[float, float, float] | None = None

    @property
    def log(self) -> Path | None:
        """The file of the corrections."""
        return self.stem and self.stem.with_name(f"{self.stem.name}{REVIEW_LOG}")

    @property
    def reviewed(self) -> Path | None:
        """The file that the corrected objects are exported to."""
        return self.stem and self.stem.with_name(f"{self.stem.name}{REVIEWED}")


@dataclass(frozen=True)
class Cases:
    """All that there is to look at.

    Attributes:
        title: of the page.
        cases: the images.
        rows: of a table, each with the columns' text; ``rows[k]`` is about the image ``cases[of_case[k]]``.
        of_case: as many as rows. A run over vessels has a row for each, so several for an image.
    """

    title: str
    cases: tuple[Case, ...]
    rows: tuple[Mapping[str, str], ...] = ()
    of_case: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Beside:
    """Objects of the same images: of another run, or the truth.

    Attributes:
        title: where they are from.
        objects: by the place of the image among :attr:`Cases.cases`: the file.
    """

    title: str
    objects: Mapping[int, Path]


def find_cases(src: str | os.PathLike, slides: str | os.PathLike | None = None) -> Cases:
    """Find what there is to look at.

    Args:
        src: the output folder of a run of any bundle; the folder of a data set; a folder of images; or one image.
        slides: the folder that the images of a run lie in now, or its only image, where they have been moved.

    Raises:
        InputError: there is nothing of the kind, or none of a run's images is where it was.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.view import find_cases
        >>> Image.new("RGB", (30, 20)).save(folder / "a.png")
        >>> [case.name for case in find_cases(folder).cases]
        ['a.png']
    """
    src = Path(src)
    if is_image(src):
        return _listed(src.name, [Case(src.name, src)])
    if not src.is_dir():
        found = "a file" if src.exists() else "nothing there"
        raise InputError(src, "a run's output folder, a data set, a slide or an image", found)
    if _is_run(src):
        cases = _of_run(src, None if slides is None else Path(slides))
        _check_slides(src, cases)
        return cases
    if (src / "dataset.json").is_file():
        return _of_dataset(src)
    paths = find_images(src, leave_out=is_result)
    if not paths:
        raise InputError(src, "results of a run (summary.csv), a data set (dataset.json) or images", "none of these")
    return _listed(src.name, [Case(str(path.relative_to(src)) if path != src else path.name, path) for path in paths])


def find_beside(cases: Cases, other: str | os.PathLike) -> Beside:
    """Find the objects of the same images in another result, in a data set, or in files of annotations.

    An image is the same where the file is, else where the path below the folder is, else where the name without its
    suffix is one's alone on both sides. Which image a file of annotations is of says
    :func:`~monai_ext.formats.annotation_files.annotated_images`.

    Args:
        cases: what there is to look at.
        other: the output folder of a run, the folder of a data set, a folder of GeoJSON or other annotations, or,
            beside one image, a file of them.

    Raises:
        InputError: it is none of these, or has no objects of any of the images.
    """
    other = Path(other)
    found = [case for case in _cases_of_objects(other, cases) if case.objects]
    if not found:
        raise InputError("--beside", f"objects in {other}: GeoJSON, points or maps of instances", "none")
    objects: dict[int, Path] = {}
    if other.is_file() and len(cases.cases) == 1:
        objects[0] = found[0].objects
    for key in (_file, _path, _name):
        theirs, ours = (_alone(side, key) for side in (found, cases.cases))
        for name, number in ours.items():
            if name in theirs:
                objects.setdefault(number, found[theirs[name]].objects)
    if not objects:
        named = f"others, the first: {found[0].name}"
        raise InputError("--beside", f"objects of images of {cases.title}, such as {cases.cases[0].name}", named)
    count = sum(case.objects is not None for case in cases.cases)
    if len(objects) < count:
        print(f"{other} has objects of {len(objects)} of {count} images")
    return Beside(other.name if other.name != cases.title else f"{other.absolute().parent.name}/{other.name}", objects)


def _cases_of_objects(other: Path, cases: Cases) -> Sequence[Case]:
    if other.is_file() and is_annotation(other):
        return _of_annotations([other], other.parent, cases)
    if not other.is_dir():
        found = f"another file, {other}" if other.exists() else f"nothing at {other}"
        raise InputError("--beside", "a run's output folder, a data set, or GeoJSON of the same images", found)
    if _is_run(other):
        return _of_run(other, None).cases
    if (other / "dataset.json").is_file():
        return _of_dataset(other).cases
    return _of_annotations([path for path in find_annotations(other) if not is_review(path)], other, cases)


def _of_annotations(paths: Sequence[Path], folder: Path, cases: Cases) -> list[Case]:
    """Files of annotations, each called after the image that it is of."""
    images = {_name(case): case.image for case in cases.cases if case.image}
    named = {path: name or annotation_stem(path) for path, name in annotated_images(paths, images).items()}
    return [Case(path.relative_to(folder).with_name(name).as_posix(), None, path) for path, name in named.items()]


def _file(case: Case) -> Hashable:
    return case.image and case.image.resolve()


def _path(case: Case) -> PurePath:
    return PurePath(without_suffix(case.name) if case.image or case.stem else case.name)


def _name(case: Case) -> str:
    return _path(case).name


def _alone(cases: Sequence[Case], key: Callable[[Case], Hashable]) -> dict[Hashable, int]:
    """The cases by what tells them apart; without those that it does not."""
    keys = [key(case) for case in cases]
    times = Counter(keys)
    return {name: number for number, name in enumerate(keys) if name is not None and times[name] == 1}


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("summary.csv", "state.json", "state.sqlite"))


def _listed(title: str, cases: Sequence[Case]) -> Cases:
    return Cases(title, tuple(cases), tuple({"image": case.name} for case in cases), tuple(range(len(cases))))


def _of_run(folder: Path, slides: Path | None) -> Cases:
    if slides is not None and not slides.exists():
        raise InputError("--slides", "the folder of the slides, or the slide", f"nothing at {slides}")
    state = {Path(path): entry for path, entry in RunState(folder).read().items()}
    rows = _table(folder / "summary.csv") or [{"image": path.name} for path in state]
    names = list(dict.fromkeys(row["image"] for row in rows))
    spots = {row["image"]: _hot_spot(row) for row in rows}
    cases, called = [], defaultdict(list)
    # the folder that a run looked through is in no file: of paths that end so, the shortest is right below it
    for path in sorted(state, key=lambda path: len(path.parts)):
        called[path.name].append(path)
    for name in names:
        ends = [path for path in called[PurePath(name).name] if _ends_in(path, name)]
        image = _image(name, ends, slides)
        of_run = image if image in ends else next(iter(ends), None)
        mpp = state[of_run].get("mpp") if of_run else None
        cases.append(Case(name, image, *_results(folder, name), mpp=mpp, hot_spot=spots[name]))
    if not any(case.objects for case in cases):
        raise InputError(folder, "results of a run: a .geojson for an image of summary.csv", f"none of {len(cases)}")
    numbers = {name: number for number, name in enumerate(names)}
    return Cases(folder.name, tuple(cases), tuple(rows), tuple(numbers[row["image"]] for row in rows))


def _check_slides(folder: Path, cases: Cases) -> None:
    lost, count = [case.name for case in cases.cases if case.image is None], len(cases.cases)
    if len(lost) == count:
        expected = "its slides where the run found them, or --slides with the folder that they are in now"
        raise InputError(folder, expected, f"none of {count}, the first: {lost[0]}")
    if lost:
        print(f"{len(lost)} of {count} slides are not where they were, the first: {lost[0]}; --slides says where")


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of ``summary.csv``, but for a last line that was torn; none without that file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "a table of images", str(error)) from error
    table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    if "image" not in (table.fieldnames or ()):
        raise InputError(path, "a table with a column image", f"columns {', '.join(table.fieldnames or ['none'])}")
    return [{name: value or "" for name, value in row.items() if name} for row in table if row["image"]]


def _hot_spot(row: Mapping[str, str]) -> tuple[float, float, float] | None:
    try:
        spot = tuple(float(row[f"hotspot_{name}"]) for name in ("row", "col", "radius"))
    except (KeyError, ValueError):  # of a run that seeks none; in an image that is smaller
        return None
    return spot if np.isfinite(spot).all() else None


def _ends_in(path: Path, name: str) -> bool:
    parts = PurePath(name).parts
    return path.parts[-len(parts) :] == parts


def _image(name: str, known: Sequence[Path], slides: Path | None) -> Path | None:
    """Where an image is: in the folder that was given, else where the run found it."""
    if slides is not None:
        last = PurePath(name).name
        nearby = [slides / name, slides / last]
        nearby += [slides] if slides.name == last else []
        return next((path for path in nearby if is_image(path) or path.is_dir()), None)
    return next((path for path in known if path.exists()), None)


def _results(folder: Path, name: str) -> tuple[Path | None, Path | None]:
    """The GeoJSON of an image and the stem of its files; see :class:`~monai_ext.data.result_files.ResultFiles`."""
    for stem in (folder / name, Path(without_suffix(folder / name))):
        path = stem.with_name(f"{stem.name}.geojson")
        if path.is_file():
            return path, stem
    return None, None


def _of_dataset(folder: Path) -> Cases:
    lists = load_datalist(folder, _LISTS, check=None, path_keys=["image"], allow_empty=True)
    rows, cases = [], []
    for split, items in lists.items():
        for item in items:
            image = Path(item["image"])
            name = os.path.relpath(image, folder)
            cases.append(Case(name, image, _truth(folder, item), mpp=item.get("mpp")))
            shown = {key: str(item[key]) for key in ("group", "label") if isinstance(item.get(key), str | int | float)}
            rows.append({"image": name, "list": split, **shown})
    return Cases(folder.name, tuple(cases), tuple(rows), tuple(range(len(cases))))


def _truth(folder: Path, item: Mapping[str, Any]) -> Path | None:
    named = [folder / item[key] for key in _TRUTH if isinstance(item.get(key), str)]
    return next((path for path in named if path.is_file() and _holds_objects(path)), None)


def _holds_objects(path: Path) -> bool:
    return is_annotation(path) or path.suffix == ".csv" or is_mask(path)
