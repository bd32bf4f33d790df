import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler

from monai_ext.base.errors import InputError
from monai_ext.metrics import EvidenceLocalization, GridPointing, bootstrap_ci, evidence_mask, pointing_canvas
from monai_ext.metrics.evidence import localization_scores, pointing_scores

EXACT = 1e-12
masks = hnp.arrays(bool, (4, 1, 5, 6))
maps = hnp.arrays(np.float32, (3, 1, 6, 6), elements=st.floats(0, 100, width=32))
regions = hnp.arrays(bool, (3, 1, 6, 6))
fast = settings(max_examples=80, deadline=None)


def mask(inside, outside):
    """A mask with so many pixels in the tumour (the left half of 10 x 20) and so many beside it."""
    pred = torch.zeros(1, 1, 10, 20, dtype=torch.bool)
    left, right = torch.arange(100) < inside, torch.arange(100) < outside
    pred[0, 0, :, :10], pred[0, 0, :, 10:] = left.view(10, 10), right.view(10, 10)
    return pred


@pytest.fixture
def tumour():
    truth = torch.zeros(1, 1, 10, 20, dtype=torch.bool)
    truth[..., :10] = True
    return truth


# -- the 75 % rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        (100, 0, (1, 0, 1)),
        (75, 25, (1, 0, 1)),
        (74, 26, (0, 0, 1)),
        (50, 50, (0, 0, 1)),
        (26, 74, (0, 0, 1)),
        (25, 75, (0, 1, 1)),
        (0, 1, (0, 1, 1)),
        (1, 0, (1, 0, 1)),
        (0, 0, (0, 0, 1)),
    ],
)
def test_rule_at_its_edges(inside, outside, expected, tumour):
    assert EvidenceLocalization()(mask(inside, outside), tumour).tolist() == [list(expected)]


@pytest.mark.parametrize(
    ("share", "inside", "outside"), [(0.8, 4, 1), (0.6, 3, 2), (0.9, 9, 1), (0.7, 7, 3), (1, 5, 0)]
)
def test_share_is_reached_exactly(share, inside, outside, tumour):
    assert EvidenceLocalization(share)(mask(inside, outside), tumour)[0, 0] == 1
    assert EvidenceLocalization(share)(mask(inside, outside + 1), tumour)[0, 0] == 0


def test_scores_over_batches(tumour):
    metric = EvidenceLocalization()
    metric(torch.cat([mask(90, 0), mask(80, 20)]), tumour.expand(2, -1, -1, -1))
    metric(torch.cat([mask(0, 90), mask(50, 50), mask(0, 0)]), tumour.expand(3, -1, -1, -1).int())
    metric(mask(0, 60).float(), torch.zeros_like(tumour))  # an image without tumour: only a false positive
    assert metric.get_buffer().tolist() == [[1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    scores = metric.aggregate()
    assert {name: value.item() for name, value in scores.items()} == pytest.approx(
        {"precision": 2 / 4, "recall": 2 / 5, "f1": 2 * 0.5 * 0.4 / 0.9}
    )
    interval = bootstrap_ci(metric.get_buffer(), statistic=lambda sums: localization_scores(sums)["f1"])
    assert interval.value == pytest.approx(scores["f1"].item())
    assert interval.low < interval.value < interval.high
    metric.reset()
    assert {name: value.item() for name, value in metric.aggregate().items()} == {"precision": 0, "recall": 0, "f1": 0}


@fast
@given(masks, masks)
def test_rule_against_its_definition(pred, truth):
    counts = EvidenceLocalization()(torch.from_numpy(pred), torch.from_numpy(truth)).tolist()
    for row, s, t in zip(counts, pred, truth, strict=True):
        size = s.sum()
        assert row[0] == (size > 0 and (s & t).sum() / max(size, 1) >= 0.75)
        assert row[1] == (size > 0 and (s & ~t).sum() / max(size, 1) >= 0.75)
        assert row[2] == t.any()
        assert row[0] + row[1] <= 1


@fast
@given(masks, masks)
def test_normal_tissue_and_tumour_change_places(pred, truth):
    pred, truth = torch.from_numpy(pred), torch.from_numpy(truth)
    one, other = EvidenceLocalization()(pred, truth), EvidenceLocalization()(pred, ~truth)
    assert torch.equal(one[:, 0], other[:, 1])
    assert torch.equal(one[:, 1], other[:, 0])


def test_localization_is_a_metric_of_an_engine(tumour):
    engine = Engine(lambda _, batch: batch)
    IgniteMetricHandler(metric_fn=EvidenceLocalization(), output_transform=lambda out: out).attach(engine, "rule")
    state = engine.run([(mask(90, 0), tumour), (mask(50, 50), tumour)])
    assert {name: state.metrics[name] for name in ("precision", "recall", "f1")} == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3}
    )


