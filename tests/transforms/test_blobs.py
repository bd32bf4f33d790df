from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from monai_ext.base.errors import InputError
from monai_ext.base.otsu import otsu_threshold
from monai_ext.transforms.blobs import BlobDetections, BlobDetectionsd

PX_TOL = 1e-3  # centroids, against double precision
SCORE_TOL = 1e-5  # probabilities are float32
OTSU_TOL = 1e-6


def reference(prob, sigma, min_area, min_score):
    """The same steps with the obvious library calls, in double precision and one blob at a time."""
    smooth = gaussian_filter(prob.astype(np.float64), sigma, mode="reflect") if sigma else prob.astype(np.float64)
    labels = label(smooth > threshold_otsu(smooth), connectivity=2)
    blobs = [
        (*b.centroid_weighted, b.area, b.mean_intensity)
        for b in regionprops(labels, smooth)
        if b.area > min_area and b.mean_intensity > min_score
    ]
    return np.array(sorted(blobs, key=lambda b: (-b[3], b[0], b[1]))).reshape(-1, 4)


def field(seed, shape=(260, 311), spots=25, noise=0.05):
    rng = np.random.default_rng(seed)
    prob = np.zeros(shape, np.float32)
    for row, col in zip(rng.integers(0, shape[0], spots), rng.integers(0, shape[1], spots), strict=True):
        cv2.circle(prob, (int(col), int(row)), int(rng.integers(2, 12)), float(rng.uniform(0.3, 1)), -1)
    return np.clip(cv2.GaussianBlur(prob, (0, 0), 2) + rng.uniform(0, noise, shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("sigma", "min_area", "min_score"),
    [
        pytest.param(0.5, 0, 0.0, id="default"),
        pytest.param(0, 0, 0.0, id="no smoothing"),
        pytest.param(2.0, 60, 0.0, id="area"),
        pytest.param(0.5, 0, 0.5, id="score"),
        pytest.param(1.0, 40, 0.45, id="area and score"),
    ],
)
def test_equals_the_slow_reference(seed, sigma, min_area, min_score):
    prob = field(seed)
    detect = BlobDetections(sigma or 1, min_area=min_area, min_score=min_score, smooth=bool(sigma))
    points, labels = detect(prob)
    want = reference(prob, sigma, min_area, min_score)
    assert len(want) > 3
    np.testing.assert_allclose(points[:, :3], want[:, :3], atol=PX_TOL)
    np.testing.assert_allclose(points[:, 3], want[:, 3], atol=SCORE_TOL)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], points[:, 2])


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)))
def test_properties_of_any_map(quantised):
    prob = quantised.astype(np.float32) / 255
    points, labels = BlobDetections()(prob)
    assert labels.shape == prob.shape
    assert points.shape == (labels.max(), 4)
    for i, (row, col, area, score) in enumerate(points.tolist()):
        rows, cols = np.nonzero(labels == i + 1)
        assert len(rows) == area
        assert rows.min() - PX_TOL <= row <= rows.max() + PX_TOL
        assert cols.min() - PX_TOL <= col <= cols.max() + PX_TOL
        assert 0 < score <= 1 + SCORE_TOL
        assert label(labels == i + 1, connectivity=2).max() == 1
    scores = points[:, 3].tolist()
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 1e-3, 0.37])
def test_otsu_is_skimages(seed, scale):
    prob = field(seed, noise=0.2) * np.float32(scale)
    assert otsu_threshold(prob) == pytest.approx(threshold_otsu(prob, nbins=256), abs=OTSU_TOL)


def test_otsu_of_two_values_parts_them():
    image = np.repeat(np.float32([0.2, 0.9]), [90, 10]).reshape(10, 10)
    assert 0.2 < otsu_threshold(image) < 0.9
    assert otsu_threshold(image) == pytest.approx(threshold_otsu(image), abs=OTSU_TOL)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (64, 37)])
def test_a_constant_map_has_no_otsu_detection(value, shape):
    prob = np.full(shape, value, np.float32)
    points, labels = BlobDetections(sigma=1.5)(prob)
    assert points.shape == (0, 4)
    assert not labels.any()
    points, labels = BlobDetections(threshold=0.5)(prob)
    assert len(points) == (value > 0.5)
    assert (labels == (value > 0.5)).all()


def test_centroid_is_weighted_by_the_score():
    prob = np.zeros((9, 9), np.float32)
    prob[4, 2:6] = [0.6, 0.6, 0.6, 1.0]
    points, _ = BlobDetections(threshold=0.5, smooth=False)(prob)
    np.testing.assert_allclose(points, [[4, (0.6 * (2 + 3 + 4) + 5) / 2.8, 4, 0.7]], atol=SCORE_TOL)


def test_diagonal_neighbours_are_one_blob():
    assert len(BlobDetections(threshold=0.5, smooth=False)(np.eye(6, dtype=np.float32))[0]) == 1


