import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.transforms.concentric import (
    IGNORED,
    ConcentricLabel,
    ConcentricLabeld,
    RandConcentricLabel,
    RandConcentricLabeld,
    draw_concentric,
    mask_to_boxes,
)

RIM_TOL = 1e-9  # px: on the rim itself the order of float operations may decide


def by_pixel(centres, inner, outer, shape):
    """Each pixel asks every figure how far it is; -1 where a pixel is on a rim."""
    label = np.zeros(shape, int)
    for row in range(shape[0]):
        for col in range(shape[1]):
            far = [np.hypot(row - r, col - c) for r, c in centres]
            if any(d <= r for d, r in zip(far, inner, strict=True)):
                label[row, col] = 1
            elif any(d <= r for d, r in zip(far, outer, strict=True)):
                label[row, col] = 255
            if any(abs(d - r) < RIM_TOL for d, *rs in zip(far, inner, outer, strict=True) for r in rs):
                label[row, col] = -1
    return label


@settings(max_examples=25, deadline=None)
@given(data=st.data(), height=st.integers(1, 30), width=st.integers(1, 30))
def test_equals_the_distance_of_each_pixel(data, height, width):
    place = st.floats(-25, 50, allow_nan=False)  # some lie outside
    centres = data.draw(st.lists(st.tuples(place, place), max_size=4))
    inner = [data.draw(st.floats(0.3, 12)) for _ in centres]
    outer = [r * data.draw(st.floats(0.5, 2.5)) for r in inner]
    got = draw_concentric(np.array(centres).reshape(-1, 2), inner, outer, (height, width))
    want = by_pixel(centres, inner, outer, (height, width))
    assert got.dtype == np.uint8
    assert got.shape == (1, height, width)
    np.testing.assert_array_equal(got[0][want >= 0], want[want >= 0])


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 9, 10, 12, 15, 17, 43])
def test_area_is_that_of_a_circle(radius):
    centres = np.random.default_rng(radius).uniform(60, 70, (50, 2))
    areas = [draw_concentric(c[None], radius, 0, (130, 130)).sum() for c in centres]
    assert np.mean(areas) == pytest.approx(np.pi * radius**2, rel=0.02 if radius > 2 else 0.1)


def test_a_disk_wins_over_any_ring():
    label = ConcentricLabel(12, 24)([[30, 30], [30, 50]], (60, 80))[0]
    assert (label[30, 42], label[30, 38]) == (1, 1)  # each in the other's ring
    assert label[30, 62] == 1
    assert label[30, 63] == IGNORED
    assert torch.equal(label, ConcentricLabel(12, 24)([[30, 50], [30, 30]], (60, 80))[0])


@pytest.mark.parametrize(
    ("inner", "outer", "row"),
    [
        pytest.param(12, 24, [1] * 13 + [255] * 12 + [0] * 6, id="r12 R24"),
        pytest.param(15, 30, [1] * 16 + [255] * 15, id="r15 R30"),
        pytest.param(12, None, [1] * 13 + [0] * 18, id="circle r12"),
        pytest.param(15, None, [1] * 16 + [0] * 15, id="circle r15"),
    ],
)
def test_labels_of_the_paper(inner, outer, row):
    label = ConcentricLabel(inner, outer)(torch.tensor([[0, 0]]), (31, 31))
    assert label.dtype == torch.uint8
    assert label[0, 0].tolist() == label[0, :, 0].tolist() == row


@pytest.mark.parametrize("empty", [np.zeros((0, 2)), np.zeros(0), torch.zeros(0, 2), []], ids=repr)
def test_no_figures(empty):
    assert ConcentricLabel()(empty, (5, 7)).shape == (1, 5, 7)
    label = RandConcentricLabel()(empty, (5, 7))
    assert not label.any()


@pytest.mark.parametrize("shape", [(20, 20), (1, 1), (3, 200)], ids=str)
def test_image_smaller_than_the_radius(shape):
    assert ConcentricLabel(200, 400)([[0, 0]], shape).eq(1).all()
    assert ConcentricLabel(1, 400)([[500, 500]], shape).eq(0).all()
    assert ConcentricLabel(2, 400)([[-5, -5]], shape).eq(IGNORED).all()


# -- random radii ------------------------------------------------------------------------------------------------------


def test_radii_are_drawn_as_in_the_paper():
    label = RandConcentricLabel().set_random_state(0)
    label.randomize(8000)
    r, R = label.inner, label.outer
    values, counts = np.unique(r, return_counts=True)
    assert values.tolist() == list(range(10, 18))
    assert np.abs(counts / 1000 - 1).max() < 0.12  # four standard deviations
    assert np.array_equal(R, np.rint(R))
    assert (np.rint(1.5 * r) <= R).all()
    assert (np.rint(2.5 * r) >= R).all()
    assert (R / r).mean() == pytest.approx(2, abs=0.02)
    assert np.quantile(R / r, [0.05, 0.95]) == pytest.approx([1.55, 2.45], abs=0.04)
    assert {15, 42, 43} & set(R.astype(int).tolist()) == {15, 42}  # round(2.5 * 17) = 42: numpy rounds halves to even


