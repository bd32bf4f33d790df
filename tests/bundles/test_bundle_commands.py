"""The contract of every bundle, through the commands that its user types."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
from monai.bundle import ConfigParser, load, verify_net_in_out

from monai_ext.networks import CAFFE, read_convention, save_weights
from tests.bundles.conftest import environment

RANKS_TOLERANCE = 1e-3
EVALUATE = "['configs/train.json','configs/quickstart.json','configs/evaluate.json']"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def metrics(path):
    """The numbers of a ``metrics.json``, flat."""

    def flat(value, name=""):
        if isinstance(value, dict):
            return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}
        return {name: value} if isinstance(value, int | float) else {}

    return flat(json.loads(path.read_text()))


def learnt(history):
    """The loss falls, among the epochs that sum the same losses as the last one: a later stage may add some."""
    last = history[-1]
    parts = {name for name in last if name.startswith("loss")}
    first = next(entry for entry in history if parts <= entry.keys())
    return last["loss"] < first["loss"]


def scores(history):
    return [{k: v for k, v in entry.items() if k != "time"} for entry in history]


def outputs(found):
    """A network's tensors, in the order of its metadata's outputs."""
    return list(found.values()) if isinstance(found, dict) else [found]


def side_of(place, default):
    """A side of the network's input; ``default`` where it takes any."""
    side = place.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"][0]
    return side if isinstance(side, int) else default


