import cv2
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage, Spacing, Spacingd

from monai_ext.base.errors import InputError
from monai_ext.transforms.fields import LoadFieldd

PX_TOL = 0.15  # centre of a dot after resampling
POINTS = np.array([[40.0, 60.0], [70.5, 31.25], [90.0, 150.0]])


def dotted(shape=(120, 180)):
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    image = np.full(shape, 240.0)
    for r, c in POINTS:
        image -= 200 * np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / (2 * 4.0**2))
    return np.repeat(image.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def item(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), dotted())
    np.savetxt(tmp_path / "a.csv", POINTS, delimiter=",", fmt="%g")
    ids = np.zeros((120, 180), np.uint16)
    for index, (r, c) in enumerate(POINTS):
        cv2.circle(ids, (round(c), round(r)), 9, 1000 + index, -1)
    cv2.imwrite(str(tmp_path / "m.png"), ids)
    return {
        "image": str(tmp_path / "a.png"),
        "label": str(tmp_path / "a.csv"),
        "mask": str(tmp_path / "m.png"),
        "group": "p1",
    }


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 1.7, 0.6])
def test_points_and_masks_stay_on_their_figures(item, scale):
    load = LoadFieldd("image", ["label"], ["mask"], mpp=0.25, target_mpp=0.25 * scale)
    d = load(item)
    image, points, mask = d["image"], d["label"], d["mask"]
    assert isinstance(image, MetaTensor)
    assert (image.dtype, points.dtype, mask.dtype) == (torch.uint8, torch.float32, torch.int32)
    assert image.shape[1:] == mask.shape[1:] == (round(120 / scale), round(180 / scale))
    assert image.meta["scale"] == pytest.approx(scale)
    assert image.meta["mpp"] == pytest.approx(0.25 * scale)
    assert image.meta["filename_or_obj"] == item["image"]
    assert d["group"] == "p1"
    assert set(mask.unique().tolist()) == {0, 1000, 1001, 1002}
    dark = 240 - image[0].numpy().astype(float)
    rows, cols = np.mgrid[: dark.shape[0], : dark.shape[1]]
    rounded = np.abs(np.subtract(dark.shape, np.array([120, 180]) / scale)).max()  # a side has whole pixels
    for index, (row, col) in enumerate(points.numpy()):
        near = np.hypot(rows - row, cols - col) < 14 / scale
        weights = dark * near
        centre = np.array([(weights * rows).sum(), (weights * cols).sum()]) / weights.sum()
        assert np.abs(centre - (row, col)).max() < PX_TOL + rounded
        own = np.argwhere(mask[0].numpy() == 1000 + index).mean(0)
        assert (
            np.abs(own - (row, col)).max() < 0.6 / min(scale, 1) + 0.1 + rounded
        )  # nearest neighbour, drawn on whole pixels


@pytest.mark.parametrize(
    ("option", "own", "stated", "expected"),
    [
        pytest.param(0.5, 0.125, 0.25, 0.5, id="the option wins"),
        pytest.param(None, 0.125, 0.25, 0.125, id="then the item"),
        pytest.param(None, None, 0.25, 0.25, id="then the file"),
        pytest.param(None, None, None, 0.0, id="nobody knows"),
    ],
)
def test_whose_resolution_counts(option, own, stated, expected, tmp_path):
    resolution = {} if stated is None else {"resolution": (1e4 / stated,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", dotted(), photometric="rgb", **resolution)
    d = LoadFieldd("image", mpp=option)({"image": tmp_path / "a.tif"} | ({} if own is None else {"mpp": own}))
    assert d["image"].meta["mpp"] == pytest.approx(expected)
    assert d["image"].meta["scale"] == 1


@pytest.mark.parametrize(
    "points", [POINTS, torch.as_tensor(POINTS), POINTS.tolist(), []], ids=["numpy", "tensor", "list", "none"]
)
def test_points_in_memory(item, points):
    d = LoadFieldd("image", ["label"], mpp=0.5, target_mpp=0.25)(item | {"label": points})
    want = torch.as_tensor(np.asarray(points, np.float32).reshape(-1, 2))
    torch.testing.assert_close(d["label"], (want + 0.5) * 2 - 0.5)


@pytest.mark.parametrize("how", ["black", "transparent"])
def test_where_there_is_no_data(how, tmp_path):
    """The image is white, masks are empty, and a mask says so; an image that is all data has none."""
    image, ids = np.full((90, 120, 4), 180, np.uint8), np.full((90, 120), 5, np.uint16)
    image[..., 3] = 255
    image[:, 80:] = (0, 0, 0, 255) if how == "black" else (200, 100, 150, 0)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "whole.png"), image[:, :80])
    cv2.imwrite(str(tmp_path / "m.png"), ids)
    load = LoadFieldd("image", mask_keys=["mask"], mpp=0.25, target_mpp=0.5, valid_key="valid")
    item = load({"image": str(tmp_path / "a.png"), "mask": str(tmp_path / "m.png")})
    inside = np.zeros((1, 45, 60), bool)
    inside[..., :40] = True
    assert np.array_equal(item["valid"].numpy(), inside)
    assert np.array_equal(item["mask"].numpy(), 5 * inside)
    assert (item["image"][:, :, 40:] == 255).all()
    assert "valid" not in LoadFieldd("image", mpp=0.25, valid_key="valid")({"image": str(tmp_path / "whole.png")})


