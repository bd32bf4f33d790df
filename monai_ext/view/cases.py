"""What there is to look at: the images of a finished run, of a data set, or of a folder."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import load_datalist
from monai_ext.data.result_files import REVIEW_LOG, REVIEWED, is_result
from monai_ext.data.run_state import RunState
from monai_ext.formats.annotation_files import is_annotation
from monai_ext.formats.find import find_images, is_image
from monai_ext.formats.suffixes import without_suffix

__all__ = ["Case", "Cases", "find_cases"]

_LISTS = ("training", "validation", "test", "locating")
_TRUTH = ("annotation", "label")  # keys of a data list's items that may name a file of objects


@dataclass(frozen=True)
class Case:
    """An image, and what is known of it.

    Attributes:
        name: its path below the folder that it was found in, as ``summary.csv`` has it.
        image: the file; ``None`` if it is nowhere.
        objects: GeoJSON, or points of a data list; ``None`` without any.
        stem: of the files of a run's results, to which a review is added; ``None`` where there is nothing to review.
        mpp: um/px of the file, where a data list gives it.
    """

    name: str
    image: Path | None
    objects: Path | None = None
    stem: Path | None = None
    mpp: float | None = None

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
    if any((src / name).is_file() for name in ("summary.csv", "state.json", "state.sqlite")):
        return _of_run(src, None if slides is None else Path(slides))
    if (src / "dataset.json").is_file():
        return _of_dataset(src)
    paths = find_images(src, leave_out=is_result)
    if not paths:
        raise InputError(src, "results of a run (summary.csv), a data set (dataset.json) or images", "none of these")
    return _listed(src.name, [Case(str(path.relative_to(src)) if path != src else path.name, path) for path in paths])


def _listed(title: str, cases: Sequence[Case]) -> Cases:
    return Cases(title, tuple(cases), tuple({"image": case.name} for case in cases), tuple(range(len(cases))))


def _of_run(folder: Path, slides: Path | None) -> Cases:
    if slides is not None and not slides.exists():
        raise InputError("--slides", "the folder of the slides, or the slide", f"nothing at {slides}")
    known = [Path(path) for path in RunState(folder).read()]
    rows = _table(folder / "summary.csv") or [{"image": path.name} for path in known]
    names = list(dict.fromkeys(row["image"] for row in rows))
    cases = [Case(name, _image(name, known, slides), *_results(folder, name)) for name in names]
    if not any(case.objects for case in cases):
        raise InputError(folder, "results of a run: a .geojson for an image of summary.csv", f"none of {len(cases)}")
    lost = [case.name for case in cases if case.image is None]
    if len(lost) == len(cases):
        expected = "its slides where the run found them, or --slides with the folder that they are in now"
        raise InputError(folder, expected, f"none of {len(lost)}, the first: {lost[0]}")
    if lost:
        print(f"{len(lost)} of {len(cases)} slides are not where they were, the first: {lost[0]}; --slides says where")
    numbers = {name: number for number, name in enumerate(names)}
    return Cases(folder.name, tuple(cases), tuple(rows), tuple(numbers[row["image"]] for row in rows))


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


def _image(name: str, known: Sequence[Path], slides: Path | None) -> Path | None:
    """Where an image is: in the folder that was given, else where the run found it."""
    parts = PurePath(name).parts
    if slides is not None:
        nearby = [slides / name, slides / parts[-1]]
        nearby += [slides] if slides.name == parts[-1] else []
        return next((path for path in nearby if is_image(path) or path.is_dir()), None)
    # the folder that a run looked through is in no file: of paths that end so, the shortest is right below it
    ends = [path for path in known if path.parts[-len(parts) :] == parts]
    return next((path for path in sorted(ends, key=lambda path: len(path.parts)) if path.exists()), None)


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
    return next((path for path in named if path.is_file() and (is_annotation(path) or path.suffix == ".csv")), None)
