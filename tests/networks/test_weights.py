import struct

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.utils import _caffe_net, load_weights, read_caffemodel, read_state_dict

# -- Caffe's format, byte by byte: field numbers and types as in BVLC's caffe.proto ----------------------------------


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    """A whole number as a varint, bytes as a length and what follows."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array, old, packed=True):
    numbers = [struct.pack("<f", v) for v in array.ravel()]
    data = field(5, b"".join(numbers)) if packed else b"".join(varint(5 << 3 | 5) + n for n in numbers)
    if old:  # num 1, channels 2, height 3, width 4
        return b"".join(field(i + 1, n) for i, n in enumerate(array.shape)) + data
    return data + field(7, field(1, b"".join(varint(n) for n in array.shape)))  # BlobShape.dim 1, packed


def model(layers, old=False, packed=True):
    """NetParameter: name 1, input 3; V1 layers 2 (name 4, type 5, blobs 6) or layer 100 (name 1, type 2, blobs 7)."""
    out = field(1, b"VGG") + field(3, b"data")
    for name, *arrays in layers:
        blobs = [blob(a, old, packed) for a in arrays]
        if old:
            content = field(2, b"bottom") + field(4, name.encode()) + field(5, 4) + b"".join(field(6, b) for b in blobs)
            out += field(2, content)
        else:
            content = field(1, name.encode()) + field(2, b"Convolution") + b"".join(field(7, b) for b in blobs)
            out += field(100, content)
    return out


LAYERS = [
    ("conv1_1", np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7, np.array([[[[0.5, -300.0]]]], np.float32)),
    ("relu1_1",),
    ("fc6", np.linspace(-1, 1, 200 * 3, dtype=np.float32).reshape(1, 1, 200, 3), np.ones((1, 1, 1, 200), np.float32)),
]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one by one"])
@pytest.mark.parametrize("old", [True, False], ids=["layers of 2014", "layer"])
def test_caffemodel_by_hand(old, packed, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model(LAYERS, old, packed))
    got = read_caffemodel(path)
    assert list(got) == ["conv1_1", "fc6"]
    for name, *arrays in LAYERS:
        for value, array in zip(got.get(name, []), arrays, strict=True):
            assert value.dtype == torch.float32
            np.testing.assert_array_equal(value.numpy(), array)


def test_own_message_class_writes_the_same_bytes():
    message = _caffe_net()()
    layer = message.layer.add(name="fc")
    layer.blobs.add(data=[1.0, 2.0]).shape.dim.append(2)
    assert message.SerializeToString() == field(
        100, field(1, b"fc") + field(7, blob(np.array([1, 2], np.float32), old=False))
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"layer { name: 'conv1_1' }", id="text"),
        pytest.param(model([("relu",)]), id="no weights"),
        pytest.param(model(LAYERS)[:-20], id="truncated"),
        pytest.param(
            field(100, field(1, b"c") + field(7, field(5, struct.pack("<2f", 1, 2)) + field(7, field(1, b"\x05")))),
            id="fewer numbers than the shape has",
        ),
    ],
)
def test_no_caffemodel(content, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.caffemodel: expected .*caffemodel"):
        read_caffemodel(path)


def test_missing_files(tmp_path):
    for read in (read_caffemodel, read_state_dict, lambda path: load_weights(nn.Linear(1, 1), path)):
        with pytest.raises(InputError, match=r"gone\.pt: expected trained weights, found no such file"):
            read(tmp_path / "gone.pt")


# -- load_weights ------------------------------------------------------------------------------------------------------


def test_state_dict_comes_back(tmp_path):
    source, network = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    assert load_weights(network, str(tmp_path / "model.pt")) is network
    assert torch.equal(network.weight, source.weight)
    assert read_state_dict(tmp_path / "model.pt").keys() == {"weight", "bias"}


class _Loud:
    """What a pickle can do to those who load it."""

    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty file"),
        pytest.param(b"\x80\x02garbage", id="garbage"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", id="text"),
        pytest.param({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, id="other shape"),
        pytest.param({"weight": torch.ones(2, 3)}, id="layer missing"),
        pytest.param({"model": {"weight": torch.ones(2, 3)}}, id="nested"),
        pytest.param([torch.ones(2)], id="a list"),
        pytest.param(nn.Linear(3, 2), id="a whole module"),
        pytest.param({"weight": _Loud()}, id="a pickle that does something"),
    ],
)
def test_unusable_files_are_named_in_one_line(content, tmp_path, capsys):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError) as caught:
        load_weights(nn.Linear(3, 2), path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out


def test_truncated_file(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(100, 100).state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"model\.pt: expected a state dict"):
        load_weights(nn.Linear(100, 100), path)
