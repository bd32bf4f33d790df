"""The correlation filter against its equations in plain loops, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_ext.base.errors import InputError
from monai_ext.phantom.nuclei import sprites
from monai_ext.transforms import kcf
from monai_ext.transforms.kcf import KCFPseudoMask, KCFPseudoMaskd, kernel_regression

EXACT = 1e-9  # double precision
SINGLE = 2e-5  # single precision, responses of about 1
LAMBDA, OUTPUT_SIGMA, KERNEL_SIGMA = 1e-4, 0.1, 0.2


def shifts(height, width):
    return [
        (i, j) for i in range(-(height // 2), height - height // 2) for j in range(-(width // 2), width - width // 2)
    ]


def weights_by_solving(template):
    """The ridge regression with its matrix of all pairs of shifts: no Fourier transform, no shortcut."""
    _, height, width = template.shape
    steps = shifts(height, width)
    shifted = [np.roll(template, step, (1, 2)) for step in steps]
    scale = template.size * KERNEL_SIGMA**2
    kernel = [[np.exp(-((a - b) ** 2).sum() / scale) for b in shifted] for a in shifted]
    spread = OUTPUT_SIGMA * np.sqrt(height * width)
    around = [(min(i % height, -i % height), min(j % width, -j % width)) for i, j in steps]
    target = [np.exp(-(i * i + j * j) / (2 * spread**2)) for i, j in around]
    return dict(zip(steps, np.linalg.solve(kernel + LAMBDA * np.eye(len(steps)), target), strict=True))


def response_by_looking(image, template, subtract_mean=False):
    """At every pixel the sum over the windows about it and its neighbours."""
    _, height, width = template.shape
    _, rows, cols = image.shape
    room = height + width
    wide = np.pad(image, ((0, 0), (room, room), (room, room)), constant_values=1.0)  # white

    def centred(values):
        return values - values.mean((1, 2), keepdims=True) if subtract_mean else values

    def alike(row, col):
        top, left = row + room - height // 2, col + room - width // 2
        window = wide[:, top : top + height, left : left + width]
        return np.exp(-((centred(window) - centred(template)) ** 2).sum() / (template.size * KERNEL_SIGMA**2))

    weights = weights_by_solving(template)
    return np.array(
        [[sum(w * alike(r + i, c + j) for (i, j), w in weights.items()) for c in range(cols)] for r in range(rows)]
    )


@pytest.fixture
def noise():
    return np.random.default_rng(0).random((3, 13, 11))


@pytest.mark.parametrize("size", [(4, 4), (5, 5), (3, 6)], ids=str)
def test_weights_solve_the_ridge_regression(size):
    template = np.random.default_rng(1).random((3, *size))
    expected = weights_by_solving(template)
    found = kernel_regression(torch.from_numpy(template), LAMBDA, OUTPUT_SIGMA, KERNEL_SIGMA)
    for (i, j), weight in expected.items():
        assert found[i, j].item() == pytest.approx(weight, abs=EXACT)


@pytest.mark.parametrize("subtract_mean", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, EXACT), (np.float32, SINGLE)])
def test_response_equals_the_direct_implementation(noise, dtype, tolerance, subtract_mean):
    rng = np.random.default_rng(2)
    templates = [rng.random((3, 4, 4)), rng.random((3, 3, 5))]
    noise[:, 5:9, 2:6] = templates[0]
    find = KCFPseudoMask([t.astype(dtype) for t in templates], rotations=2, subtract_mean=subtract_mean)
    found = find.response(noise.astype(dtype))
    turned = [t for template in templates for t in (template, template[:, ::-1, ::-1])]
    expected = np.max([response_by_looking(noise, template, subtract_mean) for template in turned], axis=0)
    assert found.dtype == (torch.float64 if dtype == np.float64 else torch.float32)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    assert expected.max() > 0.9  # the template itself


def test_on_a_periodic_image_it_is_the_tracker_s_filter():
    """Henriques et al. 2015, equations 21 and 22: response = F^-1(F(k^xz) F(alpha))."""
    rng = np.random.default_rng(3)
    template, window = rng.random((2, 3, 6, 6))
    spectra = np.fft.fft2(template), np.fft.fft2(window)
    overlap = np.fft.ifft2((spectra[0].conj() * spectra[1]).sum(0)).real
    kernel = np.exp(-((template**2).sum() + (window**2).sum() - 2 * overlap) / (template.size * KERNEL_SIGMA**2))
    alpha = kernel_regression(torch.from_numpy(template), LAMBDA, OUTPUT_SIGMA, KERNEL_SIGMA).numpy()
    expected = np.fft.ifft2(np.fft.fft2(kernel) * np.fft.fft2(alpha).conj()).real
    found = KCFPseudoMask([template], rotations=1).response(np.tile(window, (1, 5, 5))).numpy()
    middle = np.roll(found[12:18, 12:18], (-3, -3), (0, 1))  # a response belongs to the middle of its window
    np.testing.assert_allclose(middle, expected, atol=EXACT)


def test_blocks_leave_no_seam(noise, monkeypatch):
    template = noise[:, 2:8, 3:9]
    image = np.tile(noise, (1, 30, 30))
    find = KCFPseudoMask([template])
    whole = find.response(image)
    points = find.points(image)
    monkeypatch.setattr(kcf, "_BLOCK", 128)
    small = KCFPseudoMask([template])
    np.testing.assert_allclose(small.response(image), whole, atol=EXACT)
    same_places = {tuple(point[[0, 1, 3]].tolist()) for point in points}
    assert {tuple(point[[0, 1, 3]].tolist()) for point in small.points(image)} == same_places
    assert len(points) >= 30 * 30


# ---- what it finds


def scene(seed=0, count=14, size=160):
    """Pink plasma with turned copies of two nuclei; their true middles and which they are."""
    rng = np.random.default_rng(seed)
    pictures = [sprites(3, 0.5, form)[0][0][..., 0] for form in ("lymphocyte", "tumour")]
    stains = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
    hematoxylin = np.zeros((size, size))
    places = [(r, c) for r in range(24, size - 23, 36) for c in range(24, size - 23, 36)]
    chosen = [places[k] for k in rng.permutation(len(places))[:count]]
    kinds = rng.integers(0, 2, count)
    for (row, col), kind in zip(chosen, kinds, strict=True):
        picture = np.rot90(pictures[kind], rng.integers(4))
        half = picture.shape[0] // 2
        hematoxylin[row - half : row + half + 1, col - half : col + half + 1] += picture
    density = np.stack([hematoxylin, np.full_like(hematoxylin, 0.2)], -1)
    image = 245 * np.exp(-density @ stains.T) + rng.normal(0, 2, (size, size, 3))
    return np.moveaxis(image.clip(0, 255).astype(np.uint8), -1, 0), np.array(chosen), kinds


def crops(image, points, kinds):
    return {
        name: image[:, row - half : row + half + 1, col - half : col + half + 1]
        for kind, (name, half) in enumerate((("small", 8), ("large", 14)))
        for row, col in points[kinds == kind][:1]
    }


def test_finds_cells_and_says_by_which_template():
    image, points, kinds = scene()
    find = KCFPseudoMask(crops(image, points, kinds))
    found = find.points(image)
    distance = np.hypot(*(found[:, None, :2].numpy() - points).transpose(2, 0, 1))
    nearest = distance.argmin(1)
    assert distance.min(1).max() <= 1.5
    assert sorted(nearest) == list(range(len(points)))
    assert (found[:, 3].numpy() == kinds[nearest]).all()
    assert (found[:, 2].diff() <= 0).all()
    assert find.names == ["small", "large"]
    assert find.cell_size == pytest.approx((17 + 29) / 2)


def test_other_directions_need_rotations():
    image, points, kinds = scene(seed=1, count=1)
    (cell,) = crops(image, points, kinds).values()
    turned = np.ascontiguousarray(np.rot90(image, axes=(1, 2)))
    one, four = (KCFPseudoMask([cell], rotations=n).response(turned) for n in (1, 4))
    assert (four >= one - SINGLE).all()
    np.testing.assert_allclose(four, np.rot90(KCFPseudoMask([cell]).response(image)), atol=SINGLE)
    assert one.max() < four.max() - 0.1


def test_mask_is_disks_on_the_cells():
    image, points, kinds = scene()
    mask = KCFPseudoMask(crops(image, points, kinds))(image)
    rows, cols = np.ogrid[: image.shape[1], : image.shape[2]]
    away = [np.hypot(rows - r, cols - c) for r, c in points]
    assert mask.shape == (1, *image.shape[1:])
    assert mask.dtype == bool
    assert all(mask[0, r, c] for r, c in points)
    assert not mask[0][np.min(away, axis=0) > 29 / 2 + 2].any()


def test_kinds_are_kept_and_the_dictionary_agrees():
    image, points, kinds = scene()
    templates = crops(image, points, kinds)
    array = KCFPseudoMask(templates)(image)
    tensor = KCFPseudoMask(templates)(torch.from_numpy(image))
    assert isinstance(array, np.ndarray)
    assert tensor.dtype == torch.bool
    np.testing.assert_array_equal(tensor, array)
    pipeline = Compose([KCFPseudoMaskd("image", templates, points_key="points")])
    item = pipeline({"image": MetaTensor(image)})
    np.testing.assert_array_equal(item["cell_mask"], array)
    np.testing.assert_array_equal(item["points"], KCFPseudoMask(templates).points(image))
    np.testing.assert_array_equal(item["image"], image)


def test_no_cells_is_an_empty_mask():
    image, points, kinds = scene()
    find = KCFPseudoMask(crops(image, points, kinds))
    # of a darker one the corners, seen against the white beyond them, have a response
    for empty in (np.full_like(image, 255), np.full_like(image, 240)):
        assert find.points(empty).shape == (0, 4)
        assert not find(empty).any()


def test_one_cell_of_a_plateau_stays(monkeypatch):
    """Responses that are equal to the last bit, as identical cells side by side may give them."""
    image = np.full((3, 60, 60), 255, np.uint8)
    image[:, 20:24, 10:50] = 0
    image[:, 40, 10] = 0
    template = np.random.default_rng(0).random((3, 9, 9))
    find = KCFPseudoMask([template], rotations=1, distance=4)
    monkeypatch.setattr(find, "_respond", lambda bank, block: (block[0] / 2, torch.zeros(block.shape[1:])))
    assert find.points(image).tolist() == [[20, 10, 0.5, 0], [40, 10, 0.5, 0]]


def test_memory_does_not_grow_with_the_image():
    """A long image is gone through in blocks; no map of its size is made."""
    image, points, kinds = scene()
    find = KCFPseudoMask({"small": crops(image, points, kinds)["small"]}, rotations=1)
    sizes = []
    original = find._respond
    find._respond = lambda bank, block: sizes.append(block.shape) or original(bank, block)
    find.points(np.tile(image, (1, 1, 12)))
    assert len(sizes) > 1
    assert max(map(max, sizes)) <= kcf._BLOCK


# ---- bad input


@pytest.mark.parametrize(
    ("templates", "options", "expected"),
    [
        pytest.param([np.full((3, 9, 9), 128, np.uint8)], {}, "one colour", id="one colour"),
        pytest.param([], {}, "at least one", id="no template"),
        pytest.param([np.eye(9)], {}, "template (C, h, w)", id="no channels"),
        pytest.param([np.eye(9)[None] * 2], {}, "float in 0 to 1", id="range"),
        pytest.param([np.eye(9)[None]], {"threshold": 0}, "threshold", id="threshold"),
        pytest.param([np.eye(9)[None]], {"regularisation": 0}, "regularisation", id="regularisation"),
        pytest.param([np.eye(9)[None]], {"rotations": 0.5}, "rotations: expected a whole number", id="half a rotation"),
        pytest.param([np.eye(9)[None], np.stack([np.eye(9)] * 3)], {}, "channels", id="channels differ"),
    ],
)
def test_unusable_templates_are_refused(templates, options, expected):
    with pytest.raises(InputError) as error:
        KCFPseudoMask(templates, **options)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_template_larger_than_the_image_is_refused():
    templates = {"big.png": np.random.default_rng(0).random((3, 40, 20))}
    with pytest.raises(InputError, match=r"big\.png: expected a template no larger than the image \(30 x 90 px\)"):
        KCFPseudoMask(templates)(np.zeros((3, 30, 90)))
    image = MetaTensor(torch.zeros(3, 30, 90), meta={"filename_or_obj": "vessel_7.png"})
    with pytest.raises(InputError, match=r"vessel_7\.png: big\.png: expected a template no larger"):
        KCFPseudoMaskd("image", templates)({"image": image})


@pytest.mark.parametrize(
    "image", [np.zeros((1, 60, 60)), np.zeros((60, 60)), np.full((3, 60, 60), 2.0), np.zeros((3, 60, 60), np.int64)]
)
def test_unusable_images_are_refused(image):
    with pytest.raises(InputError, match="expected"):
        KCFPseudoMask([np.random.default_rng(0).random((3, 9, 9))])(image)
