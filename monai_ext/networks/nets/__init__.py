"""Networks."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.networks.nets.back_end import InstanceBackEnd
    from monai_ext.networks.nets.backbone_classifier import BackboneClassifier
    from monai_ext.networks.nets.backbone_fcn import BackboneFCN
    from monai_ext.networks.nets.backbone_unet import BackboneUNet
    from monai_ext.networks.nets.celnet import CELNet
    from monai_ext.networks.nets.cyclic_classifier import CyclicClassifier
    from monai_ext.networks.nets.group_densenet import GroupDenseNet
    from monai_ext.networks.nets.hematoxylin import HematoxylinGrid, HematoxylinMap, HematoxylinScore
    from monai_ext.networks.nets.loopnet import LoopNet
    from monai_ext.networks.nets.nuclei_hovernet import NucleiHoVerNet
    from monai_ext.networks.nets.nuclei_kg_instance import NucleiKGInstance
    from monai_ext.networks.nets.nuclei_mask_rcnn import NucleiMaskRCNN
    from monai_ext.networks.nets.nuclei_unet import NucleiUNet
    from monai_ext.networks.nets.otsu import OtsuMap
    from monai_ext.networks.nets.rccnet import RCCNet
    from monai_ext.networks.nets.segmitos import SegMitosFCN
    from monai_ext.networks.nets.small_resnet import SmallResNet
    from monai_ext.networks.nets.transposed_unet import TransposedUNet, TransposedUNetPlusPlus
    from monai_ext.networks.nets.vgg4 import VGG4
    from monai_ext.networks.nets.xception import Xception

__all__ = [
    "VGG4",
    "BackboneClassifier",
    "BackboneFCN",
    "BackboneUNet",
    "CELNet",
    "CyclicClassifier",
    "GroupDenseNet",
    "HematoxylinGrid",
    "HematoxylinMap",
    "HematoxylinScore",
    "InstanceBackEnd",
    "LoopNet",
    "NucleiHoVerNet",
    "NucleiKGInstance",
    "NucleiMaskRCNN",
    "NucleiUNet",
    "OtsuMap",
    "RCCNet",
    "SegMitosFCN",
    "SmallResNet",
    "TransposedUNet",
    "TransposedUNetPlusPlus",
    "Xception",
]

__getattr__ = lazy_names(__name__, __file__)
