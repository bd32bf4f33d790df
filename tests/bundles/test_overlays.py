"""No setting of a configuration is lost in silence where another one is laid over it.

What the base states is what has to survive: for each overlay and each configuration that it goes over, and for each
stack of files that a page documents. ``INTENDED`` is the short list of what overlays are there to change.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from pydoc import locate

import pytest
from monai.bundle import ConfigParser

from tests.bundles.conftest import BUNDLES
from tests.configs import config_files, configurations

OVER = "_over_"
REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")
COUNT = re.compile(r"\blen\(@[^()]*\)")  # how many there are does not depend on what they are
SEEDED = re.compile(r"set_determinism\(seed=([^)]+)\)")
ENDS = ("run", "initialize", "validate#evaluator")
EVALUATES = "validate#evaluator.run()"
# what decides whether a network's answer can be trusted; `#` leads into an object
WATCHED = (
    *("weights", "network_def#weights", "backbone_weights", "start_from", "classifier", "classifier_path"),
    *("ckpt_dir", "front_dir", "back_dir", "student_dir", "teacher_dir"),
    *("mean", "std", "convention", "convention#mean", "convention#std", "convention#channels", "convention#weights"),
    *("mpp", "target_mpp", "unlabelled", "seed"),
)
NO_NETWORK = {"weights", "ckpt_dir", "convention", "convention#weights"}
OTHER_NETWORK = {"window", "dropout", "norm_momentum"}  # of the network that is replaced
NO_BACKBONE = {"freeze_norm", "backbone", "backbone_rate", "backbone_weights"}
NO_LOADER = {
    "cpu_bfloat16",
    "num_workers",
    "batch_size",
}  # maps need gradients and are computed in their own way
DEPLOYED = {"weights", "convention#weights"}
INPUT = {"convention", "convention#mean", "convention#std", "convention#channels"}
INTENDED: dict[str, dict[str, set[str]]] = {
    "*": {
        # a federation's weights arrive from outside
        "fl": {"weights", "ckpt_dir", "convention#weights"},
        # nothing is trained
        "evaluate": {
            *("average_momentum", "cache_rate", "convention", "convention#weights"),
            "backbone_weights",
        },
        # the truth is what counts
        "evaluate_front": {"backbone_weights", "convention", "convention#weights"},
        "evaluate_cells": {"annotation", "selection_annotation", "convention", "convention#weights"},
        **dict.fromkeys(["inference_onnx", "inference_trt", "slides_onnx"], DEPLOYED),
        # windows, evidence maps and loaders of single images have no place on slides
        "slides": {"num_workers", "overlap", "batch_size"},
        **dict.fromkeys(["attributions", "evaluate_evidence"], NO_LOADER),
    },
    "cell_semantic_segmentation": {
        "paper_network": {"target_mpp", *INPUT, *NO_BACKBONE},  # images at their own resolution
        "paper": {"weight_decay"},  # Adam as in the paper, without
        "teacher": {"ckpt_dir", *OTHER_NETWORK},
        **dict.fromkeys(["resnet16", "vgg4", "xception"], OTHER_NETWORK),
        "otsu": {"freeze_norm", *NO_NETWORK},
        "student": {"ckpt_dir"},
        "pretrained_classifier": {*INPUT, *OTHER_NETWORK},
        "finetune": {"ckpt_dir", "teacher_labels", "convention", "convention#weights"},  # experts teach
        "reviewed": {"backbone_weights", "convention", "mpp"},  # it goes on from trained weights; nothing is validated
        # all that was reviewed teaches; a seed that draws nuclei has none to draw
        "reviewed_classes": {"student_dir", "per_class", "expert_split", "held", "seed"},
    },
    "metastasis_evidence_localization": {
        "pretrained": {*INPUT, *OTHER_NETWORK},
        "paper_pcam": {"target_mpp"},
        "paper_camelyon16": {"target_mpp"},
        "hematoxylin": {"window", *NO_NETWORK},
        **dict.fromkeys(["resnet18", "densenet", "p4m_densenet"], OTHER_NETWORK),
        # the exact windows have no context
        **{name: {*DEPLOYED, "context"} for name in ("slides_onnx", "slides_trt")},
    },
    "mitosis_segmentation": {
        "narrow_vgg": {*INPUT, *NO_BACKBONE},
        **{name: {"start_from"} for name in ("quickstart", "finetune")},  # they set it
        "paper_network": {"start_from", *INPUT, *NO_BACKBONE},  # its weights are `network_def#weights`
        "caffe_input": INPUT,
        "paper": {"patches_per_field"},  # an epoch is 1,000 patches, however many fields there are
        "hematoxylin": {"start_from", "backbone_weights", "freeze_norm", *NO_NETWORK},
        "final": {"mpp", "match_radius_px"},  # nothing is validated
        "reviewed": {"start_from", "mpp", "match_radius_px"},  # the same, from trained weights
        # fields are brought to one size, whatever their resolution, and their masks are scored
        "mammography": {"mpp", "target_mpp", "match_radius_px", "convention"},
        "mammography_evaluate": {"target_mpp", "match_radius_px"},
    },
    "mvi_vessel_classification": {
        "pretrained": INPUT,
        # the loss no longer asks the convention what white is: masked pixels fade to 0 (equation 3)
        "paper": {"convention", "network_def#weights", "target_mpp"},
        "from_classifier": {"convention", "network_def#weights"},  # it begins from the classifier's
        "classifier": {"stage2_epochs"},
        "hematoxylin": {"network_def#weights", *NO_NETWORK},
    },
    "nuclei_instance_segmentation": {
        "paper": {"backbone_weights"},
        "paper_front": {"backbone_weights"},
        "ignore_unlabelled": {"unlabelled"},
        "reviewed": {"start_from", "unlabelled", "mpp"},  # nothing is validated
        "otsu": {"backbone_weights", "start_from", "freeze_norm", "unlabelled", *NO_NETWORK},
        "fully_supervised": {"ckpt_dir"},
        **{name: {"score"} for name in ("hovernet", "kg_instance")},  # they have thresholds of their own
        "evaluate_seeds": {"pictures", "seed"},  # its report has pictures of its own, and draws none of the steps
        # seeds do not come from relevance
        "true_seeds": {
            *("tile_size", "theta", "quantile", "sigma", "min_area", "radius", "keep", "background", "margin"),
            *("refine", "min_solidity", "pictures", "seed"),  # the seed draws all the same, but no steps are pictured
        },
    },
}  # fmt: skip


def intended(bundle: Path, overlay: str) -> set[str]:
    of_bundle = INTENDED[bundle.name.removeprefix("pathology_")]
    return INTENDED["*"].get(overlay, set()) | of_bundle.get(overlay, set())


def read(bundle: Path, names: Iterable[str]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(config_files(bundle, *names))
    return parser


def entry(parser: ConfigParser, name: str) -> object:
    """An entry as it is written, or ``...`` where there is none."""
    try:
        return parser[name]
    except (KeyError, IndexError, TypeError, ValueError):
        return ...


def references(value: object) -> Iterator[str]:
    """The entries that a part of a configuration refers to."""
    if isinstance(value, str):
        if value.startswith(("$", "@")):
            yield from (name.replace("::", "#") for name in REFERENCE.findall(COUNT.sub("", value)))
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from references(part)


@functools.cache
def graph(parser: ConfigParser) -> dict[str, set[str]]:
    """What each entry refers to itself, of all that is there."""
    links: dict[str, set[str]] = {}
    waiting = [*parts(parser), *ENDS]
    while waiting:
        name = waiting.pop()
        if name not in links and (value := entry(parser, name)) is not ...:
            links[name] = set(references(value))
            waiting.extend(links[name])
    return links


def closure(links: dict[str, set[str]], *names: str) -> set[str]:
    """These entries and all that they lead to."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in links and name not in reached:
            reached.add(name)
            waiting.extend(links[name])
    return reached


