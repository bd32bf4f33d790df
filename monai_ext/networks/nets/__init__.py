"""Networks."""

from monai_ext.networks.nets.celnet import CELNet
from monai_ext.networks.nets.group_densenet import GroupDenseNet
from monai_ext.networks.nets.hematoxylin import HematoxylinMap
from monai_ext.networks.nets.rccnet import RCCNet
from monai_ext.networks.nets.segmitos import SegMitosFCN
from monai_ext.networks.nets.small_resnet import SmallResNet
from monai_ext.networks.nets.transposed_unet import TransposedUNet, TransposedUNetPlusPlus
from monai_ext.networks.nets.vgg4 import VGG4
from monai_ext.networks.nets.xception import Xception

__all__ = [
    "VGG4",
    "CELNet",
    "GroupDenseNet",
    "HematoxylinMap",
    "RCCNet",
    "SegMitosFCN",
    "SmallResNet",
    "TransposedUNet",
    "TransposedUNetPlusPlus",
    "Xception",
]
