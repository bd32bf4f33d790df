import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from monai_ext import __main__
from monai_ext.base import distributed
from monai_ext.base.errors import DataListError, InputError


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["monai_ext", *map(str, args)])
    monkeypatch.setenv("PAGER", "cat")
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    return caught.value.code


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(["phantom", "cats", "--dst", "out"], "expected", id="phantom method"),
        pytest.param(
            ["prepare", "cats", "--src", "a", "--dst", "b"], "prepare: expected mitos12 or", id="prepare name"
        ),
        pytest.param(
            ["tune", "cats"],
            "tune: expected mitosis or evidence or instances or expert-count, found 'cats'",
            id="tune method",
        ),
        pytest.param(["tune", "mitosis", "--dataset_dir", "d", "--bundle", "nowhere"], "nowhere", id="tune bundle"),
        pytest.param(["tune", "evidence", "--dataset_dir", "d", "--bundle", "nowhere"], "nowhere", id="tune evidence"),
        pytest.param(["phantom", "mitosis", "--dst", "out", "--size", "0"], "expected", id="size"),
        pytest.param(["report", "cats"], "report: expected annotations or cells or", id="report kind"),
    ],
)
def test_wrong_input_is_one_line(args, expected, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *args) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("InputError: ")
    assert "\n" not in said
    assert expected in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["paint"], ["phantom"], ["phantom", "mitosis"], ["tune"], ["report"]], ids=" ".join)
def test_wrong_usage_is_exit_code_2(args, monkeypatch, capsys):
    assert call(monkeypatch, *args) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["prepare", "pvid", "--help"], "labels.csv"),
        (["phantom", "cells", "-h"], "--fields"),
        (["tune", "mitosis", "--dataset_dir", "d", "--help"], "--areas"),
        (["report", "slides", "--help"], "--itc_um"),
        (["report", "--help"], "classifiers or instances"),
        (["annotate", "--help"], "--per_class"),
        (["export", "--help"], "--max_mb"),
        (["templates", "--help"], "--crops"),
    ],
    ids=" ".join,
)
def test_help_is_that_of_the_function_behind(args, expected, monkeypatch, capfd):
    assert call(monkeypatch, *args) == 0
    said = capfd.readouterr()
    # fire prints in bold what a terminal, and no pager, shows so
    assert expected in re.sub(r"\x1b\[\dm|.\x08", "", said.out + said.err)
    assert "InputError" not in said.err


def test_all_problems_of_a_data_list_are_shown(monkeypatch, capsys):
    def tune(method):
        raise DataListError("d.json", ["a: one", "b: two"])

    monkeypatch.setattr(__main__, "tune", tune)
    assert call(monkeypatch, "tune", "mitosis") == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["  a: one", "  b: two"]


def test_what_monai_wraps_is_unwrapped(monkeypatch, capsys):
    def tune(method):
        try:
            raise InputError("a.pt", "weights", "text")
        except InputError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression") from error

    monkeypatch.setattr(__main__, "tune", tune)
    assert call(monkeypatch, "tune", "mitosis") == 1
    assert capsys.readouterr().err == "InputError: a.pt: expected weights, found text\n"


def test_bugs_keep_their_traceback(monkeypatch):
    def tune(method):
        raise KeyError("a bug")

    monkeypatch.setattr(__main__, "tune", tune)
    monkeypatch.setattr(sys, "argv", ["monai_ext", "tune", "mitosis"])
    with pytest.raises(KeyError, match="a bug"):
        __main__.main()


def test_options_reach_the_function(monkeypatch, tmp_path):
    import monai_ext.phantom as phantom

    seen = []
    monkeypatch.setattr(phantom, "write_dataset", lambda *a, **k: seen.append((a, k)) or tmp_path)
    monkeypatch.setattr(sys, "argv", ["monai_ext", "phantom", "nuclei", "--dst", "out", "--slides", "3", "--overwrite"])
    __main__.main()
    assert seen == [(("nuclei", "out"), {"slides": 3, "overwrite": True})]


def test_as_a_command(tmp_path):
    """The real thing: one line on stderr, nothing on stdout, code 1."""
    done = subprocess.run(
        [sys.executable, "-m", "monai_ext", "tune", "cats"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.strip()
        == f"InputError: {InputError('tune', 'mitosis or evidence or instances or expert-count', repr('cats'))}"
    )


@pytest.mark.parametrize(("rank", "device"), [("3", "cuda:3"), (None, "cuda:0")])
def test_each_process_has_its_gpu(rank, device, monkeypatch):
    monkeypatch.setattr(distributed.torch, "cuda", SimpleNamespace(is_available=lambda: True))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert distributed.local_device() == torch.device(device)


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: False)
    assert distributed.local_device() == torch.device("cpu")