def reversed_links(links: dict[str, set[str]]) -> dict[str, set[str]]:
    back: dict[str, set[str]] = {name: set() for name in links}
    for name, others in links.items():
        for other in others & links.keys():
            back[other].add(name)
    return back


def parts(parser: ConfigParser) -> list[str]:
    """The entries that do something: all at the top, and those of training and validation."""
    top = [name for name in parser.get() if not name.startswith("_") and parser["run"] != f"@{name}" and name != "run"]
    return top + [f"{name}#{part}" for name in ("train", "validate") for part in parser.get(name, {})]


def losses(base: ConfigParser, stack: ConfigParser) -> set[str]:
    """Settings of the base that the stack changes, no longer heeds, or no longer heeds in a part that it keeps."""
    links, others = graph(base), graph(stack)
    before = closure(links, "validate#evaluator" if EVALUATES in str(stack["run"]) else "run", "initialize")
    after = closure(others, "run", "initialize")
    stated = {name: (entry(base, name), entry(stack, name)) for name in WATCHED}
    lost = {name for name, (one, other) in stated.items() if ... not in (one, other) and one != other}
    for name, value in base.get().items():
        plain = not isinstance(value, dict | list) and not str(value).startswith("$")
        if plain and name != OVER and name in before - after:
            lost.add(name)
    back, kept = (reversed_links(links), reversed_links(others)), set(parts(base)) & after
    for name in set(WATCHED) & links.keys():
        heeded, still = (closure(each, name) for each in back)
        if heeded & kept - {name} - still:
            lost.add(name)
    if SEEDED.findall(str(base["initialize"])) != SEEDED.findall(str(stack["initialize"])):
        lost.add("seed")
    return lost