def lists_instances(place):
    """Whether the network gives no tensors but a list of what it found."""
    parser = ConfigParser()
    parser.read_config(str(place.folder / "configs/inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    with torch.no_grad():
        return isinstance(network(torch.zeros(1, 3, side_of(place, 64), side_of(place, 64))), list)


def skip_unless_tensors(place):
    if lists_instances(place):
        pytest.skip("the network gives a list of instances, no tensor")


def test_instances_have_the_shape_and_type_of_the_metadata(place):
    """What ``verify_net_in_out`` does, where the inferer makes a map of the instances that a network lists."""
    if not lists_instances(place):
        pytest.skip("the network gives tensors")
    stated = place.metadata["network_data_format"]
    parser = ConfigParser()
    parser.read_config(str(place.folder / "configs/inference.json"))
    network, inferer = (parser.get_parsed_content(name) for name in ("network_def", "inferer"))
    low, high = stated["inputs"]["image"]["value_range"]
    for size in ((64, 64), (200, 133)):
        image = torch.rand(1, stated["inputs"]["image"]["num_channels"], *size) * (high - low) + low
        with torch.no_grad():
            found = inferer(image, network.eval())
        assert set(found) == {*stated["outputs"], "cut"}
        assert found["cut"].shape == (1,)
        for name in stated["outputs"]:
            value = found[name]
            assert value.shape == (1, stated["outputs"][name]["num_channels"], *size)
            assert str(value.dtype) == f"torch.{stated['outputs'][name]['dtype']}"


def test_network_keeps_the_shapes_of_its_metadata(place):
    skip_unless_tensors(place)
    wanted = place.metadata["network_data_format"]["outputs"].values()
    if len(wanted) > 1:  # MONAI's check knows networks with one tensor
        network = load(place.folder.name, bundle_dir=str(place.folder.parent), net_override={}).eval()
        side = side_of(place, 64)
        found = outputs(network(torch.rand(1, 3, side, side)))
        shapes = [(1, output["num_channels"], *output["spatial_shape"]) for output in wanted]
        assert [tuple(tensor.shape) for tensor in found] == shapes
        assert [str(tensor.dtype) for tensor in found] == [f"torch.{output['dtype']}" for output in wanted]
        return
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(place.folder / "configs/metadata.json"),
        config_file=str(place.folder / "configs/inference.json"),
        any=100,
    )


def test_shipped_weights_fit(place):
    state = torch.load(place.source / "models/model.pt", map_location="cpu", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    network = load(place.folder.name, bundle_dir=str(place.folder.parent), source="monaihosting", net_override={})
    assert set(network.state_dict()) == set(state)
    for name, value in network.state_dict().items():
        assert torch.equal(value.cpu(), state[name].to(value.dtype))  # weights may ship in half precision


def test_training_runs(place):
    folder = place.train("one")
    history = place.history("one")
    assert [entry["epoch"] for entry in history] == list(range(1, len(history) + 1))
    assert learnt(history)
    assert (folder / "model.pt").is_file()
    assert read_convention(folder / "model.pt") == read_convention(place.source / "models/model.pt")


@pytest.mark.dear("mitosis")
def test_a_misspelt_option_is_refused_before_anything_is_computed(place):
    done = place.bundle(*place.training_arguments("misspelt"), "--train#trainer#max_epoch", "3", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("InputError: --train#trainer#max_epoch: expected an id")
    assert "--train#trainer#max_epochs" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (place.folder / "models/misspelt").exists()


@pytest.mark.slow
@pytest.mark.dear("mitosis")
def test_weights_of_another_input_are_refused(place):
    folder = place.folder / "models/other"
    if (place.source / "models/templates").is_dir():
        shutil.copytree(place.source / "models/templates", folder / "templates")
    state = torch.load(place.source / "models/model.pt", map_location="cpu", weights_only=True)
    save_weights(state, folder / "model.pt", CAFFE)
    done = place.bundle(
        *("run", "--config_file", "configs/inference.json"),
        *(
            "--dataset_dir",
            str(place.data),
            "--ckpt_dir",
            str(folder),
            "--output_dir",
            str(place.folder / "eval/other"),
        ),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"InputError: {folder / 'model.pt'}: expected weights trained with")
    assert done.stderr.splitlines()[-1].endswith("add configs/overlays/input/caffe_input.json to --config_file")
    assert not list(place.folder.glob("eval/other/*.geojson"))


@pytest.mark.slow
@pytest.mark.dear("mitosis")
def test_a_batch_larger_than_the_list_trains_all_the_same(place):
    settings = json.loads((place.source / "configs/train.json").read_text())
    size = next(name for name in ("batch_size", "fields_per_batch") if name in settings)
    folder = place.train("large", **{size: 1000, "train#trainer#max_epochs": 1, "val_interval": 1})
    assert (folder / "model.pt").is_file()


def test_evaluation_writes_metrics_and_report(place):
    folder = place.train("one")
    place.bundle(
        "run", "--config_file", EVALUATE, "--dataset_dir", place.data, "--ckpt_dir", folder, "--output_dir", "eval/one"
    )
    found = metrics(place.folder / "eval/one/metrics.json")
    assert found
    assert any(name.endswith("/low") for name in found)
    assert "<html" in (place.folder / "eval/one/report.html").read_text()


def test_inference_runs_on_the_phantom_with_shipped_weights(place):
    place.bundle(
        "run", "--config_file", "configs/inference.json", "--dataset_dir", place.data, "--output_dir", "eval/inference"
    )
    state = json.loads((place.folder / "eval/inference/state.json").read_text())
    assert state
    assert {entry["status"] for entry in state.values()} == {"done"}
    assert (place.folder / "eval/inference/summary.csv").is_file()
    assert (place.folder / "eval/inference/report.html").is_file()


@pytest.mark.dear("mitosis")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "training", "--config_file", "configs/train.json", "--dataset_dir", "nowhere"], "nowhere"),
        pytest.param(
            ["run", "--config_file", "configs/inference.json", "--dataset_dir", "configs/empty"],
            "configs/empty",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["run", "--config_file", "configs/inference.json", "--ckpt_dir", "nowhere", "--dataset_dir", "DATA"],
            "nowhere/model.pt",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no data set", "no images", "no weights"],
)
def test_first_mistakes_end_with_one_line(place, arguments, expected):
    (place.folder / "configs/empty").mkdir(exist_ok=True)
    done = place.bundle(*(str(place.data) if a == "DATA" else a for a in arguments), check=False)
    assert done.returncode != 0
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert last.startswith("InputError: ")
    assert expected in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.dear("mitosis")
def test_a_killed_training_resumes_to_the_same_end(place):
    """Of equal seeds everything comes out equal, in two halves too."""
    folder = place.train("one")
    killed = place.folder / "models/killed"
    process = subprocess.Popen(
        place.command(*place.training_arguments("killed")),
        cwd=place.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not (killed / "training_state.pt").is_file() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(random.uniform(0, 2))  # somewhere in an epoch, a validation or the writing of a file
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    place.bundle(*place.training_arguments("killed", resume="true"))
    assert scores(place.history("killed")) == scores(place.history("one"))
    resumed, whole = (torch.load(path / "model.pt", weights_only=True) for path in (killed, folder))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.dear("mitosis")
def test_two_processes_train(place):
    arguments = place.training_arguments("ranks")
    arguments[3] = arguments[3].replace("]", ",'configs/multi_gpu_train.json']")
    place.bundle(*arguments, launcher=TORCHRUN)
    assert learnt(place.history("ranks"))


@pytest.mark.slow
@pytest.mark.dear("mitosis")
def test_two_processes_evaluate_as_one_does(place):
    folder = place.train("one")
    for name, files, launcher in (
        ("single", EVALUATE, ("-m",)),
        ("pair", EVALUATE.replace("]", ",'configs/multi_gpu_evaluate.json']"), TORCHRUN),
    ):
        arguments = ["--dataset_dir", place.data, "--ckpt_dir", folder, "--output_dir", f"eval/{name}"]
        place.bundle("run", "--config_file", files, *map(str, arguments), launcher=launcher)
    single, pair = (metrics(place.folder / f"eval/{name}/metrics.json") for name in ("single", "pair"))
    assert pair == pytest.approx(single, abs=RANKS_TOLERANCE)


@pytest.mark.slow
def test_torchscript_export(place):
    skip_unless_tensors(place)
    if "timm:" in (place.source / "configs/inference.json").read_text():
        pytest.skip("torch.jit.script does not take timm's backbones")
    place.bundle(
        "ckpt_export",
        *("--net_id", "network_def", "--filepath", "models/model.ts", "--ckpt_file", "models/model.pt"),
        *("--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"),
    )
    image = torch.rand(2, place.metadata["network_data_format"]["inputs"]["image"]["num_channels"], 130, 98)
    network = load(place.folder.name, bundle_dir=str(place.folder.parent), net_override={}).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(place.folder / "models/model.ts"))(image), network(image))
