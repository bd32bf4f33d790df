"""Every converter that reads images of several formats, over every circumstance of the torture set.

What it writes of a file is what it writes of the plainest file that says the same; what is refused, it names.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.commands import COMMANDS
from monai_ext.formats import Features, open_levels, read_field, read_mask, write_asap, write_geojson
from monai_ext.formats.suffixes import SUFFIXES, image_suffix, without_suffix
from tests.formats.torture import CIRCUMSTANCES, Circumstance, cut, write_reference

pytestmark = pytest.mark.slow

BOX = shapely.box(60, 40, 150, 130)  # inside the smallest picture
LOSS = 4.0  # grey values, mean: compression with loss, once more resampled
TIFFS = (".tif", ".tiff")

Make = Callable[[Path], Any]  # writes an image


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def place(path: Path, make: Make) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


# -- tiny releases, each with one image of the circumstance, or several ------------------------------------------------


def mitos12(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"A00_v2/A00_00{suffix}", make)
    text(src / "A00_v2/A00_00.csv", "90,70,91,70,90,71\n")
    return {"masks": True}


def mitos14(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"A03/frames/x40/A03_00Aa{suffix}", make)
    text(src / "A03/mitosis/A03_00Aa_mitosis.csv", "90,70,0.9\n")
    return {}


def cases(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"mitoses_image_data/01/01{suffix}", make)
    text(src / "mitoses_ground_truth/01/01.csv", "70,90\n")
    return {}


def midog(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"images/001{suffix}", make)
    content = {
        "images": [{"id": 1, "file_name": f"001{suffix}"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [80, 60, 100, 80]}],
    }
    text(src / "MIDOG.json", json.dumps(content))
    return {}


def midogpp(src: Path, make: Make, suffix: str) -> dict:
    midog(src, make, suffix)
    content = json.loads((src / "MIDOG.json").read_text())
    content["images"][0]["tumor_type"] = "human melanoma"
    text(src / "MIDOG++.json", json.dumps(content))
    return {}


def atypical(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"Atypical/1{suffix}", make)
    return {}


def negatives(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"skin/1{suffix}", make)
    return {}


def monuseg(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"Tissue Images/TCGA-AA-0001-01Z{suffix}", make)
    corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in shapely.get_coordinates(BOX)[:-1])
    xml = f"<Annotations><Annotation><Regions><Region><Vertices>{corners}</Vertices></Region></Regions></Annotation>"
    text(src / "Annotations/TCGA-AA-0001-01Z.xml", f"{xml}</Annotations>")
    return {"masks": True, "centroids": True}


def monuseg_tiles(src: Path, make: Make, suffix: str) -> dict:
    return {**monuseg(src, make, suffix), "tile": 128}


def puma(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"training_set_primary_roi_001{suffix}", make)
    write_geojson(src / "training_set_primary_roi_001_nuclei.geojson", Features([BOX], ["nuclei_tumor"]))
    return {"masks": True}


def pvid(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"images/v0{suffix}", make)
    text(src / "labels.csv", "vessel,slide,label\nv0,s0,1\n")
    return {}


def pvid_slides(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"slides/s0{suffix}", make)
    write_geojson(src / "slides/s0_vessels.geojson", Features([BOX], ["MVI"]))
    return {}


def qupath(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"s0{suffix}", make)
    place(src / "ssa/s0.geojson", lambda path: write_geojson(path, Features([BOX], ["a"])))
    return {"tile": 128, "resolutions": (1, 2), "max_nucleus_um2": 1e6}


def tiles(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"s0{suffix}", make)
    return {"size": 48, "per_image": 12}


def camelyon(src: Path, make: Make, suffix: str) -> dict:
    for name in ("training/normal/normal_001", "training/tumor/tumor_001", "testing/images/test_001"):
        place(src / f"{name}{suffix}", make)
    for name in ("training/lesion_annotations/tumor_001", "testing/lesion_annotations/test_001"):
        place(src / f"{name}.xml", lambda path: write_asap(path, {"_0": [BOX]}))
    text(src / "testing/reference.csv", "test_001,Tumor,Macro\n")
    return {"patches": 6, "size": 32, "mpp": 0.5, "split": "paper"}


def templates(src: Path, make: Make, suffix: str) -> dict:
    place(src / f"a{suffix}", make)
    text(src / "points.csv", "row,col\n70,90\n100,110\n")
    return {"image": src / f"a{suffix}", "points": src / "points.csv", "size": 21, "target_mpp": 0.25}


#: How to write a release of one circumstance, and the endings of image files that it may have.
RELEASES = {
    ("prepare", "mitos12"): [(mitos12, (*TIFFS, ".png", ".bmp"))],
    ("prepare", "mitos14"): [(mitos14, TIFFS)],
    ("prepare", "amida13"): [(cases, TIFFS)],
    ("prepare", "tupac16"): [(cases, TIFFS)],
    ("prepare", "midog"): [(midog, (*TIFFS, ".png", ".jpg"))],
    ("prepare", "midogpp"): [(midogpp, (*TIFFS, ".png", ".jpg"))],
    ("prepare", "atypical"): [(atypical, (*TIFFS, ".png", ".jpg"))],
    ("prepare", "negatives"): [(negatives, (*TIFFS, ".png", ".jpg"))],
    ("prepare", "monuseg"): [(monuseg, (*TIFFS, ".png")), (monuseg_tiles, (*TIFFS, ".png"))],
    ("prepare", "puma"): [(puma, (".tif",))],
    # a patch is copied, one file
    ("prepare", "pvid"): [
        (pvid, tuple(name for name in SUFFIXES if name not in (".vms", ".dcm", ".zarr"))),
        (pvid_slides, SUFFIXES),
    ],
    ("prepare", "qupath"): [(qupath, SUFFIXES)],
    ("prepare", "tiles"): [(tiles, SUFFIXES)],
    ("prepare", "camelyon16"): [(camelyon, TIFFS)],
    ("prepare", "hploc"): [(camelyon, TIFFS)],
    ("templates",): [(templates, SUFFIXES)],
}
#: Converters of releases whose images have one format, PNG, BMP, DICOM, HDF5 or NPY.
OF_ONE_FORMAT = {
    *("cbis_ddsm", "lizard", "consep", "ccrcc", "dsb2018", "nucls", "crchisto", "pcam"),
    *("pannuke", "nuinsseg", "idc"),
}


def test_every_converter_is_here():
    kinds = {words for words in COMMANDS if words[0] in ("prepare", "templates")}
    kinds.remove(("prepare", "folds"))  # deals lists, reads no image
    assert kinds == set(RELEASES) | {("prepare", name) for name in OF_ONE_FORMAT}


def test_no_converter_decodes_images_by_itself():
    """Else a circumstance would have to be mended once more there."""
    package = Path(import_module("monai_ext.prepare").__file__).parent
    pattern = re.compile(r"tifffile\.(imread|TiffFile)|Image\.open|cv2\.imread|OpenSlide\(")
    assert [path.name for path in package.rglob("*.py") if pattern.search(path.read_text())] == []


# -- the comparison ----------------------------------------------------------------------------------------------------


def convert(words, release, src: Path, dst: Path, make: Make, suffix: str):
    """Run a converter: what it wrote, or its refusal."""
    module, _, function = COMMANDS[words].partition(":")
    options = release(src, make, suffix)
    if words == ("templates",):
        arguments = (dst,)
    else:
        arguments, options = (src, dst), {"split": "test"} | options
    try:
        getattr(import_module(module), function)(*arguments, **options)
    except InputError as error:
        return str(error)
    return contents(dst)


def contents(dst: Path) -> dict[str, Any]:
    """All that was written, by its path without the ending of the image that was copied."""
    made = {}
    for path in sorted(path for path in dst.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(dst)
        if path.suffix.lower() == ".json":
            made[str(name)] = json.loads(path.read_text())
        elif image_suffix(path).lower() in SUFFIXES:
            mask = name.parts[0] in ("masks", "labels", "classes", "label")
            pixels = read_mask(path) if mask else np.moveaxis(read_field(path).image, 0, -1)
            made[str(without_suffix(name))] = (pixels, None if mask else read_field(path).mpp)
        else:
            made[str(name)] = path.read_bytes()
    return made


def without_endings(content: object) -> object:
    """A data list in which the endings of images do not matter."""
    if isinstance(content, dict):
        return {key: without_endings(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_endings(value) for value in content]
    if isinstance(content, str) and image_suffix(content).lower() in SUFFIXES:
        return str(without_suffix(content))
    if isinstance(content, bytes):  # a table
        endings = b"|".join(re.escape(suffix.encode()) for suffix in sorted(SUFFIXES, key=len, reverse=True))
        return re.sub(rb"(?:" + endings + rb")(?=[,\r\n])", b"", content)
    return round(content, 6) if isinstance(content, float) else content


def matrix():
    """Each converter and each circumstance; before a change lands every sixth pair, so that all of both are met."""
    every = [(words, *release, len(releases)) for words, releases in RELEASES.items() for release in releases]
    for row, (words, release, suffixes, count) in enumerate(every):
        for col, circumstance in enumerate(CIRCUMSTANCES):
            if image_suffix(f"a{circumstance.suffix}") in suffixes:
                name = release.__name__ if count > 1 else words[-1]
                marks = [pytest.mark.exhaustive] if (row + col) % 6 else []
                yield pytest.param(words, release, circumstance, id=f"{name} {circumstance.name}", marks=marks)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What a converter makes of the plain file that says the same as a circumstance."""

    made = {}

    def find(words, release, circumstance, is_slide):
        key = words, release, circumstance.pixels().tobytes(), circumstance.mpp, is_slide
        if key not in made:
            folder, write = tmp_path_factory.mktemp("plain"), partial(write_reference, circumstance, tiled=is_slide)
            made[key] = convert(words, release, folder / "src", folder / "dst", write, ".tif")
        return made[key]

    return find


