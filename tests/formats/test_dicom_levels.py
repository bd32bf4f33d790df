"""Slides in DICOM as they are read, compared with the pixels that were written, and one decoder with the other."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")
wsidicom = pytest.importorskip("wsidicom", reason="wsidicom is not installed (the extra [dicom])")

from pydicom.uid import (  # noqa: E402
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from monai_ext.base.errors import InputError  # noqa: E402
from monai_ext.data import Cohort  # noqa: E402
from monai_ext.formats import SlideReader, check_slide, open_levels, read_field  # noqa: E402
from monai_ext.formats import dicom_levels as module  # noqa: E402
from monai_ext.formats.dicom_levels import DicomLevels  # noqa: E402
from monai_ext.formats.find import find_images, is_image  # noqa: E402
from monai_ext.formats.levels import WSILevels  # noqa: E402
from tests.formats import dicom_slides as made  # noqa: E402
from tests.formats import refused  # noqa: E402
from tests.formats.torture import base, reduced  # noqa: E402

SHAPE = (300, 420)
LOSSY = (5, 60)  # grey values, mean and largest
OPENSLIDE = (ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEG2000Lossless)  # what it decodes of DICOM
SYNTAXES = [pytest.param(syntax, id=UID(syntax).name) for syntax in made.CODECS]


def picture():
    pixels = base()[: SHAPE[0], : SHAPE[1]].copy()
    pixels[64:128, 64:192] = 255  # two tiles of glass
    return pixels


def shrink(image, factor):
    return reduced(image, factor) if factor > 1 else image


def slide(folder, **options):
    """The folder of a slide of two levels."""
    made.write_slide(folder, picture(), **{"shrink": shrink, **options})
    return folder


def items(*names, **elements):
    return [made.item(OpticalPathIdentifier=name, **elements) for name in names]


def spacing(row, col):
    measures = made.item(PixelSpacing=[row, col], SliceThickness=0.001)
    return {"SharedFunctionalGroupsSequence": [made.item(PixelMeasuresSequence=[measures])]}


def whole(levels, level=0):
    return levels.read(level, 0, 0, *levels.shapes[level])


def assert_alike(pixels, expected, tolerance=(0, 0)):
    assert pixels.shape == expected.shape
    off = np.abs(pixels.astype(int) - expected)
    assert off.mean() <= tolerance[0]
    assert off.max() <= tolerance[1]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax(tmp_path, syntax):
    levels, is_slide = open_levels(slide(tmp_path / "a", syntax=syntax, levels=(1, 2, 4)))
    assert is_slide
    assert levels.backend == ("openslide" if syntax in OPENSLIDE else "wsidicom")
    assert levels.shapes == [SHAPE, (150, 210), (75, 105)]
    assert levels.downsamples == [1, 2, 4]
    assert (levels.resolution.mpp, levels.resolution.source) == (0.25, "DICOM")
    for level, factor in enumerate((1, 2, 4)):
        pixels, valid = whole(levels, level)
        assert valid is None
        assert_alike(pixels, shrink(picture(), factor), LOSSY if syntax == JPEGBaseline8Bit else (0, 0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"syntax": JPEGBaseline8Bit},
        {"syntax": JPEG2000Lossless},
        {"sparse": True},
        {"parts": 3},
        {"parts": 3, "sparse": True, "syntax": JPEGBaseline8Bit},
        {"levels": (1, 3)},
        {"overview": False},
        spacing(0.0005, 0.00025),
    ],
    ids=["plain", "JPEG", "JPEG 2000", "sparse", "concatenation", "sparse one", "third", "alone", "oblong"],
)
def test_both_decoders_agree(tmp_path, options):
    """Where both can read a slide they say the same of every region."""
    path = sorted(slide(tmp_path, **options).iterdir())[-1]
    one, other = WSILevels(path, "openslide"), DicomLevels(path)
    assert one.shapes == other.shapes
    assert one.downsamples == other.downsamples
    assert one.resolution == other.resolution
    rng = np.random.default_rng(0)
    for level, (rows, cols) in enumerate(one.shapes):
        for _ in range(5):
            row, col = int(rng.integers(rows - 70)), int(rng.integers(cols - 70))
            here, there = (levels.read(level, row, col, 70, 70) for levels in (one, other))
            np.testing.assert_array_equal(here[0], there[0])
            assert (here[1] is None) == (there[1] is None)
            if here[1] is not None:
                np.testing.assert_array_equal(here[1], there[1])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
@pytest.mark.parametrize("parts", [1, 3])
def test_tiles_that_sparse_leaves_out_were_not_scanned(tmp_path, syntax, parts):
    field = read_field(slide(tmp_path, sparse=True, syntax=syntax, parts=parts))
    expected = np.ones(SHAPE, bool)
    expected[64:128, 64:192] = False
    np.testing.assert_array_equal(np.moveaxis(field.image, 0, -1), picture())
    np.testing.assert_array_equal(field.valid, expected)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_rows_and_columns_have_their_own_spacing(tmp_path, syntax):
    reader = SlideReader(slide(tmp_path, syntax=syntax, **spacing(0.0005, 0.00025)))
    assert reader.base_mpp == 0.25
    assert reader.stretch == (2.0, 1.0)
    assert reader.shape == (600, 420)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, made.JPEG_XL])
def test_a_slide_on_any_grid(tmp_path, syntax):
    reader = SlideReader(slide(tmp_path, syntax=syntax), target_mpp=0.5)
    assert (reader.scale, reader.level, reader.shape) == (2.0, 1, (150, 210))
    assert_alike(np.moveaxis(reader.read(0, 0, *reader.shape), 0, -1), reduced(picture(), 2), LOSSY)
    assert_alike(np.moveaxis(reader.thumbnail(1.0), 0, -1), reduced(picture(), 4), (4, 60))


@pytest.mark.parametrize("codec", ["jpeg", "jpegxl"])
def test_what_another_program_writes(tmp_path, codec):
    """wsidicom saves a slide anew: its own tags, offset tables and encoder."""
    from wsidicom.codec.settings import Channels, JpegSettings, JpegXlSettings

    settings = JpegSettings() if codec == "jpeg" else JpegXlSettings(level=100, channels=Channels.RGB)
    with wsidicom.WsiDicom.open(str(slide(tmp_path / "a"))) as source:
        source.save(str(tmp_path / "b"), transcoding=settings, workers=1)
    levels, _ = open_levels(tmp_path / "b")
    assert levels.backend == {"jpeg": "openslide", "jpegxl": "wsidicom"}[codec]
    assert levels.shapes == [SHAPE, (150, 210)]
    assert levels.resolution.mpp == 0.25
    assert_alike(whole(levels)[0], picture(), LOSSY if codec == "jpeg" else (0, 0))


# -- which files are one slide -----------------------------------------------------------------------------------------


def test_any_file_of_a_slide_stands_for_it(tmp_path):
    for path in slide(tmp_path, syntax=JPEGLSLossless).iterdir():
        assert open_levels(path)[0].shapes == [SHAPE, (150, 210)]


def test_a_folder_of_two_slides(tmp_path):
    """Each is a slide by the name of one of its files; the folder does not say which."""
    slide(tmp_path / "a")
    made.write_slide(tmp_path / "b", picture()[:200], levels=(1,))
    for path in (tmp_path / "b").iterdir():
        shutil.move(path, tmp_path / "a" / f"other_{path.name}")
    with pytest.raises(InputError, match=r"expected one slide .*, found 2: level_1.dcm, other_level_1.dcm$"):
        check_slide(tmp_path / "a")
    assert open_levels(tmp_path / "a" / "level_1.dcm")[0].shapes[0] == SHAPE
    assert open_levels(tmp_path / "a" / "other_level_1.dcm")[0].shapes == [(200, 420)]
    assert [path.name for path in find_images(tmp_path)] == ["level_1.dcm", "other_level_1.dcm"]


def test_a_folder_without_slides(tmp_path):
    with pytest.raises(InputError, match="expected an image, found a folder"):
        open_levels(tmp_path)


def test_files_without_an_ending(tmp_path):
    """As a hospital's archive exports them."""
    for number, path in enumerate(sorted(slide(tmp_path).iterdir())):
        path.rename(tmp_path / f"IM{number:05d}")
    assert open_levels(tmp_path)[0].shapes == open_levels(tmp_path / "IM00000")[0].shapes == [SHAPE, (150, 210)]


