"""What becomes of each documented command: run on small data, run by another test, or not run, and why."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from tests.docs import places
from tests.docs.places import SIDE, Recipe, copied, fields, images, one_image, scores, shipped, slides
from tests.docs.shell import Command

CELLS = "bundles/pathology_cell_semantic_segmentation"
EVIDENCE = "bundles/pathology_metastasis_evidence_localization"
MITOSIS = "bundles/pathology_mitosis_segmentation"
NUCLEI = "bundles/pathology_nuclei_instance_segmentation"
VESSELS = "bundles/pathology_mvi_vessel_classification"

COMMANDS_TEST = "tests/bundles/test_bundle_commands.py"
CYCLE_TEST = "tests/bundles/test_cyclic_chain.py"
EXPORTS_TEST = "tests/bundles/test_bundle_exports.py"
LABEL_TEST = "tests/label/test_server.py"
SHARED_TEST = "tests/bundles/test_bundle_distribution.py::test_runs_where_this_repository_is_not"

PATCHES = partial(fields, "metastasis", slides=12, fields=6, size=96)

#: What a page leaves to its reader, and Slurm to itself.
VARIABLES = {"B": "mobilenet_v2", "SLURM_JOB_NODELIST": "one,two", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}

#: A folder that a page has its reader download, and what is in it.
DOWNLOADED = {"pathology_mitosis_segmentation": MITOSIS}

#: By the folder in which commands are typed, what lies there before.
PLACES: dict[str, dict[str, Recipe]] = {
    ".": {
        "DATA": copied(partial(fields, "mitosis")),
        "MODELS": shipped(MITOSIS),
        "project": places.test_prepare_cells.qupath,
        "eval/scores": scores("celnet_0", "celnet_1", "resnet18_0", "resnet18_1"),
    },
    CELLS: {
        "CRCHISTO": places.crchisto,
        "QUPATH.geojson": places.outlined,
        "RESULTS": places.results,
        "annotated": copied(partial(places.phantom, "nucleus_patches", slides=10, fields=1, size=SIDE)),
        "DATA": copied(partial(fields, "cells")),
        "D16": copied(
            partial(places.phantom, "nucleus_patches", slides=10, fields=1, size=SIDE, patch=16, scales=(1, 2, 4))
        ),
        "DSB": places.bowl,
        "F": copied(partial(fields, "cells")),
        "IMAGES": images(partial(fields, "cells")),
        "MODELS": shipped(CELLS),
        "NUCLS": places.nucls,
        "SLIDES": slides(),
        "configs/warm.json": places.warm_start,
        "STUDENT": shipped(CELLS, "models/classifier"),
        "reviewed": places.reviewed,
    },
    EVIDENCE: {
        "DATA": copied(PATCHES),
        "IMAGES": images(PATCHES),
        "RELEASE/testing/images": copied(places.camelyon16, "testing/images"),
        "KAGGLE": partial(places.test_prepare_pcam.kaggle, count=120),
        "SLIDES": copied(places.camelyon16, "testing/images"),
        "models/mine": shipped(EVIDENCE),
    },
    MITOSIS: {
        "MITOSES": places.tupac16,
        "DATA": copied(partial(fields, "mitosis")),
        "CBIS": places.masses,
        "IMAGE": images(partial(fields, "mitosis"), 1),
        **dict.fromkeys(["MITOS12", "MITOS14", "AMIDA13", "TUPAC16"], copied(partial(fields, "mitosis"))),
        "fcn32s.caffemodel": places.caffe,
        **dict.fromkeys(
            ["IMAGES", "MITOS14_TEST", "RELEASE/mitoses-test-image-data"], images(partial(fields, "mitosis"))
        ),
        "SLIDES": slides(),
        "mitosis_fields": places.tupac16,
        "models/mine": shipped(MITOSIS),
    },
    NUCLEI: {
        "DSB": places.bowl,
        "F": copied(partial(fields, "nuclei")),
        "FIELDS": copied(partial(fields, "nuclei")),
        "IMAGES": images(partial(fields, "nuclei")),
        "MARKED": places.marked,
        "SLIDES": slides(3, 768),
        "T": copied(partial(fields, "nuclei")),
        "data/synthetic": copied(partial(fields, "nuclei", seed=1)),
        "data/fields": copied(partial(fields, "nuclei")),
        "models/cycle": shipped(NUCLEI),
    },
    VESSELS: {
        "DATA": copied(places.vessels),
        "IMAGE.png": one_image(places.vessels),
        "OTHER_IMAGE.png": one_image(places.vessels, 1),
        "POINTS.geojson": places.points,
        "PVID": copied(places.vessels),
        "SLIDE.svs": places.vessel_slide,
        "VESSELS": images(places.vessels),
        "models/mine": shipped(VESSELS),
    },
}


@dataclass(frozen=True)
class Rule:
    """What is done with the commands that it matches.

    Attributes:
        match: a regular expression, sought in ``folder$ command``.
        why: they are not run; the reason.
        by: they are not run here, but by this test.
        replace: regular expressions for parts of words, and what stands there instead.
        add: further options.
    """

    match: str
    why: str = ""
    by: str = ""
    replace: Mapping[str, str] = field(default_factory=dict)
    add: tuple[str, ...] = ()

    def matches(self, command: Command) -> bool:
        return re.search(self.match, f"{command.folder}$ {command.text}") is not None


ELSEWHERE = (
    Rule(r"prepare idc ", by="tests/prepare/test_prepare_idc.py::test_idc"),  # pydicom is an extra
    Rule(r"monai_ext convert ", by="tests/exchange/test_runs.py::test_convert_from_the_command_line"),
    Rule(r"monai_ext view ", by="tests/view/test_command.py::test_the_command_prints_its_address_and_ends_by_ctrl_c"),
    Rule(r" report reviewers ", by="tests/view/test_reviewers.py::test_two_reviewers_side_by_side"),
    Rule(r"monai_ext learn ", by="tests/learn/test_learn_command.py::test_the_loop"),
    Rule(r"report review-orders .*mit_0", by="tests/learn/test_review_pools.py::test_reviewers_of_mitoses"),
    Rule(r"report review-orders .*dsb_0", by="tests/learn/test_review_pools.py::test_reviewers_of_outlines"),
    Rule(r"torchrun .*configs/cycle\.json", by=f"{CYCLE_TEST}::test_two_processes"),
    Rule(r"torchrun --(standalone|nproc).* training ", by=f"{COMMANDS_TEST}::test_two_processes_train"),
    Rule(r"torchrun --standalone.*multi_gpu_evaluate", by=f"{COMMANDS_TEST}::test_two_processes_evaluate_as_one_does"),
    Rule(
        r"torchrun --standalone.*multi_gpu_slides",
        by="tests/bundles/test_bundle_slides.py::test_two_processes_write_the_same_files",
    ),
    Rule(r" report folds ", by="tests/reports/test_folds_report.py::test_a_row_for_each_method"),
    Rule(r" report pictures ", by="tests/reports/test_instance_pictures.py::test_runs_stand_beside_image_and_labels"),
    Rule(r" training .*configs/cycle\.json(?!.*overlays/paper/paper\.json)", by=f"{CYCLE_TEST}::whole"),
    Rule(
        r" training .*/from_classifier\.json",
        by="tests/bundles/test_vessel_bundle.py::test_a_trained_classifier_goes_on_with_stage_2",
    ),
    Rule(r" ckpt_export ", by=f"{COMMANDS_TEST}::test_torchscript_export"),
    Rule(r" onnx_export ", by=f"{EXPORTS_TEST}::exported"),
    Rule(r"inference_onnx\.json", by=f"{EXPORTS_TEST}::test_inference_gives_the_same_label_images"),
    Rule(r"slides_onnx\.json", by=f"{EXPORTS_TEST}::test_slides_give_the_same_heat_maps"),
    Rule(r"\$ pip install|monai\.bundle download --name \w+ --bundle_dir", by=SHARED_TEST),
    Rule(r"^pathology_mitosis_segmentation\$ .* run ", by=SHARED_TEST),
    Rule(r" download .*--source github", by="tests/bundles/test_bundle_distribution.py::test_download_from_a_release"),
    Rule(r" download_large_files", by="tests/distribution/test_large_files.py"),
    Rule(r"monailabel\.main start_server", by="tests/label/conftest.py::start"),
    Rule(r"curl .*/infer/", by=f"{LABEL_TEST}::test_outlines_lie_on_the_nuclei_of_the_slide"),
    Rule(r"curl .*/(datastore|train)/", by=f"{LABEL_TEST}::test_infer_edit_train_infer"),
    Rule(r"curl .*/(activelearning|scoring)/", by=LABEL_TEST),
)

NOT_RUN = (
    Rule(r"\$ \. ", why="the tests run in the environment that it activates"),
    Rule(
        r"\$ make ", why="makes the environment in which the tests run; the demo's steps are those of the bundle's page"
    ),
    Rule(r"--nnodes=|\$ scontrol|\$ head|\$ -m ", why="several machines"),
    Rule(r"_trt\.json|trt_export", why="a GPU and TensorRT"),
    Rule(
        r"^(?!.*( phantom |from_classifier\.json)).*(--seed |(data|eval)/(?!masks_)\w+_)[1-4]( |$)",
        why="another seed of a command that is run",
    ),
    Rule(r"--output_dir data/seeds_\d+ ", why="goes on from the front end that the bundle's page trains"),
    Rule(r"benchmarks/pretraining\.py", why="thirty trainings"),
    Rule(r"--backbone_weights hub", why="weights that are downloaded, with a token"),
    Rule(rf"{NUCLEI}.*models/cycle/cycle_", why="goes on from a cycle of half an hour"),
    Rule(r"--ckpt_dir models/resnet18( |$)", why="on the bundle's page the same runs with the ResNet18 trained there"),
)

CAFFE = "fcn32s.caffemodel"
WARM = "['configs/train.json','configs/warm.json']"  # from the shipped weights: an epoch from none finds no cells
TRAIN = ("--epochs", "1", "--val_interval", "1")
CYCLE = rf"^{NUCLEI}\$ .*configs/cycle\.json.*overlays/paper/paper\.json"
FRONT = "{'epochs':1,'batch_size':4,'learning_rate':0.01,'backbone_weights':None}"
SMALL = "'network_def#channels':16,'network_def#box_channels':32"
BACK = "{'epochs':1,'val_interval':1,'patch_size':64,'score':0}"
SEEDS = "{'theta':0.01,'min_area':1}"  # a classifier of an epoch sees little
SHORTER = (
    # training
    Rule(rf"{CELLS}\$ .*paper_network\.json", add=("--filters", "2")),
    Rule(
        rf"^(?!{CELLS}).*paper_network\.json",
        add=("--network_def#width", "0.05"),
        replace={"^(CAFFE|fcn32s-.*)$": CAFFE},
    ),
    Rule(r"", replace={"^IMAGENET1K_V1$": "$None"}),  # not at hand
    Rule(rf"{MITOSIS}\$ .* training ", add=(*TRAIN, "--patch_size", "96", "--patches_per_epoch", "4")),
    Rule(rf"{EVIDENCE}\$ .* training ", add=(*TRAIN, "--batch_size", "12")),
    Rule(rf"{EVIDENCE}\$ .*/resnet18\.json", add=("--network_def#block_inplanes", "[8,16,32,64]")),
    Rule(r"prepare pcam --src RELEASE", add=("--limit", "24")),
    Rule(rf"{CELLS}\$ .* training .*configs/train", add=(*TRAIN, "--patch_size", "64", "--patches_per_field", "1")),
    Rule(rf"{CELLS}\$ .* training .*/classify\.json", add=TRAIN, replace={"^100$": "4"}),
    Rule(r"tune .*expert_split remainder", add=("--processes", "1")),
    Rule(rf"{NUCLEI}\$ .* training .*configs/train", add=(*TRAIN, "--patch_size", "64")),
    Rule(rf"{VESSELS}\$ .* training ", add=("--stage1_epochs", "1", "--stage2_epochs", "1", "--warmup_epochs", "1")),
    Rule(rf"{VESSELS}\$ (?!.*/network/).*/paper\.json", add=("--network_def#backbone", "resnet10")),
    Rule(rf"{VESSELS}\$ .*/paper\.json", add=("--grid", "6", "--batch_size", "2")),
    Rule(rf"{CELLS}\$ .* training .*models/mine", replace={r"^configs/train\.json$": f"{WARM}"}),
    # so few fields hold some classes only, which no classifier can learn from
    Rule(r"configs/chain\.json --fields_dir", add=("--segmentation_configs", WARM, "--stop", "extraction")),
    Rule(r"configs/chain\.json .*--dataset_dir D$", replace={"^D$": "data/crc_0"}),
    Rule(
        r"configs/chain\.json",
        replace={r"'epochs':\d+": "'epochs':1"},
        add=("--per_class", "4", "--shared_settings", "{'epochs':1,'val_interval':1,'patches_per_field':1}"),
    ),
    Rule(r"/attributions\.json", add=("--attribution_limit", "1", "--attribution_methods", "['cam','lrp']")),
    # the paper's rows: small networks, phases of an epoch, seeds wherever there is evidence
    Rule(rf"{MITOSIS}\$ .*/mammography\.json", add=("--field_size", "[96,64]", "--patch_size", "64")),
    Rule(rf"{NUCLEI}\$ .*/paper", replace={"^resnet(50|101|152)$": "resnet18"}),
    Rule(f"{CYCLE}.*unilateral", add=("--cycles", "2", "--students", "1")),  # one has nothing to share
    Rule(f"{CYCLE}(?!.*unilateral)", add=("--cycles", "1", "--students", "1")),
    Rule(f"{CYCLE}(?!.*--backbone )", add=("--backbone", "resnet18")),
    Rule(
        CYCLE,
        add=("--tile_size", "64", "--backbone_weights", "$None"),
    ),
    # cut down to one cycle and one small student these are the first row again, whose phases are done
    Rule(CYCLE, replace={"^O_(resnet50|1|baseline|one_student)$": "O"}),
    Rule(f"{CYCLE}.*--back_end", add=("--back_settings", BACK, "--found_settings", "{'score':0}")),
    Rule(
        f"{CYCLE}(?!.*--back_end)",
        add=("--back_settings", f"{BACK[:-1]},{SMALL}}}", "--found_settings", f"{{'score':0,{SMALL}}}"),
    ),
    Rule(
        rf"{NUCLEI}\$ (?!.*(cycle|front|hovernet|kg_instance)\.json).*/paper_back\.json",
        add=("--network_def#channels", "16", "--network_def#box_channels", "32"),
    ),
    Rule(f"{CYCLE}.*--front_settings", replace={r"^\{'synthetic": f"{FRONT[:-1]},'synthetic"}),
    Rule(f"{CYCLE}(?!.*--front_settings)", add=("--front_settings", FRONT)),
    Rule(f"{CYCLE}.*--seeds_settings", replace={r"^\{'max_seeds": f"{SEEDS[:-1]},'max_seeds"}),
    Rule(f"{CYCLE}(?!.*--seeds_settings)", add=("--seeds_settings", SEEDS)),
    Rule(rf"{CELLS}\$ .*--dataset_dir D .*(teacher|student|table)", replace={"^D$": "annotated"}),
    # tuning
    Rule(r"tune expert-count", add=("--counts", "(2,4)", "--learning_rates", "(1e-3,)", "--epochs", "1")),
    Rule(  # of a loop the first round is run
        r"report review-orders",
        replace={r"^\['data/crc_0',.*": "data/crc_0", r"^\['models/weak_0',.*": "models/weak_0"},
        add=("--clicks", "(2,4)", "--epochs", "1"),
    ),
    Rule(r"tune instances", add=("--thresholds", "(0.4,0.5,0.1)", "--sigmas", "(0,0.125,0.125)")),
    Rule(r"tune mitosis", add=("--areas", "(100,900,100)", "--scores", "(0.3,0.8,0.1)")),
    Rule(r"tune evidence", add=("--alphas", "(0.5,1)", "--betas", "(0.5,1)", "--sigmas", "(2,)", "--limit", "12")),
    Rule(r"evaluate_evidence\.json", add=("--evidence_limit", "12")),
    # data
    Rule(r"annotate .*--per_class", replace={"^10$": "3", "^50$": "6"}),
    Rule(r"prepare (camelyon16|hploc) ", add=("--patches", "12")),
    Rule(r"phantom vessels ", add=("--slides", "6", "--vessels", "1", "--radius", "(60,75)")),
    Rule(r"prepare tiles --src SLIDES", add=("--size", "64")),
    Rule(r"prepare qupath ", add=("--mpp", "0.25")),
    Rule(r"prepare nucls ", replace={r"^docs/nucls_split\.csv$": "random"}),  # which lists the real fields
    Rule(r"phantom camelyon16 ", add=("--size", "768")),
    Rule(r"phantom slide ", add=("--size", "(512,768)")),
    # placeholders that stand for something else than in the other commands of the folder
    Rule(rf"{VESSELS}\$ .* templates ", replace={"IMAGE$": "IMAGE.png"}, add=("--overwrite",)),
    Rule(
        r"benchmarks/agreement\.py",
        replace={"^DATA$": f"{EVIDENCE}/DATA", "CMU-1-Small-Region.svs": f"{EVIDENCE}/SLIDES/test_001.tif"},
    ),
    Rule(rf"{VESSELS}\$ .* report classifiers ", replace={"eval/classifier": "eval/test"}),
    Rule(rf"{NUCLEI}\$ .*--tiles_dir TILES", replace={"^TILES$": "FIELDS"}),
)


def fate(command: Command) -> Rule | None:
    """The rule by which a command is not run here; ``None`` if it is run."""
    return next((rule for rule in (*NOT_RUN, *ELSEWHERE) if rule.matches(command)), None)


def shortened(command: Command) -> tuple[str, ...]:
    """The command's words, on small data."""
    words = list(command.words)
    for rule in SHORTER:
        if rule.matches(command):
            for old, new in rule.replace.items():
                words = [re.sub(old, new, word) for word in words]
            words += rule.add
    return tuple(words)


def named(folder: str, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """The places, as folder and name in ``PLACES``, that words typed in ``folder`` name."""
    found = []
    for place, names in PLACES.items():
        for name in names:
            path = re.escape(os.path.relpath(f"{place}/{name}", folder))
            if any(re.search(rf"(^|['\"]){path}($|['\"/])", word) for word in words):
                found.append((place, name))
    return found