@pytest.mark.parametrize(("words", "release", "circumstance"), matrix())
def test_converter(words, release, circumstance, plain, tmp_path):
    if circumstance.missing:
        pytest.skip(circumstance.missing)
    suffix = image_suffix(f"a{circumstance.suffix}")
    made = convert(words, release, tmp_path / "src", tmp_path / "dst", circumstance.write, suffix)
    if circumstance.refused:
        assert isinstance(made, str)
        assert re.search(circumstance.refused, made)
        assert not list((tmp_path / "dst").glob("*.json"))
        return
    # of slides some converters take the tissue's fragments, of images all
    expected = plain(words, release, circumstance, open_levels(circumstance.make(tmp_path))[1])
    if isinstance(expected, str):  # a picture that no one could convert, or one without a resolution
        assert isinstance(made, str)
        assert reason(made) == reason(expected)
        return
    assert not isinstance(made, str), made
    if release is camelyon and (circumstance.valid is not None or re.search("levels|BigTIFF", circumstance.name)):
        # places are drawn on the tissue of a thumbnail, which another filter reduced
        assert len(made) == len(expected)
        return
    assert made.keys() == expected.keys() or circumstance.tolerance != (0, 0)
    for name in made.keys() & expected.keys():
        assert_alike(made[name], expected[name], circumstance)


def reason(problem: str) -> str:
    """A refusal without its path."""
    return re.sub(r"\S*/(?=\w)|\.\w{3,4}\b", "", problem)


def assert_alike(one: object, other: object, circumstance: Circumstance) -> None:
    if isinstance(one, tuple):
        (pixels, mpp), (expected, stated) = one, other
        assert mpp == (None if stated is None else pytest.approx(stated, rel=1e-3))
        assert pixels.shape == expected.shape
        difference = np.abs(pixels.astype(int) - expected)
        limit = LOSS if circumstance.tolerance != (0, 0) or "levels" in circumstance.name else 0
        assert difference.mean() <= limit
    elif circumstance.tolerance == (0, 0):
        assert without_endings(one) == without_endings(other)


def test_the_smallest_picture_holds_what_the_releases_mark():
    rows, cols = cut().shape[:2]
    assert BOX.bounds[2] < cols
    assert BOX.bounds[3] < rows
