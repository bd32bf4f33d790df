"""Three ways from a network to a map, and what they must agree on."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.inferers import ExactWindows, PixelMap, SharedWindows, choose_windows
from monai_ext.networks import InputConvention
from monai_ext.networks.nets import CELNet, SegMitosFCN
from monai_ext.slides import plan_slide
from tests.networks.test_celnet import trained

TOLERANCE = 1e-5
GEOMETRY_TOLERANCE = 1e-4
SEAM_TOLERANCE = 1e-4


def tiles(*size, seed=0):
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step", [12, 24, 32, 96])
def test_exact_windows_are_patches_scored_one_by_one(step):
    network = trained(CELNet("cbam"))
    predict = ExactWindows(network, step=step, convention=InputConvention([100, 90, 80], [50, 60, 70]), batch_size=7)
    rows, columns = 3, 2
    tile = tiles(rows * step + 2 * predict.margin, columns * step + 2 * predict.margin)
    found = predict(tile)
    assert found.shape == (1, 1, rows, columns)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([100.0, 90, 80], [50.0, 60, 70]))
    for row in range(rows):
        for column in range(columns):
            patch = tile[..., row * step : row * step + 96, column * step : column * step + 96]
            with torch.no_grad():
                expected = network((patch - mean) / std).sigmoid()
            torch.testing.assert_close(found[0, 0, row, column], expected[0, 0], atol=TOLERANCE, rtol=0)


def test_windows_that_do_not_count_are_not_computed():
    network, seen = trained(CELNet("cbam")), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    predict = ExactWindows(network, step=24, batch_size=4)
    batch = torch.cat([tiles(3 * 24 + 72, 4 * 24 + 72, seed=seed) for seed in (0, 1)])
    wanted = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) > 0.6
    everything = predict(batch)
    seen.clear()
    some = predict(batch, wanted=wanted)
    assert sum(seen) == wanted.sum() < wanted.numel()
    torch.testing.assert_close(some, torch.where(wanted[:, None], everything, 0), atol=TOLERANCE, rtol=0)
    assert not predict(batch, wanted=torch.zeros_like(wanted)).any()


@pytest.mark.parametrize("step", [4, 8, 12, 24, 48, 96])
def test_shared_windows_keep_the_geometry_of_exact_ones(step):
    """A network whose value at a place is the place's colour: both forms must look at the same windows."""
    network = CELNet(None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.fill_(1)
        for convolution in (
            network.stem.conv,
            network.stage2.blocks[0].shortcut[0],
            network.stage3.blocks[0].shortcut[0],
        ):
            convolution.weight[0, 0, 1, 1] = 1
        network.head.weight[0, 0], network.head.bias[0] = 20, -10
    exact = ExactWindows(network, step=step)
    shared = SharedWindows(network, step=step, context=24)
    rows, columns = 6, 8
    tile = tiles(rows * step + 2 * shared.margin, columns * step + 2 * shared.margin)
    cut = shared.margin - exact.margin
    found, expected = shared(tile), exact(tile[..., cut : tile.shape[2] - cut, cut : tile.shape[3] - cut])
    assert found.shape == expected.shape == (1, 1, rows, columns)
    torch.testing.assert_close(found, expected, atol=GEOMETRY_TOLERANCE, rtol=0)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("step", [12, 24])
def test_shared_windows_without_attention_leave_no_seam(step):
    """Two tiles side by side are the map of both in one pass where the context covers the receptive field."""
    network = trained(CELNet(None))
    predict = SharedWindows(network, step=step, context=120)
    columns = 96 // step
    whole = tiles(2 * step + 2 * predict.margin + (-2 * step) % 24, 2 * 96 + 2 * predict.margin)
    left, right = whole[..., : 96 + 2 * predict.margin], whole[..., 96:]
    stitched = torch.cat([predict(left), predict(right)], dim=3)
    one_pass = predict(whole)
    assert stitched.shape[3] == 2 * columns
    torch.testing.assert_close(stitched, one_pass, atol=SEAM_TOLERANCE, rtol=0)


def stitched(predict, image, tile_px):
    """The map of an image by the slide engine's tiles; what lies outside is white."""
    rows, cols = image.shape[1:]
    reader = SimpleNamespace(
        path=Path("a"), level0_shape=(rows, cols), shape=(rows, cols), scale=1.0, base_mpp=1.0, mpp=1.0, target_mpp=1.0,
        level=0, backend="openslide", resolution_source="mpp", conflict="", stretch=(1.0, 1.0),
    )  # fmt: skip
    plan = plan_slide(reader, predict.step, predict.margin, tile_px, align=predict.align)
    padded = F.pad(image, (predict.margin, 1000, predict.margin, 1000), value=255)
    heat = torch.full(plan.shape, torch.nan)
    for tile in plan.tiles:
        top, left, height, width = plan.region(tile)
        top, left = top + predict.margin, left + predict.margin
        values = predict(padded[None, :, top : top + height, left : left + width])
        place = slice(tile.row, tile.row + tile.height), slice(tile.col, tile.col + tile.width)
        heat[place] = values[0, 0, : tile.height, : tile.width]
    return heat, plan.tile_count


@pytest.mark.slow
@pytest.mark.parametrize("step", [12, 24, 96])
def test_map_does_not_depend_on_the_size_of_tiles(step):
    """With attention too: it is computed on a lattice that all tiles share, and the context holds what it sees."""
    predict = SharedWindows(trained(CELNet("mam")), step=step, context=192)
    image = F.interpolate(tiles(20, 60).float(), scale_factor=6, mode="bicubic").clamp(0, 255)[0].to(torch.uint8)
    (one, tiles_of_one), (other, tiles_of_other) = (stitched(predict, image, px) for px in (640, 700))
    assert tiles_of_other < tiles_of_one
    torch.testing.assert_close(one, other, atol=SEAM_TOLERANCE, rtol=0)
    assert one.std() > 10 * SEAM_TOLERANCE


@pytest.mark.parametrize("step", [4, 12])
def test_pixel_map_of_a_network_with_strides_does_not_depend_on_the_size_of_tiles(step):
    torch.manual_seed(0)
    network = SegMitosFCN(stride=8, width=1 / 32, fc_channels=8, norm="batch", padding="features")
    for scored in (network, *network.skips):
        nn.init.normal_(scored.score.weight)  # they start at zero
    predict = PixelMap(network, step=step, margin=256)
    image = tiles(180, 420)[0]
    (one, tiles_of_one), (other, tiles_of_other) = (stitched(predict, image, px) for px in (720, 900))
    assert tiles_of_other < tiles_of_one
    torch.testing.assert_close(one, other, atol=SEAM_TOLERANCE, rtol=0)
    assert one.std() > 10 * SEAM_TOLERANCE


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    "other",
    [
        {"convention": InputConvention(mean=[1, 2, 3])},
        {"convention": InputConvention(std=[1, 2, 3])},
        {"step": 12},
        {"context": 192},
        {"autocast": True},
        {"network": trained(CELNet("cbam"), seed=1)},
        {"network": trained(CELNet("cbam", window=112)), "context": 56, "step": 28},
    ],
    ids=lambda other: next(iter(other)),
)
def test_fingerprint_tells_all_that_decides_the_map(other):
    options = {"network": trained(CELNet("cbam")), "step": 24}
    whole = SharedWindows(**options).fingerprint
    assert SharedWindows(**options).fingerprint == whole
    assert SharedWindows(**{**options, **other}).fingerprint != whole