def test_thresholds_are_strict():
    prob = np.zeros((20, 20), np.float32)
    prob[2:5, 2:5] = 0.75
    plain = {"threshold": 0.5, "smooth": False}
    assert len(BlobDetections(**plain, min_area=8)(prob)[0]) == 1
    assert len(BlobDetections(**plain, min_area=9)(prob)[0]) == 0
    assert len(BlobDetections(**plain, min_score=0.74)(prob)[0]) == 1
    assert len(BlobDetections(**plain, min_score=0.75)(prob)[0]) == 0
    assert len(BlobDetections(threshold=0.75, smooth=False)(prob)[0]) == 0


def test_released_filter_is_a_two_by_two_box():
    kernel = BlobDetections(sigma=0.25, kernel_size=10).kernel.ravel()
    np.testing.assert_allclose(kernel, [0, 0, 0, 0, 0.5, 0.5, 0, 0, 0, 0], atol=SCORE_TOL)


def test_patchwise_otsu_finds_noise_where_the_whole_field_does_not():
    """Figure 6 of the paper: a patch with no high response gets a threshold that is too low."""
    prob = np.zeros((100, 200), np.float32)
    cv2.circle(prob, (150, 50), 12, 0.95, -1)
    cv2.circle(prob, (40, 40), 6, 0.15, -1)
    assert len(BlobDetections()(prob)[0]) == 1
    points, _ = BlobDetections(holistic=False, patch_size=100)(prob)
    assert len(points) == 2
    np.testing.assert_allclose(points[1, :2], [40, 40], atol=0.1)


def test_a_blob_across_patches_is_one_detection():
    prob = np.zeros((70, 90), np.float32)
    cv2.circle(prob, (40, 40), 9, 0.9, -1)
    assert len(BlobDetections(holistic=False, patch_size=40)(prob)[0]) == 1


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_kinds_in_and_out(device, dtype):
    prob = torch.from_numpy(field(0)).to(device, dtype)[None]
    points, labels = BlobDetections()(prob.cpu().numpy())
    assert isinstance(labels, np.ndarray)
    for same in (prob, prob[0], prob.requires_grad_(), MetaTensor(prob.detach(), meta={"spam": 1})):
        got, got_labels = BlobDetections()(same)
        torch.testing.assert_close(got, points)
        assert (got.dtype, got.device.type, type(got)) == (torch.float32, "cpu", torch.Tensor)
        assert (got_labels.dtype, got_labels.device, type(got_labels)) == (torch.int32, same.device, type(same))
        np.testing.assert_array_equal(got_labels.cpu().numpy(), labels)
    assert got_labels.meta["spam"] == 1


def test_bfloat16_is_read_as_the_numbers_it_holds():
    prob = torch.from_numpy(field(0)).bfloat16()
    torch.testing.assert_close(BlobDetections()(prob)[0], BlobDetections()(prob.float())[0])


def test_input_is_left_alone():
    prob = field(1)
    before = prob.copy()
    BlobDetections(smooth=False)(prob)
    np.testing.assert_array_equal(prob, before)


@pytest.mark.parametrize(
    ("prob", "message"),
    [
        pytest.param(np.zeros((2, 5, 5)), r"shape \(1, H, W\)", id="two channels"),
        pytest.param(np.zeros(5), r"shape \(1, H, W\)", id="one axis"),
        pytest.param(np.zeros((0, 5)), r"shape \(1, H, W\)", id="empty"),
        pytest.param(np.full((5, 5), np.nan), r"values in \[0, 1\], found NaN", id="nan"),
        pytest.param(np.linspace(-3, 3, 25).reshape(5, 5), r"\[-3, 3\]", id="logits"),
        pytest.param(np.full((5, 5), 200, np.uint8), r"values in \[0, 1\]", id="8 bits"),
    ],
)
def test_unusable_maps(prob, message):
    with pytest.raises(InputError, match=message):
        BlobDetections()(prob)


@pytest.mark.parametrize("argument", [{"sigma": 0}, {"threshold": "li"}, {"threshold": 30}, {"patch_size": 0}])
def test_unusable_arguments(argument):
    with pytest.raises(InputError, match=f"BlobDetections {next(iter(argument))}"):
        BlobDetections(**argument)


def test_dictionary_twin():
    prob = torch.from_numpy(field(3))
    data = {"pred": torch.stack([1 - prob, prob]), "other": 5}
    out = BlobDetectionsd("pred", points_key="at", labels_key="map", min_area=50)(data)
    points, labels = BlobDetections(min_area=50)(prob)
    torch.testing.assert_close(out["at"], points)
    torch.testing.assert_close(out["map"], labels)
    assert out["pred"] is data["pred"]
    assert set(data) == {"pred", "other"}
    assert set(BlobDetectionsd(labels_key=None)(data)) == {"pred", "other", "points"}


def test_dictionary_twin_names_the_key():
    with pytest.raises(InputError, match=r"'pred': expected shape \(C, H, W\) with a channel 1, found \(1, 8, 8\)"):
        BlobDetectionsd()({"pred": torch.zeros(1, 8, 8)})
