"""The formats of other programs: what each is called, what it needs, and how it comes to be on the disk."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, remove_path
from monai_ext.exchange.results import NothingFoundError, Results

__all__ = ["FORMATS", "Exchange", "Format", "Writer", "is_exchanged"]

_GEOJSON = "geojson"


class Writer(Protocol):
    """The function ``write`` of each format's module."""

    def __call__(self, results: Results, *paths: Path) -> None:
        """Write results to as many paths as the format has suffixes, each a file or a folder that is not there yet."""


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        about: for whom it is, in a few words.
        writer: a :class:`Writer`, as ``module:function``; it is imported when results are written.
        suffixes: what the names of its files end with.
        packages: that it needs, as they are imported.
        extra: of this package, by which those are installed; empty for requirements.
        in_mm: places are in mm, so that it needs the resolution.
    """

    about: str
    writer: str
    suffixes: tuple[str, ...]
    packages: tuple[str, ...] = ()
    extra: str = ""
    in_mm: bool = False

    @property
    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    @property
    def install(self) -> str:
        """The command that installs them."""
        return f'pip install "monai_ext[{self.extra}]"' if self.extra else f"pip install {' '.join(self.packages)}"

    def write(self, results: Results, stem: Path) -> list[Path]:
        """Write results to the files ``stem`` and each suffix, which appear whole or not at all; those files."""
        module, _, function = self.writer.partition(":")
        write: Writer = getattr(importlib.import_module(module), function)
        paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in self.suffixes]
        with ExitStack() as stack:
            write(results, *(stack.enter_context(atomic_path(path)) for path in paths))
        return paths


#: The formats besides GeoJSON, by the names that ``--formats`` and ``convert --to`` take.
FORMATS: dict[str, Format] = {
    "geojson-gz": Format("the GeoJSON packed by gzip", "monai_ext.exchange.geojson_gz:write", (".geojson.gz",)),
    "csv": Format("a table of objects for spreadsheets", "monai_ext.exchange.csv_table:write", ("_objects.csv",)),
    "dicom-ann": Format(
        "DICOM bulk simple annotations: outlines and points with measurements",
        "monai_ext.exchange.dicom_ann:write",
        ("_annotations.dcm",),
        ("highdicom", "pydicom"),
        "dicom",
    ),
    "dicom-seg": Format(
        "DICOM segmentation: a map of the classes, in tiles",
        "monai_ext.exchange.dicom_seg:write",
        ("_segmentation.dcm",),
        ("highdicom", "pydicom"),
        "dicom",
        in_mm=True,
    ),
    "nifti": Format(
        "NIfTI: a map of the classes for ITK-SNAP, which takes their names from the text beside it",
        "monai_ext.exchange.nifti:write",
        ("_labels.nii.gz", "_labels.txt"),
        ("nibabel",),
        in_mm=True,
    ),
    "nrrd": Format(
        "NRRD: a segmentation of 3D Slicer, with its names and colours",
        "monai_ext.exchange.nrrd:write",
        ("_labels.seg.nrrd",),
        ("itk",),
        in_mm=True,
    ),
    "mha": Format(
        "MetaImage: a map of the classes, with their names beside it",
        "monai_ext.exchange.mha:write",
        ("_labels.mha", "_labels.mha.txt"),
        ("itk",),
        in_mm=True,
    ),
    "ome-zarr": Format(
        "OME-Zarr: the heat map, and label images of classes and objects",
        "monai_ext.exchange.ome_zarr:write",
        ("_maps.ome.zarr",),
        ("zarr",),
        "zarr",
    ),
    "asap": Format("XML of ASAP", "monai_ext.exchange.asap:write", ("_asap.xml",)),
    "annotation-store": Format("SQLite of TIAToolbox", "monai_ext.exchange.annotation_store:write", ("_store.db",)),
    "dsa": Format("JSON of HistomicsUI and the Digital Slide Archive", "monai_ext.exchange.dsa:write", ("_dsa.json",)),
    "anndata": Format(
        "a table of objects with places and outlines, for scanpy and squidpy",
        "monai_ext.exchange.anndata_table:write",
        ("_objects.h5ad",),
        ("anndata",),
        "anndata",
    ),
}


def is_exchanged(path: Path) -> bool:
    """Whether a file or folder is, by its name, what a run wrote for another program.

    Examples:
        >>> from pathlib import Path
        >>> from monai_ext.exchange.registry import is_exchanged
        >>> is_exchanged(Path("a_labels.nii.gz")), is_exchanged(Path("a.nii.gz"))
        (True, False)
    """
    return path.name.endswith(tuple(suffix for each in FORMATS.values() for suffix in each.suffixes))


class Exchange:
    """The formats that were asked for: checked at once, written when there are results.

    Args:
        names: of :data:`FORMATS`, or ``geojson``, which a run always writes and the others are made from.
        option: by which they were given, for errors.

    Raises:
        InputError: a name that is none, with the nearest ones; a package that a format needs is not installed.

    Examples:
        >>> import shapely
        >>> from monai_ext.exchange import Exchange, Results
        >>> from monai_ext.formats import Features, write_geojson
        >>> path = write_geojson(folder / "a.geojson", Features([shapely.box(0, 0, 3, 2)], classes="Tumor"))
        >>> exchange = Exchange(["geojson", "dsa", "asap"])
        >>> [path.name for path in exchange.write(Results(path, "a"), folder / "a")]
        ['a_dsa.json', 'a_asap.xml']
    """

    def __init__(self, names: str | Sequence[str] = (_GEOJSON,), option: str = "--formats") -> None:
        if isinstance(names, str):
            names = [names]
        known = [_GEOJSON, *FORMATS]
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise InputError(option, f"a list of {', '.join(known)}", repr(names))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(option, " or ".join(_nearest(unknown[0], known)), ", ".join(map(repr, unknown)))
        self.names = tuple(dict.fromkeys(name for name in names if name != _GEOJSON))
        lacking = {name: FORMATS[name] for name in self.names if FORMATS[name].missing}
        if lacking:
            expected = "; ".join(f"{' and '.join(f.packages)} for {name} ({f.install})" for name, f in lacking.items())
            missing = dict.fromkeys(package for each in lacking.values() for package in each.missing)
            raise InputError(option, expected, f"no {', '.join(missing)}")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of all files end with."""
        return tuple(suffix for name in self.names for suffix in FORMATS[name].suffixes)

    def check(self, where: Any, mpp: Any) -> None:
        """See that an image's results can be written.

        Args:
            where: the image, for the error.
            mpp: its resolution; None or 0 if unknown.

        Raises:
            InputError: a format needs the resolution, which is unknown.
        """
        in_mm = [name for name in self.names if FORMATS[name].in_mm]
        if in_mm and not mpp:
            raise InputError(where, f"a resolution for {', '.join(in_mm)}, in mm: give um/px by --mpp", "none stated")

    def write(self, results: Results, stem: Path, may_be_empty: bool = False) -> list[Path]:
        """Write results in all formats; returns the files.

        Args:
            results: what there is.
            stem: what the files' paths begin with.
            may_be_empty: where nothing was found, leave out, and say so, those formats that must not be empty.

        Raises:
            InputError: results that a format cannot hold; a :class:`NothingFoundError` for none.
            OSError: the disk is full.
        """
        self.check(results.image or results.geojson, results.mpp)
        written = []
        for name in self.names:
            try:
                written += FORMATS[name].write(results, stem)
            except NothingFoundError as error:
                if not may_be_empty:
                    raise
                print(f"{results.image or results.name}: no {name}: {error.expected}", file=sys.stderr)
        return written

    @staticmethod
    def discard(stem: Path) -> None:
        """Remove what an earlier run wrote under these names, in any format."""
        for each in FORMATS.values():
            for suffix in each.suffixes:
                remove_path(stem.with_name(f"{stem.name}{suffix}"))


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """All names, the most like one first."""
    from difflib import SequenceMatcher

    return sorted(known, key=lambda each: -SequenceMatcher(None, name.lower(), each).ratio())
