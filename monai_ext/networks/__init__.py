"""Networks and their weights."""

from monai_ext.networks.utils import load_weights, read_caffemodel, weights_digest

__all__ = ["load_weights", "read_caffemodel", "weights_digest"]
