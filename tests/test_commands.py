"""The command line: which function is called with what, and what is answered without importing it."""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext import __version__, commands
from monai_ext.base.errors import DataListError, InputError
from monai_ext.usage import read_usage

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "monai", "cv2", "pandas", "fire")
COMMANDS = sorted(commands.COMMANDS)


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["monai_ext", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        commands.main()
    return caught.value.code


def in_process(code, *args, cwd=ROOT):
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd, check=False, env=surroundings
    )


def target(command):
    module, _, name = commands.COMMANDS[command].partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.fixture
def calls(monkeypatch):
    """What a command's function is called with, in place of a call."""
    made = []

    def replace(command, result="done"):
        module, _, name = commands.COMMANDS[command].partition(":")
        monkeypatch.setattr(f"{module}.{name}", lambda *a, **k: made.append((a, k)) or result)
        return made

    return replace


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_the_source_says_is_what_the_function_takes(command):
    usage = commands.usage_of(command)
    taken = inspect.signature(target(command)).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    options = {option.parameter: option for option in usage.options}
    assert {name for name, p in taken.items() if p.kind is not p.VAR_KEYWORD} <= {*options, "method"}
    assert open_ended or set(options) <= set(taken)
    for name, option in options.items():
        assert option.about, f"--{name} is not documented"
        if name not in taken:
            continue
        assert (option.default is None) == (taken[name].default is inspect.Parameter.empty)
        assert option.flag == isinstance(taken[name].default, bool)
    assert usage.summary


@pytest.mark.parametrize("command", [c for c in COMMANDS if c in commands._HANDED_ON], ids=" ".join)
def test_options_that_are_handed_on_are_those_of_their_function(command):
    for name, options in commands._HANDED_ON[command]:
        module, _, function = name.partition(":")
        taken = inspect.signature(getattr(importlib.import_module(module), function)).parameters
        assert set(options) <= set(taken)


def test_all_converters_and_phantoms_have_a_command():
    from monai_ext import prepare
    from monai_ext.phantom import METHODS

    converters = {name.removeprefix("prepare_") for name in prepare.__all__ if name.startswith("prepare_")}
    assert {name for command, name in (c for c in COMMANDS if len(c) > 1) if command == "prepare"} == converters
    assert {("phantom", method) for method in METHODS} <= set(commands.COMMANDS)


def test_help_of_every_command_imports_nothing_heavy():
    code = f"""
import io, contextlib, sys
from monai_ext import commands
for words in [[], ["--version"], *([name, "--help"] for name in commands._ABOUT), *map(list, commands.COMMANDS)]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        commands.main(words if words in ([], ["--version"]) else [*words, "--help"])
    assert len(said.getvalue()) > 10, words
    assert not {set(HEAVY)} & set(sys.modules), words
"""
    done = in_process(code)
    assert not done.returncode, done.stderr


def test_wrong_words_are_answered_without_heavy_imports():
    code = f"""
import contextlib, sys
from monai_ext import commands
for words in {["paint", "tune", "tune cats", "prepare pvid a", "phantom cells x --sise 3"]}:
    with contextlib.suppress(SystemExit):
        commands.main(words.split())
        raise AssertionError(words)
    assert not {set(HEAVY) - {"fire"}} & set(sys.modules), words
"""
    done = in_process(code)
    assert not done.returncode, done.stderr
    assert len(done.stderr.splitlines()) == 5


def test_a_release_of_points_is_prepared_without_torch(tmp_path):
    for case in ("01", "02"):
        folder = tmp_path / "release/mitoses_image_data" / case
        folder.mkdir(parents=True)
        Image.fromarray(np.full((32, 40, 3), 200, np.uint8)).save(folder / "01.tif")
        (tmp_path / "release/mitoses_ground_truth" / case).mkdir(parents=True)
        (tmp_path / "release/mitoses_ground_truth" / case / "01.csv").write_text("3,4\n")
    words = ["prepare", "tupac16", "release", "data", "--split", "test"]
    heavy = f"print(sorted({{*{HEAVY}}} & {{*sys.modules}}))"
    code = f"import sys; from monai_ext.commands import main; main({words})\n{heavy}"
    done = in_process(code, cwd=tmp_path)
    assert done.stdout.splitlines() == ["data/dataset.json", "['cv2', 'fire', 'numpy']"], done.stderr
    assert len(json.loads((tmp_path / "data/dataset.json").read_text())["test"]) == 2


