import cv2
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor

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
