"""Networks."""

from monai_ext.networks.nets.hematoxylin import HematoxylinMap
from monai_ext.networks.nets.segmitos import SegMitosFCN

__all__ = ["HematoxylinMap", "SegMitosFCN"]
