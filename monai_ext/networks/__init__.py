"""Networks and their weights."""

from monai_ext.networks.convention import CAFFE, InputConvention, copy_weights, read_convention, save_weights
from monai_ext.networks.onnx_network import OnnxNetwork
from monai_ext.networks.utils import load_weights, read_caffemodel, weights_digest

__all__ = [
    "CAFFE",
    "InputConvention",
    "OnnxNetwork",
    "copy_weights",
    "load_weights",
    "read_caffemodel",
    "read_convention",
    "save_weights",
    "weights_digest",
]