read_once = functools.cache(read)  # what lies below many


@functools.cache
def lost_by(folder: Path, below: tuple[str, ...], name: str) -> frozenset[str]:
    """What a bundle's configurations lose by another one laid over them."""
    return frozenset(losses(read_once(folder, below), read_once(folder, (*below, name))))


def declared() -> list[tuple[Path, tuple[str, ...]]]:
    """Each overlay with each configuration that it says it goes over."""
    return [
        (bundle, (*over.split(" + "), path.stem))
        for bundle in BUNDLES
        for path in configurations(bundle)
        for over in json.loads(path.read_text()).get(OVER, ())
    ]


def listed_files(page: str) -> Iterator[str]:
    """The lists of files in a page's commands, with what its shell variables of one letter stand for there."""
    values: dict[str, str] = {}
    for match in re.finditer(r"\b([A-Z])=\"('configs/[^\"\n]*)\"|(--configs )?\"\[([^]\"]*)\]\"", page):
        name, value, tuned, listed = match.groups()
        text = re.sub(r"\$([A-Z])\b", lambda letter: values.get(letter[1], letter[0]), value or listed)
        if name:
            values[name] = text
        else:
            yield f"'configs/train.json','configs/evaluate.json',{text}" if tuned else text  # what tuning goes over


def documented() -> list[tuple[Path, tuple[str, ...]]]:
    """The stacks in commands of the bundles' own pages, those of the tables among them."""
    stacks = {}
    for bundle in BUNDLES:
        stems = {p.relative_to(bundle / "configs").with_suffix("").as_posix(): p.stem for p in configurations(bundle)}
        for listed in listed_files((bundle / "docs/README.md").read_text()):
            patterns = [re.sub(r"\$\w+", "*", name) for name in re.findall(r"configs/([\w/$]+)\.json", listed)]
            choices = [[stem for path, stem in stems.items() if fnmatch(path, pattern)] for pattern in patterns]
            assert all(choices), f"{bundle.name}: {listed}"
            for names in product(*choices):
                if len(names) > 1:
                    stacks[bundle, names] = None
    return list(stacks)


def ids(case: object) -> str:
    return case.name.removeprefix("pathology_") if isinstance(case, Path) else " + ".join(case)


@pytest.mark.parametrize(("folder", "names"), declared(), ids=ids)
def test_an_overlay_keeps_what_its_base_states(folder, names):
    assert lost_by(folder, names[:-1], names[-1]) - intended(folder, names[-1]) == set()


@pytest.mark.parametrize(("folder", "names"), documented(), ids=ids)
def test_a_documented_stack_keeps_what_lies_below(folder, names):
    for number, name in enumerate(names[1:], start=1):
        if OVER in json.loads(Path(config_files(folder, name)[0]).read_text()):
            assert lost_by(folder, names[:number], name) - intended(folder, name) == set(), name


@pytest.mark.parametrize(("folder", "names"), documented(), ids=ids)
def test_a_documented_stack_is_one_that_its_overlays_name(folder, names):
    for number, name in enumerate(names[1:], start=1):
        over = json.loads(Path(config_files(folder, name)[0]).read_text()).get(OVER, ())
        below = names[:number]
        # named stacks may have more between them: a backbone below the evaluation, say
        assert any(set(each.split(" + ")) <= set(below) and each.startswith(below[0]) for each in over), name