def test_fingerprint_tells_the_kind():
    network = trained(CELNet("cbam"))
    prints = [ExactWindows(network, batch_size=n).fingerprint for n in (1, 2)] + [SharedWindows(network).fingerprint]
    assert len(set(prints)) == 3


def test_pixel_map_takes_the_largest_probability_of_a_cell():
    network = nn.Conv2d(3, 2, 3, padding=1)
    predict = PixelMap(network, channel=1, step=4, margin=8, align=4)
    tile = tiles(24, 32)
    found = predict(tile)
    with torch.no_grad():
        probability = network(tile / 255).softmax(1)[0, 1]
    assert found.shape == (1, 1, 2, 4)
    for row in range(2):
        for column in range(4):
            cell = probability[8 + 4 * row : 12 + 4 * row, 8 + 4 * column : 12 + 4 * column]
            assert found[0, 0, row, column].item() == pytest.approx(cell.max().item(), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ExactWindows, {"step": 100}),
        (ExactWindows, {"step": 25}),
        (SharedWindows, {"step": 36}),
        (SharedWindows, {"step": 6}),
        (SharedWindows, {"context": 10}),
        (PixelMap, {"margin": 100}),
    ],
)
def test_geometry_that_does_not_fit_is_refused(kind, options):
    with pytest.raises(InputError, match="expected"):
        kind(CELNet(None), **options)


def test_shared_windows_are_of_celnet_alone():
    with pytest.raises(InputError, match=r"SharedWindows: expected a CELNet; .* found Conv2d"):
        SharedWindows(nn.Conv2d(3, 1, 3))


@pytest.mark.usefixtures("bfloat16")
def test_autocast_stays_close():
    network = trained(CELNet("mam"))
    tile = tiles(24 * 2 + 2 * 132, 24 * 2 + 2 * 132)
    whole, half = (SharedWindows(network, autocast=flag)(tile) for flag in (False, True))
    assert half.dtype == torch.float32
    assert (whole - half).abs().max() < 0.05


@pytest.mark.parametrize(
    ("step", "form"), [(4, SharedWindows), (48, SharedWindows), (72, ExactWindows), (96, ExactWindows)]
)
def test_windows_that_overlap_by_half_share_their_maps(step, form):
    made = choose_windows(CELNet("cbam"), step, context=48, batch_size=5)
    assert type(made) is form
    assert made.step == step
    assert getattr(made, "context", 48) == 48
    assert getattr(made, "batch_size", 5) == 5


def test_other_networks_have_their_windows_cut_out():
    made = choose_windows(torch.nn.Identity(), 16, window=64)
    assert type(made) is ExactWindows
    assert (made.step, made.window) == (16, 64)


@pytest.mark.parametrize("step", [6, 36])
def test_a_step_that_cannot_be_shared_is_said(step):
    """And not computed at many times the price."""
    with pytest.raises(InputError, match="a step"):
        choose_windows(CELNet("cbam"), step)
