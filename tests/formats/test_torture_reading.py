"""Every circumstance of the torture set, read in every way: the same pixels, sizes, areas and resolutions."""

import re
from functools import cache
from importlib.util import find_spec
from itertools import product

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.formats import SlideReader, check_slide, read_field
from monai_ext.formats.levels import BACKENDS
from tests.formats.torture import BY_NAME, CIRCUMSTANCES, PAGE, Circumstance, base, page, write_reference

pytestmark = pytest.mark.slow

MPP_TOLERANCE = 1e-3
RESAMPLED = (2.5, 80)  # grey values, mean and largest: filters differ
STRETCHED = (3.0, 120)
REDUCED_MEAN = 2.5  # grey values, 8 times reduced; half a pixel's shift gives four times as much

HAVE = [name for name in BACKENDS if find_spec({"cucim": "cucim", "tifffile": "tifffile"}.get(name, "openslide"))]


def parameters(circumstances):
    return [pytest.param(circumstance, id=circumstance.name) for circumstance in circumstances]


ALL = parameters(CIRCUMSTANCES)
READ = parameters(c for c in CIRCUMSTANCES if not c.refused)
REFUSED = parameters(c for c in CIRCUMSTANCES if c.refused)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The file of a circumstance, made once."""
    folder = tmp_path_factory.mktemp("torture")

    @cache
    def make(circumstance: Circumstance):
        if circumstance.missing:
            pytest.skip(circumstance.missing)
        return circumstance.make(folder)

    return make


def stretched(circumstance):
    """What must be read: the picture, with square pixels of the shorter side where the file's are not square."""
    pixels, (rows, cols) = circumstance.pixels(), circumstance.mpp or (1, 1)
    if rows == cols:
        return pixels
    side = min(rows, cols)
    size = [round(n * um / side) for n, um in zip(pixels.shape[:2], (rows, cols), strict=True)]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_CUBIC)


def square(circumstance):
    """Side of the square pixel that is read, um."""
    return min(circumstance.mpp) if circumstance.mpp else None


def assert_alike(pixels, expected, tolerance):
    assert pixels.shape == expected.shape
    off = np.abs(pixels.astype(int) - expected)
    assert off.mean() <= tolerance[0]
    assert off.max() <= tolerance[1]


def tolerance_of(circumstance):
    return circumstance.tolerance if circumstance.mpp in (None, (square(circumstance),) * 2) else STRETCHED


def last(array):
    return np.moveaxis(array, 0, -1)


@pytest.mark.parametrize("circumstance", READ)
def test_field(circumstance, made):
    field = read_field(made(circumstance))
    assert_alike(last(field.image), stretched(circumstance), tolerance_of(circumstance))
    expected = square(circumstance)
    assert field.mpp == (None if expected is None else pytest.approx(expected, rel=MPP_TOLERANCE))
    valid = np.ones(field.image.shape[1:], bool) if field.valid is None else field.valid
    truth = circumstance.valid() if circumstance.valid else np.ones(valid.shape, bool)
    assert valid.mean() == pytest.approx(truth.mean(), abs=5e-3)
    assert (valid == truth).mean() > 0.99


@pytest.mark.parametrize("target", [0.5, 1.0])
@pytest.mark.parametrize("circumstance", READ)
def test_field_at_a_resolution(circumstance, target, made):
    field, full = read_field(made(circumstance), target_mpp=target), stretched(circumstance)
    mpp = square(circumstance)
    if mpp is None:  # is taken to have it
        assert field.mpp is None
        assert_alike(last(field.image), full, circumstance.tolerance)
        return
    size = [round(side * mpp / target) for side in full.shape[:2]]
    assert field.image.shape[1:] == tuple(size)
    assert_alike(last(field.image), cv2.resize(full, size[::-1], interpolation=cv2.INTER_AREA), RESAMPLED)
    assert field.scale == pytest.approx(target / mpp, rel=MPP_TOLERANCE)


@pytest.mark.parametrize("backend", HAVE)
@pytest.mark.parametrize("circumstance", READ)
def test_slide(circumstance, backend, made):
    mpp, full = square(circumstance), stretched(circumstance)
    reader = SlideReader(made(circumstance), backend=backend, mpp=None if mpp else 0.25)
    assert reader.base_mpp == pytest.approx(mpp or 0.25, rel=MPP_TOLERANCE)
    assert reader.shape == full.shape[:2]
    whole = last(reader.read(0, 0, *reader.shape))
    assert_alike(whole, full, tolerance_of(circumstance))
    field = last(read_field(made(circumstance)).image)
    if full.shape == circumstance.pixels().shape:
        np.testing.assert_array_equal(field, whole)  # nothing is read in two ways
    else:  # but filters of two libraries make square pixels
        assert_alike(field, whole, STRETCHED)


