"""Networks."""

from monai_ext.networks.nets.celnet import CELNet
from monai_ext.networks.nets.group_densenet import GroupDenseNet
from monai_ext.networks.nets.hematoxylin import HematoxylinMap
from monai_ext.networks.nets.segmitos import SegMitosFCN

__all__ = ["CELNet", "GroupDenseNet", "HematoxylinMap", "SegMitosFCN"]
