"""Networks and their weights."""

from monai_ext.networks.onnx_network import OnnxNetwork
from monai_ext.networks.utils import load_weights, read_caffemodel, weights_digest

__all__ = ["OnnxNetwork", "load_weights", "read_caffemodel", "weights_digest"]