def test_a_cohort_of_dicom_and_other_slides(tmp_path):
    """Folders and files, mixed; results are called after the folder, and annotations are no images."""
    data, source = tmp_path / "in", made.write_slide(tmp_path / "in/SM_1.2.3", picture())
    group = made.group(1, "POINT", [np.array([[5.0, 5.0]], np.float32)])
    made.write_annotations(data / "SM_1.2.3/ann.dcm", source, [group])
    slide(data / "SM_1.2.4", syntax=JPEGLSLossless)
    slide(data / "two/a")
    shutil.move(data / "two/a/level_1.dcm", data / "two/x.dcm")
    slide(data / "two/b", levels=(1,), overview=False)
    import cv2

    cv2.imwrite(str(data / "plain.png"), picture())
    cohort = Cohort(data, tmp_path / "out", mpp=0.25, check=check_slide)
    names = [Path(item["image"]).relative_to(data).as_posix() for item in cohort.items]
    assert names == ["SM_1.2.3", "SM_1.2.4", "plain.png", "two/b/level_1.dcm", "two/x.dcm"]
    assert cohort.root == data
    failed = {Path(image).name: entry for image, entry in cohort.state.items() if entry["status"] == "failed"}
    assert list(failed) == ["a"]  # whose full resolution lies elsewhere
    assert "RESAMPLED" in failed["a"]["reason"]


