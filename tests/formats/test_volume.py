"""NIfTI, NRRD and MetaImage, written by nibabel, ITK and SimpleITK, read to one and the same array."""

import re
from itertools import product
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import check_mask_item
from monai_ext.formats import SlideReader, read_field, read_mask, read_points
from monai_ext.formats import volume as module
from monai_ext.formats.find import find_images
from monai_ext.formats.volume import read_volume
from tests.formats import refused

SHAPE = (20, 31)
MM = (0.0005, 0.00025)  # of a row, of a column
NIFTI, OTHERS = (".nii", ".nii.gz"), (".nrrd", ".mha", ".mhd")
LPS = np.diag([-MM[1], -MM[0], 1, 1])  # to RAS: x to the left, y to the back

rng = np.random.default_rng(0)
COLOURS = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
LABELS = rng.integers(0, 70_000, SHAPE, dtype=np.int32)


def by_itk(path, array, direction=None, depth=False):
    kind = itk.Image[itk.RGBPixel[itk.UC], 2] if array.ndim == 3 and not depth else None
    image = itk.image_from_array(array[None] if depth else array, ttype=kind)
    image.SetSpacing([MM[1], MM[0], *([1.0] if depth else [])])
    if direction is not None:
        image.SetDirection(np.asarray(direction, float))
    itk.imwrite(image, str(path))
    return path


def by_simpleitk(path, array):
    simpleitk = pytest.importorskip("SimpleITK")
    image = simpleitk.GetImageFromArray(array, isVector=array.ndim == 3)
    image.SetSpacing(MM[::-1])
    simpleitk.WriteImage(image, str(path))
    return path


def by_nibabel(path, array, affine=LPS, unit="mm"):
    """``(y, x)`` or ``(y, x, 3)`` as nibabel's ``(x, y)``; colours as NIfTI's RGB24."""
    array = array.swapaxes(0, 1)
    if array.ndim == 3:
        array = np.ascontiguousarray(array).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


WRITERS = [
    pytest.param(write, ending, id=f"{write.__name__} {ending}")
    for write, endings in ((by_itk, NIFTI + OTHERS), (by_simpleitk, NIFTI + OTHERS), (by_nibabel, NIFTI))
    for ending in endings
]


@pytest.mark.parametrize(("write", "ending"), WRITERS)
def test_colours(tmp_path, write, ending):
    field = read_field(write(tmp_path / f"a{ending}", COLOURS))
    assert field.mpp == pytest.approx(0.25)
    assert field.stretch == pytest.approx((2, 1))
    assert field.file_shape == SHAPE
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}")[0], COLOURS)


@pytest.mark.parametrize(("write", "ending"), WRITERS)
def test_labels_above_255(tmp_path, write, ending):
    path = write(tmp_path / f"a{ending}", LABELS)
    np.testing.assert_array_equal(read_mask(path), LABELS)
    resolution = read_volume(path)[1]
    assert (resolution.row, resolution.col) == (0.5, 0.25)  # also where the file keeps single precision


def test_where_a_program_puts_the_plane_into_space_it_is_upright(tmp_path):
    """The same picture, stored in every order of its axes: turned back by physical space, as 3D Slicer shows it."""
    for number, (flip_x, flip_y, swap) in enumerate(product((False, True), repeat=3)):
        stored = LABELS.T  # x, y
        affine = LPS.copy()
        if flip_x:
            stored, affine[:, 0] = stored[::-1], -affine[:, 0]
        if flip_y:
            stored, affine[:, 1] = stored[:, ::-1], -affine[:, 1]
        if swap:
            stored, affine = stored.T, affine[:, [1, 0, 2, 3]]
        path = tmp_path / f"{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(stored, affine), path)
        np.testing.assert_array_equal(read_mask(path), LABELS)
        resolution = read_volume(path)[1]
        assert (resolution.row, resolution.col) == pytest.approx((0.5, 0.25))
        # and as ITK, which reads it as (y, x), writes it on
        itk.imwrite(itk.imread(str(path)), str(tmp_path / f"{number}.nrrd"))
        np.testing.assert_array_equal(read_mask(tmp_path / f"{number}.nrrd"), LABELS)


