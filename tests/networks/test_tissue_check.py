"""Whether an image's tissue is like that of the training, on small random networks and known distributions."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks import InputConvention, TissueCheck, TissueDistribution, TissueFeatures, load_weights
from monai_ext.networks.nets import CELNet
from monai_ext.networks.tissue_check import report_tissue, state_digest

TILE = 16
UNLIKE = "of it is unlike the training data (of the validation list's, 5%)"
PURPLE = torch.tensor([150.0, 90.0, 160.0])[:, None, None]


class Net(nn.Module):
    """Two convolutions; a mapping of maps in between."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = Body()
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.head(self.body(x)["fine"])


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, padding=1, stride=2)

    def forward(self, x):
        fine = self.first(x).relu()
        return {"fine": fine, "coarse": self.second(fine).relu()}


def tissue(count=1, side=4 * TILE, seed=0, spread=20.0):
    generator = torch.Generator().manual_seed(seed)
    images = PURPLE + spread * torch.randn(count, 3, side, side, generator=generator)
    return images.round().clamp(0, 255) / 255


def listen(network, layers=("body:fine", "body:coarse")):
    passes = []
    features = TissueFeatures(network, layers, TILE, InputConvention(), lambda *each: passes.append(each))
    return features, passes


def write(path, network, layers=("body:fine",), outside=0.05, limit=0.5, tile=TILE):
    """The check of a network, fitted on tissue."""
    check = TissueCheck(path, network, layers, tile, quiet=True)
    passes = []
    features = check.listen(network, lambda *each: passes.append(each))
    with torch.no_grad():
        network(tissue(40)), network(tissue(40, seed=1))
    features.remove()
    check.save(path, TissueDistribution.fit(passes[0][0], passes[1][0], outside), limit, {"outside": outside})
    return TissueCheck(path, network, layers, tile)


# -- the features ------------------------------------------------------------------------------------------------------


def test_features_are_means_and_deviations_over_the_tissue_of_each_tile():
    network = Net()
    features, passes = listen(network, ["body:fine"])
    image = tissue(2)
    image[0, :, :TILE, 8:TILE] = 1  # half of the first tile is glass
    with torch.no_grad():
        network(image)
        maps = network.body(image)["fine"]
    values, weights = passes[0]
    assert values.shape == (2 * 16, 8)
    assert weights[0] == 0.5
    assert (weights[1:] == 1).all()
    covered = maps[0, :, :TILE:4, :8:4].flatten(1)  # every fourth px
    torch.testing.assert_close(values[0], torch.cat([covered.mean(1), covered.std(1, correction=0)]))
    whole = maps[1, :, 3 * TILE :: 4, 2 * TILE : 3 * TILE : 4].flatten(1)
    torch.testing.assert_close(values[16 + 14], torch.cat([whole.mean(1), whole.std(1, correction=0)]))
    features.remove()


def test_glass_does_not_count_and_a_small_image_is_one_tile():
    network = Net()
    _, passes = listen(network)
    image = tissue(1, 20)
    image[..., 4:] = 0.97  # less than a quarter is tissue
    with torch.no_grad():
        network(image), network(tissue(1, 11))
    assert [weights.tolist() for _, weights in passes] == [[0.0], [1.0]]
    assert passes[0][0].shape == (1, 2 * (4 + 5))


def test_listening_changes_nothing_to_the_last_bit():
    network, images = Net(), tissue(3, 50)
    with torch.no_grad():
        before = network(images)
        features, passes = listen(network)
        during = network(images)
        features.remove()
        network(images)
    assert torch.equal(before, during)
    assert len(passes) == 1


@pytest.mark.parametrize("windows", [False, True], ids=["a pass over an image", "windows that share their maps"])
def test_any_method_of_the_network_is_heard(windows):
    network = CELNet(channels=(8, 8, 8), blocks=1, reduction=2, window=32).eval()
    passes = []
    TissueFeatures(network, ["stage3"], 32, InputConvention(), lambda *each: passes.append(each))
    image = tissue(1, 96)
    with torch.no_grad():
        network.dense(image, 8) if windows else network(image)
    assert passes[0][0].shape == (9, 16)


