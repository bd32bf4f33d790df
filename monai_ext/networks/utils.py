"""Reading weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = [
    "check_patch",
    "keras_init",
    "load_weights",
    "read_caffemodel",
    "read_state_dict",
    "settings_text",
    "weights_digest",
]


def keras_init(network: nn.Module) -> None:
    """Initialise convolutions and linear layers as Keras does: Glorot uniform, zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_patch(name: str, size: int, least: int) -> int:
    """The side of the patches that a network is built for, if it can be.

    Raises:
        InputError: no whole number, or one below ``least``.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise InputError("patch_size", f"a whole number of at least {least} px for {name}", repr(size))
    return size


def _caffe_net() -> type:
    """The part of ``caffe.proto`` that holds weights, as a message class (field numbers are those of BVLC's file)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    schema = {
        "BlobShape": [("dim", 1, types.TYPE_INT64, True, True)],
        "BlobProto": [
            ("num", 1, types.TYPE_INT32, False, False),
            ("channels", 2, types.TYPE_INT32, False, False),
            ("height", 3, types.TYPE_INT32, False, False),
            ("width", 4, types.TYPE_INT32, False, False),
            ("data", 5, types.TYPE_FLOAT, True, True),
            ("shape", 7, "BlobShape", False, False),
        ],
        "LayerParameter": [("name", 1, types.TYPE_STRING, False, False), ("blobs", 7, "BlobProto", True, False)],
        "V1LayerParameter": [("name", 4, types.TYPE_STRING, False, False), ("blobs", 6, "BlobProto", True, False)],
        "NetParameter": [("layers", 2, "V1LayerParameter", True, False), ("layer", 100, "LayerParameter", True, False)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe", syntax="proto2")
    for message, fields in schema.items():
        proto = file.message_type.add(name=message)
        for name, number, kind, repeated, packed in fields:
            field = proto.field.add(name=name, number=number)
            field.label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = types.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind
            field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def read_caffemodel(path: str | Path) -> dict[str, list[Tensor]]:
    """The weights of a ``.caffemodel``.

    Args:
        path: a binary ``NetParameter`` (old ``layers`` and new ``layer`` alike).

    Returns:
        layer name -> its blobs (weight, bias) as float32 tensors in Caffe's shapes.

    Raises:
        InputError: the file is no Caffe model or holds no weights.
    """
    from google.protobuf.message import DecodeError

    path = Path(path)
    if not path.is_file():
        raise InputError(path, "trained weights", "no such file")
    net = _caffe_net()()
    try:
        net.ParseFromString(path.read_bytes())
        blobs = {
            layer.name: [
                torch.from_numpy(np.array(blob.data, dtype=np.float32)).reshape(
                    tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
                )
                for blob in layer.blobs
            ]
            for layer in [*net.layers, *net.layer]
            if layer.blobs
        }
    except (DecodeError, RuntimeError) as error:  # RuntimeError: fewer numbers than the shape has
        raise InputError(path, "a binary caffemodel", str(error)) from error
    if not blobs:
        raise InputError(path, "a caffemodel with weights", "no layer with weights")
    return blobs


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """A plain state dict; nothing else is unpickled.

    Args:
        path: a file that ``torch.load`` reads with ``weights_only=True``, or a ``.safetensors``.

    Returns:
        name -> tensor, on the CPU.

    Raises:
        InputError: no such file, or something else in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "trained weights", "no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    # what torch raises for a damaged or foreign file is not one family
    except Exception as error:
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(path, "a state dict", found) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(path, "a state dict: names and tensors alone", f"a {type(state).__name__} of other things")
    return dict(state)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill a network from a plain state dict.

    Args:
        network: the network to fill, in place.
        path: a file that ``torch.load`` reads with ``weights_only=True``.

    Returns:
        the network.

    Raises:
        InputError: no such file, not a state dict, or one that does not fit.
    """
    expected = f"weights of {type(network).__name__}, with the overlays that it was trained with"
    return load_state(network, read_state_dict(path), path, expected)


def load_state(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, expected: str) -> nn.Module:
    """Fill a network from a state dict that was read from ``path``.

    Raises:
        InputError: it does not fit; the message says what was ``expected``.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        raise InputError(path, expected, f"another network's: {lines[-1][:120]}") from error
    return network


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's layers and of what they hold, by which results tell what they were made with."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def settings_text(network: nn.Module) -> str:
    """The numbers and names that a network and its layers keep, such as thresholds, as text; no weights."""
    settings = {name: vars(module) for name, module in network.named_modules()}
    return json.dumps(settings, default=lambda _: None, skipkeys=True, sort_keys=True)