def test_conversions_and_phantoms_start_without_torch():
    theirs = {
        ("prepare", "tiles"),
        ("prepare", "folds"),
        ("phantom", "nucleus_patches"),
    }  # whose slides or data lists are torch's
    chosen = [c for c in COMMANDS if c[0] in ("export", "prepare", "phantom") and c not in theirs]
    modules = sorted({commands.COMMANDS[command].partition(":")[0] for command in chosen})
    done = in_process(f"import sys, {', '.join(modules)}; print(sorted({{*sys.modules}} & {{'torch', 'monai'}}))")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "prepare    convert an official release"),
        (["--help"], "phantom"),
        (["prepare", "--help"], "pvid       Convert vessel images"),
        (["prepare", "pvid", "--help"], "labels.csv"),
        (["prepare", "pvid", "--help"], "--split"),
        (["prepare", "ccrcc", "--help"], "--tile"),
        (["phantom", "cells", "-h"], "--fields"),
        (["phantom", "slide", "-h"], "--dst"),
        (["tune", "mitosis", "--dataset_dir", "d", "--help"], "--areas"),
        (
            ["tune", "mitosis", "--help"],
            "--configs: further overlays of the bundle, such as configs/overlays/paper/paper.json.",
        ),
        (["tune", "mitosis", "--help"], "--...: entries of the configuration"),
        (["report", "slides", "--help"], "--itc_um"),
        (["report", "--help"], "classifiers"),
        (["annotate", "--help"], "--from"),
        (["export", "--help"], "--max_mb"),
        (["templates", "--help"], "--kernel_sigma"),
        (["doctor", "--help"], "--json"),
        (["view", "--help"], "--reviewer"),
        (["--version"], f"monai_ext {__version__}"),
    ],
    ids=str,
)
def test_help(args, expected, capsys):
    commands.main(args)
    said = capsys.readouterr()
    assert expected in said.out
    assert not said.err
    assert not re.search(r":\w+:`|``", said.out)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["paint"], "monai_ext: expected phantom or annotate or convert or doctor or"),
        (["prepar", "pvid"], "monai_ext: expected prepare or"),
        (["phantom"], "phantom: expected mitosis or metastasis or"),
        (["phantom", "--dst", "out"], "found none"),
        (["phantom", "cats", "--dst", "out"], "phantom: expected mitosis or"),
        (["prepare", "mitos", "--src", "a", "--dst", "b"], "prepare: expected mitos14 or mitos12 or"),
        (["prepare", "cats", "--src", "a", "--dst", "b"], "prepare: expected mitos12 or"),
        (
            ["tune", "cats"],
            "tune: expected mitosis or evidence or instances or expert-count or tissue or vessels, found 'cats'",
        ),
        (["report", "cats"], "report: expected annotations or cells or"),
        (["phantom", "mitosis"], "phantom mitosis: expected --dst, found no --dst"),
        (["prepare", "pvid", "--dst", "b"], "prepare pvid: expected --src, --dst, found no --src"),
        (["prepare", "pvid", "a", "b", "c"], "options by their names, found 'c'"),
        (["prepare", "pvid", "a", "b", "--sede", "1"], "prepare pvid: expected --seed, found --sede"),
        (["prepare", "pvid", "a", "b", "--collect", "1"], "options among --src, --dst, --split_parts, --split, --seed"),
        (["prepare", "pvid", "a", "b", "--seed"], "prepare pvid: expected a value after --seed, found none"),
        (["prepare", "pvid", "a", "b", "--link", "2"], "--link: expected true or false, found 2"),
        (["phantom", "mitosis", "--dst", "out", "--size", "0"], "expected"),
        (["annotate", "d", "c", "--form", "ea"], "annotate: expected --from, found --form"),
        (["tune", "mitosis", "--dataset_dir", "d", "--bundle", "nowhere"], "nowhere"),
        (["tune", "evidence", "--dataset_dir", "d", "--bundle", "nowhere"], "nowhere"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line(args, expected, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *args) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("InputError: ")
    assert "\n" not in said
    assert expected in said
    assert not list(tmp_path.iterdir())


def test_options_of_a_tuning_are_its_own_or_entries_of_the_bundle(calls, monkeypatch, capsys):
    made = calls(("tune", "mitosis"))
    monkeypatch.chdir(ROOT)
    commands.main(["tune", "mitosis", "d", "--device", "cpu", "--network_def#dropout", "0.2", "--areas", "(1,2,1)"])
    assert made == [((), {"dataset_dir": "d", "device": "cpu", "network_def#dropout": 0.2, "areas": (1, 2, 1)})]
    for option, near in (
        ("--raduis", "--radius"),
        ("--devise", "--device"),
        ("--network_dev#dropout", "--network_def"),
    ):
        assert call(monkeypatch, "tune", "mitosis", "d", option, "1") == 1
        assert f"tune mitosis: expected {near}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "args", "options"),
    [
        ("phantom nuclei --dst out --slides 3 --overwrite", ["nuclei"], {"dst": "out", "slides": 3, "overwrite": True}),
        ("phantom nuclei out --nooverwrite", ["nuclei"], {"dst": "out", "overwrite": False}),
        ("phantom nuclei out --overwrite false", ["nuclei"], {"dst": "out", "overwrite": False}),
        ("phantom slide --dst a.tif --size=(8,9) --mpp .5", [], {"path": "a.tif", "size": (8, 9), "mpp": 0.5}),
        ("phantom vessels out --label-noise 1e-1", [], {"dst": "out", "label_noise": 0.1}),
        ("prepare mitos12 a b --scanner H --masks", [], {"src": "a", "dst": "b", "scanner": "H", "masks": True}),
        ("prepare pvid --dst b a --split=test", [], {"src": "a", "dst": "b", "split": "test"}),
        ("annotate d --column x --from ea", [], {"dataset_dir": "d", "column": "x", "source": "ea"}),
        ("annotate d --column x --source=ea", [], {"dataset_dir": "d", "column": "x", "source": "ea"}),
        ("report classifiers out --runs {a:b,c:[d,e]}", [], {"dst": "out", "runs": {"a": "b", "c": ["d", "e"]}}),
        ("report cells a b c --radius_px -1", [], {"results": "a", "reference": "b", "dst": "c", "radius_px": -1}),
        ("tune expert-count a b c --counts [1,2] --lr@x 1", [], None),
        ("export all out --url http://a/b?c=d", [], {"name": "all", "dst": "out", "url": "http://a/b?c=d"}),
        ("templates out --crops c --rotations 8", [], {"dst": "out", "crops": "c", "rotations": 8}),
    ],
)
def test_words_become_arguments(words, args, options):
    words = words.split()
    command = commands.command_of(tuple(words))
    if options is None:
        with pytest.raises(InputError, match="--lr@x"):
            commands.arguments_of(command, words[len(command) :])
        return
    given = commands.arguments_of(command, words[len(command) :])
    assert given == (args, options)
    assert {name: type(value) for name, value in given[1].items()} == {n: type(v) for n, v in options.items()}
    inspect.signature(target(command)).bind(*given[0], **given[1])


