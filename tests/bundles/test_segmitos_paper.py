"""SegMitos's own trainings: the paper's rates, steps, draws and input, whatever is laid over what."""

import json
import shlex
from itertools import permutations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.base.config_order import check_order
from monai_ext.base.errors import InputError, input_error_in
from monai_ext.formats import write_points
from tests.bundles.conftest import BUNDLES
from tests.configs import config_files

BUNDLE = next(path for path in BUNDLES if "mitosis" in path.name)
PAPER = ("train", "paper_network", "paper")
RATES = {32: 1e-10, 16: 1e-13, 8: 1e-14}
DECAY = 5e-4


def parsed(names, **changes):
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, *names))
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", **changes})
    return parser


def orders(names):
    for order in permutations(names):
        try:
            check_order(config_files(BUNDLE, *order))
        except InputError:
            continue
        yield order


@pytest.mark.parametrize(("stage", "stride"), [((), 32), (("paper_16s",), 16), (("paper_8s",), 8)])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("patches", [(), ("augment_mitos14",)], ids=["500 px", "385 x 344 px"])
def test_any_order_gives_the_papers_step(stage, stride, mean, patches):
    """The summed loss's (section 4.1); the mean over n pixels takes n times the rate and an n-th of the decay."""
    pixels = (344 * 385 if patches else 500**2) if mean else 1
    stacks = list(orders([*PAPER, *stage, *patches, *(["paper_mean_loss"] if mean else [])]))
    assert stacks
    for names in stacks:
        parser = parsed(names)
        assert parser.get_parsed_content("loss").reduction == ("mean" if mean else "sum")
        assert parser.get_parsed_content("network_def#stride") == stride
        assert parser.get_parsed_content("learning_rate") == pytest.approx(RATES[stride] * pixels, rel=1e-12), names
        assert parser.get_parsed_content("weight_decay") == pytest.approx(DECAY / pixels, rel=1e-12)


def test_the_steps_of_both_losses_are_the_same():
    logits, label = torch.randn(1, 2, 50, 40, requires_grad=True), torch.randint(0, 2, (1, 1, 50, 40))
    steps = []
    for names in (PAPER, (*PAPER, "paper_mean_loss")):
        parser = parsed(names, patch_size=[50, 40])
        (gradient,) = torch.autograd.grad(parser.get_parsed_content("loss")(logits, label), logits)
        steps.append(gradient * parser.get_parsed_content("learning_rate"))
    torch.testing.assert_close(*steps, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("overlay", "steps"), [((), 200_000), (("augment_mitos14",), 200_000), (("mammography",), 250_000)]
)
def test_trainings_of_the_paper_end_with_its_steps(overlay, steps):
    parser = parsed((*PAPER, *overlay))
    assert parser.get_parsed_content("max_steps") == steps
    assert parser.get_parsed_content("epochs") is None
    assert parser.get_parsed_content("batch_size") == 1
    assert parser.get_parsed_content("amp") is False


@pytest.mark.parametrize(
    ("overlays", "multipliers"),
    [
        ((), (4 * 8 * 9 * 2, 4)),
        (("augment_mitos12", "label_mask"), (16 * 9 * 2, 4 * 2)),
        (("augment_mitos14",), (8 * 9 * 2, 1)),
    ],
)
def test_the_papers_multipliers(overlays, multipliers):
    parser = parsed((*PAPER, *overlays))
    assert tuple(parser.get_parsed_content("train#dataset#multipliers")) == multipliers
    assert parser.get_parsed_content("train#dataset#positive") is None


