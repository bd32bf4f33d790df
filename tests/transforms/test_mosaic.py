"""Vessels cut up, put together as mosaics, and put back: every patch to where it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import Compose

from monai_ext.base.errors import InputError
from monai_ext.transforms.mosaic import (
    CellGridMosaic,
    CellGridMosaicd,
    CutCellPatches,
    CutCellPatchesd,
    PatchClassesd,
    spread_patches,
)

GRID, SIDE = 4, 5  # small mosaics do what large ones do
DRAWS = 400


def vessel(height, width, cells=(), seed=0):
    """An image without two like pixels side by side, and a mask of single pixels."""
    image = np.random.default_rng(seed).integers(0, 255, (3, height, width), dtype=np.uint8)
    mask = np.zeros((1, height, width), bool)
    for row, col in cells:
        mask[0, row, col] = True
    return image, mask


def whole_patches(rows, cols, chosen, seed=0):
    """A vessel of whole patches that are kept as they are: patch k holds a cell if chosen[k]."""
    cells = [(k // cols * SIDE + 1, k % cols * SIDE + 2) for k in np.flatnonzero(chosen)]
    return vessel(rows * SIDE, cols * SIDE, cells, seed)


cut = CutCellPatches(cell_size=SIDE / 3, patch=SIDE)


# ---- cutting


def test_patches_are_the_vessel_s_own_pixels():
    chosen = np.random.default_rng(0).random(12) < 0.5
    image, mask = whole_patches(3, 4, chosen)
    patches, numbers, cells = cut(image, mask)
    assert cut.patch_px == SIDE
    assert numbers.tolist() == np.flatnonzero(chosen).tolist()
    assert cells.all()
    for patch, number in zip(patches, numbers.tolist(), strict=True):
        row, col = number // 4 * SIDE, number % 4 * SIDE
        np.testing.assert_array_equal(patch, image[:, row : row + SIDE, col : col + SIDE])


def test_patches_are_three_cells_wide_and_32_px():
    image, mask = vessel(100, 130, [(0, 0), (99, 129)])
    transform = CutCellPatches(cell_size=16)
    patches, numbers, _ = transform(image, mask)
    assert transform.patch_px == 48
    assert transform.grid_shape(image.shape) == (3, 3)
    assert patches.shape == (2, 3, 32, 32)
    assert numbers.tolist() == [0, 8]
    assert (patches[1][:, 10:, :] == 255).all()  # beyond the border it is white
    assert patches[0].float().mean() == pytest.approx(image[:, :48, :48].mean(), abs=1)  # averaged, not sampled


@pytest.mark.parametrize(("cell", "holds"), [((4, 4), [0]), ((5, 4), [2]), ((4, 5), [1])])
def test_any_part_of_a_cell_counts(cell, holds):
    image, mask = vessel(2 * SIDE, 2 * SIDE, [cell])
    assert cut(image, mask)[1].tolist() == holds


def test_background_can_be_kept_but_not_what_is_blank():
    image, mask = whole_patches(2, 3, [True, False, False, False, True, False])
    image[:, :SIDE, 2 * SIDE :] = 255  # patch 2 lies beyond the lumen
    mask[0, 0, 2 * SIDE] = True  # where the disk of a cell of patch 1 ends
    patches, numbers, cells = CutCellPatches(SIDE / 3, patch=SIDE, keep_background=True)(image, mask)
    assert numbers.tolist() == [0, 1, 3, 4, 5]
    assert cells.tolist() == [True, False, False, True, False]
    assert len(patches) == 5


@pytest.mark.slow
def test_a_vessel_of_10_000_px_is_cut_a_strip_at_a_time():
    image = np.full((3, 10_000, 10_000), 255, np.uint8)
    mask = np.zeros((1, 10_000, 10_000), bool)
    mask[0, ::2500, ::2500] = True
    image[:, 2500::2500, 2500::2500] = 0
    patches, numbers, _ = CutCellPatches(16)(image, mask)
    assert len(patches) == 9
    assert (patches.flatten(1).amin(1) < 255).all()
    assert numbers[-1] == 7500 // 48 * 209 + 7500 // 48


@pytest.mark.parametrize(
    ("image", "mask", "expected"),
    [
        (np.zeros((3, 9, 9), np.uint8), np.zeros((1, 9, 8), bool), "mask of its image's size"),
        (np.zeros((3, 9, 9)), np.zeros((1, 9, 9), bool), "uint8"),
        (np.zeros((9, 9), np.uint8), np.zeros((1, 9, 9), bool), "uint8"),
    ],
)
def test_what_cannot_be_cut_is_refused(image, mask, expected):
    with pytest.raises(InputError, match=expected):
        cut(image, mask)


# ---- there and back


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    cols=st.integers(1, 7),
    seed=st.integers(0, 2**20),
    share=st.floats(0, 1),
    shuffle=st.booleans(),
    limit=st.sampled_from(["draw", "split"]),
    spacing=st.integers(1, 3),
)
def test_inverse_puts_every_patch_back(rows, cols, seed, share, shuffle, limit, spacing):
    chosen = np.random.default_rng(seed).random(rows * cols) < share
    image, mask = whole_patches(rows, cols, chosen, seed)
    mosaic = CellGridMosaic(GRID, shuffle, limit, spacing).set_random_state(seed)
    made = mosaic(*cut(image, mask))
    count, room = int(chosen.sum()), (-(-GRID // spacing)) ** 2
    assert len(made) == (1 if limit == "draw" else max(1, -(-count // room)))
    order = torch.stack([one["order"] for one in made])
    taken = order[order >= 0].tolist()
    assert len(set(taken)) == len(taken) == (min(count, room) if limit == "draw" else count)
    assert all(chosen[taken])
    back = mosaic.inverse([one["image"] for one in made], order, (rows, cols), fill=7)
    for number in range(rows * cols):
        place = (slice(None), slice(number // cols * SIDE, (number // cols + 1) * SIDE))
        place = (*place, slice(number % cols * SIDE, (number % cols + 1) * SIDE))
        expected = image[place] if number in taken else np.full((3, SIDE, SIDE), 7)
        np.testing.assert_array_equal(back[place], expected)


def test_blank_places_come_last_and_are_white():
    image, mask = whole_patches(2, 4, [True] * 5 + [False] * 3)
    (one,) = CellGridMosaic(GRID)(*cut(image, mask))
    assert one["image"].shape == (3, GRID * SIDE, GRID * SIDE)
    assert one["cells"].dtype == torch.bool
    assert one["cells"].flatten().tolist() == [True] * 5 + [False] * 11
    assert (one["order"].flatten()[5:] == -1).all()
    assert (one["image"][:, 2 * SIDE :] == 255).all()


def test_patches_may_lie_apart():
    image, mask = whole_patches(2, 4, [True] * 8)
    made = CellGridMosaic(GRID, shuffle=False, spacing=2)(*cut(image, mask))
    places = torch.stack([one["order"][0] for one in made])
    assert places[:, ::2, ::2].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    places[:, ::2, ::2] = -1
    assert (places == -1).all()


def test_order_is_the_vessel_s_or_drawn_from_the_seed():
    image, mask = whole_patches(3, 4, [True] * 12)
    patches = cut(image, mask)
    plain = CellGridMosaic(GRID, shuffle=False)
    assert plain(*patches)[0]["order"].flatten()[:12].tolist() == list(range(12))
    first, again, other = (CellGridMosaic(GRID).set_random_state(seed)(*patches)[0]["order"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain(*patches)[0]["order"])
    assert first.flatten().sort().values[-12:].tolist() == list(range(12))


def test_more_patches_than_places():
    chosen = np.arange(49) % 3 > 0  # 32 with cells
    image, mask = whole_patches(7, 7, chosen)
    parts = CutCellPatches(SIDE / 3, patch=SIDE, keep_background=True)(image, mask)
    made = CellGridMosaic(GRID, shuffle=False)(*parts)
    assert [int((one["order"] >= 0).sum()) for one in made] == [13, 12, 12, 12]
    assert torch.cat([one["order"][one["order"] >= 0] for one in made]).tolist() == list(range(49))
    drawing = CellGridMosaic(GRID)
    drawing.set_random_state(0)
    times = np.zeros(49)
    for _ in range(DRAWS):
        (drawn,) = drawing(*parts)
        assert len(set(drawn["order"].flatten().tolist())) == GRID**2
        times[drawn["order"].flatten()] += 1
    # each patch as often as any other, those without cells included; 5 standard deviations
    assert np.abs(times / DRAWS - GRID**2 / 49).max() < 5 * (GRID**2 / 49 * (1 - GRID**2 / 49) / DRAWS) ** 0.5


def test_a_vessel_without_cells_is_a_blank_mosaic():
    image, mask = vessel(30, 40)
    for shuffle in (True, False):
        (one,) = CellGridMosaic(GRID, shuffle)(*cut(image, mask))
        assert (one["image"] == 255).all()
        assert not one["cells"].any()
        assert (one["order"] == -1).all()
        back = CellGridMosaic.inverse(torch.ones(2, GRID, GRID), one["order"], cut.grid_shape(image.shape))
        assert back.shape == (2, 6, 8)
        assert not back.any()


@pytest.mark.parametrize(
    ("values", "order", "shape"),
    [
        (torch.zeros(2, 7, 7), torch.zeros(1, 4, 4, dtype=torch.int64), (3, 3)),
        (torch.zeros(2, 4, 4), torch.full((1, 4, 4), 9), (3, 3)),
        (torch.zeros(2, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), (3, 3)),
        (torch.zeros(4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), (3, 3)),
    ],
    ids=["size", "number", "count", "dimensions"],
)
def test_what_cannot_be_put_back_is_refused(values, order, shape):
    with pytest.raises(InputError, match="expected"):
        CellGridMosaic.inverse(values, order, shape)


def test_spread_gives_each_pixel_its_patch_s_value():
    values = torch.arange(6).reshape(1, 2, 3)
    spread = spread_patches(values, 4, (7, 10))
    assert spread.shape == (1, 7, 10)
    rows, cols = np.mgrid[:7, :10]
    np.testing.assert_array_equal(spread[0], rows // 4 * 3 + cols // 4)
    with pytest.raises(InputError, match="cover"):
        spread_patches(values, 4, (9, 10))


# ---- as a pipeline


def pipeline(shuffle=True, limit=None, **options):
    mosaic = CellGridMosaicd("image", GRID, shuffle, limit, **options)
    return Compose([CutCellPatchesd("image", SIDE / 3, patch=SIDE), mosaic])


def item(rows=3, cols=4):
    image, mask = whole_patches(rows, cols, [True] * (rows * cols))
    return {"image": MetaTensor(image), "cell_mask": MetaTensor(mask), "label": 1}


def test_maps_go_back_to_the_vessel():
    one = pipeline()(item())
    assert sorted(one) == sorted(
        ["image", "cells", "label", "order", "grid_shape", "vessel_shape", "patch_px", "mosaic", "mosaics"]
    )
    # a network that says of each place which patch it sees
    coarse = CellGridMosaic.inverse(one["order"].float(), one["order"], one["grid_shape"], -1)
    assert coarse[0].flatten().tolist() == list(range(12))
    back = spread_patches(coarse, one["patch_px"], one["vessel_shape"])
    rows, cols = np.mgrid[: 3 * SIDE, : 4 * SIDE]
    np.testing.assert_array_equal(back[0], rows // SIDE * 4 + cols // SIDE)


def cut_classes(label, centroids, chosen):
    image, mask = whole_patches(2, 3, chosen)
    data = CutCellPatchesd("image", SIDE / 3, patch=SIDE, keep_background=True)(
        {"image": image, "cell_mask": mask, "label": label}
    )
    return PatchClassesd()(data if centroids is None else {**data, "centroids": torch.tensor(centroids)})


@pytest.mark.parametrize(
    ("label", "centroids", "classes", "missed"),
    [
        # two in patch 1, one in patch 5; patch 3 has one where no cell was found, at its first pixel
        (1, [[2.0, SIDE + 1.4], [0, SIDE], [SIDE + 3, 2 * SIDE + 4], [SIDE, 0]], [1, 2, 0, 2, 1, 2], 0),
        (1, None, [-100] * 6, -1),
        (0, None, [1, 1, 0, 0, 1, 1], 0),
        (0, [], [1, 1, 0, 0, 1, 1], 0),
    ],
    ids=["marked", "unknown", "healthy", "healthy, marked"],
)
def test_patches_with_a_centroid_are_cancerous(label, centroids, classes, missed):
    d = cut_classes(label, centroids, [True, True, False, False, True, True])
    assert d["patch_classes"].tolist() == classes
    assert d["missed"] == missed
    assert "centroids" not in d


def test_centroids_in_patches_that_were_not_cut_are_counted():
    image, mask = whole_patches(2, 3, [True, True, False, False, False, False])
    data = {
        "image": image,
        "cell_mask": mask,
        "label": 1,
        "centroids": torch.tensor([[1.0, 1], [SIDE + 1, 1], [1, 12]]),
    }
    d = PatchClassesd()(CutCellPatchesd("image", SIDE / 3, patch=SIDE)(data))
    assert d["patch_classes"].tolist() == [2, 1]
    assert d["missed"] == 2


def test_classes_lie_where_their_patches_do():
    chosen = np.random.default_rng(1).random(12) < 0.7
    image, mask = whole_patches(3, 4, chosen)
    truth = torch.randint(1, 3, (12,), generator=torch.Generator().manual_seed(0))
    patches, numbers, cells = cut(image, mask)
    mosaic = CellGridMosaic(GRID).set_random_state(3)
    (one,) = mosaic(patches, numbers, cells, truth[numbers])
    order, classes = one["order"].flatten(), one["classes"].flatten()
    assert (classes[order < 0] == 0).all()
    assert torch.equal(classes[order >= 0], truth[order[order >= 0]])


def test_all_mosaics_of_a_large_vessel_go_back_together():
    made = pipeline(shuffle=False)(item(6, 6))
    assert [(one["mosaic"], one["mosaics"]) for one in made] == [(0, 3), (1, 3), (2, 3)]
    orders = [one["order"] for one in made]
    back = CellGridMosaic.inverse(orders, orders, made[0]["grid_shape"])
    assert back.flatten().tolist() == list(range(36))


def test_mosaics_may_be_a_batch_of_one_item():
    apart = pipeline(shuffle=False)(item(6, 6))
    together = pipeline(shuffle=False, stack=True)(item(6, 6))
    for name in ("image", "cells", "order"):
        torch.testing.assert_close(together[name], torch.stack([one[name] for one in apart]))
    back = CellGridMosaic.inverse(together["order"], together["order"], together["grid_shape"])
    assert back.flatten().tolist() == list(range(36))


def test_patches_are_cached_and_shuffled_anew():
    data = CacheDataset([item()] * 2, pipeline().set_random_state(0), cache_rate=1, progress=False)
    first, second = data[0]["order"], data[0]["order"]
    assert data._cache[0]["image"].shape == (12, 3, SIDE, SIDE)
    assert not torch.equal(first, second)
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["image"].shape == (2, 3, GRID * SIDE, GRID * SIDE)
    assert batch["cells"].shape == batch["order"].shape == (2, 1, GRID, GRID)


def test_a_loader_flattens_several_mosaics():
    data = CacheDataset([item(6, 6), item(2, 2)], pipeline(shuffle=False), cache_rate=0, progress=False)
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["image"].shape[0] == 4
    assert batch["mosaics"].tolist() == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (CutCellPatches, {"cell_size": 0}),
        (CutCellPatches, {"cell_size": 5, "patch": 0}),
        (CellGridMosaic, {"grid": 0}),
        (CellGridMosaic, {"limit": "all"}),
        (CellGridMosaic, {"spacing": 0}),
    ],
)
def test_arguments_out_of_range_are_refused(transform, options):
    with pytest.raises(InputError, match="expected"):
        transform(**options)
