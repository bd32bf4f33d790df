import cv2
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from skimage.measure import label as connected
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from monai_ext.base.errors import InputError
from monai_ext.instances import split_touching
from monai_ext.transforms import NucleusInstances, NucleusInstancesd

MIN_IOU = 0.85  # of a disc cut off another, against the disc itself
SAME_IOU = 0.9  # of the same nucleus by two watersheds: ridges are broken differently
SHARE_OF_SAME = 0.97


def discs(centres, radii, shape=(120, 160)):
    """A label map of discs; where two overlap a pixel belongs to the one whose edge is further away."""
    rows, cols = np.indices(shape)
    inside = np.stack([r - np.hypot(rows - y, cols - x) for (y, x), r in zip(centres, radii, strict=True)])
    return np.where(inside.max(0) > 0, inside.argmax(0) + 1, 0)


def ious(found, truth):
    best = []
    for k in range(1, truth.max() + 1):
        own = truth == k
        candidates = np.unique(found[own])
        best.append(max(((found == c) & own).sum() / ((found == c) | own).sum() for c in candidates))
    return np.array(best)


def find(mask, mpp=0.5, **options):
    return NucleusInstances(mpp=mpp, **options)(np.asarray(mask, np.float32))


def random_mask(seed=0, count=60, side=200):
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint8)
    for y, x, a, b, angle in zip(
        *rng.uniform(0, side, (2, count)), *rng.uniform(5, 12, (2, count)), rng.uniform(0, 180, count), strict=True
    ):
        cv2.ellipse(mask, (int(x), int(y)), (int(a), int(b)), angle, 0, 360, 1, -1)
    return mask > 0


@pytest.mark.parametrize(
    ("centres", "radii"),
    [
        ([(40, 40), (40, 80)], [12, 12]),  # apart
        ([(40, 40), (40, 63)], [12, 12]),  # touching
        ([(40, 40), (52, 56)], [12, 12]),  # overlapping, aslant
        ([(40, 40), (40, 58)], [13, 8]),  # of two sizes
        ([(40, 40), (40, 63), (60, 51)], [12, 12, 12]),  # three around a gap
        ([(40, 20 + 19 * k) for k in range(7)], [11] * 7),  # a chain
    ],
)
def test_touching_discs_are_parted(centres, radii):
    truth = discs(centres, radii)
    found = find(truth > 0)
    assert found.max() == len(centres)
    assert ious(found, truth).min() > MIN_IOU
    np.testing.assert_array_equal(found > 0, truth > 0)


@pytest.mark.parametrize("angle", range(0, 180, 15))
@pytest.mark.parametrize("axes", [(25, 6), (25, 8), (14, 12)])
def test_a_single_nucleus_stays_whole(angle, axes):
    mask = np.zeros((100, 100), np.uint8)
    cv2.ellipse(mask, (50, 50), axes, angle, 0, 360, 1, -1)
    assert find(mask).max() == 1


def test_as_h_maxima_and_flooding_do():
    """The slow and obvious way: scikit-image's h-maxima as markers, flooded from above."""
    same = total = 0
    for seed in range(4):
        mask = random_mask(seed)
        found = split_touching(mask, 1.0, 0.5)
        inside = np.pad(mask, 1).astype(np.uint8)
        distance = cv2.GaussianBlur(
            cv2.distanceTransform(inside, cv2.DIST_L2, 5), (0, 0), 1.0, borderType=cv2.BORDER_CONSTANT
        )
        height = np.floor(distance * 64) * inside + inside
        peaks = connected(h_maxima(height.astype(np.int32), 32), connectivity=2)
        flooded = watershed(-height, peaks, mask=inside > 0, connectivity=2)[1:-1, 1:-1]
        assert abs(found.max() - flooded.max()) <= 1 + 0.02 * flooded.max()
        scores = ious(found, flooded)
        same, total = same + (scores > SAME_IOU).sum(), total + len(scores)
    assert same / total > SHARE_OF_SAME


def test_depth_parts_more_or_less():
    mask = random_mask()
    counts = [split_touching(mask, 1.0, depth).max() for depth in (0.1, 0.5, 2.0, 100.0)]
    assert sorted(counts, reverse=True) == counts
    assert counts[-1] == connected(mask, connectivity=2).max()  # nothing is parted, nothing is lost