@pytest.mark.parametrize("network", [nn.Sequential(nn.Conv2d(3, 1, 1)), nn.Identity()])
def test_a_network_without_the_layers(network):
    with pytest.raises(InputError, match="expected the layers stage3"):
        TissueFeatures(network, ["stage3"], TILE, InputConvention(), print)


def test_half_precision_of_the_network_is_not_that_of_the_distance(tmp_path):
    network = Net()
    check = write(tmp_path / "tissue.npz", network)
    watch, images = check.watch(network), tissue(40, seed=2)
    with torch.no_grad():
        network(images)
        exact = check.facts(watch.take())["foreign_share"]
        with torch.autocast("cpu", torch.bfloat16):
            network(images)
    assert check.facts(watch.take())["foreign_share"] == pytest.approx(exact, abs=0.02)


# -- the distribution --------------------------------------------------------------------------------------------------


def gaussian(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(12) + 0.05 * torch.randn(12, 12, generator=torch.Generator().manual_seed(99))
    return (torch.randn(count, 12, generator=generator) + shift) @ mixing + 5


@pytest.mark.parametrize("outside", [0.01, 0.05, 0.2])
def test_the_stated_share_of_a_gaussian_is_outside(outside):
    seen = TissueDistribution.fit(gaussian(4000, 0), gaussian(4000, 1), outside)
    for seed in (2, 3):
        share = float((seen.distance(gaussian(20_000, seed)) > seen.radius).float().mean())
        assert share == pytest.approx(outside, abs=4 * math.sqrt(outside / 4000))


def test_distances_are_those_of_mahalanobis():
    tiles = gaussian(20_000, 0)
    seen = TissueDistribution.fit(tiles, tiles, 0.05)
    inverse = np.linalg.inv(np.cov(tiles.numpy().T))
    centred = tiles[:50].numpy() - tiles.numpy().mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    np.testing.assert_allclose(seen.distance(tiles[:50]).numpy(), expected, rtol=0.02)


def test_what_is_shifted_is_outside():
    seen = TissueDistribution.fit(gaussian(1000, 0), gaussian(1000, 1), 0.01)
    assert float((seen.distance(gaussian(1000, 2, shift=2.0)) > seen.radius).float().mean()) > 0.95


def test_fewer_tiles_than_features():
    seen = TissueDistribution.fit(gaussian(8, 0), gaussian(100, 1), 0.05)
    assert seen.whitening.isfinite().all()
    assert float((seen.distance(gaussian(1000, 2, shift=20.0)) > seen.radius).float().mean()) > 0.95


# -- the check ---------------------------------------------------------------------------------------------------------


def test_own_tissue_is_not_foreign_and_another_colour_is(tmp_path):
    network = Net()
    check = write(tmp_path / "tissue.npz", network)
    watch = check.watch(network)
    with torch.no_grad():
        network(tissue(40, seed=2))
        same = check.facts(watch.take())
        network(tissue(4, seed=3) * 0.4)
        other = check.facts(watch.take())
    assert same["foreign_share"] == pytest.approx(0.05, abs=0.04)
    assert same["foreign"] == ""
    assert other["foreign_share"] > 0.95
    assert other["foreign"].endswith(
        "of the tissue is unlike the training data: do not trust these results without checking"
    )


def rows(*shares, warned=0):
    told = "80% of the tissue is unlike the training data: do not trust these results without checking"
    return [{"foreign_share": share, "warnings": told if n < warned else None} for n, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("rows", "mean", "told", "heed"),
    [
        (rows(0.04, 0.1, None), 0.07, f"7% {UNLIKE}", False),
        (rows(1.0, 0.0, 0.0, 0.0), 0.25, f"25% {UNLIKE}", False),  # a single tile
        (
            rows(0.9, 0.0, 0.0, math.nan, warned=1),
            0.3,
            f"30% {UNLIKE}, more than 50% in 1 of 4 fields: do not trust the results there without checking",
            True,
        ),
        (
            rows(0.9, 0.4, warned=1),
            0.65,
            f"65% {UNLIKE}, more than 50% in 1 of 2 fields: do not trust these results without checking",
            True,
        ),
        (rows(1.0, 1.0, 0.0), 0.6667, f"67% {UNLIKE}: do not trust these results without checking", True),
    ],
)
def test_what_a_report_says(rows, mean, told, heed, tmp_path):
    check = write(tmp_path / "tissue.npz", Net())
    report = report_tissue(check, rows, "fields")
    assert report.metrics == {"tissue unlike the training data": mean}
    assert report.notes == {"Tissue": told}
    assert report.warning == (f"Tissue: {told}." if heed else "")
    assert report_tissue(None, rows) == ({}, {}, "")


def test_a_single_tile_is_no_reason_to_warn(tmp_path):
    check = write(tmp_path / "tissue.npz", Net())
    assert check.facts((1.0, 1.0)) == {"foreign_share": 1.0, "foreign": ""}
    assert check.facts((2.0, 1.5))["foreign_share"] == 0.75
    assert check.facts((2.0, 1.5))["foreign"].startswith("75% of the tissue")
    assert check.facts((2.0, 1.0))["foreign"] == ""


def test_without_tissue_there_is_no_share(tmp_path):
    network = Net()
    check = write(tmp_path / "tissue.npz", network)
    watch = check.watch(network)
    assert math.isnan(check.facts(watch.take())["foreign_share"])
    with torch.no_grad():
        network(torch.full((1, 3, 32, 32), 0.95))
    assert math.isnan(check.facts(watch.take())["foreign_share"])
    report = report_tissue(check, rows(None, math.nan))
    assert report == ({}, {"Tissue": "no images with enough tissue to compare with the training data"}, "")


def test_other_weights_are_not_compared(tmp_path, capsys):
    write(tmp_path / "tissue.npz", Net())
    network = Net(seed=1)
    check = TissueCheck(tmp_path / "tissue.npz", network, ["body:fine"], TILE)
    err = capsys.readouterr().err
    assert err == f"tissue is not compared with the training data: {tmp_path}/tissue.npz belongs to other weights\n"
    assert check.watch(network) is None
    said = f"not compared with the training data: {tmp_path}/tissue.npz belongs to other weights"
    assert report_tissue(check, [{}]) == ({}, {"Tissue": said}, "")


@pytest.mark.parametrize(("layers", "tile"), [(["body:coarse"], TILE), (["body:fine"], 32)])
def test_other_layers_or_tiles_are_not_compared(layers, tile, tmp_path):
    network = Net()
    write(tmp_path / "tissue.npz", network)
    assert TissueCheck(tmp_path / "tissue.npz", network, layers, tile).reason.endswith("other layers or tiles")


def test_a_network_that_cannot_be_listened_to(tmp_path, capsys):
    write(tmp_path / "tissue.npz", Net())
    exported = torch.jit.trace(Net().eval(), tissue())
    check = TissueCheck(tmp_path / "tissue.npz", exported, ["body:fine"], TILE)
    assert check.seen is None
    assert capsys.readouterr().err.count("\n") == 1


def test_no_file_is_said_in_one_line(tmp_path, capsys):
    assert TissueCheck(tmp_path / "tissue.npz", Net(), ["body:fine"], TILE).watch(Net()) is None
    assert "`python -m monai_ext tune tissue` makes" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"nothing", b"{}"])
def test_a_damaged_file(content, tmp_path):
    (tmp_path / "tissue.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"tissue\.npz: expected what `python -m monai_ext tune tissue` writes"):
        TissueCheck(tmp_path / "tissue.npz", Net(), ["body:fine"], TILE)


def test_a_file_without_its_entries(tmp_path):
    np.savez(tmp_path / "tissue.npz", about=np.array(json.dumps({"layers": ["body:fine"]})))
    with pytest.raises(InputError, match=r"tissue\.npz"):
        TissueCheck(tmp_path / "tissue.npz", Net(), ["body:fine"], TILE)


def test_weights_are_the_same_however_they_are_kept(tmp_path):
    network = Net()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = load_weights(Net(seed=1), tmp_path / "model.pt")
    assert state_digest(network) == state_digest(other.to(memory_format=torch.channels_last))
    assert state_digest(network) != state_digest(Net(seed=1))
