from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data import Tile
from monai_ext.transforms.patches import RandFieldPatchesd, patch_matrix, warp_points

PX_TOL = 0.25  # where the brightest spot of an interpolated dot lies
EXACT = 1e-9

WILD = {"rotations": (16, 16), "mirrors": (2, 2), "shift": 20, "zoom": (0.7, 1.4)}


def dotted(shape, points, sigma=2.0):
    """A field with a soft dot of height 200 on 20 at each point, in three channels that differ."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    image = np.full(shape, 20.0)
    for r, c in points:
        image = np.maximum(image, 20 + 180 * np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / (2 * sigma**2)))
    return np.stack([image, image * 0.5, 255 - image]).astype(np.float32)


def centre_of_dot(image, point, size, half=7):
    """Centre of mass of what is brighter than the ground around a place; None at the border."""
    row, col = np.rint(point).astype(int)
    if min(row, col) < half or max(row, col) >= size - half:
        return None
    part = image[row - half : row + half + 1, col - half : col + half + 1] - 20
    rows, cols = np.mgrid[row - half : row + half + 1, col - half : col + half + 1]
    return np.array([(part * rows).sum(), (part * cols).sum()]) / part.sum()


@pytest.mark.parametrize("size", [128, 129])
@pytest.mark.parametrize("shape", [(200, 260), (300, 180), (90, 70)], ids=str)
def test_points_move_with_the_pixels(shape, size):
    rng = np.random.default_rng(0)
    points = np.array([(r, c) for r in range(20, shape[0] - 15, 40) for c in range(20, shape[1] - 15, 40)])
    points = points + rng.uniform(-5, 5, points.shape)
    cut = RandFieldPatchesd(["image", "label"], size=size, num_samples=12, **WILD).set_random_state(size)
    checked = 0
    for patch in cut({"image": torch.from_numpy(dotted(shape, points)), "label": points}):
        image = patch["image"].numpy()
        assert image.shape == (3, size, size)
        for point in patch["label"].numpy():
            found = centre_of_dot(np.where(image[0] > 220, 20, image[0]), point, size)
            if found is not None:
                assert np.abs(found - point).max() < PX_TOL
                checked += 1
    assert checked > 20


@settings(max_examples=60, deadline=None)
@given(
    centre=st.tuples(st.floats(-50, 900), st.floats(-50, 900)),
    size=st.integers(1, 600),
    angle=st.floats(0, 360),
    mirror=st.booleans(),
    zoom=st.floats(0.25, 4),
)
def test_matrix_is_a_similarity_about_the_centre(centre, size, angle, mirror, zoom):
    matrix = patch_matrix(centre, size, angle, mirror, zoom)
    np.testing.assert_allclose(warp_points(np.array([centre]), matrix), [[(size - 1) / 2] * 2], atol=1e-6)
    np.testing.assert_allclose(matrix[:, :2] @ matrix[:, :2].T, zoom**2 * np.eye(2), atol=EXACT * 100)
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(zoom**2 * (-1 if mirror else 1))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_copy_pixels(quarters, mirror):
    image = np.random.default_rng(1).integers(0, 256, (3, 60, 70)).astype(np.uint8)
    cut = RandFieldPatchesd(["image", "label"], size=20)
    matrix = cut.matrix = patch_matrix((29.5, 40.5), 20, 90 * quarters, mirror)
    got = cut._warp(image, mask=False)
    want = np.rot90(image[:, 20:40, 31:51], quarters, axes=(1, 2))  # counter-clockwise, as the angle
    np.testing.assert_array_equal(got, want[:, :, ::-1] if mirror else want)
    point = np.array([[25, 33]])
    (row, col) = warp_points(point, matrix)[0].round().astype(int)
    assert (got[:, row, col] == image[:, 25, 33]).all()


def variants(cut, tile, shape, count):
    """(angle, mirrored) of each draw."""
    for _ in range(count):
        cut.randomize(shape, tile)
        linear = cut.matrix[:, :2]
        mirrored = np.linalg.det(linear) < 0
        turned = np.diag([-1.0 if mirrored else 1.0, 1.0]) @ linear
        yield np.rad2deg(np.arctan2(turned[0, 1], turned[0, 0])) % 360, bool(mirrored)


@pytest.mark.parametrize(
    ("rotations", "mirrors", "positive", "expected"),
    [
        pytest.param((8, 4), (2, 1), True, 8 * 2, id="2013 to 2016, positive"),
        pytest.param((8, 4), (2, 1), False, 4, id="2013 to 2016, negative"),
        pytest.param((16, 4), (2, 2), True, 16 * 2, id="2012, positive"),
        pytest.param((16, 4), (2, 2), False, 4 * 2, id="2012, negative"),
    ],
)
def test_rotations_and_mirrors_of_the_paper(rotations, mirrors, positive, expected):
    cut = RandFieldPatchesd(["image", "label"], rotations=rotations, mirrors=mirrors)
    cut.set_random_state(0)
    tile = Tile((500, 500), (500, 500), positive, np.array([[700.0, 700.0]])[: int(positive)])
    counts = Counter((round(a * 16 / 360) % 16, m) for a, m in variants(cut, tile, (2000, 2000), 60 * expected))
    assert len(counts) == expected
    assert min(counts.values()) > 25
    assert cut.variants[0 if positive else 1] == expected * (9 if positive else 1)


@pytest.mark.parametrize("positive", [True, False])
def test_a_tile_is_cut_as_the_paper_does(positive):
    """At its place, with nine shifts if it holds a figure; the figure need not be in the middle."""
    cut = RandFieldPatchesd(["image", "label"], size=(300, 500), rotations=(1, 1), mirrors=(1, 1), jitter=False)
    cut.set_random_state(0)
    tile = Tile((600, 1000), (300, 500), positive, np.array([[700.0, 1100.0]])[: int(positive)])
    corners = Counter()
    for _ in range(400):
        cut.randomize((2000, 2000), tile)
        corners[tuple(np.rint(-warp_points(np.zeros((1, 2)), cut.matrix)[0]).astype(int).tolist())] += 1
    if positive:
        assert set(corners) == {(600 + r, 1000 + c) for r in (-20, 0, 20) for c in (-20, 0, 20)}
        assert min(corners.values()) > 20
    else:
        assert set(corners) == {(600, 1000)}


@pytest.mark.parametrize("jitter", [True, False])
@pytest.mark.parametrize("zoom", [(1, 1), (0.8, 1.25)], ids=str)
@pytest.mark.parametrize("point", [(0, 0), (0, 999), (500, 500), (999, 700)], ids=str)
def test_a_patch_of_a_figure_holds_it(jitter, zoom, point):
    options = {"size": 100, "zoom": zoom, "rotations": (16, 16), "jitter": jitter}
    cut = RandFieldPatchesd(["image", "label"], **options).set_random_state(2)
    figure = np.array([point], dtype=float)
    tile = Tile(tuple(int(c) // 100 * 100 for c in point), (100, 100), True, figure)
    for _ in range(300):
        cut.randomize((1000, 1000), tile)
        assert cut._inside(warp_points(figure, cut.matrix), 0)[0]


def test_a_patch_of_a_lookalike_is_about_it_and_varied_as_a_negative_one():
    cut = RandFieldPatchesd(["image", "label"], size=100, rotations=(16, 1), mirrors=(2, 1)).set_random_state(0)
    place = np.array([[510.0, 590.0]])
    tile = Tile((500, 500), (100, 100), False, place)
    moved = []
    for _ in range(300):
        cut.randomize((1000, 1000), tile)
        assert np.array_equal(cut.matrix[:, :2], np.eye(2))
        moved.append(warp_points(place, cut.matrix)[0])
    assert np.min(moved) > 15
    assert np.max(moved) < 85
    assert np.std(moved, axis=0).min() > 10


def test_patches_without_a_figure_lie_anywhere_on_their_tile():
    cut = RandFieldPatchesd(["image", "label"], size=50, rotations=(1, 1), mirrors=(1, 1)).set_random_state(0)
    tile = Tile((200, 300), (50, 50))
    centres = []
    for _ in range(500):
        cut.randomize((1000, 1000), tile)
        centres.append(24.5 - warp_points(np.zeros((1, 2)), cut.matrix)[0])
    assert np.min(centres, axis=0).tolist() == pytest.approx([200, 300], abs=1)
    assert np.max(centres, axis=0).tolist() == pytest.approx([250, 350], abs=1)


def test_field_without_figures():
    image = np.random.default_rng(0).integers(0, 255, (3, 90, 80)).astype(np.uint8)
    for points in (np.zeros((0, 2)), torch.zeros(0, 2)):
        patches = RandFieldPatchesd(["image", "label"], size=32, num_samples=3)({"image": image, "label": points})
        assert [tuple(p["label"].shape) for p in patches] == [(0, 2)] * 3


def test_only_pixels_near_the_patch_are_touched():
    """A window of the field gives what the whole of it does."""
    image = np.random.default_rng(3).integers(0, 255, (3, 400, 500)).astype(np.uint8)
    cut = RandFieldPatchesd(["image", "label"], size=(60, 90), **WILD).set_random_state(3)
    for corner in [(0, 0), (340, 410), (150, 200)] * 10:
        cut.randomize((400, 500), Tile(corner, (60, 90)))
        whole = cv2.warpAffine(
            np.ascontiguousarray(np.moveaxis(image, 0, -1)),
            cut.matrix,
            (90, 60),
            flags=cv2.INTER_LINEAR,
            borderValue=(255,) * 3,
        )
        difference = np.abs(cut._warp(image, mask=False).astype(int) - np.moveaxis(whole, -1, 0))
        assert difference.max() <= 1  # OpenCV rounds places, to a fraction of a pixel
        assert difference.mean() < 0.01


def test_figures_whose_ring_reaches_in_are_kept():
    cut = RandFieldPatchesd(["image", "label"], size=100, num_samples=40, rotations=(1, 1), shift=0)
    cut.set_random_state(0)
    points = np.array([[r, c] for r in range(0, 400, 10) for c in range(0, 400, 10)], dtype=np.float32)
    for patch in cut({"image": np.zeros((1, 400, 400), np.uint8), "label": points}):
        moved = patch["label"].numpy()
        assert ((moved > -44) & (moved < 143)).all()
        inside = ((moved >= 0) & (moved <= 99)).all(1).sum()
        assert 81 <= inside <= 121
        assert len(moved) > inside


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_masks_keep_their_numbers_and_images_their_glass():
    ids = np.zeros((1, 100, 120), np.int32)
    ids[0, 20:60, 30:80] = 70_001
    ids[0, 60:90, 30:80] = 3
    image = np.where(ids > 0, 100, 180).repeat(3, 0).astype(np.uint8)
    options = {"size": 150, "num_samples": 8, "mask_keys": ["mask"], **WILD}
    cut = RandFieldPatchesd(["image", "label", "mask"], **options).set_random_state(4)
    data = {"image": MetaTensor(torch.from_numpy(image), meta={"mpp": 0.25}), "label": np.array([[50.0, 50.0]])}
    for patch in cut(data | {"mask": torch.from_numpy(ids), "name": "x"}):
        assert patch["mask"].dtype == torch.int32
        assert set(patch["mask"].unique().tolist()) == {0, 3, 70_001}
        assert patch["image"].dtype == torch.uint8
        assert patch["image"].meta["mpp"] == 0.25
        assert patch["name"] == "x"
        corners = patch["image"][:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.eq(255).any()  # outside the field there is glass
        figure = patch["mask"][0] > 0
        assert (patch["image"][0][figure] - 100.0).abs().float().mean() < 4  # mask and image lie on each other


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor], ids=["numpy", "tensor", "MetaTensor"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_kind_and_type_stay(kind, dtype, channels):
    image = kind(np.full((channels, 20, 20), 7, dtype))
    (patch,) = RandFieldPatchesd(["image", "label"], size=64, num_samples=1)(
        {"image": image, "label": np.zeros((0, 2))}
    )
    assert type(patch["image"]) is type(image)
    assert patch["image"].dtype == image.dtype
    assert patch["image"].shape == (channels, 64, 64)
    assert set(np.unique(np.asarray(patch["image"]))) >= {7, 255}  # a field of 20 px floats on glass


def test_equal_seeds_equal_patches():
    rng = np.random.default_rng(5)
    data = {"image": rng.integers(0, 255, (3, 300, 300)).astype(np.uint8), "label": rng.uniform(0, 300, (6, 2))}

    def cut(seed):
        make = RandFieldPatchesd(["image", "label"], size=64, num_samples=5, **WILD).set_random_state(seed)
        return make(data)

    one, same, other = cut(1), cut(1), cut(2)
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
    assert not np.array_equal(one[0]["image"], other[0]["image"])
    assert len({patch["image"].tobytes() for patch in one}) == 5


@pytest.mark.parametrize(
    "options",
    [{"size": (5, 0)}, {"zoom": (0, 1)}, {"zoom": (2, 1)}, {"size": 0}, {"rotations": (8, 0)}, {"mirrors": (3, 1)}],
    ids=str,
)
def test_wrong_options(options):
    with pytest.raises(InputError):
        RandFieldPatchesd(["image", "label"], **options)


def test_fields_without_points():
    """Instance maps of any integer type move with their image, and nothing but patches comes out."""
    image = torch.randint(0, 255, (3, 90, 120), dtype=torch.uint8)
    instances = torch.zeros(1, 90, 120, dtype=torch.int32)
    instances[0, 30:50, 40:70] = 70_000
    cut = RandFieldPatchesd(
        ["image", "label"], points_key=None, size=64, num_samples=8, rotations=(4, 4), mask_keys=["label"]
    ).set_random_state(0)
    patches = cut({"image": image, "label": instances})
    assert len(patches) == 8
    for patch in patches:
        assert patch["image"].shape == (3, 64, 64)
        assert patch["image"].dtype == torch.uint8
        assert patch["label"].dtype == torch.int32
        assert set(patch["label"].unique().tolist()) <= {0, 70_000}