def test_one_pixel(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((1, 1, 3), np.uint8))
    d = LoadFieldd("image", ["label"], mpp=0.25, target_mpp=0.5)({"image": tmp_path / "a.png", "label": [[0, 0]]})
    assert d["image"].shape == (3, 1, 1)


def test_mask_of_another_image(item, tmp_path):
    cv2.imwrite(str(tmp_path / "other.png"), np.zeros((60, 90), np.uint8))
    with pytest.raises(
        InputError, match=r"other\.png: expected a mask of its image's size \(120, 180\), found \(60, 90\)"
    ):
        LoadFieldd("image", mask_keys=["mask"])(item | {"mask": str(tmp_path / "other.png")})


def test_missing_key(item):
    item.pop("image")
    with pytest.raises(KeyError):
        LoadFieldd("image")(item)
    assert LoadFieldd("image", allow_missing_keys=True)(item) == item


@pytest.mark.parametrize(("mpp", "target", "spacing"), [(0.25, None, 0.25), (0.25, 0.5, 0.5), (None, 0.5, 1000)])
def test_monai_saves_it_with_its_spacing(item, tmp_path, mpp, target, spacing):
    """Spacings in mm; where the resolution is unknown, a px counts as a mm."""
    image = LoadFieldd("image", mpp=mpp, target_mpp=target)(item)["image"]
    save = SaveImage(tmp_path / "out", output_ext=".nii.gz", separate_folder=False, print_log=False)
    save(image)
    (path,) = (tmp_path / "out").iterdir()
    saved = nibabel.load(path)
    np.testing.assert_allclose(saved.header.get_zooms()[:2], spacing / 1000, rtol=1e-6)
    assert saved.header.get_xyzt_units()[0] in ("mm", "unknown")
    assert nibabel.aff2axcodes(saved.affine)[:2] == ("P", "L")  # rows go down, columns to the right
    np.testing.assert_array_equal(np.asarray(saved.dataobj).squeeze(), np.moveaxis(image.numpy(), 0, -1).squeeze())
    np.testing.assert_allclose(saved.affine, image.affine, rtol=1e-6)


def test_monai_resamples_it(item):
    """To pixels twice as large: half as many on each side, figures where they are in mm."""
    fine = LoadFieldd("image", mpp=0.25)(item)["image"]
    coarse = Spacing(pixdim=(0.0005, 0.0005), mode="bilinear", padding_mode="border")(fine.float())
    assert coarse.shape == (3, 60, 90)
    np.testing.assert_allclose(coarse.pixdim[:2], 0.0005)
    to_coarse = np.linalg.inv(coarse.affine.numpy()) @ fine.affine.numpy()
    dark, places = 240 - coarse[0].numpy().astype(float), np.indices(coarse.shape[1:])
    for row, col in POINTS:
        centre = (to_coarse @ [row, col, 0, 1])[:2]
        weights = dark * (np.hypot(*(places - centre[:, None, None])) < 7)
        assert np.abs((places * weights).sum((1, 2)) / weights.sum() - centre).max() < PX_TOL
    again = LoadFieldd("image", mpp=0.25, target_mpp=0.5)(item)["image"]
    assert again.shape == coarse.shape
    np.testing.assert_allclose(again.pixdim, coarse.pixdim)
    assert (again.float() - coarse).abs().mean() < 2  # 0 to 255
    same = Spacingd("image", pixdim=(0.0005, 0.0005))({"image": again})["image"]
    np.testing.assert_array_equal(same.numpy(), again.numpy())