def test_a_cohort_as_an_archive_exports_it(tmp_path):
    """Names without an ending, or UIDs: a folder of one slide, two slides in one, annotations, and no DICOM."""
    data, source = tmp_path / "in", made.write_slide(tmp_path / "in/ST0/SE0", picture())
    made.write_annotations(data / "ST0/SE0/a.dcm", source, [made.group(1, "POINT", [np.array([[5, 5]], np.float32)])])
    (data / "two").mkdir()
    for name in ("a", "b"):
        slide(data / name)
    for number, path in enumerate(sorted(data.rglob("*.dcm"))):
        path.rename(data / "two" / f"1.2.840.{number}" if path.parts[-2] in "ab" else path.with_name(f"IM{number:04d}"))
    for name in ("LICENSE", "1.2.3", "DICOM", "ST0/SE0/VERSION"):
        (data / name).write_bytes(bytes(128) + b"none")
    (data / "gone").symlink_to("nowhere")
    cohort = Cohort(data, tmp_path / "out", check=check_slide)
    assert [Path(item["image"]).relative_to(data).as_posix() for item in cohort.items] == [
        "ST0/SE0", "two/1.2.840.4", "two/1.2.840.7"
    ]  # fmt: skip
    assert [is_image(data / name) for name in ("ST0/SE0/IM0002", "two/1.2.840.4", "LICENSE", "gone", "two")] == [
        True, True, False, False, False
    ]  # fmt: skip


def test_a_cohort_of_the_folder_of_one_slide(tmp_path):
    cohort = Cohort(slide(tmp_path / "SM_1.2.3"), tmp_path / "out", check=check_slide)
    assert [item["image"] for item in cohort.items] == [str(tmp_path / "SM_1.2.3")]
    assert cohort.root == tmp_path


def test_results_in_the_folder_of_a_slide_change_nothing(tmp_path):
    """Written where the slide lies, and no slides or images of their own."""
    folder = slide(tmp_path / "SM_1.2.3")
    for name in (
        "SM_1.2.3_overlay.png",
        "SM_1.2.3_annotations.dcm",
        "SM_1.2.3_labels.nii.gz",
        "SM_1.2.3_maps.ome.zarr",
    ):
        (folder / name).write_bytes(b"")
    cohort = Cohort(folder, folder, check=check_slide)
    assert [item["image"] for item in cohort.items] == [str(folder)]


# -- bad input ---------------------------------------------------------------------------------------------------------


def refusal(path):
    return refused.refusal(path, check_slide, read_field)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
class TestBadInput:
    """By OpenSlide, and by wsidicom."""

    def test_no_full_resolution(self, tmp_path, syntax):
        (slide(tmp_path, syntax=syntax, levels=(1, 2, 4)) / "level_1.dcm").unlink()
        assert "with its full resolution, found reduced ones alone (RESAMPLED)" in refusal(tmp_path)

    def test_another_level_may_be_missing(self, tmp_path, syntax):
        (slide(tmp_path, syntax=syntax, levels=(1, 2, 4)) / "level_2.dcm").unlink()
        assert open_levels(tmp_path)[0].downsamples == [1, 4]

    def test_a_part_of_a_concatenation_is_missing(self, tmp_path, syntax):
        (slide(tmp_path, syntax=syntax, parts=3) / "level_1_1.dcm").unlink()
        assert "expected 3 files of this level, a concatenation, found 2" in refusal(tmp_path)

    def test_focal_planes(self, tmp_path, syntax):
        assert "found a stack of 2 focal planes" in refusal(slide(tmp_path, syntax=syntax, planes=2))

    def test_optical_paths(self, tmp_path, syntax):
        paths = {"OpticalPathSequence": items("DAPI", "FITC"), "NumberOfOpticalPaths": 2}
        path = slide(tmp_path, syntax=syntax, planes=2, TotalPixelMatrixFocalPlanes=1, **paths)
        assert "found 2 optical paths: DAPI, FITC" in refusal(path)

    def test_labels_alone(self, tmp_path, syntax):
        for level in slide(tmp_path, syntax=syntax).glob("level*"):
            level.unlink()
        assert re.search("labels and overviews alone|readable slide", refusal(tmp_path))

    def test_annotations(self, tmp_path, syntax):
        source = made.write_slide(tmp_path / "a", picture(), syntax=syntax)
        group = made.group(1, "POINT", [np.array([[5.0, 5.0]], np.float32)])
        made.write_annotations(tmp_path / "ann.dcm", source, [group])
        assert "found DICOM of another kind (Microscopy Bulk Simple Annotations Storage" in refusal(
            tmp_path / "ann.dcm"
        )


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_that_is_cut_off(tmp_path, syntax):
    path = slide(tmp_path, syntax=syntax) / "level_1.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert refusal(tmp_path).startswith(str(path))


