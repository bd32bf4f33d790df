import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensityd
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks import CAFFE, InputConvention, copy_weights, read_convention, save_weights
from monai_ext.transforms import NetworkInputd

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 7, 5)).astype(np.uint8)


def weights(folder, convention, name="model.pt"):
    path = folder / name
    save_weights(nn.Linear(2, 1).state_dict(), path, convention)
    return path


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_by_hand():
    pixel = np.array([127, 128, 42], np.uint8).reshape(3, 1, 1)
    rgb = InputConvention(mean=(127, 28, 0), std=(1, 50, 21))
    assert rgb(pixel).ravel().tolist() == [0, 2, 2]
    np.testing.assert_allclose(CAFFE(pixel).ravel(), [42 - 104.007, 128 - 116.669, 127 - 122.679], rtol=1e-5)
    unit = InputConvention(mean=(0.5,) * 3, std=(0.5,) * 3, value_range=(0, 1))
    np.testing.assert_allclose(
        unit(np.array([0, 255, 51], np.uint8).reshape(3, 1, 1)).ravel(), [-1, 1, -0.6], atol=1e-6
    )
    np.testing.assert_allclose(InputConvention()(pixel).ravel(), pixel.ravel() / 255, rtol=1e-6)


def test_equals_what_monai_normalises():
    """The weights that are shipped were trained so, bit by bit."""
    peer = NormalizeIntensityd("image", IMAGENET["mean"], IMAGENET["std"], channel_wise=True)
    expected = peer({"image": torch.as_tensor(PIXELS, dtype=torch.float32)})["image"]
    assert torch.equal(InputConvention(**IMAGENET)(torch.as_tensor(PIXELS)), expected)


@pytest.mark.parametrize("convention", [CAFFE, InputConvention(**IMAGENET), InputConvention(value_range=(-1, 1))])
def test_kinds_agree(convention):
    expected = convention(PIXELS)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float32
    batch = convention(torch.as_tensor(PIXELS).expand(2, -1, -1, -1))
    assert type(batch) is torch.Tensor
    assert all(np.array_equal(each, expected) for each in batch.numpy())
    meta = convention(MetaTensor(torch.as_tensor(PIXELS), meta={"name": "a"}))
    assert meta.meta["name"] == "a"
    assert np.array_equal(meta.numpy(), expected)
    twin = NetworkInputd("image", convention)({"image": MetaTensor(torch.as_tensor(PIXELS)), "label": 3})
    assert type(twin["image"]) is torch.Tensor
    assert np.array_equal(twin["image"].numpy(), expected)
    assert twin["label"] == 3
    np.testing.assert_allclose(convention.undo(torch.as_tensor(expected)), PIXELS, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": [1, 2]}, r"convention#mean: expected 3 number\(s\), found \[1, 2\]"),
        ({"mean": "abc"}, "convention#mean"),
        ({"std": [1, 0, 1]}, "convention#std: expected numbers above 0"),
        ({"std": [1, float("nan"), 1]}, "convention#std"),
        ({"channels": "GRB"}, "convention#channels: expected 'RGB' or 'BGR', found 'GRB'"),
        ({"value_range": (1, 0)}, "convention#value_range: expected black below white"),
        ({"mpp": "fine"}, "convention#mpp"),
    ],
)
def test_values_that_cannot_be(values, message):
    with pytest.raises(InputError, match=message):
        InputConvention(**values)


# -- with the weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", [CAFFE, InputConvention(**IMAGENET, mpp=0.25, classes=["other", "mitosis"])])
def test_written_and_read(convention, tmp_path):
    path = weights(tmp_path, convention)
    assert read_convention(path) == convention
    assert set(torch.load(path, weights_only=True)) == {"weight", "bias"}
    (tmp_path / "model.onnx").touch()
    assert read_convention(tmp_path / "model.onnx") == convention
    copy_weights(path, tmp_path / "copy/model.pt")
    assert read_convention(tmp_path / "copy/model.pt") == convention
    assert (tmp_path / "copy/model.pt").read_bytes() == path.read_bytes()


def test_entries_of_others_are_theirs(tmp_path):
    path = weights(tmp_path, CAFFE)
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "features": [1, 2]}))
    assert read_convention(path) == CAFFE


