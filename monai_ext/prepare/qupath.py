"""Slides or images with annotations from QuPath, cut up as the knowledge distillation paper does (section 4.1)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.base.flags import as_flag
from monai_ext.base.threads import cache_in_threads, in_threads
from monai_ext.formats.annotation_checks import Identities, misfits, spelling_problems
from monai_ext.formats.annotation_files import annotated_images, find_annotations, read_features
from monai_ext.formats.find import find_images
from monai_ext.formats.geojson import Features, class_numbers, write_geojson
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.formats.roles import countable, labelling, read_objects
from monai_ext.formats.suffixes import without_suffix
from monai_ext.prepare.common import prepare, remark
from monai_ext.prepare.fields import MapOptions, Truth, square_corners, write_maps
from monai_ext.prepare.samples import Sample

if TYPE_CHECKING:
    from monai_ext.formats.fragments import Box
    from monai_ext.formats.reader import SlideReader
    from monai_ext.transforms.stain import MacenkoNormalize

__all__ = ["QUALITIES", "CutOptions", "prepare_qupath"]

#: Weak and strong synthetic annotations, expert annotations.
QUALITIES = ("wsa", "ssa", "ea")
_SOURCE_OF_INSTANCES = ("ssa", "wsa", "ea")  # experts outline some nuclei only


@dataclass(frozen=True)
class CutOptions:
    """How slides are cut up.

    Args:
        tile: largest side of the squares in pixels; 0 keeps fragments whole.
        resolutions: 1, 2 and 4 for full, half and quarter resolution.
        macenko: normalise each slide by its own stains.
        classes: ``{class: its names in QuPath}``; empty: all names that are found.
        instances: the annotation whose outlines are the nuclei; None: the first of ssa, wsa, ea that a slide has.
        maps: what is written besides.
        split_parts: every part of a MultiPolygon is an object of its own.
        pad: squares of ``tile`` px all, the last ones filled up beyond the fragment; else as large as fits evenly.
        max_nucleus_um2: what is larger is no nucleus but a region.
    """

    tile: int = 512
    resolutions: tuple[int, ...] = (1, 2, 4)
    macenko: bool = False
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    instances: str | None = None
    maps: MapOptions = field(default_factory=MapOptions)
    split_parts: bool = False
    pad: bool = False
    max_nucleus_um2: float = 1000.0

    def __post_init__(self) -> None:
        if isinstance(self.max_nucleus_um2, bool) or not self.max_nucleus_um2 > 0:
            raise InputError("max_nucleus_um2", "an area in um2, above 0", repr(self.max_nucleus_um2))
        if isinstance(self.tile, bool) or not isinstance(self.tile, int) or not (self.tile == 0 or self.tile >= 32):
            raise InputError("tile", "a number of pixels from 32, or 0 for whole fragments", repr(self.tile))
        if not self.resolutions or not set(self.resolutions) <= {1, 2, 4}:
            raise InputError("resolutions", "some of 1, 2 and 4, as '(1,2,4)'", repr(self.resolutions))
        if self.instances not in (None, *QUALITIES):
            raise InputError("instances", " or ".join(QUALITIES), repr(self.instances))


class _Place(NamedTuple):
    """Where a square lies: px of the grid of its resolution, its fragment, and the piece of tissue it is of."""

    row: int
    col: int
    height: int
    width: int
    box: Box
    piece: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class _Slide:
    """A slide, or an image, and the file of each quality of annotation."""

    path: Path
    annotations: Mapping[str, Path]
    mpp: float | None
    options: CutOptions

    @property
    def quality(self) -> str | None:
        """Whose outlines are the nuclei."""
        wanted = (self.options.instances,) if self.options.instances else _SOURCE_OF_INSTANCES
        return next((name for name in wanted if name in self.annotations), None)

    @cached_property
    def fragments(self) -> list[Box]:
        """The tissue's boxes; of an image, all of it."""
        from monai_ext.formats.fragments import Box, tissue_fragments
        from monai_ext.formats.levels import open_levels

        reader = _reader(self, 1)
        if open_levels(self.path, "openslide")[1]:
            return tissue_fragments(reader)
        return [Box(0, 0, *reader.level0_shape)]

    def squares(self, scale: int) -> list[_Place]:
        """The squares of all fragments at a resolution."""
        grid, side, places = _reader(self, scale), self.options.tile, []
        coarsest = max(self.options.resolutions)
        for number, box in enumerate(self.fragments):
            top, left, bottom, right = _on_grid(box, grid.scale)
            if side and self.options.pad:
                for row, col in square_corners((bottom - top, right - left), side):
                    piece = tuple(at // side * scale // coarsest for at in (row, col))
                    places.append(_Place(top + row, left + col, side, side, box, (number, *piece)))
                continue
            # first into pieces, which are the same at all resolutions, then each of them into squares
            sides = ((box.row, box.height, top, bottom), (box.col, box.width, left, right))
            spans = [list(_spans(*ends, grid.scale, side, coarsest)) for ends in sides]
            for (row, end, down), (col, stop, across) in product(*spans):
                places.append(_Place(row, col, end - row, stop - col, box, (number, down, across)))
        return places


@dataclass
class _Square(Sample):
    """A square of a fragment, or all of it, at one resolution."""

    slide: _Slide
    scale: int
    place: _Place
    labels: int = 0

    @property
    def piece(self) -> str:
        """The piece of tissue that it shows some or all of, at one of the resolutions."""
        return f"{without_suffix(self.slide.path).name}/piece_" + "_".join(map(str, self.place.piece))

    def check(self) -> list[str]:
        return []  # slide and annotations were opened to find the squares

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002 - there is no file to link
        options, reader, place = self.slide.options, _reader(self.slide, self.scale), self.place
        pixels, valid = reader.read_valid(*place[:4])
        if options.macenko:
            pixels = _stains(self.slide)(pixels)
        image = np.moveaxis(np.asarray(pixels), 0, -1)
        outside = self._outside(reader.scale)
        if valid is not None:
            outside |= ~valid
        if outside.any():  # transparent: readers take it for white, and know that there is nothing
            image = np.dstack([np.where(outside[..., None], 255, image), np.where(outside, 0, 255)]).astype(np.uint8)
        relative_path = f"images/{self.name}.png"
        write_png(dst / relative_path, image)
        annotations = {
            name: _renamed(self._near(_labels(self.slide, name), reader), options.classes)
            for name in self.slide.annotations
        }
        drawn = self._near(_nuclei(self.slide), reader)
        instances = polygons_to_label_map(drawn.geometry, outside.shape)
        instances[outside] = 0
        numbers = np.append(0, class_numbers(drawn, options.classes) + 1)
        truth = Truth(instances, numbers[instances] if options.classes else None)
        entry = {"image": relative_path, **write_maps(dst, self.name, truth, reader.mpp, options.maps)}
        if truth.classes is not None:
            entry["classes_from"] = self.slide.quality
        files = {}
        for name, features in annotations.items():
            files[name] = f"annotations/{name}/{self.name}.geojson"
            write_geojson(dst / files[name], features)
        return entry | {"annotations": files, "mpp": reader.mpp, "scale": self.scale}

    def _outside(self, scale: float) -> np.ndarray:
        """Which pixels lie beyond the fragment."""
        top, left, bottom, right = _on_grid(self.place.box, scale)
        rows, cols = np.arange(self.place.height) + self.place.row, np.arange(self.place.width) + self.place.col
        return ~(((rows >= top) & (rows < bottom))[:, None] & ((cols >= left) & (cols < right)))

    def _near(self, located: tuple[Features, shapely.STRtree], reader: SlideReader) -> Features:
        """The objects that reach into the square, in its pixels."""
        features, tree = located
        down, across = np.broadcast_to(reader.file_scale, 2).tolist()
        top, left = self.place.row * down, self.place.col * across
        here = shapely.box(left, top, left + self.place.width * across, top + self.place.height * down)
        near = features[np.sort(tree.query(here, predicate="intersects"))]
        geometry = shapely.transform(near.geometry, lambda xy: (xy - (left, top)) / (across, down))
        columns = ("classes", "measurements", "object_types", "names", "ids", "colors")
        return Features(geometry, **{column: getattr(near, column) for column in columns})


def prepare_qupath(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    wsa: str | os.PathLike | None = None,
    ssa: str | os.PathLike | None = None,
    ea: str | os.PathLike | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | str | None = None,
    instances: str | None = None,
    tile: int = 512,
    resolutions: Sequence[int] = (1, 2, 4),
    macenko: bool = False,
    mpp: float | None = None,
    masks: bool = False,
    centroids: bool = False,
    split_parts: bool = False,
    pad: bool = False,
    max_nucleus_um2: float = 1000.0,
    **options: Any,
) -> Path:
    """Cut up slides or images, with what QuPath exported of them as GeoJSON, or with annotations in DICOM.

    Preprocessing 1 of Haberova et al. (section 4.1): of a slide the fragments of tissue are kept, by their bounding
    boxes, at full, half and quarter resolution, and divided into squares of at most 512 px without overlap, all of them
    tissue: 600 px become two of 300. The paper's, with ``pad``, have 512 px each and are filled up beyond the fragment.
    An image that is no slide is one fragment. An item has ``image``, ``label`` (instances), ``classes`` with
    ``classes_from``, the annotation that they are of, ``annotations`` (GeoJSON of each quality, in pixels of the
    square, with the data set's names of classes), ``mpp``, ``scale`` (1, 2, 4) and ``group``, the slide.

    What was not scanned, and what a square is filled up with, is transparent: networks see white there, and nothing is
    found or counted. Outlines are drawn by pixel centres; nuclei with a class that is not among ``classes``, or without
    one, have an instance and no class. Of QuPath's cells the nucleus' outline counts where there is one. Regions that
    were drawn around nuclei (:func:`~monai_ext.formats.roles.split_roles`) are none, nor is what is larger than a
    nucleus can be. A slide that has no annotation is left out.

    Args:
        src: the folder with the slides or images.
        dst: the folder to write.
        wsa: the folder with ``<slide>.geojson`` (or ``.geojson.gz``) of weak synthetic annotations, or
            ``<slide>.dcm``, annotations or a segmentation in DICOM; by default ``<src>/wsa`` if it exists.
        ssa: the same of strong synthetic annotations.
        ea: the same of expert annotations.
        classes: their names in QuPath in the order of their numbers, or ``{class: [names in QuPath]}``; None: every
            name that is found, in alphabetical order.
        instances: whose outlines are the nuclei, ``wsa``, ``ssa`` or ``ea``; None: the first that a slide has of ssa,
            wsa, ea. Experts often outline some nuclei or whole regions: then name another.
        tile: largest side of the squares in pixels; 0 keeps fragments whole.
        resolutions: 1, 2 and 4 for full, half and quarter resolution.
        macenko: normalise the stains, estimated once for each slide, from up to 64 squares of its tissue.
        mpp: um/px of level 0, for files that do not state it.
        masks: also write a binary mask under the key ``mask``.
        centroids: also write the nuclei's centroids under the key ``centroids``.
        split_parts: every part of a MultiPolygon is a nucleus of its own, where a file has one for each class.
        pad: squares of ``tile`` px all, as in the paper; the last ones reach over the fragment.
        max_nucleus_um2: larger objects are regions, and named in a message.
        options: of :func:`~monai_ext.prepare.common.prepare`: split (``slide``; ``random``: pieces of tissue, each with
            all its squares at all resolutions; ``test`` or a file), seed, overwrite.

    Returns:
        The path of ``dataset.json``.

    Raises:
        DataListError: with every slide and every annotation that cannot be read, annotations of another slide (objects
            beyond the image, or that are in another slide's file), in micrometres, and classes that are spelled in two
            ways.
    """
    folders = _folders(Path(src), {"wsa": wsa, "ssa": ssa, "ea": ea})
    resolutions = (resolutions,) if isinstance(resolutions, int) else tuple(resolutions)
    named, about, maps = _aliases(classes), {}, MapOptions(masks, centroids)
    split_parts = as_flag(split_parts, "split_parts")
    flags = as_flag(macenko, "macenko"), as_flag(pad, "pad")
    cut = CutOptions(tile, resolutions, flags[0], named, instances, maps, split_parts, flags[1], max_nucleus_um2)

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        slides = _slides(folder, dst, folders, mpp, cut, problems)
        _name_classes(folder, slides, named, problems)
        about.update({"class_names": list(named)} if named else {})
        samples: list[Sample] = []
        for slide_samples, problem in in_threads(_squares, [] if problems else slides, "qupath: looking for tissue"):
            samples += slide_samples
            problems += problem
        return samples

    return prepare("qupath", src, dst, collect, about=about, by_slide=True, **options)


def _aliases(classes: Sequence[str] | Mapping[str, Sequence[str]] | str | None) -> dict[str, list[str]]:
    if isinstance(classes, str):
        classes = [name.strip() for name in classes.split(",")]
    if not isinstance(classes, Mapping):
        classes = [(name, [name]) for name in classes or ()]
    else:
        classes = [(name, [names] if isinstance(names, str) else names) for name, names in classes.items()]
    named = {str(name): [str(alias) for alias in names] for name, names in classes}
    aliases = list(chain.from_iterable(named.values()))
    if len(named) < len(classes) or len(set(aliases)) < len(aliases) or "" in aliases:
        raise InputError("classes", "each name once, as 'other,immune' or {'other':['Other']}", repr(classes)[:80])
    return named


def _folders(src: Path, folders: Mapping[str, str | os.PathLike | None]) -> dict[str, Path]:
    """The folder of each quality of annotation."""
    existing = {}
    for name, folder in folders.items():
        path = src / name if folder is None else Path(folder)
        if path.is_dir():
            existing[name] = path
        elif folder is not None:
            raise InputError(name, "a folder of GeoJSON or DICOM files", repr(str(folder)))
    return existing


def _slides(
    src: Path,
    dst: str | os.PathLike,
    folders: Mapping[str, Path],
    mpp: float | None,
    options: CutOptions,
    problems: list[str],
) -> list[_Slide]:
    images: dict[str, Path] = {}
    for path in find_images(src, dst):
        name = without_suffix(path).name
        if images.setdefault(name, path) is not path:
            problems.append(f"{path}: expected one image of this name, found also {images[name]}")
    annotations: dict[str, dict[str, Path]] = {}
    for quality, folder in folders.items():
        for path, name in annotated_images(find_annotations(folder, dst), images).items():
            if name is None:
                problems.append(f"{path}: expected its slide or image in {src}, found none")
            elif annotations.setdefault(name, {}).setdefault(quality, path) is not path:
                problems.append(f"{path}: expected one file for {name}, found also {annotations[name][quality]}")
    slides = [_Slide(images[name], files, mpp, options) for name, files in sorted(annotations.items())]
    usable = [slide for slide in slides if slide.quality]
    if not usable:
        wanted = options.instances or " or ".join(QUALITIES)
        actual = f"{len(images)} images, none with it"
        problems.append(f"{src}: expected slides or images, and {wanted}/<name>.geojson of them, found {actual}")
    elif len(usable) < len(images):
        remark(src, f"{len(images) - len(usable)} images without the annotation left out")
    return usable


def _name_classes(src: Path, slides: Sequence[_Slide], named: dict[str, list[str]], problems: list[str]) -> None:
    """Take the classes that are found, if none were given; say which objects have none of them.

    What is wrong with the annotations goes into ``problems``.
    """
    counts: Counter[str | None] = Counter()
    identities = Identities()
    for slide in slides:
        for quality, path in slide.annotations.items():
            try:
                features, _ = _labels(slide, quality)
                reader = _reader(slide, 1)
            except InputError as error:
                line = str(error) if str(path) in str(error) or str(slide.path) in str(error) else f"{path}: {error}"
                problems += [line] if line not in problems else []
                continue
            counts.update(features.classes)
            problems += misfits(features, path, reader.file_shape, _file_mpp(reader), slide.path)
            problems += identities.add(features, path, without_suffix(slide.path).name)
    problems += spelling_problems(counts, src, named)
    if not named:
        named.update({name: [name] for name in sorted(name for name in counts if name)})
    all_aliases = set(chain.from_iterable(named.values()))
    if unknown := {name: count for name, count in counts.items() if name not in all_aliases}:
        listed = ", ".join(
            f"{count} of {'no class' if name is None else repr(name)}" for name, count in unknown.items()
        )
        remark(src, f"objects that are none of {', '.join(named) or 'any class'} have no class here: {listed:.200}")
    if missing := [name for name, aliases in named.items() if not any(alias in counts for alias in aliases)]:
        remark(src, f"no object is of the class {', '.join(missing)}")


def _squares(slide: _Slide) -> tuple[list[Sample], list[str]]:
    """What a slide is cut into, and what is wrong with it."""
    samples: list[Sample] = []
    try:
        for scale in slide.options.resolutions:
            places = slide.squares(scale)
            down, across = np.broadcast_to(_reader(slide, scale).file_scale, 2).tolist()
            boxes = [
                (p.col * across, p.row * down, (p.col + p.width) * across, (p.row + p.height) * down) for p in places
            ]
            inside, _ = _nuclei(slide)[1].query(shapely.box(*np.reshape(boxes, (-1, 4)).T))
            counts = np.bincount(inside, minlength=len(places)).tolist()
            for place, count in zip(places, counts, strict=True):
                name = f"{without_suffix(slide.path).name}/{scale}_{place.row:06d}_{place.col:06d}"
                samples.append(_Square(without_suffix(slide.path).name, name, slide, scale, place, count))
    except InputError as error:
        return [], [str(error)]
    if not samples:
        remark(slide.path, "no tissue found: left out")
    return samples, []


@cache_in_threads(6)
def _reader(slide: _Slide, scale: int) -> SlideReader:
    from monai_ext.formats.reader import SlideReader  # it imports torch, which no other converter needs

    base = SlideReader(slide.path, mpp=slide.mpp)
    return base if scale == 1 else SlideReader(slide.path, base.base_mpp * scale, slide.mpp)


@cache_in_threads(6)
def _nuclei(slide: _Slide) -> tuple[Features, shapely.STRtree]:
    """The outlines that nuclei are drawn by."""
    path, most = slide.annotations[slide.quality], slide.options.max_nucleus_um2
    objects = read_objects(path, nuclei=True, split=slide.options.split_parts, slide=slide.path).objects
    parts, owner = shapely.get_parts(objects.geometry, return_index=True)
    largest = np.zeros(len(objects))  # one object may be all the nuclei of a class
    np.maximum.at(largest, owner, shapely.area(parts) * _file_mpp(_reader(slide, 1)) ** 2)
    regions = largest > most
    if regions.any():
        x, y = shapely.bounds(objects.geometry[largest.argmax()])[:2]
        size = f"{largest.max():.0f} um2 at x {x:.0f}, y {y:.0f}"
        found = f"{int(regions.sum())} of {len(objects)} larger, up to {size}"
        if regions.all():
            raise InputError(path, f"outlines of nuclei, up to {most:g} um2 (--max_nucleus_um2)", found)
        remark(path, f"no nuclei but regions, as they are above {most:g} um2 (--max_nucleus_um2): {found}")
        objects = objects[~regions]
    return objects, shapely.STRtree(objects.geometry)


@cache_in_threads(6)
def _labels(slide: _Slide, quality: str) -> tuple[Features, shapely.STRtree]:
    """What an annotation says of the classes of nuclei."""
    path = slide.annotations[quality]
    features = countable(read_features(path, slide.path), path, slide.options.split_parts, areas=False)
    features = labelling(features, nuclei=True)
    return features, shapely.STRtree(features.geometry)


@cache_in_threads(4)
def _stains(slide: _Slide) -> MacenkoNormalize:
    """Fitted to squares of the slide's tissue at full resolution."""
    from monai_ext.slides.stains import fit_stains
    from monai_ext.transforms.stain import MacenkoNormalize

    reader, side = _reader(slide, 1), 512
    corners = [
        (box.row + row, box.col + col, min(side, box.height - row), min(side, box.width - col))
        for box in slide.fragments
        for row, col in square_corners((box.height, box.width), side)
    ]
    return fit_stains(MacenkoNormalize(), reader, corners)


def _file_mpp(reader: SlideReader) -> float:
    """Um/px of the file; of oblong px the side of a square of the same area."""
    return reader.base_mpp * float(np.sqrt(np.prod(reader.stretch)))


def _renamed(features: Features, classes: Mapping[str, Sequence[str]]) -> Features:
    """Objects with the data set's names of their classes; QuPath's own use of such a name for another is lost."""
    names = dict.fromkeys(classes) | {alias: name for name, aliases in classes.items() for alias in aliases}
    colours = {names.get(name, name): colour for name, colour in features.colors.items()}
    colours.pop(None, None)
    return replace(features, classes=np.array([names.get(n, n) for n in features.classes], object), colors=colours)


def _spans(
    first: int, length: int, top: int, bottom: int, scale: float, side: int, coarsest: int
) -> Iterator[tuple[int, int, int]]:
    """Where the squares of a fragment begin and end along one side, and the number of the piece that each is of.

    Args:
        first: where the fragment begins, px of level 0.
        length: of the fragment.
        top: where it begins, px of the grid.
        bottom: where it ends.
        scale: px of level 0 per px of the grid.
        side: of a square at most, px of the grid; 0 for no squares.
        coarsest: px of full resolution per px of the coarsest grid; a piece is a square of that.
    """
    edges = _even(length, side * coarsest)
    bounds = [top, *(round((first + edge) / scale) for edge in edges[1:-1]), bottom]
    for number, (begin, end) in enumerate(pairwise(bounds)):
        for start, stop in pairwise(_even(end - begin, side)):
            yield begin + start, begin + stop, number


def _even(length: int, most: int) -> list[int]:
    """The edges of as few parts as can be, of nearly one length, none of them longer than ``most`` (0: no limit)."""
    parts = -(-length // most) if most else 1
    return [round(length * number / parts) for number in range(parts + 1)]


def _on_grid(box: Box, scale: float) -> tuple[int, int, int, int]:
    """First row and column of a box, and those after its last, in pixels of a grid."""
    first = (int(box.row / scale), int(box.col / scale))
    last = (int(np.ceil((box.row + box.height) / scale)), int(np.ceil((box.col + box.width) / scale)))
    return (*first, *last)