def test_the_function_s_result_is_printed(calls, monkeypatch, capsys):
    made = calls(("phantom", "nuclei"), Path("out/dataset.json"))
    monkeypatch.setattr(sys, "argv", ["monai_ext", "phantom", "nuclei", "--dst", "out"])
    commands.main()
    assert made == [(("nuclei",), {"dst": "out"})]
    assert capsys.readouterr().out == f"{Path('out/dataset.json')}\n"


def failing(monkeypatch, error, cause=None):
    def tune(**_):
        raise error from cause

    monkeypatch.setattr("monai_ext.tuning.mitosis.tune_mitosis", tune)


def test_all_problems_of_a_data_list_are_shown(monkeypatch, capsys):
    failing(monkeypatch, DataListError("d.json", ["a: one", "b: two"]))
    assert call(monkeypatch, "tune", "mitosis", "d") == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["  a: one", "  b: two"]


def test_what_monai_wraps_is_unwrapped(monkeypatch, capsys):
    failing(monkeypatch, RuntimeError("Failed to evaluate"), InputError("a.pt", "weights", "text"))
    assert call(monkeypatch, "tune", "mitosis", "d") == 1
    assert capsys.readouterr().err == "InputError: a.pt: expected weights, found text\n"


def test_bugs_keep_their_traceback(monkeypatch):
    failing(monkeypatch, KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        commands.main(["tune", "mitosis", "d"])


def test_as_a_command(tmp_path):
    """The real thing: one line on stderr, nothing on stdout, code 1."""
    done = in_process("import runpy; runpy.run_module('monai_ext', run_name='__main__')", "tune", "cats", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    expected = InputError("tune", "mitosis or evidence or instances or expert-count or tissue or vessels", repr("cats"))
    assert done.stderr.strip() == f"InputError: {expected}"


def test_usage_of_a_class_is_that_of_its_constructor():
    usage = read_usage("monai_ext.transforms.kcf:KCFPseudoMask")
    by_name = {option.name: option for option in usage.options}
    assert "self" not in by_name
    assert by_name["templates"].default is None
    assert by_name["rotations"].default == "4"
    assert by_name["distance"].about.startswith("least distance of two cells")
    with pytest.raises(LookupError):
        read_usage("monai_ext.transforms.kcf:Nothing")


def test_the_version_has_one_source():
    metadata = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "monai_ext.base.version.__version__" }' in metadata
    assert not re.search(r"^version = \"", metadata, re.MULTILINE)


def test_requirements_of_the_doctor_name_all_that_the_bundles_list():
    pins = {line.split("==")[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    for path in ROOT.glob("bundles/*/configs/metadata.json"):
        listed = json.loads(path.read_text())["required_packages_version"]
        assert {name.lower() for name in listed} <= pins