def test_no_convention_outlives_its_weights(tmp_path):
    path = weights(tmp_path, CAFFE)
    weights(tmp_path, None)
    assert not (tmp_path / "model.json").exists()
    other = weights(tmp_path / "other", None)
    weights(tmp_path, CAFFE)
    copy_weights(other, path)
    assert read_convention(path) is None


def test_a_stop_leaves_no_pair_that_misleads(tmp_path, monkeypatch):
    path = weights(tmp_path, CAFFE)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        save_weights({}, path, InputConvention(**IMAGENET))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.pt"]


@pytest.mark.parametrize("content", ["{", "[]", '{"mean": 3}', '{"mean": [1, 2, 3], "std": [1, 1, 1], "channels": 5}'])
def test_a_broken_file(content, tmp_path):
    path = weights(tmp_path, None)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(InputError, match=r"model\.json: expected ") as caught:
        read_convention(path)
    assert "\n" not in str(caught.value)


HERE = InputConvention(**IMAGENET, mpp=0.25, classes=["other", "mitosis"])


def test_weights_that_fit(tmp_path, capsys):
    path = weights(tmp_path, HERE)
    same = {**IMAGENET, "weights": path}
    for others in ({}, {"mpp": 0.26}, {"mpp": 0.2275}, {"mpp": 0.25, "classes": ["other", "mitosis"]}):
        InputConvention(**same, **others)
    InputConvention(**IMAGENET, mpp=1, classes=["tumour"], initial_weights=path)
    InputConvention(**IMAGENET, initial_weights=[None, str(path), "IMAGENET1K_V1"])
    InputConvention(**IMAGENET, weights="those of the federation")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("here", "there", "message"),
    [
        (HERE, CAFFE, "add configs/overlays/input/caffe_input.json to --config_file"),
        (CAFFE, HERE, "leave configs/overlays/input/caffe_input.json out of --config_file"),
        (
            InputConvention(**IMAGENET),
            InputConvention(mean=(1, 2, 3), std=(4, 5, 6)),
            'add --convention#mean "[1.0, 2.0, 3.0]" --convention#std "[4.0, 5.0, 6.0]"',
        ),
        (InputConvention(channels="BGR"), InputConvention(), 'add --convention#channels "RGB"'),
        (InputConvention(), InputConvention(value_range=(0, 1)), 'add --convention#value_range "[0.0, 1.0]"'),
        (InputConvention(mpp=0.25), InputConvention(mpp=0.5), "add --target_mpp 0.5"),
        (InputConvention(mpp=0.25), InputConvention(mpp=0.222), "add --target_mpp 0.222"),
        (InputConvention(classes="ab"), InputConvention(classes="ba"), "take weights for these classes"),
    ],
)
def test_weights_that_do_not_fit(here, there, message, tmp_path):
    path = weights(tmp_path, there)
    with pytest.raises(InputError) as caught:
        here.of(path)
    assert str(caught.value).startswith(f"{path}: expected weights trained with ")
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)
    colours = ("channels", "value_range", "mean", "std")
    if all(getattr(here, name) == getattr(there, name) for name in colours):
        here.check(path, initial=True)
    else:
        with pytest.raises(InputError):
            here.check(path, initial=True)


def test_a_caffemodel_has_its_convention_by_nature():
    with pytest.raises(InputError, match=r"fcn\.caffemodel: .*add configs/overlays/input/caffe_input\.json"):
        InputConvention(**IMAGENET, initial_weights="fcn.caffemodel")
    InputConvention(CAFFE.mean, CAFFE.std, "BGR", initial_weights="fcn.caffemodel")


def test_weights_without_one_are_taken_and_it_is_told(tmp_path, capsys):
    path = weights(tmp_path, None)
    InputConvention(**IMAGENET, weights=path)
    told = capsys.readouterr().err
    assert told.startswith(f"{path}: no model.json beside it")
    assert "RGB" in told
    assert "123.675" in told
    assert told.count("\n") == 1


def test_of_another_network(tmp_path):
    path = weights(tmp_path, HERE.of("none", mpp=None, classes=["a", "b"]))
    assert HERE.of(path, mpp=None, classes=["a", "b"]).classes == ("a", "b")
    with pytest.raises(InputError, match=r"classes \['a', 'b'\]"):
        HERE.of(path)
