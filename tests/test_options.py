import json
import os
import shlex
import subprocess
import sys

import pytest

from monai_ext.base.errors import InputError
from monai_ext.options import check_options
from tests.forked import run_python

CONFIG = {
    "imports": ["$import pathlib", "$import monai_ext.options"],
    "epochs": 3,
    "dataset_dir": "data",
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1},
    "train": {
        "trainer": {"max_epochs": "@epochs", "amp": False},
        "handlers": [{"seed": 0}, {"interval": 1}],
        "dataset": {"data": []},
    },
    "initialize": ["$pathlib.Path('begun').touch()"],
    "run": ["$print('epochs', @train#trainer#max_epochs)"],
    "training": "@run",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.json").write_text(json.dumps(CONFIG))
    (tmp_path / "configs/more.json").write_text('{"train#state": {"keep": "best"}, "extra": 1}')
    (tmp_path / "configs/metadata.json").write_text('{"version": "0.1.0", "network_data_format": {"inputs": {}}}')
    (tmp_path / "args.json").write_text('{"config_file": "configs/train.json", "net_id": "network_def", "epochs": 5}')
    (tmp_path / "run.json").write_text('{"config_file": "configs/train.json", "run_id": "training", "epochs": 5}')
    (tmp_path / "wrong.json").write_text('{"config_file": "configs/train.json", "epoch": 5}')
    (tmp_path / "track.json").write_text('{"handlers_id": {}, "configs": {"project": "a"}}')
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "run --config_file configs/train.json",
        "run training --config_file configs/train.json --epochs 4",
        "run --run_id run --init_id a --final_id b --meta_file configs/metadata.json --config_file configs/train.json",
        "run --config_file=configs/train.json --logging_file x.conf --train#trainer#max_epochs=3",
        "run --config_file configs/train.json --train::trainer::max_epochs 3 --dataset-dir b",
        "run --config_file configs/train.json --train#handlers#1#interval 2 --train#handlers#0 x",
        "run --config_file configs/train.json --train#dataset#data \"[{'image': 'a'}]\" --train#handlers '[]'",
        "run --config_file \"['configs/train.json','configs/more.json']\" --train#state#keep last --extra 2",
        "run --config_file configs/train.json,configs/more.json --extra 2",
        "run --args_file run.json --epochs 6",
        "run --config_file configs/train.json --+new 3 --+train#trainer#new 3 --epochs '$@new'",
        "run --config_file configs/train.json --tracking None --tracking_uri x --experiment_name y --run_name z",
        "run --config_file configs/train.json --tracking mlflow --output_dir x",
        "run --config_file configs/train.json --tracking track.json --project b",
        "run --config_file configs/train.json --_meta_#version 2",
        "run_workflow --workflow_name ConfigWorkflow --workflow_type infer --config_file configs/train.json --epochs 2",
        "ckpt_export network_def --filepath a --ckpt_file b --config_file configs/train.json --use_trace True",
        "onnx_export --args_file args.json --input_shape '[1,3]' --converter_kwargs '{}' --key_in_ckpt x --epochs 3",
        "trt_export --args_file args.json --precision fp16 --dynamic_batchsize '[1,1,1]'",
        "verify_net_in_out network_def --config_file configs/train.json --device cpu --p 1 --n 2 --any 3",
        "download --name x --whatever 3",
        "",
    ],
)
def test_options_that_name_something(line, folder):
    check_options(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "option", "nearest"),
    [
        ("run --epoch 4", "epoch", "--epochs"),
        ("run training --max_epochs 4", "max_epochs", "--train#trainer#max_epochs"),
        ("run --train#trainer#max_epoch 4", "train#trainer#max_epoch", "--train#trainer#max_epochs"),
        ("run --train#handlers#0#sed 4", "train#handlers#0#sed", "--train#handlers#0#seed"),
        ("run --train#handlers#2 4", "train#handlers#2", "--train#handlers"),
        ("run --data-dir=4", "data_dir", "--dataset_dir"),
        ("run --noamp", "amp", "--train#trainer#amp"),
        ("run --net_id network_def", "net_id", "--init_id"),
        ("run --_meta_#versoin 2", "_meta_#versoin", "--_meta_#version"),
        ("run_workflow --workflow_typ infer", "workflow_typ", "--workflow_type"),
        ("ckpt_export --ckpt_fil x", "ckpt_fil", "--ckpt_file"),
        ("onnx_export --workflow_type x", "workflow_type", None),
        ("run --quite_another 4", "quite_another", None),
    ],
)
def test_options_that_name_nothing(line, option, nearest, folder):
    with pytest.raises(InputError) as caught:
        check_options([*shlex.split(line), "--config_file", "configs/train.json"])
    told = f", such as {nearest}" if nearest else ", found"
    assert str(caught.value).startswith(f"--{option}: expected an id of the configuration{told}")
    assert str(caught.value).endswith(f"found none of this name (--+{option} adds it)")


@pytest.mark.parametrize("nothing", ["None", "null"])
def test_nothing_is_not_lost(nothing, folder):
    """MONAI drops ``None``, so that the file's value stays, and takes ``null`` for text."""
    line = ["run", "--config_file", "configs/train.json", "--epochs"]
    with pytest.raises(InputError, match=rf"--epochs: expected '\$None' for nothing, found '{nothing}', which MONAI"):
        check_options([*line, nothing])
    check_options([*line, "$None"])


def test_what_a_configuration_says_may_be_null(folder):
    line = ["run", "--config_file", "configs/train.json,configs/nullable.json", "--epochs"]
    (folder / "configs/nullable.json").write_text('{"nullable": ["epochs"]}')
    check_options([*line, "null"])
    with pytest.raises(InputError, match="which MONAI drops"):
        check_options([*line, "None"])


def test_a_file_of_arguments_is_checked_too(folder):
    with pytest.raises(InputError, match=r"--epoch: .*such as --epochs"):
        check_options(["run", "--args_file", "wrong.json"])


def command(folder, *arguments):
    words = ["-m", "monai.bundle", *arguments, "--config_file", "configs/train.json"]
    done = run_python(words, folder, os.environ, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_stops_before_it_begins(folder):
    code, _, errors = command(folder, "run", "--train#trainer#max_epoch", "4")
    assert code == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("InputError: --train#trainer#max_epoch: expected an id")
    assert not (folder / "begun").exists()


@pytest.mark.slow
def test_a_run_with_an_id_added_on_purpose(folder):
    code, output, errors = command(folder, "run", "--+more", "4", "--epochs", "$@more + 1")
    assert code == 0, errors
    assert "epochs 5" in output
    assert (folder / "begun").exists()


@pytest.mark.slow
def test_an_export_stops_before_it_begins(folder):
    (folder / "models").mkdir()
    (folder / "models/model.pt").touch()
    code, _, errors = command(folder, "ckpt_export", "network_def", "--filepath", "a.ts", "--ckpt_fil", "b.pt")
    assert code == 1
    assert errors.splitlines()[-1].startswith("InputError: --ckpt_fil: expected an id")


@pytest.mark.slow
def test_overrides_of_a_library_call_are_not_its_business(folder):
    """MONAI Label and MONAI's client pass ids that not every configuration has."""
    script = "import monai.bundle; monai.bundle.run(config_file='configs/train.json', pbar=False)"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