def test_what_is_intended_happens():
    """The list of exceptions holds nothing that no overlay does."""
    done: dict[tuple[str, str], set[str]] = {}
    for bundle, names in declared():
        for scope in ("*", bundle.name.removeprefix("pathology_")):
            done.setdefault((scope, names[-1]), set()).update(lost_by(bundle, names[:-1], names[-1]))
    unused = {
        (scope, name): extra
        for scope, overlays in INTENDED.items()
        for name, settings in overlays.items()
        if (
            extra := {s for s in settings if not s.startswith("convention")}
            - done.get((scope, name), set())
            - OTHER_NETWORK
        )
    }
    assert unused == {}


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ({"network_def": {"_target_": "x.Net", "backbone": "@backbone", "weights": "@backbone_weights"}}, "unlabelled"),
        (
            {"network_def": {"_target_": "x.Net", "backbone": "@backbone", "unlabelled": "@unlabelled"}},
            "backbone_weights",
        ),
        ({"target_mpp": 0.5}, "target_mpp"),
        (
            {"load": {"_target_": "monai_ext.transforms.LoadFieldd", "keys": "image", "mask_keys": ["label"]}},
            "target_mpp",
        ),
        ({"initialize": ["$monai.utils.set_determinism(seed=0)"]}, "seed"),
        ({"train#handlers": []}, "seed"),
        ({"patches#size": 64}, "patch_size"),
        ({"network": "$@network_def.to(@device)"}, "start_from"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_loss_is_noticed(overlay, expected):
    bundle = next(path for path in BUNDLES if path.name == "pathology_nuclei_instance_segmentation")
    base, stack = read(bundle, ["train"]), read(bundle, ["train"])
    assert losses(base, read(bundle, ["train"])) == set()
    for name, value in overlay.items():
        stack[name] = value
    assert expected in losses(base, stack)


def test_a_cycle_in_several_processes_keeps_its_phases():
    """The overlays of the paper and of the back end remain below those of ``torchrun``, and these come last."""
    bundle = next(path for path in BUNDLES if path.name == "pathology_nuclei_instance_segmentation")
    back_end = ["configs/overlays/network/hovernet.json"]
    for below in (["cycle"], ["cycle", "paper"], ["cycle", "dsb2018"]):
        alone, together = read(bundle, below), read(bundle, [*below, "multi_gpu_cycle"])
        for kind, last in (("front", "train"), ("back", "train"), ("evaluate", "evaluate"), ("found", None)):
            name = f"cycle#{kind}_configs"
            for parser in (alone, together):
                parser["back_end"] = back_end
            more = [f"configs/multi_gpu_{last}.json"] if last else []
            assert together.get_parsed_content(name) == [*alone.get_parsed_content(name), *more]


def test_networks_serve_training_scoring_and_use(bundle):
    """What is trained with an overlay is scored, cut out and used with it, and finds its network in each stack."""
    whole = {path.stem: json.loads(path.read_text()) for path in configurations(bundle)}
    for path in configurations(bundle):
        if "network" not in (path.parent.name, *path.stem.split("_")) or path.stem == "hematoxylin":
            continue  # the floor of mitosis has no weights
        stacks = {frozenset(over.split(" + ")) for over in json.loads(path.read_text())[OVER]}
        named = set().union(*stacks)
        uses = {"inference"} | ({"slides"} & whole.keys())
        evaluates = {"evaluate", "evaluate_cells"}
        assert uses <= named, path.stem
        assert named & {"train", "classify", "front"}, path.stem
        assert named & evaluates, path.stem
        if "extract" in whole and "train" in named:
            assert "extract" in named, path.stem
        for over in json.loads(path.read_text())[OVER]:
            parser = read(bundle, [*over.split(" + "), path.stem])
            parser["bundle_root"], parser["class_names"] = str(bundle), ["tumour", "stroma"]
            for key in {"classifier_def", "network_def"} & parser.get().keys():
                item = parser.get_parsed_content(key, instantiate=False)
                inspect.signature(locate(item.get_config()["_target_"])).bind(**item.resolve_args())


def test_every_overlay_says_what_it_goes_over(bundle):
    """All but whole configurations and arguments of other commands."""
    for path in configurations(bundle):
        content = json.loads(path.read_text())
        assert next(iter(content)) == "_desc_", path.name
        assert content["_desc_"].strip(), path.name
        assert "\n" not in content["_desc_"], path.name
        assert not content["_desc_"].startswith(("$", "@", "%")), path.name
        whole, arguments = "bundle_root" in content, "net_id" in content
        assert (OVER in content) is not (whole or arguments), path.name