@pytest.mark.parametrize("share", [0.5, 0, 1.1, float("nan")])
def test_share_must_decide(share):
    with pytest.raises(InputError, match=r"share: expected a number above 0\.5"):
        EvidenceLocalization(share)


@pytest.mark.parametrize("metric", [EvidenceLocalization(), GridPointing()], ids=["localization", "pointing"])
def test_shapes_must_fit(metric):
    name = type(metric).__name__
    with pytest.raises(InputError, match=f"{name}: expected as many predictions as labels, found 2 and 1"):
        metric(torch.ones(2, 1, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(InputError, match=rf"{name}: expected a prediction of the label's shape \(1, 4, 5\)"):
        metric(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5))
    assert len(metric(torch.ones(0, 1, 4, 4), torch.ones(0, 1, 4, 4))) == 0


# -- masks -------------------------------------------------------------------------------------------------------------


def test_threshold_is_a_share_of_each_maximum():
    ramp = torch.arange(101.0).expand(2, 1, 3, 101) * torch.tensor([0.01, 0.002]).view(2, 1, 1, 1)
    got = evidence_mask(ramp, 0.4, smooth=0)
    assert got.dtype == torch.bool
    assert got.sum((1, 2, 3)).tolist() == [180, 180]  # 41 ... 100, three rows
    assert evidence_mask(ramp, 0.4, smooth=0, peak=1).sum((1, 2, 3)).tolist() == [180, 0]
    assert not evidence_mask(torch.zeros(1, 1, 4, 4), 0).any()


def test_smoothing_takes_specks_away_and_closes_holes():
    evidence = torch.zeros(1, 1, 40, 40)
    evidence[..., 10:30, 10:30] = 1
    evidence[..., 20, 20] = 0
    evidence[..., 2, 2] = 1
    got = evidence_mask(evidence, 0.5, smooth=2)
    assert got[0, 0, 20, 20]
    assert not got[0, 0, 2, 2]
    assert not got[0, 0, 10, 10]  # corners become round
    assert got[0, 0, 10, 20]
    assert torch.equal(evidence_mask(evidence, 0.5, smooth=0), evidence > 0.5)
    full = evidence_mask(torch.ones(1, 1, 8, 8), 0.5, smooth=5)
    assert full.all()  # nothing is lost at the image's border


@fast
@given(maps, st.floats(0, 1), st.floats(0, 1))
def test_higher_thresholds_show_less(evidence, one, other):
    evidence = torch.from_numpy(evidence)
    low, high = (evidence_mask(evidence, t, smooth=1.0) for t in sorted((one, other)))
    assert not (high & ~low).any()


# -- the pointing game -------------------------------------------------------------------------------------------------


@pytest.fixture
def tiles():
    """Positive tiles hold 100, 101 ...; negative ones 1, 2 ...; each pixel also tells its place."""
    place = torch.arange(12.0).view(1, 1, 3, 4) / 100
    positives = torch.arange(5.0).view(5, 1, 1, 1) + 100 + place
    negatives = torch.arange(11.0).view(11, 1, 1, 1) + 1 + place
    return positives.repeat(1, 2, 1, 1), negatives.repeat(1, 2, 1, 1)


def test_canvas_holds_one_positive_among_eight_different_negatives(tiles):
    positives, negatives = tiles
    canvases, index, shown = pointing_canvas(positives, negatives, seed=3)
    assert canvases.shape == (5, 2, 9, 12)
    assert shown.shape == (5, 1, 9, 12)
    assert (shown.dtype, index.dtype) == (torch.bool, torch.int64)
    for i in range(5):
        row, col = divmod(index[i].item(), 3)
        box = (slice(3 * row, 3 * row + 3), slice(4 * col, 4 * col + 4))
        assert torch.equal(canvases[i][:, box[0], box[1]], positives[i])
        assert shown[i, 0][box].all()
        assert shown[i].sum() == 12
        assert torch.equal(canvases[i, :1] >= 100, shown[i])
        others = canvases[i, 0].view(3, 3, 3, 4).transpose(1, 2).reshape(9, 3, 4)
        for tile in others:
            assert torch.allclose(tile - tile[0, 0], positives[0, 0] - positives[0, 0, 0, 0], atol=1e-5)
        assert len({round(tile[0, 0].item()) for tile in others}) == 9


def test_seed_decides(tiles):
    first, again, other = (pointing_canvas(*tiles, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(pointing_canvas(*tiles, seed=[1, 2])[1], pointing_canvas(*tiles, seed=[1, 2])[1])


def test_places_are_drawn_evenly():
    index = pointing_canvas(torch.ones(900, 1, 1, 1), torch.zeros(8, 1, 1, 1), seed=0)[1]
    counts = torch.bincount(index, minlength=9)
    assert counts.min() > 70  # 100 +- 9.4
    assert counts.max() < 130


def test_pixels_of_any_type(tiles):
    canvases = pointing_canvas(tiles[0].byte(), tiles[1].byte(), seed=0)[0]
    assert canvases.dtype == torch.uint8


def test_canvas_needs_tiles(tiles):
    with pytest.raises(InputError, match="pointing game: expected at least 8 negative images, found 7"):
        pointing_canvas(tiles[0], tiles[1][:7])
    with pytest.raises(InputError, match=r"expected tiles of shape \(2, 3, 4\), found \(2, 3, 3\)"):
        pointing_canvas(tiles[0], tiles[1][..., :3])


def test_share_and_hit():
    tile = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    tile[..., :2, :2] = True
    evidence = torch.zeros(4, 1, 6, 6)
    evidence[0, 0, 0, 0] = 3  # all of it
    evidence[1, 0, 0, 0], evidence[1, 0, 5, 5] = 1, 3  # a quarter, but the maximum elsewhere
    evidence[2] = 0.5  # everywhere alike
    metric = GridPointing()
    scores = metric(evidence, tile.expand(4, -1, -1, -1))
    torch.testing.assert_close(scores, torch.tensor([[1, 1], [0.25, 0], [1 / 9, 1 / 9], [0, 0]], dtype=torch.float64))
    result = metric.aggregate()
    assert result["share"].item() == pytest.approx((1 + 0.25 + 1 / 9) / 4)
    assert result["hit"].item() == pytest.approx((1 + 1 / 9) / 4)
    metric.reset()
    assert metric.aggregate()["share"].isnan()


@fast
@given(maps, regions)
def test_shares_inside_and_outside_are_all(evidence, region):
    evidence, region = torch.from_numpy(evidence), torch.from_numpy(region)
    inside, outside = pointing_scores(evidence, region), pointing_scores(evidence, ~region)
    some = evidence.flatten(1).any(1).double()[:, None].expand(-1, 2)
    torch.testing.assert_close(inside + outside, some, atol=EXACT, rtol=0)
    assert ((inside >= 0) & (inside <= 1)).all()


@fast
@given(maps, regions, st.floats(0.25, 8))
def test_scale_does_not_matter(evidence, region, scale):
    evidence, region = torch.from_numpy(evidence).double(), torch.from_numpy(region)
    got, expected = pointing_scores(evidence * 2.0**scale, region), pointing_scores(evidence, region)
    torch.testing.assert_close(got[:, 0], expected[:, 0])


def test_chance_is_a_ninth():
    generator = torch.Generator().manual_seed(0)
    evidence = torch.rand(600, 1, 12, 12, generator=generator)
    _, _, shown = pointing_canvas(torch.ones(600, 1, 4, 4), torch.zeros(8, 1, 4, 4), seed=1)
    share, hit = pointing_scores(evidence, shown).mean(0).tolist()
    assert share == pytest.approx(1 / 9, abs=0.005)
    assert hit == pytest.approx(1 / 9, abs=0.04)  # standard error .013


def test_evidence_is_not_negative():
    with pytest.raises(InputError, match="GridPointing: expected evidence >= 0, found a minimum of -1"):
        GridPointing()(-torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
    with pytest.raises(InputError, match="found a minimum of nan"):
        GridPointing()(torch.full((1, 1, 3, 3), torch.nan), torch.ones(1, 1, 3, 3))
