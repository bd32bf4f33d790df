"""What a bundle's folder holds: files, metadata, identifiers."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties

from monai_ext.distribution.contents import collect, requirements
from tests.bundles.conftest import ROOT
from tests.configs import config_files, configurations

FILES = [
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/multi_gpu_train.json",
    "configs/multi_gpu_evaluate.json",
    "configs/quickstart.json",
    "configs/logging.conf",
    "models/model.pt",
    "docs/README.md",
    "docs/data_license.txt",
]
SECTIONS = [
    "Model Overview",
    "Data",
    "Preprocessing",
    "Training configuration",
    "Memory Consumption Warning",
    "Input",
    "Output",
    "Performance",
    "MONAI Bundle Commands",
    "References",
    "License",
]
MOST_BYTES = 25e6
SCHEMA = json.loads((Path(__file__).parent / "meta_schema_20240725.json").read_text())


def test_files_are_there(bundle):
    assert [name for name in FILES if not (bundle / name).is_file()] == []


def test_large_files_are_not_committed(bundle):
    shared = collect(bundle)
    files = {name: path for name, path in shared.files.items() if isinstance(path, Path) and name not in shared.large}
    assert [name for name, path in files.items() if path.stat().st_size > MOST_BYTES] == []


def test_readme_has_the_zoo_sections_in_order(bundle):
    lines = (bundle / "docs/README.md").read_text().splitlines()
    headings = [line.lstrip("# ").strip().lower() for line in lines if line.startswith("#")]
    wanted = [section.lower() for section in SECTIONS]
    assert [h for h in headings if h in wanted] == wanted


def test_metadata_follow_the_schema(bundle):
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    jsonschema.validate(metadata, SCHEMA)
    assert metadata["version"] in metadata["changelog"]


def test_versions_are_those_that_the_tests_run_with(bundle):
    """Exact pins, so that a zip's environment is the tested one; none of what the zip carries itself."""
    pins = {line.split(";")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert set(requirements(metadata).decode().split()) - pins == set()


def test_the_best_loss_is_the_least(bundle):
    config = ConfigParser()
    config.read_config(bundle / "configs/train.json")
    of_loss = all(name.endswith("loss") for name in config["validate#key_metric"])
    if "metric_cmp_fn" in config["validate#evaluator"]:
        better = config.get_parsed_content("validate#evaluator#metric_cmp_fn")
        assert better(1.0, 2.0) is of_loss
    else:
        assert not of_loss, "MONAI takes the greatest"


@pytest.mark.parametrize(("kind", "properties"), [("train", TrainProperties), ("inference", InferProperties)])
def test_property_ids(bundle, kind, properties):
    """Required ids exist, and optional ones are referred to by exactly their id, as MONAI's workflow checks them."""
    parser = ConfigParser()
    parser.read_config(str(bundle / f"configs/{kind}.json"))
    ids = {name: rule["id"].replace("::", "#") for name, rule in properties.items()}
    assert [i for name, i in ids.items() if properties[name]["required"] and parser.get(i) is None] == []
    for name, rule in properties.items():
        refers = rule.get("refer_id")
        if refers and parser.get(ids[name]) is not None:
            place = parser.get(refers.replace("::", "#"))
            assert place is None or place == f"@{ids[name]}", name


def test_run_and_training_ids(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/train.json"))
    assert isinstance(parser["run"], list)
    assert parser["training"] == "@run"


def test_every_configuration_is_json_without_duplicate_keys(bundle):
    def unique(pairs):
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), keys
        return dict(pairs)

    for path in sorted(bundle.glob("configs/**/*.json")):
        json.loads(path.read_text(), object_pairs_hook=unique)


def test_overlays_change_what_exists(bundle):
    """An overlay's ``a#b`` must name an entry of what it says it goes over: a misspelt one would be ignored."""
    for path in configurations(bundle):
        content = json.loads(path.read_text())
        for over in content.get("_over_", ()):
            base = ConfigParser()
            base.read_config(config_files(bundle, *over.split(" + ")))
            for key in content:
                parent = key.lstrip("+~").rsplit("#", 1)[0]  # MONAI's marks for adding to a list and for leaving out
                assert "#" not in key or base.get(parent) is not None, f"{path.name} over {over}: {key}"


def test_flags_are_understood_as_a_command_line_gives_them(bundle):
    """``--amp false`` arrives as text, which would count as true."""
    off = {"amp": "false", "cpu_bfloat16": "false", "device": torch.device("cpu")}
    for names in (["train"], ["inference"], ["inference", "slides"]):
        files = [bundle / f"configs/{name}.json" for name in names]
        if not all(file.is_file() for file in files):
            continue
        parser = ConfigParser()
        parser.read_config([str(file) for file in files])
        parser.update(off)
        parser.parse()
        given = {"amp", "precision::amp"}  # as text; what follows is made of it
        names_of_flags = ("amp", "autocast", "enabled")
        used = [i for i in parser.ref_resolver.items if i.rsplit("::", 1)[-1] in names_of_flags and i not in given]
        assert used, names
        assert [i for i in used if parser.get_parsed_content(i) is not False] == []


def test_slides_are_checked_by_what_will_read_them(bundle):
    files = [bundle / f"configs/{name}.json" for name in ("inference", "slides")]
    if not files[1].is_file():
        pytest.skip("no slides.json")
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update({"backend": "tifffile"})
    assert "check=@check" in parser["cohort"]
    assert parser.get_parsed_content("check").keywords == {"backend": "tifffile"}