@pytest.fixture
def fields(tmp_path):
    """A data set of 3 x 12 tiles of 128 px for training, a figure on one of them and a look-alike on another one."""
    import cv2

    rng = np.random.default_rng(0)
    lists = {"training": [], "validation": []}
    for number in range(4):
        name = f"f{number}"
        cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(0, 256, (384, 512, 3)).astype(np.uint8))
        write_points(tmp_path / f"{name}.csv", [[100, 200]] if number % 3 == 0 else [])
        item = {"image": f"{name}.png", "label": f"{name}.csv", "group": name, "mpp": 0.25}
        if number == 1:
            write_points(tmp_path / "alike.csv", [[30, 40]])
            item["lookalikes"] = "alike.csv"
        lists["validation" if number == 3 else "training"].append(item)
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    return tmp_path


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_what_a_training_draws(fields, alike):
    """One tile with a figure of 36, counted 576 times against 4 (576 / (576 + 35 x 4)); look-alikes on one more."""
    parser = parsed(PAPER, dataset_dir=str(fields), patch_size=128, lookalikes=alike, cache_rate=0.0)
    dataset = parser.get_parsed_content("train#dataset")
    assert len(dataset) == 36
    with_figure = 576 / (576 + 35 * 4)
    assert f"{with_figure:.1%} of patches with a figure (1 tiles)" in dataset.summary()
    if alike:
        assert f"{(1 - with_figure) / 2:.1%} with a look-alike instead (1 tiles)" in dataset.summary()
    loader = parser.get_parsed_content("train#dataloader")
    assert len(loader) == 1000
    torch.manual_seed(0)
    batch = next(iter(loader))
    assert batch["image"].shape == (1, 3, 128, 128)
    assert set(batch["label"].unique().tolist()) <= {0, 1, 255}


def test_items_of_an_annotation_server(fields):
    """MONAI Label has no data list of files, and hands over its items under ``train#dataset#data``."""
    items = [{"image": str(fields / "f0.png"), "label": str(fields / "f0.csv")}]
    parser = parsed(("train",), dataset_dir=str(fields / "none"), patch_size=128, **{"train#dataset#data": items})
    assert len(parser.get_parsed_content("train#dataset")) == 12
    assert len(parser.get_parsed_content("train#sampler")) == 4


def test_the_default_draws_two_of_three_patches_with_a_figure(fields):
    parser = parsed(("train",), dataset_dir=str(fields), patch_size=128)
    assert "65.0% of patches with a figure" in parser.get_parsed_content("train#dataset").summary()
    assert parser.get_parsed_content("patches_per_epoch") == 4 * 3


def test_six_tiles_of_a_mammogram_at_batch_1(tmp_path):
    import cv2

    lists = {"training": [], "validation": []}
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (600, 500)).astype(np.uint8)
        mask = np.zeros((600, 500), np.uint8)
        mask[100:200, 50:150] = 255
        cv2.imwrite(str(tmp_path / f"i{number}.png"), image)
        cv2.imwrite(str(tmp_path / f"m{number}.png"), mask)
        item = {"image": f"i{number}.png", "label": f"m{number}.png", "group": str(number)}
        lists["validation" if number else "training"].append(item)
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    parser = parsed((*PAPER, "mammography"), dataset_dir=str(tmp_path))
    dataset = parser.get_parsed_content("train#dataset")
    assert len(dataset) == 6
    assert dataset.weights.tolist() == pytest.approx([1 / 6] * 6)
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    assert batch["image"].shape == (1, 3, 512, 512)
    assert batch["label"].shape == (1, 1, 512, 512)
    assert {value for item in dataset for value in np.unique(item[0]["label"])} == {0, 1, 255}


def test_torchvisions_weights_do_not_take_the_input_of_caffes():
    parser = parsed((*PAPER, "caffe_input"), **{"network_def#weights": "IMAGENET1K_V1"})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("convention")
    refusal = str(input_error_in(caught.value))
    assert refusal.startswith("IMAGENET1K_V1: expected weights trained with channels BGR")
    assert refusal.endswith("leave configs/overlays/input/caffe_input.json out of --config_file")


def test_every_command_that_begins_with_caffes_weights_brings_their_input():
    """And what follows a training on them, by the same variable of the page."""
    page = (BUNDLE / "docs/README.md").read_text()
    lines = [line for line in page.splitlines() if ".caffemodel" in line or "#weights CAFFE" in line]
    assert len(lines) >= 6
    value = next(line for line in page.splitlines() if line.startswith("P="))
    assert "caffe_input.json" in shlex.split(value)[0]
    for line in lines:
        assert "caffe_input.json" in line or "$P" in line, line