@pytest.mark.parametrize("backend", HAVE)
@pytest.mark.parametrize("circumstance", READ)
def test_regions_of_a_slide(circumstance, backend, made):
    """Any region is that part of the whole, white beyond the edge."""
    reader = SlideReader(made(circumstance), backend=backend, mpp=None if circumstance.mpp else 0.25)
    rows, cols = reader.shape
    white = ((9, 9), (9, 9), (0, 0))
    padded = np.pad(last(reader.read(0, 0, rows, cols)), white, constant_values=255)
    inside = np.pad(np.ones((rows, cols), bool), white[:2])
    rng = np.random.default_rng(0)
    corners = [
        (-9, -9),
        (rows - 31, cols - 31),
        *((int(rng.integers(rows - 40)), int(rng.integers(cols - 40))) for _ in range(6)),
    ]
    for row, col in corners:
        part = np.s_[row + 9 : row + 49, col + 9 : col + 49]
        pixels, expected = last(reader.read(row, col, *padded[part].shape[:2])), padded[part]
        if reader.stretch != (1, 1):  # whose filters reach over the edge
            pixels, expected = pixels[inside[part]], expected[inside[part]]
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("backend", HAVE)
@pytest.mark.parametrize("circumstance", READ)
def test_slide_far_reduced(circumstance, backend, made):
    """From whatever level, in its place up to the far corner."""
    mpp, full = square(circumstance) or 0.25, stretched(circumstance)
    reader = SlideReader(made(circumstance), 8 * mpp, None if circumstance.mpp else mpp, backend)
    shape = tuple(side // 8 for side in full.shape[:2])  # without the grid's last row, which may reach over the edge
    pixels = last(reader.read(0, 0, *shape))
    whole = full[: shape[0] * 8, : shape[1] * 8].reshape(shape[0], 8, shape[1], 8, 3).mean((1, 3))
    for corner in product((slice(None), slice(-20, None)), repeat=2):
        assert np.abs(pixels[corner] - whole[corner]).mean() < REDUCED_MEAN + circumstance.tolerance[0]


@pytest.mark.parametrize("circumstance", READ)
def test_a_resolution_that_is_given_counts(circumstance, made):
    path = made(circumstance)
    assert read_field(path, mpp=0.4).mpp == 0.4
    assert SlideReader(path, mpp=0.4).base_mpp == 0.4


@pytest.mark.parametrize("backend", HAVE)
@pytest.mark.parametrize("circumstance", READ)
def test_check_lets_pass(circumstance, backend, made):
    check_slide(made(circumstance), 0.25, 0.25, backend)


def refusal(path, read):
    with pytest.raises(InputError) as caught:
        read()
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line.removeprefix(str(path))


@pytest.mark.parametrize("circumstance", REFUSED)
def test_field_is_refused(circumstance, made):
    path = made(circumstance)
    assert re.search(circumstance.refused, refusal(path, lambda: read_field(path)))


@pytest.mark.parametrize("backend", HAVE)
@pytest.mark.parametrize("circumstance", REFUSED)
def test_slide_is_refused(circumstance, backend, made):
    path = made(circumstance)

    def read():
        check_slide(path, 0.25, None, backend)
        reader = SlideReader(path, mpp=0.25, backend=backend)
        assert "torn" in circumstance.name  # of which only reading all of it tells
        reader.read(0, 0, *reader.shape)

    assert re.search(circumstance.refused, refusal(path, read))


@pytest.mark.parametrize("read", [read_field, SlideReader], ids=["field", "slide"])
@pytest.mark.parametrize("circumstance", READ)
def test_who_disagree_are_both_named(circumstance, read, made):
    """And nobody else is."""
    conflict = read(made(circumstance), mpp=None if circumstance.mpp else 0.25).conflict
    assert bool(conflict) == bool(circumstance.warns)
    assert re.search(circumstance.warns, conflict)
    assert "\n" not in conflict
    assert read(made(circumstance), mpp=0.25).conflict == ""


def test_the_plain_file_is_what_openslide_and_tifffile_read(tmp_path):
    """The set's own measure, by neither reader of this library."""
    import openslide
    import tifffile

    write_reference(BY_NAME["one level in tiles"], tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), base())
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as slide:
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3], base())


def test_names_of_files_differ():
    names = [circumstance.stem for circumstance in CIRCUMSTANCES]
    assert len(set(names)) == len(names)


def test_the_documentation_lists_every_circumstance():
    """``python -m tests.formats.torture`` writes its table anew."""
    assert page() == PAGE.read_text(encoding="utf-8")