def test_each_figure_and_call_has_its_own_radii():
    points = [[40, 40], [40, 140], [40, 240]]
    label = RandConcentricLabel().set_random_state(1)
    maps = [label(np.array(points), (80, 280)) for _ in range(6)]
    assert len({m.numpy().tobytes() for m in maps}) == 6
    assert len({maps[0][0, :, c - 40 : c + 40].numpy().tobytes() for _, c in points}) == 3


def test_replay_and_seeds():
    points = np.array([[20, 20], [30, 60]])
    label = RandConcentricLabel().set_random_state(7)
    first = label(points, (60, 90))
    assert torch.equal(label(points, (60, 90), randomize=False), first)
    assert not torch.equal(label(points, (60, 90)), first)
    assert torch.equal(RandConcentricLabel().set_random_state(7)(points, (60, 90)), first)
    assert torch.equal(draw_map(label, points), label(points, (60, 90), randomize=False))


def draw_map(label, points):
    return torch.from_numpy(draw_concentric(points, label.inner, label.outer, (60, 90)))


def test_dictionary_twins():
    image = MetaTensor(torch.zeros(3, 50, 70))
    data = {"image": image, "label": torch.tensor([[20.0, 30.0]])}
    fixed = ConcentricLabeld("label", inner=5, outer=9)(data)
    assert torch.equal(fixed["label"], ConcentricLabel(5, 9)(data["label"], (50, 70)))
    assert fixed["image"] is image
    twin, array = RandConcentricLabeld("label").set_random_state(3), RandConcentricLabel().set_random_state(3)
    for _ in range(3):
        assert torch.equal(twin(data)["label"], array(data["label"], (50, 70)))
    assert data["label"].shape == (1, 2)
    assert "label" not in ConcentricLabeld("label", allow_missing_keys=True)({"image": image})


# -- boxes and masks ---------------------------------------------------------------------------------------------------


def test_boxes_of_components_and_of_instances():
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, 3:9, 4:20] = 1
    mask[0, 9, 20] = 1  # touches by a corner: 8-connected
    mask[0, 30:, 50:] = 1
    assert mask_to_boxes(mask).tolist() == [[3, 4, 10, 21], [30, 50, 40, 60]]
    ids = mask.astype(np.int32)
    ids[0, 3:9, 4:12] = 7
    assert sorted(mask_to_boxes(torch.from_numpy(ids)).tolist()) == [[3, 4, 9, 12], [3, 12, 40, 60]]
    assert mask_to_boxes(np.zeros((4, 4))).shape == (0, 4)
    assert mask_to_boxes(np.ones((1, 1, 1))).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(InputError, match="mask: expected one channel"):
        mask_to_boxes(np.zeros((2, 4, 4)))


@pytest.mark.parametrize("source", ["mask", "boxes"])
def test_radii_follow_height_and_width(source):
    mask = np.zeros((1, 90, 120), np.uint8)
    mask[0, 30:50, 40:80] = 1  # centre 39.5, 59.5; 20 x 40
    objects = mask if source == "mask" else mask_to_boxes(mask)
    label = ConcentricLabel(1.0, 1.0, source)(objects, (90, 120)).numpy()
    np.testing.assert_array_equal(label, draw_concentric([[39.5, 59.5]], 10, 20, (90, 120)))
    assert (label[mask == 0] != 1).all()  # the disk lies inside the object
    assert (label[mask > 0] != 0).mean() > 0.9  # the circle holds all but its corners
    assert ConcentricLabel(1.0, None, source)(objects, (90, 120)).unique().tolist() == [0, 1]
    assert not ConcentricLabel(1.0, 1.0, "mask")(np.zeros((1, 9, 9)), (9, 9)).any()


@pytest.mark.parametrize(
    "options",
    [{"inner": 0}, {"inner": 12, "outer": 11}, {"source": "circles"}],
    ids=["no disk", "ring inside the disk", "source"],
)
def test_wrong_options(options):
    with pytest.raises(InputError):
        ConcentricLabel(**options)


@pytest.mark.parametrize("options", [{"radius": (0, 3)}, {"radius": (5, 4)}, {"ratio": (0.5, 2)}, {"ratio": (2, 1.5)}])
def test_wrong_ranges(options):
    with pytest.raises(InputError, match="radii"):
        RandConcentricLabel(**options)


def test_points_of_the_wrong_shape():
    with pytest.raises(InputError, match=r"points: expected an array \(N, 2\)"):
        ConcentricLabel()(np.zeros(5), (9, 9))