def test_an_affine_that_is_not_stated(tmp_path):
    """As stored, which is what ITK does too."""
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(LABELS.T, None), path)
    np.testing.assert_array_equal(read_mask(path), LABELS)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(path))).squeeze(), LABELS)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_of_one_plane(tmp_path, ending):
    np.testing.assert_array_equal(read_mask(by_itk(tmp_path / f"a{ending}", LABELS, depth=True)), LABELS)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1e3), ("meter", 1e-3), ("unknown", 1)])
def test_the_spacing_in_its_unit(tmp_path, unit, factor):
    affine = np.diag([-MM[1] * factor, -MM[0] * factor, 1, 1])
    resolution = read_volume(by_nibabel(tmp_path / "a.nii", LABELS, affine, unit))[1]
    assert (resolution.row, resolution.col) == pytest.approx((0.5, 0.25))
    assert resolution.source == "the spacing"


def test_no_spacing_is_no_resolution(tmp_path):
    """It is 1 mm then, which no tissue is scanned at."""
    itk.imwrite(itk.image_from_array(LABELS), str(tmp_path / "a.nrrd"))
    assert read_volume(tmp_path / "a.nrrd")[1] is None


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_labels_as_floats(tmp_path, kind):
    np.testing.assert_array_equal(read_mask(by_nibabel(tmp_path / "a.nii", LABELS.astype(kind))), LABELS)
    with pytest.raises(InputError, match=r"expected a mask of whole numbers, found float64, as 0\.5"):
        read_mask(by_nibabel(tmp_path / "b.nii", np.full(SHAPE, 0.5)))


def test_big_endian(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i4")
    nibabel.save(nibabel.Nifti1Image(LABELS.T.astype(">i4"), LPS, header), tmp_path / "a.nii")
    mask = read_mask(tmp_path / "a.nii")
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask, LABELS)


