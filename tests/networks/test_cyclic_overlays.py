"""The overlays of Cyclic Learning: both ends, masks found and inference build networks that fit each other."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.networks.blocks import Backbone
from monai_ext.networks.nets import CyclicClassifier, NucleiHoVerNet, NucleiKGInstance, NucleiMaskRCNN, NucleiUNet
from monai_ext.phantom import write_dataset
from tests.configs import config_files

BUNDLE = Path(__file__).parents[2] / "bundles/pathology_nuclei_instance_segmentation"
DEFAULT = "timm:tf_efficientnet_lite0"
OVERLAYS = {
    "resnet18": ("resnet18", NucleiUNet),
    "resnet50": ("resnet50", NucleiUNet),
    "resnet101": ("resnet101", NucleiUNet),
    "resnet152": ("resnet152", NucleiUNet),
    "swin_t": ("swin_t", NucleiUNet),
    "hovernet": (DEFAULT, NucleiHoVerNet),
    "mask_rcnn": (DEFAULT, NucleiMaskRCNN),
    "kg_instance": (DEFAULT, NucleiKGInstance),
    "paper_mask_rcnn": (DEFAULT, NucleiMaskRCNN),
}


def read(*names):
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, *names))
    return parser


def network(*names):
    with torch.device("meta"):  # shapes and names are all that counts
        return read(*names).get_parsed_content("network_def")


def shapes(module):
    return {name: value.shape for name, value in module.state_dict().items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_overlay_for_all_that_load_its_weights(overlay):
    backbone, kind = OVERLAYS[overlay]
    trained = network("train", overlay)
    assert isinstance(trained, kind)
    assert trained.backbone.name == backbone
    for other in ("found", "inference"):
        assert shapes(network(other, overlay)) == shapes(trained)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "backbone.pt"
    torch.manual_seed(1)
    torch.save(Backbone(DEFAULT).state_dict(), path)
    return path


TRAINED = ["fully_supervised", "ignore_unlabelled"]
BACK_ENDS = [
    (),
    ("paper_back",),
    ("hovernet",),
    ("mask_rcnn",),
    ("kg_instance",),
    ("paper_back", "hovernet"),
    ("paper_back", "kg_instance"),
]


APPLIED = [(), ("paper_mask_rcnn",), ("hovernet",), ("mask_rcnn",), ("kg_instance",)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        *(("train", *back_end, *over) for back_end in BACK_ENDS for over in [(), *((name,) for name in TRAINED)]),
        *(("train", *back_end, "multi_gpu_train") for back_end in BACK_ENDS),
        *(("found", *over) for over in [(), ("paper_mask_rcnn",), ("hovernet",), ("mask_rcnn",), ("kg_instance",)]),
        *(("inference", *over) for over in [(), ("paper_mask_rcnn",), ("hovernet",), ("mask_rcnn",), ("kg_instance",)]),
    ],
    ids=" + ".join,
)
def test_every_back_end_begins_with_the_backbone_that_it_is_given(names, backbone_file):
    """Values, not shapes: a network_def that is replaced whole may lose both entries without a word."""
    parser = read(*names)
    parser["device"] = torch.device("cpu")
    parser["backbone_weights"] = str(backbone_file)
    for unlabelled in ("ignore", "background"):
        parser.ref_resolver.reset()
        parser["unlabelled"] = unlabelled
        network = parser.get_parsed_content("network_def")
        assert network.unlabelled == unlabelled
        state = network.backbone.state_dict()
        expected = torch.load(backbone_file, weights_only=True)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("overlay", ["train", "paper_back", "hovernet", "kg_instance"])
def test_what_is_trained_is_the_network_with_that_backbone(overlay, backbone_file):
    parser = read(*dict.fromkeys(["train", overlay]))
    parser["device"] = torch.device("cpu")
    parser["backbone_weights"] = str(backbone_file)
    trained = parser.get_parsed_content("network").state_dict()
    for name, value in torch.load(backbone_file, weights_only=True).items():
        assert torch.equal(trained[f"backbone.{name}"], value)


@pytest.mark.slow
def test_ignore_is_an_overlay_that_reaches_every_back_end():
    for back_end in BACK_ENDS:
        assert network("train", *back_end, "ignore_unlabelled").unlabelled == "ignore"


@pytest.mark.parametrize("overlay", [None, "resnet18", "resnet50", "resnet101", "resnet152", "swin_t"])
def test_the_backbone_crosses_between_the_ends(overlay):
    over = () if overlay is None else (overlay,)
    front, back = network("front", *over), network("train", *over)
    assert isinstance(front, CyclicClassifier)
    assert shapes(front.backbone) == shapes(back.backbone)
    assert shapes(network("seeds", *over)) == shapes(front)


def test_the_papers_numbers():
    cycle = read("cycle", "paper")
    assert cycle["backbone"] == "resnet152"
    assert cycle["backbone_weights"] == "IMAGENET1K_V1"
    assert (cycle["cycles"], cycle["students"], cycle["sharing"]) == (5, 5, "bilateral")  # f1 to f5
    assert cycle["patience"] is None  # Table III has all of them
    front, back, seeds = read("front", "paper_front"), read("train", "paper_back"), read("seeds", "paper_seeds")
    assert (front["learning_rate"], front["batch_size"], front["tile_size"]) == (1e-4, 10, 224)
    assert (back["learning_rate"], back["weight_decay"], back["alpha"]) == (1e-3, 1e-4, 0.66)
    assert (back["patch_size"], back["unlabelled"]) == (224, "background")
    assert (seeds["theta"], seeds["max_seeds"], seeds["quantile"], seeds["sigma"]) == (0.35, 20, 1.0, 0.0)
    with torch.device("meta"):
        whole = back.get_parsed_content("network_def")
    assert (whole.max_instances, whole.rpn_nms) == (400, (0.9, 0.7))
    assert [len(set(each)) for each in whole.rpn.anchor_generator.sizes] == [1] * 5
    assert whole.rpn.anchor_generator.sizes[0][0] == 8
    assert whole.rpn.anchor_generator.sizes[-1][0] == 128


def test_phases_of_the_paper_name_what_exists():
    for overlays in (("cycle",), ("cycle", "paper"), ("cycle", "multi_gpu_cycle"), ("cycle", "dsb2018")):
        parser = read(*overlays)
        parser["back_end"] = ["configs/overlays/network/hovernet.json"]
        for kind in ("front", "seeds", "back", "found", "evaluate"):
            for name in parser.get_parsed_content(f"{kind}_configs"):
                assert (BUNDLE / name).is_file()


def test_short_cycles_train_a_teacher_and_a_student():
    for overlay in ("quick_cycle", "dsb2018"):
        assert read("cycle", overlay)["students"] == 2


def test_settings_name_entries_of_their_configurations():
    own = read("cycle", "dsb2018")
    for kind, config in (("front", "front"), ("back", "train")):
        assert set(own[f"{kind}_settings"]) <= set(read(config).get())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (("front", "synthetic"), "tiles_dir"),
        (("front", "paper_front", "synthetic"), "tiles_dir"),
        (("train", "synthetic_fields"), "dataset_dir"),
        (("train", "paper_back", "fully_supervised", "synthetic_fields"), "dataset_dir"),
    ],
    ids=str,
)
def test_synthetic_images_are_for_training_alone(names, folder, tmp_path):
    for name in ("real", "synthetic"):
        write_dataset("nuclei", tmp_path / name, slides=8, fields=1, size=128)
    parser = read(*names)
    parser[folder], parser["synthetic_dir"] = str(tmp_path / "real"), str(tmp_path / "synthetic")
    lists = parser.get_parsed_content("datalist")
    origins = {
        split: {Path(item["image"]).relative_to(tmp_path).parts[0] for item in items} for split, items in lists.items()
    }
    assert origins == {"training": {"real", "synthetic"}, "validation": {"real"}}
