"""Networks and their weights."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.networks.blocks.backbones import freeze_backbone, imagenet_weights, load_backbone, pixel_statistics
    from monai_ext.networks.convention import (
        CAFFE,
        IMAGENET,
        InputConvention,
        copy_weights,
        read_convention,
        save_weights,
    )
    from monai_ext.networks.folding import fold_normalization
    from monai_ext.networks.onnx_network import OnnxNetwork
    from monai_ext.networks.runtime import OpenVinoNetwork, RuntimeNetwork, with_runtime
    from monai_ext.networks.tissue_check import TissueCheck, TissueDistribution, TissueWatch
    from monai_ext.networks.tissue_features import TissueFeatures
    from monai_ext.networks.utils import load_weights, read_caffemodel, weights_digest

__all__ = [
    "CAFFE",
    "IMAGENET",
    "InputConvention",
    "OnnxNetwork",
    "OpenVinoNetwork",
    "RuntimeNetwork",
    "TissueCheck",
    "TissueDistribution",
    "TissueFeatures",
    "TissueWatch",
    "copy_weights",
    "fold_normalization",
    "freeze_backbone",
    "imagenet_weights",
    "load_backbone",
    "load_weights",
    "pixel_statistics",
    "read_caffemodel",
    "read_convention",
    "save_weights",
    "weights_digest",
    "with_runtime",
]

__getattr__ = lazy_names(__name__, __file__)