def test_wherever_a_mask_is_read(tmp_path):
    """Lists that are checked, and centroids."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:5, 10:13], labels[9, 20] = 1, 300
    by_itk(tmp_path / "image.mha", COLOURS)
    by_itk(tmp_path / "label.nrrd", labels)
    item = {"image": str(tmp_path / "image.mha"), "label": str(tmp_path / "label.nrrd"), "group": "a"}
    assert check_mask_item(item) == []
    assert read_points(tmp_path / "label.nrrd").tolist() == [[3, 11], [9, 20]]


def test_a_field_and_a_slide_are_the_same(tmp_path):
    path = by_nibabel(tmp_path / "a.nii.gz", np.repeat(COLOURS, 2, axis=0), np.diag([-MM[1], -MM[1], 1, 1]))
    reader, field = SlideReader(path, 0.25), read_field(path)
    assert reader.resolution_source == "the spacing"
    assert (reader.backend, reader.base_mpp) == ("MONAI", pytest.approx(0.25))
    np.testing.assert_array_equal(reader.read(0, 0, *reader.shape), field.image)
    assert find_images(tmp_path) == [path]


# -- bad input ---------------------------------------------------------------------------------------------------------


def refusal(path):
    return refused.refusal(path, read_field, read_mask)


@pytest.mark.parametrize("skew", [(0, 1, 1e-4), (1, 0, 1e-4), (2, 0, 1e-4)])
def test_a_sheared_or_turned_affine(tmp_path, skew):
    affine = LPS.copy()
    affine[skew[:2]] = skew[2]
    assert "found sheared, turned or other ones (affine [[" in refusal(by_nibabel(tmp_path / "a.nii", LABELS, affine))


def test_a_turned_direction_in_nrrd(tmp_path):
    turned = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    assert "sheared, turned or other ones" in refusal(by_itk(tmp_path / "a.nrrd", LABELS, turned))


@pytest.mark.parametrize("plane", [[0, 2, 1], [2, 0, 1]])
def test_a_plane_of_another_direction(tmp_path, plane):
    affine = LPS.copy()
    affine[:3, :3] = affine[plane, :3]
    assert "left and back" in refusal(by_nibabel(tmp_path / "a.nii", LABELS, affine))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_stack(tmp_path, ending):
    itk.imwrite(itk.image_from_array(np.zeros((5, *SHAPE), np.uint8)), str(tmp_path / f"a{ending}"))
    assert "found a stack of 5 focal planes (axes XYZ, 31 x 20 x 5)" in refusal(tmp_path / f"a{ending}")


def test_a_time_series(tmp_path):
    by_nibabel(tmp_path / "a.nii", LABELS)
    nibabel.save(nibabel.Nifti1Image(np.zeros((*SHAPE, 1, 7), np.uint8), LPS), tmp_path / "a.nii")
    assert "found a time series of 7 frames" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize(("number", "kind"), [(5, np.uint8), (3, np.uint16), (2, np.uint8)])
def test_other_channels(tmp_path, number, kind):
    array = np.zeros((*SHAPE, number), kind)
    by_simpleitk(tmp_path / "a.nrrd", array)
    assert re.search(rf"found {number} channels of unsigned (char|short)", refusal(tmp_path / "a.nrrd"))


@pytest.mark.parametrize("ending", [*NIFTI, *OTHERS])
def test_no_image(tmp_path, ending):
    (tmp_path / f"a{ending}").write_text("no image")
    refusal(tmp_path / f"a{ending}")
    (tmp_path / f"b{ending}").write_bytes(b"")
    refusal(tmp_path / f"b{ending}")
    with pytest.raises(InputError, match="no such file"):
        read_mask(tmp_path / f"c{ending}")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_that_is_cut_off(tmp_path, ending):
    path = by_itk(tmp_path / f"a{ending}", LABELS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert refusal(path).startswith(f"{path}: expected")


def test_a_header_without_its_pixels(tmp_path):
    by_itk(tmp_path / "a.mhd", LABELS)
    for raw in (*tmp_path.glob("*.raw"), *tmp_path.glob("*.zraw")):
        raw.unlink()
    assert refusal(tmp_path / "a.mhd").startswith(f"{tmp_path / 'a.mhd'}: expected")


@pytest.mark.parametrize(("ending", "package"), [(".nii", "nibabel"), (".mha", "itk-io")])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, ending, package):
    def missing(name):
        raise ImportError(name)

    path = by_itk(tmp_path / f"a{ending}", LABELS)
    monkeypatch.setattr(module, "import_module", missing)
    assert f"to read it (pip install {package}), found no such package" in refusal(path)


# -- what ITK must not read --------------------------------------------------------------------------------------------


def test_a_mask_in_a_tiled_tiff_keeps_its_labels(tmp_path):
    """ITK, and so MONAI's LoadImage where it falls to ITK, makes 8-bit colours of it."""
    labels = np.zeros((300, 200), np.uint16)
    labels[10:20, 30:40] = 700
    tifffile.imwrite(tmp_path / "a.tif", labels, tile=(64, 64), compression="zlib")
    assert itk.array_from_image(itk.imread(str(tmp_path / "a.tif"))).dtype == np.uint8
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), labels)


def test_nobody_hands_a_file_to_load_image():
    """Neither the library nor a configuration: images and masks are read by the one reader."""
    root = Path(__file__).parents[2]
    named = re.compile(r"\b(LoadImaged?|ITKReader|PILReader|itk\.imread)\b")
    allowed = {"monai_ext/formats/volume.py", "monai_ext/formats/radiograph.py", "monai_ext/formats/image.py"}
    files = [
        *root.glob("monai_ext/**/*.py"),
        *root.glob("bundles/*/configs/**/*.json"),
        *root.glob("monailabel_app/**/*.py"),
    ]
    assert len(files) > 300
    found = {path.relative_to(root).as_posix() for path in files if named.search(path.read_text(encoding="utf-8"))}
    assert found <= allowed | {"monai_ext/base/stain.py"}, found  # whose docstring tells its range of values