@pytest.mark.parametrize("crop", [(0, 0), (37, 21), (80, 64)])
def test_a_window_agrees_with_the_whole(crop):
    """What lies away from the window's edge is cut in the same way."""
    mask = np.tile(random_mask(3), (2, 2))
    row, col = crop
    window = (slice(row, row + 240), slice(col, col + 240))
    whole, part = split_touching(mask)[window], split_touching(np.ascontiguousarray(mask[window]))
    inner = (slice(60, 180), slice(60, 180))
    pairs = np.unique(np.stack([whole[inner].ravel(), part[inner].ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_turning_and_mirroring_turns_the_instances():
    mask = discs([(40, 40), (40, 61), (58, 50)], [12, 12, 12]) > 0
    found = find(mask)
    for turned in (np.rot90, np.flipud, np.fliplr):
        other = find(np.ascontiguousarray(turned(mask)))
        assert other.max() == found.max()
        assert ious(other, turned(found)).min() > SAME_IOU


def test_lengths_are_in_um():
    truth = discs([(40, 40), (40, 63)], [12, 12])
    fine = np.kron(truth, np.ones((2, 2), int))
    assert find(truth > 0, mpp=0.5).max() == find(fine > 0, mpp=0.25).max() == 2
    area = (truth == 1).sum() * 0.25
    assert find(truth == 1, min_area_um2=area).max() == 1
    assert find(truth == 1, min_area_um2=area + 0.2).max() == 0
    assert find(fine == 1, mpp=0.25, min_area_um2=area).max() == 1


def test_holes_are_filled_up_to_their_size():
    mask = discs([(40, 40)], [15]) > 0
    holed = mask.copy()
    holed[38:42, 38:42] = False  # 16 px, 4 um2
    np.testing.assert_array_equal(find(holed, max_hole_um2=4) > 0, mask)
    np.testing.assert_array_equal(find(holed, max_hole_um2=3.9, min_area_um2=0) > 0, holed)
    edge = np.zeros((20, 20), bool)
    edge[:8, 4:12] = True
    edge[0, 7:9] = False  # open to the image's edge
    np.testing.assert_array_equal(find(edge, min_area_um2=0) > 0, edge)


def test_numbers_have_no_gaps():
    found = find(random_mask(1), min_area_um2=40)
    np.testing.assert_array_equal(np.unique(found), np.arange(found.max() + 1))
    assert (np.bincount(found.ravel())[1:] >= 160).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5])
def test_nothing_above_the_threshold(value):
    found = NucleusInstances(mpp=0.5)(np.full((1, 40, 50), value, np.float32))
    assert found.shape == (1, 40, 50)
    assert found.dtype == np.int32
    assert not found.any()


@pytest.mark.parametrize("shape", [(1, 40, 50), (1, 1, 1), (1, 200, 3)])
def test_all_foreground_is_one(shape):
    assert (NucleusInstances(mpp=0.5, min_area_um2=0)(np.ones(shape, np.float32)) == 1).all()


def test_every_kind_of_array():
    probability = (discs([(40, 40), (40, 63)], [12, 12]) > 0).astype(np.float32)
    expected = NucleusInstances(mpp=0.5)(probability)
    for kind in (torch.from_numpy(probability)[None], MetaTensor(probability[None]), torch.tensor(probability).half()):
        found = NucleusInstances(mpp=0.5)(kind)
        assert type(found) is type(kind)
        assert found.dtype == torch.int32
        np.testing.assert_array_equal(np.asarray(found).reshape(expected.shape), expected)


def test_dictionary_takes_the_resolution_from_the_image():
    truth = discs([(40, 40), (40, 63)], [12, 12])
    probability = torch.stack([torch.zeros(truth.shape), torch.from_numpy(truth > 0).float()])
    source = MetaTensor(torch.zeros(3, *truth.shape), meta={"mpp": 0.5})
    d = NucleusInstancesd("pred", channel=1, min_area_um2=50)({"pred": probability, "source": source})
    assert d["instances"].shape == (1, *truth.shape)
    assert d["instances"].max() == 2
    assert d["pred"] is probability
    assert ndimage.sum(d["instances"][0].numpy() > 0) == (truth > 0).sum()
    bare = {"pred": probability}
    assert NucleusInstancesd("pred", channel=1, mpp=0.5)(bare)["instances"].max() == 2
    with pytest.raises(InputError, match="um per px"):
        NucleusInstancesd("pred", channel=1)(bare)
    with pytest.raises(InputError, match="channel 2"):
        NucleusInstancesd("pred", channel=2, mpp=1)(bare)


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (np.full((4, 4), np.nan), r"values in \[0, 1\]"),
        (np.full((4, 4), 1.5), r"values in \[0, 1\]"),
        (np.zeros((2, 4, 4)), r"shape \(1, H, W\)"),
        (np.zeros((0, 4)), r"shape \(1, H, W\)"),
    ],
)
def test_unusable_maps(probability, expected):
    with pytest.raises(InputError, match=expected):
        NucleusInstances(mpp=0.5)(probability)


@pytest.mark.parametrize(
    "options", [{"threshold": 1.0}, {"sigma_um": -1}, {"depth_um": float("nan")}, {"min_area_um2": -0.1}]
)
def test_arguments_out_of_range(options):
    with pytest.raises(InputError):
        NucleusInstances(**options)