@pytest.mark.parametrize(
    "syntax",
    [
        pytest.param(s, id=UID(s).name)
        for s in made.CODECS
        if UID(s) not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ],
)
def test_a_frame_that_cannot_be_decoded(tmp_path, syntax):
    """Is named with its place; the others are read."""
    garbage = b"\xff\xd8 no image at all " * 4

    def frame(row, col):
        tile = picture()[row : row + made.TILE, col : col + made.TILE]
        tile = np.pad(tile, [(0, made.TILE - n) for n in tile.shape[:2]] + [(0, 0)])
        return garbage if (row, col) == (64, 64) else made.CODECS[syntax][0](tile)

    reader = SlideReader(slide(tmp_path, syntax=syntax, frame=frame))
    with pytest.raises(InputError, match=r"level 0, row \d+ to \d+, column \d+ to \d+: expected readable pixels"):
        reader.read(0, 0, 200, 200)
    expected = r"level_1.dcm: expected readable pixels of level 0, 420 x 300 px \(else fetch the file anew\), found "
    with pytest.raises(InputError, match=expected):  # of all in one
        read_field(tmp_path)
    assert read_field(tmp_path, target_mpp=0.5).image.shape == (3, 150, 210)
    assert_alike(np.moveaxis(reader.read(200, 200, 60, 60), 0, -1), picture()[200:260, 200:260], LOSSY)


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.92", "1.2.3.4"])
def test_a_transfer_syntax_that_nobody_decodes_is_named(tmp_path, uid):
    for path in slide(tmp_path, syntax=JPEG2000Lossless).iterdir():
        known = str(JPEG2000Lossless).encode()
        path.write_bytes(path.read_bytes().replace(known, uid.encode().ljust(len(known), b"\0")))
    line = refusal(tmp_path)
    assert "transfer syntax" in line.lower()
    assert uid in line


def test_without_wsidicom_the_extra_is_named(tmp_path, monkeypatch):
    def missing(name):
        if name == "wsidicom":
            raise ImportError(name)
        return pydicom

    monkeypatch.setattr(module, "import_module", missing)
    line = refusal(slide(tmp_path / "b", syntax=JPEGLSLossless))
    assert "wsidicom to read it (pip install 'monai_ext[dicom]')" in line
    assert "Unsupported transfer syntax 1.2.840.10008.1.2.4.80" in line
    assert open_levels(slide(tmp_path / "a"))[0].backend == "openslide"


# -- real tissue -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aperio(real_data):
    return real_data / "slides/CMU-1-Small-Region.svs"


@pytest.mark.real_data
def test_an_aperio_slide_in_dicom(tmp_path, aperio):
    """Its JPEG tiles put into DICOM as they are: the pixels are those that OpenSlide reads of the scanner's file."""
    import openslide
    import tifffile

    with openslide.OpenSlide(str(aperio)) as source:
        expected = np.asarray(source.read_region((0, 0), 0, source.dimensions).convert("RGB"))
    with tifffile.TiffFile(aperio) as tiff:
        page = tiff.pages[0]
        across, side = -(-page.imagewidth // page.tilewidth), page.tilewidth
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # it is RGB, not YCbCr

        def frame(row, col):
            index = row // side * across + col // side
            tiff.filehandle.seek(page.dataoffsets[index])
            data = tiff.filehandle.read(page.databytecounts[index])
            return data[:2] + adobe + page.jpegtables[2:-2] + data[2:]

        made.write_slide(
            tmp_path / "a",
            expected,
            levels=(1,),
            tile_px=side,
            syntax=JPEGBaseline8Bit,
            frame=frame,
            overview=False,
            PhotometricInterpretation="RGB",
            **spacing(0.000499, 0.000499),
        )
    for levels in (open_levels(tmp_path / "a")[0], DicomLevels(tmp_path / "a/level_1.dcm")):
        assert levels.resolution.mpp == pytest.approx(0.499)
        np.testing.assert_array_equal(whole(levels)[0], expected)
    reader, plain = SlideReader(tmp_path / "a", 1.0), SlideReader(aperio, 1.0)
    assert reader.shape == plain.shape
    np.testing.assert_array_equal(reader.read(0, 0, *reader.shape), plain.read(0, 0, *plain.shape))
