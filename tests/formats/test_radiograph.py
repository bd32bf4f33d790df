"""Reading radiographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.formats.radiograph import read_radiograph
from tests.formats.dicom_files import write_dicom

slow = pytest.mark.slow  # ITK is imported in ten seconds
GREYS = np.arange(0, 65536, 256, dtype=np.uint16).reshape(8, 32)


@slow
@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        pytest.param(GREYS, 16, id="16 bits"),
        pytest.param(GREYS >> 4, 12, id="12 of 16 bits"),
        pytest.param((GREYS >> 8).astype(np.uint8), 8, id="8 bits"),
    ],
)
def test_the_upper_8_bits(tmp_path, pixels, bits):
    radiograph = read_radiograph(write_dicom(tmp_path / "a.dcm", pixels, bits=bits))
    assert radiograph.image.dtype == np.uint8
    np.testing.assert_array_equal(radiograph.image, np.arange(256).reshape(8, 32))
    assert radiograph.mpp is None


@slow
@pytest.mark.parametrize("bits", [16, 12])
def test_white_is_bright(tmp_path, bits):
    path = write_dicom(tmp_path / "a.dcm", GREYS >> 16 - bits, kind="MONOCHROME1", bits=bits)
    np.testing.assert_array_equal(read_radiograph(path).image, 255 - np.arange(256).reshape(8, 32))


@slow
@pytest.mark.parametrize(("spacing", "mpp"), [("0.05\\0.05", 50), ("0.05\\0.06", None), ("0\\0", None), ("", None)])
def test_spacing(tmp_path, spacing, mpp):
    assert read_radiograph(write_dicom(tmp_path / "a.dcm", GREYS, spacing=spacing)).mpp == mpp


@slow
def test_damage(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREYS)
    path.write_bytes(path.read_bytes()[:-100])
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / "b.dcm").write_bytes(b"no DICOM")
        with pytest.raises(InputError, match=rf"{name}: expected a (whole|readable) DICOM file, found"):
            read_radiograph(tmp_path / name)
    with pytest.raises(InputError, match=r"gone\.dcm: expected a radiograph, found no such file"):
        read_radiograph(tmp_path / "gone.dcm")


@pytest.mark.parametrize(
    ("suffix", "pixels"), [(".png", GREYS), (".png", GREYS >> 8), (".tif", GREYS), (".jpg", GREYS >> 8)]
)
def test_black_stays_black(tmp_path, suffix, pixels):
    """The air around a breast is no part of a slide that was not scanned."""
    large = np.kron(pixels, np.ones((20, 20))).astype(np.uint16 if pixels.max() > 255 else np.uint8)
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), large)
    expected = np.kron(GREYS >> 8, np.ones((20, 20)))
    assert np.abs(read_radiograph(path).image - expected).max() <= (0 if suffix != ".jpg" else 12)
    assert read_radiograph(path).mpp is None


def test_images_that_are_damaged(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), GREYS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.png: expected a (whole|readable)"):
        read_radiograph(path)
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png: expected"):
        read_radiograph(path)
