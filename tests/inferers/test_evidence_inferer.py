import pytest
import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import nn
from torch.utils.data import DataLoader

from monai_ext.base.errors import InputError
from monai_ext.inferers import EvidenceInferer
from monai_ext.visualize import EvidenceMap

CLOSE = 1e-5
ROI = 32


class Spots(nn.Module):
    """Any red in a window means tumour; more of it changes the probability little."""

    def __init__(self, classes=1):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
        self.coarse = nn.Sequential(nn.AvgPool2d(4), nn.ReLU())
        self.classes = classes
        with torch.no_grad():
            self.fine[0].weight.copy_(torch.tensor([[1.0, 0, 0]])[..., None, None])
            self.fine[0].bias.fill_(-0.2)

    def forward(self, x):
        y = self.coarse(self.fine(x))
        logit = 20 * y.amax((2, 3)) + y.mean((2, 3)) - 4
        return logit if self.classes == 1 else torch.cat([-logit / 2, logit / 2], dim=1)


LAYERS = {"fine": "fine", "coarse": "coarse"}


def inferer(**options):
    return EvidenceInferer(**{**LAYERS, "roi_size": ROI, "sw_batch_size": 3, **options})


@pytest.fixture
def windows():
    images = torch.zeros(3, 3, ROI, ROI)
    images[0, 0, 8:16, 12:20] = 1
    images[1, 0, 20:22, 4:6] = 0.4
    return images


@pytest.mark.parametrize("name", ["celm", "cam", "cam2", "cam3", "csm"])
def test_one_window_gives_its_map(windows, name):
    settings = {"alpha": 0.3, "beta": 0.8, "sigma": 1.0, "saliency": "abs", "threshold": 0.4}
    network = Spots()
    maps = EvidenceMap(network, **LAYERS, alpha=0.3, beta=0.8, sigma=1.0, saliency="abs")(windows)
    probability = maps["logits"].sigmoid()
    got = inferer(evidence=settings, map=name)(windows, network)
    assert {key: tuple(value.shape) for key, value in got.items()} == {
        "score": (3, 1), "evidence": (3, 1, ROI, ROI), "heat": (3, 1, ROI, ROI),
    }  # fmt: skip
    torch.testing.assert_close(got["score"], probability)
    torch.testing.assert_close(got["heat"], probability[:, :, None, None].expand(3, 1, ROI, ROI))
    raw = inferer(evidence=settings, map=name, weigh=False)(windows, network)["evidence"]
    torch.testing.assert_close(raw, maps[name], atol=CLOSE, rtol=0)
    peak = maps[name].amax((2, 3), keepdim=True)
    expected = torch.where(peak > 0, maps[name] / peak, 0) * probability[:, :, None, None]
    torch.testing.assert_close(got["evidence"], expected, atol=CLOSE, rtol=0)
    assert not got["evidence"][2].any()  # nothing there, nothing shown


def test_large_image_shows_each_spot_where_it_is():
    image = torch.zeros(2, 3, 96, 128)
    image[0, 0, 40:48, 60:68] = 1
    image[0, 0, 80:88, 8:16] = 1
    image[1, 0, 16:24, 100:108] = 1
    network = Spots()
    got = inferer(overlap=0.5, evidence={"sigma": 1, "saliency": "abs"})(image, network)
    red = image[:, :1] > 0
    assert got["evidence"].shape == got["heat"].shape == (2, 1, 96, 128)
    for i in range(2):
        evidence = got["evidence"][i]
        assert evidence[red[i]].mean() > 0.5
        assert evidence[red[i]].sum() > 0.7 * evidence.sum()
        assert evidence.max() <= 1 + CLOSE
    # the highest probability of the windows, image by image
    for i in range(2):
        parts = [image[i : i + 1, :, r : r + ROI, c : c + ROI] for r in range(0, 65, 16) for c in range(0, 97, 16)]
        scores = [network(part).sigmoid().item() for part in parts]
        assert got["score"][i].item() == pytest.approx(max(scores), abs=CLOSE)
    assert got["heat"][0, 0, :8, 90:].max() < 0.05  # a window without red
    assert got["heat"][0, 0, 44, 64] > 0.95


def test_windows_without_tumour_show_nothing_although_their_map_is_stretched():
    image = torch.zeros(1, 3, 96, 96)
    image[0, 0, 4:12, 4:12] = 1
    image[0, 0, 80:84, 80:84] = 0.25  # too weak to matter, but the strongest of its window
    network = Spots()
    weighed = inferer()(image, network)["evidence"][0, 0]
    raw = inferer(weigh=False)(image, network)["evidence"][0, 0]
    assert raw[80:84, 80:84].min() > 0.3
    assert weighed[80:84, 80:84].max() < 0.06
    assert weighed[6:10, 6:10].min() > 0.3


@pytest.mark.parametrize("shape", [(20, 24), (20, 64), (33, 32)])
def test_any_size_is_welcome(shape):
    image = torch.zeros(1, 3, *shape)
    image[0, 0, 4:8, 4:8] = 1
    # padded with black, which Spots does not see
    got = inferer(cval=0.0)(image, Spots())
    assert got["evidence"].shape == (1, 1, *shape)
    assert got["evidence"].argmax() in (image[:, :1] > 0).flatten().nonzero()
    assert got["score"].shape == (1, 1)
    white = inferer(cval=2.4)(torch.zeros(1, 3, *shape), Spots())
    assert (white["score"] > 0.9) == (min(shape) < ROI)  # it is the padding that is red


def test_of_several_classes_one_is_named(windows):
    network = Spots(classes=2)
    got = inferer(class_idx=1)(windows, network)
    expected = inferer()(windows, Spots())
    torch.testing.assert_close(got["score"], expected["score"])
    torch.testing.assert_close(got["evidence"], expected["evidence"], atol=CLOSE, rtol=0)
    against = inferer(class_idx=0)(windows, network)
    torch.testing.assert_close(against["score"], 1 - expected["score"])
    with pytest.raises(InputError, match="expected class_idx for 2 classes, found none"):
        inferer()(windows, network)


def test_maps_are_not_scaled_where_the_command_line_says_so(windows):
    raw, weighed = (inferer(weigh=flag)(windows, Spots())["evidence"] for flag in ("false", "true"))
    assert torch.equal(raw, inferer(weigh=False)(windows, Spots())["evidence"])
    assert not torch.equal(raw, weighed)


def test_unknown_map():
    with pytest.raises(InputError, match="expected map among celm, cam, cam2, cam3, csm, found 'heat'"):
        EvidenceInferer(map="heat")


def test_settings_are_checked_before_the_first_image():
    with pytest.raises(InputError, match="evidence beta: expected a number from 0 to 1, found 9"):
        EvidenceInferer({"alpha": 0.5, "beta": 9})


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_inside_an_evaluator(windows, half):
    """It computes gradients where the engine has switched them off."""
    network = Spots().train()
    loader = DataLoader(Dataset([{"image": window} for window in windows]), batch_size=3)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=network, inferer=inferer(), decollate=False
    )
    seen = []
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output["pred"]))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        evaluator.run()
    expected = inferer()(windows, Spots())
    for name, value in expected.items():
        assert not seen[0][name].requires_grad
        torch.testing.assert_close(seen[0][name], value)
